"""`scripts/kill_test` in short, and that it would see what it is there to see."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from scripts.reliability import kills
from scripts.reliability import main as script
from scripts.reliability.essence import finished
from scripts.reliability.kills import PLACES, Chain, Tally, Where, compared
from tests.conftest import Cli
from tests.integration.process import gone, wait_for

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


NEVER_ENDS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
with open("pids", "a") as file:
    file.write(f"{child.pid}\\n")
time.sleep(100)
"""


def test_a_request_that_does_not_end_is_wrong_and_nothing_of_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kills, "COMMAND", [sys.executable, "-c", NEVER_ENDS])
    monkeypatch.setattr(kills, "LIMIT_S", 1)
    place = next(p for p in PLACES if p.request == "train" and p.files)
    tallies = {place: Tally()}
    assert script.in_a_row([place], Chain("train", tmp_path / "train-1", random.Random(0), 1.0), tallies) == []
    why = "train did not end in 1 s"
    assert tallies == {place: Tally(tried=1, wrong=[f"TimeoutError: {why}; {why}"])}
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    for pid in pids:
        wait_for(lambda pid=pid: gone(pid), 20)


def test_what_was_counted_before_an_interruption_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Where] = []

    def kill_or_stop(self: Chain, where: Where, tally: Tally) -> bool:
        calls.append(where)
        if len(calls) == 9:
            raise KeyboardInterrupt
        tally.tried += 1
        tally.hit += 1
        return True

    monkeypatch.setattr(Chain, "kill", kill_or_stop)
    monkeypatch.setattr(Chain, "end", lambda self: None)
    monkeypatch.setattr(script, "compared", lambda here, there: ["report.json is another"])
    page = tmp_path / "page.md"
    page.write_text("<!-- kills: begin -->\n<!-- kills: end -->\n")
    monkeypatch.setattr(script, "PAGE", page)
    assert script.main(["--kills", "40", "--seed", "7", "--write"]) == 130
    out, err = capsys.readouterr()
    assert "Interrupted. Seed 7: 8 of 40 kills in 0 minutes; 1 of the requests" in out
    assert out.strip() in page.read_text()
    assert err.endswith("kill_test: interrupted\n")


def test_stopped_by_a_signal_it_prints_its_table_and_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--json"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    (file,) = wait_for(lambda: list(tmp_path.rglob("run.json")))
    pid = wait_for(lambda: file.exists() and json.loads(file.read_text())["owner"]["pid"])
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "kill_test: interrupted\n")
    assert json.loads(out)["interrupted"]
    wait_for(lambda: gone(pid), 20)
    assert list(tmp_path.iterdir()) == []
