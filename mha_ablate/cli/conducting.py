"""What `compare`, `claims` and `screen` share: a study run before the reader's eyes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mha_ablate.conduct import Conducted
    from mha_ablate.config.schema import RunConfig


def conducted(
    command: str,
    settings: Sequence[str] | None,
    *,
    study: str | None = None,
    quick: Sequence[str] | None = None,
    workers: int | None,
    quiet: bool,
    config_dir: Path | None,
    as_json: bool,
    check: Callable[[RunConfig], None] = lambda _: None,
) -> Conducted:
    """Run the study that `settings` ask for in sight, and say what is to be remarked.

    A command with a `study` of its own runs that, or with --quick the words `quick`, unless the settings name another. Raises
    RequestError for --quick beside a `study=` of the user's, and what `conduct` raises.
    """
    from mha_ablate.cli.common import command_line, flags, note
    from mha_ablate.cli.live import study_view
    from mha_ablate.conduct import conduct
    from mha_ablate.errors import Interrupted, RequestError

    given = list(settings or [])
    chosen = [word for word in given if word.startswith("study=")]
    if quick and chosen:
        raise RequestError(f"{chosen[0]}: --quick chooses {quick[0]}; leave one of them out")
    usual = quick or ([study] if study and not chosen else [])
    words = [*usual, *given]  # of a key that stands twice, the last word holds
    try:
        with study_view(quiet=quiet) as view:
            done = conduct(words, workers=workers, observer=view, config_dir=config_dir, check=check)
    except Interrupted as error:
        options = flags(quick=bool(quick), config_dir=config_dir, workers=workers, quiet=quiet, json=as_json)
        raise Interrupted(f"{error}; to go on: {command_line(command, *given, *options)}") from None
    for remark in [] if quiet else done.remarks:
        note(remark)
    return done
