"""`mha-ablate inspect`: what has a trained output projection become, and what is it worth where it stands?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mha_ablate.cli.common import Json, Quiet, epilog
from mha_ablate.cli.generate import Weights

if TYPE_CHECKING:
    from mha_ablate.run.folder import RunFolder

SHOWN_HEADS = 12

EPILOG = epilog(
    {
        "inspect outputs/train/dense/seed=0": "swap, truncate, silence heads; tables, and a page in RUN/inspect",
        "inspect outputs/train/dense/seed=0 --finetune 20": "also: W_O swapped for I, then trained on for 20 steps",
        "inspect outputs/train/dense/seed=0 --eval-windows 32 --draws 8 --json": "less text, more random draws, as JSON",
        "inspect outputs/train/dense/seed=0 --fold merged_ov --out folded": "the same function as another checkpoint",
    }
)


def inspect(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A finished run, OUTPUTS/NAME/ARM/seed=N, or a GPT-2 checkpoint folder (weights alone).",
            show_default=False,
        ),
    ],
    eval_windows: Annotated[
        int | None,
        typer.Option(metavar="N", help="Windows of validation text. Left out: what takes about a minute."),
    ] = None,
    draws: Annotated[int, typer.Option(metavar="N", help="Random matrices a null, and shuffles of heads.")] = 3,
    finetune: Annotated[
        int, typer.Option(metavar="STEPS", help="After the swaps for I, train on for so many steps; 0: do not.")
    ] = 0,
    fold: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Write a folded checkpoint to --out instead: v_bias, or a variant that takes W_O."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where --fold writes: a new folder.")] = None,
    weights: Annotated[
        Weights, typer.Option(help="Those at the end, or those at the lowest validation loss.")
    ] = Weights.LAST,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Experiments on the output projection W_O of a finished run, and diagnostics of every layer.

    W_O is swapped for the identity, cut in rank, kept inside heads; heads are shuffled and silenced one at a time. Losses are on
    the run's own validation text, beside random changes of the same size. Only RUN/inspect is written (docs/inspecting.md).
    """
    from mha_ablate.cli.common import note, print_json
    from mha_ablate.errors import RequestError
    from mha_ablate.run.folder import RunFolder
    from mha_ablate.study.inspect import Asked

    asked = Asked(eval_windows, draws, finetune, weights.value)
    run = RunFolder(folder)
    if (fold is None) != (out is None):
        raise RequestError("--fold NAME and --out DIR go together: which fold, and where its checkpoint goes")
    if fold is not None and out is not None:
        told = _folded(run, fold, out, asked.weights)
        print_json(told) if as_json else print(
            f"{told['folder']}: max |logit difference| {told['max_logit_difference']:.1e} to {folder}"
        )
        return
    found = _inspected(run, asked, quiet=quiet)
    if found["kind"] == "gpt2" and (eval_windows is not None or finetune):
        note("a GPT-2 checkpoint folder names no text: --eval-windows and --finetune did nothing")
    page = _written(run, found)
    if as_json:
        print_json({**found, "page": str(page)})
        return
    _print(found)
    print(f"page: {page}")


def _folded(run: RunFolder, name: str, out: Path, weights: Any) -> dict[str, Any]:
    from mha_ablate.study.folding import write_folded
    from mha_ablate.study.trained import load

    return write_folded(load(run, weights), name, out)


def _inspected(run: RunFolder, asked: Any, *, quiet: bool) -> dict[str, Any]:
    from mha_ablate.cli.common import note
    from mha_ablate.report.inspect_page import check_place
    from mha_ablate.study.inspect import inspect as look

    check_place(run)
    return look(run, asked, say=(lambda _: None) if quiet else note)


def _written(run: RunFolder, found: dict[str, Any]) -> Path:
    from mha_ablate.cli.common import command_line
    from mha_ablate.report.inspect_page import write_inspection

    return write_inspection(run, found, command_line("inspect", str(run.path)))


def _print(found: dict[str, Any]) -> None:
    """The tables, as wide as 80 columns."""
    from rich.text import Text

    from mha_ablate.cli.common import console, print_table
    from mha_ablate.report import inspect_tables as rows

    out = console()

    def block(head: tuple[str, ...], body: list[tuple[str, ...]]) -> None:
        if body:
            print_table(out, head, body)

    def say(text: str) -> None:
        out.print(Text(text), soft_wrap=not out.is_terminal)

    say(f"{rows.what_it_is(found)}\n{rows.text_line(found)}\n")
    block(rows.CHANGES, rows.change_rows(found))
    block(rows.RANKS, rows.rank_rows(found))
    heads = rows.head_rows(found, SHOWN_HEADS)
    if len(heads) < len(found["heads"]):
        say(f"the {len(heads)} costliest of {len(found['heads'])} heads, LAYER.HEAD")
    block(rows.HEADS, heads)
    block(rows.LAYERS, rows.layer_rows(found))
    for name, told in rows.fold_rows(found):
        say(f"fold {name}, {told}")
    for line in rows.left_out_lines(found):
        say(line)
    out.print(Text(f"\n{rows.sentence(found)}", style="bold"), soft_wrap=not out.is_terminal)
