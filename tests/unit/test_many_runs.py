"""A report over many runs: right to the last number, and nothing made twice."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mha_ablate.report.write import write_report
from tests.synthetic import write_study

ARMS, SEEDS, EVALUATIONS = ["dense", "none", "other"], 8, 5


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic study with its report."""
    path = write_study(tmp_path_factory.mktemp("many") / "study", arms=ARMS, seeds=SEEDS, evaluations=EVALUATIONS)
    write_report(path)
    return path


@pytest.fixture
def study(reported: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return shutil.copytree(reported, tmp_path / "study")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def evaluations_of(study: Path, arm: str, seed: int) -> dict[int, float]:
    lines = lines_of(study / arm / f"seed={seed}")
    return {line["step"]: line["loss/val"] for line in lines if "loss/val" in line}


def event_files(study: Path) -> dict[Path, int]:
    """Every event file with the time of its last change, by its run."""
    found = sorted(study.rglob("events.out.tfevents*"))
    assert len(found) == len({file.parent for file in found}), "one for each run"
    return {file: file.stat().st_mtime_ns for file in found}


def test_the_report_holds_the_numbers_of_the_lines(reported: Path) -> None:
    report = json.loads((reported / "report/report.json").read_text())
    last = {arm: [list(evaluations_of(reported, arm, s).values())[-1] for s in range(SEEDS)] for arm in ARMS}
    assert [arm["arm"] for arm in report["arms"]] == ARMS
    for arm in report["arms"]:
        assert arm["val_loss"]["mean"] == fmean(last[arm["arm"]])
        assert list(arm["val_loss"]["values"].values()) == last[arm["arm"]]
    for arm in report["arms"][1:]:
        deltas = [a - b for a, b in zip(last[arm["arm"]], last["dense"], strict=True)]
        assert list(arm["delta"]["values"].values()) == deltas
        assert arm["delta"]["mean"] == pytest.approx(fmean(deltas))
    assert report["setting"]["same"]["trainer.steps"] == 100
    assert report["setting"]["differs"] == {}


def test_the_rows_are_the_evaluations(reported: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((reported / "report/runs.csv").read_text())))
    found = [(row["arm"], int(row["seed"]), int(row["step"]), float(row["val_loss"])) for row in rows]
    assert sorted(found) == sorted(
        (arm, seed, step, loss)
        for arm in ARMS
        for seed in range(SEEDS)
        for step, loss in evaluations_of(reported, arm, seed).items()
    )


def test_the_events_are_complete(reported: Path) -> None:
    read = EventAccumulator(str(reported / "none/seed=3"), size_guidance={"scalars": 0}).Reload()
    seen = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    lines = lines_of(reported / "none/seed=3")
    for tag in ("loss/train", "loss/val", "optim/lr", "optim/grad_norm", "perf/step_ms", "perf/tokens_per_s"):
        expected = [(line["step"], pytest.approx(line[tag])) for line in lines if tag in line]
        assert seen[tag] == expected
    own, base = (evaluations_of(reported, arm, 3) for arm in ("none", "dense"))
    deltas = [(step, pytest.approx(own[step] - base[step], abs=1e-6)) for step in own]
    assert seen["cost/delta_val_loss"] == deltas
    assert [step for step, _ in seen["loss/val_by_tokens"]] == [768 * step for step in own]


def test_a_second_report_makes_no_event_file(study: Path) -> None:
    before = event_files(study)
    assert len(before) == len(ARMS) * (SEEDS + 1), "each seed's and the mean's"
    report = (study / "report/report.json").read_bytes()
    write_report(study)
    assert event_files(study) == before
    assert (study / "report/report.json").read_bytes() == report


def test_a_changed_run_of_the_baseline_changes_the_events_of_its_seed_and_of_the_means_alone(study: Path) -> None:
    before = event_files(study)
    metrics = study / "dense/seed=2/metrics.jsonl"
    changed = [line | ({"loss/val": 3.5} if "loss/val" in line else {}) for line in lines_of(metrics.parent)]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in changed))
    write_report(study)
    made = event_files(study).keys() - before.keys()
    assert {file.parent.relative_to(study).as_posix() for file in made} == {
        f"{arm}/{run}" for arm in ARMS for run in ("seed=2", "mean")
    }


def test_another_baseline_changes_every_event_file(study: Path) -> None:
    before = event_files(study)
    write_report(study, baseline="none")
    assert not event_files(study).keys() & before.keys()
