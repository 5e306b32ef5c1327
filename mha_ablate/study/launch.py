"""Cells through one of Hydra's launchers: on this machine one by one or side by side, or on a cluster.

A launcher is told what to run, and asked nothing: what became of a cell is believed from its run folder alone, and whether its
process is still there from the folder's lock and from Slurm's queue. So a cell that fails, diverges or is killed takes no other
with it, and a launcher that breaks down is given the rest again.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mha_ablate.config.bridge import readable
from mha_ablate.errors import RunFailed, in_a_line
from mha_ablate.run.folder import FINISHED, RunFolder, StudyFolder, read_json, write_json
from mha_ablate.run.lock import is_locked
from mha_ablate.study import slurm
from mha_ablate.study.cell import Cell
from mha_ablate.study.lost import reason_of
from mha_ablate.study.observer import Observer
from mha_ablate.study.progress import Progress, key_of
from mha_ablate.study.side_by_side import is_in_this_process, is_joblib, quiet_trackers, stop_joblib, stop_ray
from mha_ablate.study.slurm import Queue, heard_jobs
from mha_ablate.study.status import heard, is_alive
from mha_ablate.study.tasks import ANY, Apart, CellTask, TimeTask

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

POLL = 1.0  # seconds between looks at the run folders
SEEN_LATE = 10.0  # seconds in which a network file system shows what another machine wrote
GRACE = 10.0  # seconds in which the processes of a launcher that broke down let go of their folders


@dataclass
class _Seen:
    """What was seen of a cell's folder: run.json before it was launched, how far metrics.jsonl was read."""

    before: int  # when run.json was written, 0 where there was none
    offset: int = 0


