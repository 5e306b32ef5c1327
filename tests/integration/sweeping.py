"""What the tests of sweeps share: a small grid, the command, and what of two folders must be equal."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from mha_ablate.run.folder import RunFolder
from tests.conftest import SMALL
from tests.integration.process import COMMAND, wait_for

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "scripts" / "reliability" / "hook"
GRID = ["fc_out=dense,none", "seed=0,1"]
CELLS = {"dense/seed=0", "dense/seed=1", "none/seed=0", "none/seed=1"}
STEPS = [*SMALL, "trainer.save_every_s=0"]


def write_text(folder: Path) -> Path:
    """A text to train on."""
    file = folder / "text.txt"
    file.write_text("the cat sat on the mat and the dog ran after it. " * 60, encoding="utf-8")
    return file


def started(*words: str, **environment: str) -> subprocess.Popen[str]:
    """A sweep that runs, in a session of its own."""
    return subprocess.Popen(
        [*COMMAND, "sweep", *words],
        env=os.environ | environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sweep(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A sweep to its end."""
    return subprocess.run(
        [*COMMAND, "sweep", *words, "--quiet"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | environment,
    )


def words_of(text: Path, outputs: Path, *more: str) -> list[str]:
    """The small grid on a text."""
    return [*GRID, *STEPS, "data=text", f"data.path={text}", f"outputs={outputs}", *more]


def assert_equal(folder: Path, reference: Path) -> None:
    """Every cell is there, with the same losses and the same weights, bit for bit."""
    assert {f.path.relative_to(folder).as_posix() for f in runs(folder)} == CELLS
    for name in CELLS:
        one, other = RunFolder(folder / name), RunFolder(reference / name)
        assert losses(one) == losses(other)
        assert one.last_file.read_bytes() == other.last_file.read_bytes()


def runs(folder: Path) -> list[RunFolder]:
    """All below."""
    return [RunFolder(file.parent) for file in sorted(folder.rglob("run.json"))]


def losses(folder: RunFolder) -> list[tuple[int, Any, Any]]:
    """Step, training loss, validation loss of every line."""
    return [(line["step"], line.get("loss/train"), line.get("loss/val")) for line in folder.lines()]


def states(folder: Path) -> dict[str, str]:
    """The state of every cell."""
    return {f.path.relative_to(folder).as_posix(): f.read().get("state", "") for f in runs(folder)}


def fails_and_is_killed(words: list[str], folder: Path, reference: Path, environment: dict[str, str]) -> None:
    """One cell raises and one is killed: the others end well, both are named, and the same command trains those two alone."""
    hook = {
        "PYTHONPATH": str(HOOK),
        "FAIL_AT": "dense/seed=1/metrics.jsonl@1",
        "KILL_AT": "none/seed=0/metrics.jsonl@1",
    }
    said = sweep(*words, **environment, **hook)
    assert said.returncode == 1
    assert states(folder) == dict.fromkeys(CELLS, "ok") | {"dense/seed=1": "failed", "none/seed=0": "failed"}
    assert "2 of 4 cells ended well" in said.stdout
    assert "RuntimeError: it was made to fail" in RunFolder(folder / "dense/seed=1").read()["error"]
    assert "killed" in RunFolder(folder / "none/seed=0").read()["error"]
    line = said.stderr.strip().splitlines()[-1]
    assert "2 cell(s) failed" in line
    assert "dense/seed=1" in line
    assert "none/seed=0" in line
    kept = RunFolder(folder / "dense/seed=0").run_file.stat().st_mtime_ns
    again = sweep(*words, **environment)
    assert again.returncode == 0, again.stderr
    assert RunFolder(folder / "dense/seed=0").run_file.stat().st_mtime_ns == kept
    assert_equal(folder, reference)


def goes_on_without_its_parent(words: list[str], folder: Path, reference: Path, environment: dict[str, str]) -> None:
    """The sweep itself is killed once a cell runs: the same command brings it to its end, to the same bits."""
    parent = started(*words, "--quiet", **environment)
    wait_for(lambda: runs(folder))
    parent.kill()
    parent.communicate(timeout=120)  # what it started ends too, or it would hold the pipes
    again = sweep(*words, **environment)
    assert again.returncode == 0, again.stderr
    assert_equal(folder, reference)
