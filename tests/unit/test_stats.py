"""Paired differences, Holm's adjustment and the decision rule, by example and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mha_ablate.stats.paired import Paired, paired
from mha_ablate.stats.sample import holm
from mha_ablate.stats.verdict import ENOUGH_SEEDS, Verdict, decide


def against_zero(*differences: float) -> Paired:
    """A contrast with these differences at seeds 0, 1, ..."""
    return paired(dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0))


def made(
    *, mean: float = 0.0, ci90: tuple[float, float] = (-1.0, 1.0), p: float | None = 1.0, n: int = ENOUGH_SEEDS
) -> Paired:
    """A contrast with the numbers that the rule looks at."""
    return Paired(dict.fromkeys(range(n), mean), mean, 0.1, ci90, ci90, p, mde=0.02)


def word(contrast: Paired, margin: float = 0.01) -> str:
    return decide({"arm": contrast}, margin=margin, incomplete={})["arm"].word


def test_paired_by_hand() -> None:
    found = paired({0: 2.1, 1: 2.3, 2: 2.2}, {0: 2.0, 1: 2.1, 2: 1.9})
    assert found.differences == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3})
    assert (found.n, found.mean, found.sd) == (3, pytest.approx(0.2), pytest.approx(0.1))
    # t(0.975, 2) = 4.302653, t(0.95, 2) = 2.919986; standard error 0.1 / sqrt(3) = 0.0577350
    assert found.ci95 == pytest.approx((0.2 - 0.2484138, 0.2 + 0.2484138), abs=1e-6)
    assert found.ci90 == pytest.approx((0.2 - 0.1685854, 0.2 + 0.1685854), abs=1e-6)
    # With two degrees of freedom p = 1 - |t| / sqrt(2 + t^2), and t = 0.2 / 0.0577350 = sqrt(12).
    assert found.p_t == pytest.approx(1 - math.sqrt(12 / 14))


def test_one_seed_gives_no_interval() -> None:
    found = paired({4: 2.5}, {4: 2.0})
    assert found == Paired({4: 0.5}, 0.5, p_worse=1.0, p_worse_ci95=found.p_worse_ci95)
    assert found.p_worse_ci95 == pytest.approx((0.025, 1.0))
    assert found.p_equivalence(1.0) is None


def test_only_shared_seeds_are_compared() -> None:
    found = paired({0: 1.0, 1: 2.0, 5: 100.0}, {1: 1.5, 0: 0.75, 7: -100.0})
    assert found.differences == {0: 0.25, 1: 0.5}
    assert found.mean == 0.375


@pytest.mark.parametrize(("arm", "baseline"), [({0: 1.0}, {1: 1.0}), ({}, {0: 1.0}), ({}, {})])
def test_arms_without_a_shared_seed_are_refused(arm: dict[int, float], baseline: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="share no seed"):
        paired(arm, baseline)


def test_the_same_losses_are_no_difference() -> None:
    found = against_zero(0.0, 0.0, 0.0)
    assert (found.mean, found.sd, found.ci95, found.p_t) == (0.0, 0.0, (0.0, 0.0), 1.0)
    assert word(found) == "equivalent"


def test_a_difference_without_spread_is_certain() -> None:
    found = against_zero(0.5, 0.5, 0.5)
    assert (found.mean, found.sd, found.ci95, found.p_t) == (0.5, 0.0, (0.5, 0.5), 0.0)
    assert word(found) == "costs"
    assert word(against_zero(-0.5, -0.5, -0.5)) == "helps"


def test_two_seeds_have_an_interval() -> None:
    found = against_zero(0.0, 1.0)
    assert found.sd == pytest.approx(math.sqrt(0.5))
    # One degree of freedom is Cauchy: t(0.975) = tan(0.475 pi).
    assert found.ci95 == pytest.approx((0.5 - math.tan(0.475 * math.pi) / 2, 0.5 + math.tan(0.475 * math.pi) / 2))


def test_holm_by_hand() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_holm_leaves_one_alone_caps_at_one_and_takes_ties_alike() -> None:
    assert holm({}) == {}
    assert holm({"a": 0.03}) == {"a": 0.03}
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.02, "b": 0.02, "c": 0.02}) == pytest.approx(dict.fromkeys("abc", 0.06))


@pytest.mark.parametrize(
    ("contrast", "margin", "expected"),
    [
        (made(mean=0.05, ci90=(0.04, 0.06), p=0.001), 0.01, "costs"),
        (made(mean=-0.05, ci90=(-0.06, -0.04), p=0.001), 0.01, "helps"),
        (made(mean=0.0, ci90=(-0.005, 0.005), p=0.9), 0.01, "equivalent"),
        (made(mean=0.005, ci90=(0.004, 0.006), p=0.0001), 0.01, "equivalent"),  # both hold: equivalent wins
        (made(mean=-0.005, ci90=(-0.006, -0.004), p=0.0001), 0.01, "equivalent"),
        (made(mean=0.05, ci90=(-0.02, 0.12), p=0.2), 0.01, "undecided"),
        (made(mean=0.01, ci90=(0.005, 0.015), p=0.001), 0.01, "costs"),  # partly beyond the margin
        (made(mean=0.008, ci90=(0.001, 0.015), p=0.06), 0.01, "undecided"),
    ],
)
def test_each_word_has_its_cases(contrast: Paired, margin: float, expected: str) -> None:
    assert word(contrast, margin) == expected


@pytest.mark.parametrize(
    ("ci90", "expected"),
    [
        ((-0.009999, 0.009999), "equivalent"),
        ((-0.01, 0.005), "undecided"),
        ((-0.005, 0.01), "undecided"),
        ((-0.010001, 0.005), "undecided"),
        ((-0.005, 0.010001), "undecided"),
    ],
)
def test_equivalence_ends_at_the_margin(ci90: tuple[float, float], expected: str) -> None:
    assert word(made(ci90=ci90)) == expected


def test_five_percent_itself_is_not_under_five_percent() -> None:
    assert word(made(mean=0.1, p=0.05)) == "undecided"
    assert word(made(mean=0.1, p=0.0499999)) == "costs"


def test_the_95_interval_does_not_decide_equivalence() -> None:
    contrast = Paired(dict.fromkeys(range(8), 0.0), 0.0, 0.1, ci95=(-0.011, 0.011), ci90=(-0.009, 0.009), p_t=1.0)
    assert word(contrast) == "equivalent"


def test_p_is_adjusted_over_all_contrasts() -> None:
    contrasts = {arm: made(mean=0.1, p=0.03) for arm in ("a", "b")}
    both = decide(contrasts, margin=0.01, incomplete={})
    assert {v.word for v in both.values()} == {"undecided"}
    assert both["a"].p_holm == pytest.approx(0.06)
    assert decide({"a": contrasts["a"]}, margin=0.01, incomplete={})["a"].word == "costs"


def test_an_incomplete_arm_stays_undecided_and_in_the_family() -> None:
    contrasts = {"a": made(mean=0.1, p=0.001), "b": made(mean=0.1, p=0.02)}
    verdicts = decide(contrasts, margin=0.01, incomplete={"a": "1 of 8 seeds of a diverged"})
    assert verdicts["a"].p_holm is None
    assert (verdicts["a"].word, verdicts["a"].reason) == ("undecided", "1 of 8 seeds of a diverged")
    assert verdicts["b"].word == "costs"
    assert verdicts["b"].p_holm == pytest.approx(0.04)


def test_arms_without_a_p_yet_count_among_the_contrasts() -> None:
    contrasts = {"a": made(mean=0.1, p=0.03), "b": against_zero(5.0)}
    verdicts = decide(
        contrasts, margin=0.01, incomplete={"b": "7 of 8 seeds of b missing", "c": "8 of 8 seeds of c missing"}
    )
    assert verdicts["a"].p_holm == pytest.approx(0.09)
    assert verdicts["a"].word == "undecided"
    assert verdicts["b"].p_holm is None
    assert verdicts.keys() == contrasts.keys()


def test_arms_that_were_not_planned_stay_out_of_the_family() -> None:
    contrasts = {arm: made(mean=0.1, p=0.03) for arm in ("planned", "extra")}
    incomplete = {"also extra": "8 of 8 seeds missing"}
    verdicts = decide(contrasts, margin=0.01, incomplete=incomplete, exploratory=["extra", "also extra"])
    assert verdicts["planned"].p_holm == pytest.approx(0.03)
    assert verdicts["extra"].p_holm == pytest.approx(0.09)
    assert [verdicts[arm].word for arm in contrasts] == ["costs", "undecided"]


def test_an_incomplete_arm_is_not_equivalent_either() -> None:
    contrast = made(ci90=(-0.001, 0.001))
    assert decide({"a": contrast}, margin=0.01, incomplete={"a": "missing"})["a"].word == "undecided"


def test_one_seed_is_undecided_and_says_why() -> None:
    verdict = decide({"a": against_zero(5.0)}, margin=0.01, incomplete={})["a"]
    assert verdict == Verdict("undecided", "one seed gives no interval", None, look=True)


@pytest.mark.parametrize("n", [2, 7, 8, 20])
def test_below_eight_seeds_a_verdict_is_a_look(n: int) -> None:
    verdict = decide({"a": made(mean=0.1, p=0.001, n=n)}, margin=0.01, incomplete={})["a"]
    assert verdict.look == (n < 8)
    assert verdict.word == "costs"


@pytest.mark.parametrize(
    ("contrast", "clause"),
    [
        (made(ci90=(-0.001, 0.001)), "±0.01 nats"),
        (made(mean=0.1, p=0.001), "p = 0.001"),
        (made(mean=0.1, p=0.5), "not within ±0.01 nats"),
        (made(mean=0.1, p=0.5, n=3), "3 seeds can detect 0.02 nats at best"),
    ],
)
def test_a_reason_carries_its_numbers(contrast: Paired, clause: str) -> None:
    reason = decide({"a": contrast}, margin=0.01, incomplete={})["a"].reason
    assert clause in reason
    assert "no effect" not in reason


def test_no_contrast_gives_no_verdict() -> None:
    assert decide({}, margin=0.01, incomplete={}) == {}


def simulate(arms: int, seeds: int, studies: int) -> tuple[float, float]:
    """A/A studies, arms against one baseline: the share with any false alarm, and the share without adjustment."""
    noise = np.random.default_rng(2024).normal(2.0, 0.02, size=(studies, arms + 1, seeds))
    alarms = raw = 0
    for study in noise:
        base, *others = (dict(enumerate(row.tolist())) for row in study)
        contrasts = {f"arm{i}": paired(other, base) for i, other in enumerate(others)}
        verdicts = decide(contrasts, margin=1e-9, incomplete={})
        alarms += any(v.word in ("costs", "helps") for v in verdicts.values())
        raw += any(c.p_t is not None and c.p_t < 0.05 for c in contrasts.values())
    return alarms / studies, raw / studies


def test_one_contrast_raises_a_false_alarm_in_one_of_twenty() -> None:
    alarms, raw = simulate(arms=1, seeds=5, studies=3000)
    assert alarms == raw
    assert 0.04 <= alarms <= 0.06


def test_holm_keeps_the_rate_of_the_whole_family() -> None:
    alarms, raw = simulate(arms=4, seeds=8, studies=1500)
    assert alarms <= 0.06
    assert raw > 0.10, "without the adjustment there would be more: the simulation can tell"


def test_a_true_effect_is_found_and_a_true_null_is_called_equivalent() -> None:
    rng = np.random.default_rng(7)
    words = {"effect": [], "null": []}
    for _ in range(200):
        base = rng.normal(2.0, 0.02, size=8)
        for name, shift in (("effect", 0.05), ("null", 0.0)):
            arm = base + shift + rng.normal(0.0, 0.005, size=8)
            words[name].append(word(paired(dict(enumerate(arm)), dict(enumerate(base)))))
    assert words["effect"].count("costs") == 200
    assert words["null"].count("equivalent") > 190
