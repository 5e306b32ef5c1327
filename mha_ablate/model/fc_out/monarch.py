"""A map inside each head, then mixing of heads channel by channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.init import Draw


class Monarch(WithBias):
    """y_gv = sum_h A_vgh (W_h z_h)_v (+ b): a D x D map per head, then an H x H map per channel, a Monarch matrix.

    Shapes: W `[H, D, D]`, A `[D, H, H]`, b `[C]` where model.bias is set. Legal only where n_heads x head_dim = d_model. Every
    channel reaches every other. W folds into W_V under attention=fused, so it can do what A alone can; under
    attention=split it can do more. Start: each factor has the root of dense's gain.

    Parameters: C (D + H)
    FLOPs: 2 C (D + H)
    Class: between: as A alone under attention=fused; N there at H = 1
    Source: Dao et al., arXiv 2204.00595
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keep_width("monarch")
        self.inside = nn.Parameter(torch.empty(place.n_heads, place.head_dim, place.head_dim))
        self.across = nn.Parameter(torch.empty(place.head_dim, place.n_heads, place.n_heads))

    def start(self, draw: Draw) -> None:
        """The product has dense's gain."""
        first, last = self.place.factor_gains
        draw.fill("inside", self.inside, self.place.map_start(self.place.head_dim, first), exact=True)
        draw.fill("across", self.across, self.place.map_start(self.place.n_heads, last), exact=True)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Map each head, mix the heads channel by channel, then concatenate."""
        mapped_BTHV = torch.einsum("bthv,hcv->bthc", z_BTHV, self.inside)
        return torch.einsum("bthv,vgh->btgv", mapped_BTHV, self.across).flatten(-2)
