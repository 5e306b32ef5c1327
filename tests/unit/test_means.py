"""Means over seeds in TensorBoard: right to the last number, and no run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from mha_ablate.errors import RequestError
from mha_ablate.report import live
from mha_ablate.report.board import has_means, links
from mha_ablate.report.live import LiveBoard
from mha_ablate.report.means import mean_folders
from mha_ablate.report.write import write_report
from mha_ablate.run.folder import StudyFolder
from mha_ablate.study.collect import collect
from mha_ablate.study.observer import Observer
from mha_ablate.study.progress import Progress
from tests.synthetic import write_study

ARMS, SEEDS, EVALUATIONS = ["dense", "none", "mean"], 4, 5
LAST = 100  # step


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic study with its report."""
    path = write_study(tmp_path_factory.mktemp("means") / "study", arms=ARMS, seeds=SEEDS, evaluations=EVALUATIONS)
    write_report(path)
    return path


@pytest.fixture
def study(reported: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return shutil.copytree(reported, tmp_path / "study")


def evaluations(study: Path, arm: str, seed: int) -> dict[int, dict[str, Any]]:
    text = (study / arm / f"seed={seed}" / "metrics.jsonl").read_text()
    return {line["step"]: line for line in map(json.loads, text.splitlines()) if "loss/val" in line}


def losses(study: Path, arm: str) -> np.ndarray:
    """By step and seed."""
    return np.array([[line["loss/val"] for line in evaluations(study, arm, s).values()] for s in range(SEEDS)]).T


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def curve(folder: Path, tag: str) -> tuple[list[int], list[float]]:
    points = read(folder).Scalars(tag)
    return [p.step for p in points], [p.value for p in points]


def event_files(study: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in sorted(study.rglob("events.out.tfevents*"))}


def rewrite(study: Path, arm: str, seed: int, *, upto: int, **run: Any) -> None:
    """Have a run end, or stand, after a step."""
    folder = study / arm / f"seed={seed}"
    lines = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] <= upto]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | run))


# ---- numbers


@pytest.mark.parametrize("arm", ARMS)
def test_the_mean_is_that_of_the_lines(arm: str, reported: Path) -> None:
    of_seeds = losses(reported, arm)
    steps, means = curve(reported / arm / "mean", "loss/val")
    assert steps == list(evaluations(reported, arm, 0))
    assert means == pytest.approx(of_seeds.mean(1), abs=1e-6)
    assert curve(reported / arm / "mean", "zz_band/loss_mean") == (steps, means)
    assert curve(reported / arm / "mean", "zz_band/seeds") == (steps, [SEEDS] * EVALUATIONS)


@pytest.mark.parametrize("arm", ARMS[1:])
def test_the_difference_is_paired_by_seed(arm: str, reported: Path) -> None:
    pairs = losses(reported, arm) - losses(reported, "dense")
    steps, means = curve(reported / arm / "mean", "cost/delta_val_loss")
    assert steps == list(evaluations(reported, arm, 0))
    assert means == pytest.approx(pairs.mean(1), abs=1e-6)
    assert curve(reported / arm / "mean", "zz_band/delta_mean") == (steps, means)
    report = json.loads((reported / "report/report.json").read_text())
    [told] = [a for a in report["arms"] if a["arm"] == arm]
    assert means[-1] == pytest.approx(told["delta"]["mean"], abs=1e-6)


@pytest.mark.parametrize("arm", ARMS)
def test_the_bands_are_t_intervals(arm: str, reported: Path) -> None:
    samples = {"loss": losses(reported, arm), "delta": losses(reported, arm) - losses(reported, "dense")}
    for name in ["loss"] if arm == "dense" else samples:
        ends = [curve(reported / arm / "mean", f"zz_band/{name}_{end}")[1] for end in ("lo", "hi")]
        for i, sample in enumerate(samples[name]):
            low, high = stats.t.interval(0.95, SEEDS - 1, sample.mean(), stats.sem(sample))
            assert [ends[0][i], ends[1][i]] == pytest.approx([low, high], abs=1e-6)


