"""A fixed shuffle of channels, another in every layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mha_ablate.model.fc_out.base import FcOut, Place, whole
from mha_ablate.model.init import stream
from mha_ablate.model.layers import shuffle


class Permute(FcOut):
    """y_i = z_p(i): a fixed random order of channels, its own in every layer.

    Shapes: p `[C]`, whole numbers, no parameter and in no checkpoint. Legal only where n_heads x head_dim = d_model. Setting
    `shuffle_seed`: another order; init_seed changes nothing. Heads no longer write to the same slice in every layer.

    Parameters: 0
    FLOPs: 0
    Class: N in a single layer: a head still writes to D channels of its own
    Source: a control: no projection, and slices that move from layer to layer
    """

    def __init__(self, place: Place, *, shuffle_seed: Any = 0) -> None:
        super().__init__(place)
        self.keep_width("permute")
        self.make_order("permute", str(place.layer), shuffle_seed)

    def make_order(self, name: str, layer: str, shuffle_seed: Any) -> None:
        """Draw the order: it belongs to this name, layer, width and seed."""
        seed = whole(name, "shuffle_seed", shuffle_seed, 0)
        width = self.place.width
        order = torch.randperm(width, generator=stream(f"{name}:{width}:{layer}:{seed}"))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    @property
    def start_gain(self) -> float:
        """1: the branch is as loud as its values."""
        return 1.0

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Concatenate the heads and shuffle."""
        return shuffle(z_BTHV.flatten(-2), self.get_buffer("order"), self.get_buffer("back"))
