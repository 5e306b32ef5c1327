"""Samples of differences whose mean, spread and shape are known, and how often each statistic is right about them.

Every distribution has mean 0 and standard deviation 1, so that effects and margins are in standard deviations. Shares are
between 0 and 1. What is drawn depends on the distribution and on N alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mha_ablate.config.factorial import design
from mha_ablate.stats import over_points, sample, screen
from mha_ablate.stats.power import power_of, seeds_for, seeds_for_equivalence, smallest_effect, upper_sd
from mha_ablate.stats.verdict import ALPHA
from scripts.calibration.rule import COSTS, EQUIVALENT, HELPS, holm, words

Rng = np.random.Generator
SEEDS = (3, 4, 5, 6, 8, 10, 12)
ARMS = 4  # contrasts of a study, as in the default one
BATCH = 250  # samples whose resamples or signs are in memory together
SPREADS = (0.05, 0.01)  # nats: of a difference in a screen, at the high and at the low level of its last factor
EFFECT = 0.03  # nats: of what is active in a screen
PAIRS = 3  # active pairs of a screen, where it has any
ALIKE = 20  # screens of which some points have run, with the same points and active pairs
POINT_SEEDS = 4  # seeds of a setting, of those that an answer is generalised from, and of a screen that has begun
TOLD = 500  # samples to one whose own simulated coverage is asked for
FAR = 10.0  # standard deviations: an effect that is always found, a margin whose other end is out of sight


@dataclass(frozen=True)
class Shape:
    """A distribution of differences, and how much of it lies above its mean."""

    name: str
    draw: Callable[[Rng, tuple[int, ...]], sample.Floats]
    above: float


SHAPES = (
    Shape("normal", lambda rng, size: rng.standard_normal(size), 0.5),
    Shape("skewed", lambda rng, size: rng.standard_exponential(size) - 1, math.exp(-1)),
    Shape("heavy-tailed", lambda rng, size: rng.standard_t(3, size) / math.sqrt(3), 0.5),
)


def generator(shape: Shape, n: int) -> Rng:
    """The same draws at every call."""
    return np.random.default_rng([SHAPES.index(shape), n])


def share(hits: NDArray[np.bool_] | np.bool_) -> float:
    """How many of them."""
    return float(np.mean(hits))


def covered(interval: tuple[sample.Floats, sample.Floats], truth: float) -> float:
    """How often an interval holds the truth."""
    return share((interval[0] <= truth) & (truth <= interval[1]))


def batches(d_SN: sample.Floats) -> list[sample.Floats]:
    """The samples, a few at a time."""
    return np.split(d_SN, range(BATCH, len(d_SN), BATCH))


def p_sign_flip(d_SN: sample.Floats) -> sample.Floats:
    """`sample.p_sign_flip`, a few at a time."""
    return np.concatenate([sample.p_sign_flip(part) for part in batches(d_SN)])


def one_contrast(shape: Shape, n: int, samples: int, resampled: int) -> dict[str, float]:
    """A true difference of 0: false positives of the tests, coverage of the intervals. BCa of the first `resampled` samples."""
    d_SN = shape.draw(generator(shape, n), (samples, n))
    bca = [sample.bca_interval(part, 0.95) for part in batches(d_SN[:resampled])]
    # Without ties N + 1 shares are possible.
    holds = [low <= shape.above <= high for low, high in (sample.share_interval(k / n, n) for k in range(n + 1))]
    limit = sample.standard_deviation(d_SN) * upper_sd(1.0, n)
    return {
        "t": share(sample.p_t(d_SN) < ALPHA),
        "sign flip": share(p_sign_flip(d_SN) < ALPHA),
        "t95": covered(sample.t_interval(d_SN, 0.95), 0.0),
        "t90": covered(sample.t_interval(d_SN, 0.90), 0.0),
        "bca95": covered((np.concatenate([low for low, _ in bca]), np.concatenate([high for _, high in bca])), 0.0),
        "worse": share(np.array(holds)[np.rint(sample.share_worse(d_SN) * n).astype(int)]),
        "upper": share(limit >= 1.0),
    }


def studies(shape: Shape, n: int, samples: int) -> sample.Floats:
    """Studies `[S, A, N]` of arms that share a baseline: half of the variance of each contrast is common to all."""
    noise = shape.draw(generator(shape, n), (samples, ARMS + 1, n))
    return (noise[:, :1] + noise[:, 1:]) / math.sqrt(2)


def decisions(shape: Shape, n: int, samples: int) -> dict[str, float]:
    """How often the whole rule says something wrong of a study of four contrasts.

    A margin of 0 calls nothing equivalent, so that no false alarm hides behind it. A margin far out is the worst case for
    equivalence: a true difference that sits on it is called equivalent as often as one end of the interval misses it.
    """
    null = studies(shape, n, samples)
    one_real = null + np.array([FAR, 0, 0, 0])[:, None]
    alarms = np.isin(words(null, 0.0), (COSTS, HELPS))
    beside = np.isin(words(one_real, 0.0)[:, 1:], (COSTS, HELPS))
    return {
        "family": share(alarms.any(axis=-1)),
        "beside": share(beside.any(axis=-1)),
        "at +margin": share(words(null + FAR, FAR) == EQUIVALENT),
        "at -margin": share(words(null - FAR, FAR) == EQUIVALENT),
    }


def known_effect(shape: Shape, n: int, samples: int) -> dict[str, float]:
    """How often an effect of the size `mde` is found in either direction, by one test and by the rule beside three arms without.

    Skewed differences have a long side, and it matters on which side of them 0 lies.
    """
    mde = smallest_effect(1.0, n)
    one, four = shape.draw(generator(shape, n), (samples, n)), studies(shape, n, samples)
    real = np.array([mde, 0, 0, 0])[:, None]
    return {
        "mde": mde,
        "promised": power_of(mde, 1.0, n),
        "t, costs": share(sample.p_t(one + mde) < ALPHA),
        "t, helps": share(sample.p_t(one - mde) < ALPHA),
        "sign flip, costs": share(p_sign_flip(one + mde) < ALPHA),
        "sign flip, helps": share(p_sign_flip(one - mde) < ALPHA),
        "rule, costs": share(words(four + real, 0.0)[:, 0] == COSTS),
        "rule, helps": share(words(four - real, 0.0)[:, 0] == HELPS),
    }


def known_equality(margin: float, samples: int) -> dict[str, float]:
    """Seeds that `seeds_for_equivalence` asks for, and how often a true difference of 0 is then called equivalent."""
    n = seeds_for_equivalence(margin, 1.0)
    assert n is not None
    found = {
        shape.name: share(words(shape.draw(generator(shape, n), (samples, 1, n)), margin) == EQUIVALENT)
        for shape in SHAPES
    }
    return {"seeds": n, **found}


def planned(pilot: int, effect: float, pilots: int) -> dict[str, float]:
    """Plans from the spread of a normal pilot: how many of them have the power they were made for, and the median of seeds."""
    spreads = sample.standard_deviation(SHAPES[0].draw(generator(SHAPES[0], pilot), (pilots, pilot))).tolist()
    enough = seeds_for(effect, 1.0)
    assert enough is not None
    found: dict[str, float] = {"enough": enough}
    for name, taken in (("s", spreads), ("upper", [upper_sd(sd, pilot) for sd in spreads])):
        seeds = np.array([seeds_for(effect, sd) or np.inf for sd in taken])
        found |= {name: share(seeds >= enough), f"{name}, seeds": float(np.median(seeds))}
    return found


def screen_values(rng: Rng, x_PK: sample.Floats, effect: float, pairs: int) -> sample.Floats:
    """True values of the points: the first factor has the effect, and so many random pairs have one as large."""
    chosen = rng.permutation(list(itertools.combinations(range(x_PK.shape[1]), 2)))[:pairs]
    signs = rng.choice((-1.0, 1.0), size=pairs)
    return effect / 2 * (x_PK[:, 0] + (x_PK[:, chosen[:, 0]] * x_PK[:, chosen[:, 1]]) @ signs)


def drawn_screens(
    rng: Rng, shape: Shape, x_PK: sample.Floats, active: tuple[float, int], size: tuple[int, int]
) -> tuple[sample.Floats, sample.Floats]:
    """Means and variances `[S, P]` of the points of S screens of N seeds; `size` is (S, N), `active` as in `screen_values`."""
    count, seeds = size
    sd_P = np.where(x_PK[:, -1] > 0, *SPREADS)
    d_SPN = shape.draw(rng, (count, len(x_PK), seeds)) * sd_P[:, None]
    return d_SPN.mean(axis=-1) + screen_values(rng, x_PK, *active), d_SPN.var(axis=-1, ddof=1)


def screens(shape: Shape, seeds: int, samples: int) -> dict[str, float]:
    """How often a screen finds the one active factor, calls another one active, and finds more than seeds in what is left.

    Situations: nothing is active; one factor; one factor and three pairs; the same with one point lost, each of them as often.
    """
    every = design(12).astype(np.float64)
    hits: dict[str, list[NDArray[np.bool_]]] = {}
    for lost in range(len(every)):
        rng = np.random.default_rng([SHAPES.index(shape), seeds, lost])
        count, kept = len(range(lost, samples, len(every))), np.delete(every, lost, axis=0)
        situations = {"nothing": (every, 0.0, 0), "one": (every, EFFECT, 0), "pairs": (every, EFFECT, PAIRS)}
        for name, (x_PK, effect, pairs) in (situations | {"lost": (kept, EFFECT, PAIRS)}).items():
            found = screened(x_PK, *drawn_screens(rng, shape, x_PK, (effect, pairs), (count, seeds)), seeds)
            if effect:
                hits.setdefault(f"{name}: found", []).append(found["active"][:, 0])
            hits.setdefault(f"{name}: false", []).append(np.any(found["active"][:, 1 if effect else 0 :], axis=-1))
            hits.setdefault(f"{name}: rest", []).append(found["rest"])
    return {name: share(np.concatenate(parts)) for name, parts in hits.items()}


def screens_so_far(points: int, samples: int) -> dict[str, float]:
    """Screens of which `points` points have run, of normal differences at 4 seeds, with one active factor and three pairs.

    `left` has the degrees of freedom of the residuals. Found and false are as in `screens`, of the first points; `any` and
    `other` are false factors where factors are tested however few degrees are left, of the first points and of random ones that
    tell all factors apart. Points and pairs are drawn anew for every 20 screens, since a share depends on which they are.
    """
    every, full = design(12).astype(np.float64), design(12).shape[1] + 1
    hits: dict[str, list[NDArray[np.bool_]]] = {}
    for start in range(0, samples, ALIKE):
        rng, size = np.random.default_rng([points, start]), (min(ALIKE, samples - start), POINT_SEEDS)
        first = every[:points]
        drawn = drawn_screens(rng, SHAPES[0], first, (EFFECT, PAIRS), size)
        active, tested = (screened(first, *drawn, POINT_SEEDS, enough=n)["active"] for n in (screen.ENOUGH_LEFT, 0))
        while terms(other := rng.permutation(every)[:points]) < full:
            pass
        drawn = drawn_screens(rng, SHAPES[0], other, (EFFECT, PAIRS), size)
        elsewhere = screened(other, *drawn, POINT_SEEDS, enough=0)["active"]
        hits.setdefault("found", []).append(active[:, 0])
        for name, one in (("false", active), ("any", tested), ("other", elsewhere)):
            hits.setdefault(name, []).append(np.any(one[:, 1:], axis=-1))
    return {"left": points - terms(every[:points]), **{k: share(np.concatenate(v)) for k, v in hits.items()}}


def terms(x_PK: sample.Floats) -> int:
    """How many of the mean and the factors the points tell apart."""
    return int(np.linalg.matrix_rank(np.column_stack([np.ones(len(x_PK)), x_PK])))


def screened(
    x_PK: sample.Floats, means_SP: sample.Floats, s2_SP: sample.Floats, seeds: int, *, enough: int = screen.ENOUGH_LEFT
) -> dict[str, NDArray[np.bool_]]:
    """What `screen.screened` calls significant in each of many screens: factors `[S, K]`, and the rest `[S]`."""
    n_P, weights_KP = np.full(len(x_PK), seeds), screen.main_weights(x_PK)
    error = screen.main_errors(x_PK, means_SP, s2_SP, n_P, enough=enough)
    p_SK = screen.p_of(means_SP @ weights_KP.T, *error, 0.0)
    return {"active": holm(p_SK) < ALPHA, "rest": np.asarray(screen.p_rest(x_PK, means_SP, s2_SP, n_P) < ALPHA)}


def over_settings(k: int, ratio: float, samples: int) -> dict[str, float]:
    """Coverage over k settings of 4 seeds whose true means have a standard deviation of `ratio` standard errors.

    `said` is the mean of what `over_points` reports as coverage, of one sample in 500.
    """
    rng = np.random.default_rng([k, int(ratio)])
    true_SK = ratio * rng.standard_normal((samples, k))
    seen_SK = true_SK + rng.standard_normal((samples, k))
    v_SK = rng.chisquare(POINT_SEEDS - 1, (samples, k)) / (POINT_SEEDS - 1)
    new_S = ratio * rng.standard_normal(samples)
    mean, new = over_points.intervals(*over_points.combined(seen_SK, v_SK), k)
    said = [
        over_points.over_points(m.tolist(), v.tolist(), [POINT_SEEDS] * k).coverage or 0.0
        for m, v in zip(seen_SK[::TOLD], v_SK[::TOLD], strict=True)
    ]
    return {
        "mean": covered(mean, 0.0),
        "new": share((new[0] <= new_S) & (new_S <= new[1])),
        "said": float(np.mean(said)),
    }
