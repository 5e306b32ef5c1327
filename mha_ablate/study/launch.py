"""Cells through one of Hydra's launchers: on this machine one by one or side by side, or on a cluster.

A launcher is told what to run, and asked nothing: what became of a cell is believed from its run folder alone, and whether its
process is still there from the folder's lock and from Slurm's queue. So a cell that fails, diverges or is killed takes no other
with it, and a launcher that breaks down is given the rest again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.config.bridge import readable
from mha_ablate.errors import RequestError, RunFailed, in_a_line
from mha_ablate.run.folder import FINISHED, RunFolder, StudyFolder, read_json, write_json
from mha_ablate.run.lock import is_locked
from mha_ablate.study import slurm
from mha_ablate.study.cell import Cell, run_cell
from mha_ablate.study.observer import Observer
from mha_ablate.study.pool import Worker
from mha_ablate.study.progress import Progress, key_of
from mha_ablate.study.slurm import heard_jobs, still_there
from mha_ablate.study.status import is_alive

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig

POLL = 1.0  # seconds between looks at the run folders
GRACE = 10.0  # seconds in which the processes of a launcher that broke down let go of their folders


@dataclass
class CellTask:
    """The function that Hydra's launcher calls in each job: it finds its cell by `hydra.sweep.subdir`, and trains it.

    Returns the validation loss, or infinity where it diverged, for sweepers that choose by it. Whatever goes wrong is recorded in
    the run folder, then raised as a RuntimeError, which every launcher can carry home.
    """

    cells: dict[str, dict[str, Any]]
    in_worker: bool = False  # in a process of its own, so that a kill of it does not kill the launcher
    with_parent: bool = False  # the process ends when the one that started it is gone

    def __call__(self, _config: DictConfig) -> float:
        """Train the cell of this job."""
        from hydra.core.hydra_config import HydraConfig

        if self.with_parent:
            _end_with_parent()
        cell = Cell.from_json(self.cells[str(HydraConfig.get().sweep.subdir)])
        try:
            run = _in_a_worker(cell) if self.in_worker else run_cell(cell, lambda _: None)
        except Exception as error:
            raise RuntimeError(in_a_line(error)) from None
        return _loss_of(run)


@dataclass
class TimeTask:
    """The function of one more job: it measures step times where the cells have run, and leaves them in a file."""

    configs: dict[str, dict[str, Any]]
    text: dict[str, Any]
    file: str

    def __call__(self, _config: DictConfig) -> None:
        """Measure and write, or write why not."""
        from mha_ablate.config.compose import from_plain
        from mha_ablate.study.timing import measure_steps

        try:
            configs = {arm: from_plain(plain) for arm, plain in self.configs.items()}
            write_json(Path(self.file), {"times": measure_steps(configs, lambda *_: None, self.text)})
        except Exception as error:
            write_json(Path(self.file), {"error": in_a_line(error)})


@functools.cache
def _end_with_parent() -> None:
    """From now on, look every second whether the parent is there, as no launcher does after a kill -9."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


@contextlib.contextmanager
def _quiet_trackers() -> Iterator[None]:
    """Processes started inside do not warn of the semaphores of workers that were killed."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker:UserWarning"]))
    try:
        yield
    finally:
        os.environ.pop("PYTHONWARNINGS")
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def _loss_of(run: dict[str, Any]) -> float:
    loss = run["result"]["val_loss"]
    return float("inf") if loss is None else float(loss)


class _Apart:
    """The worker process of a launcher that would train in this one."""

    def __init__(self) -> None:
        self.inbox: queue.Queue[tuple[Worker, dict[str, Any]]] = queue.Queue()
        self.worker: Worker | None = None

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train a cell there. Raises RuntimeError with what went wrong."""
        if self.worker is None:
            self.worker = Worker(self.inbox)
        worker = self.worker
        worker.give([cell])
        while True:
            sender, message = self.inbox.get()
            if sender is not worker:
                continue
            if message["kind"] == "gone":
                reason = worker.how_it_ended()
                self.stop()
                if not cell.finished():
                    cell.folder.note_failure({**cell.head(), **cell.folder.read()}, reason)
                raise RuntimeError(reason)
            if message["kind"] == "done":
                if message["state"] not in FINISHED:
                    raise RuntimeError(message["error"])
                return cell.folder.read()

    def stop(self) -> None:
        """Kill it."""
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.stop()


