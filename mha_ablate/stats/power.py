"""How much a number of seeds can see, and how many seeds it takes. Effects and standard deviations in nats per token."""

from __future__ import annotations

import math

import numpy as np

ALPHA = 0.05
POWER = 0.8
MOST = 10_000  # seeds that are thought of
LARGE = 10  # standard errors of an effect, from where its power is computed otherwise


def smallest_effect(sd: float, n: int, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest detectable effect of n pairs: (t_{1 - alpha/2, n - 1} + t_{power, n - 1}) sd / sqrt(n).

    A two-sided t test at `alpha` finds a true effect of this size with about that power. Raises ValueError below two pairs.
    """
    from scipy.special import stdtrit

    if n < 2:
        raise ValueError("it takes two pairs")
    return float(stdtrit(n - 1, 1 - alpha / 2) + stdtrit(n - 1, power)) * sd / math.sqrt(n)


def chance_width(sd: float, seeds: int, n: int, *, level: float = 0.95) -> float:
    """How far from 0 a mean over n new differences stays at that level, where they are chance alone.

    t_{(1 + level) / 2, seeds - 1} sd / sqrt(n): their spread was measured before, on `seeds` differences, and is as sure as those
    are. Raises ValueError below two of them.
    """
    from scipy.special import stdtrit

    if seeds < 2:
        raise ValueError("it takes two differences")
    return float(stdtrit(seeds - 1, (1 + level) / 2)) * sd / math.sqrt(n)


def power_of(effect: float, sd: float, n: int, *, alpha: float = ALPHA) -> float:
    """The probability that a two-sided paired t test of n pairs at `alpha` finds a true effect: the noncentral t distribution.

    Raises ValueError below two pairs.
    """
    from scipy.special import nctdtr, stdtrit

    if n < 2:
        raise ValueError("it takes two pairs")
    if sd == 0:
        return 1.0 if effect else alpha
    bound, shift = float(stdtrit(n - 1, 1 - alpha / 2)), abs(effect) / sd * math.sqrt(n)
    if shift > LARGE:
        return _power_of_large(shift, bound, n - 1)
    wrong_sign = float(nctdtr(n - 1, shift, -bound))  # NaN in SciPy where it is too small to be summed
    return float(1 - nctdtr(n - 1, shift, bound)) + (wrong_sign if wrong_sign > 0 else 0.0)


def _power_of_large(shift: float, bound: float, df: int) -> float:
    """P(shift + Z > bound chi / sqrt(df)) as the mean over Z of chi's distribution: what SciPy's series cannot sum.

    Few seeds and a strict alpha have bounds in the hundreds, so that even such a shift is not certain to be seen.
    """
    from scipy.special import chdtr

    z, weights = np.polynomial.hermite_e.hermegauss(40)
    return float(np.average(chdtr(df, df * (np.maximum(shift + z, 0) / bound) ** 2), weights=weights))


def seeds_for(effect: float, sd: float, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """The least number of pairs, from 2, at which `power_of` reaches `power`; None where 10,000 are too few."""
    low, high = 1, 2
    while power_of(effect, sd, high, alpha=alpha) < power:
        low, high = high, 2 * high
        if low >= MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, sd, middle, alpha=alpha) >= power else (middle, high)
    return high if high <= MOST else None


def seeds_for_equivalence(margin: float, sd: float, *, power: float = POWER) -> int | None:
    """The least number of pairs at which a true difference of 0 is called equivalent with that power; None beyond 10,000.

    The 90% interval lies within +- margin where |mean| < margin - t_{0.95, n - 1} s / sqrt(n), taken with s at sd.
    """
    from scipy.special import ndtr, stdtrit

    def reached(n: int) -> bool:
        error = sd / math.sqrt(n)
        room = margin - float(stdtrit(n - 1, 0.95)) * error
        return room > 0 and (error == 0 or 2 * float(ndtr(room / error)) - 1 >= power)

    return next((n for n in range(2, MOST + 1) if reached(n)), None)


def upper_sd(sd: float, n: int, *, level: float = 0.8) -> float:
    """The upper confidence limit of a standard deviation from n differences: sd sqrt((n - 1) / chi2_{1 - level, n - 1}).

    Raises ValueError below two.
    """
    from scipy.special import chdtri

    if n < 2:
        raise ValueError("it takes two differences")
    return sd * math.sqrt((n - 1) / float(chdtri(n - 1, level)))
