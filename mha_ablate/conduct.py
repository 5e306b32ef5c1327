"""A whole study from words to report, as the command line and notebooks both run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mha_ablate.errors import Interrupted, RequestError

if TYPE_CHECKING:
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.plan import Plan


@dataclass(frozen=True)
class Conducted:
    """A study that has come to its end: its plan, its report, and in one line what went wrong, if anything did."""

    plan: Plan
    report: dict[str, Any]
    failure: str | None


def conduct(overrides: list[str], *, workers: int | None, observer: Observer) -> Conducted:
    """Plan, train what is not finished, measure, report.

    Raises RequestError before anything is written, RunFailed where no worker can run, Interrupted on Ctrl-C or SIGTERM.
    """
    from mha_ablate.report.write import write_report
    from mha_ablate.run.lock import locked
    from mha_ablate.study.execute import Pool, default_workers, interruptible, run_cells, time_arms
    from mha_ablate.study.plan import make_plan

    if workers is not None and not 1 <= workers <= 1024:
        raise RequestError(f"{workers} workers is out of range: it must be 1 to 1024")
    pool = Pool(workers or 1)
    plan: Plan | None = None
    try:
        with interruptible():
            observer.checking()
            pool.size = workers or default_workers()
            plan = make_plan(overrides, while_checking=pool.start, watch=observer.reading)
            with locked(plan.folder.path):
                plan.write()
                progress = run_cells(plan, pool, observer)
                untimed = time_arms(plan, pool, observer)
                observer.writing()
                report = write_report(plan.folder.path)
    except Interrupted as error:
        raise Interrupted(f"{error}; {_what_is_kept(plan)}") from None
    finally:
        pool.stop()
    named = "; ".join(f"{cell.arm}/seed={cell.seed}: {error}" for cell, error in progress.failures)
    failed = f"{len(progress.failures)} cell(s) failed ({named}); the same request runs them again" if named else None
    return Conducted(plan, report, failed or untimed)


def _what_is_kept(plan: Plan | None) -> str:
    if plan is None:
        return "nothing was begun"
    done = sum(cell.is_done() for cell in plan.cells)
    return f"{done} of {len(plan.cells)} cells are finished and kept"
