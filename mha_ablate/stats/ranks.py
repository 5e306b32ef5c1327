"""Spearman's rank correlation of a few pairs, and how often chance alone gives one as large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mha_ablate.stats.sample import Floats

DRAWS = (
    100_000  # orders that are looked at: all up to 8 pairs; of more so many are drawn, and a p of 0.05 is off by 0.0014
)

Pairs = Sequence[tuple[float, float]]


def rank_correlation(pairs: Pairs) -> float | None:
    """Spearman's rho: Pearson's correlation of the ranks, ties sharing the mean of theirs; None where one side does not vary.

    Infinite values are allowed: they are the largest, or the smallest.
    """
    a, b = _centred(pairs)
    return float(np.corrcoef(a, b)[0, 1]) if a.any() and b.any() else None


def p_rank(pairs: Pairs) -> float | None:
    """Two-sided permutation p of rho = 0: the share of orders of one side under which |rho| is at least what it is.

    All orders where there are at most `DRAWS`. Else that many are drawn, the same at every call, and p = (hits + 1) / (draws + 1).
    None where rho is.
    """
    from scipy.stats import permutation_test

    a, b = _centred(pairs)
    if not (a.any() and b.any()):
        return None

    def size(orders: Floats, axis: int) -> Floats:
        return np.abs((orders * b).sum(axis=axis))

    found: Any = permutation_test(
        (a,),
        size,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=DRAWS,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _centred(pairs: Pairs) -> tuple[Floats, Floats]:
    """The ranks of both sides, less their mean. Values that agree to six digits are one: their last bits are rounding."""
    from scipy.stats import rankdata

    a, b = (rankdata([float(f"{value:.6g}") for value in side]) for side in zip(*pairs, strict=True))
    return a - a.mean(), b - b.mean()
