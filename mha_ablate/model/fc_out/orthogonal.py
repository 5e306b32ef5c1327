"""A fixed random rotation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import FcOut, Place, one_of
from mha_ablate.model.init import Draw


class Orthogonal(FcOut):
    """y = Q z: a fixed random rotation, mixing without learning.

    Shapes: Q `[C, C]`, drawn from init_seed and never trained. Legal only where n_heads x head_dim = d_model. Setting
    `shared`: one Q for all layers, which a rotated residual undoes under RMSNorm without gain. Start: gain 1, and it stays.

    Parameters: 0
    Frozen: C^2
    Frozen [shared=true]: C^2 / L
    FLOPs: 2 C^2
    Class: other: fixed mixing of heads; N where shared, under RMSNorm without gain
    Source: a control: the mixing of heads without its learning
    """

    def __init__(self, place: Place, *, shared: Any = False) -> None:
        super().__init__(place)
        self.keep_width("orthogonal")
        self.shared: bool = one_of("orthogonal", "shared", shared, True, False)
        self.weight = nn.Parameter(torch.empty(place.d_model, place.d_model), requires_grad=False)

    @property
    def start_gain(self) -> float:
        """1: lengths stay."""
        return 1.0

    def reset_parameters(self, draw: Draw) -> None:
        """Draw the rotation."""
        draw.orthogonal("weight", self.weight, 1.0)

    def connect(self, value_weight: Callable[[], Tensor], earlier: Sequence[FcOut]) -> None:  # noqa: ARG002
        """Take the first layer's rotation where it is shared."""
        if self.shared and earlier:
            self.weight = cast(Orthogonal, earlier[0]).weight

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Concatenate the heads and rotate."""
        return F.linear(z_BTHV.flatten(-2), self.weight)
