"""Every statistic against SciPy and statsmodels, and what must hold when samples are turned, scaled, shifted or shuffled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from mha_ablate.stats import sample
from mha_ablate.stats.paired import Paired, paired
from mha_ablate.stats.power import MOST, power_of, seeds_for, seeds_for_equivalence, smallest_effect, upper_sd

one = st.floats(-5.0, 5.0).map(lambda x: round(x, 4))
differences = st.lists(one, min_size=2, max_size=14).map(np.array)
longer = st.lists(one, min_size=3, max_size=14).map(np.array)
seldom = settings(max_examples=20, deadline=None)  # 20,000 resamples each, or slow in statsmodels


def spread(d_N: np.ndarray) -> bool:
    return float(np.std(d_N)) > 1e-3


def contrast(d_N: np.ndarray) -> Paired:
    return paired(dict(enumerate(d_N.tolist())), dict.fromkeys(range(len(d_N)), 0.0))


# ---- against others


@given(st.lists(one, min_size=2, max_size=10).map(np.array))
@settings(max_examples=50, deadline=None)
def test_sign_flip_is_scipys_exact_test(d_N: np.ndarray) -> None:
    theirs = stats.permutation_test(
        (d_N,),
        lambda d, axis: np.abs(d.mean(axis=axis)),
        permutation_type="samples",
        alternative="greater",
        n_resamples=1 << 10,  # all of them
        vectorized=True,
    )
    assert float(sample.p_sign_flip(d_N)) == pytest.approx(theirs.pvalue, abs=1e-12)


@pytest.mark.parametrize("n", [17, 24])
@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6])
def test_a_drawn_sign_flip_is_near_that_of_scipy(n: int, shift: float) -> None:
    d_N = np.random.default_rng(n).normal(shift, 1.0, n)
    theirs = stats.permutation_test(
        (d_N,),
        lambda d, axis: np.abs(d.mean(axis=axis)),
        permutation_type="samples",
        alternative="greater",
        n_resamples=100_000,
        vectorized=True,
        batch=10_000,
        rng=np.random.default_rng(1),
    )
    p = float(theirs.pvalue)
    assert float(sample.p_sign_flip(d_N)) == pytest.approx(p, abs=5 * math.sqrt(p / sample.DRAWN) + 1e-4)


@pytest.mark.parametrize("n", [3, 4, 5, 8, 12, 30])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bca_is_scipys_but_for_chance(n: int, level: float) -> None:
    d_N = np.random.default_rng(n).lognormal(0.0, 0.7, n) - 1
    ends = [
        stats.bootstrap(
            (d_N,), np.mean, confidence_level=level, n_resamples=20_000, method="BCa", rng=np.random.default_rng(seed)
        ).confidence_interval
        for seed in range(5)
    ]
    ours = [float(end) for end in sample.bca_interval(d_N, level)]
    for end, theirs in zip(ours, np.array(ends).T, strict=True):
        # Few differences have few resampled means: an end may be the next of them.
        assert end == pytest.approx(theirs.mean(), abs=0.02 * d_N.std() + 5 * theirs.std())


@given(differences, st.floats(0.01, 3.0))
def test_equivalence_is_statsmodels_two_one_sided_tests(d_N: np.ndarray, margin: float) -> None:
    assume(spread(d_N))
    theirs, _, _ = ttost_paired(d_N, np.zeros_like(d_N), -margin, margin)
    for bound in (-margin, margin):
        less: Any = stats.ttest_1samp(d_N, bound, alternative="less")
        more: Any = stats.ttest_1samp(d_N, bound, alternative="greater")
        assert contrast(d_N).p_below(bound) == pytest.approx(float(less.pvalue), rel=1e-7, abs=1e-12)
        assert contrast(d_N).p_above(bound) == pytest.approx(float(more.pvalue), rel=1e-7, abs=1e-12)
    assert contrast(d_N).p_equivalence(margin) == pytest.approx(float(theirs), rel=1e-7, abs=1e-12)


@given(differences, st.floats(0.01, 3.0))
def test_p_of_equivalence_is_under_five_percent_where_the_90_interval_lies_within(
    d_N: np.ndarray, margin: float
) -> None:
    p = contrast(d_N).p_equivalence(margin)
    low, high = sample.t_interval(d_N, 0.90)
    assert p is not None
    assume(abs(p - 0.05) > 1e-9)
    assert (p < 0.05) == (-margin < low and high < margin)


@given(st.lists(st.floats(0.0, 1.0) | st.sampled_from([0.0, 0.01, 0.05, 1.0]), min_size=1, max_size=8))
@seldom
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    theirs: Any = multipletests(p_values, method="holm")[1]
    ours = sample.holm({str(arm): p for arm, p in enumerate(p_values)})
    assert [ours[str(arm)] for arm in range(len(p_values))] == pytest.approx(theirs.tolist())


@given(st.integers(2, 200), st.floats(0.0, 10.0), st.floats(0.1, 10.0), st.sampled_from([0.1, 0.05, 0.0125, 0.001]))
def test_power_is_statsmodels(n: int, effect: float, sd: float, alpha: float) -> None:
    ours, theirs = power_of(effect, sd, n, alpha=alpha), float(TTestPower().power(effect / sd, n, alpha))
    assert 0 <= ours <= 1 + 1e-12
    if math.isfinite(theirs):  # statsmodels' own is NaN where SciPy's series fails
        assert ours == pytest.approx(theirs, abs=1e-7)


@given(st.floats(0.1, 4.0), st.sampled_from([0.05, 0.0125]), st.sampled_from([0.5, 0.8, 0.9]))
def test_seeds_are_the_least_that_reach_the_power_by_statsmodels(effect: float, alpha: float, power: float) -> None:
    found = seeds_for(effect, 1.0, alpha=alpha, power=power)
    assert found is not None
    there, before = (float(TTestPower().power(effect, n, alpha)) for n in (found, found - 1))
    # Each "not": statsmodels' own is NaN where SciPy's series fails.
    assert not there < power - 1e-7
    assert found == 2 or not before > power + 1e-7


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.8, 0.95]))
def test_the_interval_of_a_share_is_clopper_and_pearsons(k: int, rest: int, level: float) -> None:
    assume(k + rest > 0)
    n = k + rest
    theirs: Any = proportion_confint(k, n, alpha=1 - level, method="beta")
    assert sample.share_interval(k / n, n, level) == pytest.approx(theirs, abs=1e-9)


@given(st.floats(0.001, 10.0), st.integers(2, 100), st.floats(0.5, 0.99))
def test_the_upper_limit_of_a_spread_is_that_of_chi2(sd: float, n: int, level: float) -> None:
    assert upper_sd(sd, n, level=level) == pytest.approx(sd * math.sqrt((n - 1) / stats.chi2.ppf(1 - level, n - 1)))


@given(longer)
def test_g_is_cohens_d_of_one_sample_times_its_factor(d_N: np.ndarray) -> None:
    assume(spread(d_N))
    df = len(d_N) - 1
    # The mean of the noncentral t says what the factor must take out: E[t] = shift sqrt(df / 2) Gamma / Gamma.
    mean: Any = stats.nct.mean(df, 1.0)
    factor = 1.0 / mean
    assert float(sample.hedges_g(d_N)) == pytest.approx(factor * d_N.mean() / d_N.std(ddof=1), rel=1e-6, abs=1e-12)
    if df > 8:
        assert factor == pytest.approx(1 - 3 / (4 * df - 1), abs=1e-3)  # Hedges' own approximation


@given(st.lists(st.tuples(one, one), min_size=2, max_size=20))
def test_correlation_is_numpys(values: list[tuple[float, float]]) -> None:
    a, b = np.array(values).T
    assume(spread(a) and spread(b))
    found = paired(dict(enumerate(a.tolist())), dict(enumerate(b.tolist()))).correlation
    assert found == pytest.approx(float(np.corrcoef(a, b)[0, 1]), abs=1e-9)


# ---- many samples at once

SINGLE = {
    "standard deviation": sample.standard_deviation,
    "standard error": sample.standard_error,
    "t interval": lambda d: sample.t_interval(d, 0.95),
    "p_t": sample.p_t,
    "equivalence": lambda d: sample.p_equivalence(d, 0.5),
    "sign flip": sample.p_sign_flip,
    "bca": lambda d: sample.bca_interval(d, 0.95),
    "g": sample.hedges_g,
    "share": sample.share_worse,
}


@pytest.mark.parametrize("n", [3, 8, 17])
@pytest.mark.parametrize("statistic", SINGLE.values(), ids=SINGLE)
def test_a_batch_is_a_loop(statistic, n: int) -> None:
    d_SAN = np.random.default_rng(n).normal(0.2, 1.0, (2, 3, n)).round(1)  # rounded: there are ties and zeros
    d_SAN[0, 0] = 0.0
    d_SAN[0, 1] = 0.3
    together = np.array(statistic(d_SAN))
    assert together.shape[-2:] == (2, 3)
    for place in np.ndindex(2, 3):
        alone = np.array(statistic(d_SAN[place]))
        assert together[..., *place] == pytest.approx(alone, rel=1e-12, abs=1e-12)


# ---- algebra


@given(longer, st.integers(1, 6).map(lambda k: 10.0**-k))
@seldom
def test_another_unit_changes_the_unit_alone(d_N: np.ndarray, unit: float) -> None:
    assume(spread(d_N))
    here, there = contrast(d_N), contrast(d_N * unit)
    for name in ("p_t", "p_sign_flip", "g", "p_worse", "p_worse_ci95"):
        assert getattr(there, name) == pytest.approx(getattr(here, name), rel=1e-6, abs=1e-9), name
    for name in ("mean", "sd", "ci95", "ci90", "bca95", "mde"):
        expected = np.array(getattr(here, name)) * unit
        assert np.array(getattr(there, name)) == pytest.approx(expected, rel=1e-6, abs=1e-7 * unit), name


@given(longer, st.floats(-3.0, 3.0))
@seldom
def test_a_shift_moves_the_intervals_and_leaves_the_spread(d_N: np.ndarray, shift: float) -> None:
    assume(spread(d_N))
    here, there = contrast(d_N), contrast(d_N + shift)
    assert (there.sd, there.mde) == pytest.approx((here.sd, here.mde))
    for name in ("ci95", "ci90", "bca95"):
        assert np.array(getattr(there, name)) == pytest.approx(np.array(getattr(here, name)) + shift, abs=1e-6), name


@given(longer)
def test_turning_every_sign_turns_the_answer(d_N: np.ndarray) -> None:
    for same in (sample.p_t, sample.p_sign_flip, sample.standard_deviation, lambda d: sample.p_equivalence(d, 0.5)):
        assert float(same(-d_N)) == pytest.approx(float(same(d_N)), abs=1e-12)
    assert float(sample.hedges_g(-d_N)) == -float(sample.hedges_g(d_N))
    share = float(sample.share_worse(d_N))
    assert float(sample.share_worse(-d_N)) == pytest.approx(1 - share)
    low, high = sample.share_interval(share, len(d_N))
    assert sample.share_interval(1 - share, len(d_N)) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(longer, st.randoms(use_true_random=False))
@seldom
def test_the_order_of_seeds_changes_bca_by_chance_alone_and_the_rest_not_at_all(d_N: np.ndarray, chance) -> None:
    assume(spread(d_N))
    order = list(range(len(d_N)))
    chance.shuffle(order)
    turned = d_N[order]
    for name in ("p_t", "sign flip", "g", "share", "t interval"):
        assert np.array(SINGLE[name](turned)) == pytest.approx(np.array(SINGLE[name](d_N)), rel=1e-9, abs=1e-12), name
    width = float(np.ptp(d_N))
    for here, there in zip(sample.bca_interval(d_N, 0.95), sample.bca_interval(turned, 0.95), strict=True):
        assert float(here) == pytest.approx(float(there), abs=0.35 * width if len(d_N) < 5 else 0.1 * width)


@given(longer)
@seldom
def test_bca_lies_between_the_smallest_and_the_largest_difference(d_N: np.ndarray) -> None:
    low, high = map(float, sample.bca_interval(d_N, 0.95))
    assert d_N.min() - 1e-9 <= low <= high <= d_N.max() + 1e-9


@given(differences)
def test_a_sign_flip_is_a_share_of_all_signs_and_counts_the_observed_ones(d_N: np.ndarray) -> None:
    p, all_signs = float(sample.p_sign_flip(d_N)), 2 ** len(d_N)
    assert 2 / all_signs <= p <= 1
    assert (p * all_signs) % 2 == 0


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=18), st.lists(st.floats(-1e9, 1e9), min_size=18, max_size=18)
)
@seldom
def test_what_is_printed_is_never_nan(arm: list[float], baseline: list[float]) -> None:
    found = paired(dict(enumerate(arm)), dict(enumerate(baseline)))
    numbers = [v for v in vars(found).values() if v is not None and not isinstance(v, dict)]
    assert np.isfinite(np.hstack(numbers)).all(), found
    assert found.n == 1 or math.isfinite(found.p_equivalence(0.01) or 0.0)


@given(st.integers(2, 500), st.floats(1e-3, 100.0), st.sampled_from([0.1, 0.05, 0.0125, 0.001, 1e-5]))
def test_power_grows_with_the_effect_and_is_alpha_without(n: int, effect: float, alpha: float) -> None:
    less, more = (power_of(e, 1.0, n, alpha=alpha) for e in (effect, 1.01 * effect))
    assert power_of(0.0, 1.0, n, alpha=alpha) == pytest.approx(alpha, rel=1e-6)
    assert alpha * 0.999 <= less <= more + 1e-7
    assert more <= 1 + 1e-12
    assert power_of(-effect, 1.0, n, alpha=alpha) == less


@given(st.floats(0.0, 10.0), st.integers(2, 200))
def test_the_smallest_effect_is_found_with_about_that_power(sd: float, n: int) -> None:
    assume(sd > 1e-6)
    assert power_of(smallest_effect(sd, n), sd, n) == pytest.approx(0.8, abs=0.07 if n == 2 else 0.035)
    if n >= 8:
        assert power_of(smallest_effect(sd, n), sd, n) == pytest.approx(0.8, abs=0.003)


@given(st.floats(0.05, 4.0))
@settings(deadline=None)
def test_seeds_for_equivalence_is_the_first_that_has_room(margin: float) -> None:
    def reached(n: int) -> bool:
        room = margin - float(stats.t.ppf(0.95, n - 1)) / math.sqrt(n)
        return room > 0 and 2 * float(stats.norm.cdf(room * math.sqrt(n))) - 1 >= 0.8

    found = seeds_for_equivalence(margin, 1.0)
    assert found is not None
    assert found <= MOST
    assert reached(found)
    assert found == 2 or not reached(found - 1)