def test_the_baseline_has_no_difference_to_itself(reported: Path) -> None:
    tags = read(reported / "dense/mean").Tags()["scalars"]
    assert not [tag for tag in tags if "delta" in tag]


def test_twins_have_the_mean_of_what_their_axis_counts(reported: Path) -> None:
    _, means = curve(reported / "none/mean", "loss/val")
    lines = evaluations(reported, "none", 0).values()  # whose counts and times are those of all seeds
    for tag, key, factor in (("tokens", "tokens", 1), ("gflop", "gflop", 1), ("train_ms", "train_s", 1000)):
        at, values = curve(reported / "none/mean", f"loss/val_by_{tag}")
        assert at == [round(line[key] * factor) for line in lines]
        assert values == means


def test_a_seed_that_has_not_come_so_far_is_not_in_the_mean(study: Path) -> None:
    rewrite(study, "none", 3, upto=60, state="running", result=None)
    rewrite(study, "dense", 0, upto=80, state="diverged")
    write_report(study)
    steps, counts = curve(study / "none/mean", "zz_band/seeds")
    assert dict(zip(steps, counts, strict=True)) == {20: 4, 40: 4, 60: 4, 80: 3, 100: 3}
    own = [evaluations(study, "none", s) for s in range(SEEDS)]
    base = [evaluations(study, "dense", s) for s in range(SEEDS)]
    steps, means = curve(study / "none/mean", "cost/delta_val_loss")
    for step, mean in zip(steps, means, strict=True):
        pairs = [
            a[step]["loss/val"] - b[step]["loss/val"] for a, b in zip(own, base, strict=True) if step in a.keys() & b
        ]
        assert mean == pytest.approx(np.mean(pairs), abs=1e-6)
    assert steps[-1] == LAST
    assert curve(study / "none/mean", "loss/val")[1][-1] == pytest.approx(
        np.mean([own[s][LAST]["loss/val"] for s in (0, 1, 2)]), abs=1e-6
    )


def test_a_mean_by_time_never_goes_back(study: Path) -> None:
    slow = study / "none/seed=1/metrics.jsonl"
    slow.write_text(re.sub(r'"train_s": ([0-9.]+)', lambda m: f'"train_s": {float(m[1]) * 100}', slow.read_text()))
    rewrite(study, "none", 1, upto=60, state="diverged")
    write_report(study)
    at, values = curve(study / "none/mean", "loss/val_by_train_ms")
    assert len(at) == EVALUATIONS
    assert at == sorted(at)
    assert sorted(values) == sorted(curve(study / "none/mean", "loss/val")[1])


def test_seeds_that_run_later_do_not_turn_back_the_time(study: Path) -> None:
    later = study / "none/seed=2/metrics.jsonl"
    later.write_text(
        re.sub(r'"wall_time": ([0-9.]+)', lambda m: f'"wall_time": {float(m[1]) + 1000}', later.read_text())
    )
    rewrite(study, "none", 2, upto=40, state="running", result=None)
    write_report(study)
    for tag in ("loss/val", "cost/delta_val_loss", "zz_band/delta_lo"):
        times = [point.wall_time for point in read(study / "none/mean").Scalars(tag)]
        assert times == sorted(times)


def test_one_seed_has_a_mean_and_no_band(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", arms=["dense", "none"], seeds=1, evaluations=2)
    write_report(study)
    tags = read(study / "none/mean").Tags()["scalars"]
    assert {"loss/val", "cost/delta_val_loss", "zz_band/seeds"} <= set(tags)
    assert not [tag for tag in tags if tag.endswith(("_lo", "_hi"))]


# ---- the pages


def test_custom_scalars_open_with_the_difference_and_then_the_loss(reported: Path) -> None:
    layouts = {
        read(reported / arm / "mean").Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0] for arm in ARMS
    }
    assert len(layouts) == 1, "TensorBoard joins those that differ"
    layout = layout_pb2.Layout.FromString(layouts.pop())  # pyright: ignore[reportAttributeAccessIssue]
    series = [chart.margin.series for category in layout.category for chart in category.chart]
    assert [[(s.value, s.lower, s.upper) for s in of_chart] for of_chart in series] == [
        [("zz_band/delta_mean", "zz_band/delta_lo", "zz_band/delta_hi")],
        [("zz_band/loss_mean", "zz_band/loss_lo", "zz_band/loss_hi")],
    ]
    assert not any(category.closed for category in layout.category)
    assert {tag for of_chart in series for s in of_chart for tag in (s.value, s.lower, s.upper)} <= set(
        read(reported / "none/mean").Tags()["scalars"]
    )


