"""Running the cells of a plan on worker processes, and measuring its arms."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from mha_ablate import build
from mha_ablate.errors import RunFailed
from mha_ablate.run.folder import write_json
from mha_ablate.run.state import saved_step
from mha_ablate.study.cell import Cell
from mha_ablate.study.observer import Observer
from mha_ablate.study.plan import Plan
from mha_ablate.study.pool import Worker
from mha_ablate.study.progress import Progress, key_of
from mha_ablate.study.timing import turns
from mha_ablate.training.hardware import cpu_count

# Step times by arm, of configurations (plain) and a text's reference.
Times = Callable[[dict[str, dict[str, Any]], dict[str, Any]], dict[str, Any]]
MOST_LANES = 16  # cells side by side; more have not been tried


class Pool:
    """The workers of a study, started early so that they import while the plan is checked.

    `lanes` is how many cells a worker trains side by side; None: as many as `lanes_of` says.
    """

    def __init__(self, size: int, *, lanes: int | None = None) -> None:
        self.size, self.lanes = size, lanes
        self.inbox: queue.Queue[tuple[Worker, dict[str, Any]]] = queue.Queue()
        self.workers: list[Worker] = []

    def start(self, wanted: int | None = None) -> None:
        """Bring the number of workers up to `wanted`, or to size."""
        while len(self.workers) < min(self.size, wanted or self.size):
            self.workers.append(Worker(self.inbox))

    def keep_one(self) -> Worker:
        """Stop all but one worker, which is then alone on the machine as far as the study goes."""
        for worker in self.workers[1:]:
            worker.stop()
        del self.workers[1:]
        self.start(1)
        return self.workers[0]

    def stop(self) -> None:
        """Kill them all."""
        for worker in self.workers:
            worker.stop()
        self.workers.clear()


def default_workers(device: str = "auto") -> int:
    """One per core for `trainer.device`; a GPU has one, which trains several cells side by side."""
    import torch

    return 1 if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else cpu_count()


def groups(cells: Sequence[Cell], lanes: Callable[[Cell], int]) -> list[list[Cell]]:
    """The cells in groups that differ in their seeds alone, in the order of their first cells, each of at most `lanes(cell)`.

    Cells that go on from a saved state are grouped with those that stand at the same step.
    """
    made: list[list[Cell]] = []
    open_of: dict[tuple[str, int], list[Cell]] = {}  # the last group of each arm at each step
    for cell in cells:
        key = (cell.arm, saved_step(cell.folder) if lanes(cell) > 1 else 0)
        group = open_of.get(key)
        if group is None or len(group) >= lanes(group[0]):
            group = open_of[key] = []
            made.append(group)
        group.append(cell)
    return made


def lanes_in(free: float, of_a_cell: float) -> int:
    """How many cells fit side by side into `free` bytes, where training one takes `of_a_cell` by count: 1 to 16.

    Half of what is free is left to what is not counted: kernels' scratch space, what an allocator and a recording keep.
    """
    return max(1, min(MOST_LANES, int(free / 2 / of_a_cell)))


def lanes_of(plan: Plan, workers: int) -> dict[str, int]:
    """How many cells of each arm one of so many workers trains side by side.

    On a CPU one: a core is never idle. On a GPU as many as fit, unless there is dropout, which is not stacked.
    """
    import torch

    stacked = {a: c for a, c in plan.arms.items() if c.trainer.device == "cuda" and not c.model.dropout}
    if not stacked:
        return dict.fromkeys(plan.arms, 1)
    free = torch.cuda.mem_get_info()[0] / workers
    counted = {arm: build.counted_cost(config, plan.corpus.vocab_size) for arm, config in stacked.items()}
    fit = {arm: lanes_in(free, cost["peak_memory_mb"] * 1e6) for arm, cost in counted.items()}
    return dict.fromkeys(plan.arms, 1) | fit


def run_cells(plan: Plan, pool: Pool, observer: Observer, *, timed: bool = True) -> Progress:
    """Run every cell that is not done yet; a cell that fails takes no other with it but those it is stacked with.

    Returns the final state.
    """
    done = {key_of(cell): run["result"]["val_loss"] for cell in plan.cells if (run := cell.finished())}
    progress = Progress(plan.cells, done, to_be_timed=timed and not costs_are_known(plan))
    lanes = lanes_of(plan, pool.size) if pool.lanes is None else dict.fromkeys(plan.arms, pool.lanes)
    waiting = groups(progress.todo, lambda cell: lanes[cell.arm])
    if waiting:
        progress.workers = min(pool.size, len(waiting)) * len(waiting[0])
        pool.start(len(waiting))
    observer.training(progress)
    while len(progress.finished) < len(progress.todo):
        for worker in pool.workers:
            if waiting and worker.ready and not worker.cells:
                _hand_out(waiting.pop(0), worker, progress)
        try:
            worker, message = pool.inbox.get(timeout=0.2)
        except queue.Empty:
            pass
        else:
            if worker in pool.workers:  # and no last words of one that was stopped
                _take_in(worker, message, pool, progress)
        observer.training(progress)
    return progress


def _hand_out(group: list[Cell], worker: Worker, progress: Progress) -> None:
    for cell in group:
        progress.begin(cell, time.monotonic())
    worker.give(group)


def _take_in(worker: Worker, message: dict[str, Any], pool: Pool, progress: Progress) -> None:
    """Update the state of the study by one message of one worker."""
    if message["kind"] == "ready":
        worker.ready = True
        return
    if message["kind"] == "gone":
        _replace(worker, pool, progress)
        return
    [cell] = [cell for cell in worker.cells if key_of(cell) == (message["arm"], message["seed"])]
    if message["kind"] == "line":
        progress.hear(cell, message["line"], time.monotonic())
    elif message["kind"] == "done":
        worker.cells.remove(cell)
        progress.end(cell, message["state"], time.monotonic(), loss=message.get("val_loss"), error=message.get("error"))


def _replace(worker: Worker, pool: Pool, progress: Progress) -> None:
    """A worker is gone: its cells have failed, unless finished, and another worker takes its place for the rest."""
    reason = worker.how_it_ended()
    worker.stop()
    pool.workers.remove(worker)
    if not worker.ready:
        raise RunFailed(f"no worker could be started: {reason}")
    for cell in worker.cells:
        if run := cell.finished():
            progress.end(cell, run["state"], time.monotonic(), loss=run["result"]["val_loss"])
            continue
        cell.folder.note_failure({**cell.head(), **cell.folder.read()}, reason)
        progress.end(cell, "failed", time.monotonic(), error=reason)
    pool.start(len(pool.workers) + 1)


def time_arms(plan: Plan, observer: Observer, times: Times) -> str | None:
    """Measure the costs of the plan's arms unless they are known, by `times`; returns why that failed, if it did."""
    if costs_are_known(plan):
        return None
    try:
        measure_costs(plan, observer, times)
    except RunFailed as error:
        return str(error)
    return None


