"""Waterfalls, noise floors, and several studies side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.patches import Rectangle

from mha_ablate.cost.freedom import freedom_lost
from mha_ablate.errors import RequestError
from mha_ablate.notebook import Comparison
from mha_ablate.report.assemble import assemble
from mha_ablate.report.joint import fall_rows, joint_report, rows, studies_below, tuning_rows, write_joint
from mha_ablate.report.joint_plots import deltas_figure
from mha_ablate.report.write import write_again, write_report
from mha_ablate.stats.power import chance_width
from mha_ablate.study.collect import collect
from tests.synthetic import write_study
from tests.unit.test_parts import grid_folder

ARMS = ["dense", "none", "none_scaled", "per_head"]
CHAIN = {
    "loudness": ["none", "none_scaled"],
    "factorisation": ["none_scaled", "per_head"],
    "mixing": ["per_head", "dense"],
}


def changed(path: Path, **keys: Any) -> Path:
    plan = json.loads((path / "plan.json").read_text())
    (path / "plan.json").write_text(json.dumps({**plan, **keys}))
    return path


def made(path: Path, *, seeds: int = 4, seed: int = 0, **keys: Any) -> Path:
    return changed(write_study(path, arms=ARMS, seeds=seeds, evaluations=3, seed=seed), **keys)


def tuned(root: Path) -> Path:
    """The folder of a study that tunes."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "parts.json").write_text(json.dumps({"study": "lr_fair", "points": {}, "tune": {"rates": [1, 2]}}))
    return root


def test_points_stand_as_their_study_has_them_and_values_of_one_setting_by_number(tmp_path: Path) -> None:
    def order(name: str, points: list[str]) -> tuple[list[str], list[str]]:
        root = tmp_path / name
        for number, point in enumerate(points):
            made(root / point / "shared", seed=number)
            grid_folder(root / point / "grid", {"dense": {1e-3: [2.0, 2.0], 3e-3: [2.1, 2.1]}})
        words = {"study": name, "points": {point: [] for point in points}, "tune": {"rates": [1, 2]}}
        (root / "parts.json").write_text(json.dumps(words))
        report = joint_report(root)
        return [part["point"] for part in report["parts"]], [tuning["point"] for tuning in report["tunings"]]

    unlike = ["base", "n_heads=8", "d_model=64", "n_heads=1"]
    assert order("unlike", unlike) == (unlike, unlike)
    numbers = ["n_heads=2", "n_heads=8", "n_heads=16"]
    assert order("alike", ["n_heads=8", "n_heads=16", "n_heads=2"]) == (numbers, numbers)


def test_the_steps_of_a_waterfall_add_up(tmp_path: Path) -> None:
    report = assemble(collect(made(tmp_path / "s", waterfall=CHAIN)))
    fall = report["waterfall"]
    assert [step["name"] for step in fall["steps"]] == list(CHAIN)
    assert fall["total"]["delta"]["mean"] == pytest.approx(sum(step["delta"]["mean"] for step in fall["steps"]))
    by_arm = {arm["arm"]: arm for arm in report["arms"]}
    assert fall["total"]["delta"]["mean"] == pytest.approx(by_arm["none"]["delta"]["mean"])
    assert fall["steps"][2]["delta"]["ci95"] == pytest.approx(by_arm["per_head"]["delta"]["ci95"])
    assert fall["steps"][0]["delta"]["values"].keys() == {"0", "1", "2", "3"}


def test_a_waterfall_takes_the_seeds_that_all_of_its_arms_have(tmp_path: Path) -> None:
    path = made(tmp_path / "s", waterfall=CHAIN)
    (path / "per_head/seed=2/run.json").unlink()
    fall = assemble(collect(path))["waterfall"]
    assert fall["seeds"] == [0, 1, 3]
    assert fall["total"]["delta"]["mean"] == pytest.approx(sum(step["delta"]["mean"] for step in fall["steps"]))


