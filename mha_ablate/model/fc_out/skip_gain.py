"""A fixed path past the output projection."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias, finite, refused
from mha_ablate.model.init import Draw


class SkipGain(WithBias):
    """y = (a I + b W) z (+ c): the heads as they are, and a full map that starts at zero.

    Shapes: W `[C, C]`, c `[C]` where model.bias is set. Legal only where n_heads x head_dim = d_model. Settings `a`, `b`: fixed
    numbers, b not 0; b sets how fast W leaves zero. The start is the treatment: W = 0, gain |a|.

    Parameters: C^2
    FLOPs: 2 C^2
    Elementwise: 3 C
    Class: D
    Source: He & Hofmann, arXiv 2311.01906, section 4.1 (the form), 4.2 (how far from the identity training goes)
    """

    def __init__(self, place: Place, *, a: Any = 1.0, b: Any = 1.0) -> None:
        super().__init__(place)
        self.keep_width("skip_gain")
        self.a, self.b = finite("skip_gain", "a", a), finite("skip_gain", "b", b)
        if self.b == 0:
            raise refused("skip_gain", "b", b, "a finite number other than 0 (for 0 W never trains: use fc_out=none)")
        self.weight = nn.Parameter(torch.empty(place.d_model, place.d_model))

    @property
    def start_gain(self) -> float:
        """|a|: W starts at zero."""
        return abs(self.a)

    @property
    def elementwise_flops(self) -> int:
        """Two products and a sum a channel."""
        return 3 * self.place.d_model

    def start(self, draw: Draw) -> None:
        """W = 0."""
        draw.constant(self.weight, 0.0)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Concatenate the heads; add what W makes of them."""
        z_BTC = z_BTHV.flatten(-2)
        return torch.add(z_BTC * self.a, F.linear(z_BTC, self.weight), alpha=self.b)
