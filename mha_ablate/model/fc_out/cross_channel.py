"""Mixing of heads channel by channel, and nothing inside a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.init import Draw


class CrossChannel(WithBias):
    """y_gv = sum_h A_vgh z_hv (+ b): an H x H map of heads for each of their D channels.

    Shapes: A `[D, H, H]`, b `[C]` where model.bias is set. Legal only where n_heads x head_dim = d_model. Channel v of a head
    meets channel v of the others alone. Start: dense's gain, exactly in every channel.

    Parameters: D H^2
    FLOPs: 2 H C
    Class: between: D numbers for each pair of heads; N at H = 1
    Source: a control: more mixing of heads than a number a pair, still without a map inside them
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keep_width("cross_channel")
        self.weight = nn.Parameter(torch.empty(place.head_dim, place.n_heads, place.n_heads))

    def start(self, draw: Draw) -> None:
        """Dense's gain over H inputs."""
        draw.fill("weight", self.weight, self.place.map_start(self.place.n_heads), exact=True)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Mix the heads channel by channel, then concatenate."""
        return torch.einsum("bthv,vgh->btgv", z_BTHV, self.weight).flatten(-2)
