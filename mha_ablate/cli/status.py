"""`mha-ablate status`: where a study stands."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mha_ablate.cli.common import Json, epilog

if TYPE_CHECKING:
    from rich.console import Group

EPILOG = epilog(
    {
        "status outputs/fc_out": "cells by state, losses so far, time left",
        "status outputs/fc_out --watch": "the same, kept up to date until all cells have ended",
    }
)
TINTS = {"ok": "green", "running": "cyan", "waiting": "dim", "stopped": "yellow", "failed": "red", "diverged": "yellow"}
EVERY = 2.0  # seconds between two looks


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.", show_default=False)],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep looking until nothing runs or waits.")] = False,
    as_json: Json = False,
) -> None:
    """Say where a study stands, from its files alone: also from another machine that sees the folder.

    `stopped` is a cell whose process is gone: the command that began the study goes on with it.
    """
    from mha_ablate.cli.common import console, print_json
    from mha_ablate.errors import RequestError
    from mha_ablate.study.status import status as look

    found = look(folder)
    if watch and as_json:
        raise RequestError("--watch and --json: one or the other; --json says where the study stands now")
    if as_json:
        print_json(found)
        return
    out = console()
    if not watch:
        out.print(_picture(found, cells=None))
        return
    from rich.live import Live

    with Live(_picture(found, cells=out.height - 6), console=out, auto_refresh=False) as live:
        while found["goes_on"]:
            time.sleep(EVERY)
            found = look(folder)
            live.update(_picture(found, cells=out.height - 6), refresh=True)


def _picture(found: dict[str, Any], cells: int | None) -> Group:
    """A line on all cells, then one on each that has not ended well; with `cells`, at most so many of them."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from mha_ablate.cli.words import duration, loss

    counts = Text("  ").join(Text(f"{n} {state}", style=TINTS[state]) for state, n in found["states"].items())
    head = Text(f"{len(found['cells'])} cells: ") + counts
    if found["seconds_left"]:
        head += Text(f"  {duration(found['seconds_left'])} left")
    order = ("running", "failed", "stopped", "diverged", "ok")
    shown = sorted((c for c in found["cells"] if c["state"] in order), key=lambda c: order.index(c["state"]))
    hidden = max(0, len(shown) - cells) if cells is not None else 0
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("cell", "state", "step", "train", "val", "time", "left"):
        table.add_column(name, justify="left" if name in ("cell", "state") else "right", no_wrap=name != "cell")
    for cell in shown[: len(shown) - hidden]:
        steps = f"{cell['step']}/{cell['steps']}" if cell["steps"] else str(cell["step"])
        losses = ("-" if cell[key] is None else loss(cell[key]) for key in ("train_loss", "val_loss"))
        times = (duration(cell["seconds"]), "" if cell["left"] is None else duration(cell["left"]))
        table.add_row(Text(cell["cell"]), Text(cell["state"], style=TINTS[cell["state"]]), steps, *losses, *times)
    errors = [Text(f"{c['cell']}: {c['error']}", style="red") for c in shown if c["error"]]
    more = [Text(f"and {hidden} more", style="dim")] if hidden else []
    return Group(head, *([table] if shown else []), *more, *errors[:5])
