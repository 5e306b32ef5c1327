"""What is reported of screens, of studies over several settings, and of starts: on run folders that nobody trained."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from html import escape
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from mha_ablate.cli.common import print_joint, print_screen
from mha_ablate.cli.screen import as_plain
from mha_ablate.config.compose import compose
from mha_ablate.report import joint
from mha_ablate.report.board import rebuild_events
from mha_ablate.report.claim_cards import facts, heading
from mha_ablate.report.claims import cards
from mha_ablate.report.joint import joint_report, write_joint
from mha_ablate.report.joint_page import over_rows
from mha_ablate.report.joint_plots import joint_figures, screen_figure
from mha_ablate.report.screen import levels_in_words, lines, rows, step_command
from mha_ablate.report.starts import rows as start_rows
from mha_ablate.run.folder import StudyFolder
from mha_ablate.stats.over_points import over_points
from mha_ablate.study.collect import collect
from mha_ablate.study.parts import TUNED, write_parts
from scripts.published import settings
from tests.synthetic import write_study
from tests.unit.test_claims import CLAIM, part

ARMS = ["dense", "none", "per_head"]
HIGH = {"block": "model.block=pre", "heads": "model.n_heads=4", "rate": "optim.lr=3e-3"}
NOISE = 0.006  # of every seed, up or down: it leaves the mean of a point as it is
UP_AND_DOWN = [NOISE, -NOISE, NOISE, -NOISE]
Deltas = dict[str, list[float]]  # of an arm, by seed


def finished(path: Path, deltas: Deltas, changes: dict[str, Any] | None = None) -> Path:
    """A study of one part whose arms differ from dense by these, seed by seed; `changes` are of its configuration."""
    seeds = len(next(iter(deltas.values())))
    write_study(path, arms=["dense", *deltas], seeds=seeds, evaluations=1, logged=1)
    for file in path.rglob("run.json"):
        run = json.loads(file.read_text())
        of_seed = deltas.get(run["arm"], [0.0] * seeds)[run["seed"]]
        file.write_text(json.dumps(run | {"result": run["result"] | {"val_loss": 2.0 + of_seed}}))
        if changes:
            config = yaml.safe_load((file.parent / "config.yaml").read_text())
            merged = {k: {**config.get(k, {}), **changes.get(k, {})} for k in {**config, **changes} if k != "seed"}
            (file.parent / "config.yaml").write_text(yaml.safe_dump(merged | {"seed": run["seed"]}))
    return path


def planted(words: list[str], arm: str) -> float:
    """The true difference to dense at a point: `none` hinges on the block by 0.1 nats, and `per_head` on nothing."""
    return 0.1 + 0.05 * (1 if HIGH["block"] in words else -1) if arm == "none" else 0.02


def screen(root: Path, *words: str, truth: Any = planted, seeds: int = 4, backwards: bool = False) -> Path:
    """A screen as training would have left it: every point's arms differ from dense by `truth(its words, arm)`."""
    request = ["study=screen", "study.arms=[dense,none,per_head]", f"study.seeds={seeds}", *words]
    study = compose(request).config.study
    points = list(study.point_words.items())
    for point, levels in reversed(points) if backwards else points:
        finished(root / point, {arm: [truth(levels, arm) + e for e in UP_AND_DOWN[:seeds]] for arm in ARMS[1:]})
    write_parts(StudyFolder(root), study, request)
    return root


