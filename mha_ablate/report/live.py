"""TensorBoard's means and deltas while a study goes on."""

from __future__ import annotations

import time
from pathlib import Path

from mha_ablate.errors import hides_interrupt
from mha_ablate.report.board import rebuild_events
from mha_ablate.study.collect import collect
from mha_ablate.study.observer import Observer
from mha_ablate.study.progress import Progress

EVERY_S = 20.0
SHARE = 0.02  # of the time that may go into this: workers want the core


class LiveBoard(Observer):
    """Tells another observer of the training, and now and then derives events from what the runs have measured by then.

    It writes to no run that a worker may write to, and no failure here reaches the study: the report makes it all again.
    """

    def __init__(self, observer: Observer, folder: Path, baseline: str) -> None:
        self.observer, self.folder, self.baseline = observer, folder, baseline
        self.due = time.monotonic() + EVERY_S
        self.seen = 0  # steps of all cells

    def training(self, progress: Progress) -> None:
        """Pass it on; if it is time and something has happened since, refresh."""
        self.observer.training(progress)
        if time.monotonic() < self.due or progress.steps_done == self.seen:
            return
        if len(progress.finished) == len(progress.todo):  # the report comes next
            return
        self.seen = progress.steps_done
        began = time.monotonic()
        try:
            study = collect(self.folder)
            rebuild_events(study, self.baseline, study.costs, settled=progress.losses)
        except Exception as error:
            if hides_interrupt(error):
                raise
        now = time.monotonic()
        self.due = now + max(EVERY_S, (now - began) / SHARE)