def test_seeds_that_a_waterfall_lacks_are_noted(tmp_path: Path) -> None:
    path = made(tmp_path / "s", waterfall=CHAIN)
    assert not any("waterfall" in note for note in assemble(collect(path))["notes"])
    (path / "per_head/seed=2/run.json").unlink()
    assert (
        "the waterfall is over 3 of 4 seeds: one of its arms has not ended well at the others"
        in (assemble(collect(path))["notes"])
    )


def test_without_its_arms_there_is_no_waterfall(tmp_path: Path) -> None:
    without = assemble(collect(made(tmp_path / "s")))
    assert without["waterfall"] is None
    assert not any("waterfall" in note for note in without["notes"])
    lacking = assemble(collect(made(tmp_path / "t", waterfall={"x": ["none", "else"]})))
    assert lacking["waterfall"] is None
    assert "there is no waterfall: no seed has ended well in all of its arms (none, else)" in lacking["notes"]


def test_a_floor_is_measured_by_copies_and_used_beside_it(tmp_path: Path) -> None:
    floor = made(tmp_path / "floor", copies={"again": ["none", "dense"], "renamed": ["per_head", "none"]}, seeds=5)
    report = write_report(floor)
    assert [c["name"] for c in report["copies"]] == ["again", "renamed"]
    [sd, _] = [c["delta"]["sd"] for c in report["copies"]]  # of the pair with the baseline
    assert json.loads((floor / "floor.json").read_text()) == {
        "study": "floor",
        "setting": "dense-hash",
        "sd": sd,
        "seeds": 5,
    }
    assert report["sentence"].startswith(
        "Arms that differ by chance alone differ in nats per token, over 5 paired seeds: dense and none"
    )
    other = assemble(collect(made(tmp_path / "other", seed=1)))
    assert "chance alone" not in other["sentence"]
    assert other["noise_floor"]["half_width"] == pytest.approx(chance_width(sd, 5, 4))
    assert any("below the noise floor" in note and "study floor" in note for note in other["notes"])
    wide = assemble(collect(tmp_path / "other"), margin=10.0)
    assert not any("below the noise floor" in note for note in wide["notes"])


def test_the_steps_of_every_point_stand_in_a_table(tmp_path: Path) -> None:
    made(tmp_path / "x/n_heads=2", waterfall=CHAIN)
    made(tmp_path / "x/n_heads=4", waterfall=CHAIN, seed=1)
    made(tmp_path / "x/n_heads=8")
    report = write_joint(tmp_path / "x")
    names, *falls = fall_rows(report)
    assert names == ("", "in all", *CHAIN)
    assert [row[0] for row in falls] == ["n_heads=2", "n_heads=4"]
    for row, part in zip(falls, report["parts"], strict=False):
        deltas = [part["waterfall"]["total"]["delta"], *(step["delta"] for step in part["waterfall"]["steps"])]
        assert [float(cell.partition(" ")[0]) for cell in row[1:]] == [round(d["mean"], 4) for d in deltas]
    assert falls[0][1] in (tmp_path / "x/report/table.md").read_text(encoding="utf-8")
    assert falls[1][2] in (tmp_path / "x/report/report.html").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("error")
def test_a_waterfall_may_be_missing_in_the_first_part(tmp_path: Path) -> None:
    made(tmp_path / "x/a")
    made(tmp_path / "x/b", waterfall=CHAIN)
    assert (tmp_path / "x/report").exists() is False
    write_joint(tmp_path / "x")
    assert (tmp_path / "x/report/waterfalls.svg").exists()


def test_a_floor_of_another_setting_is_not_used(tmp_path: Path) -> None:
    write_report(made(tmp_path / "floor", copies={"again": ["none", "dense"]}))
    kept = json.loads((tmp_path / "floor/floor.json").read_text())
    for strange in (
        {**kept, "setting": "another"},
        {**kept, "sd": -1},
        {**kept, "seeds": "x"},
        {**kept, "seeds": 1},
        ["no"],
        None,
    ):
        (tmp_path / "floor/floor.json").write_text(json.dumps(strange))
        assert assemble(collect(made(tmp_path / f"s{id(strange)}")))["noise_floor"] is None


