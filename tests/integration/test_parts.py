"""Studies of several parts, and plans made ahead, from the command line to their reports."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from mha_ablate.study.plan import make_plan
from tests.conftest import Cli
from tests.integration.process import interrupt, start, states, wait_for

FAIR = ["study=lr_fair", "study.arms=[dense,none]", "study.seeds=2", "--workers", "2"]
RATES = "study.tune={rates: [1e-3,3e-3,9e-3], seeds: [100], widen: 0}"


def written(path: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in path.rglob("metrics.jsonl")}


def test_points_are_studies_of_their_own_and_one_report(cli: Cli, small: list[str], tmp_path: Path) -> None:
    words = [w for w in small if not w.startswith("model.n_heads")]
    points = "study.points=[model.n_heads=1,model.n_heads=4]"
    request = ["compare", *words, "study=heads", points, "study.arms=[dense,none]", "study.seeds=2", "--workers", "2"]
    done = cli(*request, "--json")
    assert done.code == 0, done.err
    folder = tmp_path / "outputs/heads"
    assert [part["point"] for part in done.json["parts"]] == ["n_heads=1", "n_heads=4"]
    assert sorted(states(folder)) == [
        f"n_heads={h}/{a}/seed={s}" for h in (1, 4) for a in ("dense", "none") for s in (0, 1)
    ]
    for heads in (1, 4):
        alone = cli("report", str(folder / f"n_heads={heads}"), "--json")
        config = (folder / f"n_heads={heads}/none/seed=0/config.yaml").read_text()
        assert f"n_heads: {heads}" in config
        mine = next(p for p in done.json["parts"] if p["point"] == f"n_heads={heads}")
        assert alone.json["arms"][1]["delta"]["mean"] == mine["arms"][1]["delta"]["mean"]
        assert mine["freedom_lost"] == 2 * 16**2 * (1 - 1 / heads)
    before = written(folder)
    again = cli(*request)
    assert again.code == 0, again.err
    assert written(folder) == before
    assert "n_heads=4 none" in again.out
    assert cli("report", str(folder), "--json").json == done.json


def test_rates_are_tuned_and_both_results_stand_side_by_side(cli: Cli, small: list[str], tmp_path: Path) -> None:
    request = ["compare", *small, *FAIR, RATES, "optim.lr=3e-3"]
    done = cli(*request, "--json")
    assert done.code == 0, done.err
    folder = tmp_path / "outputs/lr_fair"
    [tuning] = done.json["tunings"]
    losses: dict[str, dict[float, float]] = {}
    for file in (folder / "grid").rglob("run.json"):
        run = json.loads(file.read_text())
        arm, _, rate = run["arm"].rpartition("_lr")
        losses.setdefault(arm, {})[float(rate)] = run["result"]["val_loss"]
        assert run["seed"] == 100
    best = {arm: min(curve, key=lambda r: curve[r]) for arm, curve in losses.items()}
    assert tuning["best"] == best
    for part in done.json["parts"]:
        assert [arm["arm"] for arm in part["arms"]] == ["dense", "none"]
        for arm in part["arms"]:
            run: dict[str, Any] = json.loads((folder / part["stage"] / arm["arm"] / "seed=1/run.json").read_text())
            wanted = 3e-3 if part["stage"] == "shared" else best[arm["arm"]]
            assert f"lr: {wanted}" in (folder / part["stage"] / arm["arm"] / "seed=1/config.yaml").read_text()
            same = part["stage"] == "tuned" and wanted == 3e-3
            assert ("copied_from" in run) == same, "what is the very same run is not trained twice"
    before = written(folder)
    assert cli(*request).code == 0
    assert written(folder) == before


def test_a_study_at_own_rates_alone_is_found_finished_and_takes_more_seeds(
    cli: Cli, small: list[str], tmp_path: Path
) -> None:
    tune = "study.tune={rates: [1e-3,3e-3,6e-3], seeds: [100], shared: false}"
    arms = "study.arms=[dense,none]"
    assert cli("compare", *small, "study=lr_fair", arms, "study.seeds=1", tune).code == 0
    folder = tmp_path / "outputs/lr_fair"
    assert not (folder / "shared").exists()
    best = json.loads((folder / "report/report.json").read_text())["tunings"][0]["best"]
    assert set(best.values()) != {3e-3}, "an arm is to have a rate that is not the one it is checked at"
    before = written(folder)
    done = cli("compare", *small, "study=lr_fair", arms, "study.seeds=2", tune)
    assert done.code == 0, done.err
    assert before.items() <= written(folder).items()
    assert len(list(folder.glob("tuned/*/seed=1/run.json"))) == 2


def test_a_grid_that_has_its_best_at_the_edge_is_widened(cli: Cli, small: list[str], tmp_path: Path) -> None:
    tune = "study.tune={rates: [1e-5,2e-5,4e-5], seeds: [100], widen: 1}"
    done = cli("compare", *small, *FAIR, tune, "--json")
    assert done.code == 0, done.err
    rates = sorted({p.name.rpartition("_lr")[2] for p in (tmp_path / "outputs/lr_fair/grid").glob("*_lr*")}, key=float)
    assert rates == ["1e-05", "2e-05", "4e-05", "8e-05"]
    assert any("not widened any further" in note for note in done.json["notes"])


def test_a_tuned_study_that_was_interrupted_goes_on(small: list[str], cli: Cli, tmp_path: Path) -> None:
    request = ["compare", *small, *FAIR, RATES, "trainer.steps=40", "trainer.eval_every=20"]
    process = start(*request)
    folder = tmp_path / "outputs/lr_fair"
    wait_for(lambda: list(states(folder).values()).count("ok") >= 2)
    _, err = interrupt(process, signal.SIGINT)
    assert process.returncode == 130
    assert "are finished and kept; to go on: mha-ablate compare" in err
    kept = {name for name, state in states(folder).items() if state == "ok"}
    before = {p: t for p, t in written(folder).items() if p.parent.relative_to(folder).as_posix() in kept}
    done = cli(*request, "--json")
    assert done.code == 0, done.err
    assert {p: t for p, t in written(folder).items() if p in before} == before
    assert set(states(folder).values()) == {"ok"}


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("study.tune.seeds=[1]", "study.tune.seeds has 1"),
        ("study.tune.rates=[1e-3]", "three rates"),
        ("study.points=[data.path=a/b]", "cannot be the name of one folder"),
        ("study.points=[model.n_heads=3]", "not divisible by model.n_heads=3"),
        ("study.points=[3]", "study.points=['3'] is neither"),
        ("study.points=3", "study.points=3 is neither"),
        ("study.arms.fast=[fc_out=none,optim.lr=1]", "arm fast sets optim.lr"),
        (
            "study.points=[optim.lr=1e-3,optim.beta1=0.8]",
            "study.points: lr=1e-3 sets optim.lr, which study.tune replaces",
        ),
    ],
)
def test_a_bad_part_is_refused_before_anything_runs(
    cli: Cli, small: list[str], tmp_path: Path, extra: str, said: str
) -> None:
    words = [w for w in small if not w.startswith("model.n_heads")] if "n_heads" in extra else small
    done = cli("compare", *words, "study=lr_fair", "study.seeds=2", extra)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert said in done.err
    assert not list(tmp_path.rglob("run.json"))


def test_a_plan_made_ahead_is_confirmatory_until_it_is_changed(cli: Cli, small: list[str], tmp_path: Path) -> None:
    arms = ["study.arms=[dense,none]", "--workers", "2"]
    assert cli("compare", *small, *arms, "study.seeds=3", "name=pilot").code == 0
    made = cli("plan", "--pilot", str(tmp_path / "outputs/pilot"), "--effect", "1.0", "--json")
    assert made.code == 0, made.err
    assert made.json["seeds"] == list(range(3, 11))
    assert made.json["contrasts"]["none"]["seeds"] == 3
    kept = json.loads((tmp_path / "outputs/pilot_planned/plan.json").read_text())
    assert kept["power"]["effect"] == 1.0
    assert not list((tmp_path / "outputs/pilot_planned").rglob("run.json"))
    done = cli("compare", *kept["request"], "--workers", "2", "--json")
    assert done.code == 0, done.err
    assert (done.json["kind"], done.json["plan_hash"]) == ("confirmatory", made.json["hash"])
    assert any(note.startswith("planned to find a difference of 1 nats") for note in done.json["notes"])
    more = [w if not w.startswith("study.seeds") else "study.seeds=[3,4,11]" for w in kept["request"]]
    changed = cli("compare", *more, "--workers", "2", "--json")
    assert changed.json["kind"] == "changed"
    again = cli("plan", "--pilot", str(tmp_path / "outputs/pilot"), "--effect", "1.0")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "holds runs already" in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--effect", "0.1"], "give --pilot DIR"),
        (["--pilot", "x", "--sd", "1"], "one of them"),
        (["--sd", "0.1", "--effect", "0"], "--effect 0.0 is out of range"),
        (["--sd", "nan"], "--sd nan is out of range"),
        (["--sd", "0.1", "--power", "1"], "--power 1.0 is out of range"),
        (["--pilot", "nowhere"], "nowhere is no folder"),
        (["--sd", "0.1", "study.seeds=3"], "leave them out"),
        (["--sd", "0.1", "study.arms=[dense]"], "besides the baseline"),
        (["--sd", "100", "--effect", "1e-4", "study.margin=1e-5"], "ask for a larger effect"),
        (["--sd", "0.1", "--effect", "0.009"], "within the margin of ±0.01 nats"),
        (["--sd", "0.1", "study=lr_fair", "study.tune.rates=[1e-3]"], "three rates"),
        (["--sd", "0.1", "--workers", "0"], "workers=0 (--workers) is out of range"),
    ],
)
def test_a_plan_that_cannot_be_made_says_why(cli: Cli, small: list[str], words: list[str], said: str) -> None:
    done = cli("plan", *small, *words)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert said in done.err


def test_a_plan_of_which_nothing_has_run_is_replaced(cli: Cli, small: list[str], tmp_path: Path) -> None:
    request = ["plan", *small, "study.arms=[dense,none]", "--effect", "0.02", "name=x"]
    assert len(cli(*request, "--sd", "0.03", "--json").json["seeds"]) > 8
    assert cli(*request, "--sd", "0.01", "--json").json["seeds"] == list(range(8))
    kept = json.loads((tmp_path / "outputs/x/plan.json").read_text())
    assert (kept["seeds"], len(kept["cells"]), kept["earlier"]) == (list(range(8)), 16, [])


def test_a_plan_is_not_written_beside_its_own_pilot(cli: Cli, small: list[str], tmp_path: Path) -> None:
    assert cli("compare", *small, "study.arms=[dense,none]", "study.seeds=2", "name=pilot").code == 0
    before = (tmp_path / "outputs/pilot/plan.json").read_text()
    done = cli("plan", "--pilot", str(tmp_path / "outputs/pilot"), "--effect", "1", "name=pilot")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "holds runs already" in done.err
    assert (tmp_path / "outputs/pilot/plan.json").read_text() == before


def test_one_part_and_several_do_not_share_a_folder(cli: Cli, small: list[str], tmp_path: Path) -> None:
    few = [*[w for w in small if not w.startswith("model.n_heads")], "study.arms=[dense,none]", "study.seeds=1"]
    several = [*few, "study=heads", "study.points=[model.n_heads=1]"]
    assert cli("plan", *few[:-1], "--sd", "0.01", "name=x").code == 0
    done = cli("compare", *several, "name=x")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "holds a plan of one part" in done.err
    assert cli("compare", *several, "name=y").code == 0
    done = cli("compare", *few, "name=y")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "holds a study of several parts" in done.err
    assert not list((tmp_path / "outputs/x").rglob("run.json"))


def test_several_points_and_their_rates_are_planned_ahead_as_one(cli: Cli, small: list[str], tmp_path: Path) -> None:
    few = [w for w in small if not w.startswith("model.n_heads")]
    tuned = ["study=lr_fair", "study.arms=[dense,none]", "study.points=[model.n_heads=1,model.n_heads=2]"]
    tune = "study.tune={rates: [1e-3,3e-3,9e-3], seeds: [3], widen: 0}"
    made = cli("plan", *few, *tuned, tune, "optim.lr=3e-3", "--sd", "0.01", "--effect", "1", "name=x", "--json")
    assert made.code == 0, made.err
    assert made.json["seeds"] == [0, 1, 2, 4, 5, 6, 7, 8], "seed 3 tunes, and judges nothing"
    assert set(made.json["contrasts"]) == {"n_heads=1 none", "n_heads=2 none"}
    assert made.json["alpha"] == 0.025
    assert made.json["cells"] == 2 * (2 * 2 * 8 + 2 * 3), "both stages and the grid, at both points"
    folder = tmp_path / "outputs/x"
    assert made.json["plan"] == str(folder / "parts.json")
    assert not list(folder.rglob("run.json"))
    request = json.loads((folder / "parts.json").read_text())["request"]
    done = cli("compare", *request, "--workers", "2", "--json")
    assert done.code == 0, done.err
    assert "departs" not in done.err
    assert (done.json["kind"], done.json["plan_hash"]) == ("confirmatory", made.json["hash"])
    assert {part["kind"] for part in done.json["parts"]} == {"confirmatory"}
    stages = [(part["point"], part["stage"]) for part in done.json["parts"]]
    assert stages == [(f"n_heads={h}", stage) for stage in ("shared", "tuned") for h in (1, 2)]
    wider = [w.replace("[1e-3,", "[1e-5,1e-3,") for w in request]
    changed = cli("compare", *wider, "--workers", "2")
    assert changed.code == 0, changed.err
    assert "departs from the plan made ahead" in changed.err
    assert "(tune)" in changed.err
    report = cli("report", str(folder), "--json").json
    assert report["kind"] == "changed"
    assert any("changed afterwards (tune)" in note for note in report["notes"])
    back = cli("compare", *request, "--workers", "2", "--json").json
    assert back["kind"] == "changed", "the added rate lies in the grid, and was seen"


def test_a_plan_that_was_left_and_of_which_nothing_else_ran_is_taken_up_again(small: list[str]) -> None:
    arms = [*small, "study.arms=[dense,none]"]
    plan = make_plan([*arms, "study.seeds=[0,1]", "name=x"])
    plan.write({"effect": 1.0, "power": 0.8, "alpha": 0.05, "contrasts": {"none": {}}})
    promised = plan.folder.plan()
    assert promised is not None
    assert plan.departures() == []
    loud = "study.arms.loud=[fc_out=none,attention.branch_scale=2.0]"
    more = make_plan([*small, loud, "study.arms=[dense,none,loud]", "study.seeds=3", "name=x"])
    assert more.departures() == ["seed added: 2", "arm added: loud"]
    more.write()
    left = plan.folder.plan()
    assert left is not None
    assert (left["earlier"], left["power"]["effect"]) == ([promised["hash"]], 1.0)
    plan.write()
    again = plan.folder.plan()
    assert again is not None
    assert (again["hash"], again["earlier"], list(again["arms"])) == (promised["hash"], [], ["dense", "none"])
    plan.folder.run("loud", 0).path.mkdir(parents=True)
    more.write()
    plan.folder.run("loud", 0).run_file.write_text("{}")
    plan.write()
    begun = plan.folder.plan()
    assert begun is not None
    assert begun["earlier"]
    assert list(begun["cells"]) == [*promised["cells"], "loud/seed=0"]


def test_seeds_that_lie_there_and_were_not_asked_for_are_told(cli: Cli, small: list[str]) -> None:
    arms = [*small, "study.arms=[dense,none]", "--workers", "2"]
    assert "asked for" not in cli("compare", *arms, "study.seeds=3").err
    assert "2 seed(s) were asked for, and the report is over all 3" in cli("compare", *arms, "study.seeds=2").err
