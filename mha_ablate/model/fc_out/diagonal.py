"""One learned number per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.init import Draw


class Diagonal(WithBias):
    """y = g * z (+ b): one gain per channel, a diagonal W_O.

    Shapes: g `[C]`, b `[C]` where model.bias is set. Legal only where n_heads x head_dim = d_model. g folds into W_V, whose
    rows it scales; under attention=split W_V is shared by the heads and g is more. Start: every gain is dense's.

    Parameters: C
    FLOPs: 0
    Elementwise: C
    Class: N under attention=fused
    Source: a control: a second factor without any mixing
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keep_width("diagonal")
        self.gain = nn.Parameter(torch.empty(place.d_model))

    @property
    def elementwise_flops(self) -> int:
        """A product a channel."""
        return self.place.d_model

    def start(self, draw: Draw) -> None:
        """As loud as dense."""
        draw.constant(self.gain, self.place.dense_gain)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Concatenate, then scale each channel."""
        return z_BTHV.flatten(-2) * self.gain