FOUR = "study.factors=[block,heads,rate,width]"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A screen of four factors in eight points with its pages, and its report."""
    root = screen(tmp_path_factory.mktemp("screens") / "mine", FOUR)
    return root, write_joint(root)


def of(report: dict[str, Any], factor: str, arm: str) -> dict[str, Any]:
    return next(row for row in report["screen"]["factors"] if (row["factor"], row["arm"]) == (factor, arm))


def diverge(root: Path, point: str, arm: str, seed: int = 0) -> None:
    file = root / point / arm / f"seed={seed}/run.json"
    run = json.loads(file.read_text())
    file.write_text(json.dumps(run | {"state": "diverged", "result": run["result"] | {"val_loss": None}}))


# --- screens


def test_a_planted_effect_is_found_and_nothing_else(written: tuple[Path, dict[str, Any]]) -> None:
    _, report = written
    found = of(report, "block", "none")
    assert found.keys() >= {"factor", "levels", "arm", "effect", "ci95", "p_holm"}
    assert found["levels"] == ["model.block=post", "model.block=pre"]
    assert found["effect"] == pytest.approx(0.1)
    # 2/P times the root of the sum of s^2/n over P = 8 points, with n = 4 and s^2 = 4/3 noise^2
    assert found["se"] == pytest.approx(2 / 8 * math.sqrt(8 * (4 / 3 * NOISE**2) / 4))
    assert found["ci95"][0] < 0.1 < found["ci95"][1]
    assert found["p_holm"] < 1e-6
    others = [row for row in report["screen"]["factors"] if row is not found]
    assert len(others) == 2 * 4 - 1
    for row in others:
        assert row["effect"] == pytest.approx(0, abs=1e-12)
        assert row["ci95"][0] < 0 < row["ci95"][1]
        assert row["p_holm"] == 1
    assert report["screen"]["tests"] is True
    said = report["screen"]["sentence"]
    assert said.startswith(
        "none minus dense hinges on these factors, in nats per token over 8 design points: block (post -> pre: +0.100, 95% CI"
    )
    assert "; the other 3 are not found to move it (Holm over 4 factors). Without p0" in said
    assert report["sentence"].startswith(said)
    assert rows(report["screen"])[0][:5] == ("block", "post", "pre", *[rows(report["screen"])[0][3]], "+0.000 ±0.005")
    assert rows(report["screen"])[0][3] == "+0.100 ±0.005*"


def test_what_the_command_prints_has_the_documented_keys(written: tuple[Path, dict[str, Any]]) -> None:
    root, report = written
    told = as_plain(report)
    assert list(told) == ["study", "name", "kind", "plan_hash", "screen", "over_points", "sentence", "notes"]
    assert told["screen"].keys() >= {"factors", "aliases", "design"}
    assert told["over_points"].keys() == {"none", "per_head"}
    for one in told["over_points"].values():
        assert one.keys() >= {"mean", "ci95", "between_sd", "prediction95", "points", "coverage"}
    assert json.loads((root / "report/report.json").read_text()) == report


def test_the_order_of_folders_and_points_changes_nothing(
    written: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, report = written
    other = screen(tmp_path / "mine", FOUR, backwards=True)
    held = json.loads((other / "parts.json").read_text())
    points = dict(reversed(held["points"].items()))
    (other / "parts.json").write_text(json.dumps(held | {"points": points}))
    in_order = joint.studies_below
    monkeypatch.setattr(joint, "studies_below", lambda path: [*in_order(path)[3:], *in_order(path)[:3]][::-1])
    again = joint_report(other)["screen"]
    assert list(again["design"]["points"]) == list(points), "it is another order"
    assert again == report["screen"]


def test_a_diverged_run_takes_its_point_out_for_that_arm(tmp_path: Path) -> None:
    root = screen(tmp_path / "mine", FOUR)
    whole = joint_report(root)["screen"]
    assert (whole["aliases"]["resolution"], whole["aliases"]["mixed"], whole["design"]["lost"]) == ("IV", {}, {})
    diverge(root, "p03", "none")
    report = joint_report(root)
    found = report["screen"]
    assert found["design"]["lost"] == {"none": ["p03"]}
    assert found["design"]["as_run"] == {"none": "III", "per_head": "IV"}
    assert found["aliases"]["resolution"] == "III"
    assert set(found["aliases"]["mixed"]) == {"block", "heads", "rate", "width"}
    assert of(report, "block", "none")["effect"] == pytest.approx(0.1), "without pairs nothing is mixed in"
    assert of(report, "block", "per_head")["se"] == of({"screen": whole}, "block", "per_head")["se"]
    assert "none minus dense moves most with" in report["sentence"]
    assert "nats per token, over 7 of 8 design points." in report["sentence"], "that arm has 7, though all 8 have run"
    assert "since there are too few points to tell a factor from the pairs" in report["sentence"]
    assert {row["p"] is None for row in found["factors"] if row["arm"] == "none"} == {True}
    assert {row["p"] is None for row in found["factors"] if row["arm"] == "per_head"} == {False}
    told = "\n".join(lines(found))
    assert "as run, effects are mixed with pairs of factors" in told
    assert "none: left out whole, since a seed is missing or diverged: p03 (resolution III without)" in told
    diverge(root, "p05", "dense")
    lost = joint_report(root)["screen"]["design"]["lost"]
    assert lost == {"none": ["p03", "p05"], "per_head": ["p05"]}, "without the baseline no arm has a difference"


def test_points_that_have_not_run_are_not_in_the_answer(tmp_path: Path) -> None:
    root = screen(tmp_path / "mine", FOUR)
    unrun(root, ["p08"])
    report = joint_report(root)
    assert (report["screen"]["design"]["done"], report["screen"]["design"]["runs"]) == (7, 8)
    assert "over 7 of 8 design points" in report["sentence"]
    assert "not run yet: p08" in report["notes"]
    assert report["screen"]["design"]["lost"] == {}
    assert not any("left out" in line for line in lines(report["screen"])), "it has not run, and was not left out"


def unrun(root: Path, points: Any) -> None:
    for point in points:
        for file in (root / point).rglob("run.json"):
            file.unlink()


@pytest.mark.parametrize("kept", [1, 2])
def test_too_few_points_to_tell_any_factor_are_said_to_be_too_few(kept: int, tmp_path: Path) -> None:
    root = screen(tmp_path / "mine", FOUR)
    unrun(root, [f"p{n:02}" for n in range(1 + kept, 9)])
    report = joint_report(root)
    assert {row["effect"] for row in report["screen"]["factors"]} == {None}
    assert report["sentence"].startswith(
        f"none minus dense is known at {kept} of 8 design points: too few to tell 4 factors apart, which takes 5 or more."
    )
    assert joint_figures(report).keys() >= {"screen", "deltas"}
    for point in ("p01", "p02")[:kept]:
        diverge(root, point, "dense")
    assert joint_report(root)["sentence"] == "No point of the screen has an arm to compare with its baseline yet."


def test_pairs_and_spreads_that_the_points_do_not_give_are_told(
    written: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole = lines(written[1]["screen"])
    assert not any("cannot be told" in line or "pooled" in line for line in whole)
    root = screen(tmp_path / "mine", FOUR)
    unrun(root, ["p06", "p07", "p08"])
    found = joint_report(root)["screen"]
    assert set(found["aliases"]["inseparable"]) == {
        f"{a} x {b}" for a, b in combinations(found["design"]["points"]["p01"], 2)
    }
    assert any(line.startswith("6 pairs cannot be told from the factors at all: ") for line in lines(found))
    one_seed = screen(tmp_path / "seeds", FOUR)
    shutil.rmtree(one_seed / "p08")
    finished(one_seed / "p08", {arm: [0.1] for arm in ARMS[1:]})
    found = joint_report(one_seed)["screen"]
    assert found["design"]["pooled"] == {"none": ["p08"], "per_head": ["p08"]}
    assert "none: one seed at p08, whose spread is taken to be that of the other points (pooled)" in lines(found)


def test_one_seed_ranks_and_tests_nothing(tmp_path: Path) -> None:
    report = write_joint(screen(tmp_path / "quick", FOUR, seeds=1))
    found = report["screen"]
    assert found["tests"] is False
    page = (tmp_path / "quick/report/report.html").read_text()
    assert "averaged over the others; nothing is tested." in page
    assert screen_figure(report).get_supxlabel().endswith("(nothing is tested)")
    assert "Holm's correction over the factors" not in page
    assert {row["p_holm"] for row in found["factors"]} == {row["p"] for row in found["pairs"]} == {None}
    assert {row["ci95"] for row in found["factors"]} == {None}
    assert found["factors"][0]["effect"] == pytest.approx(0.1)
    assert report["sentence"].startswith("A ranking that tests nothing, since one seed a point gives no error")
    assert found["next"]["words"][2] == "study.seeds=4", "the second step tests"
    assert report["over_points"]["none"]["mean"] == pytest.approx(0.1 + NOISE)
    assert report["over_points"]["none"]["ci95"] is None, "of one seed no spread is known"


def test_every_combination_of_three_factors_tells_their_pairs(tmp_path: Path) -> None:
    def with_pair(words: list[str], arm: str) -> float:
        signs = [1 if HIGH[name] in words else -1 for name in ("block", "heads")]
        return planted(words, arm) + 0.01 * signs[0] * signs[1]

    found = joint_report(screen(tmp_path / "three", "study.factors=[block,heads,rate]", truth=with_pair))["screen"]
    assert (len(found["design"]["points"]), found["aliases"]["resolution"], found["next"]) == (8, "V", None)
    pairs = {row["pairs"][0]: row for row in found["pairs"] if row["arm"] == "none"}
    assert pairs["block x heads"]["effect"] == pytest.approx(0.02)
    assert pairs["block x heads"]["p_holm"] < 0.01
    assert pairs["block x rate"]["p_holm"] > 0.9
    assert found["rest"]["none"]["p"] < 0.01, "the pair is left between points as well"


def test_pairs_that_were_found_stand_in_the_sentence_and_so_does_what_one_point_does(tmp_path: Path) -> None:
    def with_pair(words: list[str], arm: str) -> float:
        signs = [1 if HIGH[name] in words else -1 for name in ("block", "heads")]
        return planted(words, arm) + 0.01 * signs[0] * signs[1]

    report = joint_report(screen(tmp_path / "three", "study.factors=[block,heads,rate]", truth=with_pair))
    said = report["screen"]["sentence"]
    assert (
        "It hinges on pairs of them as well, so that neither effect of a pair holds by itself: block x heads +0.020"
        in said
    )
    assert "block x rate" not in said
    moves = report["screen"]["moves"]["none"]
    assert f"Without {moves['points'][0]}" in said
    assert f"an effect changes by up to {moves['by']:.3f}." in said
    without = joint_report(screen(tmp_path / "plain", "study.factors=[block,heads,rate]"))["screen"]["sentence"]
    assert "pairs" not in without


def by_rank(words: list[str], arm: str) -> float:
    """Differences that hinge on width most, then on rate, then on block, and not on heads."""
    weights = {"model.d_model=128": 0.03, HIGH["rate"]: -0.02, HIGH["block"]: 0.01}
    return sum(weight * (1 if word in words else -1) for word, weight in weights.items())


def test_the_second_step_is_a_request_of_the_three_strongest(tmp_path: Path) -> None:
    found = joint_report(screen(tmp_path / "mine", FOUR, truth=by_rank))["screen"]
    assert [row["factor"] for row in found["factors"] if row["arm"] == "none"] == ["width", "rate", "block", "heads"]
    step = found["next"]
    assert step["words"][0] == "study.factors=[block,rate,width]"
    study = compose(["study=screen", *step["words"]]).config.study
    assert list(study.factor_words) == ["block", "rate", "width"]
    assert len(study.point_words) * len(study.chosen) * len(study.seed_list) == step["runs"] == 8 * 3 * 4
    assert step["core_minutes"] == pytest.approx(step["runs"] * 2 / 60), "a synthetic run takes two seconds"


def test_the_second_step_stands_once_in_the_text_and_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["trainer.steps=7", "name=mine", "init.out='normal(std=0.02 / sqrt(2 L))'"]
    report = write_joint(root := screen(tmp_path / "mine", FOUR, *given, truth=by_rank))
    command = step_command(report["screen"]["next"])
    kept = ["trainer.steps=7", given[2]]
    assert shlex.split(command) == ["mha-ablate", "screen", *kept, *report["screen"]["next"]["words"]]
    line = f"(96 runs, about 3 minutes of one core): {command}"
    assert [told.endswith(line) for told in lines(report["screen"])].count(True) == 1
    assert lines(report["screen"])[-1].startswith("next: every combination of the 3 strongest factors")
    assert (root / "report/report.html").read_text().count(escape(line)) == 1
    print_joint(report)
    assert capsys.readouterr().out.count(command) == 1, "also from compare and report, and not cut into lines"


def test_a_narrow_terminal_does_not_cut_the_command_of_the_second_step(tmp_path: Path) -> None:
    found = joint_report(screen(tmp_path / "mine", FOUR, truth=by_rank))["screen"]
    out = Console(file=StringIO(), force_terminal=True, width=60, color_system=None)
    print_screen(out, found)
    assert isinstance(out.file, StringIO)
    assert step_command(found["next"]) in out.file.getvalue()
    assert max(map(len, out.file.getvalue().splitlines()[:-2])) <= 60, "words of other lines are wrapped"


def test_the_second_step_of_factors_of_ones_own_brings_them_along(tmp_path: Path) -> None:
    own = (
        "study.factors={block: [model.block=post,model.block=pre], size: [[model.n_heads=1,model.d_model=64],"
        "[model.n_heads=4,model.d_model=128]], start: [init.out=normal(std=0.02),init.out=zeros()], "
        "rate: [optim.lr=1e-3,optim.lr=3e-3]}"
    )
    step = joint_report(screen(tmp_path / "mine", own, truth=by_rank))["screen"]["next"]
    words = compose(["study=screen", *step["words"]]).config.study.factor_words
    assert list(words) == ["block", "size", "rate"]
    assert words["size"] == (["model.n_heads=1", "model.d_model=64"], ["model.n_heads=4", "model.d_model=128"])
    assert words["rate"] == (["optim.lr=1e-3"], ["optim.lr=3e-3"])


def test_levels_are_read_from_the_words_of_a_point() -> None:
    factors = {
        "block": [["model.block=post"], ["model.block=pre"]],
        "more": [["a=1"], ["a=1", "b=2"]],
        "after": [["b=2"], ["b=3"]],
    }
    assert levels_in_words(["model.block=pre", "a=1", "b=2"], factors) == {"block": "pre", "more": "a=1", "after": "2"}
    both = levels_in_words(["model.block=post", "a=1", "b=2", "b=3"], factors)
    assert both == {"block": "post", "more": "a=1 b=2", "after": "3"}
    assert levels_in_words(["model.n_heads=4"], {}) == {}
    assert levels_in_words(["model.block=else"], factors) == {}


def test_points_that_are_not_those_of_the_factors_are_no_screen(tmp_path: Path) -> None:
    root = screen(tmp_path / "mine", "study.factors=[block]")
    held = json.loads((root / "parts.json").read_text())
    (root / "parts.json").write_text(json.dumps(held | {"points": {"p01": ["model.block=post"], "p02": ["else=1"]}}))
    report = joint_report(root)
    assert report["screen"] is None
    assert report["sentence"].startswith("What none")
    rebuild_events(collect(root / "p02"), "dense", {})
    assert "block" not in read(root / "p02/none/seed=0")[0]


def test_the_page_and_the_figures_of_a_screen(written: tuple[Path, dict[str, Any]]) -> None:
    root, _ = written
    assert {file.name for file in (root / "report").iterdir()} >= {"screen.svg", "screen.png", "deltas.svg"}
    page = (root / "report/report.html").read_text()
    assert "<h2>What it hinges on</h2>" in page
    assert "<h2>Over settings</h2>" in page
    assert "+0.100 ±0.005*" in page
    assert "design: 8 points, 4 factors, resolution IV" in page
    assert page.count("<svg") == 2


def test_every_text_of_a_screen_is_escaped(tmp_path: Path) -> None:
    root = screen(tmp_path / "mine", "study.factors=[block,heads]")
    text = (root / "parts.json").read_text().replace('"block"', '"<b>lock"').replace("model.block=pre", "model.<i>=pre")
    (root / "parts.json").write_text(text)
    for plan in (tmp_path / "mine").rglob("plan.json"):
        plan.write_text(plan.read_text().replace("per_head", "<u>"))
    for run in (tmp_path / "mine").rglob("run.json"):
        run.write_text(run.read_text().replace("per_head", "<u>"))
    report = write_joint(root)
    assert {row["factor"] for row in report["screen"]["factors"]} == {"<b>lock", "heads"}
    assert "<u>" in report["screen"]["arms"]
    page = (root / "report/report.html").read_text()
    assert not any(word in page for word in ("<b>lock", "<i>=pre", "<u>"))
    assert "&lt;b&gt;lock" in page


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """The hparams of a run, and the session that they are of, by TensorBoard's own reader."""
    about = EventAccumulator(str(folder)).Reload().summary_metadata
    parse = plugin_data_pb2.HParamsPluginData.FromString  # pyright: ignore[reportAttributeAccessIssue]
    start = parse(about[metadata.SESSION_START_INFO_TAG].plugin_data.content).session_start_info
    return {name: value.string_value or value.number_value for name, value in start.hparams.items()}, start.group_name


