"""A projection inside each head, and none across heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.init import Draw


class PerHead(FcOut):
    """y_h = W_h z_h (+ b): a D x D map per head, a block-diagonal W_O.

    Shapes: W `[H, D, D]`, b `[C]` where model.bias is set. Legal only where n_heads x head_dim = d_model. W_h folds into
    that head's W_V, so what separates it from no projection at all is optimisation alone. Under attention=split W_V is
    shared by the heads and W_h is more. Start: dense's gain.

    Parameters: H D^2
    FLOPs: 2 H D^2
    Class: N under attention=fused
    Source: a control: the second factor of dense without its mixing of heads
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keep_width("per_head")
        self.weight = nn.Parameter(torch.empty(place.n_heads, place.head_dim, place.head_dim))
        self.bias = nn.Parameter(torch.empty(place.d_model)) if place.bias else None

    def reset_parameters(self, draw: Draw) -> None:
        """Draw the maps with dense's gain: D inputs each, so a larger std than dense's."""
        draw.fill("weight", self.weight, self.place.map_start(self.place.head_dim))
        if self.bias is not None:
            draw.fill("bias", self.bias, self.place.bias_start)

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Map each head by its own matrix, then concatenate."""
        y_BTC = torch.einsum("bthv,hcv->bthc", z_BTHV, self.weight).flatten(-2)
        return y_BTC if self.bias is None else y_BTC + self.bias