def row(folder: Path) -> tuple[dict[str, Any], str, Any]:
    """The hparams of a run, the name of its row, and how it ended."""
    about = read(folder).summary_metadata
    parse = plugin_data_pb2.HParamsPluginData.FromString  # pyright: ignore[reportAttributeAccessIssue]
    start = parse(about[metadata.SESSION_START_INFO_TAG].plugin_data.content).session_start_info
    end = about.get(metadata.SESSION_END_INFO_TAG)
    values = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    return values, start.group_name, parse(end.plugin_data.content).session_end_info.status if end else None


def test_a_mean_has_a_row_beside_its_seeds(reported: Path) -> None:
    values, name, status = row(reported / "none/mean")
    assert values == {"arm": "none", "fc_out": "none", "seed": "mean", "n_heads": "4", "lr": 0.003}
    assert status == api_pb2.STATUS_SUCCESS  # pyright: ignore[reportAttributeAccessIssue]
    names = [row(reported / arm / run)[1] for arm in ARMS for run in ("mean", *(f"seed={s}" for s in range(SEEDS)))]
    assert name == "none/mean"
    assert len(set(names)) == len(ARMS) * (SEEDS + 1)
    [loss] = curve(reported / "none/mean", "result/val_loss")[1]
    assert loss == pytest.approx(losses(reported, "none")[-1].mean(), abs=1e-6)
    assert curve(reported / "none/mean", "result/params_M")[1] == [pytest.approx(0.001)]


def test_a_row_is_open_while_a_seed_runs_and_failed_where_one_has(study: Path) -> None:
    rewrite(study, "none", 3, upto=60, state="running", result=None)
    rewrite(study, "dense", 3, upto=60, state="failed", result=None)
    write_report(study)
    assert row(study / "none/mean")[2] is None
    assert row(study / "dense/mean")[2] == api_pb2.STATUS_FAILURE  # pyright: ignore[reportAttributeAccessIssue]


def test_links_show_means_in_the_colours_of_their_arms() -> None:
    found = links("http://127.0.0.1:6006/", means=True)
    assert list(found) == ["link", "bands", "table"]
    view = {key: value[0] for key, value in parse_qs(urlsplit(found["link"]).query).items()}
    assert json.loads(view["pinnedCards"]) == [{"plugin": "scalars", "tag": "cost/delta_val_loss"}]
    colour = re.compile(view["runColorGroup"].removeprefix("regex:"))
    for prefix in ("", "study/"):
        groups = {colour.match(f"{prefix}a_b c/{run}")[1] for run in ("mean", "seed=0", "seed=12")}  # pyright: ignore
        assert groups == {f"{prefix}a_b c"}
        assert colour.match(f"{prefix}mean/seed=0")[1] == f"{prefix}mean"  # pyright: ignore[reportOptionalSubscript]
    shown = re.compile(view["runFilter"])
    runs = ("a/mean", "a/seed=1", "mean/mean", "mean/seed=0")
    assert [run for run in runs if shown.search(run)] == ["a/mean", "mean/mean"]


def test_without_means_nothing_is_filtered(tmp_path: Path, reported: Path) -> None:
    assert has_means(reported)
    assert has_means(reported.parent)
    assert not has_means(reported / "none/seed=0")
    assert not has_means(tmp_path)
    found = links("http://127.0.0.1:6006", means=False)
    assert "bands" not in found
    assert "runFilter" not in found["link"]


# ---- no run, made once, nowhere else


