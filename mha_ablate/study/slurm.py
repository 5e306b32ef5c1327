"""Slurm seen through `squeue`: which jobs are still there. No accounting database is asked, since many clusters have none."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
PATIENCE = 600.0  # seconds for which a queue that does not answer is taken to be as it was


def queue() -> dict[str, str] | None:
    """`{job: state}` of this user's jobs, elements of an array apart; None where the queue does not answer."""
    command = ["squeue", "--noheader", "--array", "--all", "--format", "%i|%T", "--user", str(os.getuid())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    return {job: state for job, _, state in (line.strip().partition("|") for line in done.stdout.splitlines()) if job}


def ended_as(job: str) -> str | None:
    """How a job ended, such as TIMEOUT; None where the controller does not remember (it does for some minutes)."""
    command = ["squeue", "--noheader", "--states=all", "--format", "%T", "--jobs", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    state = done.stdout.strip().partition("\n")[0]
    return state if done.returncode == 0 and state in ENDED else None


class Queue:
    """The queue over time. One that does not answer is taken to be as it was, for ten minutes; without `squeue` it is empty."""

    def __init__(self) -> None:
        self.silent_since: float | None = None

    def ask(self) -> dict[str, str] | None:
        """What `queue` says; None where nothing is known for now."""
        found = queue()
        if found is not None:
            self.silent_since = None
            return found
        now = time.monotonic()
        self.silent_since = self.silent_since or now
        return {} if shutil.which("squeue") is None or now - self.silent_since >= PATIENCE else None

    def still_there(self, jobs: set[str]) -> set[str]:
        """Those of the jobs that wait or run."""
        found = self.ask() if jobs else {}
        return jobs if found is None else {job for job in jobs if found.get(job, ENDED[0]) not in ENDED}


def _watcher() -> Any:
    """Submitit's watcher, asking `squeue` instead of `sacct`: a job that is not in the queue has ended."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class QueueWatcher(SlurmInfoWatcher):
        asked = Queue()

        def update(self) -> None:
            """Look at the queue once."""
            self._num_calls += 1
            self._last_status_check = time.time()
            found = self.asked.ask()
            if found is None:
                return
            for job in self._registered:
                state = found.get(job, "GONE")
                if job not in self._finished:
                    self._info_dict[job] = {"JobID": job, "State": state if state in (*ENDED, "GONE") else "RUNNING"}
            self._finished = {job for job in self._registered if self.is_done(job, mode="cache")}

    return QueueWatcher(delay_s=5)


@contextmanager
def heard_jobs() -> Iterator[list[Any]]:
    """Inside, every job that submitit submits is in the list that this yields, and Slurm's are watched by `squeue`.

    Hydra's launcher keeps the jobs to itself, and submitit waits for ever on a killed one where there is no accounting.
    """
    jobs: list[Any] = []
    try:
        from submitit.core.core import Executor
        from submitit.slurm.slurm import SlurmJob
    except ImportError:
        yield jobs
        return
    submit, watcher = Executor.map_array, SlurmJob.watcher

    def map_array(self: Any, *given: Any, **named: Any) -> list[Any]:
        made = submit(self, *given, **named)
        jobs.extend(made)
        return made

    Executor.map_array, SlurmJob.watcher = map_array, _watcher()
    try:
        yield jobs
    finally:
        Executor.map_array, SlurmJob.watcher = submit, watcher
