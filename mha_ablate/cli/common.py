"""What several commands share: arguments, help texts, printing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mha_ablate.config.catalog import choice_names

if TYPE_CHECKING:
    from rich.console import Console


def _completed(context: typer.Context, incomplete: str) -> list[str]:
    """How a setting may go on, for a shell that completes it. Whatever is wrong with the line, the command itself will say."""
    from mha_ablate.config.completion import candidates
    from mha_ablate.config.own import checked
    from mha_ablate.errors import MhaAblateError

    given = context.params
    try:
        folder = checked(Path(given["config_dir"]), []) if given.get("config_dir") else None
        launches = context.info_name in ("sweep", "compare", "claims", "screen")
        return candidates(incomplete, given.get("settings") or [], config_dir=folder, launches=launches)
    except (MhaAblateError, OSError):
        return []


Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        show_default=False,
        autocompletion=_completed,
        help="Settings as Hydra overrides: optim.lr=1e-3 model=mini. `mha-ablate list config` prints every key.",
    ),
]
ConfigDir = Annotated[
    Path | None,
    typer.Option(
        "--config-dir",
        "-cd",
        metavar="DIR",
        show_default=False,
        help="A folder with choices of your own: DIR/GROUP/NAME.yaml becomes GROUP=NAME.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on the way: only the result, and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]


def epilog(examples: dict[str, str], *groups: str, program: str = "mha-ablate ") -> str:
    """The foot of a help page: commands to copy with what they do, and the choices of some groups, read from the configs."""
    lines = ["\b", "Examples:"]
    for command, meaning in examples.items():
        lines += [f"  {program}{command}", f"      {meaning}"]
    if groups:
        lines += ["", "\b", "Choices (`mha-ablate list GROUP` explains them):"]
        lines += [f"  {group + '=':<12}{', '.join(choice_names(group))}" for group in groups]
    return "\n".join(lines)


def print_json(value: Any) -> None:
    """JSON on standard output."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def console() -> Console:
    """Standard output; where that is no terminal, wide enough that nothing wraps."""
    from rich.console import Console

    plain = Console(highlight=False, soft_wrap=False)
    return plain if plain.is_terminal else Console(highlight=False, width=200)


def flags(**given: bool | int | Path | None) -> list[str]:
    """The options that were given: `--quiet`, `--workers 2`, `--config-dir DIR`."""
    words: list[str] = []
    for name, value in given.items():
        if value not in (None, False):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def command_line(*words: str) -> str:
    """A command that can be copied into a shell."""
    import shlex

    return shlex.join(("mha-ablate", *words))


def print_report(report: dict[str, Any]) -> None:
    """The table of a report and its sentence."""
    from rich.text import Text

    from mha_ablate.report.tables import COLUMNS, bits_line, rows

    out = console()
    print_table(out, COLUMNS, rows(report))
    for arm in report["arms"]:
        out.print(Text(f"{arm['arm']}: {' '.join(arm['overrides'])}", style="dim"), soft_wrap=not out.is_terminal)
    if bits := bits_line(report):
        out.print(Text(f"\n{bits}", style="dim"), soft_wrap=not out.is_terminal)
    _print_words(out, report)


def print_joint(report: dict[str, Any]) -> None:
    """The tables of several studies side by side, and the sentence."""
    from rich.text import Text

    from mha_ablate.cli.cards import print_card
    from mha_ablate.report.joint import COLUMNS, TUNING_COLUMNS, fall_rows, rows, tuning_rows, why_undecided

    out = console()
    if report["screen"]:
        print_screen(out, report["screen"])
        print_over(out, report)
        _print_words(out, report)
        return
    print_table(out, COLUMNS, rows(report))
    if why := why_undecided(report):
        out.print(Text(f"{why}\n", style="dim"), soft_wrap=not out.is_terminal)
    if fall := fall_rows(report):
        print("removal taken apart, nats per token")
        print_table(out, fall[0], fall[1:])
    for card in report["claims"]:
        print_card(out, card)
    for tuning in report["tunings"]:
        print(f"learning rates {tuning['point']}".rstrip())
        print_table(out, TUNING_COLUMNS, tuning_rows(tuning))
    print_over(out, report)
    _print_words(out, report)


def print_screen(out: Console, screen: dict[str, Any]) -> None:
    """The factors, the strongest first, and what to know of the design."""
    from rich.text import Text

    from mha_ablate.report.screen import STEP, columns, lines, rows

    print_table(out, columns(screen), rows(screen))
    for line in lines(screen):  # a command that is wrapped cannot be copied
        out.print(Text(line, style="dim"), soft_wrap=not out.is_terminal or line.startswith(STEP))
    print()


def print_over(out: Console, report: dict[str, Any]) -> None:
    """How far the answer generalises, where there are points enough to say."""
    from mha_ablate.report.joint_page import OVER, over_rows

    if any(one["prediction95"] for one in report["over_points"].values()):
        print("over settings, nats per token")
        print_table(out, OVER[:-1], [row[:-1] for row in over_rows(report)])


def print_table(out: Console, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Left the first column and a verdict at the end, else right; no spaces at the ends of lines."""
    from rich.table import Table
    from rich.text import Text

    tints = {"costs": "red", "helps": "green", "equivalent": "cyan", "undecided": "yellow", "baseline": "dim"}
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for i, name in enumerate(columns):
        left = i == 0 or name in ("arm", "verdict")
        table.add_column(name, justify="left" if left else "right", no_wrap=i > 0)
    for row in rows:
        table.add_row(*map(Text, row[:-1]), Text(row[-1], style=tints.get(row[-1].partition(" ")[0], "")))
    with out.capture() as drawn:
        out.print(table)
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()) + "\n")


def _print_words(out: Console, report: dict[str, Any]) -> None:
    """The sentence, the notes, and whether it was planned ahead."""
    from rich.text import Text

    from mha_ablate.report.tables import kind_line

    out.print()
    out.print(Text(report["sentence"], style="bold"), soft_wrap=not out.is_terminal)
    for note in report["notes"]:
        out.print(Text(f"note: {note}", style="yellow"), soft_wrap=not out.is_terminal)
    out.print(Text(kind_line(report), style="dim"), soft_wrap=not out.is_terminal)


def printable(text: str) -> str:
    """Without control characters: a text that somebody else wrote must not steer the terminal."""
    import unicodedata

    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text)


def note(message: str) -> None:
    """A line of progress on standard error."""
    print(message, file=sys.stderr, flush=True)
