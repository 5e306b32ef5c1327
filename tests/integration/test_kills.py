"""`scripts/kill_test` in short, and that it would see what it is there to see."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from scripts.reliability.essence import finished
from scripts.reliability.kills import compared
from tests.conftest import Cli

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/kill_test"


def test_kills_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "5", "--seed", "3", "--json"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    places = json.loads(done.stdout)["places"]
    assert sum(place["hit"] for place in places) >= 4
    assert not any(place["wrong"] for place in places)


@pytest.fixture
def folders(cli: Cli, small: list[str], tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "other"):
        assert cli("train", *small, f"outputs={tmp_path / name}").code == 0
    return tmp_path / "one", tmp_path / "other"


def lost_line(run: RunFolder) -> None:
    run.metrics_file.write_text("".join(run.metrics_file.read_text().splitlines(keepends=True)[1:]))


def line_twice(run: RunFolder) -> None:
    run.metrics_file.write_text(run.metrics_file.read_text() + run.metrics_file.read_text().splitlines()[-1] + "\n")


def other_weight(run: RunFolder) -> None:
    tensors, about = checkpoint.load(run.last_file)
    next(iter(tensors.values())).view(-1)[0] += 1e-7
    checkpoint.save(run.last_file, tensors, about)


def left_over(run: RunFolder) -> None:
    run.path.joinpath(".run.json.77.tmp").write_text("{")


def lost_curve(run: RunFolder) -> None:
    run.clear_events()


@pytest.mark.parametrize("break_it", [lost_line, line_twice, other_weight, left_over, lost_curve])
def test_a_folder_that_is_not_as_it_should_be_is_seen(folders: tuple[Path, Path], break_it) -> None:
    one, other = folders
    assert compared(one, other) == []
    break_it(RunFolder(one / "train/dense/seed=0"))
    assert compared(one, other)


def test_a_finished_run_that_was_touched_is_seen(folders: tuple[Path, Path]) -> None:
    before = finished(folders[0])
    assert list(before) == ["train/dense/seed=0"]
    run = RunFolder(folders[0] / "train/dense/seed=0")
    run.write({**run.read(), "ended": 0})
    assert finished(folders[0]) != before
    shutil.rmtree(run.path)
    assert finished(folders[0]) == {}