def test_copies_that_differ_for_certain_are_pointed_out(tmp_path: Path) -> None:
    path = made(tmp_path / "s", copies={"again": ["none", "dense"]})
    for seed in range(4):
        file = path / f"none/seed={seed}/run.json"
        run = json.loads(file.read_text())
        run["result"]["val_loss"] += 5
        file.write_text(json.dumps(run))
    assert any("should differ by chance alone" in note for note in assemble(collect(path))["notes"])


def test_freedom_by_hand() -> None:
    assert freedom_lost(8, 1, split=False) == 0
    assert freedom_lost(8, 4, split=False) == 64 - 16
    assert freedom_lost(8, 4, split=True) == 64 - 4
    assert freedom_lost(8, 1, split=True) == 0


def test_points_are_put_side_by_side_in_their_order(tmp_path: Path) -> None:
    for n, heads in enumerate((8, 2, 10)):
        made(tmp_path / f"heads/n_heads={heads}", seed=n, waterfall=CHAIN)
    report = write_joint(tmp_path / "heads")
    assert [part["point"] for part in report["parts"]] == ["n_heads=2", "n_heads=8", "n_heads=10"]
    assert report["axis"] == {"name": "n_heads", "numeric": True}
    alone = assemble(collect(tmp_path / "heads/n_heads=2"))
    assert report["parts"][0]["arms"][1]["delta"]["mean"] == alone["arms"][1]["delta"]["mean"]
    assert report["parts"][0]["freedom_lost"] is None, "the synthetic config has no depth"
    folder = tmp_path / "heads/report"
    assert {f.name for f in folder.iterdir()} >= {
        "report.html",
        "report.json",
        "deltas.svg",
        "waterfalls.png",
        "table.md",
    }
    assert json.loads((folder / "report.json").read_text()) == report
    assert all(part in report["sentence"] for part in ("n_heads=2", "n_heads=8", "n_heads=10"))
    assert len(rows(report)) == 12
    assert write_joint(tmp_path / "heads") == report, "its own report is no study"


def test_studies_that_happen_to_lie_together_keep_their_verdicts(tmp_path: Path) -> None:
    for n in range(2):
        made(tmp_path / f"x/study{n}", seed=n, seeds=8)
    report = joint_report(tmp_path / "x")
    assert not report["one_study"]
    for n, part in enumerate(report["parts"]):
        assert part["arms"] == assemble(collect(tmp_path / f"x/study{n}"))["arms"]


def test_p_values_are_adjusted_over_all_points_of_a_study(tmp_path: Path) -> None:
    for n in range(3):
        made(tmp_path / f"x/n_heads={n}", seed=n, seeds=8)
    (tmp_path / "x/parts.json").write_text(json.dumps({"study": "heads", "points": {}}))
    report = joint_report(tmp_path / "x")
    alone = assemble(collect(tmp_path / "x/n_heads=0"))
    smallest = min(a["delta"]["p_t"] for p in report["parts"] for a in p["arms"][1:])
    [adjusted] = [a["delta"]["p_holm"] for p in report["parts"] for a in p["arms"][1:] if a["delta"]["p_t"] == smallest]
    assert adjusted == pytest.approx(min(1.0, 9 * smallest))
    for arm, of_one in zip(report["parts"][0]["arms"][1:], alone["arms"][1:], strict=True):
        assert arm["delta"]["p_holm"] >= of_one["delta"]["p_holm"]


def several(root: Path, points: int) -> Path:
    """A study of some points."""
    for n in range(points):
        made(root / f"n_heads={n}", seed=n, seeds=8)
    whole = {"study": root.name, "points": {f"n_heads={n}": [] for n in range(points)}, "tune": None}
    (root / "parts.json").write_text(json.dumps(whole))
    return root


