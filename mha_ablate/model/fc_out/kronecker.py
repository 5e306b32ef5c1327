"""Mixing of heads as wholes, and one map inside all of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.init import Draw


class Kronecker(WithBias):
    """y_g = sum_h A_gh B z_h (+ b): an H x H map of heads times one D x D map inside them, W_O = A kron B.

    Shapes: A `[H, H]`, B `[D, D]`, b `[C]` where model.bias is set. Legal only where n_heads x head_dim = d_model. B folds into
    W_V, so it can do what A alone can. Start: each factor has the root of dense's gain.

    Parameters: H^2 + D^2
    FLOPs: 2 C (H + D)
    Class: between: as A alone (cross-head mixing); N at H = 1
    Source: a control: the smallest W_O that mixes both heads and channels
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keep_width("kronecker")
        self.heads = nn.Parameter(torch.empty(place.n_heads, place.n_heads))
        self.channels = nn.Parameter(torch.empty(place.head_dim, place.head_dim))

    def start(self, draw: Draw) -> None:
        """The product has dense's gain."""
        first, last = self.place.factor_gains
        draw.fill("heads", self.heads, self.place.map_start(self.place.n_heads, last), exact=True)
        draw.fill("channels", self.channels, self.place.map_start(self.place.head_dim, first), exact=True)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Map each head, mix the heads, then concatenate."""
        return torch.einsum("bthv,gh->btgv", F.linear(z_BTHV, self.channels), self.heads).flatten(-2)
