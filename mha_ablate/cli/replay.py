"""`mha-ablate replay`: is a run still the same run?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mha_ablate.cli.common import Json, Quiet, epilog

EPILOG = epilog(
    {
        "replay outputs/train/dense/seed=0": "train it again, and compare bit for bit",
        "replay outputs/fc_out/none/seed=3 --json": "the same as JSON",
    }
)


def replay(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A finished run: OUTPUTS/NAME/ARM/seed=N.", show_default=False)
    ],
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a finished run again, elsewhere, and say where it first differs, if it does.

    Every measurement and every weight is compared, bit for bit. RUN itself is only read. Exit code 1: something differs.
    """
    from mha_ablate.cli.common import print_json
    from mha_ablate.cli.live import run_view
    from mha_ablate.conduct import conduct_replay
    from mha_ablate.errors import RunFailed

    with run_view(quiet=quiet) as view:
        found = conduct_replay(folder, observer=view)
    if as_json:
        print_json({"folder": str(folder), **found.to_json()})
    else:
        for key, (then, now) in found.surroundings.items():
            print(f"{key}: {then} then, {now} now")
        if found.difference is None:
            print(f"the same bits: {found.lines} lines of measurements, {found.tensors} tensors of weights")
    if found.difference is not None:
        raise RunFailed(f"{folder}: not the same run: {found.difference}")
