"""A whole study or run from words to result, as the command line and notebooks both have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.errors import Interrupted, MhaAblateError, RequestError, RunFailed, in_a_line, machine_trouble

if TYPE_CHECKING:
    from mha_ablate.config.schema import RunConfig
    from mha_ablate.study.cell import Cell
    from mha_ablate.study.execute import Pool
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.plan import Plan
    from mha_ablate.study.progress import Progress
    from mha_ablate.study.replay import Replay

NAMED = 3  # failed cells in the one line that ends a study


@dataclass(frozen=True)
class Conducted:
    """A study that has come to its end: its plan, its report, and in one line what went wrong, if anything did.

    `remarks` say of cells that were interrupted before how they began: where they went on, or why they could not.
    """

    plan: Plan
    report: dict[str, Any]
    failure: str | None
    remarks: list[str]


def conduct(
    overrides: list[str], *, workers: int | None, observer: Observer, config_dir: Path | None = None
) -> Conducted:
    """Plan, train what is not finished, measure, report. `config_dir` holds choices of the user's own.

    Raises RequestError before anything is written, RunFailed where no worker can run, Interrupted on Ctrl-C or SIGTERM.
    """
    if workers is not None and not 1 <= workers <= 1024:
        raise RequestError(f"workers={workers} (--workers) is out of range: it must be 1 to 1024")
    pool: Pool | None = None
    plan: Plan | None = None
    try:
        with interruptible():
            observer.checking()
            asked = _text_at_hand(overrides, observer, config_dir)
            from mha_ablate.report.write import write_report
            from mha_ablate.run.lock import locked
            from mha_ablate.study.execute import Pool, default_workers, run_cells, time_arms
            from mha_ablate.study.plan import make_plan

            pool = Pool(workers or default_workers(asked.trainer.device))
            plan = make_plan(overrides, pool.start, observer.reading, config_dir)
            with locked(plan.folder.path):
                plan.folder.clear_scratch()
                plan.write()
                progress = run_cells(plan, pool, observer)
                untimed = time_arms(plan, pool, observer)
                observer.writing()
                report = write_report(plan.folder.path)
    except Interrupted as error:
        raise Interrupted(f"{error}; {_what_is_kept(plan)}") from None
    except Exception as error:
        if told := _in_words(error, _what_is_kept(plan)):
            raise told from error
        raise
    finally:
        if pool is not None:
            pool.stop()
    return Conducted(plan, report, _failed_cells(progress) or untimed, _how_they_began(progress))


def _how_they_began(progress: Progress) -> list[str]:
    """Of the cells that were trained now and had been interrupted before: one line each kind."""
    runs = {f"{cell.arm}/seed={cell.seed}": cell.folder.read() for cell in progress.todo}
    went_on = [f"{name} after step {run['resumed'][-1]['step']}" for name, run in runs.items() if "resumed" in run]
    anew = [f"{name} ({run['began_anew']})" for name, run in runs.items() if "began_anew" in run]
    found = (("went on where their states were saved", went_on), ("began anew", anew))
    return [f"{len(cells)} cell(s) {how}: {_some(cells)}" for how, cells in found if cells]


def _some(names: list[str]) -> str:
    """The first few, and how many more."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _failed_cells(progress: Progress) -> str | None:
    """The cells that failed and why, in one line; the first few by name."""
    failures = progress.failures
    if not failures:
        return None
    cells = [f"{cell.arm}/seed={cell.seed}" for cell, _ in failures]
    errors = {error for _, error in failures}
    if len(errors) == 1:
        named = f"{_some(cells)}: {errors.pop()}"
    else:
        named = _some([f"{name}: {error}" for name, (_, error) in zip(cells, failures, strict=True)])
    return f"{len(failures)} cell(s) failed ({named}); the same request runs them again"


def _in_words(error: Exception, kept: str) -> RunFailed | None:
    """A fault of this machine as a failure that says what happened, what is kept and what to do; None for any other error."""
    if isinstance(error, MhaAblateError) or machine_trouble(error) is None:
        return None
    return RunFailed(f"{in_a_line(error)}, then give the same command again; {kept}")


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
            _text_at_hand(overrides, observer, config_dir)
            from mha_ablate.study.single import run_single, single_cell

            cell = single_cell(overrides, observer.reading, config_dir)
            before = cell.finished()
            return cell.folder.path, before or run_single(cell, observer), before is not None
    except Exception as error:
        if told := _in_words(error, _what_is_kept_of(cell)):
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


def _text_at_hand(overrides: list[str], observer: Observer, config_dir: Path | None) -> RunConfig:
    """Fetch a text of the Hub, or say that it cannot be had, before seconds are spent on importing torch; returns the request."""
    from mha_ablate.config.compose import compose
    from mha_ablate.corpora import corpus_of

    config = compose(overrides, config_dir).config
    if config.data.hub is not None:
        corpus_of(config, watch=observer.reading, any_length=True)
    return config


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C or SIGTERM inside leaves as `Interrupted`, which a command can complete by how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None


def _what_is_kept_of(cell: Cell | None) -> str:
    if cell is None:
        return "nothing was begun"
    from mha_ablate.run.state import saved_step

    step = saved_step(cell.folder)
    if cell.finished():
        return f"{cell.folder.path} is finished and kept"
    return f"{cell.folder.path} goes on after step {step}" if step else f"{cell.folder.path} will begin anew"


def _what_is_kept(plan: Plan | None) -> str:
    if plan is None:
        return "nothing was begun"
    done = sum(cell.finished() is not None for cell in plan.cells)
    return f"{done} of {len(plan.cells)} cells are finished and kept"
