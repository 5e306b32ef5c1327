"""report.html of several studies side by side."""

from __future__ import annotations

from html import escape
from typing import Any

from mha_ablate.report.claim_cards import cards_html
from mha_ablate.report.page import document, notes, shown, standing, table

APART = (
    """<p class="quiet">Nats per token over paired seeds, with 95% t intervals. The steps add up to the whole.</p>"""
)


OVER = ("arm", "points", "mean, 95% CI", "sd between settings", "a new setting, 95%", "holds in simulation")


def _over_points(report: dict[str, Any]) -> str:
    """How far the answer generalises, arm by arm."""
    if not report["over_points"]:
        return ""
    return f"""<h2>Over settings</h2><div class="scroll">{table(OVER, over_rows(report))}</div>
<p class="quiet">Nats per token. Mean over the points and its 95% interval (Paule and Mandel; Hartung and Knapp), the standard
deviation between settings beyond chance, and where a setting that was not tried may lie, if it is one of their kind. The last
column is how often such an interval holds in simulations with this many points and seeds and the spread estimated here; it holds
less often where settings differ a little and that spread came out as 0. Below five points there is none, and with one seed a
point there is the mean alone.</p>"""


def over_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of text an arm, in the order of `OVER`."""

    def ends(pair: list[float] | None) -> str:
        return f"{pair[0]:+.3f} to {pair[1]:+.3f}" if pair else "-"

    def within(pair: list[float] | None) -> str:
        return f" ({ends(pair)})" if pair else ""

    return [
        (
            arm,
            str(one["points"]),
            f"{one['mean']:+.4f}{within(one['ci95'])}",
            "-" if one["between_sd"] is None else f"{one['between_sd']:.4f}",
            ends(one["prediction95"]),
            f"{one['coverage']:.0%}" if one["coverage"] is not None else "-",
        )
        for arm, one in report["over_points"].items()
    ]


def _starts(report: dict[str, Any]) -> str:
    """Every start beside how much louder the branch becomes under it."""
    from mha_ablate.report.starts import COLUMNS, rows

    if not report["starts"]:
        return ""
    return f"""<h2>By how W_O starts</h2><div class="scroll words">{table(COLUMNS, rows(report))}</div>
<p class="quiet">Gain of W_O: rms of what it gives over rms of what it takes, as it starts in the first block. Louder without: how
much larger the branch starts once W_O is gone; "from 0" is without end.</p>"""


def _screen(report: dict[str, Any]) -> str:
    """The table of a screen's factors and what stands below it."""
    from mha_ablate.report.screen import columns, lines, rows

    screen = report["screen"]
    if not screen:
        return ""
    told = "".join(f"<li>{escape(line)}</li>" for line in lines(screen))
    effects = table(columns(screen)[:-1], [row[:-1] for row in rows(screen)])
    tested = "; nothing is tested"
    if screen["tests"]:
        tested = (
            "; ± is half the 95% interval, from the seeds within points; * is below 5% after Holm's correction over the factors "
            "of that arm"
        )
    return f"""<h2>What it hinges on</h2><div class="scroll">{effects}</div>
<p class="quiet">How much the difference between an arm and {escape(screen["baseline"])} changes, in nats per token, when one
setting goes from its first level to its second, averaged over the others{tested}.</p><ul>{told}</ul>"""


def joint_page(report: dict[str, Any], figures: list[str], command: str) -> str:
    """The page as HTML. `figures` are SVG texts, `command` what regenerates it. Every text is escaped."""
    from mha_ablate.report.joint import COLUMNS, TUNING_COLUMNS, fall_rows, rows, tuning_rows, why_undecided

    tuned = "".join(
        f'<h2>Learning rates {escape(t["point"])}</h2><div class="scroll">{table(TUNING_COLUMNS, tuning_rows(t))}</div>'
        for t in report["tunings"]
    )
    fall = fall_rows(report)
    apart = f'<h2>Removal taken apart</h2><div class="scroll">{table(fall[0], fall[1:])}</div>{APART}' if fall else ""
    words: dict[str, str] = report["screen"]["design"]["words"] if report["screen"] else {}
    links = "".join(
        f'<li><a href="../{escape(part["folder"])}/report/report.html">{escape(part["folder"])}</a>: '
        f"{escape(words.get(part['point']) or part['sentence'])}</li>"
        for part in report["parts"]
    )
    together = "all planned contrasts of this page at one stage"
    family = together if report["one_study"] else "the contrasts of each study by itself"
    return document(
        report["name"],
        f"""<p class="answer">{escape(report["sentence"])}</p>
{standing(report) if report["one_study"] else ""}
{_screen(report)}
{cards_html(report["claims"])}
{notes(report["notes"])}
<div class="figures">{"".join(shown(svg, wide=True) for svg in figures)}</div>
<h2>All arms</h2>
<div class="scroll words">{table(COLUMNS, rows(report))}</div>
<p class="quiet">Delta: arm minus the baseline of its own point at the same seed, with its 95% t interval; positive means
worse. Verdicts are corrected (Holm) for {family}. Freedom lost: the degrees of freedom of
the OV maps that go with the projection, by algebra. {escape(why_undecided(report))}</p>
{_starts(report)}
{apart}
{_over_points(report)}
{tuned}
<h2>The studies</h2>
<ul>{links}</ul>
<p>Made by <code>{escape(command)}</code> from the run folders beside it.</p>
""",
    )
