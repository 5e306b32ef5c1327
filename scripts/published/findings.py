"""Tables and figures of docs/findings.md: the claims study, published directions, one trained model, from run folders alone."""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.errors import RequestError
from mha_ablate.report.claim_cards import heading, remarks, standing
from mha_ablate.report.claims import ONLY_IF, REFUTED, SUPPORTED, UNDECIDED
from mha_ablate.report.family import STAGES
from mha_ablate.report.inspect_plots import figures as inspect_figures
from mha_ablate.report.inspect_tables import CHANGES, change_rows, sentence, text_line
from mha_ablate.report.joint import fall_rows, joint_report
from mha_ablate.report.joint_plots import joint_figures
from mha_ablate.report.plots import as_png
from mha_ablate.report.write import write_report
from scripts.page import text_between, write_into
from scripts.published import settings
from scripts.published.archive import pack, unpack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/findings.md"
README = ROOT / "README.md"
FIGURES = ROOT / "docs/figures"
RUNS = ROOT / "docs/runs"  # archives of run folders
CLAIMS = "claims"  # the study of the article's claims
BASE = "base/tuned"  # its setting of the page's opening figure
SECOND_LOOK = "claims_controls"  # other seeds, with controls
PUBLISHED = ("gates", "hadamard", "skipless", "head_width")  # studies of what others found
ALL = (CLAIMS, SECOND_LOOK, *PUBLISHED, *settings.STUDIES)
AGREES = {SUPPORTED: "yes", REFUTED: "no", UNDECIDED: "open", ONLY_IF: "in part: only if"}
FREE = 0.01  # nats: what a silenced head may cost and still count as needless
LOOKED_AT = ("ranks", "heads")
ANSWER = "answer.png"  # of README.md
DRAWN = {  # figures of a study's report, and their names here
    settings.STARTS: {"starts": ANSWER},
    settings.SCREEN: {"screen": "screen"},
    settings.LOUDNESS: {"losses": "loudness"},
}


def main(argv: list[str]) -> int:
    """Print the tables of the studies that are there. Returns 1 where `--check` finds others in the page, 2 for bad folders."""
    parser = argparse.ArgumentParser(prog="scripts/findings", description=__doc__)
    parser.add_argument(
        "outputs", type=Path, nargs="?", help="the folder that holds the studies; without it, the archives of docs/runs"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="into docs/findings.md and docs/figures")
    what.add_argument("--check", action="store_true", help="say which tables of docs/findings.md are others")
    what.add_argument("--keep", action="store_true", help="the run folders, without weights, into docs/runs")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            outputs = asked.outputs or _unpacked(Path(scratch))
            if asked.keep:
                return keep(outputs)
            found = Found(outputs)
            made = found.tables()
        except (RequestError, OSError, EOFError, tarfile.TarError) as error:
            print(f"findings: {error}", file=sys.stderr)
            return 2
        if asked.check:
            return check(made)
        for name, text in made.items():
            print(f"{name}\n\n{text}\n")
            if asked.write:
                write_into(page_of(name), name, text)
        if asked.write:
            found.draw()
    return 0


def _unpacked(folder: Path) -> Path:
    """The archives of docs/runs as folders."""
    for archive in sorted(RUNS.glob("*.tar.xz")):
        unpack(archive, folder)
    return folder


def keep(outputs: Path) -> int:
    """Pack the studies that the page tells of; returns the exit code."""
    there = [outputs / name for name in ALL if (outputs / name).is_dir()]
    if not there:
        raise FileNotFoundError(f"{outputs} holds none of {', '.join(ALL)}")
    for study in there:
        packed = pack(study, RUNS)
        print(f"{packed} ({packed.stat().st_size / 1e3:.0f} kB)")
    return 0


def check(made: dict[str, str]) -> int:
    """Name the tables of the page that are not those made now; returns the exit code."""
    other = [name for name, text in made.items() if text_between(page_of(name), name) != text]
    for name in other:
        print(
            f"findings: the table {name} of {page_of(name)} is not what the runs say: run scripts/findings --write",
            file=sys.stderr,
        )
    return 1 if other else 0


def page_of(name: str) -> Path:
    """The page that a table stands in."""
    return README if name == settings.MAP else PAGE