def verdicts(part: dict[str, Any]) -> list[Any]:
    return [(arm["arm"], arm["verdict"], (arm["delta"] or {}).get("p_holm")) for arm in part["arms"]]


def test_a_part_has_the_same_verdicts_on_its_own_page(tmp_path: Path) -> None:
    root = several(tmp_path / "x", 3)
    joint = joint_report(root)
    for n, part in enumerate(joint["parts"]):
        alone = assemble(collect(root / f"n_heads={n}"))
        written = write_report(root / f"n_heads={n}")
        assert verdicts(written) == verdicts(part) != verdicts(alone)
        assert "a part of the study x: p is Holm's over all 9 contrasts of its parts" in written["notes"]
    with_another = write_report(root / "n_heads=0", baseline="none")
    assert not any("a part of" in note for note in with_another["notes"]), (
        "asked for otherwise, it is a question of its own"
    )


def test_pages_of_parts_are_written_again_where_later_parts_change_their_verdicts(tmp_path: Path) -> None:
    root = several(tmp_path / "x", 2)
    file = root / "n_heads=0/report/report.json"
    later = [run.rename(run.with_suffix(".later")) for run in (root / "n_heads=1").rglob("run.json")]
    first = write_report(root / "n_heads=0")
    for run in later:
        run.rename(run.with_suffix(".json"))
    joint = joint_report(root)
    assert verdicts(first) != verdicts(joint["parts"][0]), "what has not run yet counts as p = 1"
    write_again(root, joint)
    assert verdicts(json.loads(file.read_text())) == verdicts(joint["parts"][0])
    before = file.stat().st_mtime_ns
    write_again(root, joint)
    assert file.stat().st_mtime_ns == before
    assert not (root / "n_heads=1/report").exists(), "a page that nobody asked for is not begun here"


def test_studies_of_several_parts_that_lie_together_keep_their_verdicts(tmp_path: Path) -> None:
    roots = [several(tmp_path / "all" / name, 2) for name in ("a", "b")]
    (tmp_path / "all/b/parts.json").write_text(
        json.dumps({"study": "b", "points": {f"n_heads={n}": [] for n in range(3)}, "tune": None})
    )
    together = joint_report(tmp_path / "all")
    assert not together["one_study"]
    assert [verdicts(part) for part in together["parts"]] == [
        verdicts(part) for root in roots for part in joint_report(root)["parts"]
    ]
    assert together["notes"][0] == "not run yet: b/n_heads=2"


def test_arms_at_unequal_numbers_of_seeds_are_noted(tmp_path: Path) -> None:
    path = made(tmp_path / "s", seeds=8)
    assert not any("unequal numbers" in note for note in assemble(collect(path))["notes"])
    cells = json.loads((path / "plan.json").read_text())["cells"]
    changed(path, cells={cell: h for cell, h in cells.items() if cell != "none/seed=7"})
    [note] = [note for note in assemble(collect(path))["notes"] if "unequal numbers" in note]
    assert "dense 8, none 7" in note


def test_arms_that_were_not_planned_are_no_contrasts_of_the_study(tmp_path: Path) -> None:
    for n in range(2):
        path = made(tmp_path / f"x/n_heads={n}", seed=n, seeds=8)
        plan = json.loads((path / "plan.json").read_text())
        changed(path, arms={arm: words for arm, words in plan["arms"].items() if arm != "per_head"})
    whole = {"study": "heads", "points": {f"n_heads={n}": [] for n in range(3)}}
    (tmp_path / "x/parts.json").write_text(json.dumps(whole))
    report = write_joint(tmp_path / "x")
    arms = [arm for part in report["parts"] for arm in part["arms"][1:]]
    planned = [arm["delta"] for arm in arms if not arm["exploratory"]]
    first = min(planned, key=lambda delta: delta["p_t"])
    assert first["p_holm"] == pytest.approx(min(1.0, 6 * first["p_t"])), "two arms at each of three points"
    assert [row[4].endswith("exploratory)") for row in rows(report) if row[1] == "per_head"] == [True, True]


