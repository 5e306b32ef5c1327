"""One run, a run made again, and what variants cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.conduct.common import in_words, interruptible, text_at_hand

if TYPE_CHECKING:
    from mha_ablate.study.cell import Cell
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.replay import Replay


def conduct_run(
    overrides: list[str], *, observer: Observer, config_dir: Path | None = None
) -> tuple[Path, dict[str, Any], bool]:
    """Train one model, unless that run is finished; returns its folder, its run.json, and whether it was finished before.

    Raises as `conduct` does.
    """
    cell: Cell | None = None
    try:
        with interruptible():
            observer.checking()
            text_at_hand(overrides, observer, config_dir)
            from mha_ablate.study.single import run_single, single_cell

            cell = single_cell(overrides, observer.reading, config_dir)
            before = cell.finished()
            return cell.folder.path, before or run_single(cell, observer), before is not None
    except Exception as error:
        if told := in_words(error, _what_is_kept_of(cell)):
            raise told from error
        raise


def conduct_replay(path: Path, *, observer: Observer) -> Replay:
    """Train the finished run at `path` once more and compare. Raises as `conduct` does."""
    with interruptible():
        observer.checking()
        from mha_ablate.run.folder import RunFolder
        from mha_ablate.study.replay import replay

        return replay(RunFolder(path), observer)


def conduct_cost(
    words: list[str],
    *,
    baseline: str | None,
    timed: bool,
    on_turn: Callable[[int, int], None],
    config_dir: Path | None = None,
) -> dict[str, Any]:
    """The ledger of every arm that the words list; `refused` says which could not be built, and why. Raises RequestError."""
    with interruptible():
        from mha_ablate.config.catalog import choices
        from mha_ablate.config.compose import compose
        from mha_ablate.study.ledger import arms_of, corpus_for, ledger

        arms, refused = arms_of(words, [choice.name for choice in choices("fc_out", config_dir)], config_dir)
        usual = compose([]).config.study.baseline
        base = baseline or (usual if usual in arms else next(iter(arms)))
        made = ledger(arms, corpus_for(arms), baseline=base, timed=timed, on_turn=on_turn)
        return {**made, "refused": refused}


def _what_is_kept_of(cell: Cell | None) -> str:
    if cell is None:
        return "nothing was begun"
    from mha_ablate.run.state import saved_step

    step = saved_step(cell.folder)
    if cell.finished():
        return f"{cell.folder.path} is finished and kept"
    return f"{cell.folder.path} goes on after step {step}" if step else f"{cell.folder.path} will begin anew"
