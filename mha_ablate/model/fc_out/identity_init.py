"""The standard output projection, started at the identity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.init import Draw


class IdentityInit(WithBias):
    """y = W_O z (+ b), W_O = I at the start: dense that begins as no projection at all.

    Shapes: W_O `[C, C]`, b `[C]` where model.bias is set. Legal only where n_heads x head_dim = d_model. The start is the
    treatment: gain 1, as loud as the values.

    Parameters: C^2
    FLOPs: 2 C^2
    Class: D
    Source: a control: init against learning
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keep_width("identity_init")
        self.weight = nn.Parameter(torch.empty(place.d_model, place.d_model))

    @property
    def start_gain(self) -> float:
        """1: the branch starts as loud as its values."""
        return 1.0

    def start(self, draw: Draw) -> None:
        """The identity."""
        draw.constant(self.weight, 0.0)
        draw.constant(self.weight.diagonal(), 1.0)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Concatenate the heads and project."""
        return F.linear(z_BTHV.flatten(-2), self.weight)