def test_points_with_margins_of_their_own_are_one_family(tmp_path: Path) -> None:
    for n in range(2):
        made(tmp_path / f"x/n_heads={n}", seed=n, seeds=8, margin=0.01 * (n + 1))
    (tmp_path / "x/parts.json").write_text(json.dumps({"study": "heads", "points": {}}))
    contrasts = [arm["delta"] for part in joint_report(tmp_path / "x")["parts"] for arm in part["arms"][1:]]
    first = min(contrasts, key=lambda delta: delta["p_t"])
    assert first["p_holm"] == pytest.approx(min(1.0, 6 * first["p_t"]))


def test_stages_of_tuning_are_told_apart(tmp_path: Path) -> None:
    root = tuned(tmp_path / "fair")
    made(root / "shared")
    made(root / "tuned", seed=3)
    losses = {arm: {1e-3: [2.2, 2.2], 3e-3: [2.0, 2.0], 9e-3: [2.1, None]} for arm in ARMS}
    grid_folder(root / "grid", {**losses, "none": {1e-3: [1.9, 1.9], 3e-3: [2.0, 2.0], 9e-3: [2.2, 2.2]}})
    report = write_joint(root)
    assert [(part["point"], part["stage"]) for part in report["parts"]] == [("", "shared"), ("", "tuned")]
    [tuning] = report["tunings"]
    assert tuning["best"] == {"dense": 3e-3, "none": 1e-3, "none_scaled": 3e-3, "per_head": 3e-3}
    assert tuning["losses"]["dense"] == {"0.001": 2.2, "0.003": 2.0, "0.009": None}
    assert any("best rate of none lies at the edge" in note for note in report["notes"])
    page = (root / "report/report.html").read_text()
    assert page.count("<svg") == 2
    assert "own best rate" in report["sentence"]


@pytest.mark.parametrize("tune", [True, False])
def test_a_study_may_be_named_like_a_stage(tmp_path: Path, tune: bool) -> None:
    root = tuned(tmp_path / "x") if tune else tmp_path / "x"
    made(root / "shared")
    made(root / "grid") if not tune else grid_folder(root / "grid", {"none": {1e-3: [2.0, 2.0], 3e-3: [1.0, 1.0]}})
    report = joint_report(root)
    places = [(part["point"], part["stage"]) for part in report["parts"]]
    assert places == ([("", "shared")] if tune else [("grid", ""), ("shared", "")])
    assert len(report["tunings"]) == tune


def test_seeds_that_are_missing_stay_undecided_in_the_joint_table(tmp_path: Path) -> None:
    made(tmp_path / "x/n_heads=1")
    path = made(tmp_path / "x/n_heads=2")
    (path / "none/seed=0/run.json").unlink()
    part = joint_report(tmp_path / "x")["parts"][1]
    none = next(arm for arm in part["arms"] if arm["arm"] == "none")
    assert none["verdict"] == "undecided"
    assert "1 of 4 seeds of none missing" in none["verdict_reason"]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "x/a")
    for run in (tmp_path / "x").rglob("run.json"):
        run.unlink()
    assert studies_below(tmp_path / "x") == [tmp_path / "x/a"]
    with pytest.raises(RequestError, match="holds no study with a finished run"):
        joint_report(tmp_path / "x")


def test_parts_that_have_not_run_are_named_and_count_among_the_contrasts(tmp_path: Path) -> None:
    made(tmp_path / "x/n_heads=1", seeds=8)
    whole = {"study": "heads", "points": {"n_heads=1": [], "n_heads=2": []}, "tune": None}
    (tmp_path / "x/parts.json").write_text(json.dumps(whole))
    report = joint_report(tmp_path / "x")
    assert report["notes"][0] == "not run yet: n_heads=2"
    contrasts = [arm["delta"] for arm in report["parts"][0]["arms"][1:]]
    first = min(contrasts, key=lambda delta: delta["p_t"])
    assert first["p_holm"] == pytest.approx(min(1.0, 6 * first["p_t"]))


