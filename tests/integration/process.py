"""Running the command line as its users do: as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "mha_ablate"]


def run(*argv: str, cwd: Path | None = None, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run([*COMMAND, *argv], capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False)


def start(*argv: str) -> subprocess.Popen[str]:
    """Start, in a session of its own so that a signal reaches it alone."""
    return subprocess.Popen(
        [*COMMAND, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Poll until `condition()` is true; fails the test if it never is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError(f"{condition} did not come true in {seconds} s")


def states(folder: Path) -> dict[str, str]:
    """`arm/seed=n` -> state, of the run.json files that can be read."""
    found = {}
    for file in folder.rglob("run.json"):
        try:
            found[file.parent.relative_to(folder).as_posix()] = json.loads(file.read_text())["state"]
        except (OSError, ValueError):
            continue
    return found


def gone(pid: int) -> bool:
    """Whether no such process runs (one that has ended and waits to be reaped counts as gone)."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def interrupt(process: subprocess.Popen[str], how: signal.Signals) -> tuple[str, str]:
    """Send a signal and wait; returns standard output and error."""
    process.send_signal(how)
    return process.communicate(timeout=60)
