"""report.html: one file that opens offline."""

from __future__ import annotations

from html import escape
from typing import Any

from mha_ablate.report.how import HOW_TO_READ
from mha_ablate.report.plots import (
    CURVES_HEIGHT,
    LEGIBLE,
    as_svg,
    change_panel,
    drawn,
    forest_height,
    forest_panel,
    loss_panel,
    waterfall_panel,
)
from mha_ablate.report.sentence import counted
from mha_ablate.report.style import CSS, inline
from mha_ablate.report.tables import (
    ESTIMATES,
    LEDGER,
    REACH,
    TESTS,
    certainty_rows,
    estimate_rows,
    kind_line,
    ledger_rows,
    reach_rows,
    verdict_text,
    wide,
)
from mha_ablate.report.trade import frontier, priced, priced_keys, unequal
from mha_ablate.report.trade_plots import trade_panel
from mha_ablate.study.collect import Study

MANY_ROWS = 60  # of a table that is folded up: one that few will read to its end


def page(report: dict[str, Any], study: Study, command: str) -> str:
    """The page as HTML; `command` is what regenerates it. Every text is escaped."""
    return document(
        report["name"],
        f"""<p class="quiet">{escape(_setting(report))}</p>
<p class="answer">{escape(report["sentence"])}</p>
{standing(report)}
{notes(report["notes"])}
{_figures(report, study)}
<h2>Arms</h2>
<div class="scroll words">{table(*wide(report))}</div>
<p class="quiet">Loss: {escape(report["metric"])}. Delta: arm minus {escape(report["baseline"])} at the same seed,
with its 95% t interval; positive means worse.</p>
<div class="scroll">{table(("arm", "overrides", "verdict", "reason"), _reasons(report), reason=True)}</div>
{_trade(report)}
<h2>Runs that did not end well</h2>
{_mishaps(report)}
{_statistics(report)}
{_copies(report)}
<h2>Every seed</h2>
{folded(("arm", "seed", "state", "val loss", "delta"), _seeds(report), "runs")}
<h2>Where this comes from</h2>
<p>Made by <code>{escape(command)}</code> from the run folders beside it.</p>
{folded(("what", "value"), _provenance(report), "settings and versions", reason=True)}
{HOW_TO_READ}
""",
    )


def document(name: str, body: str, heading: str = "What is fc_out worth? Study") -> str:
    """A whole page around its body; the name follows the heading."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)} - mha_ablate</title><style>{CSS}</style></head><body>
<h1>{escape(heading)} {escape(name)}</h1>
{body}</body></html>
"""


def notes(told: list[str]) -> str:
    """What to know before believing the numbers."""
    return "".join(f'<p class="note">{escape(note)}</p>' for note in told)


def shown(svg: str, caption: str = "", *, label: str = "Figure", wide: bool = False) -> str:
    """A figure with what to know of it; `label` is for those who cannot see it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure{' class=wide' if wide else ''}>{inline(svg, label)}{below}</figure>"


def _figures(report: dict[str, Any], study: Study) -> str:
    """The forest and what removal is made of; beside them the losses, with the differences below."""
    base, others = report["baseline"], len(report["arms"]) - 1
    if not others:
        return shown(as_svg(drawn([loss_panel(report, study)], 3.6)), "Band: from the lowest to the highest seed.")
    forest = shown(
        as_svg(drawn([forest_panel(report)], forest_height(report))),
        label=f"Every arm's delta to {base}, with every seed",
    )
    few = f" Of {others} arms, those with a colour in the other figure." if others > LEGIBLE else ""
    curves = shown(
        as_svg(drawn([loss_panel(report, study), change_panel(report, study)], CURVES_HEIGHT, share=True)),
        f"Above, band: from the lowest to the highest seed. Below: arm minus {base} at the same seed, band: 95% t interval.{few}",
        label=f"Loss during training, and the difference to {base}",
    )
    left, right = [forest], [curves]
    if report["waterfall"]:  # under a short forest, but beside a tall one
        (right if others > LEGIBLE else left).insert(0 if others > LEGIBLE else 1, _waterfall(report))
    stacks = "".join(f'<div class="stack">{"".join(stack)}</div>' for stack in (left, right))
    return f'<div class="figures">{stacks}</div>'


def _waterfall(report: dict[str, Any]) -> str:
    fall = report["waterfall"]
    steps = "; ".join(f"{s['name']} is {s['from']} minus {s['to']}" for s in fall["steps"])
    return shown(
        as_svg(drawn([waterfall_panel(report)], 3.6)),
        f"Paired steps over {counted(len(fall['seeds']), 'seed')}: {steps}. Together they are the whole. "
        "Bars: means; lines: 95% t intervals; dashes: seeds.",
        label="The cost of removal taken apart",
    )


def _trade(report: dict[str, Any]) -> str:
    """What loss costs: figures, who is on the frontier, the ledger, what it takes to be as good as the baseline."""
    drawings = "".join(_one_trade(report, key) for key in priced_keys(report))
    left_out = unequal(report)
    named = escape(", ".join(left_out))
    without = f" Left out, because they ended well at other seeds than the baseline: {named}." if left_out else ""
    about = (
        f"""<p class="quiet">Lines: paired 95% intervals. An arm is on the frontier, the dashed line, unless another is no worse in
