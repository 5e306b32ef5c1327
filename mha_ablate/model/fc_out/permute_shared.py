"""A fixed shuffle of channels, the same in every layer."""

from __future__ import annotations

from typing import Any

from mha_ablate.model.fc_out.base import FixedOrder, Place


class PermuteShared(FixedOrder):
    """y_i = z_p(i): a fixed random order of channels, one for all layers.

    Shapes: p `[C]`, whole numbers, no parameter and in no checkpoint. Legal only where n_heads x head_dim = d_model. Setting
    `shuffle_seed`: another order; init_seed changes nothing. Renaming the channels of the residual undoes it (attention=fused,
    learned or rope positions), so its true distance from no projection is 0.

    Parameters: 0
    FLOPs: 0
    Class: N under attention=fused with learned or rope positions
    Source: a control: an A/A test of no projection
    """

    def __init__(self, place: Place, *, shuffle_seed: Any = 0) -> None:
        super().__init__(place, "permute_shared", "all", shuffle_seed)
