"""Claims: what each row of evidence says, what the rows add up to, and how a card looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mha_ablate.config.schema import EXPECTED
from mha_ablate.report.claim_cards import cards_html, heading, rows
from mha_ablate.report.claims import ONLY_IF, REFUTED, SUPPORTED, UNDECIDED, cards, weighed
from mha_ablate.report.evidence import expectation_rows
from mha_ablate.report.joint import joint_report, write_joint
from mha_ablate.run.shape import parts_of
from mha_ablate.stats.paired import paired
from tests.unit.test_joint import made

CLAIM = {"says": "It <helps>", "algebra": "d^2", "costs": ["none"], "rates": [], "refused": {}, "change": "More"}


def row(agrees: bool | None, predicted: str = "costs", **keys: Any) -> dict[str, Any]:
    place = {"where": "here", "point": "here", "stage": "", "arm": "none", "look": False}
    return {**place, "predicted": predicted, "agrees": agrees, **keys}


ROWS = st.lists(
    st.builds(
        row, st.sampled_from([True, False, None]), st.sampled_from(["costs", "no cost", "lower"]), point=st.text("ab")
    ),
    max_size=6,
)


@given(ROWS)
def test_what_rows_add_up_to(evidence: list[dict[str, Any]]) -> None:
    verdict, only_if = weighed(evidence)
    main = [one["agrees"] for one in evidence if one["predicted"] != "no cost"]
    every = [one["agrees"] for one in evidence]
    assert (verdict == UNDECIDED) == (True not in main and False not in main)
    assert (verdict == REFUTED) == (True not in main and False in main)
    assert (verdict == SUPPORTED) == (True in main and set(main) == {True} and False not in every)
    assert (verdict == ONLY_IF) == (only_if is not None)
    assert weighed([*evidence, row(None, "no cost")]) == (verdict, only_if), (
        "what is open where nothing should be weighs nothing"
    )
    with_open, _ = weighed([*evidence, row(None)])
    assert with_open == (ONLY_IF if verdict == SUPPORTED else verdict), (
        "what is open supports nothing, and refutes nothing"
    )


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        ([row(True, stage="shared"), row(False, stage="tuned")], "all arms share one learning rate"),
        ([row(False, stage="shared"), row(True, stage="tuned")], "each arm has its own best learning rate"),
        ([row(True, arm="a"), row(False, arm="b")], "a is what shows it"),
        ([row(True, arm="a"), row(False, arm="b", stage="shared")], "a is what shows it"),
        (
            [row(True, point="n_heads=8"), row(True, point="split"), row(False, point="base")],
            "n_heads=8 or the setting is split",
        ),
        (
            [row(True), row(False, "no cost", point="n_heads=1")],
            "what it costs at n_heads=1, where by algebra nothing is lost",
        ),
        ([row(True, where="x"), row(False)], "the arm is none, at x"),
    ],
)
def test_a_condition_is_what_tells_rows_apart(evidence: list[dict[str, Any]], told: str) -> None:
    verdict, only_if = weighed(evidence)
    assert verdict == ONLY_IF
    assert only_if is not None
    assert told in only_if


CI90 = {"costs": [0.06, 0.14], "helps": [-0.14, -0.06], "equivalent": [-0.005, 0.005], "undecided": [-0.05, 0.14]}
HALF = 1.894579 / 7**0.5  # of the 90% t interval of eight values that alternate between +1 and -1


def values(ci90: list[float]) -> dict[str, float]:
    """Eight differences whose 90% t interval this is."""
    middle, half = sum(ci90) / 2, (ci90[1] - ci90[0]) / 2
    return {str(seed): middle + (-1) ** seed * half / HALF for seed in range(8)}


def part(verdict: str, lost: float | None, point: str = "n_heads=4", ci90: list[float] | None = None) -> dict[str, Any]:
    within = ci90 or CI90[verdict]
    delta = {"mean": sum(within) / 2, "ci95": [0.05, 0.15], "ci90": within, "values": values(within)}
    arm = {"arm": "none", "delta": delta, "n": 8, "verdict": verdict, "look": False}
    return {"point": point, "stage": "", "baseline": "dense", "freedom_lost": lost, "arms": [{"arm": "dense"}, arm]} | {
        "folder": point,
        "margin": 0.01,
        "unfit": {},
    }


def test_the_differences_of_these_tests_have_the_intervals_that_they_are_said_to_have() -> None:
    deltas = {int(seed): delta for seed, delta in values([-0.02, 0.04]).items()}
    assert paired(deltas, dict.fromkeys(deltas, 0.0)).ci90 == pytest.approx([-0.02, 0.04], abs=1e-6)


@pytest.mark.parametrize(
    ("verdict", "lost", "agrees"),
    [
        ("costs", 5.0, True),
        ("equivalent", 5.0, False),
        ("helps", 5.0, False),
        ("undecided", 5.0, None),
        ("costs", 0.0, False),
        ("equivalent", 0.0, True),
    ],
)
def test_a_delta_speaks_by_its_verdict_and_by_what_algebra_takes_away(
    verdict: str, lost: float, agrees: bool | None
) -> None:
    [card] = cards({"claims": {"x": CLAIM}}, [part(verdict, lost)], [])
    [found] = card["evidence"]
    assert found["agrees"] is agrees
    assert found["predicted"] == ("costs" if lost else "no cost")
    assert found["delta"] == pytest.approx(sum(CI90[verdict]) / 2)
    assert found["n"] == 8


@pytest.mark.parametrize(("lost", "agrees"), [(5.0, False), (0.0, True)])
def test_an_interval_below_the_margin_excludes_a_cost_whatever_the_verdict(lost: float, agrees: bool) -> None:
    place = part("undecided", lost, ci90=[-0.04, 0.009])
    [found] = cards({"claims": {"x": CLAIM}}, [place], [])[0]["evidence"]
    assert (found["found"], found["agrees"]) == ("no cost", agrees)
    place["unfit"] = {"none": "seeds are missing"}
    [found] = cards({"claims": {"x": CLAIM}}, [place], [])[0]["evidence"]
    assert (found["found"], found["agrees"]) == ("undecided", None)


def measured(point: str, lost: float, deltas: list[float], verdict: str = "costs") -> dict[str, Any]:
    place = part(verdict, lost, point)
    place["arms"][1]["delta"]["values"] = {str(seed): delta for seed, delta in enumerate(deltas)}
    return place


H1 = [0.11, 0.10, 0.12, 0.101]
POINTS = {"base": [], "h1": ["model.n_heads=1"], "split": ["attention=split"]}


@pytest.mark.parametrize("on_the_control", ["costs", "undecided"])
@pytest.mark.parametrize(
    ("here", "found", "verdict"),
    [
        ([0.31, 0.30, 0.32, 0.30], "costs more", "supported"),
        ([0.11, 0.10, 0.12, 0.10], "no more", "refuted"),
        ([0.05, 0.09, 0.02, 0.06], "no more", "refuted"),
        ([0.11, 0.20, 0.05, 0.10], "undecided", "undecided"),
    ],
)
def test_what_it_costs_where_nothing_is_lost_is_taken_off_whatever_the_verdict_there(
    here: list[float], found: str, verdict: str, on_the_control: str
) -> None:
    whole = {"claims": {"x": CLAIM}, "points": POINTS}
    [card] = cards(whole, [measured("base", 5.0, here), measured("h1", 0.0, H1, on_the_control)], [])
    base, control = card["evidence"]
    assert (base["what"], base["found"], base["predicted"]) == ("none minus dense, beyond h1", found, "costs more")
    assert base["delta"] == pytest.approx(sum(here) / 4 - sum(H1) / 4)
    assert (control["what"], control["agrees"]) == ("none minus dense", False if on_the_control == "costs" else None)
    taken_off = verdict == "supported" and on_the_control == "costs"
    assert card["verdict"] == ("supported only if" if taken_off else verdict)


def test_a_control_at_other_seeds_is_none_and_sizes_that_do_not_say_lose_something() -> None:
    base, control = measured("base", 5.0, [0.31, 0.30, 0.32, 0.30]), measured("h1", 0.0, H1)
    unknown = measured("wide", 0.0, [0.9, 0.9, 0.9, 0.91]) | {"freedom_lost": None}
    deltas = control["arms"][1]["delta"]
    deltas["values"] = {str(int(seed) + 10): delta for seed, delta in deltas["values"].items()}
    points = POINTS | {"wide": ["model.head_dim=64"]}
    [found, _] = cards({"claims": {"x": CLAIM}, "points": points}, [base, control, unknown], [])[0]["evidence"]
    assert (found["what"], found["found"]) == ("none minus dense", "costs, maybe as at h1"), "nothing can be taken off"
    [alone] = cards({"claims": {"x": CLAIM}, "points": points}, [base, unknown], [])[0]["evidence"]
    assert alone["agrees"] is True, "what is unknown there casts no doubt here"


def test_an_unfit_control_leaves_the_excess_open() -> None:
    control = measured("h1", 0.0, H1) | {"unfit": {"none": "a seed diverged"}}
    whole = {"claims": {"x": CLAIM}, "points": POINTS}
    for here in ([0.31, 0.30, 0.32, 0.30], [0.05, 0.09, 0.02, 0.06]):
        [base, _] = cards(whole, [measured("base", 5.0, here), control], [])[0]["evidence"]
        assert base["agrees"] is None


NARROW, NARROW_H1 = ["model.d_model=64", "model.n_heads=2"], ["model.d_model=64", "model.n_heads=1"]


@pytest.mark.parametrize(
    ("here", "agrees", "found"),
    [
        ([0.31, 0.30, 0.32, 0.30], True, "costs"),
        (H1, None, "costs, maybe as at h1"),
        ([0.12, 0.11, 0.11, 0.105], None, "costs, maybe as at h1"),
    ],
)
def test_a_cost_without_a_control_of_its_own_must_be_more_than_where_nothing_is_lost(
    here: list[float], agrees: bool | None, found: str
) -> None:
    points = {"h1": ["model.n_heads=1"], "narrow": NARROW, "narrow_h1": NARROW_H1}
    whole = {"claims": {"x": CLAIM}, "points": points}
    h1, narrow = measured("h1", 0.0, H1), measured("narrow", 5.0, here)
    [_, alone] = cards(whole, [h1, narrow], [])[0]["evidence"]
    assert (alone["agrees"], alone["found"], alone["what"]) == (agrees, found, "none minus dense")
    own = measured("narrow_h1", 0.0, [0.01, 0.0, -0.01, 0.0], "equivalent")
    [_, _, beyond] = cards(whole, [h1, own, narrow], [])[0]["evidence"]
    assert (beyond["agrees"], beyond["what"]) == (True, "none minus dense, beyond narrow_h1"), "its own control is free"


def test_what_does_not_cost_speaks_for_itself_without_a_control() -> None:
    places = [measured("h1", 0.0, H1), measured("split", 5.0, [0.0, -0.001, 0.001, 0.0], "helps")]
    [_, split] = cards({"claims": {"x": CLAIM}, "points": POINTS}, places, [])[0]["evidence"]
    assert (split["agrees"], split["what"]) == (False, "none minus dense")


def test_what_is_excluded_is_excluded_for_all_rows_together() -> None:
    """One interval of ten that ends below the margin by chance refutes nothing."""
    just = [-0.02, 0.009]  # one-sided p a little under 0.05
    one = cards({"claims": {"x": CLAIM}}, [part("undecided", 5.0, ci90=just)], [])[0]
    assert one["verdict"] == REFUTED
    wide = [part("undecided", 5.0, f"n_heads={n}", [-0.05, 0.14]) for n in range(5, 14)]
    many = cards({"claims": {"x": CLAIM}}, [part("undecided", 5.0, ci90=just), *wide], [])[0]
    assert many["verdict"] == UNDECIDED
    clear = cards({"claims": {"x": CLAIM}}, [part("undecided", 5.0, ci90=[-0.2, -0.1]), *wide], [])[0]
    assert clear["verdict"] == REFUTED


def met(what: str, verdict: str, ci90: list[float] | None) -> bool | None:
    place = part(verdict, 5.0, ci90=ci90)
    if ci90 is None:  # one seed
        place["arms"][1]["delta"]["values"] = {"0": 0.1}
    [row] = expectation_rows({"none": what}, [place])
    return row["agrees"]


@pytest.mark.parametrize(
    ("what", "verdict", "ci90", "agrees"),
    [
        ("costs", "costs", [0.02, 0.03], True),
        ("costs", "helps", [-0.03, -0.02], False),
        ("costs", "equivalent", [-0.005, 0.005], False),
        ("costs", "undecided", [-0.02, 0.03], None),
        ("helps", "helps", [-0.03, -0.02], True),
        ("helps", "costs", [0.02, 0.03], False),
        ("level", "equivalent", [-0.005, 0.005], True),
        ("level", "costs", [0.02, 0.03], False),
        ("level", "undecided", [-0.02, 0.005], None),
        ("no_worse", "undecided", [-0.02, 0.005], True),
        ("no_worse", "undecided", [-0.02, 0.015], None),
        ("no_worse", "undecided", None, None),
        ("no_worse", "helps", [-0.03, -0.02], True),
        ("no_worse", "costs", [0.001, 0.02], False),
        ("no_better", "undecided", [-0.005, 0.02], True),
        ("no_better", "undecided", [-0.015, 0.02], None),
        ("no_better", "costs", [0.02, 0.03], True),
        ("no_better", "helps", [-0.03, -0.02], False),
    ],
)
def test_an_expectation_is_met_or_not_or_open(
    what: str, verdict: str, ci90: list[float] | None, agrees: bool | None
) -> None:
    assert what in EXPECTED
    assert met(what, verdict, ci90) is agrees


@given(st.floats(-1, 1), st.floats(1e-3, 1))
def test_what_is_level_is_neither_worse_nor_better(mean: float, half: float) -> None:
    within = [mean - half, mean + half]
    assume(min(abs(within[0] + 0.01), abs(within[1] - 0.01)) > 1e-5)
    level = within[0] > -0.01 and within[1] < 0.01
    verdict = "equivalent" if level else "undecided"
    both = [met(what, verdict, within) for what in ("no_worse", "no_better")]
    assert (both == [True, True]) == level
    assert met("no_better", verdict, [-within[1], -within[0]]) is both[0]


def test_an_expectation_is_looked_for_at_its_points_and_not_of_unfit_arms() -> None:
    claim = {**CLAIM, "costs": [], "expects": {"none": "no_worse"}, "at": ["here"]}
    places = [part("helps", None, "here"), part("costs", None, "there")]
    for place in places:
        place["arms"][1]["delta"]["values"] = values([-0.03, -0.02])
    [card] = cards({"claims": {"x": claim}}, places, [])
    assert [(one["where"], one["predicted"], one["agrees"]) for one in card["evidence"]] == [("here", "no worse", True)]
    assert (card["verdict"], card["arms"]) == (SUPPORTED, ["none"])
    places[0]["unfit"] = {"none": "a seed diverged"}
    assert cards({"claims": {"x": claim}}, places, [])[0]["verdict"] == UNDECIDED


def test_sizes_that_do_not_say_what_is_lost_are_no_evidence() -> None:
    [card] = cards({"claims": {"x": CLAIM}}, [part("costs", None)], [])
    assert (card["evidence"], card["verdict"]) == ([], UNDECIDED)


@pytest.mark.parametrize(
    ("none", "dense", "agrees"),
    [(1e-3, 3e-3, True), (3e-3, 3e-3, False), (3e-3, 1e-3, False), (9e-3, 9e-3, None), (None, 1e-3, True)],
)
def test_a_rate_speaks_unless_both_reach_the_end_of_the_grid(
    none: float | None, dense: float, agrees: bool | None
) -> None:
    curve = {"0.001": 2.0, "0.003": 2.0, "0.009": 2.0}
    tuning = {
        "point": "n_heads=4",
        "seeds": [100],
        "losses": {"none": curve, "dense": curve},
        "widest_stable": {"dense": dense} | ({"none": none} if none else {}),  # an arm may train at no rate at all
    }
    claim = {**CLAIM, "costs": [], "rates": ["none"]}
    [card] = cards({"claims": {"x": claim}}, [part("costs", 5.0)], [tuning])
    [found] = card["evidence"]
    assert found["agrees"] is agrees
    assert f"dense {dense:g}{' or more' if dense == 9e-3 else ''} (loss 2.00)" in found["what"]
    assert card["look"] is (agrees is not None), "one seed is a look"


def test_what_cannot_be_built_is_tried() -> None:
    claim = {**CLAIM, "costs": [], "refused": {"none": ["model.head_dim=64"]}}
    whole = {"claims": {"x": claim}, "request": [], "arms": {"none": ["fc_out=none"]}}
    [card] = cards(whole, [part("costs", 5.0)], [])
    assert [one["agrees"] for one in card["evidence"]] == [False, True]
    assert heading(card) == "x: supported only if n_heads x head_dim != d_model"
    fits = {**whole, "claims": {"x": {**claim, "refused": {"none": ["model.head_dim=32"]}}}}
    assert cards(fits, [], [])[0]["verdict"] == REFUTED
    unknown = {**whole, "claims": {"x": {**claim, "refused": {"none": ["model.no_such_key=1"]}}}}
    assert [one["agrees"] for one in cards(unknown, [], [])[0]["evidence"]] == [None]


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ("undecided", "supported only if all arms share one learning rate (the rest is open, open at own best rates)"),
        ("costs", "supported"),
    ],
)
def test_what_the_shared_rate_decides_alone_is_said_so(own: str, told: str) -> None:
    found = {"shared": part("costs", 5.0), "tuned": part(own, 5.0)}
    stages = [place | {"stage": stage, "folder": f"n_heads=4/{stage}"} for stage, place in found.items()]
    [card] = cards({"claims": {"x": CLAIM}}, stages, [])
    assert card["shared_only"] == (own == "undecided")
    assert heading(card).startswith(f"x: {told}")


def test_a_verdict_on_half_a_study_is_one_so_far() -> None:
    shapes = {**CLAIM, "costs": [], "refused": {"none": ["model.head_dim=64"]}}
    whole = {"claims": {"x": CLAIM, "shapes": shapes}, "request": [], "arms": {"none": ["fc_out=none"]}}
    ours, of_shapes = cards(whole, [part("costs", 5.0)], [], complete=False)
    assert heading(ours) == "x: supported (so far)"
    assert heading(of_shapes) == "shapes: supported only if n_heads x head_dim != d_model", (
        "no run that is left could change it"
    )
    assert heading(cards(whole, [part("costs", 5.0)], [])[0]) == "x: supported"


def test_a_study_with_claims_has_their_cards_in_its_report(tmp_path: Path) -> None:
    for n in (2, 4):
        made(tmp_path / f"x/n_heads={n}", seed=n, seeds=8)
    whole = {"study": "x", "points": {"n_heads=2": [], "n_heads=4": []}, "tune": None, "claims": {"one_thing": CLAIM}}
    (tmp_path / "x/parts.json").write_text(json.dumps(whole))
    report = write_joint(tmp_path / "x")
    [card] = report["claims"]
    assert card["claim"] == "one_thing"
    assert len(rows(card)) == len(card["evidence"])
    page = (tmp_path / "x/report/report.html").read_text(encoding="utf-8")
    assert "one thing: " in page
    assert "It &lt;helps&gt;" in page
    (tmp_path / "x/parts.json").write_text(json.dumps({**whole, "claims": {}}))
    assert joint_report(tmp_path / "x")["claims"] == []
    assert cards_html([]) == ""


@pytest.mark.parametrize(
    "broken",
    [
        {"says": 3},
        {"costs": "none"},
        {"refused": []},
        {"refused": {"none": "x"}},
        {"expects": {"none": 3}},
        {"at": "x"},
    ],
)
def test_claims_that_this_package_did_not_write_are_not_believed(broken: dict[str, Any]) -> None:
    good = {"study": "x", "points": {}, "claims": {"x": CLAIM}}
    assert parts_of(good)["claims"] == {"x": CLAIM}
    with pytest.raises(ValueError, match=r"claim|refused"):
        parts_of({**good, "claims": {"x": {**CLAIM, **broken}}})