def test_a_mean_is_no_run(reported: Path) -> None:
    study = collect(reported)
    assert len(study.runs) == len(ARMS) * SEEDS, "an arm may be called mean"
    assert study.arms == ARMS
    assert not [run for run in study.runs if run.folder.path.name == "mean"]
    for arm in ARMS:
        [file] = (reported / arm / "mean").iterdir()
        assert file.name.startswith("events.out.tfevents.")


def test_a_run_that_is_called_mean_is_left_alone(study: Path) -> None:
    shutil.rmtree(study / "none/mean")
    shutil.move(study / "none/seed=3", study / "none/mean")
    before = {f.name: f.read_bytes() for f in (study / "none/mean").iterdir() if "tfevents" not in f.name}
    write_report(study)
    assert {f.name: f.read_bytes() for f in (study / "none/mean").iterdir() if "tfevents" not in f.name} == before
    assert row(study / "none/mean")[1] == "none/seed=3"


def test_a_mean_is_made_again_where_a_seed_or_the_baseline_changed(study: Path) -> None:
    before = event_files(study)
    write_report(study)
    assert event_files(study) == before
    rewrite(study, "none", 0, upto=80)
    write_report(study)
    made = {file.parent.relative_to(study).as_posix() for file in event_files(study).keys() - before.keys()}
    assert made == {"none/seed=0", "none/mean"}
    before = event_files(study)
    rewrite(study, "dense", 1, upto=80)
    write_report(study)
    made = {file.parent.relative_to(study).as_posix() for file in event_files(study).keys() - before.keys()}
    assert made == {f"{arm}/{run}" for arm in ARMS for run in ("seed=1", "mean")}


def test_what_a_killed_writer_left_is_made_again(study: Path) -> None:
    [file] = (study / "none/mean").iterdir()
    whole = curve(study / "none/mean", "loss/val")
    file.write_bytes(file.read_bytes()[:100])
    (study / "none/mean/.events.1.tmp").write_bytes(b"begun")
    StudyFolder(study).clear_scratch()
    write_report(study)
    assert len(list((study / "none/mean").iterdir())) == 1
    assert curve(study / "none/mean", "loss/val") == whole


def test_two_configurations_in_one_folder_have_no_mean(study: Path) -> None:
    file = study / "none/seed=3/run.json"
    file.write_text(file.read_text().replace("none-hash", "other-hash"))
    write_report(study)
    assert "none" not in mean_folders(collect(study))
    assert list((study / "none/mean").iterdir()) == []


def test_a_report_on_one_run_leaves_the_mean_alone(study: Path) -> None:
    before = event_files(study / "none/mean")
    write_report(study / "none/seed=0")
    assert event_files(study / "none/mean") == before


def test_studies_side_by_side_keep_their_means(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "other")
    write_report(tmp_path)
    for name in ("study", "other"):
        assert row(tmp_path / name / "none/mean")[0]["arm"] == f"{name}/none"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_mean_is_not_written_through_a_link(kind: str, study: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / ".mine.tmp").write_text("mine")
    shutil.rmtree(study / "none/mean")
    shutil.rmtree(study / "report")
    (study / "none/mean").symlink_to(victim) if kind == "link" else (study / "none/mean").write_text("mine")
    before = event_files(study)
    with pytest.raises(RequestError, match="is a link or a file"):
        write_report(study)
    StudyFolder(study).clear_scratch()
    assert event_files(study) == before
    assert not (study / "report").exists()
    assert [f.name for f in victim.iterdir()] == [".mine.tmp"]


# ---- while a study goes on


class Going(Progress):
    """A study of which some seeds of an arm have ended, as far as a refresh asks."""

    steps = 0

    @property
    def steps_done(self) -> int:
        self.steps += 1
        return self.steps


class Told(Observer):
    def __init__(self) -> None:
        self.times = 0

    def training(self, progress: Progress) -> None:
        self.times += 1