@dataclass
class Launching:
    """Cells of one folder on their way through a launcher. `progress` says where they stand; it may grow."""

    hydra: Hydra
    config: DictConfig  # of Hydra's multirun: launcher, sweeper
    folder: StudyFolder
    observer: Observer
    retries: int = 0
    progress: Progress = field(default_factory=lambda: Progress([]))
    seen: dict[tuple[str, int], _Seen] = field(default_factory=dict)
    jobs: list[Any] = field(default_factory=list)
    stopped: bool = False
    died: bool = False  # whether the launcher broke down in its last try
    worker: Apart = field(default_factory=Apart)
    queue: Queue = field(default_factory=Queue)
    telling: threading.Lock = field(default_factory=threading.Lock)  # two threads tell the progress

    @property
    def target(self) -> str:
        """The launcher's class."""
        return str(self.config.hydra.launcher._target_)

    @property
    def apart(self) -> bool:
        """Whether each cell has a job of its own, so that losing one says nothing of the others."""
        return "submitit" in self.target

    # The parent's side: watch the folders while a thread launches.

    def watch(self, work: Callable[[], Any]) -> Any:
        """Do `work` beside, and tell the observer what the run folders show meanwhile; returns what it returned, or raises that."""
        result: list[Any] = []
        raised: list[BaseException] = []

        def guarded() -> None:
            try:
                result.append(work())
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(POLL)
                self.look()
        except BaseException:
            self.stop()
            thread.join(GRACE)  # so that it lets go of what it holds
            raise
        if raised:
            raise raised[0]
        return result[0]

    def look(self) -> None:
        """Take in what the folders show."""
        now = time.monotonic()
        for cell in list(self.progress.todo):
            seen = self.seen.get(key_of(cell))
            if seen is not None and _written(cell.folder) != seen.before:
                self._look_at(cell, seen, now)
        if self.progress.cells:
            self.observer.training(self.progress)

    def _look_at(self, cell: Cell, seen: _Seen, now: float) -> None:
        key = key_of(cell)
        if key in self.progress.finished:
            return
        lines, seen.offset = _new_lines(cell.folder, seen.offset)
        with self.telling:
            if key not in self.progress.finished:
                self._begin(cell, now)
                for line in lines:
                    self.progress.hear(cell, line, now)
        if cell.folder.read().get("state") in FINISHED:
            self._settle(cell)

    def _begin(self, cell: Cell, now: float) -> None:
        """A cell begins once, however often it is tried."""
        if key_of(cell) not in self.progress.running:
            self.progress.begin(cell, now)

    def stop(self) -> None:
        """Stop what runs on this machine. Jobs of a cluster go on: the same request takes them up again."""
        self.stopped = True
        self.worker.stop()
        stop_joblib()
        stop_ray()
        for job in self.jobs:
            if (controller := getattr(job, "_process", None)) is not None:
                with contextlib.suppress(OSError):
                    controller.kill()  # its task ends with it; it would not heed SIGTERM, and tell all of SIGINT

    @property
    def on_other_machines(self) -> bool:
        """Whether cells run where this process does not."""
        return is_elsewhere(self.config)

    def times(self, configs: dict[str, dict[str, Any]], text: dict[str, Any]) -> dict[str, Any]:
        """Step times of all arms, measured in a job of their own. Raises RunFailed."""
        file = self.folder.path / ".times.json"
        file.unlink(missing_ok=True)
        with heard_jobs():
            try:
                self._built(TimeTask(configs, text, str(file))).launch([["hydra.sweep.subdir=.times"]], 0)
            except Exception as error:
                raise RunFailed(f"step times could not be measured: {in_a_line(error)[:300]}") from error
        found = read_json(file) or {}
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self.folder.path / ".times").rmdir()
        if not isinstance(found.get("times"), dict):
            raise RunFailed(f"step times could not be measured: {found.get('error', 'the job left none')}")
        return found["times"]

    @property
    def in_the_queue(self) -> list[str]:
        """The Slurm jobs that wait or run."""
        return sorted(self.queue.still_there(set(self.folder.jobs().values())))

    # The launching side, in a thread of its own.

    def launch(self, cells: Sequence[Cell]) -> None:
        """Have every cell trained that is not finished, failed ones again as often as `retries` says.

        Raises RunFailed where the launcher cannot begin anything.
        """
        self._enter(cells)
        left = [cell for cell in cells if not cell.finished()]
        if left and self.target.endswith("SlurmLauncher") and slurm.queue() is None:
            raise RunFailed(
                "no Slurm answers here: `squeue` fails; log in where jobs can be submitted, or choose another launcher"
            )
        for _ in range(self.retries + 1):
            self._round(left)
            left = [cell for cell in left if not cell.finished()]
            if not left:
                break
        for cell in () if self.stopped else cells:
            self._settle(cell)

    def _enter(self, cells: Iterable[Cell]) -> None:
        known = {key_of(cell) for cell in self.progress.cells}
        for cell in cells:
            if key_of(cell) in known:
                continue
            self.progress.cells.append(cell)
            if run := cell.finished():
                self.progress.losses[key_of(cell)] = run["result"]["val_loss"]
            else:
                self.progress.todo.append(cell)

    def _settle(self, cell: Cell) -> None:
        """Tell the progress how a cell ended."""
        with self.telling:
            self._settle_alone(cell)

    def _settle_alone(self, cell: Cell) -> None:
        key, now = key_of(cell), time.monotonic()
        done_before = key in self.progress.losses and key not in self.progress.running
        if key in self.progress.finished or done_before:
            return
        self._begin(cell, now)
        if run := cell.finished():
            self.progress.end(cell, run["state"], now, loss=run["result"]["val_loss"])
        else:
            error = cell.folder.read().get("error") or "it did not begin, and nobody says why"
            self.progress.end(cell, "failed", now, error=error)

    def _round(self, cells: Sequence[Cell]) -> None:
        """Each cell has one try here, unless another process is at it and finishes it."""
        todo, suspects = list(cells), []
        while (todo or suspects) and not self.stopped:
            todo = [cell for cell in todo if not cell.finished()]
            others = self._elsewhere(todo)
            mine = _without(todo, others)
            if not mine and not others and suspects:
                mine = [suspects.pop(0)]
            if not mine:
                time.sleep(POLL if others else 0.0)
                continue
            lost, todo = self._give(mine), others
            if self.stopped:
                return
            begun = [cell for cell, _ in lost if _written(cell.folder) != self.seen[key_of(cell)].before]
            unbegun = _without([cell for cell, _ in lost], begun)
            if len(mine) == 1 or self.apart or not self.died:
                self._note_losses(lost)
            elif len(unbegun) == len(mine):
                suspects += unbegun
            else:
                # A process that dies takes this launcher down, and nobody says which one it was: whatever was begun is tried
                # alone, after the others.
                suspects, todo = suspects + begun, todo + unbegun

    def _elsewhere(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those that another process, or a Slurm job of an earlier call, has."""
        jobs = self.folder.jobs()
        queued = self.queue.still_there({jobs[cell.name] for cell in cells if cell.name in jobs})
        told = self.queue.silent_since is None  # what Slurm does not know of is over
        found = [
            cell
            for cell in cells
            if jobs.get(cell.name) in queued or self._is_held(cell, believed=not (told and cell.name in jobs))
        ]
        for cell in found:
            self.seen.setdefault(key_of(cell), _Seen(0))
        return found

    @staticmethod
    def _is_held(cell: Cell, *, believed: bool) -> bool:
        """Whether a process holds the cell's folder, or, where what is written there is `believed`, writes to it elsewhere."""
        run = cell.folder.read()
        if is_locked(cell.folder.path):
            return True
        writing = believed and run.get("state") == "running"
        return writing and is_alive(run.get("owner"), heard(cell.folder, run), time.time(), elsewhere_only=True)

    def _note_losses(self, lost: list[tuple[Cell, str]]) -> None:
        """Cells whose processes came to no end have failed, unless another process is at them, or has ended them meanwhile."""
        silent = bool(lost) and self.target.endswith("SlurmLauncher") and slurm.queue() is None
        for cell, why in lost:
            if not cell.finished() and not self._is_held(cell, believed=silent):
                cell.folder.path.mkdir(parents=True, exist_ok=True)
                cell.folder.note_failure({**cell.head(), **cell.folder.read()}, why)

    def _give(self, cells: Sequence[Cell]) -> list[tuple[Cell, str]]:
        """Hand cells to the launcher and wait until it is done with them; returns those that came to no end, and why."""
        for cell in cells:
            self.seen[key_of(cell)] = _Seen(_written(cell.folder))
        # What a lost job says for itself is asked inside too: outside, submitit would wait for it without end.
        with heard_jobs() as jobs, quiet_trackers(self.config):
            self.jobs = jobs
            threading.Thread(target=self._note_jobs, args=(cells, jobs), daemon=True).start()
            returned, broken = self._launched(cells)
            # The first loss ends the launcher's own wait for all.
            while not self.stopped and not all(job.done() for job in jobs):
                time.sleep(POLL)
            self.jobs, self.died = [], broken is not None
            if broken is not None and not self.stopped:
                self._wait_for_locks(cells)
            lost = [i for i, cell in enumerate(cells) if not self._came_to_an_end(cell)]
            if lost and self.on_other_machines:
                lost = self._still_lost(cells, lost)
            self._forget_jobs(cells)
            return [] if self.stopped else [(cells[i], reason_of(returned, broken, jobs, i)) for i in lost]

    def _launched(self, cells: Sequence[Cell]) -> tuple[list[Any], Exception | None]:
        """What the launcher brought home, or what it broke down with."""
        try:
            return list(self._launcher(cells).launch([self._words(cell) for cell in cells], 0)), None
        except RunFailed:
            raise
        except Exception as error:
            return [], error

    def _still_lost(self, cells: Sequence[Cell], lost: list[int]) -> list[int]:
        """Of the cells that seem to have come to no end, those that still do when the file system has caught up."""
        deadline = time.monotonic() + SEEN_LATE
        while lost and time.monotonic() < deadline and not self.stopped:
            time.sleep(POLL)
            for i in lost:
                with contextlib.suppress(OSError):
                    list(cells[i].folder.path.iterdir())  # which makes a network file system look anew
            lost = [i for i in lost if not self._came_to_an_end(cells[i])]
        return lost

    def _launcher(self, cells: Sequence[Cell]) -> Any:
        plain = {cell.name: cell.to_json() for cell in cells}
        if self.target.endswith("basic_launcher.BasicLauncher") or is_in_this_process(self.config):
            return self._built(CellTask(plain, apart=self.worker))
        if is_joblib(self.config):
            return self._built(CellTask(plain, parent=os.getpid()))
        return self._built(CellTask(plain, parent=ANY if self.target.endswith("LocalLauncher") else None))

    def _built(self, task: Callable[[DictConfig], Any]) -> Any:
        from hydra._internal.callbacks import Callbacks
        from hydra.core.plugins import Plugins
        from hydra.types import HydraContext

        context = HydraContext(config_loader=self.hydra.config_loader, callbacks=Callbacks(self.config))
        try:
            return Plugins.instance().instantiate_launcher(context, task, self.config)
        except Exception as error:
            raise RunFailed(f"the launcher cannot be built: {in_a_line(error)}") from error

    def _words(self, cell: Cell) -> list[str]:
        return readable([*cell.overrides, f"hydra.sweep.subdir={cell.name}"])

    def _note_jobs(self, cells: Sequence[Cell], jobs: list[Any]) -> None:
        """Write down the Slurm jobs as soon as they are known, so that a later call finds them if this one dies."""
        while self.jobs is jobs and not jobs:
            time.sleep(0.05)
        if jobs and type(jobs[0]).__name__ == "SlurmJob":
            names = [cell.name for cell in cells]
            known = {name: job.job_id for name, job in zip(names, jobs, strict=False)}
            with contextlib.suppress(OSError):
                write_json(self.folder.jobs_file, {**self.folder.jobs(), **known})

    def _forget_jobs(self, cells: Sequence[Cell]) -> None:
        """Jobs that have ended are no longer to be waited for; numbers come back in a Slurm that is set up anew."""
        known = self.folder.jobs()
        left = {name: job for name, job in known.items() if name not in {cell.name for cell in cells}}
        if left != known and not self.stopped:
            with contextlib.suppress(OSError):
                write_json(self.folder.jobs_file, left)

    def _wait_for_locks(self, cells: Sequence[Cell]) -> None:
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(is_locked(cell.folder.path) for cell in cells):
            time.sleep(0.2)

    def _came_to_an_end(self, cell: Cell) -> bool:
        """Whether this try left a run that is finished or says that it failed."""
        if cell.finished():
            return True
        changed = _written(cell.folder) != self.seen[key_of(cell)].before
        return changed and cell.folder.read().get("state") == "failed"


def is_elsewhere(config: DictConfig) -> bool:
    """Whether the launcher that Hydra's settings choose runs cells where this process does not."""
    return str(config.hydra.launcher._target_).endswith(("SlurmLauncher", "RayAWSLauncher"))


def _without(cells: Sequence[Cell], those: Sequence[Cell]) -> list[Cell]:
    left_out = {key_of(cell) for cell in those}
    return [cell for cell in cells if key_of(cell) not in left_out]


def _written(folder: RunFolder) -> int:
    try:
        return folder.run_file.stat().st_mtime_ns
    except OSError:
        return 0


def _new_lines(folder: RunFolder, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of metrics.jsonl from `offset` on, and where they end. A file that became shorter is read anew."""
    try:
        size = folder.metrics_file.stat().st_size
        if size == offset:
            return [], offset
        with folder.metrics_file.open("rb") as stream:
            stream.seek(offset if offset < size else 0)
            content = stream.read()
    except OSError:
        return [], offset
    whole = content[: content.rfind(b"\n") + 1]
    lines = []
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    good = [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]
    return good, (offset if offset < size else 0) + len(whole)