class Found:
    """The studies that lie in a folder, each with what the page tells of it; what does not lie there is left as it stands.

    Raises RequestError where there is none of them.
    """

    def __init__(self, outputs: Path) -> None:
        names = (CLAIMS, SECOND_LOOK, *PUBLISHED)
        self.outputs = outputs
        self.reports = {name: joint_report(outputs / name) for name in names if (outputs / name).is_dir()}
        self.settings = settings.reports_of(outputs)
        if not self.reports and not self.settings:
            raise RequestError(f"{outputs} holds none of {', '.join(ALL)}: run `mha-ablate claims` first")
        self.inspected = inspected(outputs / CLAIMS)
        self.looked_at = next(iter(self.inspected.values()), None)

    def tables(self) -> dict[str, str]:
        """By the marks of the page that they stand between."""
        made = settings.tables_of(self.settings, markdown)
        if settings.STARTS in self.settings:
            made[settings.MAP] = settings.map_rows(self.settings, markdown)
        if report := self.reports.get(CLAIMS):
            made |= {"claims": claims_table(report), "contrasts": contrasts_tables(report)}
            made |= {"effort": effort(self.outputs / CLAIMS, report), "steps": steps(report), "beyond": beyond(report)}
        if self.looked_at:
            made["inside"] = inside(self.looked_at)
            made["masked"] = masked(self.inspected)
        if report := self.reports.get(SECOND_LOOK):
            made["controls"] = second_look(report)
        return made | {name: published_table(self.reports[name]) for name in PUBLISHED if name in self.reports}

    def draw(self) -> None:
        """docs/figures/findings_NAME.png, and the opening figure."""
        made: dict[str, Figure] = {}
        if report := self.reports.get(CLAIMS):
            made |= joint_figures(report)
            write_report(self.outputs / CLAIMS / BASE)
            base = self.outputs / CLAIMS / BASE / "report/answer.png"
            (FIGURES / "findings_base.png").write_bytes(base.read_bytes())
        for name, wanted in DRAWN.items():
            if report := self.settings.get(name):
                made |= {new: joint_figures(report)[old] for old, new in wanted.items()}
        if self.looked_at:
            made |= {name: figure for name, figure in inspect_figures(self.looked_at).items() if name in LOOKED_AT}
        for name, figure in made.items():
            (FIGURES / (name if name == ANSWER else f"findings_{name}.png")).write_bytes(as_png(figure))


def claims_table(report: dict[str, Any]) -> str:
    """A row a card: the verdict as the tool printed it."""
    rows = [(heading(card), standing(card), card["change"]) for card in report["claims"]]
    return markdown(("claim: verdict", "evidence", "what would change it"), rows)


def contrasts_tables(report: dict[str, Any]) -> str:
    """A table a stage of tuning."""
    stages = dict.fromkeys(part["stage"] for part in report["parts"])
    return "\n\n".join(
        contrasts_table([part for part in report["parts"] if part["stage"] == stage], STAGES[stage] or "one rate")
        for stage in stages
    )


def contrasts_table(parts: list[dict[str, Any]], rates: str) -> str:
    """A row a setting that has run, a column an arm: delta, its 95% interval, the verdict; and the hash of the runs' plan."""
    arms = list(dict.fromkeys(arm["arm"] for part in parts for arm in part["arms"][1:]))
    rows = []
    for part in parts:
        found = {arm["arm"]: arm for arm in part["arms"][1:] if arm["delta"]}
        seeds = sorted({len(arm["delta"]["values"]) for arm in found.values()})
        rows.append(
            (
                part["point"],
                *(contrast(found[arm]) if arm in found else "-" for arm in arms),
                ", ".join(map(str, seeds)),
                f"`{(part['plan_hash'] or '-')[:8]}`",
            )
        )
    return markdown((rates, *(f"`{arm}`" for arm in arms), "seeds", "plan"), rows)


def steps(report: dict[str, Any]) -> str:
    """The cost of removal taken apart, a row a setting and stage."""
    head, *rows = fall_rows(report)
    return markdown(("setting", *head[1:]), rows)


def beyond(report: dict[str, Any]) -> str:
    """Rows of evidence from which what the arm costs at a control was taken off."""
    found = [row for card in report["claims"] for row in card["evidence"] if ", beyond " in row["what"]]
    return markdown(
        ("what", "where", "delta, 95%", "found"),
        [(row["what"], row["where"], _delta(row), row["found"]) for row in found],
    )


