"""The standard output projection, started at zero."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.init import Draw


class ZeroInit(WithBias):
    """y = W_O z (+ b), W_O = 0 at the start: dense whose branch begins silent.

    Shapes: W_O `[C, H*D]`, b `[C]` where model.bias is set. The start is the treatment: gain 0. The first update moves W_O alone,
    since no gradient passes a W_O of zeros.

    Parameters: C H D
    FLOPs: 2 C H D
    Class: D
    Source: Zhang et al. (Fixup), arXiv 1901.09321: last layers of residual branches start at 0
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.weight = nn.Parameter(torch.empty(place.d_model, place.width))

    @property
    def start_gain(self) -> float:
        """0: the branch starts silent."""
        return 0.0

    def start(self, draw: Draw) -> None:
        """Zero."""
        draw.constant(self.weight, 0.0)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Concatenate the heads and project."""
        return F.linear(z_BTHV.flatten(-2), self.weight)