def test_the_hparams_of_a_run_hold_its_point(tmp_path: Path) -> None:
    root = screen(tmp_path / "mine", "study.factors=[block,heads]", seeds=1)
    found = {}
    for point in ("p01", "p04"):
        rebuild_events(collect(root / point), "dense", {})
        found[point] = {arm: read(root / point / arm / "seed=0") for arm in ("dense", "none")}
    assert found["p01"]["none"][0].items() >= {"arm": "none", "block": "post", "heads": "1"}.items()
    assert found["p04"]["none"][0].items() >= {"arm": "none", "block": "pre", "heads": "4"}.items()
    sessions = [session for of_point in found.values() for _, session in of_point.values()]
    assert len(set(sessions)) == 4, "runs of two points are not one row of the table"
    rebuild_events(collect(finished(tmp_path / "plain", {"none": [0.1]})), "dense", {})
    assert "block" not in read(tmp_path / "plain/none/seed=0")[0]


# --- over settings


def several(root: Path, means: list[float], seeds: int = 4, **changes: Any) -> Path:
    """A study at several points without an order, at which `none` differs from dense by these."""
    names = [f"at-{chr(97 + n)}" for n in range(len(means))]
    for name, mean in zip(names, means, strict=True):
        finished(root / name, {"none": [mean + e for e in UP_AND_DOWN[:seeds]], "per_head": UP_AND_DOWN[:seeds]})
    whole = {"study": root.name, "baseline": "dense", "points": {name: [] for name in names}, "tune": None}
    (root / "parts.json").write_text(json.dumps(whole | changes))
    return root


