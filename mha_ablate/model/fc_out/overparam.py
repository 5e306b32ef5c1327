"""Two full maps in a row."""

from __future__ import annotations

from torch import Tensor

from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.layers import Linear


class Overparam(FcOut):
    """y = A B z (+ b): two full maps in a row, which can do what one can.

    Shapes: B `[C, H*D]`, A `[C, C]`, b `[C]` where model.bias is set. What separates it from dense is optimisation alone. Start:
    each factor has the root of dense's gain.

    Parameters: C^2 + C H D
    FLOPs: 2 C^2 + 2 C H D
    Class: D
    Source: Arora et al., arXiv 1802.06509, on depth as acceleration
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        first, last = place.factor_gains
        self.first = Linear(place.width, place.d_model, bias=False, start=place.map_start(place.width, first))
        self.second = Linear(
            place.d_model,
            place.d_model,
            bias=place.bias,
            start=place.map_start(place.d_model, last),
            bias_start=place.bias_start,
        )

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Concatenate the heads and project twice."""
        return self.second(self.first(z_BTHV.flatten(-2)))
