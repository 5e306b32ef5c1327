"""A whole sweep, from words to its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.conduct.common import failed_cells, in_words, interruptible, some
from mha_ablate.errors import Interrupted, RequestError

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

    from mha_ablate.run.folder import StudyFolder
    from mha_ablate.study.cell import Cell
    from mha_ablate.study.observer import Observer


@dataclass(frozen=True)
class Swept:
    """A sweep that has come to its end: its folder, its cells with their run.json, and in one line what went wrong, if anything."""

    folder: Path
    cells: list[tuple[Cell, dict[str, Any]]]
    failure: str | None
    best: str | None = None  # what a search found, in one line


def conduct_sweep(
    words: list[str],
    *,
    observer: Observer,
    resume: Path | None = None,
    retries: int = 0,
    config_dir: Path | None = None,
) -> Swept:
    """Every combination of what the words list, through Hydra's launcher and sweeper. What is finished is not run again.

    With `resume`, the words are those of every request that was made of the sweep in that folder, one after the other. Raises
    as `conduct` does; every cell of a grid is checked before the first one runs.
    """
    if not 0 <= retries <= 100:
        raise RequestError(f"retries={retries} (--retries) is out of range: it must be 0 to 100")
    try:
        with interruptible():
            observer.checking()
            asked = [(words, config_dir)] if resume is None else _requests_of(resume, words, config_dir)
            return _together([_conducted(*one, observer, retries) for one in asked])
    except Exception as error:
        if told := in_words(error, "what has finished is kept"):
            raise told from error
        raise


def _conducted(words: list[str], config_dir: Path | None, observer: Observer, retries: int) -> Swept:
    from mha_ablate.config.bridge import session

    with session(config_dir) as hydra:
        return _Sweeping(hydra, words, config_dir, observer, retries).conduct()


def _together(swept: list[Swept]) -> Swept:
    """What several requests of one folder came to."""
    cells = {cell.name: (cell, run) for one in swept for cell, run in one.cells}
    failure = "; ".join(one.failure for one in swept if one.failure) or None
    return Swept(swept[-1].folder, list(cells.values()), failure, swept[-1].best)


def _requests_of(folder: Path, given: list[str], config_dir: Path | None) -> list[tuple[list[str], Path | None]]:
    """The requests of the sweep that lies in a folder; Hydra's own settings may be given anew, such as another launcher."""
    from mha_ablate.config.bridge import apart
    from mha_ablate.run.folder import StudyFolder

    if not folder.is_dir():
        raise RequestError(f"--resume {folder} is no folder: give one that `mha-ablate sweep` wrote")
    found = StudyFolder(folder).sweep()
    if found is None:
        raise RequestError(
            f"--resume {folder} holds no sweep.json that can be read: give a folder that `mha-ablate sweep` wrote"
        )
    own, hydras = apart(given)
    if own:
        raise RequestError(
            f"{own[0]}: --resume goes on with the sweep as it was; leave settings out, or start a sweep with name=NEW_NAME"
        )
    where = f"hydra.sweep.dir={folder.absolute()}"
    return [
        ([*_kept(one["words"], hydras), *hydras, where], config_dir or (one["config_dir"] and Path(one["config_dir"])))
        for one in found["requests"]
    ]


def _kept(words: list[str], anew: list[str]) -> list[str]:
    """The words but for what is given anew; another launcher or sweeper has other settings, and the folder may have moved."""
    from mha_ablate.config.compose import key_of

    given = {key_of(word) for word in anew}
    dropped = tuple(f"hydra.{part}." for part in ("launcher", "sweeper") if f"hydra/{part}" in given)

    def stays(word: str) -> bool:
        key = key_of(word)
        others = dropped and key.startswith(dropped) and not key.startswith("hydra.sweeper.params")
        return key not in given and key != "hydra.sweep.dir" and not others

    return [word for word in words if stays(word)]