def test_stages_that_have_not_run_are_named(tmp_path: Path) -> None:
    made(tuned(tmp_path / "x") / "shared")
    assert joint_report(tmp_path / "x")["notes"][0] == "not run yet: tuned"


def test_cells_of_a_grid_that_failed_are_named(tmp_path: Path) -> None:
    made(tuned(tmp_path / "x") / "shared")
    grid = grid_folder(tmp_path / "x/grid", {"none": {1e-3: [1.9, 1.9], 3e-3: [2.0, 2.0], 9e-3: [2.2, None]}})
    run = json.loads((grid / "none_lr0.001/seed=1/run.json").read_text())
    (grid / "none_lr0.001/seed=1/run.json").write_text(json.dumps(run | {"state": "failed", "result": None}))
    (grid / "none_lr0.003/seed=0/run.json").unlink()
    notes = joint_report(tmp_path / "x")["notes"]
    lost = "none_lr0.001/seed=1, none_lr0.003/seed=0"
    assert f"grid: 2 cell(s) have not ended, and their rates are left out: {lost}" in notes


@pytest.mark.parametrize("rates", [3, 5])
def test_few_rates_are_noted(tmp_path: Path, rates: int) -> None:
    made(tuned(tmp_path / "x") / "shared")
    curve: dict[float, list[float | None]] = {1e-3 * 2**i: [2.0 + abs(i - 1)] * 2 for i in range(rates)}
    grid_folder(tmp_path / "x/grid", {"none": curve})
    notes = [note for note in joint_report(tmp_path / "x")["notes"] if note.startswith("tuned on")]
    assert notes == (["tuned on 3 rates, where 5 tell an optimum from its neighbours"] if rates == 3 else [])


def test_a_widest_rate_at_the_end_of_the_grid_is_a_lower_bound() -> None:
    losses = {"a": {"0.001": 2.0, "0.003": 2.05}, "b": {"0.001": 2.0, "0.003": 2.5}}
    tuning = {
        "losses": losses,
        "best": {"a": 1e-3, "b": 1e-3},
        "widest_stable": {"a": 3e-3, "b": 1e-3},
        "sensitivity": {"a": 0.02, "b": 0.2},
    }
    assert [row[2] for row in tuning_rows(tuning)] == ["0.003 or more", "0.001"]


def test_what_algebra_foretells_stands_below_its_own_point(tmp_path: Path) -> None:
    for place in ("n_heads=1/shared", "n_heads=4/shared", "n_heads=4/tuned"):
        path = made(tuned(tmp_path / "x") / place)
        for config in path.rglob("config.yaml"):
            heads = 1 if "n_heads=1" in place else 4
            text = config.read_text().replace("n_heads: 4", f"n_heads: {heads}\n  n_layers: 2")
            config.write_text(text)
    figure = deltas_figure(joint_report(tmp_path / "x"))
    bars = [
        [round(bar.get_x() + bar.get_width() / 2) for bar in axes.patches if isinstance(bar, Rectangle)]
        for axes in figure.axes[2:]
    ]
    assert bars == [[0, 1], [1]]


def test_the_page_says_the_whole_command_and_the_table_is_in_latex(tmp_path: Path) -> None:
    made(tmp_path / "two words/a")
    write_joint(tmp_path / "two words", margin=0.5)
    page = (tmp_path / "two words/report/report.html").read_text()
    assert "two words&#x27; --margin 0.5</code>" in page
    table = (tmp_path / "two words/report/table.tex").read_text()
    assert table.count(r"\\") == 5
    assert "none\\_scaled" in table


