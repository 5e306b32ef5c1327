"""`mha-ablate plan`: how many seeds a study needs, fixed before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mha_ablate.cli.common import ConfigDir, Json, Settings, epilog

if TYPE_CHECKING:
    from mha_ablate.conduct import Ahead
    from mha_ablate.study.ahead import Need, Reckoning

EPILOG = epilog(
    {
        "plan --pilot outputs/fc_out --effect 0.02": "the seeds that find 0.02 nats, by the spread that a pilot showed",
        "plan --pilot outputs/fc_out --effect 0.02 'study.arms=[dense,none]' name=two": "the same for fewer arms, under a name",
        "plan --sd 0.01 --effect 0.01 name=mine": "without a pilot: the spread of the differences is given",
    }
)


def plan(
    settings: Settings = None,
    effect: Annotated[
        float, typer.Option(metavar="NATS", help="The true difference that is to be found, in nats per token.")
    ] = 0.02,
    power: Annotated[float, typer.Option(help="How probably it is to be found.")] = 0.8,
    pilot: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="A study that has run: its settings, spread and pace."),
    ] = None,
    sd: Annotated[
        float | None,
        typer.Option(
            metavar="NATS", show_default=False, help="The sd of the paired differences, instead of a pilot's."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes that will run it. Default: one per core.")
    ] = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Reckon the seeds that a study needs, and write its plan.json (parts.json, of several points) before anything runs.

    A study that is run from it is confirmatory; what was not planned ahead is exploratory. A pilot's seeds are not used again.
    """
    from mha_ablate.cli.common import command_line, flags, print_json
    from mha_ablate.conduct import conduct_plan
    from mha_ablate.errors import RequestError
    from mha_ablate.study.observer import Observer

    if (pilot is None) == (sd is None):
        raise RequestError(
            "give --pilot DIR, a study that has run, or --sd NATS, the spread of the differences: one of them"
        )
    for option, value in (("--effect", effect), ("--sd", sd)):
        if value is not None and not 0 < value < float("inf"):
            raise RequestError(f"{option} {value} is out of range: it must be above 0 (nats per token)")
    if not 0.05 < power < 1:
        raise RequestError(f"--power {power} is out of range: it must be above 0.05 and below 1")
    ahead = conduct_plan(
        list(settings or []),
        pilot=pilot,
        sd=sd,
        effect=effect,
        power=power,
        workers=workers,
        observer=Observer(),
        config_dir=config_dir,
    )
    command = command_line("compare", *ahead.request, *flags(config_dir=config_dir, workers=workers))
    if as_json:
        print_json({**_as_plain(ahead), "command": command})
    else:
        _print(ahead, command)


def _as_plain(ahead: Ahead) -> dict[str, Any]:
    kept = {key: ahead.fixed.get(key) for key in ("hash", "study", "baseline", "margin", "seeds")}
    return {
        **kept,
        **ahead.reckoning.to_json(),
        "notes": ahead.notes,
        "seconds": ahead.seconds,
        "cells": ahead.cells,
        "plan": str(ahead.file),
    }


def _print(ahead: Ahead, command: str) -> None:
    from rich.table import Table

    from mha_ablate.cli.common import console

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in (
        "contrast" if len(ahead.plans) > 1 else "arm",
        "sd of delta",
        "planned with",
        "seeds",
        "if equivalent",
    ):
        table.add_column(name, justify="left" if name in ("arm", "contrast") else "right", no_wrap=True)
    for arm, need in ahead.reckoning.needs.items():
        table.add_row(
            arm, _spread(need), f"{need.spread.planned:.4f}", *map(_count, (need.seeds, need.seeds_for_equivalence))
        )
    out = console()
    out.print(table)
    reckoning, arms, points = ahead.reckoning, len(ahead.plans[0].arms), len(ahead.plans)
    hours = "" if ahead.seconds is None else f", about {_duration(ahead.seconds)}"
    tuned = ", with those of the rates" if ahead.fixed.get("tune") else ""
    tells = [
        f"{_seeds(reckoning)} of {arms} arms{f' at {points} points' if points > 1 else ''}, {ahead.cells} cells of {ahead.steps} "
        f"steps{tuned}{hours}.",
        f"They find a true difference of {reckoning.effect:g} nats with a power of {reckoning.power:g} in "
        f"{_contrasts(len(reckoning.needs))} (at p < {reckoning.alpha:.3g}, which Holm asks of the smallest), if the sd is not "
        "above what is planned with.",
        f"If equivalent: seeds at which no difference at all would be found to lie within ±{reckoning.margin:g} nats.",
    ]
    for words in (
        "",
        *tells,
        *(f"note: {note}" for note in ahead.notes),
        "",
        f"plan: {ahead.file}",
        "",
        "next:",
    ):
        out.print(words, soft_wrap=not out.is_terminal, markup=False)
    print(f"  {command}\n      runs it; nothing else may be changed, or the report says so")


def _seeds(reckoning: Reckoning) -> str:
    most = max(need.seeds or 0 for need in reckoning.needs.values())
    least = f" (more than the {most} reckoned: fewer than {reckoning.seeds} are a look, not a result)"
    return f"{reckoning.seeds} fresh seeds{least if reckoning.seeds > most else ''}"


def _contrasts(n: int) -> str:
    return "its contrast" if n == 1 else f"each of {n} contrasts"


def _spread(need: Need) -> str:
    seeds = need.spread.seeds
    return f"{need.spread.sd:.4f} ({'given' if seeds is None else f'{seeds} seeds'})"


def _count(seeds: int | None) -> str:
    return "> 10000" if seeds is None else str(seeds)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{max(1, round(seconds / 60))} min"