@pytest.fixture
def going(study: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Progress]:
    """A study without events, one run of which goes on."""
    monkeypatch.setattr(live, "EVERY_S", 0.0)
    monkeypatch.setattr(live, "SHARE", 1e9)
    for file in event_files(study):
        file.unlink()
    rewrite(study, "none", 3, upto=60, state="running", result=None)
    progress = Going([], {(arm, seed): 2.0 for arm in ARMS for seed in range(SEEDS) if (arm, seed) != ("none", 3)})
    progress.todo = [None]  # pyright: ignore[reportAttributeAccessIssue]
    return study, progress


def test_means_are_kept_fresh_and_running_seeds_are_left_alone(going: tuple[Path, Progress]) -> None:
    study, progress = going
    told = Told()
    board = LiveBoard(told, study, "dense")
    board.training(progress)
    assert curve(study / "none/mean", "zz_band/seeds")[1] == [4, 4, 4, 3, 3]
    assert curve(study / "none/seed=0", "cost/delta_val_loss")[0] == [20, 40, 60, 80, 100]
    assert event_files(study / "none/seed=3") == {}
    rewrite(study, "none", 3, upto=40)
    board.training(progress)
    assert curve(study / "none/mean", "zz_band/seeds")[1] == [4, 4, 3, 3, 3]
    assert told.times == 2


def test_a_tensorboard_that_runs_sees_each_refresh_and_nothing_twice(going: tuple[Path, Progress]) -> None:
    study, progress = going
    board = LiveBoard(Told(), study, "dense")
    board.training(progress)
    watching = read(study / "none/mean")
    for upto, counts in ((40, [4, 4, 3, 3, 3]), (20, [4, 3, 3, 3, 3]), (0, [3, 3, 3, 3, 3])):
        rewrite(study, "none", 3, upto=upto)
        board.training(progress)
        watching.Reload()
        seen = watching.Scalars("zz_band/seeds")
        assert [(p.step, p.value) for p in seen] == list(zip(range(20, 101, 20), counts, strict=True))
        assert len(event_files(study / "none/mean")) == 2, "the one that it was reading is still there"
    before = event_files(study / "none/mean")
    board.training(progress)
    assert event_files(study / "none/mean") == before
    write_report(study)
    assert len(event_files(study / "none/mean")) == 1


def test_a_refresh_touches_no_run_that_a_report_has_done(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY_S", 0.0)
    costs = {arm: {"params": 1000, "step_ms": 5.0} for arm in ARMS}
    (study / "cost.json").write_text(json.dumps({"arms": {arm: f"{arm}-hash" for arm in ARMS}, "costs": costs}))
    write_report(study)
    assert curve(study / "none/seed=1", "result/step_ms")[1] == [5.0]
    before = event_files(study)
    progress = Going([], {(arm, seed): 2.0 for arm in ARMS for seed in range(SEEDS)})
    progress.todo = [None]  # pyright: ignore[reportAttributeAccessIssue]
    LiveBoard(Told(), study, "dense").training(progress)
    assert event_files(study) == before


def test_a_refresh_waits_for_its_time_and_for_news(
    going: tuple[Path, Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, progress = going
    monkeypatch.setattr(live, "EVERY_S", 1000.0)
    LiveBoard(Told(), study, "dense").training(progress)
    assert event_files(study) == {}
    monkeypatch.setattr(live, "EVERY_S", 0.0)
    monkeypatch.setattr(Going, "steps_done", 0)
    LiveBoard(Told(), study, "dense").training(progress)
    assert event_files(study) == {}


def test_a_refresh_that_fails_does_not_reach_the_study(going: tuple[Path, Progress]) -> None:
    study, progress = going
    (study / "none/mean").rmdir()
    (study / "none/mean").write_text("mine")
    told = Told()
    LiveBoard(told, study, "dense").training(progress)
    LiveBoard(told, study / "nowhere", "dense").training(progress)
    assert told.times == 2


def test_an_interruption_is_not_taken_for_a_failure(
    going: tuple[Path, Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, progress = going

    def interrupted(_: Path) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("of a library's clean-up")

    monkeypatch.setattr(live, "collect", interrupted)
    with pytest.raises(ValueError, match="clean-up"):
        LiveBoard(Told(), study, "dense").training(progress)