MEANS = [0.01, 0.02, 0.03, 0.05, 0.04]


def test_the_mean_over_points_and_what_a_new_one_may_show(tmp_path: Path) -> None:
    report = joint_report(several(tmp_path / "x", MEANS))
    found = report["over_points"]["none"]
    variance = 4 / 3 * NOISE**2 / 4
    assert found["points"] == 5
    assert found["mean"] == pytest.approx(0.03), "all points weigh the same, since their seeds spread alike"
    assert found["between_sd"] == pytest.approx(math.sqrt(0.00025 - variance), rel=1e-6), (
        "variance of the means less that"
    )
    half = 2.776445 * math.sqrt(0.00025 / 5)
    assert found["ci95"] == pytest.approx([0.03 - half, 0.03 + half], abs=1e-6)
    wide = 2.776445 * math.sqrt(0.00025 - variance + 0.00025 / 5)
    assert found["prediction95"] == pytest.approx([0.03 - wide, 0.03 + wide], abs=1e-6)
    direct = over_points(MEANS, [variance] * 5, [4] * 5)
    assert found["coverage"] == pytest.approx(direct.coverage, rel=1e-6)
    assert 0.8 < found["coverage"] < 1
    assert "Over 5 settings none minus the baseline is +0.030 nats per token on average" in report["sentence"]
    said = "of simulations at this size with the spread between settings that is estimated here)"
    assert f"which holds in {found['coverage']:.0%} {said}" in report["sentence"]
    assert report["over_points"]["per_head"]["between_sd"] == 0


