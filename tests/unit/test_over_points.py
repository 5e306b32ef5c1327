"""How far an answer holds over settings: by hand, against statsmodels, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.meta_analysis import combine_effects

from mha_ablate.stats.over_points import OverPoints, combined, covers, over_points
from scripts.calibration import simulate


def test_equal_variances_by_hand() -> None:
    found = over_points([1, 2, 3, 4, 5], [0.5] * 5)
    # The means have variance 2.5: tau2 = 2. All weights are 1 / 2.5, so that se^2 = 2.5 / 5. t(0.975, 4) = 2.776445.
    assert (found.k, found.mean, found.between_sd) == (5, pytest.approx(3.0), pytest.approx(math.sqrt(2)))
    assert found.ci95 == pytest.approx((3 - 2.776445 * math.sqrt(0.5), 3 + 2.776445 * math.sqrt(0.5)), abs=1e-6)
    assert found.prediction95 == pytest.approx((3 - 2.776445 * math.sqrt(2.5), 3 + 2.776445 * math.sqrt(2.5)), abs=1e-6)


def test_settings_that_happen_to_agree_leave_the_noise_of_seeds() -> None:
    found = over_points([1, 2, 3, 4, 5], [10.0] * 5)
    assert found.between_sd == 0
    # se^2 = 10 / 5: the scale, 10 * 0.1 / 4, is raised to 1.
    assert found.ci95 == pytest.approx((3 - 2.776445 * math.sqrt(2), 3 + 2.776445 * math.sqrt(2)), abs=1e-6)
    assert found.prediction95 == pytest.approx(found.ci95)


def test_unequal_variances_are_what_statsmodels_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        m, v = rng.normal(0, 2, 7), rng.uniform(0.05, 3, 7)
        (mean,), (se,), (tau2,) = combined(m[None], v[None])
        if tau2 == 0:
            continue
        other = combine_effects(m, v, method_re="iterated", use_t=True)
        theirs = vars(other)
        assert tau2 == pytest.approx(theirs["tau2"], rel=1e-4)
        assert (mean, se) == pytest.approx((theirs["mean_effect_re"], math.sqrt(theirs["var_hksj_re"])), rel=1e-4)
        assert over_points(m.tolist(), v.tolist()).ci95 == pytest.approx(other.conf_int()[3], rel=1e-3)
        w = 1 / (v + tau2)
        assert (w * (m - mean) ** 2).sum() == pytest.approx(6), "what defines tau2"


def test_few_settings_say_less() -> None:
    assert over_points([0.3], [0.1]) == OverPoints(0.3, None, None, None, 1, None)
    two = over_points([1.0, 3.0], [0.5, 0.5])
    # tau2 = 2 - 0.5, se = 1, t(0.975, 1) = 12.7062.
    assert (two.mean, two.between_sd) == (pytest.approx(2.0), pytest.approx(math.sqrt(1.5)))
    assert two.ci95 == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)
    four = over_points([1, 2, 3, 4], [0.5] * 4)
    assert [(one.prediction95, one.coverage, one.ci_coverage) for one in (two, four)] == [(None, None, None)] * 2


def test_settings_without_variance() -> None:
    found = over_points([1, 2, 3, 4, 5], [0.0] * 5)
    assert (found.mean, found.between_sd) == (pytest.approx(3), pytest.approx(math.sqrt(2.5)))
    assert found.ci95 == pytest.approx((3 - 2.776445 * math.sqrt(0.5), 3 + 2.776445 * math.sqrt(0.5)), abs=1e-6)
    same = over_points([0.1 + 0.2, 0.3, 0.3, 0.3, 0.3], [0.0] * 5)
    assert same.between_sd == 0
    assert same.ci95 == pytest.approx((0.3, 0.3))
    assert same.prediction95 == same.ci95
    certain = over_points([1.0, 5.0, 5.0], [0.0, 100.0, 100.0])
    assert certain.mean == pytest.approx(1.0), "nothing says that settings differ"


def test_coverage_is_simulated_and_the_same_at_every_call() -> None:
    means, v, seeds = list(np.random.default_rng(0).normal(0, 1, 24)), [0.25] * 24, [4] * 24
    found = over_points(means, v, seeds)
    assert over_points(means, v, seeds) == found
    assert found.coverage is not None
    assert found.ci_coverage is not None
    assert 0.9 < found.coverage < 0.97
    assert 0.88 < found.ci_coverage < 0.97


@pytest.mark.parametrize(("k", "ratio"), [(8, 0.0), (8, 1.0), (8, 4.0)])
def test_what_coverage_says_is_how_often_new_settings_are_covered(k: int, ratio: float) -> None:
    counted = simulate.over_settings(k, ratio, 6000)
    said, mean = covers(ratio**2, np.ones(k), np.full(k, 3.0), draws=6000)
    assert said == pytest.approx(counted["new"], abs=0.015)
    assert mean == pytest.approx(counted["mean"], abs=0.015)


def test_settings_that_differ_much_are_covered_as_promised() -> None:
    assert covers(16.0, np.ones(8), None, draws=20_000) == pytest.approx((0.95, 0.95), abs=0.012)
    assert covers(1.0, np.ones(8), None)[0] < 0.93, "and those that differ as much as seeds do are not"


@pytest.mark.parametrize(
    ("means", "variances", "seeds", "words"),
    [
        ([], [], None, "one setting or more"),
        ([1.0, 2.0], [0.1], None, "one variance"),
        ([1.0], [0.1], [4, 4], "one number of seeds"),
        ([1.0], [-0.1], None, "not negative"),
        ([math.nan], [0.1], None, "finite"),
        ([1.0, 2.0], [0.1, 0.1], [1, 4], "two seeds"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_line(
    means: list[float], variances: list[float], seeds: list[int] | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        over_points(means, variances, seeds)
