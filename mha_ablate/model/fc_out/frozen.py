"""The standard output projection, never trained."""

from __future__ import annotations

from torch import Tensor

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.layers import Linear


class Frozen(WithBias):
    """y = W_O z (+ b): dense as it starts; W_O is never trained.

    Shapes: W_O `[C, H*D]`, b `[C]` where model.bias is set: b is trained. Start: dense's, number for number; where
    dense's gain is 0 it is 1 here, since a constant 0 would cut the branch off for good.

    Parameters: 0
    Frozen: C H D
    FLOPs: 2 C H D
    Class: other: fixed mixing of heads
    Source: a control: learning against mixing
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        start = place.dense_start if place.dense_gain else place.map_start(place.width, place.fixed_gain)
        self.map = Linear(place.width, place.d_model, bias=False, start=start)
        self.map.weight.requires_grad_(False)

    @property
    def start_gain(self) -> float:
        """Dense's, unless that is 0."""
        return self.place.fixed_gain

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Concatenate the heads and project."""
        return self.map(z_BTHV.flatten(-2))
