"""Each statistic by hand, where samples are small, tied or without spread, and where effects are beyond what series can sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import chdtr

from mha_ablate.stats import sample
from mha_ablate.stats.paired import Paired, paired
from mha_ablate.stats.power import (
    MOST,
    chance_width,
    power_of,
    seeds_for,
    seeds_for_equivalence,
    smallest_effect,
    upper_sd,
)


def against_zero(*differences: float) -> Paired:
    return paired(dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0))


# ---- without spread


@pytest.mark.parametrize("value", [0.1, 0.3, -0.7, 1e-5, 1e30])
@pytest.mark.parametrize("n", [2, 3, 7, 17])
def test_equal_differences_have_no_spread_whatever_their_mean_is_rounded_to(value: float, n: int) -> None:
    found = against_zero(*[value] * n)
    assert (found.sd, found.mde, found.g, found.correlation) == (0.0, 0.0, None, None)
    assert found.p_t == 0.0
    assert found.ci95 == found.ci90 == (found.mean, found.mean)
    assert found.bca95 == (None if n == 2 else (found.mean, found.mean))
    assert found.p_equivalence(2 * abs(value)) == 0.0
    assert found.p_equivalence(abs(value) / 2) == 1.0


@pytest.mark.parametrize("n", [2, 3, 16, 17])
def test_no_difference_at_all(n: int) -> None:
    found = against_zero(*[0.0] * n)
    assert (found.p_t, found.p_sign_flip, found.p_worse) == (1.0, 1.0, 0.5)
    assert found.g == (None if n == 2 else 0.0)
    assert found.ci95 == (0.0, 0.0)
    assert found.p_equivalence(0.01) == 0.0


def test_an_arm_whose_losses_are_all_the_same_has_no_correlation() -> None:
    found = paired({0: 0.1, 1: 0.1, 2: 0.1}, {0: 0.3, 1: 0.5, 2: 0.2})
    assert found.correlation is None
    assert found.sd == pytest.approx(float(np.std([0.2, 0.4, 0.1], ddof=1)))


def test_a_small_spread_is_one() -> None:
    assert float(sample.standard_deviation(np.array([1.0, 1.0 + 1e-9]))) == pytest.approx(1e-9 / math.sqrt(2))


# ---- few seeds


def test_two_seeds_have_neither_bca_nor_g() -> None:
    found = against_zero(0.1, 0.3)
    assert (found.bca95, found.g) == (None, None)
    for statistic in (sample.hedges_g, lambda d: sample.bca_interval(d, 0.95)):
        with pytest.raises(ValueError, match="takes 3 differences"):
            statistic(np.array([0.1, 0.3]))


def test_g_by_hand() -> None:
    # With two degrees of freedom the factor is Gamma(1) / Gamma(1/2) = 1 / sqrt(pi); mean 2, s 1.
    assert float(sample.hedges_g(np.array([1.0, 2.0, 3.0]))) == pytest.approx(2 / math.sqrt(math.pi))


@pytest.mark.parametrize(("n", "least"), [(2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125), (8, 0.0078125), (16, 2**-15)])
def test_a_sign_flip_cannot_go_below_its_least(n: int, least: float) -> None:
    assert float(sample.p_sign_flip(np.arange(1.0, n + 1))) == least


def test_seventeen_differences_are_drawn_and_count_the_observed_sign() -> None:
    p = float(sample.p_sign_flip(np.arange(1.0, 18.0)))
    assert 1 / (1 + sample.DRAWN) <= p <= 8 / sample.DRAWN  # 2 of 2^17 signs: one is drawn at times
    assert p == float(sample.p_sign_flip(np.arange(1.0, 18.0)))


def test_a_sign_flip_by_hand() -> None:
    # Sums of +-1 +-2 +-4 are 7, 5, 3, 1 in size, twice each; that of -1 + 2 + 4 is 5, and 7 is as large.
    assert float(sample.p_sign_flip(np.array([-1.0, 2.0, 4.0]))) == 0.5


def test_sums_that_differ_by_rounding_are_ties() -> None:
    # 0.1 + 0.2 - 0.3 is not 0 in floating point.
    assert float(sample.p_sign_flip(np.array([0.1, 0.2, -0.3]))) == 1.0


def test_ties_count_by_half() -> None:
    found = against_zero(0.0, 0.0, 1.0, -1.0, 2.0)
    assert found.p_worse == pytest.approx(3 / 5)
    low, high = found.p_worse_ci95
    assert 0 < low < 0.6 < high < 1


@pytest.mark.parametrize(("share", "expected"), [(0.0, (0.0, 0.975)), (1.0, (0.025, 1.0))])
def test_one_seed_says_next_to_nothing_of_a_share(share: float, expected: tuple[float, float]) -> None:
    assert sample.share_interval(share, 1) == pytest.approx(expected)


# ---- power


def test_the_smallest_effect_by_hand() -> None:
    # t(0.975, 7) = 2.364624, t(0.8, 7) = 0.896030
    assert smallest_effect(0.02, 8) == pytest.approx((2.364624 + 0.896030) * 0.02 / math.sqrt(8), rel=1e-6)


@pytest.mark.parametrize("function", [lambda n: power_of(1.0, 1.0, n), lambda n: upper_sd(1.0, n),
                                      lambda n: smallest_effect(1.0, n)])  # fmt: skip
def test_one_seed_has_no_power(function) -> None:
    with pytest.raises(ValueError, match="it takes two"):
        function(1)


def by_integration(shift: float, n: int, alpha: float) -> float:
    """P(T > bound) over the normal part of a noncentral t: for shifts that put the other tail out of sight."""
    bound = float(stats.t.ppf(1 - alpha / 2, n - 1))

    def at(z: float) -> float:
        return float(stats.norm.pdf(z) * chdtr(n - 1, (n - 1) * (max(shift + z, 0) / bound) ** 2))

    return quad(at, -9, 9, limit=500, epsabs=1e-11)[0]


@pytest.mark.parametrize("shift", [7.5, 9.9, 10.1, 14, 28.3, 30.1, 60, 400])
@pytest.mark.parametrize("alpha", [0.05, 0.0125, 0.001, 1e-5])
@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_the_power_of_a_large_effect(shift: float, alpha: float, n: int) -> None:
    assert power_of(shift / math.sqrt(n), 1.0, n, alpha=alpha) == pytest.approx(
        by_integration(shift, n, alpha), abs=1e-7
    )


def test_power_is_a_number_for_every_effect() -> None:
    for alpha in (0.05, 0.0125, 0.001):
        for n in (2, 3, 5, 8, 12, 100, 9999):
            powers = [power_of(shift / math.sqrt(n), 1.0, n, alpha=alpha) for shift in np.linspace(0, 40, 161)]
            assert np.isfinite(powers).all()
            assert np.diff(powers).min() > -1e-7, (alpha, n)


def test_seeds_for_large_effects_are_few_and_for_none_are_none() -> None:
    assert [seeds_for(effect, 1.0) for effect in (1e6, 20.0, 4.0, 1.0, 0.5)] == [2, 2, 3, 10, 34]
    assert seeds_for(1.0, 0.0) == 2
    assert seeds_for(0.0, 1.0) is None
    assert seeds_for(0.02, 1.0) is None
    assert seeds_for(0.0281, 1.0) in range(9_900, MOST + 1)


def test_a_power_that_was_nan_once_needs_no_more_seeds() -> None:
    # At six seeds SciPy's sum gives NaN at some of these; a plan must not run past them.
    found = [seeds_for(effect, 1.0, alpha=0.001) or math.inf for effect in np.linspace(1.5, 6.0, 91)]
    assert max(np.diff(found)) <= 0


def test_seeds_for_equivalence_where_all_is_certain_or_nothing_is() -> None:
    assert seeds_for_equivalence(0.01, 0.0) == 2
    assert seeds_for_equivalence(0.0, 0.0) is None
    assert seeds_for_equivalence(0.01, 10.0) is None


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_upper_limit_of_a_spread_covers_as_often_as_it_says(n: int, level: float) -> None:
    sds = np.random.default_rng(n).normal(0.0, 0.3, (20_000, n)).std(axis=-1, ddof=1)
    covers = np.mean([upper_sd(sd, n, level=level) >= 0.3 for sd in sds.tolist()])
    assert covers == pytest.approx(level, abs=0.012)


@pytest.mark.parametrize(("seeds", "n"), [(3, 8), (8, 3), (5, 1)])
def test_chance_stays_within_a_measured_floor_as_often_as_it_says(seeds: int, n: int) -> None:
    draws = np.random.default_rng(seeds).normal(0.0, 0.3, (20_000, seeds + n))
    widths = [chance_width(sd, seeds, n) for sd in draws[:, :seeds].std(axis=1, ddof=1).tolist()]
    assert np.mean(np.abs(draws[:, seeds:].mean(axis=1)) <= widths) == pytest.approx(0.95, abs=0.006)
    with pytest.raises(ValueError, match="two differences"):
        chance_width(0.1, 1, n)