def contrast(arm: dict[str, Any]) -> str:
    """`+0.1843 ±0.0455 costs`."""
    return f"{interval(arm['delta']['mean'], arm['delta']['ci95'])} {arm['verdict']}"


def published_table(report: dict[str, Any]) -> str:
    """The study's command and hash, and a row a published direction: what was found here, and whether it agrees."""
    rows = []
    for card in report["claims"]:
        found = [f"`{row['arm']}`, {row['where']}: {_delta(row)} ({row['found']})" for row in card["evidence"]]
        verdict = " ".join(filter(None, (AGREES[card["verdict"]], card["only_if"])))
        rows.append((card["says"], "<br>".join(found), ", ".join((verdict, *remarks(card)))))
    table = markdown(("published", "here, minus the baseline", "agrees"), rows)
    hashed = f"{report['kind']}, plan `{(report['plan_hash'] or '-')[:8]}`"
    return f"`mha-ablate claims study={report['study']}`, {hashed}:\n\n{table}"


def second_look(report: dict[str, Any]) -> str:
    """Every arm of every setting of the study of controls, and the cards' verdicts on it."""
    verdicts = "\n".join(f"- {heading(card)}; {standing(card)}." for card in report["claims"])
    return f"{contrasts_tables(report)}\n\n{verdicts}"


def _delta(row: dict[str, Any]) -> str:
    return "-" if row["delta"] is None else interval(row["delta"], row["ci95"])


def inside(found: dict[str, Any]) -> str:
    """What `inspect` found of one run: each change, and the whole in words."""
    rows = [tuple(row) for row in change_rows(found)]
    return f"{markdown(CHANGES, rows)}\n\n{sentence(found)} {text_line(found)}."


def interval(mean: float, ci95: list[float] | None) -> str:
    """`+0.0123 ±0.0045`."""
    return f"{mean:+.4f}" + (f" ±{(ci95[1] - ci95[0]) / 2:.4f}" if ci95 else "")


def effort(folder: Path, report: dict[str, Any]) -> str:
    """Cells, core hours, the plan's hash, and what is left."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("run.json"))]
    ended = [run for run in runs if run.get("state") == "ok" and "copied_from" not in run]
    others = sum(run.get("state") != "ok" for run in runs)
    hours = sum(run["ended"] - run["started"] for run in ended) / 3600
    commits = sorted({run["provenance"]["git"]["commit"][:8] for run in ended if run["provenance"].get("git")})
    left = next((note for note in report["notes"] if note.startswith("not run yet")), "nothing is left")
    return "\n".join(
        (
            f"- {len(ended)} runs ended well, {others} did not; {hours:.1f} hours of one core each.",
            f"- The study's plan: `{report['plan_hash']}`, {report['kind']}; code at {', '.join(commits) or 'no commit'}.",
            f"- {left[0].upper()}{left[1:]}.",
        )
    )


def inspected(folder: Path) -> dict[str, dict[str, Any]]:
    """What `inspect` left beside runs, by their places in the study."""
    files = sorted(folder.rglob("inspect/inspect.json"))
    return {
        file.parent.parent.relative_to(folder).as_posix(): json.loads(file.read_text(encoding="utf-8"))
        for file in files
    }


def masked(found: dict[str, dict[str, Any]]) -> str:
    """A row a run: how many of its heads can be silenced one at a time for `FREE` nats or less, in three ways."""
    ways = ("mean", "zero", "resample")
    counts = {run: [free_heads(told, way) for way in ways] for run, told in found.items()}
    rows = [(f"`{run}`", *(f"{n} of {len(found[run]['heads'])}" for n in of_run)) for run, of_run in counts.items()]
    sums = [f"{sum(of_run[i] for of_run in counts.values())}" for i in range(len(ways))]
    heads = sum(len(told["heads"]) for told in found.values())
    head = ("run", "set to its mean", "set to zero", "from another window")
    return markdown(head, [*rows, ("in all", *(f"{n} of {heads}" for n in sums))])


def free_heads(told: dict[str, Any], way: str) -> int:
    """Heads whose silencing costs `FREE` nats or less."""
    return sum(head[way] is not None and head[way] <= FREE for head in told["heads"])


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
