"""The live picture of a study or a run, for a terminal of any width and height."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from mha_ablate.cli.words import characters, loss, measured, pace, thousands
from mha_ablate.study.forecast import Countdown
from mha_ablate.study.observer import Observer

if TYPE_CHECKING:
    from mha_ablate.study.progress import Key, Progress

BETWEEN_PICTURES = 0.1  # seconds: what changes faster nobody sees
CELL_WIDTH = 11
SPINNER = Spinner("line")
ROOM_FOR_NOW = 30  # of the cells of an arm that run, where the others are marks
MARKS = {"done": "=", "running": ">", "waiting": ".", "failed": "!", "diverged": "~"}
STYLES = {"done": "green", "running": "cyan", "waiting": "dim", "failed": "red", "diverged": "yellow"}


class OnTerminal(Live):
    """A narrower terminal breaks the lines of the last picture in two, so that what has to be wiped is not known."""

    width = 0

    def refresh(self) -> None:
        """Draw; on an empty screen where the terminal has become narrower."""
        with self._lock:
            if self.console.width < self.width:
                self.console.clear()
            self.width = self.console.width
            super().refresh()


@contextmanager
def on_terminal(checking: str, picture: Callable[[Progress], RenderableType]) -> Iterator[Observer]:
    """Yields an observer that draws on standard error; what it drew is gone afterwards."""
    console = Console(stderr=True)
    with OnTerminal(console=console, refresh_per_second=4, transient=True, redirect_stdout=False) as live:
        yield Lively(live, checking, picture)


class Lively(Observer):
    """Keeps the picture up to date. Each is a snapshot: another thread draws it, again and again, as time goes on."""

    def __init__(self, live: Live, checking: str, picture: Callable[[Progress], RenderableType]) -> None:
        self.live, self.words, self.picture = live, checking, picture
        self.drawn, self.turns = 0.0, Countdown()
        self.texts: dict[str, Countdown] = {}

    def checking(self) -> None:
        """Says so."""
        self.live.update(Head(self.words), refresh=True)

    def reading(self, what: str, done: int, total: int | None) -> None:
        """How much of the text, and the time left."""
        now = time.monotonic()
        if now - self.drawn < BETWEEN_PICTURES:
            return
        self.drawn = now
        words = f"{what}  {characters(done, total)}".rstrip()
        if not total:
            self.live.update(Head(words))
            return
        left = self.texts.setdefault(what, Countdown()).left(done, total, now)
        self.live.update(Head(words, done / total, ends=None if left is None else now + left))

    def training(self, progress: Progress) -> None:
        """The picture of the cells."""
        now = time.monotonic()
        if now - self.drawn >= BETWEEN_PICTURES:
            self.drawn = now
            self.live.update(self.picture(progress))

    def timing(self, done: int, total: int) -> None:
        """How far it is, and the time left."""
        now = time.monotonic()
        left = self.turns.left(done, total, now)
        ends = None if left is None else now + left
        self.live.update(Head("measuring step times, one arm at a time", done / total, ends=ends))

    def warning(self, what: str) -> None:
        """Above the picture, where it stays."""
        self.live.console.print(Text(f"note: {what}", style="yellow"))

    def part(self, name: str, number: int, of: int) -> None:
        """A line above the picture, which stays."""
        if of > 1:
            self.live.console.print(Text(f"part {number}/{of}: {name}", style="dim"))

    def writing(self) -> None:
        """Says so."""
        self.live.update(Head("writing the report"), refresh=True)


@dataclass(frozen=True)
class Head:
    """One line: what is going on, how much of it is done, how fast, and the time left, which runs on while it is shown."""

    what: str
    share: float | None = None
    tokens_per_s: float = 0.0
    ends: float | None = None  # the moment, by time.monotonic

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left = None if self.ends is None else max(0.0, self.ends - time.monotonic())
        words = "  ".join(pace(self.tokens_per_s, left))
        row: list[RenderableType] = [Text(f"{SPINNER.render(time.monotonic())} {self.what}")]
        if self.share is not None:
            room = options.max_width - len(self.what) - len(words) - 12
            bar = ProgressBar(completed=100 * self.share, width=max(5, min(40, room)), complete_style="cyan")
            row += [bar, f"{self.share:.0%}"]
        line = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(len(row) + 1):
            line.add_column(no_wrap=True)
        line.add_row(*row, words)
        yield line


def _head(progress: Progress) -> Head:
    now = time.monotonic()
    left = progress.seconds_left(now)
    share = progress.steps_done / progress.steps_wanted if progress.steps_wanted else 1.0
    return Head("training", share, progress.tokens_per_s, None if left is None else now + left)


class RunPicture:
    """A single run: the head, and what it measured last."""

    def __init__(self, progress: Progress) -> None:
        (line,) = progress.running.values()
        self.head = _head(progress)
        self.line = "  ".join([f"step {line.get('step', 0)}/{progress.steps_wanted}", *measured(line)])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.head
        yield Text(f"  {self.line}", no_wrap=True, overflow="ellipsis")


class StudyPicture:
    """Cells by arm and seed: each in a column where there is room, else as one mark; the arms that run where it is low."""

    def __init__(self, progress: Progress) -> None:
        self.head = _head(progress)
        self.arms: dict[str, list[Key]] = {}
        for cell in progress.cells:
            self.arms.setdefault(cell.arm, []).append((cell.arm, cell.seed))
        self.states = {key: progress.state(key) for keys in self.arms.values() for key in keys}
        self.said = {key: _said(progress, key) for key in self.states}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, room = options.max_width, options.size.height - 7  # all lines but the arms
        yield self.head
        if room > 0:
            shown = self._most_telling(room)
            yield Text()
            yield self._table(shown, width)
            if hidden := [arm for arm in self.arms if arm not in shown]:
                counts = self._counts(key for arm in hidden for key in self.arms[arm])
                words = ", ".join(f"{n} {state}" for state, n in counts.items())
                yield _line(Text(f"and {len(hidden)} more arms: {words}", style="dim"))
            yield Text()
        yield _line(self._legend(width))

    def _counts(self, keys: Iterator[Key]) -> dict[str, int]:
        """How many of these cells are in each state that occurs."""
        states = [self.states[key] for key in keys]
        return {state: states.count(state) for state in MARKS if state in states}

    def _most_telling(self, room: int) -> list[str]:
        """As many arms as there is room for: first those that run, then those that are not done."""

        def rank(arm: str) -> int:
            states = {self.states[key] for key in self.arms[arm]}
            return 0 if "running" in states else 1 if "failed" in states else 2 if "waiting" in states else 3

        chosen = set(sorted(self.arms, key=rank)[:room])
        return [arm for arm in self.arms if arm in chosen]

    def _table(self, arms: list[str], width: int) -> Table:
        seeds = list(dict.fromkeys(seed for _, seed in self.states))
        name_width = min(max(map(cell_len, self.arms)), max(width // 3, width - len(seeds) - ROOM_FOR_NOW))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("arm", no_wrap=True, width=max(3, name_width))
        if name_width + (2 + CELL_WIDTH) * len(seeds) <= width:
            for seed in seeds:
                table.add_column(f"seed {seed}", no_wrap=True, width=CELL_WIDTH)
            for arm in arms:
                table.add_row(Text(arm), *(Text(f"{MARKS[s]} {self.said[k]}", STYLES[s]) for k, s in self._of(arm)))
            return table
        as_marks = len(seeds) <= (width - name_width) // 2
        table.add_column("seeds", no_wrap=True)
        table.add_column("now", no_wrap=True, ratio=1)
        for arm in arms:
            now = [
                f"{seed}: {self.said[arm, seed]}" for _, seed in self.arms[arm] if self.states[arm, seed] == "running"
            ]
            table.add_row(Text(arm), self._marks(arm) if as_marks else self._sums(arm), Text("  ".join(now), "cyan"))
        return table

    def _of(self, arm: str) -> list[tuple[Key, str]]:
        return [(key, self.states[key]) for key in self.arms[arm]]

    def _marks(self, arm: str) -> Text:
        return Text.assemble(*((MARKS[state], STYLES[state]) for _, state in self._of(arm)))

    def _sums(self, arm: str) -> Text:
        counts = self._counts(iter(self.arms[arm]))
        return Text(" ").join(Text(f"{n}{MARKS[state]}", STYLES[state]) for state, n in counts.items())

    def _legend(self, width: int) -> Text:
        """Every state that occurs with its mark and its number, and what stands beside the mark where that fits."""
        meaning = {"done": " (validation loss)", "running": " (step, training loss)"}
        counts = self._counts(iter(self.states))

        def words(explained: bool) -> Text:
            parts = (
                Text(f"{MARKS[state]} {n} {state}{meaning.get(state, '') if explained else ''}", STYLES[state])
                for state, n in counts.items()
            )
            return Text("   ").join(parts)

        return words(True) if words(True).cell_len <= width else words(False)


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _said(progress: Progress, key: Key) -> str:
    """What stands beside the mark of a cell."""
    state = progress.state(key)
    if state == "done":
        return loss(progress.losses[key], 4)
    line = progress.running.get(key, {})
    if "loss/train" not in line:
        return "starting" if state == "running" else state
    step = line["step"] if line["step"] < 10_000 else thousands(line["step"])
    return f"{step:<4} {loss(line['loss/train'], 2)}"
