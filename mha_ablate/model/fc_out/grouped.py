"""A projection that narrows each group of heads first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import FcOut, Place, refused, whole
from mha_ablate.model.init import Draw
from mha_ablate.model.layers import Linear


class Grouped(FcOut):
    """y = U [V_1 z_1; ...; V_g z_g] (+ b): each of g groups of heads down to r channels, then one full map of them all.

    Shapes: V `[g, r, H*D/g]`, U `[C, g r]`, b `[C]` where model.bias is set. Settings `groups` = g divides n_heads, null
    takes 2 where that does and 1 where not; `rank` = r: 1 to H*D/g, null takes d_model // 4, or less where that is too large.
    Start: each factor has the root of dense's gain.

    Parameters: r H D + g r C
    FLOPs: 2 r H D + 2 g r C
    Class: between: D where no group loses rank
    Source: DeepSeek-AI 2026, DeepSeek-V4: its grouped output projection (o_groups, o_lora_rank)
    """

    def __init__(self, place: Place, *, groups: Any = None, rank: Any = None) -> None:
        super().__init__(place)
        allowed = [g for g in range(1, place.n_heads + 1) if place.n_heads % g == 0]
        groups = (2 if 2 in allowed else 1) if groups is None else groups
        if type(groups) is not int or groups not in allowed:
            words = f"a divisor of n_heads = {place.n_heads} ({', '.join(map(str, allowed))})"
            raise refused("grouped", "groups", groups, words)
        self.groups = groups
        top = place.width // groups
        default = max(1, min(place.d_model // 4, top))
        self.rank = default if rank is None else whole("grouped", "rank", rank, 1, top)
        self.down = nn.Parameter(torch.empty(groups, self.rank, top))
        self.up = Linear(
            groups * self.rank,
            place.d_model,
            bias=place.bias,
            start=place.map_start(groups * self.rank, place.factor_gains[1]),
            bias_start=place.bias_start,
        )

    def reset_parameters(self, draw: Draw) -> None:
        """The product has dense's gain."""
        draw.fill("down", self.down, self.place.map_start(self.down.shape[-1], self.place.factor_gains[0]))

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Narrow each group, concatenate, project."""
        z_BTGW = z_BTHV.flatten(-2).unflatten(-1, (self.groups, -1))
        return self.up(torch.einsum("btgw,grw->btgr", z_BTGW, self.down).flatten(-2))
