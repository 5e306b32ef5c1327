"""Where a study stands, from files that training has left or is writing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mha_ablate.errors import RequestError
from mha_ablate.study.status import SILENT, status
from tests.conftest import Cli
from tests.synthetic import write_study

NOW = 5000.0


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", arms=["dense", "none"], seeds=3, evaluations=2)


def change(study: Path, cell: str, **keys: Any) -> Path:
    file = study / cell / "run.json"
    run = {k: v for k, v in {**json.loads(file.read_text()), **keys}.items() if v != "gone"}
    file.write_text(json.dumps(run))
    return file.parent


def of(found: dict[str, Any], cell: str) -> dict[str, Any]:
    return next(c for c in found["cells"] if c["cell"] == cell)


def test_a_finished_study_has_nothing_left(study: Path) -> None:
    found = status(study, NOW)
    assert (found["states"], found["seconds_left"]) == ({"ok": 6}, 0.0)
    cell = of(found, "none/seed=1")
    line = json.loads((study / "none/seed=1/metrics.jsonl").read_text().splitlines()[-1])
    assert (cell["val_loss"], cell["step"], cell["steps"]) == (line["loss/val"], line["step"], line["step"])


def test_a_planned_cell_that_nobody_began_waits(study: Path) -> None:
    (study / "none/seed=2/run.json").unlink()
    found = status(study, NOW)
    assert found["states"] == {"waiting": 1, "ok": 5}
    assert of(found, "none/seed=2")["state"] == "waiting"


def running(study: Path, cell: str, owner: dict[str, Any]) -> Path:
    folder = change(study, cell, state="running", owner=owner, ended="gone", result="gone")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("steps: 40", "steps: 400"))
    os.utime(folder / "metrics.jsonl", (NOW - 10, NOW - 10))
    return folder


def test_a_process_that_is_there_runs_and_one_that_is_gone_has_stopped(study: Path) -> None:
    here = socket.gethostname()
    running(study, "none/seed=0", {"host": here, "pid": os.getpid()})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    running(study, "none/seed=1", {"host": here, "pid": ended.pid})
    found = status(study, NOW)
    assert of(found, "none/seed=0")["state"] == "running"
    assert of(found, "none/seed=1")["state"] == "stopped"
    # 10 steps a second of wall time: 360 are left of 400
    assert of(found, "none/seed=0")["left"] == pytest.approx(36.0)
    assert found["seconds_left"] is not None
    assert found["seconds_left"] > 36.0


def test_a_process_elsewhere_is_known_by_what_it_writes(study: Path) -> None:
    folder = running(study, "none/seed=0", {"host": "elsewhere", "pid": 1})
    assert of(status(study, NOW), "none/seed=0")["state"] == "running"
    os.utime(folder / "metrics.jsonl", (NOW - SILENT - 1, NOW - SILENT - 1))
    assert of(status(study, NOW), "none/seed=0")["state"] == "stopped"


@pytest.mark.parametrize("owner", [None, "x", {"host": 3}, {"host": "h", "pid": "x"}, {"host": "h", "pid": 10**17}])
def test_an_odd_owner_is_no_error(study: Path, owner: Any) -> None:
    running(study, "none/seed=0", owner)
    assert of(status(study, NOW), "none/seed=0")["state"] == "running"


def test_failures_carry_their_reason_and_what_cannot_be_read_is_one(study: Path) -> None:
    change(study, "none/seed=0", state="failed", error="RuntimeError: boom")
    (study / "none/seed=1/run.json").write_text("{")
    (study / "none/seed=2/config.yaml").write_text(": [")
    found = status(study, NOW)
    assert found["states"] == {"ok": 4, "failed": 2}
    assert of(found, "none/seed=0")["error"] == "RuntimeError: boom"
    assert of(found, "none/seed=2")["steps"] is None


def test_the_command_says_it_in_a_table_and_as_json(study: Path, cli: Cli) -> None:
    change(study, "none/seed=0", state="failed", error="RuntimeError: boom")
    done = cli("status", str(study))
    assert done.code == 0, done.err
    assert done.out.startswith("6 cells: 5 ok  1 failed\n")
    assert "none/seed=0: RuntimeError: boom" in done.out
    assert cli("status", str(study), "--json").json["states"] == {"ok": 5, "failed": 1}
    assert cli("status", str(study), "--watch").code == 0, "all have ended: nothing to wait for"
    refused = cli("status", str(study), "--watch", "--json")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_what_is_no_study_is_refused(tmp_path: Path, cli: Cli) -> None:
    with pytest.raises(RequestError, match="holds no study"):
        status(tmp_path)
    done = cli("status", str(tmp_path / "nowhere"))
    assert (done.code, done.err.count("\n")) == (2, 1)
