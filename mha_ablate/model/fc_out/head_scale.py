"""One learned number per head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.init import Draw


class HeadScale(WithBias):
    """y_h = g_h z_h (+ b): one gain per head, nothing else.

    Shapes: g `[H]`, b `[C]` where model.bias is set. Legal only where n_heads x head_dim = d_model. g_h folds into that
    head's W_V; under attention=split W_V is shared by the heads and g_h is more. Start: every g_h is dense's gain.

    Parameters: H
    FLOPs: 0
    Elementwise: C
    Class: N under attention=fused
    Source: Shleifer et al. (NormFormer), arXiv 2110.09456, HeadScale, without its projection
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keep_width("head_scale")
        self.gain = nn.Parameter(torch.empty(place.n_heads))

    @property
    def elementwise_flops(self) -> int:
        """A product a channel."""
        return self.place.d_model

    def start(self, draw: Draw) -> None:
        """As loud as dense."""
        draw.constant(self.gain, self.place.dense_gain)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Scale each head, then concatenate."""
        return (z_BTHV * self.gain[:, None]).flatten(-2)
