"""Where a study stands, from its files alone: as well from another machine that sees the folder."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mha_ablate.errors import RequestError
from mha_ablate.run.folder import RunFolder, StudyFolder
from mha_ablate.run.lock import is_locked
from mha_ablate.run.shape import is_natural, is_number, parsed_yaml, read_text
from mha_ablate.study.forecast import makespan

STATES = ("waiting", "running", "stopped", "ok", "diverged", "failed")
ENDED = ("ok", "diverged")
SILENT = 300.0  # seconds without a line, on another machine: its process cannot be asked


@dataclass(frozen=True)
class CellStatus:
    """One cell: its state, how far it is, its last losses, the seconds that it has taken and will take, as far as they are known.

    `stopped`: it says running, and the process that wrote so is gone, or on another machine and silent for five minutes.
    """

    cell: str
    state: str
    step: int = 0
    steps: int | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    seconds: float | None = None
    left: float | None = None
    error: str | None = None


def status(path: Path, now: float | None = None) -> dict[str, Any]:
    """`{cells: [...], states: {...}, seconds_left, goes_on}` of all cells below a folder, also those that are planned alone.

    `seconds_left` takes the cells that run now as the workers that there are; None where nothing shows a pace. Raises RequestError
    for a folder without a study.
    """
    if not path.is_dir():
        raise RequestError(f"{path} is no folder: give a study's folder such as outputs/fc_out")
    now = time.time() if now is None else now
    found = {f.path.relative_to(path).as_posix(): f for f in StudyFolder(path).runs()}
    planned = {
        (file.parent / cell).relative_to(path).as_posix()
        for name, read in (("plan.json", StudyFolder.plan), ("sweep.json", StudyFolder.sweep))
        for file in path.rglob(name)
        for cell in (read(StudyFolder(file.parent)) or {}).get("cells", {})
    }
    if not found and not planned:
        raise RequestError(f"{path} holds no study: give a folder that `mha-ablate compare` or `train` wrote")
    cells = [_of_run(name, found[name], now) for name in sorted(found)]
    cells += [CellStatus(name, "waiting") for name in sorted(planned - found.keys())]
    counted = Counter(cell.state for cell in cells)
    return {
        "folder": str(path),
        "cells": [asdict(cell) for cell in cells],
        "states": {state: counted[state] for state in STATES if counted[state]},
        "seconds_left": _left(cells),
        "goes_on": bool(counted["running"]) or (bool(counted["waiting"]) and _is_led(path)),
    }


def _is_led(path: Path) -> bool:
    """Whether somebody conducts what waits: a process that holds the folder of a plan or a sweep, or jobs in a queue."""
    led = [path, *(file.parent for name in ("plan.json", "sweep.json", "parts.json") for file in path.rglob(name))]
    return any(is_locked(folder) or StudyFolder(folder).jobs() for folder in led)


def _of_run(name: str, folder: RunFolder, now: float) -> CellStatus:
    run = folder.read()
    if not run:
        return CellStatus(name, "failed", error="its run.json cannot be believed")
    lines = folder.lines()
    last = lines[-1] if lines else {}
    losses = {key: next((line[key] for line in reversed(lines) if line.get(key) is not None), None) for key in LOSSES}
    state, steps, step = run["state"], _steps(folder), last.get("step", 0)
    if state == "running" and not is_alive(run.get("owner"), heard(folder, run), now):
        state = "stopped"
    began = float(run.get("started", now))
    seconds = float(run.get("ended", now if state == "running" else heard(folder, run))) - began
    pace = _pace([line for line in lines if line["step"] > _went_on_at(run)])
    return CellStatus(
        name,
        state,
        step,
        steps,
        losses["loss/train"],
        losses["loss/val"],
        max(0.0, seconds),
        pace * (steps - step) if state == "running" and pace and steps else None,
        run.get("error"),
    )


LOSSES = ("loss/train", "loss/val")


def _steps(folder: RunFolder) -> int | None:
    """How many updates the run takes, by its config.yaml."""
    try:
        steps = parsed_yaml(read_text(folder.config_file))["trainer"]["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if is_natural(steps) else None


def heard(folder: RunFolder, run: dict[str, Any]) -> float:
    """When the run last wrote something."""
    try:
        return folder.metrics_file.stat().st_mtime
    except OSError:
        return float(run.get("started", 0.0))


def is_alive(owner: Any, heard: float, now: float, *, elsewhere_only: bool = False) -> bool:
    """Whether the process that says running is there. A process of another machine is taken by what it writes.

    With `elsewhere_only` one of this machine is taken as gone: its lock says more than its number.
    """
    if not isinstance(owner, dict) or not is_natural(owner.get("pid")) or owner.get("host") != socket.gethostname():
        return now - heard < SILENT
    if elsewhere_only:
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _went_on_at(run: dict[str, Any]) -> int:
    """The step after which it last went on: the time before that may hold hours of waiting. -1 for a run that was never stopped."""
    step = (run.get("resumed") or [{}])[-1].get("step", -1)
    return step if isinstance(step, int) else -1


def _pace(lines: list[dict[str, Any]]) -> float | None:
    """Seconds a step by the clock, evaluations included; None before there are two moments."""
    timed = [(line["step"], line["wall_time"]) for line in lines if is_number(line.get("wall_time"))]
    if len(timed) < 2 or timed[-1][0] <= timed[0][0]:
        return None
    return max(0.0, timed[-1][1] - timed[0][1]) / (timed[-1][0] - timed[0][0])


def _left(cells: list[CellStatus]) -> float | None:
    """Until the last cell ends, on as many workers as run now; 0 where none is left that could. What failed is not run again."""
    if not any(cell.state in ("waiting", "running") for cell in cells):
        return 0.0
    running = [cell for cell in cells if cell.state == "running"]
    whole = [cell.seconds for cell in cells if cell.state in ENDED and cell.seconds]
    whole += [cell.seconds + cell.left for cell in running if cell.left is not None and cell.seconds is not None]
    if not running or not whole:
        return None
    usual = sum(whole) / len(whole)
    busy = [cell.left if cell.left is not None else usual for cell in running]
    waiting = [usual for cell in cells if cell.state in ("waiting", "stopped")]
    return makespan(busy, waiting, len(running))
