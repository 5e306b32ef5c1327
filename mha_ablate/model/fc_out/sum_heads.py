"""One output space for all heads."""

from __future__ import annotations

from torch import Tensor

from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.layers import Linear


class SumHeads(FcOut):
    """y = W sum_h z_h (+ b): the heads are summed, then one D x C map for all of them.

    Shapes: W `[C, D]`, b `[C]` where model.bias is set. Every head writes to the same D directions. Start: dense's std, and so
    dense's gain, since the sum of H heads is sqrt(H) times as loud as one.

    Parameters: C D
    FLOPs: 2 C D
    Elementwise: (H - 1) D
    Class: between: rank D; D at H = 1
    Source: a control: heads that share one output space
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.map = Linear(
            place.head_dim, place.d_model, bias=place.bias, start=place.dense_start, bias_start=place.bias_start
        )

    @property
    def elementwise_flops(self) -> int:
        """The sum over heads."""
        return (self.place.n_heads - 1) * self.place.head_dim

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Sum the heads and project."""
        return self.map(z_BTHV.sum(-2))
