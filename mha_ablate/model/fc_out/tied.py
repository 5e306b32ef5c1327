"""A projection whose weights belong to something else as well."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mha_ablate.model.fc_out.base import FcOut, Place, WithBias, one_of
from mha_ablate.model.layers import Linear


class Tied(WithBias):
    """y = s W_V^T z (+ b): the weights that make the values take them back, or one W_O serves all layers.

    Shapes: W_V `[H*D, C]`, b `[C]` where model.bias is set. Setting `to`: `values` (above) or `layers`: y = W_O z (+ b) with the
    first layer's W_O, each layer its own b. s is a constant: random z then comes out as loud as of dense, or
    as it went in where dense's gain is 0. It counts the values that a channel goes into: H*D under attention=fused, D under
    attention=split. z that the same W_V made is not random, and the branch starts sqrt(1 + H D / C) louder, by 1.4 usually.

    Parameters: 0
    Parameters [to=layers]: C H D / L
    FLOPs: 2 C H D
    Elementwise: C
    Elementwise [to=layers]: 0
    Class: other: D's maps, not free of W_V; with `layers` D in each layer, the same one
    Source: a control: what a W_O of its own is worth
    """

    value_weight: Callable[[], Tensor]

    def __init__(self, place: Place, *, to: Any = "values") -> None:
        super().__init__(place)
        one_of("tied", "to", to, "values", "layers")
        if to == "values" and not place.value_inputs:
            raise ValueError("fc_out=tied takes the weights that make the values: use attention.value=learned")
        self.value_std = place.value_std if to == "values" else 1.0
        self.map = Linear(place.width, place.d_model, bias=False, start=place.dense_start) if to == "layers" else None

    @property
    def start_gain(self) -> float:
        """Dense's; of the constant s, unless that is 0."""
        return self.place.dense_gain if self.map is not None else self.place.fixed_gain

    @property
    def elementwise_flops(self) -> int:
        """A product a channel."""
        return self.place.d_model if self.map is None else 0

    def connect(self, value_weight: Callable[[], Tensor], earlier: Sequence[FcOut]) -> None:
        """Take the value weights or the first layer's projection."""
        self.value_weight = value_weight
        if self.map is not None and earlier:
            self.map.weight = cast(Linear, cast(Tied, earlier[0]).map).weight

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Concatenate the heads and project."""
        if self.map is not None:
            return self.map(z_BTHV.flatten(-2))
        p = self.place
        values_by_channel = p.width * p.value_inputs / p.d_model
        y_BTC = torch.matmul(z_BTHV.flatten(-2), self.value_weight().flatten(0, 1))
        return y_BTC * (p.fixed_gain / (self.value_std * math.sqrt(values_by_channel)))