_apart = _Apart()


def _in_a_worker(cell: Cell) -> dict[str, Any]:
    return _apart.run(cell)


@dataclass
class _Seen:
    """What was seen of a cell's folder: run.json before it was launched, how far metrics.jsonl was read."""

    before: int  # when run.json was written, 0 where there was none
    offset: int = 0
    begun: bool = False


@dataclass
class Launching:
    """Cells of one folder on their way through a launcher. `progress` says where they stand; it may grow."""

    hydra: Hydra
    config: DictConfig  # of Hydra's multirun: launcher, sweeper
    folder: StudyFolder
    observer: Observer
    config_dir: Path | None = None
    retries: int = 0
    progress: Progress = field(default_factory=lambda: Progress([]))
    seen: dict[tuple[str, int], _Seen] = field(default_factory=dict)
    elsewhere: set[tuple[str, int]] = field(default_factory=set)  # cells that another process trains
    jobs: list[Any] = field(default_factory=list)
    stopped: bool = False
    died: bool = False  # whether the launcher broke down in its last try
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
            key = key_of(cell)
            seen = self.seen.get(key)
            if seen is not None and key not in self.progress.finished:
                self._look_at(cell, seen, now)
        if self.progress.cells:
            self.observer.training(self.progress)

    def _look_at(self, cell: Cell, seen: _Seen, now: float) -> None:
        if not seen.begun:
            if _written(cell.folder) == seen.before:
                return
            seen.begun = True
            self.progress.begin(cell, now)
        lines, seen.offset = _new_lines(cell.folder, seen.offset)
        for line in lines:
            self.progress.hear(cell, line, now)
        if cell.folder.read().get("state") in FINISHED:
            self._settle(cell)

    def stop(self) -> None:
        """Stop what runs on this machine. Jobs of a cluster go on: the same request takes them up again."""
        self.stopped = True
        _apart.stop()
        _stop_joblib()
        for job in self.jobs:
            if (controller := getattr(job, "_process", None)) is not None:
                with contextlib.suppress(OSError):
                    controller.kill()  # its task ends with it; it would not heed SIGTERM, and tell all of SIGINT

    @property
    def on_other_machines(self) -> bool:
        """Whether cells run where this process does not."""
        return self.target.endswith(("SlurmLauncher", "RayAWSLauncher"))

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
        return sorted(still_there(set(self.folder.jobs().values())))

    # The launching side, in a thread of its own.

    def launch(self, cells: Sequence[Cell]) -> None:
        """Have every cell trained that is not finished, failed ones again as often as `retries` says.

        Raises RunFailed where the launcher cannot begin anything.
        """
        if self.target.endswith("SlurmLauncher") and slurm.queue() is None:
            raise RunFailed(
                "no Slurm answers here: `squeue` fails; log in where jobs can be submitted, or choose another launcher"
            )
        self._enter(cells)
        left = [cell for cell in cells if not cell.finished()]
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
        if key in self.progress.finished or (key in self.progress.losses and key not in self.progress.running):
            return
        if key not in self.progress.running:
            self.progress.begin(cell, now)
        if run := cell.finished():
            self.progress.end(cell, run["state"], now, loss=run["result"]["val_loss"])
        else:
            error = cell.folder.read().get("error") or "it did not begin, and nobody says why"
            self.progress.end(cell, "failed", now, error=error)

    def _round(self, cells: Sequence[Cell]) -> None:
        """Each cell has one try, wherever it is made: here, or where another process is at it already."""
        todo, suspects = list(cells), []
        while (todo or suspects) and not self.stopped:
            todo = [cell for cell in todo if not cell.finished()]
            others = [cell for cell in todo if self._is_elsewhere(cell)]
            mine = _without(todo, others)
            if not mine and not others and suspects:
                mine = [suspects.pop(0)]
            if not mine:
                if others:
                    time.sleep(POLL)
                continue
            lost = self._give(mine)
            todo = others
            if self.stopped:
                return
            if len(mine) == 1 or self.apart:
                for cell, why in lost:
                    _note_loss(cell, why)
                continue
            # A process that dies takes this launcher down, and nobody says which one it was: whatever was begun is tried alone,
            # after the others.
            begun = [cell for cell, _ in lost if self.seen[key_of(cell)].begun]
            unbegun = _without([cell for cell, _ in lost], begun)
            if self.died and len(lost) == len(mine) and not begun:
                suspects += unbegun
            elif lost and not begun and len(lost) == len(mine):
                raise RunFailed(f"the launcher could not begin: {lost[0][1]}")
            elif not self.died:  # they came home with an error before their folders could tell of it
                for cell, why in lost:
                    _note_loss(cell, why)
            else:
                suspects, todo = suspects + begun, todo + unbegun

    def _is_elsewhere(self, cell: Cell) -> bool:
        """Whether another process, or a Slurm job of an earlier call, has the cell."""
        run = cell.folder.read()
        held = is_locked(cell.folder.path)
        if not held and run.get("state") == "running":
            held = is_alive(run.get("owner"), _heard(cell.folder), time.time(), elsewhere_only=True)
        job = self.folder.jobs().get(f"{cell.arm}/seed={cell.seed}")
        if held or (job and still_there({job})):
            if key_of(cell) not in self.elsewhere:
                self.elsewhere.add(key_of(cell))
                self.seen[key_of(cell)] = _Seen(0)
            return True
        return False

    def _give(self, cells: Sequence[Cell]) -> list[tuple[Cell, str]]:
        """Hand cells to the launcher and wait until it is done with them; returns those that came to no end, and why."""
        for cell in cells:
            self.seen[key_of(cell)] = _Seen(_written(cell.folder))
        broken, returned = None, []
        with heard_jobs() as jobs, _quiet_trackers():
            self.jobs = jobs
            threading.Thread(target=self._note_jobs, args=(cells, jobs), daemon=True).start()
            try:
                returned = list(self._launcher(cells).launch([self._words(cell) for cell in cells], 0))
            except RunFailed:
                raise
            except Exception as error:
                broken = error
            while not self.stopped and not all(
                job.done() for job in jobs
            ):  # the first that is lost ends the launcher's wait for all
                time.sleep(POLL)
            self.jobs = []
        self.died = broken is not None
        if broken is not None and not self.stopped:
            self._wait_for_locks(cells)
        lost = []
        for i, cell in enumerate(cells):
            if not self._came_to_an_end(cell):
                error = _error_of(returned[i]) if i < len(returned) else None
                lost.append((cell, error or _why(broken, jobs[i] if i < len(jobs) else None)))
        return lost

    def _launcher(self, cells: Sequence[Cell]) -> Any:
        in_this_process = self.target.endswith("basic_launcher.BasicLauncher")
        with_parent = self.target.endswith(("JoblibLauncher", "LocalLauncher"))
        plain = {f"{cell.arm}/seed={cell.seed}": cell.to_json() for cell in cells}
        return self._built(CellTask(plain, in_worker=in_this_process, with_parent=with_parent))

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
        return readable([*cell.overrides, f"hydra.sweep.subdir={cell.arm}/seed={cell.seed}"])

    def _note_jobs(self, cells: Sequence[Cell], jobs: list[Any]) -> None:
        """Write down the Slurm jobs as soon as they are known, so that a later call finds them if this one dies."""
        while self.jobs is jobs and not jobs:
            time.sleep(0.05)
        if jobs and type(jobs[0]).__name__ == "SlurmJob":
            names = [f"{cell.arm}/seed={cell.seed}" for cell in cells]
            known = {name: job.job_id for name, job in zip(names, jobs, strict=False)}
            with contextlib.suppress(OSError):
                write_json(self.folder.jobs_file, {**self.folder.jobs(), **known})

    def _wait_for_locks(self, cells: Sequence[Cell]) -> None:
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(is_locked(cell.folder.path) for cell in cells):
            time.sleep(0.2)

    def _came_to_an_end(self, cell: Cell) -> bool:
        """Whether this try left a run that is finished or says that it failed."""
        seen = self.seen[key_of(cell)]
        if cell.finished():
            return True
        if _written(cell.folder) == seen.before:
            return False
        seen.begun = True
        return cell.folder.read().get("state") == "failed"


