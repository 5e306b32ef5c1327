"""Spearman's rank correlation of a few pairs, and how often chance alone gives one as large."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from mha_ablate.stats.sample import ROUNDING, Floats

ALL_ORDERS = 8  # pairs up to which every order is looked at: 8! = 40,320
DRAWS = 100_000  # orders that are drawn for more pairs; a p of 0.05 is then off by 0.0014 (two standard errors)

Pairs = Sequence[tuple[float, float]]


def rank_correlation(pairs: Pairs) -> float | None:
    """Spearman's rho: Pearson's correlation of the ranks, ties sharing the mean of theirs; None where one side does not vary.

    Infinite values are allowed: they are the largest, or the smallest.
    """
    a, b = _centred(pairs)
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length else None


def p_rank(pairs: Pairs) -> float | None:
    """Two-sided permutation p of rho = 0: the share of orders of one side under which |rho| is at least what it is.

    All orders up to 8 pairs. For more, 100,000 are drawn, the same at every call, and p = (hits + 1) / (draws + 1). None where
    rho is.
    """
    a, b = _centred(pairs)
    if not (a.any() and b.any()):
        return None
    few = len(b) <= ALL_ORDERS
    orders = _all_orders(b) if few else np.random.default_rng(0).permuted(np.tile(b, (DRAWS, 1)), axis=1)
    least = abs(float(a @ b)) - ROUNDING * float(a @ a + b @ b)  # sums of ranks in another order differ by rounding
    hits = int((np.abs(orders @ a) >= least).sum())
    return hits / len(orders) if few else (hits + 1) / (DRAWS + 1)


def _all_orders(b: Floats) -> Floats:
    return b[np.array(list(itertools.permutations(range(len(b)))))]


def _centred(pairs: Pairs) -> tuple[Floats, Floats]:
    """The ranks of both sides, less their mean."""
    a, b = (_ranks(side) for side in zip(*pairs, strict=True))
    return a - a.mean(), b - b.mean()


def _ranks(values: Sequence[float]) -> Floats:
    """Ranks from 1. Values that agree to six digits are one: their last bits are rounding."""
    rounded = np.array([float(f"{value:.6g}") for value in values])
    return np.array([(rounded < v).sum() + ((rounded == v).sum() + 1) / 2 for v in rounded])
