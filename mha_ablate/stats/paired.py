"""Paired differences by seed. The unit is the training seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mha_ablate.stats import sample
from mha_ablate.stats.power import smallest_effect

Interval = tuple[float, float]


@dataclass(frozen=True)
class Paired:
    """Differences arm - baseline at the same seed, and what follows from them.

    `mean` and `sd` in nats; `ci95`, `ci90` are t intervals and `p_t` the two-sided p of the paired t test; `bca95` is the
    bootstrap's interval and `p_sign_flip` the p of the sign-flip test; `g` the standardised difference; `mde` the smallest
    effect that so many pairs find with a power of 0.8; `correlation` that of the two arms' losses, which pairing has taken out.
    With one seed all of these are None, and so is what is not defined (`bca95` and `g` below three seeds, `g` without spread).
    `p_worse` is the share of seeds at which the arm is worse, with its interval.
    """

    differences: dict[int, float]
    mean: float
    sd: float | None = None
    ci95: Interval | None = None
    ci90: Interval | None = None
    p_t: float | None = None
    bca95: Interval | None = None
    p_sign_flip: float | None = None
    g: float | None = None
    mde: float | None = None
    correlation: float | None = None
    p_worse: float = 0.5
    p_worse_ci95: Interval = (0.0, 1.0)

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.differences)

    def p_below(self, bound: float) -> float | None:
        """One-sided p that the mean lies below `bound`; None with one seed."""
        return None if self.n < 2 else float(sample.p_below(self._values, bound))

    def p_above(self, bound: float) -> float | None:
        """The same from above."""
        return None if self.n < 2 else float(sample.p_below(-self._values, -bound))

    @property
    def _values(self) -> sample.Floats:
        return np.array(list(self.differences.values()))

    def p_equivalence(self, margin: float) -> float | None:
        """P of two one-sided tests that the mean lies within +- margin: below 0.05 where the 90% interval does."""
        return None if self.n < 2 else float(sample.p_equivalence(self._values, margin))


def paired(arm: dict[int, float], baseline: dict[int, float]) -> Paired:
    """Compare two arms over the seeds that both have: `{seed: loss}` each. Raises ValueError where they share none."""
    seeds = sorted(arm.keys() & baseline.keys())
    if not seeds:
        raise ValueError("the arms share no seed")
    a, b = (np.array([losses[s] for s in seeds], dtype=np.float64) for losses in (arm, baseline))
    d, n = a - b, len(seeds)
    by_seed = {s: float(v) for s, v in zip(seeds, d, strict=True)}
    share = float(sample.share_worse(d))
    worse = {"p_worse": share, "p_worse_ci95": sample.share_interval(share, n)}
    if n == 1:
        return Paired(by_seed, float(d.mean()), **worse)
    sd, g = float(sample.standard_deviation(d)), float(sample.hedges_g(d)) if n > 2 else math.inf
    return Paired(
        by_seed,
        float(d.mean()),
        sd,
        ci95=_plain(sample.t_interval(d, 0.95)),
        ci90=_plain(sample.t_interval(d, 0.90)),
        p_t=float(sample.p_t(d)),
        bca95=_plain(sample.bca_interval(d, 0.95)) if n > 2 else None,
        p_sign_flip=float(sample.p_sign_flip(d)),
        g=g if math.isfinite(g) else None,
        mde=smallest_effect(sd, n),
        correlation=_correlation(a, b),
        **worse,
    )


def t_band(arm: dict[int, float], baseline: dict[int, float]) -> tuple[float, Interval | None]:
    """The mean difference over the seeds that both have and its 95% t interval, and nothing else: for curves of many steps."""
    d = np.array([arm[s] - baseline[s] for s in sorted(arm.keys() & baseline.keys())])
    return float(d.mean()), _plain(sample.t_interval(d, 0.95)) if len(d) > 1 else None


def _plain(interval: tuple[sample.Floats, sample.Floats]) -> Interval:
    return float(interval[0]), float(interval[1])


def _correlation(a: sample.Floats, b: sample.Floats) -> float | None:
    """Pearson's; None where an arm's losses are all the same."""
    if sample.standard_deviation(a) == 0 or sample.standard_deviation(b) == 0:
        return None
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / math.sqrt(float((a @ a) * (b @ b))), -1.0, 1.0))
