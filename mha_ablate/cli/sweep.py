"""`mha-ablate sweep`: every combination, on any of Hydra's launchers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mha_ablate.cli.common import ConfigDir, Json, Quiet, Settings, epilog

if TYPE_CHECKING:
    from mha_ablate.conduct import Swept

EPILOG = epilog(
    {
        "sweep fc_out=dense,none model.n_heads=1,2,4,8 seed=0,1,2": "24 runs, one after the other",
        "sweep fc_out=dense,none seed=0,1,2 hydra/launcher=joblib": "as many at once as there are cores",
        "sweep fc_out=dense,none seed=0,1,2 hydra/launcher=submitit_slurm": "on a cluster (pip install 'mha-ablate[slurm]')",
        "sweep fc_out=none optim.lr='interval(1e-4,1e-2)' hydra/sweeper=optuna": "a search (pip install 'mha-ablate[optuna]')",
        "sweep --resume outputs/sweep": "what is missing of a sweep that was stopped",
        "sweep +experiment=mine --config-dir my_configs": "a file of your own says what is swept",
    },
    "fc_out",
)


def sweep(
    settings: Settings = None,
    config_dir: ConfigDir = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="Go on with the sweep in DIR: run what is missing of it."),
    ] = None,
    retries: Annotated[int, typer.Option(metavar="N", help="Run a cell that failed up to N times more.")] = 0,
    cfg: Annotated[
        str | None,
        typer.Option(metavar="job|hydra|all", show_default=False, help="Print the configuration and leave."),
    ] = None,
    package: Annotated[
        str | None, typer.Option(metavar="KEY", show_default=False, help="With --cfg: that part alone.")
    ] = None,
    resolve: Annotated[bool, typer.Option("--resolve", help="With --cfg: with interpolations resolved.")] = False,
    info: Annotated[
        str | None,
        typer.Option(metavar="WHAT", show_default=False, help="Print what Hydra knows and leave: all, plugins, ..."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train every combination of what the settings list: outputs/NAME/FC_OUT,KEY=VALUE/seed=N.

    Lists are Hydra's: a,b  range(1,9)  choice(a,b)  glob(*). Every cell is checked before the first one runs, one that fails takes
    no other with it, and the same command again runs what is missing. NAME is `sweep` unless you give name=.
    `mha-ablate report outputs/NAME` compares what lies there.
    """
    from mha_ablate.cli.common import command_line, flags
    from mha_ablate.cli.live import study_view
    from mha_ablate.conduct import conduct_sweep
    from mha_ablate.errors import Interrupted, RequestError, RunFailed

    words = list(settings or [])
    if cfg or info:
        _show(words, config_dir, cfg, package, resolve=resolve, info=info)
        return
    if package or resolve:
        raise RequestError("--package and --resolve belong to --cfg: add --cfg job")
    if not words and resume is None:
        raise RequestError("there is nothing to sweep: list values, such as fc_out=dense,none seed=0,1,2")
    try:
        with study_view(quiet=quiet) as view:
            done = conduct_sweep(words, observer=view, resume=resume, retries=retries, config_dir=config_dir)
    except Interrupted as error:
        options = flags(config_dir=config_dir, resume=resume, retries=retries or None, quiet=quiet, json=as_json)
        raise Interrupted(f"{error}; to go on: {command_line('sweep', *words, *options)}") from None
    _print(done, as_json=as_json)
    if done.failure:
        raise RunFailed(done.failure)


def _show(
    words: list[str], config_dir: Path | None, cfg: str | None, package: str | None, *, resolve: bool, info: str | None
) -> None:
    from mha_ablate.config.bridge import show, show_info

    if cfg:
        show(words, config_dir, kind=cfg, package=package, resolve=resolve)
    else:
        show_info(words, config_dir, what=info or "all")


def _print(done: Swept, *, as_json: bool) -> None:
    from mha_ablate.cli.common import command_line, print_json

    if as_json:
        print_json({"folder": str(done.folder), "cells": [_row(cell, run) for cell, run in done.cells]})
        return
    rows = [_row(cell, run) for cell, run in done.cells]
    ended = sum(row["state"] == "ok" for row in rows)
    print(f"{ended} of {len(rows)} cells ended well: {_shown(done.folder)}")
    for row in rows:
        if row["state"] != "ok":
            print(f"  {row['state']:<9}{row['cell']}  {row['error'] or ''}".rstrip())
    if done.best:
        print(f"best: {done.best}")
    if ended:
        print(f"next: {command_line('report', _shown(done.folder))}")


def _shown(folder: Path) -> str:
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)


def _row(cell: Any, run: dict[str, Any]) -> dict[str, Any]:
    return {
        "cell": cell.name,
        "overrides": cell.overrides,
        "folder": str(cell.folder.path),
        "state": run.get("state", "missing"),
        "val_loss": (run.get("result") or {}).get("val_loss"),
        "error": run.get("error"),
    }
