"""The decision rule on many studies at once. tests/unit/test_calibration.py holds it against `decide`, study by study."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mha_ablate.stats import sample
from mha_ablate.stats.verdict import ALPHA

UNDECIDED, COSTS, HELPS, EQUIVALENT = WORDS = ("undecided", "costs", "helps", "equivalent")


def words(d_SAN: sample.Floats, margin: float) -> NDArray[np.str_]:
    """`decide`'s words `[S, A]` for S studies of A contrasts with N differences each."""
    adjusted = holm(sample.p_t(d_SAN))
    low, high = sample.t_interval(d_SAN, 0.90)
    sign = np.where(d_SAN.mean(axis=-1) > 0, COSTS, HELPS)
    found = np.where(adjusted < ALPHA, sign, UNDECIDED)
    return np.where((low > -margin) & (high < margin), EQUIVALENT, found)


def holm(p_SA: sample.Floats) -> sample.Floats:
    """`sample.holm` of each row."""
    order = p_SA.argsort(axis=-1, kind="stable")
    ranked = np.take_along_axis(p_SA, order, axis=-1) * np.arange(p_SA.shape[-1], 0, -1)
    adjusted = np.empty_like(p_SA)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(np.minimum(ranked, 1.0), axis=-1), axis=-1)
    return adjusted
