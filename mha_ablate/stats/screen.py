"""Which of many two-level factors change a difference: main effects of a screen, and what they may be mixed with.

Levels are -1 or +1. The rows of a screen are its points (settings); a point's value is the mean difference over its seeds.
Rows are joined by the names of their points, never by their order. Columns are estimated from the points that have data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mha_ablate.stats import sample
from mha_ablate.stats.sample import Floats

Pair = tuple[str, str]
Levels = Mapping[str, Mapping[str, int]]
Interval = tuple[float, float]
TINY = 1e-9  # an alias, a correlation or a length below this is rounding
SAME = 0.99  # |r| above which two pairs count as one class
ALPHA = 0.05
# Residual degrees of freedom from which the size of pairs is estimated. With fewer, the test of a factor that has aliases does
# not keep its level. Simulated screens with three active pairs have a false factor in 16 to 23% of cases at 1 degree, 9 to 11%
# at 3, up to 5.5% at 6, and under 5% from 7 on (docs/statistics.md).
ENOUGH_LEFT = 7


@dataclass(frozen=True)
class Effect:
    """A contrast of point means, 2 coef: high minus low for a factor, half a difference of differences for a pair.

    `se` comes from the seeds within points (plus, where a factor has aliases, from the size of pairs) and has `df` degrees of
    freedom (Welch's); `ci95` is effect +- t_{0.975, df} se. `p_holm` is adjusted over all factors, those without a p counted
    as p = 1, or over all classes of pairs. `effect` is None where the points do not tell it from others, and everything else
    is None where nothing is tested.
    """

    effect: float | None
    se: float | None = None
    df: float | None = None
    ci95: Interval | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class PairClass:
    """Pairs that the points cannot tell apart, each with its sign relative to the first, and their one estimate together."""

    pairs: dict[Pair, int]
    estimate: Effect


@dataclass(frozen=True)
class Rest:
    """Variation between points beyond the main effects: interactions and the noise of seeds.

    `rms` is sqrt(sum r^2 / df) over the residuals r of the point means, with `df` = points - columns; `expected` is what the
    seeds alone would make it; `p` tests whether there is more. With no degrees of freedom all but `df` are None, and without
    an error from seeds `expected` and `p` are.
    """

    df: int
    rms: float | None = None
    expected: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Aliases:
    """Confounding, computed from the rows.

    `mixed` has for each factor the pairs in its estimate: a factor's estimate is its effect plus the sum of these times the
    pairs' effects. `resolution` is II (two main effects are mixed, or a factor has one level only), III (a main effect is
    mixed with a pair), IV (pairs are mixed with each other) or V (neither; V or more). `classes` are groups of pairs with
    |r| > 0.99 after the main effects are taken out, each pair with its sign; `between` is the largest |r| between classes.
    `inseparable` are pairs of which the main effects leave nothing; `inestimable` are factors without an estimate.
    """

    mixed: dict[str, dict[Pair, float]]
    resolution: str
    classes: tuple[dict[Pair, int], ...]
    between: float
    inseparable: tuple[Pair, ...] = ()
    inestimable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Screen:
    """One arm's screen. `pair_classes` are ranked by |effect|.

    `seeds` has the number of seeds of each point with data, `lost` the points without, and `pooled` the points with one seed
    where others have more: their variance is the pooled variance of the others. `moves` is by how much an effect changes at
    most once one point is left out, and which points do that to the full.
    """

    effects: dict[str, Effect]
    pair_classes: tuple[PairClass, ...]
    rest: Rest
    aliases: Aliases
    seeds: dict[str, int]
    lost: tuple[str, ...]
    pooled: tuple[str, ...]
    moves: tuple[float, tuple[str, ...]] | None


def screened(levels: Levels, deltas: Mapping[str, Mapping[int, float]]) -> Screen:
    """Analyse one arm: `levels` by point and factor, `deltas` by point and seed.

    Effects are 2 coef of the least squares of point means on [1, factors]. Errors come from the seeds within points, never
    from the residuals between points, which hold the interactions. With one seed at every point there is no error: the effects
    rank the factors and test nothing. Points with one seed among others with more enter the means; their variance is taken
    to be the pooled variance of the others, which is right where the spread does not depend on the point.

    A lost point mixes pairs into the factors. `main_errors` adds what pairs of the size seen in the residuals would do, and a
    factor with aliases has no p where the residuals have fewer than `ENOUGH_LEFT` degrees of freedom.

    A class of pairs is estimated beside the main effects alone. It has p only where no class is correlated with another and
    all of them can be estimated at once; the error is that of the seeds there too, so no degrees between points are needed.

    Raises ValueError for points without levels, levels other than -1 and +1, deltas that are not finite, and no data.
    """
    points = _present(levels, deltas)
    there = {point: levels[point] for point in points}
    names, x_PK = _columns(there)
    found = aliases(there)
    values = [np.array([deltas[point][seed] for seed in sorted(deltas[point])], dtype=np.float64) for point in points]
    n_P = np.array([len(one) for one in values])
    means_P = np.array([one.mean() for one in values])
    s2_P = np.array([float(sample.standard_deviation(one)) ** 2 if len(one) > 1 else 0.0 for one in values])
    return Screen(
        effects=_main_effects(found, names, x_PK, means_P, s2_P, n_P),
        pair_classes=_pair_classes(found, names, x_PK, means_P, s2_P, n_P),
        rest=_rest(x_PK, means_P, s2_P, n_P),
        aliases=found,
        seeds=dict(zip(points, n_P.tolist(), strict=True)),
        lost=tuple(sorted(levels.keys() - set(points))),
        pooled=tuple(p for p, n in zip(points, n_P, strict=True) if n == 1) if n_P.max() > 1 else (),
        moves=_moves(points, x_PK, means_P),
    )


def _moves(points: list[str], x_PK: Floats, means_P: Floats) -> tuple[float, tuple[str, ...]] | None:
    """The largest |effect without a point - effect with all| over factors and points, and the points that reach it.

    Each effect is 2 coef of the least squares. None where some point alone tells a factor from the others. In a design whose
    factors are all estimated alike, a point moves every effect by as much, and a fold's mirror points may do the same.
    """
    whole_K = main_weights(x_PK) @ means_P
    moved_P = np.empty(len(points))
    for i in range(len(points)):
        rows = np.arange(len(points)) != i
        left_PK = _with_one(x_PK[rows])
        if np.linalg.matrix_rank(left_PK) < left_PK.shape[1]:
            return None
        moved_P[i] = np.abs(2 * (_inverse(left_PK) @ means_P[rows])[1:] - whole_K).max()
    most = float(moved_P.max())
    return most, tuple(p for p, moved in zip(points, moved_P, strict=True) if moved > most * (1 - TINY))


def aliases(levels: Levels) -> Aliases:
    """Confounding of the rows in `levels`: lstsq([1, factors], pairs), and correlations of the pairs' residuals.

    Raises ValueError for levels other than -1 and +1, rows that name other factors, and no rows.
    """
    names, x_PK = _columns(levels)
    pairs = list(itertools.combinations(names, 2))
    columns_PQ = _products(x_PK)
    full_PK = _with_one(x_PK)
    inverse_KP = _inverse(full_PK)
    told = np.abs(inverse_KP @ full_PK - np.eye(full_PK.shape[1])).max(axis=1)[1:] < TINY
    alias_KQ = (inverse_KP @ columns_PQ)[1:]
    mixed = {
        name: {pair: float(a) for pair, a in zip(pairs, row, strict=True) if abs(a) > TINY}
        for name, row, ok in zip(names, alias_KQ, told, strict=True)
        if ok
    }
    left_PQ = columns_PQ - full_PK @ (inverse_KP @ columns_PQ)
    length_Q = np.linalg.norm(left_PQ, axis=0)
    kept = [q for q in range(len(pairs)) if length_Q[q] > TINY * math.sqrt(len(x_PK))]
    unit_PQ = left_PQ[:, kept] / length_Q[kept]
    r_QQ = unit_PQ.T @ unit_PQ
    groups = _groups(r_QQ)
    of_Q = np.empty(len(kept), dtype=int)
    for i, group in enumerate(groups):
        of_Q[group] = i
    between = float(np.abs(np.where(of_Q[:, None] == of_Q, 0.0, r_QQ)).max(initial=0.0))
    return Aliases(
        mixed=mixed,
        resolution=_resolution(bool(told.all()), mixed, groups, between),
        classes=tuple({pairs[kept[q]]: 1 if r_QQ[group[0], q] > 0 else -1 for q in group} for group in groups),
        between=between if between > TINY else 0.0,
        inseparable=tuple(pair for q, pair in enumerate(pairs) if q not in kept),
        inestimable=tuple(name for name, ok in zip(names, told, strict=True) if not ok),
    )


def main_weights(x_PK: Floats) -> Floats:
    """`[K, P]`: the weights of point means in each factor's effect, 2 pinv([1, x]) without the first row."""
    return 2.0 * _inverse(_with_one(x_PK))[1:]


