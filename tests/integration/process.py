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

from tests.conftest import Said

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


LOOP = """
import json, os, sys, tempfile
from mha_ablate.cli import errors
from mha_ablate.cli.main import app
from mha_ablate.data import corpus

answers = os.fdopen(os.dup(1), "w")

def call(argv):
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            code = errors.run(app, argv)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for fd, old in enumerate(kept, 1):
                os.dup2(old, fd)
                os.close(old)
        out.seek(0)
        err.seek(0)
        return [code, out.read(), err.read()]

with answers:
    for line in sys.stdin:
        asked = json.loads(line)
        os.environ.update(asked["env"])
        corpus._read.cache_clear()
        print(json.dumps(call(asked["argv"])), file=answers, flush=True)
"""


class Resident:
    """The command line in one process that stays, for many calls under an environment that only a new process would take.

    `first` is code that it runs before anything else.
    """

    def __init__(self, cwd: Path, first: str = "", **env: str) -> None:
        self.cwd, self.seconds = cwd, 0.0
        pipe = subprocess.PIPE
        command = [sys.executable, "-W", "error", "-c", f"{first}\n{LOOP}"]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=cwd, env={**os.environ, **env})

    def ask(self, *argv: str, **env: str) -> Said:
        """One call; `env` is added to the environment from now on."""
        assert self.process.stdin
        assert self.process.stdout
        begun = time.monotonic()
        self.process.stdin.write(json.dumps({"argv": argv, "env": env}) + "\n")
        self.process.stdin.flush()
        said = Said(*json.loads(self.process.stdout.readline()))
        self.seconds = time.monotonic() - begun
        return said

    def __enter__(self) -> Resident:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()
