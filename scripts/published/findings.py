"""Tables and figures of the claims study, of published directions and of one trained model, from run folders alone."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mha_ablate.errors import RequestError
from mha_ablate.report.claim_cards import heading, remarks, standing
from mha_ablate.report.claims import ONLY_IF, REFUTED, SUPPORTED, UNDECIDED
from mha_ablate.report.family import STAGES
from mha_ablate.report.inspect_plots import figures as inspect_figures
from mha_ablate.report.inspect_tables import CHANGES, change_rows, sentence, text_line
from mha_ablate.report.joint import joint_report
from mha_ablate.report.joint_plots import joint_figures
from mha_ablate.report.plots import as_png
from mha_ablate.report.write import write_report
from scripts.page import check_marks, write_into

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/findings.md"
FIGURES = ROOT / "docs/figures"
COLUMNS = ("setting", "rates", "arm", "seeds", "delta, 95%", "90%", "verdict", "plan")
BASE = "claims/base/tuned"  # the setting of the page's opening figure
TABLES = ("claims", "contrasts", "effort", "controls", "published", "inside")
SECOND_LOOK = "claims_controls"  # other seeds, with controls
PUBLISHED = ("gates", "hadamard", "skipless", "head_width")  # studies of what others found
AGREES = {SUPPORTED: "yes", REFUTED: "no", UNDECIDED: "open", ONLY_IF: "in part: only if"}
LOOKED_AT = ("ranks", "heads")


def main(argv: list[str]) -> int:
    """Print the tables; with `--write` put them into the page, and the figures beside it. Returns 2 for folders that lack runs."""
    parser = argparse.ArgumentParser(prog="scripts/findings", description=__doc__)
    parser.add_argument(
        "outputs", type=Path, help="the folder that holds the studies, OUTPUTS/claims and those of others' findings"
    )
    parser.add_argument("--write", action="store_true", help="into docs/findings.md and docs/figures")
    asked = parser.parse_args(argv)
    try:
        report = joint_report(asked.outputs / "claims")
        others = [joint_report(asked.outputs / name) for name in PUBLISHED if (asked.outputs / name).exists()]
        again = joint_report(asked.outputs / SECOND_LOOK) if (asked.outputs / SECOND_LOOK).exists() else None
    except RequestError as error:
        print(f"findings: {error}", file=sys.stderr)
        return 2
    found = inspected(asked.outputs / "claims")
    tables = (
        claims_table(report),
        contrasts_table(report),
        effort(asked.outputs / "claims", report),
        second_look(again),
        published_table(others),
        inside(found),
    )
    for name, text in zip(TABLES, tables, strict=True):
        print(f"{text}\n")
        if asked.write:
            check_marks(PAGE, name)
            write_into(PAGE, name, text)
    if asked.write:
        draw(report, found)
        write_report(asked.outputs / BASE)
        (FIGURES / "answer.png").write_bytes((asked.outputs / BASE / "report/answer.png").read_bytes())
    return 0


def claims_table(report: dict[str, Any]) -> str:
    """A row a card: the verdict as the tool printed it."""
    rows = [(heading(card), standing(card), card["change"]) for card in report["claims"]]
    return markdown(("claim: verdict", "evidence", "what would change it"), rows)


def contrasts_table(report: dict[str, Any]) -> str:
    """Every arm of every setting that has run, with the hash of the plan that its runs belong to."""
    rows = []
    for part in report["parts"]:
        for arm in part["arms"][1:]:
            if delta := arm["delta"]:
                rows.append(
                    (
                        part["point"],
                        STAGES[part["stage"]] or "one rate",
                        arm["arm"],
                        str(len(delta["values"])),
                        interval(delta["mean"], delta["ci95"]),
                        ends(delta["ci90"]),
                        arm["verdict"],
                        f"`{(part['plan_hash'] or '-')[:8]}`",
                    )
                )
    return markdown(COLUMNS, rows)


def published_table(reports: list[dict[str, Any]]) -> str:
    """A row a published direction: what was found here, and whether it agrees."""
    rows = []
    for report in reports:
        for card in report["claims"]:
            found = [f"`{row['arm']}`, {row['where']}: {_delta(row)} ({row['found']})" for row in card["evidence"]]
            verdict = " ".join(filter(None, (AGREES[card["verdict"]], card["only_if"])))
            agrees = ", ".join((verdict, *remarks(card)))
            command = f"`claims study={report['study']}`, {report['kind']}, `{(report['plan_hash'] or '-')[:8]}`"
            rows.append((card["says"], "<br>".join(found), agrees, command))
    return markdown(("published", "here, minus the baseline", "agrees", "command and hash"), rows)


def second_look(report: dict[str, Any] | None) -> str:
    """Every arm of every setting of the study of controls, and the cards' verdicts on it."""
    if report is None:
        return "Its controls have not run."
    verdicts = "\n".join(f"- {heading(card)}; {standing(card)}." for card in report["claims"])
    return f"{contrasts_table(report)}\n\n{verdicts}"


def _delta(row: dict[str, Any]) -> str:
    return "-" if row["delta"] is None else interval(row["delta"], row["ci95"])


def inside(found: dict[str, Any] | None) -> str:
    """What `inspect` found of one run: each change, and the whole in words."""
    if not found:
        return "No run has been inspected."
    rows = [tuple(row) for row in change_rows(found)]
    return f"{markdown(CHANGES, rows)}\n\n{sentence(found)} {text_line(found)}."


def interval(mean: float, ci95: list[float] | None) -> str:
    """`+0.0123 ±0.0045`."""
    return f"{mean:+.4f}" + (f" ±{(ci95[1] - ci95[0]) / 2:.4f}" if ci95 else "")


def ends(interval: list[float] | None) -> str:
    """`-0.001 to +0.002`."""
    return f"{interval[0]:+.4f} to {interval[1]:+.4f}" if interval else "-"


def effort(folder: Path, report: dict[str, Any]) -> str:
    """Cells, core hours, the plan's hash, and what is left."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("run.json"))]
    ended = [run for run in runs if run.get("state") == "ok"]
    hours = sum(run["ended"] - run["started"] for run in ended) / 3600
    commits = sorted({run["provenance"]["git"]["commit"][:8] for run in ended if run["provenance"].get("git")})
    left = next((note for note in report["notes"] if note.startswith("not run yet")), "nothing is left")
    return "\n".join(
        (
            f"- {len(ended)} runs ended well, {len(runs) - len(ended)} did not; {hours:.1f} hours of one core each.",
            f"- The study's plan: `{report['plan_hash']}`, {report['kind']}; code at {', '.join(commits) or 'no commit'}.",
            f"- {left[0].upper()}{left[1:]}.",
        )
    )


def inspected(folder: Path) -> dict[str, Any] | None:
    """What `inspect` left beside the first run that was looked at."""
    files = sorted(folder.rglob("inspect/inspect.json"))
    return json.loads(files[0].read_text(encoding="utf-8")) if files else None


def draw(report: dict[str, Any], found: dict[str, Any] | None) -> None:
    """docs/figures/findings_NAME.png."""
    made = joint_figures(report)
    if found:
        made |= {name: figure for name, figure in inspect_figures(found).items() if name in LOOKED_AT}
    for name, figure in made.items():
        (FIGURES / f"findings_{name}.png").write_bytes(as_png(figure))


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
