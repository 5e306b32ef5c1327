"""Paired statistics against scipy, and Holm's adjustment against its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from mha_ablate.stats.paired import Paired, paired
from mha_ablate.stats.sample import holm
from mha_ablate.stats.verdict import decide

losses = st.floats(0.5, 10.0).map(lambda x: round(x, 6))
pairs = st.dictionaries(st.integers(0, 1000), st.tuples(losses, losses), min_size=2, max_size=30)
p_values = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0.0, 1.0), max_size=6)


def split(values: dict[int, tuple[float, float]]) -> tuple[dict[int, float], dict[int, float]]:
    return {s: a for s, (a, _) in values.items()}, {s: b for s, (_, b) in values.items()}


def compared(values: dict[int, tuple[float, float]]) -> Paired:
    return paired(*split(values))


@given(pairs)
def test_paired_agrees_with_scipy(values: dict[int, tuple[float, float]]) -> None:
    a, b = (np.array([v[i] for v in values.values()]) for i in (0, 1))
    d = a - b
    assume(float(np.std(d)) > 1e-4)
    found, n = compared(values), len(d)
    assert found.sd is not None
    assert found.mean == pytest.approx(d.mean(), abs=1e-12)
    assert found.sd == pytest.approx(np.std(d, ddof=1), rel=1e-9)
    assert found.p_t == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-6, abs=1e-12)
    for level, interval in ((0.95, found.ci95), (0.90, found.ci90)):
        expected = stats.t.interval(level, n - 1, loc=d.mean(), scale=stats.sem(d))
        assert interval == pytest.approx(expected, rel=1e-7, abs=1e-10)


@given(pairs)
def test_swapping_the_arms_turns_every_sign(values: dict[int, tuple[float, float]]) -> None:
    arm, baseline = split(values)
    there, back = paired(arm, baseline), paired(baseline, arm)
    assert back.mean == -there.mean
    assert back.sd == pytest.approx(there.sd)
    assert back.p_t == pytest.approx(there.p_t)
    assert there.ci95 is not None
    assert back.ci95 is not None
    assert back.ci95 == pytest.approx((-there.ci95[1], -there.ci95[0]))


@given(pairs)
def test_the_order_of_seeds_does_not_matter(values: dict[int, tuple[float, float]]) -> None:
    turned = dict(reversed(values.items()))
    assert compared(turned) == compared(values)


@given(pairs)
def test_the_narrower_interval_lies_within_the_wider(values: dict[int, tuple[float, float]]) -> None:
    found = compared(values)
    assert found.ci90 is not None
    assert found.ci95 is not None
    assert found.ci95[0] <= found.ci90[0] <= found.mean <= found.ci90[1] <= found.ci95[1]


@given(pairs)
def test_the_interval_excludes_zero_where_p_is_under_five_percent(values: dict[int, tuple[float, float]]) -> None:
    found = compared(values)
    assert found.ci95 is not None
    assert found.p_t is not None
    assume(abs(found.p_t - 0.05) > 1e-6)
    assert (found.p_t < 0.05) == (found.ci95[0] > 0 or found.ci95[1] < 0)


def closed_test(p: dict[str, float]) -> dict[str, float]:
    """Holm as a closed test: the largest Bonferroni p of all intersections that hold the hypothesis."""
    subsets = [s for k in range(1, len(p) + 1) for s in itertools.combinations(p, k)]
    return {name: max(min(1.0, len(s) * min(p[n] for n in s)) for s in subsets if name in s) for name in p}


@given(p_values)
def test_holm_is_the_closed_bonferroni_test(p: dict[str, float]) -> None:
    assert holm(p) == pytest.approx(closed_test(p))


@given(p_values)
def test_holm_keeps_the_order_and_never_lowers(p: dict[str, float]) -> None:
    adjusted = holm(p)
    assert adjusted.keys() == p.keys()
    for name, value in adjusted.items():
        assert p[name] <= value <= 1.0
    ranked = sorted(p, key=lambda name: p[name])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(ranked))


@given(p_values)
def test_holm_does_not_depend_on_the_order_of_arms(p: dict[str, float]) -> None:
    assert holm(dict(reversed(p.items()))) == holm(p)


@given(st.dictionaries(st.sampled_from("abcd"), pairs, min_size=1), st.floats(1e-4, 1.0))
def test_a_verdict_follows_the_rule(arms: dict[str, dict[int, tuple[float, float]]], margin: float) -> None:
    contrasts = {arm: compared(values) for arm, values in arms.items()}
    adjusted = closed_test({arm: c.p_t for arm, c in contrasts.items() if c.p_t is not None})
    for arm, verdict in decide(contrasts, margin=margin, incomplete={}).items():
        c = contrasts[arm]
        assert c.ci90 is not None
        assume(abs(adjusted[arm] - 0.05) > 1e-9)
        if max(abs(c.ci90[0]), abs(c.ci90[1])) < margin:
            assert verdict.word == "equivalent"
        elif adjusted[arm] < 0.05:
            assert verdict.word == ("costs" if c.mean > 0 else "helps")
        else:
            assert verdict.word == "undecided"
        assert verdict.look == (c.n < 8)


@given(st.dictionaries(st.sampled_from("abcd"), pairs, min_size=1), st.floats(1e-4, 1.0))
def test_verdicts_do_not_depend_on_the_order_of_arms(
    arms: dict[str, dict[int, tuple[float, float]]], margin: float
) -> None:
    contrasts = {arm: compared(values) for arm, values in arms.items()}
    turned = dict(reversed(contrasts.items()))
    assert decide(turned, margin=margin, incomplete={}) == decide(contrasts, margin=margin, incomplete={})


@given(pairs, st.floats(1e-4, 1.0), st.floats(1e-4, 1.0))
def test_a_wider_margin_never_undoes_equivalence(
    values: dict[int, tuple[float, float]], one: float, other: float
) -> None:
    contrasts = {"arm": compared(values)}
    narrow = decide(contrasts, margin=min(one, other), incomplete={})["arm"].word
    wide = decide(contrasts, margin=max(one, other), incomplete={})["arm"].word
    assert wide in (narrow, "equivalent")


@given(losses, losses)
def test_one_pair_gives_a_mean_and_nothing_else(a: float, b: float) -> None:
    found = paired({3: a}, {3: b})
    assert (found.differences, found.mean) == ({3: a - b}, a - b)
    assert (found.sd, found.ci95, found.ci90, found.p_t, found.bca95, found.p_sign_flip, found.mde) == (None,) * 7
    assert math.isfinite(found.mean)
