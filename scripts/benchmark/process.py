"""Processes: `mha-ablate`, and the command to compare with and what it says."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.benchmark.request import Failed

NUMBER = r"([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)"  # 1,234 is none: whether its comma is a decimal one, nobody knows
PER_S = r"steps?(?:/s(?:ec|econd)?\b|_per_s\b)"
SAID = re.compile(rf"{PER_S}\"?[ \t]*[:=][ \t]*{NUMBER}(?!,?[0-9])|(?<![-0-9.,]){NUMBER}[ \t]*{PER_S}")


@contextlib.contextmanager
def started(command: list[str] | str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, so that all that it started can be ended with it where we are interrupted."""
    process = subprocess.Popen(
        command,
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        **options,
    )
    try:
        yield process
    except BaseException:
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        raise
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def last_line(*texts: str) -> str:
    """The last line that was printed, for an error message."""
    return next((text.strip().splitlines()[-1] for text in texts if text.strip()), "nothing")


def mha_ablate(*words: str, cwd: Path) -> str:
    """Run the command line to its end; returns what it printed. Raises Failed with its last line."""
    beside = Path(sys.executable).parent / "mha-ablate"
    command = [str(beside)] if beside.exists() else [sys.executable, "-m", "mha_ablate"]
    with started([*command, *words], cwd=cwd) as process:
        out, err = process.communicate()
    if process.returncode:
        raise Failed(last_line(err, out), 2 if process.returncode == 2 else 1)
    return out


def steps_per_s(said: str) -> float | None:
    """Steps per second out of what a command printed; None where it is not said.

    Understood, in this order: a JSON object with `steps_per_s` (the last line, or all of it); `steps/s: 21.7`,
    `steps_per_s=21.7` or `21.7 steps/s`, the last of them; a bare number as the last line.
    """
    lines = said.strip().splitlines()
    for text in (said, *lines[-1:]):
        with contextlib.suppress(ValueError):
            found = json.loads(text)
            if isinstance(found, dict) and (value := positive(found.get("steps_per_s"))):
                return value
    matches = [m[1] or m[2] for m in SAID.finditer(said)]
    for text in (*matches[-1:], *lines[-1:]):
        if value := positive(text):
            return value
    return None


def positive(value: Any) -> float | None:
    """A number above zero and below infinity, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number < math.inf and not isinstance(value, bool) else None


def run_versus(command: str, **told: str) -> float:
    """Steps per second of the other command, which finds what it is told in its environment. Raises Failed."""
    with started(command, shell=True, env={**os.environ, **told}) as process:
        out, err = process.communicate()
    if process.returncode:
        raise Failed(f"--versus ended with exit code {process.returncode}; its last line: {last_line(err, out)}")
    rate = steps_per_s(out)
    if rate is None:
        raise Failed(f"--versus printed no steps/s (such as `steps/s: 21.7`); its last line: {last_line(out, err)}")
    return rate
