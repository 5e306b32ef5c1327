"""What Hydra's launchers call, in the process of a job: one cell trained, or the step times of all arms measured."""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.config.compose import from_plain
from mha_ablate.errors import in_a_line
from mha_ablate.run.folder import FINISHED, write_json
from mha_ablate.study.cell import Cell, run_cell
from mha_ablate.study.pool import Worker
from mha_ablate.study.timing import measure_steps

if TYPE_CHECKING:
    from omegaconf import DictConfig

POLL = 1.0  # seconds between looks at the parent
ANY = 0  # for the number of a process: whichever it is


@dataclass
class CellTask:
    """The function that Hydra's launcher calls in each job: it finds its cell by `hydra.sweep.subdir`, and trains it.

    Returns the validation loss, or infinity where it diverged, for sweepers that choose by it. Whatever goes wrong is recorded in
    the run folder, then raised as a RuntimeError, which every launcher can carry home.
    """

    cells: dict[str, dict[str, Any]]
    apart: Apart | None = None  # where the launcher would train in this process, which a kill would then end
    parent: int | None = None  # the process that started this one, with which it ends; ANY for whichever that is

    def __call__(self, _config: DictConfig) -> float:
        """Train the cell of this job."""
        from hydra.core.hydra_config import HydraConfig

        if self.parent is not None:
            _end_with(self.parent)
        cell = Cell.from_json(self.cells[str(HydraConfig.get().sweep.subdir)])
        try:
            run = self.apart.run(cell) if self.apart else run_cell(cell, lambda _: None)
        except Exception as error:
            raise RuntimeError(in_a_line(error)) from None
        return loss_of(run)


@dataclass
class TimeTask:
    """The function of one more job: it measures step times where the cells have run, and leaves them in a file."""

    configs: dict[str, dict[str, Any]]
    text: dict[str, Any]
    file: str

    def __call__(self, _config: DictConfig) -> None:
        """Measure and write, or write why not."""
        try:
            configs = {arm: from_plain(plain) for arm, plain in self.configs.items()}
            write_json(Path(self.file), {"times": measure_steps(configs, lambda *_: None, self.text)})
        except Exception as error:
            write_json(Path(self.file), {"error": in_a_line(error)})


@functools.cache
def _end_with(parent: int) -> None:
    """From now on, look every second whether the parent is there, as no launcher does after a kill -9.

    It may be gone before the first look: then another process is the parent already, and only its number tells.
    """
    parent = os.getppid() if parent == ANY else parent

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def loss_of(run: dict[str, Any]) -> float:
    """What a sweeper makes small: the validation loss, infinity where the run diverged."""
    loss = run["result"]["val_loss"]
    return float("inf") if loss is None else float(loss)


class Apart:
    """The worker process of a launcher that would train in this one."""

    def __init__(self) -> None:
        self.inbox: queue.Queue[tuple[Worker, dict[str, Any]]] = queue.Queue()
        self.worker: Worker | None = None
        self.stopped = False

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train a cell there. Raises RuntimeError with what went wrong."""
        if self.worker is None:
            self.worker = Worker(self.inbox)
        worker = self.worker
        worker.give([cell])
        while True:
            sender, message = self.inbox.get()
            if self.stopped:
                raise RuntimeError("stopped")
            if sender is not worker:
                continue
            if message["kind"] == "gone":
                reason = worker.how_it_ended()
                worker.stop()
                self.worker = None
                if not cell.finished():
                    cell.folder.note_failure({**cell.head(), **cell.folder.read()}, reason)
                raise RuntimeError(reason)
            if message["kind"] == "done":
                if message["state"] not in FINISHED:
                    raise RuntimeError(message["error"])
                return cell.folder.read()

    def stop(self) -> None:
        """Kill it: the cell that it trains keeps the state `running`, and goes on next time."""
        self.stopped = True
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.stop()
