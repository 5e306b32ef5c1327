"""A launcher in the eyes of a sweeper that chooses as it goes, such as a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mha_ablate.errors import RequestError, RunFailed
from mha_ablate.study.cell import Cell
from mha_ablate.study.launch import Launching
from mha_ablate.study.tasks import loss_of


@dataclass
class Front:
    """A launcher in the eyes of a sweeper that chooses as it goes: what it proposes is checked, named, and launched.

    `cells_of` makes cells of overrides. A proposal that is no configuration counts as a failed one.
    """

    launching: Launching
    cells_of: Callable[[list[str]], Cell]
    refused: list[str] = field(default_factory=list)  # proposals that were none, and why

    def launch(self, job_overrides: Sequence[Sequence[str]], _initial_job_idx: int = 0, **_: int) -> list[Any]:
        """As Hydra's launchers do: a JobReturn for each."""
        if self.launching.stopped:
            raise RunFailed("stopped")
        found: list[Cell | RequestError] = []
        for words in job_overrides:
            try:
                found.append(self.cells_of(list(words)))
            except RequestError as error:
                found.append(error)
                self.refused.append(str(error))
        self.launching.launch([one for one in found if isinstance(one, Cell)])
        return [
            _home(one, list(words), f"{n}") for n, (one, words) in enumerate(zip(found, job_overrides, strict=True))
        ]


def _home(one: Cell | RequestError, words: list[str], name: str) -> Any:
    """What a launcher brings home of a job: its loss, or what raises when a sweeper asks for it."""
    from hydra.core.utils import JobReturn, JobStatus

    class Lost(JobReturn):
        @property
        def return_value(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # Hydra's prints when it is asked
            raise RunFailed(_why_none(one))

    run = one.finished() if isinstance(one, Cell) else None
    if run is None:
        return Lost(overrides=words, task_name=name, status=JobStatus.FAILED)
    home = JobReturn(overrides=words, task_name=name, status=JobStatus.COMPLETED)
    home.return_value = loss_of(run)
    return home


def _why_none(one: Cell | RequestError) -> str:
    return str(one) if isinstance(one, RequestError) else one.folder.read().get("error") or "it did not begin"
