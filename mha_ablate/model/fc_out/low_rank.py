"""A projection through few channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mha_ablate.model.fc_out.base import FcOut, Place, whole
from mha_ablate.model.layers import Linear


class LowRank(FcOut):
    """y = U V z (+ b): a full map of rank r, so the update stays in r directions.

    Shapes: V `[r, H*D]`, U `[C, r]`, b `[C]` where model.bias is set. Setting `rank` = r: 1 to the smaller of d_model and n_heads x
    head_dim; null takes d_model // 4, or less where that is too large. Start: each factor has the root of dense's gain.

    Parameters: r (C + H D)
    FLOPs: 2 r (C + H D)
    Class: between: D at full rank
    Source: a control: how many directions the update needs
    """

    def __init__(self, place: Place, *, rank: Any = None) -> None:
        super().__init__(place)
        top = min(place.d_model, place.width)
        default = max(1, min(place.d_model // 4, top))
        self.rank = default if rank is None else whole("low_rank", "rank", rank, 1, top)
        first, last = place.factor_gains
        self.down = Linear(place.width, self.rank, bias=False, start=place.map_start(place.width, first))
        self.up = Linear(
            self.rank,
            place.d_model,
            bias=place.bias,
            start=place.map_start(self.rank, last),
            bias_start=place.bias_start,
        )

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Concatenate the heads, project down, then up."""
        return self.up(self.down(z_BTHV.flatten(-2)))
