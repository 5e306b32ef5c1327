"""report.html of several studies side by side."""

from __future__ import annotations

from html import escape
from typing import Any

from mha_ablate.report.claim_cards import cards_html
from mha_ablate.report.page import document, notes, shown, standing, table

APART = (
    """<p class="quiet">Nats per token over paired seeds, with 95% t intervals. The steps add up to the whole.</p>"""
)


def joint_page(report: dict[str, Any], figures: list[str], command: str) -> str:
    """The page as HTML. `figures` are SVG texts, `command` what regenerates it. Every text is escaped."""
    from mha_ablate.report.joint import COLUMNS, TUNING_COLUMNS, fall_rows, rows, tuning_rows, why_undecided

    tuned = "".join(
        f'<h2>Learning rates {escape(t["point"])}</h2><div class="scroll">{table(TUNING_COLUMNS, tuning_rows(t))}</div>'
        for t in report["tunings"]
    )
    fall = fall_rows(report)
    apart = f'<h2>Removal taken apart</h2><div class="scroll">{table(fall[0], fall[1:])}</div>{APART}' if fall else ""
    links = "".join(
        f'<li><a href="../{escape(part["folder"])}/report/report.html">{escape(part["folder"])}</a>: '
        f"{escape(part['sentence'])}</li>"
        for part in report["parts"]
    )
    together = "all planned contrasts of this page at one stage"
    family = together if report["one_study"] else "the contrasts of each study by itself"
    return document(
        report["name"],
        f"""<p class="answer">{escape(report["sentence"])}</p>
{standing(report) if report["one_study"] else ""}
{cards_html(report["claims"])}
{notes(report["notes"])}
<div class="figures">{"".join(shown(svg, wide=True) for svg in figures)}</div>
<h2>All arms</h2>
<div class="scroll words">{table(COLUMNS, rows(report))}</div>
<p class="quiet">Delta: arm minus the baseline of its own point at the same seed, with its 95% t interval; positive means
worse. Verdicts are corrected (Holm) for {family}. Freedom lost: the degrees of freedom of
the OV maps that go with the projection, by algebra. {escape(why_undecided(report))}</p>
{apart}
{tuned}
<h2>The studies</h2>
<ul>{links}</ul>
<p>Made by <code>{escape(command)}</code> from the run folders beside it.</p>
""",
    )