def test_settings_that_are_not_found_to_differ_are_not_said_to_be_alike(tmp_path: Path) -> None:
    report = joint_report(several(tmp_path / "x", [0.03] * 5))
    assert report["over_points"]["none"]["between_sd"] == 0
    assert (
        "no difference between settings is found beyond chance, which does not show that they are alike"
        in (report["sentence"])
    )
    assert "of simulations at this size whose settings do not differ, and in fewer if they do)" in report["sentence"]


def test_below_five_points_nothing_is_said_of_a_new_one(tmp_path: Path) -> None:
    report = joint_report(several(tmp_path / "x", MEANS[:4]))
    found = report["over_points"]["none"]
    assert (found["points"], found["prediction95"], found["coverage"]) == (4, None, None)
    assert found["ci95"][0] < found["mean"] < found["ci95"][1]
    assert "Over 4 settings" not in report["sentence"]


def test_points_with_an_arm_that_is_no_fair_pair_are_left_out(tmp_path: Path) -> None:
    root = several(tmp_path / "x", [*MEANS, 5.0])
    diverge(root, "at-f", "none", seed=2)
    report = joint_report(root)
    assert report["over_points"]["none"]["points"] == 5
    assert report["over_points"]["none"]["mean"] == pytest.approx(0.03)
    assert report["over_points"]["per_head"]["points"] == 6