mean loss and no dearer; whether two of them differ in loss is for the intervals to say.{without}</p>"""
        if drawings
        else f'<p class="quiet">No two arms can be drawn against a cost.{without}</p>'
    )
    return f"""<h2>What it costs</h2>
<div class="figures three">{drawings}</div>{about}
<div class="scroll">{table(LEDGER, ledger_rows(report))}</div>
<p class="quiet">In brackets: as a share of {escape(report["baseline"])}'s. FLOPs: matrix multiplications of the forward pass.
Step time: {escape(str(report["arms"][0]["cost"].get("timed")))}. At this size nothing is implied about larger models.</p>
{_until(report)}"""


def _one_trade(report: dict[str, Any], key: str) -> str:
    all_of_them = priced(report, key)
    best = sorted(frontier(report, key), key=lambda arm: all_of_them[arm][1])
    return shown(
        as_svg(drawn([trade_panel(report, key)], 3.5, width=4.2)),
        f"On the frontier, {len(best)} of {len(all_of_them)}, the cheapest first: {', '.join(best)}.",
        label=f"Loss against {key}",
    )


def _until(report: dict[str, Any]) -> str:
    """What it takes to be as good as the baseline."""
    rows = reach_rows(report)
    if not rows:
        return ""
    return f"""<h2>Until it is as good as {escape(report["baseline"])} ends</h2>
<div class="scroll lists">{table(REACH, rows)}</div>
<p class="quiet">Means over the seeds that get there, so a row that says "1 of 5" tells of the luckiest; in brackets, where all do,
as a share of {escape(report["baseline"])}'s. Between evaluations the loss is taken to fall in a line, and evaluations on the
way look at a sample of the validation split. GFLOP: counted, training. Seconds: steps times step time.</p>"""


def _mishaps(report: dict[str, Any]) -> str:
    """Diverged, failed, unfinished and missing runs: none is averaged away."""
    rows = []
    for arm in report["arms"]:
        for seed, state in arm["states"].items():
            if state != "ok":
                word = "unfinished" if state == "running" else state
                rows.append((arm["arm"], seed, word, arm["errors"].get(seed, "")))
        rows += [(arm["arm"], str(seed), "missing", "no run in this folder") for seed in arm["missing"]]
    if not rows:
        return f"<p>None: all {sum(len(arm['states']) for arm in report['arms'])} ended well.</p>"
    told = folded(("arm", "seed", "state", "why"), rows, "runs", reason=True)
    return f"{told}<p class='quiet'>An arm with such a seed stays undecided: what is left of it is no fair sample.</p>"


def _statistics(report: dict[str, Any]) -> str:
    if not any(arm["delta"] for arm in report["arms"]):
        return "<h2>Every statistic</h2><p>No arm has a seed in common with the baseline.</p>"
    return f"""<h2>Every statistic</h2>
