"""Paired differences by seed. The unit is the training seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Paired:
    """Differences arm - baseline at the same seed, and what follows from them.

    `mean` and `sd` in nats; `ci95`, `ci90` are t intervals and `p_t` the two-sided p of the paired t test. With one seed
    `sd`, both intervals and `p_t` are None.
    """

    differences: dict[int, float]
    mean: float
    sd: float | None
    ci95: tuple[float, float] | None
    ci90: tuple[float, float] | None
    p_t: float | None

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.differences)


def paired(arm: dict[int, float], baseline: dict[int, float]) -> Paired:
    """Compare two arms over the seeds that both have: `{seed: loss}` each. Raises ValueError where they share none."""
    seeds = sorted(arm.keys() & baseline.keys())
    if not seeds:
        raise ValueError("the arms share no seed")
    d = np.array([arm[s] - baseline[s] for s in seeds], dtype=np.float64)
    by_seed = {s: float(v) for s, v in zip(seeds, d, strict=True)}
    mean, n = float(d.mean()), len(d)
    if n == 1:
        return Paired(by_seed, mean, None, None, None, None)
    sd = float(d.std(ddof=1))
    error = sd / math.sqrt(n)
    return Paired(
        by_seed, mean, sd, _interval(mean, error, n, 0.95), _interval(mean, error, n, 0.90), _p(mean, error, n)
    )


def _interval(mean: float, error: float, n: int, level: float) -> tuple[float, float]:
    """Mean +- t_{(1 + level) / 2, n - 1} error."""
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, (1 + level) / 2)) * error
    return mean - half, mean + half


def _p(mean: float, error: float, n: int) -> float:
    """Two-sided p of t = mean / error with n - 1 degrees of freedom; without spread, 1 for no difference and 0 else."""
    from scipy.special import stdtr

    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(n - 1, -abs(mean / error)))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm-adjusted p values (Holm 1979): sorted, the i-th of m times (m - i), made monotone, at most 1."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for i, name in enumerate(sorted(p_values, key=lambda k: p_values[k])):
        highest = max(highest, min(1.0, (len(p_values) - i) * p_values[name]))
        adjusted[name] = highest
    return adjusted
