"""How far an answer holds over settings: the mean over them, its interval, and an interval for a new setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mha_ablate.stats.sample import ROUNDING, Floats

Interval = tuple[float, float]
FEWEST = 5  # settings, below which nothing is predicted
DRAWS = 2000
HALVINGS = 60


@dataclass(frozen=True)
class OverPoints:
    """The mean over `k` settings and its interval; the standard deviation between settings; an interval for a new setting.

    `coverage` is the simulated share in which such a prediction interval holds the true value of a new setting, and
    `ci_coverage` that in which `ci95` holds the true mean. With one setting there is the mean alone. `prediction95` and the
    coverages are None below 5 settings.
    """

    mean: float
    ci95: Interval | None
    between_sd: float | None
    prediction95: Interval | None
    k: int
    coverage: float | None
    ci_coverage: float | None = None


def over_points(means: Sequence[float], variances: Sequence[float], seeds: Sequence[int] | None = None) -> OverPoints:
    """Combine the means m_i of k settings, with sampling variances v_i = s_i^2 / n_i, by a random-effects model.

    m_i = mean + setting_i + error_i, with variances tau2 and v_i. tau2 >= 0 solves sum w_i (m_i - mean)^2 = k - 1 with
    w_i = 1 / (v_i + tau2) (Paule and Mandel 1982), and mean = sum w_i m_i / sum w_i. se^2 = q / sum w_i, with
    q = max(1, sum w_i (m_i - mean)^2 / (k - 1)) (Hartung and Knapp 2001; floor: Rover, Knapp and Friede 2015).
    `ci95` is mean +- t_{0.975, k - 1} se, `prediction95` mean +- t_{0.975, k - 1} sqrt(tau2 + se^2) (Higgins, Thompson and
    Spiegelhalter 2009, with k - 1 degrees of freedom).

    The m_i are treated as independent: a seed links arms within a setting, not settings with each other. The settings are
    treated as a sample of those that the answer is meant for.

    `coverage` is simulated at this k, these v_i and the estimated tau2, with the v_i estimated anew from n_i seeds where
    `seeds` is given. The estimate of tau2 is itself uncertain: where it is 0, the coverage holds for settings that do not
    differ, and is lower if they do.

    Raises ValueError without settings, for lists of different lengths, values that are not finite, negative variances, and
    fewer than two seeds.
    """
    m_K, v_K = np.array(means, dtype=np.float64), np.array(variances, dtype=np.float64)
    df_K = None if seeds is None else np.array(seeds, dtype=np.float64) - 1
    _check(m_K, v_K, df_K)
    k = len(m_K)
    if k == 1:
        return OverPoints(float(m_K[0]), None, None, None, 1, None)
    (mean,), (se,), (tau2,) = combined(m_K[None], v_K[None])
    ci, prediction = intervals(mean, se, tau2, k)
    plain = _plain(ci)
    if k < FEWEST:
        return OverPoints(float(mean), plain, math.sqrt(tau2), None, k, None)
    coverage, ci_coverage = covers(float(tau2), v_K, df_K)
    return OverPoints(float(mean), plain, math.sqrt(tau2), _plain(prediction), k, coverage, ci_coverage)


def combined(m_SK: Floats, v_SK: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, Hartung-Knapp standard error with its scale at least 1, and Paule and Mandel's tau2, `[S]` each."""
    k = m_SK.shape[-1]
    spread_S = m_SK.var(axis=-1, ddof=1)
    spread_S = np.where(spread_S > (ROUNDING * np.abs(m_SK).max(axis=-1)) ** 2, spread_S, 0.0)
    scale_S = np.maximum(v_SK.max(axis=-1), spread_S)
    # Weights stay finite where a setting has no variance. Where nothing has any, all weights are equal.
    v_SK = np.maximum(v_SK, np.where(scale_S > 0, ROUNDING * scale_S, 1.0)[:, None])
    tau2_S = _between(m_SK, v_SK, spread_S)
    w_SK = 1 / (v_SK + tau2_S[:, None])
    mean_S, square_S = _weighted(m_SK, w_SK)
    q_S = np.maximum(1.0, square_S / (k - 1))
    return mean_S, np.where(scale_S > 0, np.sqrt(q_S / w_SK.sum(axis=-1)), 0.0), tau2_S


def intervals(mean: Floats, se: Floats, tau2: Floats, k: int) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """The 95% interval of the mean, and that of a new setting."""
    from scipy.special import stdtrit

    t = float(stdtrit(k - 1, 0.975))
    wide = np.sqrt(tau2 + se**2)
    return (mean - t * se, mean + t * se), (mean - t * wide, mean + t * wide)


def covers(tau2: float, v_K: Floats, df_K: Floats | None, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Simulated coverage of the prediction interval and of the mean's, with true mean 0, tau2 and v_i; the same at every call.

    `df_K` are the degrees of freedom of the v_i; None takes them as known.
    """
    from scipy.special import ndtr

    rng = np.random.default_rng(seed)
    size = (draws, len(v_K))
    m_SK = rng.standard_normal(size) * np.sqrt(tau2 + v_K)
    seen_SK = np.broadcast_to(v_K, size) if df_K is None else v_K * rng.chisquare(df_K, size) / df_K
    (low, high), (below, above) = intervals(*combined(m_SK, seen_SK), len(v_K))
    if tau2 > 0:  # a new setting's value is normal: its chance to lie within is known for each draw
        within = ndtr(above / math.sqrt(tau2)) - ndtr(below / math.sqrt(tau2))
    else:
        within = (below <= 0) & (above >= 0)
    return float(np.mean(within)), float(np.mean((low <= 0) & (high >= 0)))


def _check(m_K: Floats, v_K: Floats, df_K: Floats | None) -> None:
    if len(m_K) == 0:
        raise ValueError("a mean over settings takes one setting or more")
    if len(v_K) != len(m_K) or (df_K is not None and len(df_K) != len(m_K)):
        raise ValueError("each setting has one mean, one variance and one number of seeds")
    if not (np.isfinite(m_K).all() and np.isfinite(v_K).all()) or (v_K < 0).any():
        raise ValueError("means are finite, variances finite and not negative")
    if df_K is not None and (df_K < 1).any():
        raise ValueError("a variance takes two seeds")


def _between(m_SK: Floats, v_SK: Floats, spread_S: Floats) -> Floats:
    """tau2 by halving: the sum falls as tau2 grows, and is at most k - 1 where tau2 is the variance of the means."""
    k = m_SK.shape[-1]
    low_S, high_S = np.zeros_like(spread_S), spread_S.copy()
    none_S = _weighted(m_SK, 1 / v_SK)[1] <= k - 1
    for _ in range(HALVINGS):
        middle_S = (low_S + high_S) / 2
        more_S = _weighted(m_SK, 1 / (v_SK + middle_S[:, None]))[1] > k - 1
        low_S, high_S = np.where(more_S, middle_S, low_S), np.where(more_S, high_S, middle_S)
    return np.where(none_S, 0.0, high_S)


def _weighted(m_SK: Floats, w_SK: Floats) -> tuple[Floats, Floats]:
    """Weighted mean, and the weighted sum of squares about it."""
    mean_S = (w_SK * m_SK).sum(axis=-1) / w_SK.sum(axis=-1)
    return mean_S, (w_SK * (m_SK - mean_S[:, None]) ** 2).sum(axis=-1)


def _plain(interval: tuple[Floats, Floats]) -> Interval:
    return float(interval[0]), float(interval[1])