<p class="quiet">How large: arm minus {escape(report["baseline"])}, in nats per token, paired by seed.</p>
<div class="scroll">{table(tuple(ESTIMATES), estimate_rows(report), words=ESTIMATES)}</div>
<p class="quiet">How sure: tests at the margin of ±{report["margin"]:g} nats.</p>
<div class="scroll">{table(tuple(TESTS), certainty_rows(report), words=TESTS)}</div>"""


def _copies(report: dict[str, Any]) -> str:
    """The noise floor: pairs that differ by chance alone, or what another study has measured."""
    floor = report["noise_floor"]
    words = (
        f"<p>Noise floor of this setting, by the study {escape(floor['study'])}: arms that do not differ come out "
        f"{floor['half_width']:.4f} nats apart or less, 19 times of 20, over so many seeds.</p>"
        if floor
        else ""
    )
    if not report["copies"]:
        return words
    rows = [
        (
            c["name"],
            f"{c['from']} - {c['to']}",
            f"{c['delta']['mean']:+.4f}",
            _number(c["delta"]["sd"]),
            _ends(c["delta"]),
        )
        for c in report["copies"]
    ]
    head = ("pair", "arms", "mean", "sd", "95% interval")
    return f'<h2>Pairs that differ by chance alone</h2><div class="scroll">{table(head, rows)}</div>{words}'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _ends(delta: dict[str, Any]) -> str:
    return f"{delta['ci95'][0]:+.4f} to {delta['ci95'][1]:+.4f}" if delta["ci95"] else "-"


def _setting(report: dict[str, Any]) -> str:
    """Text, length and size in one line, as far as the runs agree."""
    same, text = report["setting"]["same"], report["setting"]["text"]
    parts = [f"text {text['name']}, {text['tokenizer']} tokens" if text else ""]
    if {"trainer.steps", "trainer.batch_size", "model.context"} <= same.keys():
        steps, batch, context = (same[k] for k in ("trainer.steps", "trainer.batch_size", "model.context"))
        parts.append(f"{counted(steps, 'step')} of {batch} x {context} tokens")
    sizes = [f"{k} {same[f'model.{k}']}" for k in ("n_layers", "n_heads", "d_model") if f"model.{k}" in same]
    start = f"init={same['init']}" if "init" in same else ""
    return "; ".join(part for part in (*parts, ", ".join(sizes), start) if part)


def standing(report: dict[str, Any]) -> str:
    """Whether the study was planned ahead, and the plan's hash."""
    told = kind_line(report)
    return f'<p class="quiet">{escape(told[0].upper() + told[1:])}.</p>'


def table(
    head: tuple[str, ...],
    body: list[tuple[str, ...]],
    *,
    reason: bool = False,
    words: dict[str, str] | None = None,
) -> str:
    """Columns and rows as HTML; with `reason`, cells of words that wrap. `words` says below a heading what it means."""
    cell = '<td class="reason">' if reason else "<td>"

    def heading(text: str) -> str:
        below = f"<small>{escape(words[text])}</small>" if words and words.get(text) else ""
        return f"{cell.replace('td', 'th')}{escape(text)}{below}</th>"

    header = "".join(heading(h) for h in head)
    lines = "".join("<tr>" + "".join(f"{cell}{escape(c)}</td>" for c in row) + "</tr>" for row in body)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>"


def folded(head: tuple[str, ...], body: list[tuple[str, ...]], what: str, *, reason: bool = False) -> str:
    """A table that can be folded up, and is if it is long."""
    state = "" if len(body) > MANY_ROWS else " open"
    return (
        f"<details{state}><summary>{len(body)} {escape(what)}</summary>"
        f'<div class="scroll">{table(head, body, reason=reason)}</div></details>'
    )


def _reasons(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [(a["arm"], " ".join(a["overrides"]), verdict_text(a), a["verdict_reason"] or "") for a in report["arms"]]


def _seeds(report: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for arm in report["arms"]:
        for seed, state in arm["states"].items():
            loss, delta = arm["val_loss"]["values"][seed], (arm["delta"] or {"values": {}})["values"].get(seed)
            numbers = ("-" if loss is None else f"{loss:.4f}", "-" if delta is None else f"{delta:+.4f}")
            error = arm["errors"].get(seed)
            rows.append((arm["arm"], seed, f"{state}: {error}" if error else state, *numbers))
    return rows


def _provenance(report: dict[str, Any]) -> list[tuple[str, ...]]:
    flat = {**report["setting"]["same"], **{f"text.{k}": v for k, v in report["setting"]["text"].items()}}
    flat |= {k: v for k, v in report["provenance"].items() if k not in ("versions", "git")}
    flat |= report["provenance"].get("versions", {})
    flat |= {f"git.{k}": v for k, v in (report["provenance"].get("git") or {}).items()}
    flat["plan.hash"] = report["plan_hash"]
    return [(str(k), str(v)) for k, v in flat.items() if v is not None]