def test_one_point_or_unrelated_studies_have_no_mean_over_settings(tmp_path: Path) -> None:
    assert joint_report(several(tmp_path / "one", MEANS[:1]))["over_points"] == {}
    apart = several(tmp_path / "apart", MEANS)
    (apart / "parts.json").unlink()
    assert joint_report(apart)["over_points"] == {}, "studies that happen to lie together are no sample of settings"


def test_points_of_one_seed_have_their_mean_and_nothing_beside_it(tmp_path: Path) -> None:
    root = several(tmp_path / "seed", MEANS, seeds=1)
    report = write_joint(root)
    unknown = dict.fromkeys(("ci95", "between_sd", "prediction95", "coverage", "ci_coverage"))
    assert report["over_points"]["none"] == {"mean": pytest.approx(0.03 + NOISE), "points": 5, "stage": "", **unknown}
    assert over_rows(report)[0] == ("none", "5", "+0.0360", "-", "-", "-")
    assert "Over 5 settings" not in report["sentence"]
    assert "<h2>Over settings</h2>" in (root / "report/report.html").read_text()
    finished(root / "at-f", {"none": [1.0 + e for e in UP_AND_DOWN], "per_head": UP_AND_DOWN})
    assert joint_report(root)["over_points"]["none"]["points"] == 6, (
        "one point with a spread does not give that of the others"
    )


# --- starts

LOUDER = {"at-a": 1.0, "at-b": 1.0, "at-c": 2.0, "at-d": 4.0, "at-e": 8.0}
NONE = {"at-a": 0.01, "at-b": 0.03, "at-c": 0.02, "at-d": 0.05, "at-e": 0.04, "at-f": 0.0}


def by_start(root: Path, names: dict[str, str] | None = None) -> Path:
    """A study of six starts: W_O begins with these gains, and with 0 at the last."""
    names = names or {name: name for name in NONE}
    for name, mean in NONE.items():
        out = f"uniform(gain=1 / {LOUDER[name]:g})" if name in LOUDER else "zeros()"
        sizes = {"n_layers": 2, "d_ff": None, "head_dim": None}
        deltas = {"none": [mean + e for e in UP_AND_DOWN], "per_head": UP_AND_DOWN}
        if name == "at-c":
            del deltas["per_head"]
        finished(root / names[name], deltas, {"model": sizes, "init": {"out": out}})
    whole = {"study": "starts", "baseline": "dense", "points": {name: [] for name in names.values()}, "tune": None}
    (root / "parts.json").write_text(json.dumps(whole))
    return root


