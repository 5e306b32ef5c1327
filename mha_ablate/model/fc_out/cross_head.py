"""Mixing of heads as wholes, and nothing inside a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.init import Draw


class CrossHead(WithBias):
    """y_g = sum_h A_gh z_h (+ b): one H x H map of heads, the same for all their channels.

    Shapes: A `[H, H]`, b `[C]` where model.bias is set. W_O = A kron I_D. Legal only where n_heads x head_dim = d_model.
    Start: dense's gain exactly, since H^2 draws would miss it by chance.

    Parameters: H^2
    FLOPs: 2 H C
    Class: between: a number for each pair of heads; N at H = 1
    Source: a control: the mixing of heads without a map inside them
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keep_width("cross_head")
        self.weight = nn.Parameter(torch.empty(place.n_heads, place.n_heads))

    def start(self, draw: Draw) -> None:
        """Dense's gain over H inputs."""
        draw.fill("weight", self.weight, self.place.map_start(self.place.n_heads), exact=True)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Mix the heads, then concatenate."""
        return torch.einsum("bthv,gh->btgv", z_BTHV, self.weight).flatten(-2)