def costs_are_known(plan: Plan) -> bool:
    """Whether cost.json was measured on all of these arms, in one go."""
    return _arm_hashes(plan).items() <= plan.folder.costs()["arms"].items()


def _arm_hashes(plan: Plan) -> dict[str, str]:
    return {cell.arm: cell.arm_hash for cell in plan.cells}


def measure_costs(plan: Plan, observer: Observer, times: Times) -> dict[str, Any]:
    """Costs of every arm: counted, and timed with nothing beside it. Written to cost.json."""
    observer.timing(0, turns(len(plan.arms)))
    costs = {arm: build.counted_cost(config, plan.corpus.vocab_size) for arm, config in plan.arms.items()}
    timed = times({arm: asdict(config) for arm, config in plan.arms.items()}, plan.corpus.reference)
    result = {"arms": _arm_hashes(plan), "costs": {arm: {**costs[arm], **timed[arm]} for arm in costs}}
    write_json(plan.folder.cost_file, result)
    return result


def times_by_worker(pool: Pool, observer: Observer) -> Times:
    """What measures the step times of configurations by one worker of the pool, alone."""

    def times(configs: dict[str, dict[str, Any]], text: dict[str, Any]) -> dict[str, Any]:
        worker = pool.keep_one()
        worker.ask({"kind": "time", "configs": configs, "text": text})
        while True:
            sender, message = pool.inbox.get()
            if sender is not worker:  # the last words of those that were stopped
                continue
            if message["kind"] == "gone":
                raise RunFailed(f"step times could not be measured: {worker.how_it_ended()}")
            if message["kind"] == "untimed":
                raise RunFailed(f"step times could not be measured: {message['error']}")
            if message["kind"] == "turn":
                observer.timing(message["done"], message["total"])
            if message["kind"] == "times":
                return message["times"]

    return times
