"""Writing a report: the files of `<study>/report` and the events beside the runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mha_ablate.report.assemble import assemble
from mha_ablate.report.board import rebuild_events
from mha_ablate.report.page import page
from mha_ablate.report.plots import answer_figure, as_png, as_svg, curves_figure
from mha_ablate.report.tables import markdown, runs_csv
from mha_ablate.run.folder import write_atomic
from mha_ablate.study.collect import collect


def write_report(path: Path, *, baseline: str | None = None, margin: float | None = None) -> dict[str, Any]:
    """Collect the runs below `path`, write the report, rebuild TensorBoard's events; returns the report."""
    study = collect(path)
    report = assemble(study, baseline=baseline, margin=margin)
    folder = study.folder.report_dir
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(folder / "runs.csv", runs_csv(study))
    write_atomic(folder / "table.md", markdown(report))
    svgs = []
    for name, draw in (("answer", answer_figure), ("curves", curves_figure)):
        figure = draw(report, study)
        svgs.append(as_svg(figure))
        write_atomic(folder / f"{name}.svg", svgs[-1])
        write_atomic(folder / f"{name}.png", as_png(figure))
    write_atomic(folder / "report.html", page(report, svgs, f"mha-ablate report {path}"))
    rebuild_events(study, report)
    return report
