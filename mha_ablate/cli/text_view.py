"""Watching a text being fetched, read and tokenised. Always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mha_ablate.data.text import unwatched

if TYPE_CHECKING:
    from mha_ablate.data.text import Watch

PATIENCE = 1.0  # seconds that may pass in silence
INTERVAL = 10.0  # seconds between plain lines


@contextmanager
def text_view(*, quiet: bool = False) -> Iterator[Watch]:
    """Yields what the data room tells its progress to: a bar on a terminal, a line now and then elsewhere, nothing if `quiet`.

    A text that is ready within a second leaves no trace.
    """
    if quiet:
        yield unwatched
    elif sys.stderr.isatty():
        with _bar() as watch:
            yield watch
    else:
        yield _PlainText()


@contextmanager
def _bar() -> Iterator[Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    words = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=2))
    count = TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True))
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1))
    columns = (words, bar, TaskProgressColumn(), count, TimeRemainingColumn(compact=True))
    progress = Progress(*columns, console=Console(stderr=True), transient=True, expand=True)
    begun, shown = time.monotonic(), {}

    def watch(what: str, done: int, total: int | None) -> None:
        if time.monotonic() - begun < PATIENCE:
            return
        if what not in shown:
            progress.start()
            for task in shown.values():
                progress.remove_task(task)
            shown.clear()
            shown[what] = progress.add_task(what, total=total, count="")
        progress.update(shown[what], completed=done, total=total, count=millions(done))

    try:
        yield watch
    finally:
        progress.stop()


def millions(characters: int) -> str:
    """`12.3 M`: characters in millions."""
    return f"{characters / 1e6:.1f} M" if characters else ""


class _PlainText:
    """A line when something has gone on for 10 s."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self.last < INTERVAL:
            return
        self.last = now
        share = f" of {millions(total)}" if total else ""
        print(f"{what}: {millions(done)}{share} characters".strip(), file=sys.stderr, flush=True)
