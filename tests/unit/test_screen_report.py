"""What is reported of screens, of studies over several settings, and of starts: on run folders that nobody trained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from mha_ablate.cli.screen import as_plain
from mha_ablate.config.compose import compose
from mha_ablate.report import joint
from mha_ablate.report.board import rebuild_events
from mha_ablate.report.claim_cards import facts, heading
from mha_ablate.report.claims import cards
from mha_ablate.report.joint import joint_report, write_joint
from mha_ablate.report.joint_plots import joint_figures
from mha_ablate.report.screen import levels_in_words, lines, rows
from mha_ablate.report.starts import rank_correlation
from mha_ablate.run.folder import StudyFolder
from mha_ablate.stats.over_points import over_points
from mha_ablate.study.collect import collect
from mha_ablate.study.parts import write_parts
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
    assert "none minus dense hinges on" in report["sentence"]
    assert "block (post -> pre: +0.100, 95% CI" in report["sentence"]
    assert "the other 3 are not found to" in report["sentence"]
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
    told = "\n".join(lines(found))
    assert "as run, effects are mixed with pairs of factors" in told
    assert "none: left out whole, since a seed is missing or diverged: p03 (resolution III without)" in told
    diverge(root, "p05", "dense")
    lost = joint_report(root)["screen"]["design"]["lost"]
    assert lost == {"none": ["p03", "p05"], "per_head": ["p05"]}, "without the baseline no arm has a difference"


def test_points_that_have_not_run_are_not_in_the_answer(tmp_path: Path) -> None:
    root = screen(tmp_path / "mine", FOUR)
    for file in (root / "p08").rglob("run.json"):
        file.unlink()
    report = joint_report(root)
    assert (report["screen"]["design"]["done"], report["screen"]["design"]["runs"]) == (7, 8)
    assert "over 7 design points of 8" in report["sentence"]
    assert "not run yet: p08" in report["notes"]


def test_one_seed_ranks_and_tests_nothing(tmp_path: Path) -> None:
    report = joint_report(screen(tmp_path / "quick", FOUR, seeds=1))
    found = report["screen"]
    assert found["tests"] is False
    assert {row["p_holm"] for row in found["factors"]} == {row["p"] for row in found["pairs"]} == {None}
    assert {row["ci95"] for row in found["factors"]} == {None}
    assert found["factors"][0]["effect"] == pytest.approx(0.1)
    assert report["sentence"].startswith("A ranking that tests nothing, since one seed a point gives no error")
    assert found["next"]["words"][2] == "study.seeds=4", "the second step tests"
    assert report["over_points"] == {}, "of one seed no spread is known"


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
    assert f"which holds in {found['coverage']:.0%} of simulations" in report["sentence"]
    assert report["over_points"]["per_head"]["between_sd"] == 0


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


def test_one_point_and_points_of_one_seed_have_no_mean_over_settings(tmp_path: Path) -> None:
    assert joint_report(several(tmp_path / "one", MEANS[:1]))["over_points"] == {}
    assert joint_report(several(tmp_path / "seed", MEANS, seeds=1))["over_points"] == {}
    apart = several(tmp_path / "apart", MEANS)
    (apart / "parts.json").unlink()
    assert joint_report(apart)["over_points"] == {}, "studies that happen to lie together are no sample of settings"


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
    # ranks 1.5 1.5 3 4 5 and 1 3 2 5 4, less 3 each: products 7, squares 9.5 and 10
    assert starts["order"] == {"none": pytest.approx(7 / math.sqrt(95)), "per_head": None}
    assert starts["over"] == {"none": 5, "per_head": 4}
    assert "goes some way to order what none costs: rank correlation +0.72 over 5 starts." in report["sentence"]


def test_ties_share_their_rank() -> None:
    assert rank_correlation([(1, 1), (2, 2), (3, 3)]) == pytest.approx(1)
    assert rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert rank_correlation([(1, 1), (1 + 1e-9, 2), (2, 3), (3, 3)]) == pytest.approx(4 / 4.5), "rounding is a tie"
    assert rank_correlation([(1, 1), (1, 2), (1, 3)]) is None


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


def test_a_claim_under_one_start_or_undecided_under_the_other_does_not_turn() -> None:
    alone = card({"base": [], "heads": ["model.n_heads=8"]}, {"base": "costs", "heads": "equivalent"})
    assert (alone["starts"], alone["turns"]) == ({}, False)
    open_yet = card({"base": [], "torch": ["init=torch"]}, {"base": "costs", "torch": "undecided"})
    assert open_yet["starts"] == {"the study's own": "supported", "init=torch": "undecided"}
    assert open_yet["turns"] is False
    assert "turns with the start" not in heading(open_yet)
