"""Screens: effects by hand, aliases of the rows that are there, and tests that keep their level."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.special import fdtrc

from mha_ablate.config.factorial import design, full, levels_of
from mha_ablate.stats.screen import Levels, aliases, main_errors, main_weights, p_of, p_rest, screened
from scripts.calibration import simulate

ABC = levels_of(list("ABC"))
TWELVE = levels_of(list("ABCDEFGHIJKL"))
Deltas = dict[str, dict[int, float]]


def levels_by_hand(names: list[str], rows: list[list[int]]) -> Levels:
    """Of a design that no screen has."""
    return {f"p{i:02d}": dict(zip(names, row, strict=True)) for i, row in enumerate(rows, 1)}


def spread(values: dict[str, float], by: dict[str, float] | float = 0.1) -> Deltas:
    """Two seeds a point, value +- by."""
    half = by if isinstance(by, dict) else dict.fromkeys(values, by)
    return {point: {0: value - half[point], 1: value + half[point]} for point, value in values.items()}


def by_hand() -> dict[str, float]:
    """Mean 1, effect of A 0.4, of A and B together 0.2: coefficients are half of that."""
    return {point: 1 + 0.2 * x["A"] + 0.1 * x["A"] * x["B"] for point, x in ABC.items()}


def noisy(levels: Levels, seeds: int = 4, seed: int = 0) -> Deltas:
    rng = np.random.default_rng(seed)
    return {point: {s: float(rng.normal(0.1 * x["A"], 0.1)) for s in range(seeds)} for point, x in levels.items()}


def test_a_full_2_to_the_3_by_hand() -> None:
    found = screened(ABC, spread(by_hand()))
    # Each mean has variance 0.02 / 2 = 0.01; an effect is +-1/4 of each of 8 means: 8 * 0.01 / 16 = 0.005.
    # Welch: 64 / (8 / 3) - 2 = 22 degrees, but the 8 points have one each. t(0.975, 8) = 2.306004.
    a = found.effects["A"]
    assert (a.effect, a.se, a.df) == pytest.approx((0.4, math.sqrt(0.005), 8))
    half = 2.306004 * math.sqrt(0.005)
    assert a.ci95 == pytest.approx((0.4 - half, 0.4 + half), abs=1e-6)
    # P(|T8| > t) with t = 0.4 / 0.0707107 = 5.656854: 1 - s (1 + c/2 + 3 c^2/8 + 5 c^3/16), s = t/sqrt(8+t^2), c = 1 - s^2.
    s = math.sqrt(32 / 40)
    assert a.p == pytest.approx(1 - s * (1 + 0.2 / 2 + 3 * 0.04 / 8 + 5 * 0.008 / 16))
    assert a.p_holm == pytest.approx(3 * (a.p or math.nan))
    assert [found.effects[name].effect for name in "BC"] == pytest.approx([0, 0], abs=1e-12)
    assert [found.effects[name].p_holm for name in "BC"] == pytest.approx([1, 1])
    assert found.lost == found.pooled == ()


def test_what_one_point_does_to_an_effect_by_hand() -> None:
    # 0.8 at one of eight points is a residual of 0.8 / 2 there, of leverage 4/8: without it an effect loses 2/8 (0.4 / 0.5).
    high = next(point for point, x in ABC.items() if min(x.values()) == 1)
    values = {point: 0.1 * x["B"] + (0.8 if point == high else 0) for point, x in ABC.items()}
    moved, points = screened(ABC, spread(values)).moves or (math.nan, ())
    assert moved == pytest.approx(0.2)
    assert high in points
    without = screened(ABC, spread({point: value for point, value in values.items() if point != high}))
    assert [without.effects[name].effect for name in "ABC"] == pytest.approx([0, 0.2, 0], abs=1e-12)
    assert [screened(ABC, spread(values)).effects[name].effect for name in "ABC"] == pytest.approx([0.2, 0.4, 0.2])


def test_no_point_is_left_out_of_a_design_that_needs_them_all() -> None:
    two = {point: {"A": x["A"]} for point, x in ABC.items() if point in ("p01", "p08")}
    assert screened(two, spread({point: float(x["A"]) for point, x in two.items()})).moves is None


def test_the_rest_by_hand() -> None:
    rest = screened(ABC, spread(by_hand())).rest
    # Residuals are +-0.1: sqrt(8 * 0.01 / 4). Seeds alone: half of each variance of 0.01. F = 0.08 / 0.04 with 4 and 8.
    assert (rest.df, rest.rms, rest.expected) == pytest.approx((4, math.sqrt(0.02), 0.1))
    assert rest.p == pytest.approx(0.5**4 * (1 + 4 * 0.5))


def test_the_rest_by_hand_where_one_point_is_noisier() -> None:
    rest = screened(ABC, spread(by_hand(), dict.fromkeys(ABC, 0.1) | {"p01": 0.3})).rest
    # M is 1/2 on its diagonal, +-1/4 for points that differ in one factor or in three, else 0. v is 0.09 and seven of 0.01.
    # tr(MVMV) = 0.0088 / 4 + (8 * 0.0009 + 24 * 0.0001) / 16 = 0.0028; sum (M_ii v_i)^2 / 3 = 0.0022 / 3; tr(MV) = 0.08.
    above = (0.0064 - 2 * 0.0022 / 3) / (0.0028 - 2 * 0.0022 / 3)
    below = 0.0064 / (0.0022 / 3) - 2
    assert above == pytest.approx(3.7)
    assert rest.p == pytest.approx(float(fdtrc(above, below, 0.08 / 0.08)))


def test_pairs_of_a_full_design_are_tested_one_by_one() -> None:
    found = screened(ABC, spread(by_hand()))
    assert found.aliases.resolution == "V"
    first = found.pair_classes[0]
    assert first.pairs == {("A", "B"): 1}
    # A at high B: 0.4 + 0.2; at low B: 0.4 - 0.2; half of the difference.
    assert (first.estimate.effect, first.estimate.se) == pytest.approx((0.2, math.sqrt(0.005)))
    assert first.estimate.p is not None
    assert first.estimate.p_holm == pytest.approx(3 * first.estimate.p)
    assert [abs(one.estimate.effect or 0) for one in found.pair_classes[1:]] == pytest.approx([0, 0], abs=1e-12)


def test_degrees_of_freedom_by_hand_where_one_point_is_noisier() -> None:
    by = dict.fromkeys(ABC, 0.1) | {"p01": 0.3}
    a = screened(ABC, spread(by_hand(), by)).effects["A"]
    # Variances of means 0.09 and seven of 0.01: sum 0.16; 0.16^2 / ((0.09^2 + 7 * 0.01^2) / 3) - 2.
    assert a.se == pytest.approx(0.1)
    assert a.df == pytest.approx(0.0256 / (0.0088 / 3) - 2)


def test_rows_in_another_order_give_exactly_the_same_answer() -> None:
    deltas = noisy(TWELVE)
    del deltas["p07"]
    rng = np.random.default_rng(1)
    for _ in range(3):
        levels = {p: TWELVE[p] for p in rng.permutation(list(TWELVE)).tolist()}
        other = {
            p: {s: deltas[p][s] for s in rng.permutation(list(deltas[p])).tolist()}
            for p in rng.permutation(list(deltas)).tolist()
        }
        assert screened(levels, other) == screened(TWELVE, deltas)
        assert aliases(levels) == aliases(TWELVE)


def test_without_noise_effects_and_aliases_account_for_every_estimate() -> None:
    lost = {"p03", "p11"}
    pairs = {("A", "C"): 0.3, ("B", "L"): -0.2, ("E", "F"): 0.25}
    deltas = {
        p: {0: 0.05 * x["A"] + sum(e / 2 * x[a] * x[b] for (a, b), e in pairs.items())}
        for p, x in TWELVE.items()
        if p not in lost
    }
    found = screened(TWELVE, deltas)
    assert found.lost == tuple(sorted(lost))
    assert found.aliases.resolution == "III", "without its rows the design is no more what it was"
    for name, one in found.effects.items():
        true = 0.1 if name == "A" else 0.0
        mixed = found.aliases.mixed[name]
        assert one.effect == pytest.approx(true + sum(mixed.get(pair, 0.0) * e for pair, e in pairs.items()))
    assert any(abs(one.effect or 0) > 0.01 for name, one in found.effects.items() if name != "A")


def test_one_lost_point_mixes_each_factor_with_pairs_by_an_eleventh() -> None:
    found = aliases({p: x for p, x in TWELVE.items() if p != "p05"})
    assert {round(abs(a), 6) for row in found.mixed.values() for a in row.values()} == {round(1 / 11, 6)}


def test_one_seed_everywhere_ranks_and_tests_nothing() -> None:
    found = screened(TWELVE, noisy(TWELVE, seeds=1))
    everything = [*found.effects.values(), *(one.estimate for one in found.pair_classes)]
    assert all(one.effect is not None and one.p is one.p_holm is one.ci95 is one.se is None for one in everything)
    assert found.rest.rms is not None
    assert (found.rest.expected, found.rest.p, found.pooled) == (None, None, ())


def test_a_point_with_one_seed_borrows_the_pooled_variance() -> None:
    deltas = spread(by_hand(), dict.fromkeys(ABC, 0.1) | {"p01": 0.3})
    deltas["p08"] = {0: by_hand()["p08"]}
    found = screened(ABC, deltas)
    assert found.pooled == ("p08",)
    # s^2: 0.18 and six of 0.02, pooled 0.3 / 7; that of the lone seed's mean is the same.
    a, pooled = found.effects["A"], 0.3 / 7
    assert a.se == pytest.approx(math.sqrt((0.09 + 6 * 0.01 + pooled) / 16))
    parts = [(0.5 + 1 / 7) * s2 for s2 in (0.18, *[0.02] * 6)]
    assert a.df == pytest.approx(sum(parts) ** 2 / (sum(p * p for p in parts) / 3) - 2)


def test_pairs_of_a_fraction_come_in_classes_with_their_signs() -> None:
    names = list("ABCD")
    rows = full(3).astype(int)
    levels = levels_by_hand(names, np.column_stack([rows, -rows.prod(axis=1)]).tolist())  # D = -ABC
    found = aliases(levels)
    assert found.resolution == "IV"
    assert found.classes == (
        {("A", "B"): 1, ("C", "D"): -1},
        {("A", "C"): 1, ("B", "D"): -1},
        {("A", "D"): 1, ("B", "C"): -1},
    )
    assert found.between == 0
    values = {p: 0.1 * x["C"] * x["D"] for p, x in levels.items()}
    first = screened(levels, spread(values, 0.01)).pair_classes[0]
    assert (set(first.pairs), first.estimate.effect) == ({("A", "B"), ("C", "D")}, pytest.approx(-0.2))
    assert first.estimate.p is not None
    assert first.estimate.p < 1e-6


def test_classes_that_are_correlated_have_estimates_without_p() -> None:
    found = screened(TWELVE, noisy(TWELVE))
    assert (found.aliases.resolution, len(found.pair_classes)) == ("IV", 66)
    assert all(one.estimate.effect is not None and one.estimate.p is None for one in found.pair_classes)
    sizes = [abs(one.estimate.effect or 0) for one in found.pair_classes]
    assert sizes == sorted(sizes, reverse=True)


def test_a_lost_point_leaves_a_full_design_without_p_for_pairs() -> None:
    deltas = spread(by_hand())
    del deltas["p04"]
    found = screened(ABC, deltas)
    assert found.lost == ("p04",)
    assert len(found.pair_classes) == 3
    assert found.aliases.between > 0.1
    assert {one.estimate.p for one in found.pair_classes} == {None}, "each estimate holds some of the others"
    assert {one.p for one in found.effects.values()} == {None}, "three residual degrees do not tell the size of pairs"
    assert found.effects["A"].effect == pytest.approx(0.4 + 0.2 * found.aliases.mixed["A"]["A", "B"])


@pytest.mark.parametrize(("points", "tested"), [(19, False), (20, True), (24, True)])
def test_factors_with_aliases_are_tested_from_seven_residual_degrees_on(points: int, tested: bool) -> None:
    deltas = noisy({point: TWELVE[point] for point in sorted(TWELVE)[:points]})
    found = screened(TWELVE, deltas)
    assert found.rest.df == points - 13
    assert {one.effect is None for one in found.effects.values()} == {False}
    for one in found.effects.values():
        assert (one.p is not None) == (one.p_holm is not None) == (one.ci95 is not None) == tested


def test_a_factor_without_aliases_is_tested_whatever_is_left() -> None:
    levels = levels_of(["A", "B"])
    found = screened(levels, spread({point: 0.1 * x["A"] for point, x in levels.items()}))
    assert (found.rest.df, found.aliases.mixed) == (1, {"A": {}, "B": {}})
    assert all(one.p is not None for one in found.effects.values())


def test_a_design_of_resolution_3_is_seen_as_one() -> None:
    levels = levels_by_hand(list("ABC"), [[-1, -1, 1], [1, -1, -1], [-1, 1, -1], [1, 1, 1]])
    found = aliases(levels)
    assert (found.resolution, found.classes) == ("III", ())
    assert set(found.inseparable) == set(itertools.combinations("ABC", 2))
    assert found.mixed["C"] == {("A", "B"): pytest.approx(1.0)}
    one = screened(levels, spread({p: 0.1 * x["A"] for p, x in levels.items()}))
    assert one.effects["A"].effect == pytest.approx(0.2)
    assert {e.p for e in one.effects.values()} == {None}, "nothing is left to tell the size of pairs from"
    assert one.rest.df == 0


def test_a_factor_at_one_level_has_no_effect_and_counts_all_the_same() -> None:
    kept = {p: d for p, d in noisy(ABC).items() if ABC[p]["C"] > 0}
    found = screened(ABC, kept)
    assert found.aliases.resolution == "II"
    assert (found.aliases.inestimable, found.effects["C"].effect) == (("C",), None)
    p = [found.effects[name].p for name in "AB"]
    assert min(found.effects[name].p_holm or 1 for name in "AB") == pytest.approx(min(1.0, 3 * min(q or 1 for q in p)))


def test_points_without_spread_are_certain() -> None:
    found = screened(ABC, spread(by_hand(), 0.0))
    assert [found.effects[name].p for name in "ABC"] == [0.0, 1.0, 1.0]
    assert found.rest.p == 0.0


def test_two_points_are_a_screen_of_one_factor() -> None:
    levels = levels_of(["A"])
    found = screened(levels, spread({"p01": 0.0, "p02": 0.5}))
    assert found.effects["A"].effect == pytest.approx(0.5)
    assert found.effects["A"].p is not None
    assert (found.pair_classes, found.rest.df) == ((), 0)


@pytest.mark.parametrize(
    ("levels", "deltas", "words"),
    [
        (ABC, {"p99": {0: 1.0}}, "without levels: p99"),
        (ABC, {"p01": {0: math.nan}}, "finite"),
        (ABC, {"p01": {}}, "no point"),
        ({"p01": {"A": 0}}, {"p01": {0: 1.0}}, "-1 and"),
        ({"p01": {"A": 1}, "p02": {"B": 1}}, {"p01": {0: 1.0}, "p02": {0: 1.0}}, "same factors"),
    ],
)
def test_what_cannot_be_analysed_is_refused_in_one_line(levels: Levels, deltas: Deltas, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        screened(levels, deltas)


def test_screens_keep_their_level_and_find_what_is_there() -> None:
    found = simulate.screens(simulate.SHAPES[0], 4, 4000)
    assert found["nothing: false"] == pytest.approx(0.05, abs=0.015)
    assert found["nothing: rest"] == pytest.approx(0.05, abs=0.015)
    assert found["one: found"] > 0.75
    assert found["pairs: false"] == pytest.approx(0.05, abs=0.015), "pairs make no factor active"
    assert found["pairs: rest"] > 0.9
    assert found["lost: false"] < 0.08, "a lost row lets pairs into the factors, and their size is allowed for"


def test_screens_that_have_begun_keep_their_level() -> None:
    """Fewer points, fewer residual degrees: where the size of pairs is not known well, nothing is tested."""
    few, enough = (simulate.screens_so_far(points, 2000) for points in (14, 20))
    assert (few["left"], enough["left"]) == (1, 7)
    assert (few["found"], few["false"]) == (0.0, 0.0)
    assert few["any"] > 0.1, "the reason: tested all the same, they would have many false factors"
    assert 0.1 < enough["found"] < 0.4
    assert enough["false"] == enough["any"] < 0.08
    assert enough["other"] < 0.08


@pytest.mark.parametrize("lost", [False, True])
def test_many_screens_at_once_are_each_as_alone(lost: bool) -> None:
    rng = np.random.default_rng(3)
    points = sorted(TWELVE)[lost:]
    x = design(12).astype(np.float64)[int(lost) :]
    d_SPN = 0.03 * x[:, :1] + rng.normal(0, 0.05, (5, len(x), 3))
    n, means, s2 = np.full(len(x), 3), d_SPN.mean(axis=-1), d_SPN.var(axis=-1, ddof=1)
    p = p_of(means @ main_weights(x).T, *main_errors(x, means, s2, n), 0.0)
    rest = p_rest(x, means, s2, n)
    for d_PN, p_K, p_left in zip(d_SPN, p, rest, strict=True):
        one = screened(TWELVE, {point: dict(enumerate(d.tolist())) for point, d in zip(points, d_PN, strict=True)})
        assert [e.p for e in one.effects.values()] == pytest.approx(p_K.tolist())
        assert one.rest.p == pytest.approx(float(p_left))
