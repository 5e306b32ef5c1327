"""Plans made ahead: seeds by a pilot's spread, and whether the promise was kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mha_ablate.conduct.ahead import planned_request
from mha_ablate.errors import RequestError
from mha_ablate.report.assemble import assemble
from mha_ablate.stats.power import power_of, smallest_effect, upper_sd
from mha_ablate.study.ahead import Spread, pilot_notes, pilot_of, reckon, seconds_a_cell, spreads_of
from mha_ablate.study.collect import collect
from tests.synthetic import write_study


def test_a_pilot_is_planned_with_at_its_upper_limit() -> None:
    assert Spread(0.02, None).planned == 0.02
    # chi2(0.2, 2) = -2 ln 0.8 = 0.446287: sqrt(2 / 0.446287) = 2.11693
    assert Spread(0.02, 3).planned == pytest.approx(0.02 * 2.11693, rel=1e-5)
    assert Spread(0.02, 30).planned < 1.2 * 0.02


def test_seeds_reach_the_power_and_one_fewer_does_not() -> None:
    made = reckon({"a": Spread(0.02, None), "b": Spread(0.03, None)}, effect=0.02, power=0.8, margin=0.01)
    assert made.alpha == 0.025
    assert made.needs["b"].seeds == made.seeds
    n = made.seeds
    assert power_of(0.02, 0.03, n, alpha=0.025) >= 0.8 > power_of(0.02, 0.03, n - 1, alpha=0.025)
    assert made.to_json()["contrasts"]["a"]["planned_sd"] == 0.02


def test_a_plan_is_never_a_look() -> None:
    assert reckon({"a": Spread(1e-5, None)}, effect=1.0, power=0.8, margin=0.01).seeds == 8


def test_what_no_number_of_seeds_can_see_is_refused() -> None:
    made = reckon({"a": Spread(10.0, None)}, effect=1e-6, power=0.8, margin=0.01)
    assert made.needs["a"].seeds is None
    with pytest.raises(RequestError, match="ask for a larger effect"):
        _ = made.seeds


def test_spreads_come_from_pairs(tmp_path: Path) -> None:
    pilot = collect(write_study(tmp_path / "pilot", arms=["dense", "none"], seeds=3, evaluations=2))
    losses = {arm: {run.seed: run.val_loss or 0.0 for run in pilot.of(arm)} for arm in ("dense", "none")}
    differences = [losses["none"][s] - losses["dense"][s] for s in range(3)]
    mean = sum(differences) / 3
    found = spreads_of(pilot, "dense", ["none"])["none"]
    assert found.sd == pytest.approx((sum((d - mean) ** 2 for d in differences) / 2) ** 0.5)
    assert found.seeds == 3
    with pytest.raises(RequestError, match="has 0 finished pair"):
        spreads_of(pilot, "dense", ["other"])


def test_what_a_pilot_lacks_is_said(tmp_path: Path) -> None:
    path = write_study(tmp_path / "pilot", arms=["dense", "none"], seeds=3, evaluations=2)
    assert pilot_notes(collect(path), ["study.margin=0.1", "name=x"], ["dense", "none"]) == []
    file = next((path / "none").glob("seed=1/run.json"))
    run = json.loads(file.read_text())
    file.write_text(json.dumps(run | {"state": "diverged", "result": {**run["result"], "val_loss": None}}))
    lost, other = pilot_notes(collect(path), ["trainer.steps=9"], ["dense", "none"])
    assert lost == "the spread leaves out 1 run(s) of the pilot: none/seed=1 diverged"
    assert other == "the pilot ran without trainer.steps=9: its spread may be another"
    as_planned = reckon(spreads_of(collect(path), "dense", ["none"]), effect=0.02, power=0.8, margin=0.01).to_json()
    assert list(as_planned["contrasts"]["none"]["left_out"]) == ["none/seed=1 diverged"]


def test_a_setting_that_a_pilot_had_anyway_is_not_noted(tmp_path: Path) -> None:
    pilot = collect(write_study(tmp_path / "pilot", arms=["dense", "none"], seeds=2, evaluations=2))
    had = pilot.runs[0].config["trainer"]["steps"]
    assert pilot_notes(pilot, [f"trainer.steps={had}"], ["dense", "none"]) == []


def test_settings_of_a_pilot_without_a_plan_are_noted(tmp_path: Path) -> None:
    path = write_study(tmp_path / "pilot", arms=["dense", "none"], seeds=2, evaluations=2)
    (path / "plan.json").unlink()
    for file in path.rglob("run.json"):
        run = json.loads(file.read_text())
        file.write_text(json.dumps(run | {"overrides": [*run["overrides"], "name=x", "trainer.steps=9", "data=mine"]}))
    [note] = pilot_notes(collect(path), ["data=mine"], ["dense", "none"])
    assert note == "the pilot ran with trainer.steps=9, which is not planned: its spread may be another"


def test_a_promise_is_not_kept_by_what_has_no_data(tmp_path: Path) -> None:
    path = write_study(tmp_path / "study", arms=["dense", "none"], seeds=4, evaluations=2)
    plan = json.loads((path / "plan.json").read_text())
    plan["power"] = {"effect": 10.0, "power": 0.8, "alpha": 0.025, "contrasts": {"none": {}, "other": {}}}
    (path / "plan.json").write_text(json.dumps(plan))
    [note] = [n for n in assemble(collect(path))["notes"] if n.startswith("planned to find")]
    assert "; nothing can be said yet of other (fewer than two paired seeds); " in note
    assert "and it can" not in note


@pytest.mark.parametrize("lost", [1, 4])
def test_a_promise_is_not_kept_by_seeds_that_are_missing(tmp_path: Path, lost: int) -> None:
    path = write_study(tmp_path / "study", arms=["dense", "none"], seeds=4, evaluations=2)
    plan = json.loads((path / "plan.json").read_text())
    plan["power"] = {"effect": 10.0, "power": 0.8, "alpha": 0.05, "contrasts": {"none": {}}}
    (path / "plan.json").write_text(json.dumps(plan))
    for seed in range(lost):
        (path / f"none/seed={seed}/run.json").unlink()
    why = f"{lost} of 4 seeds of none missing"
    assert (
        f"planned to find a difference of 10 nats; nothing can be said yet of none ({why})"
        in assemble(collect(path))["notes"]
    )


def test_hours_go_by_what_cells_took(tmp_path: Path) -> None:
    runs = collect(write_study(tmp_path / "pilot", arms=["dense"], seeds=2, evaluations=2)).runs
    took = runs[0].about["ended"] - runs[0].about["started"]
    assert seconds_a_cell(runs, 3 * runs[0].about["result"]["step"]) == pytest.approx(3 * took)
    assert seconds_a_cell([], 10) is None


def test_a_plan_takes_over_the_pilots_words(tmp_path: Path) -> None:
    path = write_study(tmp_path / "pilot", arms=["dense", "none"], seeds=2, evaluations=2)
    plan = json.loads((path / "plan.json").read_text())
    plan["request"] = ["optim.lr=1e-3", "study.seeds=2", "name=pilot", "trainer.steps=9"]
    (path / "plan.json").write_text(json.dumps(plan))
    pilot = pilot_of(path)
    assert planned_request([], pilot) == ["optim.lr=1e-3", "trainer.steps=9", "name=pilot_planned"]
    assert planned_request(["trainer.steps=5", "name=x"], pilot) == ["optim.lr=1e-3", "trainer.steps=5", "name=x"]
    with pytest.raises(RequestError, match="leave them out"):
        planned_request(["study.seeds=4"], None)


@pytest.mark.parametrize(("effect", "word"), [(10.0, "10 nats, and it can; "), (1e-6, "; it cannot for none; ")])
def test_a_report_says_whether_the_promise_was_kept(tmp_path: Path, effect: float, word: str) -> None:
    path = write_study(tmp_path / "study", arms=["dense", "none"], seeds=4, evaluations=2)
    plan = json.loads((path / "plan.json").read_text())
    plan["power"] = {"effect": effect, "power": 0.8, "alpha": 0.025, "contrasts": {"none": {}}}
    (path / "plan.json").write_text(json.dumps(plan))
    report = assemble(collect(path))
    sd = report["arms"][1]["delta"]["sd"]
    [note] = [n for n in report["notes"] if n.startswith("planned to find")]
    assert note.endswith(f"can find: {smallest_effect(sd, 4, alpha=0.025):.3g} for arm none")
    assert word in note
    assert report["kind"] == "confirmatory"
    plan["earlier"] = ["0123"]
    (path / "plan.json").write_text(json.dumps(plan))
    changed = assemble(collect(path))
    assert changed["kind"] == "changed"
    assert any("no longer confirmatory" in n for n in changed["notes"])


def test_the_upper_limit_covers_as_often_as_it_says() -> None:
    import numpy as np

    sds = np.random.default_rng(3).normal(size=(4000, 5)).std(axis=1, ddof=1)
    share = np.mean([upper_sd(float(sd), 5) >= 1.0 for sd in sds])
    assert 0.78 < share < 0.82