class _Sweeping:
    """One sweep, from its words to its end."""

    def __init__(
        self, hydra: Hydra, words: list[str], config_dir: Path | None, observer: Observer, retries: int
    ) -> None:
        from mha_ablate.config.bridge import apart, fixed_keys, multirun_config, sent_to
        from mha_ablate.study.launch import Launching, is_elsewhere
        from mha_ablate.study.sweep import Sweep, check_words

        self.hydra, self.words, self.observer = hydra, words, observer
        self.config = multirun_config(hydra, words, config_dir)
        fixed = fixed_keys(hydra, self.config)
        check_words(words, fixed)
        folder = self._folder(apart(words)[0], fixed, config_dir)
        self.config = sent_to(folder.path, hydra, self.config, words, config_dir)
        self.sweep = Sweep(folder, words, config_dir, fixed, observer.reading, is_elsewhere(self.config))
        self.launching = Launching(hydra, self.config, folder, observer, retries)
        self.refused: list[str] = []

    def _folder(self, words: list[str], fixed: set[str], config_dir: Path | None) -> StudyFolder:
        from mha_ablate.config.bridge import sweep_dir_of
        from mha_ablate.config.compose import compose, key_of
        from mha_ablate.study.sweep import folder_of

        config = compose([word for word in words if key_of(word) in fixed], config_dir).config
        return folder_of(config, sweep_dir_of(self.config))

    def conduct(self) -> Swept:
        """Check, run, tell."""
        from mha_ablate.config.bridge import grid, is_grid
        from mha_ablate.run.lock import locked

        cells = self.sweep.add(grid(self.hydra, self.config)) if is_grid(self.config) else []
        self.sweep.check_neighbours()
        if cells and (size := self.config.hydra.sweeper.max_batch_size) is not None and size < 1:
            raise RequestError(f"hydra.sweeper.max_batch_size={size} is out of range: it must be 1 or more, or null")
        path = self.sweep.folder.path
        with locked(path):
            self.sweep.write()
            try:
                self.launching.watch(self._choose if not is_grid(self.config) else lambda: self._launch(cells))
            except KeyboardInterrupt:
                raise Interrupted(f"interrupted; {self._what_is_left()}") from None
            self.launching.look()
        ended = [(cell, cell.finished() or cell.folder.read()) for cell in self.sweep.cells.values()]
        return Swept(path, ended, self._failure(), None if is_grid(self.config) else _best_of(ended, self.sweep.swept))

    def _launch(self, cells: list[Cell]) -> None:
        """In batches, where `hydra.sweeper.max_batch_size` asks for them."""
        size = self.config.hydra.sweeper.max_batch_size or max(1, len(cells))
        for begin in range(0, len(cells), size):
            self.launching.launch(cells[begin : begin + size])

    def _choose(self) -> None:
        """A sweeper that proposes cells as it goes."""
        from mha_ablate.config.bridge import sweeper_with
        from mha_ablate.study.front import Front

        def cell_of(words: list[str]) -> Cell:
            [cell] = self.sweep.add([words])
            self.sweep.check_neighbours()
            self.sweep.write()
            return cell

        front = Front(self.launching, cell_of)
        sweeper = sweeper_with(front, self.hydra, self.config)
        try:
            sweeper.sweep(list(self.config.hydra.overrides.task))
        except ValueError as error:
            tried = front.refused or self.sweep.cells
            if not tried or any(cell.finished() for cell in self.sweep.cells.values()):
                raise RequestError(f"hydra/sweeper: {' '.join(str(error).split())}") from error
            # It has no best trial then; which failed and why is told below.
        finally:
            self.refused = front.refused

    def _failure(self) -> str | None:
        parts = [failed_cells(self.launching.progress)]
        diverged = [cell.name for cell in self.sweep.cells.values() if _has_diverged(cell)]
        told = {cell.name for cell, _ in self.launching.progress.failures}
        missing = [c.name for c in self.sweep.cells.values() if not c.finished() and c.name not in told]
        parts += [f"{len(missing)} cell(s) did not run ({some(missing)})"] if missing else []
        parts += [f"{len(diverged)} cell(s) diverged ({some(diverged)})"] if diverged else []
        parts += [f"{len(self.refused)} proposal(s) were no configuration ({self.refused[0]})"] if self.refused else []
        return "; ".join(part for part in parts if part) or None

    def _what_is_left(self) -> str:
        cells = self.sweep.cells.values()
        done = sum(cell.finished() is not None for cell in cells)
        jobs = self.launching.in_the_queue
        on = f"; {len(jobs)} Slurm job(s) go on, `scancel {' '.join(jobs[:3])}` stops them" if jobs else ""
        return f"{done} of {len(cells)} cells are finished and kept{on}"


def _has_diverged(cell: Cell) -> bool:
    run = cell.finished()
    return run is not None and run["state"] != "ok"


def _best_of(cells: list[tuple[Cell, dict[str, Any]]], keys: list[str]) -> str | None:
    """The cell of lowest validation loss: what was chosen for it, and that loss."""
    from mha_ablate.config.compose import key_of

    ended = [(run["result"]["val_loss"], cell) for cell, run in cells if run.get("state") == "ok"]
    if not ended:
        return None
    loss, cell = min(ended, key=lambda one: one[0])
    chosen = [word for word in cell.overrides if key_of(word) in keys]
    return f"{' '.join(chosen)}, validation loss {loss:.4f} ({cell.name})"
