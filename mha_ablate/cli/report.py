"""`mha-ablate report`: what a folder of runs says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mha_ablate.cli.common import Json, epilog

EPILOG = epilog(
    {
        "report outputs/fc_out": "a study, finished or not",
        "report outputs/train --baseline dense --json": "runs of `train`, as JSON",
    }
)


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder of runs, from `compare` or `train`.", show_default=False)
    ],
    baseline: Annotated[
        str | None,
        typer.Option(metavar="ARM", help="The arm to compare with. Default: the plan's, else the largest fc_out."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(metavar="NATS", help="Half width of what counts as equivalent. Default: the plan's, else 0.01."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the runs of a folder and write DIR/report: page, figures, tables, report.json.

    TensorBoard's events are rebuilt with the paired delta. Nothing is trained. A report that is there is replaced, with
    --margin and --baseline too: the same command without them brings the plan's own back.
    """
    from mha_ablate.cli.common import print_joint, print_json, print_report
    from mha_ablate.errors import RequestError
    from mha_ablate.report.joint import studies_below, write_joint
    from mha_ablate.report.write import write_report
    from mha_ablate.run.folder import StudyFolder

    if margin is not None and not 0 < margin < float("inf"):
        raise RequestError(f"--margin {margin} is out of range: it must be above 0 (nats per token)")
    joint = baseline is None and bool(studies_below(folder))
    made = write_joint(folder, margin=margin) if joint else write_report(folder, baseline=baseline, margin=margin)
    if as_json:
        print_json(made)
        return
    print_joint(made) if joint else print_report(made)
    print(f"\nreport: {StudyFolder(folder).report_dir / 'report.html'}")
