"""`mha-ablate doctor`: what this machine offers, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from mha_ablate.cli.common import Json, epilog

if TYPE_CHECKING:
    from mha_ablate.doctor.fact import Fact

EPILOG = epilog(
    {
        "doctor": "everything that was found, and what to do about a problem",
        "doctor --json": "the same as JSON, to send along with a question",
    }
)
WIDEST = 120
TINTS = {"ok": "green", "note": "yellow", "problem": "red"}


def doctor(as_json: Json = False) -> None:
    """Say what this machine offers: versions, processor, precision, memory, GPU, folders, network.

    Each line is ok, a note (worth knowing) or a problem (in the way of `compare`). Exit code 1 where there is a problem.
    """
    import dataclasses

    from mha_ablate.cli.common import print_json
    from mha_ablate.doctor.examine import advice, examine

    with _said("looking around ..."):
        facts = examine()
    sound = not any(fact.state == "problem" for fact in facts)
    if as_json:
        print_json({"ok": sound, "advice": advice(facts), "facts": [dataclasses.asdict(fact) for fact in facts]})
    else:
        print("\n".join(lay_out(facts, advice(facts), **_style())))
    if not sound:
        raise typer.Exit(1)


@contextmanager
def _said(words: str) -> Iterator[None]:
    """A word on a terminal while nothing else can be shown yet; gone afterwards. By hand: `rich` may be what is missing."""
    import sys

    if not sys.stderr.isatty():
        yield
        return
    print(words, end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(" " * len(words), end="\r", file=sys.stderr, flush=True)


def _style() -> dict[str, Any]:
    """Width and colour for standard output: where that is no terminal nothing wraps and nothing is tinted."""
    import os
    import shutil
    import sys

    if not sys.stdout.isatty():
        return {"width": None, "colour": False}
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return {"width": min(shutil.get_terminal_size().columns, WIDEST), "colour": not plain}


def lay_out(facts: list[Fact], last: str, *, width: int | None, colour: bool) -> list[str]:
    """Groups of aligned lines, and a last one. By hand: `rich` may be what is missing."""
    worst = "problem" if any(fact.state == "problem" for fact in facts) else "ok"
    mark = max(len(fact.state) for fact in facts) + 2
    name = max(len(fact.key) for fact in facts) + 2
    indent = 2 + mark + name
    lines, group = [], None
    for fact in facts:
        if fact.group != group:
            group = fact.group
            lines += ["", typer.style(group, bold=True) if colour else group]
        state = f"{fact.state:<{mark}}"
        tinted = typer.style(state, fg=TINTS[fact.state]) if colour else state
        words = f"{fact.value}: {fact.why}" if fact.why else fact.value
        first, *rest = _wrapped(words, width and max(20, width - indent))
        lines += [f"  {tinted}{fact.key:<{name}}{first}", *(" " * indent + line for line in rest)]
    foot = _wrapped(last, width)
    return [*lines[1:], "", *(typer.style(line, bold=True, fg=TINTS[worst]) if colour else line for line in foot)]


def _wrapped(text: str, width: int | None) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width or len(text) + 1, break_on_hyphens=False) or [""]