def test_starts_are_told_by_how_much_louder_the_branch_becomes(tmp_path: Path) -> None:
    report = joint_report(by_start(tmp_path / "starts"))
    starts = report["starts"]
    assert {name: one["louder"] for name, one in starts["points"].items()} == pytest.approx({**LOUDER, "at-f": None})
    assert starts["points"]["at-f"]["gain_out"] == 0
    # ranks 1.5 1.5 3 4 5 6 and 2 4 3 6 5 1, less 3.5 each: products -0.5, squares 17 and 17.5
    assert starts["order"] == {"none": pytest.approx(-0.5 / math.sqrt(17 * 17.5)), "per_head": None}
    assert starts["order_p"]["none"] > 0.9
    assert starts["order_p"]["per_head"] is None
    assert starts["over"] == {"none": 6, "per_head": 5}
    said = "How much larger the branch starts once fc_out is gone, against none minus dense: rank correlation -0.03 (p = 0.98)"
    assert f"{said} over 6 starts." in report["sentence"]


def test_a_start_from_zero_is_the_one_that_becomes_largest(tmp_path: Path) -> None:
    report = joint_report(by_start(tmp_path / "starts"))
    assert [row[0] for row in start_rows(report)[::2]][:2] == ["at-f", "at-e"]
    assert start_rows(report)[0][1:3] == ("0.000", "from 0")
    axes = joint_figures(report)["starts"].axes
    assert [label.get_text() for label in axes[0].get_yticklabels()][:2] == ["at-f   from 0", "at-e   8.0x"]
    assert axes[0].yaxis_inverted(), "the first is on top"
    assert [text.get_text() for text in axes[0].texts] == ["rank correlation -0.03 (p = 0.98)"]
    for file in (tmp_path / "starts/at-f/none").rglob("run.json"):
        run = json.loads(file.read_text())
        file.write_text(json.dumps(run | {"result": run["result"] | {"val_loss": 5.0}}))
    later = joint_report(tmp_path / "starts")["starts"]["order"]["none"]
    assert later == pytest.approx(14.5 / math.sqrt(17 * 17.5)), "as the largest, it is one that agrees"


def test_a_study_of_many_starts_gets_a_figure_with_room(tmp_path: Path) -> None:
    few, many = by_start(tmp_path / "few"), by_start(tmp_path / "many")
    held = json.loads((many / "parts.json").read_text())
    for name in list(NONE):
        shutil.copytree(many / name, many / f"{name}_tied")
        held["points"][f"{name}_tied"] = ["model.tied_embedding=true"]
    (many / "parts.json").write_text(json.dumps(held))
    report = joint_report(many)
    assert len(report["starts"]["points"]) == report["starts"]["over"]["none"] == 12
    heights = [joint_figures(joint_report(root))["starts"].get_size_inches()[1] for root in (few, many)]
    assert heights[1] - heights[0] == pytest.approx(6 * 0.33)
    assert len(start_rows(report)) == 2 * len(start_rows(joint_report(few)))


def test_starts_of_few_gains_or_along_an_axis_have_no_table(tmp_path: Path) -> None:
    root = by_start(tmp_path / "few")
    for config in [*root.glob("at-[def]/*/*/config.yaml")]:
        config.write_text(config.read_text().replace("1 / 4", "1 / 2").replace("1 / 8", "1 / 2"))
    for config in root.glob("at-f/*/*/config.yaml"):
        config.write_text(config.read_text().replace("zeros()", "uniform(gain=0.5)"))
    assert joint_report(root)["starts"] is None
    along = by_start(tmp_path / "along", {name: f"gain={n}" for n, name in enumerate(NONE)})
    report = joint_report(along)
    assert report["starts"] is None
    assert joint_figures(report).keys() == {"deltas", "losses"}
    assert joint_figures(joint_report(root)).keys() == {"deltas"}, "without an axis there is no curve"


def test_the_page_of_starts_has_its_table_and_figure_and_every_name_is_escaped(tmp_path: Path) -> None:
    write_joint(by_start(tmp_path / "x", {name: f"<b>{name}" for name in NONE}))
    assert {file.name for file in (tmp_path / "x/report").glob("*.svg")} == {"starts.svg", "deltas.svg"}
    page = (tmp_path / "x/report/report.html").read_text()
    assert "<h2>By how W_O starts</h2>" in page
    assert "8.00x" in page
    assert "<b>" not in page


