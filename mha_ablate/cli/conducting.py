"""What `compare`, `claims` and `screen` share: a study run before the reader's eyes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mha_ablate.conduct import Conducted
    from mha_ablate.config.schema import RunConfig


def usual_words(given: Sequence[str], *, study: str, quick: Sequence[str] | None) -> list[str]:
    """The words of a command that has a study of its own: `quick`, where asked for, or `study`, and then those given.

    Of a key that stands twice, the last word holds. Raises RequestError for --quick beside a `study=` of the user's.
    """
    from mha_ablate.errors import RequestError

    chosen = [word for word in given if word.startswith("study=")]
    if quick and chosen:
        raise RequestError(f"{chosen[0]}: --quick chooses {quick[0]}; leave one of them out")
    usual = [] if chosen else quick or [study]
    return [*usual, *given]


def conducted(
    words: list[str],
    *,
    workers: int | None,
    quiet: bool,
    config_dir: Path | None,
    as_json: bool,
    resume: Sequence[str],
    check: Callable[[RunConfig], None] = lambda _: None,
) -> Conducted:
    """Run the study of `words` in sight and say what is to be remarked.

    `resume` is the command that goes on with it, without the options that are arguments here. Raises what `conduct` raises.
    """
    from mha_ablate.cli.common import command_line, flags, note
    from mha_ablate.cli.live import study_view
    from mha_ablate.conduct import conduct
    from mha_ablate.errors import Interrupted

    try:
        with study_view(quiet=quiet) as view:
            done = conduct(words, workers=workers, observer=view, config_dir=config_dir, check=check)
    except Interrupted as error:
        options = flags(config_dir=config_dir, workers=workers, quiet=quiet, json=as_json)
        raise Interrupted(f"{error}; to go on: {command_line(*resume, *options)}") from None
    for remark in [] if quiet else done.remarks:
        note(remark)
    return done