def _without(cells: Sequence[Cell], those: Sequence[Cell]) -> list[Cell]:
    left_out = {key_of(cell) for cell in those}
    return [cell for cell in cells if key_of(cell) not in left_out]


def _note_loss(cell: Cell, why: str) -> None:
    """A cell whose process came to no end has failed."""
    run = cell.folder.read()
    cell.folder.path.mkdir(parents=True, exist_ok=True)
    cell.folder.note_failure({**cell.head(), **run}, why)


def _why(broken: Exception | None, job: Any) -> str:
    """What there is to say of a process that is gone."""
    with contextlib.suppress(Exception):  # it may have come home with an error of its own
        if told := _error_of(job.results()[0]):
            return told
    where = f"Slurm job {job.job_id}" if type(job).__name__ == "SlurmJob" else "its process"
    last = ""
    if job is not None:
        with contextlib.suppress(Exception):
            lines = [line.strip() for line in (job.stderr() or "").splitlines()]
            last = next((line for line in reversed(lines) if line and not line.startswith("srun: ")), "")
    if job is None and broken is not None:
        codes = re.search(r"exit codes of the workers are \{(.*?)\}", str(broken))  # joblib's
        return f"its process was killed ({codes[1]})" if codes else in_a_line(broken)[:300]
    return f"{where} ended without a word (killed?)" + (f": {last[:200]}" if last else "")


