"""How long the rest takes: what each cell has shown by the clock, and the waiting cells laid onto the workers.

Nothing here reads a clock: every moment is an argument, in seconds of any clock that does not go back.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

# What an evaluation takes, of the time to train on as many tokens: a third by FLOPs, rather a half by the clock.
EVALUATION = 0.5


@dataclass
class CellClock:
    """One cell by the clock, from the moment it was given out: its steps and its evaluations, timed apart by its lines."""

    steps: int
    eval_every: int
    tokens_per_step: int
    given: float
    begun: float | None = None  # when its first line came
    ended: float | None = None
    heard: float | None = None  # when its last line came, and the step of that line
    step: int = 0
    before: int = 0  # evaluations that an earlier process made, of a run that goes on
    training: float = 0.0  # seconds between lines that were spent on steps
    trained: int = 0  # the steps they were spent on
    evaluations: list[float] = field(default_factory=list)  # of a sample, on the way
    guess: float = 0.0  # a sample's evaluation in steps, until one was seen
    samples: float = 1.0  # how many of them the whole split takes, which the last evaluation looks at
    measured: bool = False  # that last one is over

    def hear(self, line: Mapping[str, Any], now: float) -> None:
        """Take in a line of the cell. Its first one starts the measurement: what was before it is start-up."""
        if self.begun is None:
            self.begun, self.before = now, line["step"] // self.eval_every
        if "val_tokens" in line:
            self.guess = EVALUATION * line["sample_tokens"] / self.tokens_per_step
            self.samples = line["val_tokens"] / line["sample_tokens"]
        if self.heard is not None:
            gap, steps = now - self.heard, line["step"] - self.step
            if "loss/val" in line and line["step"] == self.steps:
                self.measured = True
            elif "loss/val" in line:
                self.evaluations.append(max(0.0, gap - steps * (self.step_seconds or 0.0)))
            else:
                self.training, self.trained = self.training + gap, self.trained + steps
        self.heard, self.step = now, line["step"]

    @property
    def step_seconds(self) -> float | None:
        """Wall time of a step, evaluations left out; None until a line after the first has come."""
        return self.training / self.trained if self.trained else None

    @property
    def evaluated(self) -> int:
        """Evaluations seen."""
        return len(self.evaluations) + self.measured

    def left(self, now: float) -> float | None:
        """Seconds until this cell ends, at its own pace; None until that is known."""
        if self.ended is not None or self.measured:
            return 0.0
        pace = self.step_seconds
        if pace is None or self.heard is None:
            return None
        evaluation = fmean(self.evaluations) if self.evaluations else self.guess * pace
        on_the_way = max(0, (self.steps - 1) // self.eval_every - self.before - len(self.evaluations))
        rest = pace * (self.steps - self.step) + evaluation * (on_the_way + self.samples)
        return max(0.0, rest - (now - self.heard))

    def work(self, now: float) -> float | None:
        """Seconds from its first line to its end, which is forecast while it runs; None until that is known."""
        if self.begun is None:
            return None
        if self.ended is not None:
            return self.ended - self.begun
        left = self.left(now)
        return None if left is None else now - self.begun + left

    @property
    def start_up(self) -> float | None:
        """Seconds before its first line."""
        return None if self.begun is None else self.begun - self.given


class Means:
    """The mean of a quantity by arm, from observations that weigh by the steps they rest on."""

    def __init__(self, seen: Iterable[tuple[str, float | None, int]]) -> None:
        """`seen` holds (arm, value or None where it is not known, steps)."""
        self.sums: dict[str, tuple[float, int]] = {}
        for arm, value, steps in seen:
            if value is not None and steps:
                total, weight = self.sums.get(arm, (0.0, 0))
                self.sums[arm] = total + steps * value, weight + steps

    def of(self, arm: str) -> float:
        """The mean of this arm; where nothing of it was seen, of the others. Something must have been."""
        sums = [self.sums[arm]] if arm in self.sums else list(self.sums.values())
        return sum(total for total, _ in sums) / sum(weight for _, weight in sums)


def makespan(busy: Iterable[float], waiting: Iterable[float], workers: int) -> float:
    """Seconds until all is done: each waiting cell goes, in order, to the worker that is free first.

    `busy` is what the cells that run now have left, at most one a worker.
    """
    free = list(busy)
    free += [0.0] * (workers - len(free))
    heapq.heapify(free)
    for seconds in waiting:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


@dataclass
class Countdown:
    """Time left of a number of equal pieces, by those done since the first: what was before it is start-up."""

    since: float | None = None
    before: int = 0

    def left(self, done: int, total: int, now: float) -> float | None:
        """Seconds; None until something was done since the first look, or the first piece."""
        if self.since is None or done <= 1:
            self.since, self.before = now, done
        if done == self.before:
            return None
        return (now - self.since) / (done - self.before) * (total - done)
