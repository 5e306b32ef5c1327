"""Rank correlations of a few pairs: ties, infinite values, and how often chance alone gives as much."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from mha_ablate.stats.ranks import p_rank, rank_correlation


def test_ties_share_their_rank() -> None:
    assert rank_correlation([(1, 1), (2, 2), (3, 3)]) == pytest.approx(1)
    assert rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert rank_correlation([(1, 1), (1 + 1e-9, 2), (2, 3), (3, 3)]) == pytest.approx(4 / 4.5), "rounding is a tie"
    assert rank_correlation([(1, 1), (1, 2), (1, 3)]) is p_rank([(1, 1), (1, 2), (1, 3)]) is None


def test_an_infinite_value_is_the_largest() -> None:
    assert rank_correlation([(1, 1), (2, 2), (math.inf, 3)]) == pytest.approx(1)
    assert rank_correlation([(1, 1), (math.inf, 2), (math.inf, 2)]) == pytest.approx(1), "two of them are a tie"


def test_p_of_all_orders_by_hand() -> None:
    assert p_rank([(1, 1), (2, 2), (3, 3)]) == pytest.approx(2 / 6), (
        "of six orders the first and the last are as strict"
    )
    # rho of 1 2 3 4 with 1 2 4 3 is 0.8; of 24 orders one has 1, three have 0.8, and as many their negatives
    assert p_rank([(1, 1), (2, 2), (3, 4), (4, 3)]) == pytest.approx(8 / 24)
    # with a tie, of three different orders of 1 1 2 the ones with 2 in the middle have 0
    assert p_rank([(1, 1), (2, 1), (3, 2)]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("n", [9, 11, 16])
def test_p_of_drawn_orders_is_that_of_others_and_the_same_at_every_call(n: int) -> None:
    rng = np.random.default_rng(n)
    pairs = [(float(x), float(0.4 * x + y)) for x, y in rng.normal(size=(n, 2))]
    theirs: Any = spearmanr([x for x, _ in pairs], [y for _, y in pairs])
    assert rank_correlation(pairs) == pytest.approx(theirs.statistic)
    assert p_rank(pairs) == p_rank(pairs) == pytest.approx(theirs.pvalue, abs=0.03)


def test_a_perfect_order_of_many_is_as_rare_as_draws_can_tell() -> None:
    assert p_rank([(x, x) for x in range(11)]) == pytest.approx(1 / 100_001)
    assert (p_rank([(x, x if x else 11) for x in range(11)]) or 0.0) > 0.01, "with the first at the end"