def _error_of(returned: Any) -> str | None:
    """The error that a job came home with."""
    value = getattr(returned, "_return_value", None)
    return str(value) if isinstance(value, Exception) else None


def _written(folder: RunFolder) -> int:
    try:
        return folder.run_file.stat().st_mtime_ns
    except OSError:
        return 0


def _heard(folder: RunFolder) -> float:
    for file in (folder.metrics_file, folder.run_file):
        with contextlib.suppress(OSError):
            return file.stat().st_mtime
    return 0.0


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


def _stop_joblib() -> None:
    """Kill joblib's processes, if there are any."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        with contextlib.suppress(Exception):
            executor.shutdown(wait=True, kill_workers=True)


@dataclass
class Front:
    """A launcher in the eyes of a sweeper that chooses as it goes: what it proposes is checked, named, and launched.

    `cells_of` makes cells of overrides. A proposal that is no configuration counts as a failed one.
    """

    launching: Launching
    cells_of: Callable[[list[str]], Cell]
    refused: list[str] = field(default_factory=list)  # proposals that were none, and why

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """As Hydra's launchers do: a JobReturn for each."""
        from hydra.core.utils import JobReturn, JobStatus

        found: list[Cell | RequestError] = []
        for words in job_overrides:
            try:
                found.append(self.cells_of(list(words)))
            except RequestError as error:
                found.append(error)
                self.refused.append(str(error))
        self.launching.launch([one for one in found if isinstance(one, Cell)])
        made = []
        for number, (one, words) in enumerate(zip(found, job_overrides, strict=True), start=initial_job_idx):
            run = one.finished() if isinstance(one, Cell) else None
            home = JobReturn(overrides=list(words), task_name=f"{number}", status=JobStatus.COMPLETED)
            home.return_value = _loss_of(run) if run else float("nan")  # which a sweeper takes as a failure
            made.append(home)
        return made