def test_what_parts_differ_in_is_noted(tmp_path: Path) -> None:
    for place, steps, tokenizer in (("a", 30, "char"), ("b", 60, "char"), ("c", 60, "bpe")):
        path = made(tmp_path / "x" / place)
        for file in path.rglob("run.json"):
            run = json.loads(file.read_text())
            file.write_text(json.dumps(run | {"text": run["text"] | {"tokenizer": tokenizer}}))
        for config in path.rglob("config.yaml"):
            config.write_text(re.sub(r"steps: \d+", f"steps: {steps}", config.read_text()))
    notes = joint_report(tmp_path / "x")["notes"]
    assert "parts differ in trainer.steps: 30 (a); 60 (b, c)" in notes
    assert (
        "parts differ in tokenizer: char (a, b); bpe (c), so that their nats per token cannot be compared with each other"
        in notes
    )
    assert not any("parts differ in text" in note for note in notes)


def test_parts_of_different_commits_are_noted(tmp_path: Path) -> None:
    for place, commit in (("a", "a" * 40), ("b", "b" * 40), ("c", "b" * 40)):
        for file in made(tmp_path / "x" / place).rglob("run.json"):
            run = json.loads(file.read_text())
            run["provenance"]["git"] = {"commit": commit, "dirty": False}
            file.write_text(json.dumps(run))
    told = f"parts were made by different commits of the code: {'a' * 10} (a); {'b' * 10} (b, c)"
    assert told in joint_report(tmp_path / "x")["notes"]


def test_the_sentence_names_arms_where_parts_have_other_ones(tmp_path: Path) -> None:
    made(tmp_path / "x/a")
    path = made(tmp_path / "x/b")
    for run in path.glob("none/*/run.json"):
        run.unlink()
    sentence = joint_report(tmp_path / "x")["sentence"]
    assert "a none +" in sentence
    assert "b none_scaled +" in sentence


def test_one_seed_is_no_seeds(tmp_path: Path) -> None:
    path = made(tmp_path / "x/a", seeds=1, waterfall=CHAIN)
    (path / "none_scaled/seed=0/run.json").unlink()
    assert " over 1 paired seed, " in joint_report(tmp_path / "x")["sentence"]
    arm = next(arm for arm in assemble(collect(path))["arms"] if arm["arm"] == "none_scaled")
    assert arm["verdict_reason"] == "1 of 1 seed of none_scaled missing"
    made(tmp_path / "y", seeds=1, waterfall=CHAIN)
    write_report(tmp_path / "y")
    assert "Paired steps over 1 seed: " in (tmp_path / "y/report/report.html").read_text()


def test_every_evaluation_of_every_part_is_in_one_file(tmp_path: Path) -> None:
    for place in ("n_heads=1", "n_heads=2"):
        made(tmp_path / "x" / place)
    write_joint(tmp_path / "x")
    head, *lines = (tmp_path / "x/report/runs.csv").read_text().splitlines()
    assert head.startswith("part,arm,seed,state,step,")
    assert len(lines) == 2 * 4 * 4 * 3
    assert {line.split(",")[0] for line in lines} == {"n_heads=1", "n_heads=2"}


def test_names_are_escaped(tmp_path: Path) -> None:
    made(tmp_path / "x/<b>1")
    made(tmp_path / "x/<b>2")
    write_joint(tmp_path / "x")
    assert "<b>" not in (tmp_path / "x/report/report.html").read_text()


def test_a_notebook_shows_all_parts(tmp_path: Path) -> None:
    for heads in (1, 2):
        made(tmp_path / f"heads/n_heads={heads}", seed=heads)
    found = Comparison(tmp_path / "heads", joint_report(tmp_path / "heads"), None)
    assert list(found.table["part"]) == ["n_heads=1"] * 4 + ["n_heads=2"] * 4
    assert set(found.runs["part"]) == {"n_heads=1", "n_heads=2"}
    assert found.sentence in str(found)
    assert found._repr_html_().count("<tr>") == 9
