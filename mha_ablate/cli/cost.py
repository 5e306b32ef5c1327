"""`mha-ablate cost`: what each variant costs, counted and timed; nothing is trained."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from mha_ablate.cli.common import ConfigDir, Json, Quiet, Settings, epilog

EPILOG = epilog(
    {
        "cost": "every variant of fc_out at the size of the default model",
        "cost fc_out=dense,none,per_head model=mini": "some of them, at another size",
        "cost fc_out=dense,none model.n_heads=1,2,4,8 --no-time": "a table over heads, without the clock",
        "cost --format latex --no-time": "for a paper",
    },
    "fc_out",
    "attention",
    "model",
)


class Format(StrEnum):
    """How the ledger is written."""

    table = "table"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


def cost(
    settings: Settings = None,
    config_dir: ConfigDir = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="ARM", help="What the others are compared with. Default: dense, or the first.")
    ] = None,
    time: Annotated[bool, typer.Option("--time/--no-time", help="Measure steps and generation too.")] = True,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Count and time what each variant of fc_out costs, each against the baseline. Nothing is trained.

    A list (`fc_out=dense,none model.n_heads=2,4`) asks for every combination; without fc_out, all variants are shown.
    """
    from mha_ablate.cli.common import note, print_json
    from mha_ablate.conduct import conduct_cost

    def on_turn(done: int, total: int) -> None:
        if not quiet and sys.stderr.isatty():
            print(f"\rtiming: {done} of {total} turns", end="\n" if done == total else "", file=sys.stderr, flush=True)

    made = conduct_cost(list(settings or []), baseline=baseline, timed=time, on_turn=on_turn, config_dir=config_dir)
    for arm, why in made["refused"].items():
        note(f"{arm} is left out: {why}")
    if as_json:
        print_json(made)
    else:
        print(_shown(made, form), end="")


def _shown(made: dict[str, Any], form: Format) -> str:
    from mha_ablate.report import ledger

    if form is Format.table:
        import shutil

        return ledger.as_text(made, shutil.get_terminal_size((100, 24)).columns)
    write = {Format.csv: ledger.as_csv, Format.markdown: ledger.as_markdown, Format.latex: ledger.as_latex}
    return write[form](made)
