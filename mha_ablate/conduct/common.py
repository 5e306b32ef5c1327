"""What all commands share: how an interrupt leaves, how a fault of the machine and failed cells are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mha_ablate.errors import (
    Interrupted,
    MhaAblateError,
    RequestError,
    RunFailed,
    hides_interrupt,
    in_a_line,
    machine_trouble,
)

if TYPE_CHECKING:
    from mha_ablate.config.schema import RunConfig
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.progress import Progress

NAMED = 3  # failed cells in the one line that ends a study


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C or SIGTERM inside leaves as `Interrupted`, which a command can complete by how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    except Interrupted:
        raise
    except Exception as error:
        if hides_interrupt(error):
            raise Interrupted("interrupted") from None
        raise


def text_at_hand(
    overrides: list[str],
    observer: Observer,
    config_dir: Path | None,
    check: Callable[[RunConfig], None] = lambda _: None,
) -> RunConfig:
    """Fetch a text of the Hub, or say that it cannot be had, before seconds are spent on importing torch; returns the request.

    `check` may refuse it before that.
    """
    from mha_ablate.config.compose import compose
    from mha_ablate.corpora import corpus_of

    config = compose(overrides, config_dir).config
    check(config)
    if config.data.hub is not None:
        corpus_of(config, watch=observer.reading, any_length=True)
    return config


def check_workers(workers: int | None) -> None:
    """Raise RequestError for a number of workers that nobody can want."""
    if workers is not None and not 1 <= workers <= 1024:
        raise RequestError(f"workers={workers} (--workers) is out of range: it must be 1 to 1024")


def in_words(error: Exception, kept: str) -> RunFailed | None:
    """A fault of this machine as a failure that says what happened, what is kept and what to do; None for any other error."""
    if isinstance(error, MhaAblateError) or machine_trouble(error) is None:
        return None
    return RunFailed(f"{in_a_line(error)}, then give the same command again; {kept}")


def failed_cells(progress: Progress) -> str | None:
    """The cells that failed and why, in one line; the first few by name."""
    failures = progress.failures
    if not failures:
        return None
    cells = [cell.name for cell, _ in failures]
    errors = {error for _, error in failures}
    if len(errors) == 1:
        named = f"{some(cells)}: {errors.pop()}"
    else:
        named = some([f"{name}: {error}" for name, (_, error) in zip(cells, failures, strict=True)])
    return f"{len(failures)} cell(s) failed ({named}); the same request runs them again"


def some(names: list[str]) -> str:
    """The first few, and how many more."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
