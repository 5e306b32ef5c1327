"""A fixed shuffle of channels, another in every layer."""

from __future__ import annotations

from typing import Any

from mha_ablate.model.fc_out.base import FixedOrder, Place


class Permute(FixedOrder):
    """y_i = z_p(i): a fixed random order of channels, its own in every layer.

    Shapes: p `[C]`, whole numbers, no parameter and in no checkpoint. Legal only where n_heads x head_dim = d_model. Setting
    `shuffle_seed`: another order; init_seed changes nothing. Heads no longer write to the same slice in every layer.

    Parameters: 0
    FLOPs: 0
    Class: N in a single layer: a head still writes to D channels of its own
    Source: a control: no projection, and slices that move from layer to layer
    """

    def __init__(self, place: Place, *, shuffle_seed: Any = 0) -> None:
        super().__init__(place, "permute", str(place.layer), shuffle_seed)