def test_the_map_of_the_readme_names_a_tied_start_by_its_words(tmp_path: Path) -> None:
    names: dict[str, str] = dict(zip(NONE, ["gpt2", "torch", "flax", "t5", "keras", "gpt2_tied"], strict=True))
    report = joint_report(by_start(tmp_path / "starts", names))
    for one in report["parts"]:
        one["stage"] = TUNED
    rows_by_init = {row[1]: row for row in settings.map_rows({settings.STARTS: report}, lambda _, rows: rows)}
    assert rows_by_init["`init=gpt2`"][0] == settings.CODES["gpt2"]
    tied = rows_by_init["`init=gpt2 model.tied_embedding=true`"]
    assert (tied[0], tied[2]) == (f"{settings.CODES['gpt2']}; output layer tied to the embedding", "from 0")


# --- claims


def card(points: dict[str, list[str]], verdicts: dict[str, str]) -> dict[str, Any]:
    claim = {**CLAIM, "costs": [], "expects": {"none": "costs"}}
    whole = {"claims": {"x": claim}, "points": points, "arms": {}}
    return cards(whole, [part(verdict, 5.0, point) for point, verdict in verdicts.items()], [])[0]


def test_a_claim_whose_verdict_turns_with_the_start_says_so() -> None:
    points = {"base": [], "torch": ["init=torch"], "torch8": ["init=torch", "model.n_heads=8"]}
    found = card(points, {"base": "costs", "torch": "equivalent", "torch8": "equivalent"})
    assert found["starts"] == {"the study's own": "supported", "init=torch": "refuted"}
    assert found["turns"] is True
    assert "turns with the start" in heading(found)
    [told] = [text for name, text in facts(found) if name == "By start"]
    assert told.endswith("supported under the study's own, refuted under init=torch")


def test_a_start_is_named_by_all_of_its_words() -> None:
    gpt2 = ["init=gpt2", "model.tied_embedding=true"]
    points = {"base": [], "n_heads=1": ["model.n_heads=1"], "gpt2": gpt2, "gpt2_n_heads=1": [*gpt2, "model.n_heads=1"]}
    found = card(points, dict(zip(points, ("equivalent", "equivalent", "costs", "costs"), strict=True)))
    assert found["starts"] == {"the study's own": "refuted", "init=gpt2 model.tied_embedding=true": "supported"}
    assert found["turns"] is True
    [told] = [text for name, text in facts(found) if name == "By start"]
    assert "supported under init=gpt2 model.tied_embedding=true" in told


def test_starts_are_compared_at_the_same_other_settings_alone() -> None:
    points = {"base": [], "heads": ["model.n_heads=8"], "torch": ["init=torch"]}
    found = card(points, {"base": "equivalent", "heads": "costs", "torch": "equivalent"})
    assert found["starts"] == {"the study's own": "refuted", "init=torch": "refuted"}
    assert (found["verdict"], found["turns"]) == ("supported only if", False), "it turns with the heads"
    apart = card({"base": [], "torch8": ["init=torch", "model.n_heads=8"]}, {"base": "costs", "torch8": "equivalent"})
    assert (apart["starts"], apart["turns"]) == ({}, False), "no two points differ in the start alone"
    tied = {"base": [], "tied": ["model.tied_embedding=true"]}
    assert card(tied, {"base": "costs", "tied": "equivalent"})["starts"] == {}, "one init"
    rules = {"a": ["init.out=normal(std=1 / 2)"], "b": ["init.out=normal(std=1 / 4)", "study.arms=[dense,none]"]}
    assert card(rules, {"a": "costs", "b": "equivalent"})["turns"] is True


def test_another_condition_is_no_turn_by_the_start() -> None:
    points = {"base": [], "heads": ["model.n_heads=8"]}
    points |= {f"{name}_t": ["init=torch", *words] for name, words in points.items()}
    verdicts = {"base": "equivalent", "heads": "costs", "base_t": "costs", "heads_t": "costs"}
    found = card(points, verdicts)
    assert found["starts"] == {"the study's own": "supported only if", "init=torch": "supported"}
    assert found["turns"] is False


def test_a_claim_under_one_start_or_undecided_under_the_other_does_not_turn() -> None:
    alone = card({"base": [], "heads": ["model.n_heads=8"]}, {"base": "costs", "heads": "equivalent"})
    assert (alone["starts"], alone["turns"]) == ({}, False)
    open_yet = card({"base": [], "torch": ["init=torch"]}, {"base": "costs", "torch": "undecided"})
    assert open_yet["starts"] == {"the study's own": "supported", "init=torch": "undecided"}
    assert open_yet["turns"] is False
    assert "turns with the start" not in heading(open_yet)
