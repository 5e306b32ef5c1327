"""Intervals and p values of a sample of differences. Each takes `d_SN` `[..., N]` and gives one value for each sample.

Samples without spread are certain: their intervals have no width, and p is 1 for a mean of 0 and 0 for any other.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 20_000
EXACT = 16  # differences whose 2^N signs are all tried
DRAWN = 1 << 16  # signs that are tried of more
ROUNDING = 1e-12  # of the largest difference: a spread that is no spread


def standard_deviation(d_SN: Floats) -> Floats:
    """S, with N - 1 below the line; 0 where it is no more than the rounding of equal differences."""
    sd = d_SN.std(axis=-1, ddof=1)
    return np.where(sd > ROUNDING * np.abs(d_SN).max(axis=-1), sd, 0.0)


def standard_error(d_SN: Floats) -> Floats:
    """S / sqrt(N)."""
    return standard_deviation(d_SN) / math.sqrt(d_SN.shape[-1])


def t_interval(d_SN: Floats, level: float) -> tuple[Floats, Floats]:
    """Mean +- t_{(1 + level) / 2, N - 1} s / sqrt(N): exact where differences are normal."""
    from scipy.special import stdtrit

    mean, half = d_SN.mean(axis=-1), stdtrit(d_SN.shape[-1] - 1, (1 + level) / 2) * standard_error(d_SN)
    return mean - half, mean + half


def p_t(d_SN: Floats) -> Floats:
    """Two-sided p of the paired t test."""
    from scipy.special import stdtr

    mean, error = d_SN.mean(axis=-1), standard_error(d_SN)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(d_SN.shape[-1] - 1, -np.abs(mean / error))
    return np.where(error > 0, p, np.where(mean == 0, 1.0, 0.0))


def p_below(d_SN: Floats, bound: float) -> Floats:
    """One-sided p of the t test that the mean lies below `bound`: small where it does (non-inferiority, if that is a margin)."""
    from scipy.special import stdtr

    mean, error = d_SN.mean(axis=-1), standard_error(d_SN)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stdtr(d_SN.shape[-1] - 1, (mean - bound) / error)
    return np.where(error > 0, p, np.where(mean < bound, 0.0, 1.0))


def p_equivalence(d_SN: Floats, margin: float) -> Floats:
    """P of two one-sided t tests (Schuirmann 1987) that the mean lies within +- margin: the larger of the two."""
    return np.maximum(p_below(d_SN, margin), p_below(-d_SN, margin))


def p_sign_flip(d_SN: Floats) -> Floats:
    """Two-sided p of the sign-flip test: the share of all 2^N signs under which |mean| is at least what it is.

    It takes differences to be symmetric about 0, and nothing else. It cannot go below 2 / 2^N. Beyond N = 16, 2^16 signs are
    drawn, the same at every call, and the observed one counts among them.
    """
    n = d_SN.shape[-1]
    observed = np.abs(d_SN.sum(axis=-1))
    # Sums of the same numbers in another order differ in their last bits.
    least = observed - 1e-9 * np.abs(d_SN).sum(axis=-1)
    hits = (np.abs(d_SN @ _signs(n).T) >= least[..., None]).sum(axis=-1)
    return hits / (1 << (n - 1)) if n <= EXACT else (1 + hits) / (1 + DRAWN)


@cache
def _signs(n: int) -> Floats:
    """All signs but for a common one, which |mean| does not see; or a draw of them."""
    if n > EXACT:
        return np.random.default_rng(0).choice((-1.0, 1.0), size=(DRAWN, n))
    bits = (np.arange(1 << (n - 1))[:, None] >> np.arange(n)) & 1
    return (1 - 2 * bits).astype(np.float64)


def bca_interval(d_SN: Floats, level: float) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), from 20,000 resamples, the same at every call.

    Raises ValueError below N = 3, where the jackknife says nothing of skewness.
    """
    from scipy.special import ndtr, ndtri

    n = d_SN.shape[-1]
    if n < 3:
        raise ValueError("a BCa interval takes 3 differences")
    mean = d_SN.mean(axis=-1)
    means_SR = np.sort(d_SN @ _weights(n).T, axis=-1)
    tie = ROUNDING * np.abs(d_SN).max(axis=-1)
    below = (means_SR < (mean - tie)[..., None]).mean(axis=-1)
    at_most = (means_SR <= (mean + tie)[..., None]).mean(axis=-1)
    bias = ndtri((below + at_most) / 2)
    from_mean = d_SN - mean[..., None]  # the jackknife's mean minus a leave-one-out mean, but for a factor
    with np.errstate(divide="ignore", invalid="ignore"):
        acceleration = (from_mean**3).sum(axis=-1) / (6 * (from_mean**2).sum(axis=-1) ** 1.5)
    spread = standard_deviation(d_SN) > 0
    ends = []
    for z in (ndtri((1 - level) / 2), ndtri((1 + level) / 2)):
        moved = bias + (bias + z) / (1 - acceleration * (bias + z))
        ends.append(np.where(spread, _quantile(means_SR, np.where(spread, ndtr(moved), 0.5)), mean))
    return ends[0], ends[1]


def _quantile(sorted_SR: Floats, q_S: Floats) -> Floats:
    """The quantile of each row at a place of its own, linear between neighbours."""
    at = np.clip(q_S, 0, 1) * (sorted_SR.shape[-1] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, sorted_SR.shape[-1] - 1)
    under, over = (np.take_along_axis(sorted_SR, i[..., None], axis=-1)[..., 0] for i in (low, high))
    return under + (at - low) * (over - under)


@cache
def _weights(n: int) -> Floats:
    """How often each difference is in each resample, over N."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n


def hedges_g(d_SN: Floats) -> Floats:
    """Standardised mean difference, mean / s, times the factor that takes the bias of a small sample out (Hedges 1981).

    Without spread it is 0 for a mean of 0 and infinite for any other. Raises ValueError below N = 3, where mean / s has no
    expectation that a factor could mend.
    """
    from scipy.special import gammaln

    df = d_SN.shape[-1] - 1
    if df < 2:
        raise ValueError("Hedges' g takes 3 differences")
    factor = math.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) * math.sqrt(2 / df)
    mean, sd = d_SN.mean(axis=-1), standard_deviation(d_SN)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sd > 0, factor * mean / sd, np.where(mean == 0, 0.0, np.sign(mean) * np.inf))


def share_worse(d_SN: Floats) -> Floats:
    """P(arm worse): the share of seeds at which the difference is above 0, ties by half."""
    return (d_SN > 0).mean(axis=-1) + (d_SN == 0).mean(axis=-1) / 2


def share_interval(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval (1934) of a share of `n`, which covers at least as often as it says."""
    from scipy.special import betaincinv

    k, tail = share * n, (1 - level) / 2
    low = 0.0 if k <= 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k >= n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm-adjusted p values (Holm 1979): sorted, the i-th of m times (m - i), made monotone, at most 1."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for i, name in enumerate(sorted(p_values, key=lambda k: p_values[k])):
        highest = max(highest, min(1.0, (len(p_values) - i) * p_values[name]))
        adjusted[name] = highest
    return adjusted
