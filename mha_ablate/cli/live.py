"""Watching a study or a run: a live picture on a terminal, plain lines elsewhere, nothing when quiet. Always on standard error."""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from mha_ablate.cli.words import characters, loss, measured, pace
from mha_ablate.study.forecast import Countdown
from mha_ablate.study.observer import Observer

if TYPE_CHECKING:
    from mha_ablate.study.progress import Progress

INTERVAL = 10.0  # seconds between plain lines


def study_view(*, quiet: bool = False) -> AbstractContextManager[Observer]:
    """A context that yields the observer for `compare`: cells by arm and seed."""
    if quiet or not _can_draw():
        return nullcontext(Observer() if quiet else PlainStudy())
    from mha_ablate.cli.picture import StudyPicture, on_terminal

    return on_terminal("checking arms, text and models", StudyPicture)


def run_view(*, quiet: bool = False) -> AbstractContextManager[Observer]:
    """A context that yields the observer for `train`: one run."""
    if quiet or not _can_draw():
        return nullcontext(Observer() if quiet else PlainRun())
    from mha_ablate.cli.picture import RunPicture, on_terminal

    return on_terminal("checking text and model", RunPicture)


def text_view(*, quiet: bool = False) -> AbstractContextManager[Observer]:
    """A context that yields the observer for `data`: a text being made ready."""
    if quiet or not _can_draw():
        return nullcontext(Observer() if quiet else PlainStudy())
    from mha_ablate.cli.picture import StudyPicture, on_terminal

    return on_terminal("reading the text", StudyPicture)


def _can_draw() -> bool:
    """Whether standard error is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


class PlainStudy(Observer):
    """A line when a cell has ended, and one every interval. Nothing before the first: a refusal is then one line."""

    def __init__(self) -> None:
        self.last, self.milestone, self.turns = 0.0, None, Countdown()
        self.began: float | None = None

    def reading(self, what: str, done: int, total: int | None) -> None:
        """A line every interval: most texts are ready before the first."""
        now = time.monotonic()
        self.began = self.began or now
        if now - max(self.began, self.last) >= INTERVAL:
            self.say(f"{what}  {characters(done, total)}".rstrip(), now)

    def training(self, progress: Progress) -> None:
        """A line, if it is time for one."""
        now = time.monotonic()
        milestone = self.milestone_of(progress)
        if milestone != self.milestone or now - self.last >= INTERVAL:
            self.milestone = milestone
            self.say(self.line(progress, now), now)

    def milestone_of(self, progress: Progress) -> Any:
        """What makes a line due when it changes."""
        return len(progress.finished)

    def line(self, progress: Progress, now: float) -> str:
        """What is said."""
        return study_line(progress, now)

    def timing(self, done: int, total: int) -> None:
        """A line at the start, and one every interval."""
        now = time.monotonic()
        left = self.turns.left(done, total, now)
        if not done or now - self.last >= INTERVAL:
            words = [f"measuring step times, one arm at a time: turn {done}/{total}", *pace(0.0, left)]
            self.say("  ".join(words), now)

    def warning(self, what: str) -> None:
        """One line."""
        self.say(f"note: {what}", time.monotonic())

    def part(self, name: str, number: int, of: int) -> None:
        """One line."""
        self.say(f"part {number}/{of}: {name}", time.monotonic())

    def writing(self) -> None:
        """One line."""
        self.say("writing the report", time.monotonic())

    def say(self, line: str, now: float) -> None:
        """Print it, and remember when."""
        self.last = now
        print(line, file=sys.stderr, flush=True)


class PlainRun(PlainStudy):
    """A line at every evaluation, and one every interval."""

    def milestone_of(self, progress: Progress) -> Any:
        """The number of evaluations."""
        return [clock.evaluated for clock in progress.clocks.values()]

    def line(self, progress: Progress, now: float) -> str:
        """What is said."""
        return run_line(progress, now)


def study_line(progress: Progress, now: float) -> str:
    """Cells done, steps done, pace, time left, and what runs now."""
    parts = [f"{progress.ended}/{len(progress.cells)} cells"]
    if progress.todo:
        parts.append(f"step {progress.steps_done}/{progress.steps_wanted}")
    if progress.running:
        parts += pace(progress.tokens_per_s, progress.seconds_left(now))
    for (arm, seed), line in progress.running.items():
        if "loss/train" in line:
            parts.append(f"{arm}/{seed} step {line['step']} loss {loss(line['loss/train'])}")
    return "  ".join(parts)


def run_line(progress: Progress, now: float) -> str:
    """Step, losses, pace and time left of a single run."""
    (line,) = progress.running.values()
    parts = [f"step {line.get('step', 0)}/{progress.steps_wanted}", *measured(line)]
    return "  ".join([*parts, *pace(progress.tokens_per_s, progress.seconds_left(now))])
