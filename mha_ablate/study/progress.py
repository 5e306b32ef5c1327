"""Where a study stands, cell by cell, and how long the rest takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from mha_ablate.study.cell import Cell
from mha_ablate.study.forecast import CellClock, Means, makespan
from mha_ablate.study.timing import seconds_of_timing

Key = tuple[str, int]


@dataclass
class Progress:
    """Cells done, running, waiting and failed, and how long the rest takes. `losses` starts with the cells done before."""

    cells: list[Cell]
    losses: dict[Key, float | None] = field(default_factory=dict)
    workers: int = 1
    to_be_timed: bool = False  # whether step times will be measured after the last cell
    running: dict[Key, dict[str, Any]] = field(default_factory=dict)
    finished: dict[Key, str] = field(default_factory=dict)
    failures: list[tuple[Cell, str]] = field(default_factory=list)
    clocks: dict[Key, CellClock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.todo = [cell for cell in self.cells if key_of(cell) not in self.losses]

    def begin(self, cell: Cell, now: float) -> None:
        """The cell was given to a worker."""
        trainer = cell.config.trainer
        tokens_per_step = trainer.batch_size * cell.config.model.context
        self.running[key_of(cell)] = {}
        self.clocks[key_of(cell)] = CellClock(trainer.steps, trainer.eval_every, tokens_per_step, given=now)

    def hear(self, cell: Cell, line: dict[str, Any], now: float) -> None:
        """The cell has measured something."""
        self.running[key_of(cell)] |= line
        self.clocks[key_of(cell)].hear(line, now)

    def end(self, cell: Cell, state: str, now: float, *, loss: float | None = None, error: str | None = None) -> None:
        """The cell has ended, as ok, diverged or failed."""
        key = key_of(cell)
        del self.running[key]
        self.finished[key] = state
        self.clocks[key].ended = now
        if state == "failed":
            self.failures.append((cell, error or "no reason given"))
            del self.clocks[key]  # how long a failure took says nothing of the others
        else:
            self.losses[key] = loss

    def state(self, key: Key) -> str:
        """`waiting`, `running`, `done`, `diverged` or `failed`."""
        if key in self.running:
            return "running"
        if self.finished.get(key) == "failed":
            return "failed"
        if key not in self.losses:
            return "waiting"
        return "diverged" if self.losses[key] is None else "done"

    @property
    def ended(self) -> int:
        """Cells that need nothing more, those done before among them."""
        return len(self.cells) - len(self.todo) + len(self.finished)

    @property
    def steps_wanted(self) -> int:
        """Updates of all cells to do."""
        return sum(cell.config.trainer.steps for cell in self.todo)

    @property
    def steps_done(self) -> int:
        """Updates made so far; a cell that has ended counts whole."""
        whole = sum(cell.config.trainer.steps for cell in self.todo if key_of(cell) in self.finished)
        return whole + sum(line.get("step", 0) for line in self.running.values())

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of all cells that run now."""
        return sum(line.get("perf/tokens_per_s") or 0.0 for line in self.running.values())

    def seconds_left(self, now: float) -> float | None:
        """Until the last cell has ended and, if they will be, step times are measured; None until a cell shows its pace.

        What a waiting cell takes is the mean over the cells of its arm that have ended or run. It is taken per step, so that
        arms with other numbers of steps can stand in for one that has not been seen.
        """
        work = ((arm, clock.work(now), clock) for (arm, _), clock in self.clocks.items())
        per_step = Means((arm, None if s is None else s / clock.steps, clock.step) for arm, s, clock in work)
        if not per_step.sums:
            return None if self.to_be_timed or len(self.finished) < len(self.todo) else 0.0
        start_up, busy, waiting = self._start_up(), [], []
        for cell in self.todo:
            key = key_of(cell)
            usual = start_up + per_step.of(cell.arm) * cell.config.trainer.steps
            if key in self.running:
                left = self.clocks[key].left(now)
                busy.append(max(0.0, usual - (now - self.clocks[key].given)) if left is None else left)
            elif key not in self.finished:
                waiting.append(usual)
        return makespan(busy, waiting, self.workers) + (self._timing() if self.to_be_timed else 0.0)

    def _start_up(self) -> float:
        """Seconds before a cell's first line: those of cells that were not the first of their worker, which pays for imports."""
        seen = [clock.start_up for clock in list(self.clocks.values())[self.workers :] if clock.start_up is not None]
        return fmean(seen) if seen else 0.0

    def _timing(self) -> float:
        """Seconds that measuring step times will take, by the steps of training."""
        steps = Means((arm, clock.step_seconds, clock.trained) for (arm, _), clock in self.clocks.items())
        arms = dict.fromkeys(cell.arm for cell in self.cells)
        return seconds_of_timing([steps.of(arm) for arm in arms])


def key_of(cell: Cell) -> Key:
    """Arm and seed, by which a cell is known within its study."""
    return cell.arm, cell.seed