def errors(squares_CP: Floats, s2_SP: Floats, n_P: Floats) -> tuple[Floats, Floats]:
    """Var = sum_p squares_p s_p^2 / n_p and its degrees of freedom `[S, C]`, var^2 / sum_p (a_p s_p^2)^2 / (n_p + 1) - 2.

    a_p is squares_p / n_p, plus the point's share (n_p - 1) / sum (n - 1) of the squares of points with one seed, whose
    variance is pooled. The degrees are at most sum (n - 1). Some n_p must be more than 1. Source: Welch 1947, whose n_p + 1
    and - 2 take the bias out of s_p^4; with Satterthwaite's n_p - 1 two seeds a point would find a third as much.
    """
    several_P, most = n_P > 1, (n_P - 1).sum()
    pooled_C = squares_CP[:, ~several_P].sum(axis=1)
    a_CP = (squares_CP / n_P + pooled_C[:, None] * (n_P - 1) / most) * several_P
    var_SC = s2_SP @ a_CP.T
    parts_SC = s2_SP**2 @ (a_CP**2 / (n_P + 1)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return var_SC, np.where(parts_SC > 0, np.minimum(var_SC**2 / parts_SC - 2, most), most)


def main_errors(
    x_PK: Floats, means_SP: Floats, s2_SP: Floats, n_P: Floats, *, enough: int = ENOUGH_LEFT
) -> tuple[Floats, Floats]:
    """Variances of factors' effects and their degrees of freedom `[S, K]`: that of seeds, plus omega^2 sum_q alias_q^2.

    omega^2 is the mean square of a pair's effect, from what [1, x] leaves: max(0, r'r - tr(MV)) / sum (M C)^2, with r = M m
    the residuals, C the pairs' columns / 2, and M and V as in `p_rest`. Its degrees are those of r, and Satterthwaite's
    formula joins the two. Without aliases it is the variance of seeds alone. NaN where a factor has aliases and r has fewer
    degrees of freedom than `enough`, which is too few to tell the size of pairs from.
    """
    weights_KP = main_weights(x_PK)
    var_SK, df_SK = errors(weights_KP**2, s2_SP, n_P)
    halves_PQ, m_PP = _products(x_PK) / 2, _residual_maker(x_PK)
    alias_KQ = weights_KP @ halves_PQ
    squares_K = (np.where(np.abs(alias_KQ) > TINY, alias_KQ, 0.0) ** 2).sum(axis=1)
    rest, room = round(float(np.trace(m_PP))), float(((m_PP @ halves_PQ) ** 2).sum())
    beyond_S = ((means_SP @ m_PP) ** 2).sum(axis=-1) - _variances(s2_SP, n_P) @ np.diag(m_PP)
    with np.errstate(divide="ignore", invalid="ignore"):
        omega_S = np.maximum(0.0, beyond_S) / (room if room > TINY and rest >= enough else np.nan)
        of_pairs_SK = np.where(squares_K > 0, omega_S[:, None] * squares_K, 0.0)
        joint = (var_SK + of_pairs_SK) ** 2 / (var_SK**2 / df_SK + of_pairs_SK**2 / rest)
    return var_SK + of_pairs_SK, np.where(of_pairs_SK > 0, joint, df_SK)


def p_of(effect_SC: Floats, var_SC: Floats, df_SC: Floats, rounding: float) -> Floats:
    """Two-sided p of t = effect / sqrt(var); without variance 1 for an effect within `rounding` of 0, and 0 for another.

    NaN where the variance is.
    """
    from scipy.special import stdtr

    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(df_SC, -np.abs(effect_SC) / np.sqrt(var_SC))
    return np.where(var_SC == 0, np.where(np.abs(effect_SC) > rounding, 0.0, 1.0), p)


def p_rest(x_PK: Floats, means_SP: Floats, s2_SP: Floats, n_P: Floats) -> Floats:
    """P `[S]` that point means differ beyond [1, x]: F = m'Mm / tr(MV), with M the projection on what [1, x] leaves.

    V is the diagonal of s_p^2 / n_p. F has tr(MV)^2 / tr(MVMV) and Welch's degrees of freedom, with s_p^4 free of bias as in
    `errors`. Some n_p must be more than 1. Source: Brunner, Dette and Munk 1997 (ANOVA-type statistic, unequal variances).
    """
    from scipy.special import fdtrc

    m_PP = _residual_maker(x_PK)
    diagonal_P, df = np.diag(m_PP), float(np.trace(m_PP))
    square_S = ((means_SP @ m_PP) ** 2).sum(axis=-1)
    var_S1, below_S1 = errors(diagonal_P[None], s2_SP, n_P)
    trace_S, below_S = var_S1[..., 0], below_S1[..., 0]
    v_SP, nu_P = _variances(s2_SP, n_P), np.where(n_P > 1, n_P - 1, (n_P - 1).sum())
    fourth_SP = (v_SP * diagonal_P) ** 2 / (nu_P + 2)
    twice_S = ((v_SP @ m_PP**2) * v_SP).sum(axis=-1) - 2 * fourth_SP.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        above_S = np.clip((trace_S**2 - 2 * fourth_SP.sum(axis=-1)) / twice_S, 1, max(df, 1.0))
        p = fdtrc(above_S, below_S, square_S / trace_S)
    rounding = len(x_PK) * (sample.ROUNDING * np.abs(means_SP).max(axis=-1)) ** 2
    return np.where(trace_S > 0, p, np.where(square_S > rounding, 0.0, 1.0))


def _present(levels: Levels, deltas: Mapping[str, Mapping[int, float]]) -> list[str]:
    """The points with data, sorted."""
    unknown = sorted(deltas.keys() - levels.keys())
    if unknown:
        raise ValueError(f"points without levels: {', '.join(unknown)}")
    if not all(math.isfinite(d) for by_seed in deltas.values() for d in by_seed.values()):
        raise ValueError("a screen takes finite deltas: leave out runs that diverged")
    points = sorted(point for point, by_seed in deltas.items() if by_seed)
    if not points:
        raise ValueError("no point of the screen has data")
    return points


def _columns(levels: Levels) -> tuple[list[str], Floats]:
    """Names of factors, and their levels `[points, factors]` with points sorted."""
    if not levels:
        raise ValueError("a screen without points")
    names = list(levels[min(levels)])
    if any(row.keys() != set(names) for row in levels.values()):
        raise ValueError("all points of a screen take the same factors")
    x_PK = np.array([[levels[point][name] for name in names] for point in sorted(levels)], dtype=np.float64)
    if not np.isin(x_PK, (-1, 1)).all():
        raise ValueError("the levels of a screen are -1 and +1")
    return names, x_PK


def _with_one(x_PK: Floats) -> Floats:
    return np.concatenate([np.ones((len(x_PK), 1)), x_PK], axis=1)


def _inverse(full_PK: Floats) -> Floats:
    return np.asarray(np.linalg.pinv(full_PK), dtype=np.float64)


def _products(x_PK: Floats) -> Floats:
    """Columns of all pairs, in the order of `itertools.combinations`."""
    first, second = np.triu_indices(x_PK.shape[1], 1)
    return x_PK[:, first] * x_PK[:, second]


def _residual_maker(x_PK: Floats) -> Floats:
    full_PK = _with_one(x_PK)
    return np.eye(len(x_PK)) - full_PK @ _inverse(full_PK)


def _variances(s2_SP: Floats, n_P: Floats) -> Floats:
    """Variances of point means; where n is 1 the pooled variance of the others."""
    pooled_S = s2_SP @ ((n_P - 1) / (n_P - 1).sum())
    return np.where(n_P > 1, s2_SP / n_P, pooled_S[..., None])


def _groups(r_QQ: Floats) -> list[list[int]]:
    """Indices joined by |r| > 0.99, also over others in between, each group in ascending order."""
    left, groups = list(range(len(r_QQ))), []
    while left:
        group = [left[0]]
        for q in group:
            group += [other for other in left if other not in group and abs(r_QQ[q, other]) > SAME]
        left = [q for q in left if q not in group]
        groups.append(sorted(group))
    return groups


def _resolution(estimable: bool, mixed: dict[str, dict[Pair, float]], groups: list[list[int]], between: float) -> str:
    if not estimable:
        return "II"
    if any(mixed.values()):
        return "III"
    return "IV" if between > TINY or any(len(group) > 1 for group in groups) else "V"


def _main_effects(
    found: Aliases, names: list[str], x_PK: Floats, means_P: Floats, s2_P: Floats, n_P: Floats
) -> dict[str, Effect]:
    effect_K, error = main_weights(x_PK) @ means_P, None
    if n_P.max() > 1:
        (var_K,), (df_K,) = main_errors(x_PK, means_P[None], s2_P[None], n_P)
        error = var_K, df_K
    return _tested(names, effect_K, error, _rounding(means_P), without=found.inestimable)


def _pair_classes(
    found: Aliases, names: list[str], x_PK: Floats, means_P: Floats, s2_P: Floats, n_P: Floats
) -> tuple[PairClass, ...]:
    """2 z'm / z'z for each class, with z its first pair's column after the main effects; ranked by size."""
    order = {pair: q for q, pair in enumerate(itertools.combinations(names, 2))}
    first = [order[next(iter(group))] for group in found.classes]
    if not first:
        return ()
    z_PC = (_residual_maker(x_PK) @ _products(x_PK))[:, first]
    weights_CP = 2 * (z_PC / (z_PC**2).sum(axis=0)).T
    apart = found.between == 0 and np.linalg.matrix_rank(z_PC) == len(first)
    error = None
    if n_P.max() > 1 and apart and not found.inestimable and not found.inseparable:
        (var_C,), (df_C,) = errors(weights_CP**2, s2_P[None], n_P)
        error = var_C, df_C
    labels = [str(i) for i in range(len(first))]
    estimates = _tested(labels, weights_CP @ means_P, error, _rounding(means_P))
    made = [PairClass(group, estimates[label]) for label, group in zip(labels, found.classes, strict=True)]
    return tuple(sorted(made, key=lambda one: -abs(one.estimate.effect or 0.0)))


def _tested(
    names: list[str],
    effect_C: Floats,
    error: tuple[Floats, Floats] | None,
    rounding: float,
    without: tuple[str, ...] = (),
) -> dict[str, Effect]:
    """Effects by name, with p where there is an error `(var, df)`; those in `without` have no estimate."""
    from scipy.special import stdtrit

    bare = {name: Effect(None if name in without else float(e)) for name, e in zip(names, effect_C, strict=True)}
    if error is None:
        return bare
    var_C, df_C = error
    p_C = p_of(effect_C, var_C, df_C, rounding)
    known = {n: float(p) for n, p in zip(names, p_C, strict=True) if n not in without and math.isfinite(p)}
    adjusted = sample.holm(dict.fromkeys(names, 1.0) | known)
    half_C = stdtrit(df_C, 1 - ALPHA / 2) * np.sqrt(var_C)
    numbers = zip(names, effect_C.tolist(), var_C.tolist(), df_C.tolist(), half_C.tolist(), strict=True)
    return bare | {
        name: Effect(e, math.sqrt(var), df, (e - half, e + half), known[name], adjusted[name])
        for name, e, var, df, half in numbers
        if name in known
    }


def _rounding(means_P: Floats) -> float:
    return len(means_P) * sample.ROUNDING * float(np.abs(means_P).max())


def _rest(x_PK: Floats, means_P: Floats, s2_P: Floats, n_P: Floats) -> Rest:
    m_PP = _residual_maker(x_PK)
    df = round(float(np.trace(m_PP)))
    if df == 0:
        return Rest(0)
    rms = math.sqrt(float(((m_PP @ means_P) ** 2).sum()) / df)
    if n_P.max() < 2:
        return Rest(df, rms)
    expected = math.sqrt(float(np.diag(m_PP) @ _variances(s2_P, n_P)) / df)
    return Rest(df, rms, expected, float(p_rest(x_PK, means_P[None], s2_P[None], n_P)[0]))
