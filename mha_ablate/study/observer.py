"""Who is told what a study does: the one way by which progress leaves this room."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a view has to stand before the heavy imports begin
    from mha_ablate.study.progress import Progress


class Observer:
    """Told what a study does, phase by phase. This one keeps silent; a view overrides what it shows."""

    def checking(self) -> None:
        """The request, the text and the models are being checked."""

    def reading(self, what: str, done: int, total: int | None) -> None:
        """A text is being fetched, read or tokenised: so many characters of all, as far as that is known."""

    def training(self, progress: Progress) -> None:
        """Cells run. Called on every change and a few times a second; `progress` goes on changing afterwards."""

    def timing(self, done: int, total: int) -> None:
        """Step times are being measured: so many turns of all."""

    def warning(self, what: str) -> None:
        """Something to know before the training begins."""

    def part(self, name: str, number: int, of: int) -> None:
        """A study of several parts comes to one of them, the `number`-th from 1."""

    def writing(self) -> None:
        """The report is being written."""
