"""Values as wide as the residual, and no output projection."""

from __future__ import annotations

import math

from torch import Tensor

from mha_ablate.model.fc_out.base import FcOut


class MergedOV(FcOut):
    """y = s sum_h z_h: each head's values are d_model wide and its outputs are summed; W_V and W_O are one map.

    Shapes: z `[B T H C]`; W_V has H C^2 weights in place of C H D (attention=fused), and every dense W_O is a case of it. Under
    attention=split one map C/H -> C serves every head, which is less than dense where H > 1. Start: W_V is drawn as dense's, so
    that each value is as loud. s is a constant, dense's gain / sqrt(H), that starts the branch as loud as dense does (1 / sqrt(H)
    where dense's gain is 0: a constant 0 would train nothing). b_V does what a bias would.

    Parameters: 0
    FLOPs: 0
    Elementwise: H C
    Class: D and more under attention=fused: W_V,h W_O,h has rank D there, up to C here
    Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits: the OV circuit as one matrix
    """

    @property
    def value_width(self) -> int:
        """As wide as the residual."""
        return self.place.d_model

    @property
    def start_gain(self) -> float:
        """Dense's, unless that is 0."""
        return self.place.fixed_gain

    @property
    def elementwise_flops(self) -> int:
        """The sum over heads, and a product a channel."""
        return self.place.n_heads * self.place.d_model

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Sum the heads."""
        return z_BTHV.sum(-2) * (self.start_gain / math.sqrt(self.place.n_heads))
