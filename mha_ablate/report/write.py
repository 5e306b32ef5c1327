"""Writing a report: the files of `<study>/report` and the events beside the runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mha_ablate.errors import RequestError
from mha_ablate.report.assemble import assemble
from mha_ablate.report.board import rebuild_events
from mha_ablate.report.family import STAGES, whole_above
from mha_ablate.report.figures import figures
from mha_ablate.report.floor import floor_of
from mha_ablate.report.means import mean_folders
from mha_ablate.report.page import page
from mha_ablate.report.plots import as_png, as_svg
from mha_ablate.report.sentence import counted, sentence
from mha_ablate.report.tables import latex, markdown, regenerating, runs_csv
from mha_ablate.run.folder import StudyFolder, read_json, write_atomic, write_json
from mha_ablate.study.collect import collect


def write_report(path: Path, *, baseline: str | None = None, margin: float | None = None) -> dict[str, Any]:
    """Collect the runs below `path`, write the report, rebuild TensorBoard's events; returns the report."""
    study = collect(path)
    if study.folder.report_dir.is_symlink():
        raise RequestError(
            f"{study.folder.report_dir} is a link, and a report is written beside its runs: remove the link"
        )
    mean_folders(study)  # a link there is refused before anything is written
    report = assemble(study, baseline=baseline, margin=margin)
    if baseline is None and (whole := whole_above(path)):
        _decide_in(whole, report, path, margin)
    folder = study.folder.report_dir
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if floor := floor_of(report, study.arm_hash(report["baseline"])):
        write_json(study.folder.floor_file, floor)
    write_atomic(folder / "runs.csv", runs_csv(study))
    write_atomic(folder / "table.md", markdown(report))
    write_atomic(folder / "table.tex", latex(report))
    for name, figure in figures(report, study).items():
        write_atomic(folder / f"{name}.svg", as_svg(figure))
        write_atomic(folder / f"{name}.png", as_png(figure))
    write_atomic(folder / "report.html", page(report, study, regenerating(path, baseline, margin)))
    rebuild_events(study, report["baseline"], {arm["arm"]: arm["cost"] for arm in report["arms"]})
    return report


def write_again(path: Path, joint: dict[str, Any]) -> None:
    """Write the reports of those parts anew whose verdicts the parts that came later have changed."""
    for part in joint["parts"]:
        folder = path / part["folder"]
        written = read_json(StudyFolder(folder).report_dir / "report.json") or {}
        if written and [_verdict(arm) for arm in written["arms"]] != [_verdict(arm) for arm in part["arms"]]:
            write_report(folder)


def _verdict(arm: dict[str, Any]) -> tuple[Any, ...]:
    return arm["arm"], arm["verdict"], (arm["delta"] or {}).get("p_holm")


def _decide_in(whole: Path, report: dict[str, Any], path: Path, margin: float | None) -> None:
    """Give a part's report the verdicts that it has among all parts of its study: one contrast, one verdict."""
    from mha_ablate.report.joint import joint_report

    folder = path.resolve()
    joint = joint_report(whole, margin=margin)
    part = next((part for part in joint["parts"] if whole / part["folder"] == folder), None)
    if part is None or "family" not in part:
        return
    report["arms"] = part["arms"]
    stage = f", {STAGES[part['stage']]}" if part["stage"] else ""
    report["notes"].append(
        f"a part of the study {joint['study']}: p is Holm's over all {counted(part['family'], 'contrast')} of its parts{stage}"
    )
    report["sentence"] = sentence(report)
