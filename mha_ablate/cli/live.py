"""Watching a study or a run: a live view on a terminal, one plain line an interval elsewhere. Always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from mha_ablate.study.execute import Progress
    from mha_ablate.study.plan import Plan

INTERVAL = 10.0  # seconds between plain lines
CELL_WIDTH = 13


def duration(seconds: float | None) -> str:
    """`1h02m`, `2m05s`, `7s`; `-` where unknown."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def thousands(value: float) -> str:
    """`23.4k`, `870`."""
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


@contextmanager
def study_view(plan: Plan) -> Iterator[Callable[[Progress], None]]:
    """Yields what `run_cells` calls on every change."""
    if not sys.stderr.isatty():
        yield _PlainStudy()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=8, transient=True) as live:
        yield lambda progress: live.update(_study_table(plan, progress, live.console.width))


class _PlainStudy:
    """A line when something ended, and one every interval."""

    def __init__(self) -> None:
        self.last, self.ended = time.monotonic(), -1

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        new_end = len(progress.finished) > self.ended
        if not new_end and now - self.last < INTERVAL:
            return
        self.last, self.ended = now, len(progress.finished)
        print(study_line(progress), file=sys.stderr, flush=True)


def study_line(progress: Progress) -> str:
    """Cells done, steps done, pace, time left, and what runs now."""
    total = progress.done_before + len(progress.todo)
    parts = [f"{progress.done_before + len(progress.finished)}/{total} cells"]
    if progress.todo:
        parts.append(f"step {progress.steps_done}/{progress.steps_wanted}")
    if progress.running:
        parts += _pace(progress)
    for (arm, seed), line in progress.running.items():
        if "loss/train" in line:
            parts.append(f"{arm}/{seed} step {line['step']} loss {_loss(line['loss/train'])}")
    return "  ".join(parts)


def _pace(progress: Progress) -> list[str]:
    """Tokens a second and time left, once they are known."""
    known = []
    if progress.tokens_per_s:
        known.append(f"{thousands(progress.tokens_per_s)} tokens/s")
    if progress.seconds_left is not None:
        known.append(f"{duration(progress.seconds_left)} left")
    return known


def _loss(value: float | None) -> str:
    return "nan" if value is None else f"{value:.3f}"


def _study_table(plan: Plan, progress: Progress, width: int) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    arms, seeds = list(plan.arms), plan.study.seed_list
    longest = max(len(arm) for arm in arms)
    fits = longest + 2 + CELL_WIDTH * len(seeds) <= width
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    grid.add_column("arm", no_wrap=True)
    cells = {(c.arm, c.seed): _cell_text(progress, c.arm, c.seed) for c in plan.cells}
    if fits:
        for seed in seeds:
            grid.add_column(f"seed {seed}", no_wrap=True, min_width=CELL_WIDTH - 2)
        for arm in arms:
            grid.add_row(arm, *(cells[arm, seed] for seed in seeds))
    else:
        grid.add_column("seeds")
        grid.add_column("now", no_wrap=True)
        for arm in arms:
            marks = Text.assemble(*((cells[arm, s].plain[:1], cells[arm, s].style) for s in seeds))
            now = [f"{s}: {cells[arm, s].plain[2:]}" for s in seeds if (arm, s) in progress.running]
            grid.add_row(arm, marks, "  ".join(now))
    share = progress.steps_done / progress.steps_wanted if progress.steps_wanted else 1.0
    status = Table.grid(padding=(0, 2, 0, 0))
    status.add_row(
        ProgressBar(total=1.0, completed=share, width=max(10, min(30, width - 50))),
        f"{share:.0%}",
        "  ".join(_pace(progress)),
    )
    legend = Text(
        "> running: step, training loss   = done: validation loss   . waiting   ! not finite or failed", style="dim"
    )
    legend.truncate(width)
    return Group(grid, Text(), status, legend)


def _cell_text(progress: Progress, arm: str, seed: int) -> Any:
    from rich.text import Text

    key = (arm, seed)
    if key in progress.running:
        line = progress.running[key]
        if "loss/train" not in line:
            return Text("> starting", style="cyan")
        loss = line["loss/train"]
        return Text(f"> {line['step']:<4} {'nan' if loss is None else f'{loss:.2f}'}", style="cyan")
    state = progress.finished.get(key)
    if key in progress.losses and state in (None, "ok"):
        loss = progress.losses.get(key)
        return Text("= not finite" if loss is None else f"= {loss:.4f}", style="green")
    if state is None:
        return Text(". waiting", style="dim")
    return Text(f"! {state}", style="red")


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A word on a terminal while nothing else can be shown yet; gone afterwards."""
    if not sys.stderr.isatty():
        yield
        return
    print(what, end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(" " * len(what), end="\r", file=sys.stderr, flush=True)


@contextmanager
def run_view(steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields what takes the lines of a single run."""
    start = time.monotonic()
    if not sys.stderr.isatty():
        yield _PlainRun(steps, start)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    latest: dict[str, Any] = {}
    with Live(console=Console(stderr=True), refresh_per_second=8, transient=True) as live:

        def show(line: dict[str, Any]) -> None:
            latest.update(line)
            live.update(Text(run_line(latest, steps, time.monotonic() - start)))

        yield show


class _PlainRun:
    """A line at every evaluation, and one every interval."""

    def __init__(self, steps: int, start: float) -> None:
        self.steps, self.start, self.last, self.latest = steps, start, 0.0, {}

    def __call__(self, line: dict[str, Any]) -> None:
        self.latest = {**self.latest, **line}
        now = time.monotonic()
        if "loss/val" in line or now - self.last >= INTERVAL:
            self.last = now
            print(run_line(self.latest, self.steps, now - self.start), file=sys.stderr, flush=True)


def run_line(line: dict[str, Any], steps: int, seconds: float) -> str:
    """Step, losses, pace, time left."""
    parts = [f"step {line['step']}/{steps}"]
    parts += [f"{k.replace('loss/', '')} {_loss(line[k])}" for k in ("loss/train", "loss/val") if k in line]
    if line.get("perf/tokens_per_s"):
        parts.append(f"{thousands(line['perf/tokens_per_s'])} tokens/s")
    if line["step"]:
        parts.append(f"{duration(seconds / line['step'] * (steps - line['step']))} left")
    return "  ".join(parts)
