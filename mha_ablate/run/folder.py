"""Layout of run and study folders: the only place that spells their file names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mha_ablate.errors import RequestError
from mha_ablate.run.shape import FINISHED as FINISHED
from mha_ablate.run.shape import STATES as STATES
from mha_ablate.run.shape import (
    costs_of,
    floor_of,
    jobs_of,
    line_is_sound,
    parsed,
    parts_of,
    plan_of,
    read_text,
    run_of,
    sweep_of,
)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file or none of it: a temporary neighbour, synced, then renamed over `path`, and the folder synced.

    A neighbour that could not be finished, as on a full disk, is removed; one that a kill left is by `RunFolder.clear_scratch`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.unlink(missing_ok=True)  # what stands there may be a link to somewhere else
        with scratch.open("xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        if isinstance(error, OSError):  # which names the neighbour, or, of a full disk, nothing
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the names in a folder survive a power cut, where the file system can promise that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, readable."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON, or None where the file is missing or broken."""
    try:
        return parsed(read_text(path))
    except (OSError, ValueError):
        return None


def this_process() -> dict[str, Any]:
    """Who is writing: host, process, and the Slurm job (`12`, or `12_3` of an array) where there is one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
    return {"host": socket.gethostname(), "pid": os.getpid(), **({"slurm_job": job} if job else {})}


@dataclass(frozen=True)
class RunFolder:
    """One run: `<arm>/seed=<n>`."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The configuration, resolved and complete."""
        return self.path / "config.yaml"

    @property
    def run_file(self) -> Path:
        """State, config hash, provenance."""
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        """One line per measurement, in order: the truth. A step that is logged and evaluated has two."""
        return self.path / "metrics.jsonl"

    @property
    def last_file(self) -> Path:
        """The weights at the end of the run."""
        return self.path / "checkpoint" / "last.safetensors"

    @property
    def best_file(self) -> Path:
        """The weights at the lowest validation loss, where that was not at the end."""
        return self.path / "checkpoint" / "best.safetensors"

    @property
    def state_file(self) -> Path:
        """All that an unfinished run needs to go on."""
        return self.path / "checkpoint" / "state.safetensors"

    @property
    def tokenizer_file(self) -> Path:
        """A learnt tokenizer, as the `tokenizers` library writes it."""
        return self.path / "checkpoint" / "tokenizer.json"

    @property
    def inspect_dir(self) -> Path:
        """What `inspect` found: inspect.html, inspect.json, figures."""
        return self.path / "inspect"

    @property
    def mean_dir(self) -> Path:
        """TensorBoard's mean over this run and the seeds beside it. It is no run, and holds no run.json."""
        return self.path.parent / "mean"

    def read(self) -> dict[str, Any]:
        """run.json, or an empty dict where there is none that can be read and believed."""
        try:
            return run_of(parsed(read_text(self.run_file)))
        except (OSError, ValueError):
            return {}

    def refuse_links(self) -> None:
        """Raise RequestError where the run, its arm or something in it is a link: writing it would write somewhere else."""
        inside = (self.state_file.parent, *self._files, self.path / ".lock")
        for place in (self.path.parent, self.path, *inside):
            if place.is_symlink():
                raise RequestError(
                    f"{place} is a link, and a run is written nowhere but in its own folder: remove the link, or give name=NEW_NAME"
                )
        folders = [file for file in self._files if file.is_dir()]
        if folders or self.state_file.parent.is_file():
            raise RequestError(
                f"{(folders or [self.state_file.parent])[0]} is not what a run keeps there: remove it, or give name=NEW_NAME"
            )

    @property
    def _files(self) -> tuple[Path, ...]:
        kept = (self.config_file, self.run_file, self.metrics_file)
        return (*kept, self.last_file, self.best_file, self.state_file, self.tokenizer_file)

    def write(self, values: dict[str, Any]) -> None:
        """Replace run.json."""
        write_json(self.run_file, values)

    def note_failure(self, run: dict[str, Any], error: str) -> None:
        """Replace run.json by one that says so. A disk that takes not even that leaves `running`: it is run again all the same."""
        run |= {"state": "failed", "error": error, "ended": time.time()}
        with contextlib.suppress(OSError):
            self.write(run)

    def clear(self) -> None:
        """Remove what an unfinished run left, so that it starts anew."""
        self.clear_events()
        self.clear_scratch()
        for file in (self.metrics_file, self.run_file):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.state_file.parent, ignore_errors=True)

    def clear_scratch(self) -> None:
        """Remove files that a killed process had begun."""
        for file in (*self.path.glob(".*.tmp"), *self.state_file.parent.glob(".*.tmp")):
            file.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove from a finished run what a process that was killed at its very end may have left."""
        self.clear_scratch()
        self.state_file.unlink(missing_ok=True)

    def clear_events(self) -> None:
        """Remove TensorBoard's files, which can be made again from the metrics."""
        for file in self.path.glob("events.out.tfevents*"):
            file.unlink(missing_ok=True)

    def digest(self) -> str:
        """What tells one content of metrics.jsonl from another; empty where there is none."""
        try:
            return hashlib.sha256(self.metrics_file.read_bytes()).hexdigest() if self.metrics_file.is_file() else ""
        except OSError:
            return ""

    def finished(self) -> dict[str, Any]:
        """run.json of a run that has ended well or diverged. Raises RequestError for anything else, a study's folder among it."""
        about = self.read()
        if about.get("state") in FINISHED:
            return about
        if (run := next(self.path.glob("**/run.json"), None)) is not None and run.parent != self.path:
            raise RequestError(
                f"{self.path} holds no finished run of its own: give one of those below, such as {run.parent}"
            )
        if not about and (self.path / "config.json").is_file():
            raise RequestError(
                f"{self.path} holds a checkpoint of another library, not a run: `mha-ablate inspect` reads a GPT-2's weights there"
            )
        state = about.get("state", "no run at all")
        raise RequestError(
            f"{self.path} holds no finished run ({state}): give a folder such as outputs/train/dense/seed=0"
        )

    def lines(self, *, holding: str = "", without: str | None = None) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl in order; a line that cannot be read, such as a last one that was cut short, is left out.

        With `holding`, only lines in which that word stands, with `without` only those in which it does not: to read what is
        not needed, or has been read, takes time.
        """
        try:
            text = self._metrics()
        except OSError:
            return []
        lines, decode = [], json.JSONDecoder().decode
        for line in text.splitlines():
            if holding not in line or (without is not None and without in line):
                continue
            try:
                lines.append(decode(line))
            except (ValueError, RecursionError):
                continue
        return [line for line in lines if line_is_sound(line)]

    def _metrics(self) -> str:
        """The text of metrics.jsonl. A byte that is none of UTF-8 spoils its own line alone."""
        if not self.metrics_file.is_file():
            raise FileNotFoundError(self.metrics_file)
        return self.metrics_file.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class StudyFolder:
    """Runs of one study by arm and seed, its plan, its costs, its report."""

    path: Path

    @property
    def plan_file(self) -> Path:
        """Arms, seeds, margin, as fixed before the first step."""
        return self.path / "plan.json"

    @property
    def cost_file(self) -> Path:
        """Counted and measured costs of every arm."""
        return self.path / "cost.json"

    @property
    def floor_file(self) -> Path:
        """How much copies of an arm differ, where the study has such arms."""
        return self.path / "floor.json"

    @property
    def report_dir(self) -> Path:
        """Where the report goes."""
        return self.path / "report"

    def clear_scratch(self) -> None:
        """Remove files that a killed process had begun."""
        means = [f for f in self.path.glob("*/mean") if not (f.is_symlink() or f.parent.is_symlink())]
        for place in (self.path, self.report_dir, *means):
            for file in place.glob(".*.tmp"):
                file.unlink(missing_ok=True)

    def plan(self) -> dict[str, Any] | None:
        """plan.json, or None where there is none that can be read and believed."""
        try:
            return plan_of(parsed(read_text(self.plan_file)))
        except (OSError, ValueError):
            return None

    def costs(self) -> dict[str, Any]:
        """cost.json, `arms` and `costs`, both empty where there is none that can be read and believed."""
        try:
            return costs_of(parsed(read_text(self.cost_file)))
        except (OSError, ValueError):
            return {"arms": {}, "costs": {}}

    @property
    def parts_file(self) -> Path:
        """Points and tuning of a study of several parts, which lie below it."""
        return self.path / "parts.json"

    def parts(self) -> dict[str, Any] | None:
        """parts.json, or None where there is none that can be read and believed."""
        try:
            return parts_of(parsed(read_text(self.parts_file)))
        except (OSError, ValueError):
            return None

    @property
    def sweep_file(self) -> Path:
        """The request of a sweep, and the hash of every cell of it."""
        return self.path / "sweep.json"

    def sweep(self) -> dict[str, Any] | None:
        """sweep.json, or None where there is none that can be read and believed."""
        try:
            return sweep_of(parsed(read_text(self.sweep_file)))
        except (OSError, ValueError):
            return None

    @property
    def jobs_file(self) -> Path:
        """Which Slurm job was to train which cell."""
        return self.path / "jobs.json"

    def jobs(self) -> dict[str, str]:
        """jobs.json, `{ARM/seed=N: job}`; empty where there is none that can be read and believed."""
        try:
            return jobs_of(parsed(read_text(self.jobs_file)))
        except (OSError, ValueError):
            return {}

    def floors(self) -> list[dict[str, Any]]:
        """What the floor.json of this study and of those beside it say, as far as they can be read and believed."""
        found = []
        for file in sorted(self.path.absolute().parent.glob("*/floor.json")):
            try:
                found.append(floor_of(parsed(read_text(file))))
            except (OSError, ValueError):
                continue
        return found

    def run(self, arm: str, seed: int) -> RunFolder:
        """The run of an arm at a seed."""
        return RunFolder(self.path / arm / f"seed={seed}")

    def runs(self) -> list[RunFolder]:
        """Every run below, sorted by path."""
        return [RunFolder(file.parent) for file in sorted(self.path.rglob("run.json"))]
