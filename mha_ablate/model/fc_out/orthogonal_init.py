"""The standard output projection, started orthogonal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.init import Draw


class OrthogonalInit(WithBias):
    """y = W_O z (+ b), W_O a rotation at the start: dense that begins with all its singular values equal.

    Shapes: W_O `[C, H*D]`, b `[C]` where model.bias is set. Start: a random (semi-)orthogonal map times a factor that gives it
    dense's gain.

    Parameters: C H D
    FLOPs: 2 C H D
    Class: D
    Source: Saxe et al., arXiv 1312.6120
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.weight = nn.Parameter(torch.empty(place.d_model, place.width))

    def start(self, draw: Draw) -> None:
        """A random rotation with dense's gain."""
        draw.orthogonal("weight", self.weight, self.place.dense_gain)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Concatenate the heads and project."""
        return F.linear(z_BTHV.flatten(-2), self.weight)
