"""report.html: one file that opens offline."""

from __future__ import annotations

from html import escape
from typing import Any

from mha_ablate.report.tables import verdict_text, wide

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1d1d1f; background: #fff;
       max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.answer { font-size: 1.15rem; border-left: 4px solid #0072b2; padding: .2rem 0 .2rem 1rem; margin: 1.2rem 0 1.6rem; }
.note { background: #fff6e5; border-left: 4px solid #e69f00; padding: .5rem 1rem; margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { text-align: right; padding: .38rem .7rem; border-bottom: 1px solid #e3e3e6; white-space: nowrap; }
th:first-child, td:first-child, .words th:last-child, .words td:last-child { text-align: left; }
td.reason, th.reason { min-width: 9rem; white-space: normal; text-align: left; }
.figure { overflow-x: auto; } svg { width: 100%; min-width: 40rem; height: auto; } .quiet { color: #666; font-size: .88rem; }
code { background: #f3f3f5; padding: .1rem .3rem; border-radius: 3px; overflow-wrap: anywhere; }
"""


def page(report: dict[str, Any], figures: list[str], command: str) -> str:
    """The page as HTML. `figures` are SVG texts, `command` what regenerates it. Every text is escaped."""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report["notes"])
    drawn = "".join(f'<div class="figure">{_inline(svg)}</div>' for svg in figures)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report["name"])} - mha_ablate</title><style>{CSS}</style></head><body>
<h1>What is fc_out worth? Study {escape(report["name"])}</h1>
<p class="quiet">{escape(_setting(report))}</p>
<p class="answer">{escape(report["sentence"])}</p>
{notes}
{drawn}
<h2>Arms</h2>
<div class="scroll words">{_table(*wide(report))}</div>
<p class="quiet">Loss: {escape(report["metric"])}. Delta: arm minus {escape(report["baseline"])} at the same seed,
with its 95% t interval; positive means worse. Step time: {escape(str(report["arms"][0]["cost"].get("timed")))}.
FLOPs: matrix multiplications of the forward pass. At this size nothing is implied about larger models.</p>
<h2>Why these verdicts</h2>
<div class="scroll">{_table(("arm", "overrides", "verdict", "reason"), _reasons(report), reason=True)}</div>
<h2>Every seed</h2>
<div class="scroll">{_table(("arm", "seed", "state", "val loss", "delta"), _seeds(report))}</div>
<h2>Where this comes from</h2>
<p>Made by <code>{escape(command)}</code> from the run folders beside it{_plan(report)}.</p>
<div class="scroll">{_table(("what", "value"), _provenance(report), reason=True)}</div>
</body></html>
"""


def _setting(report: dict[str, Any]) -> str:
    """Text, length and size in one line, as far as the runs agree."""
    same, text = report["setting"]["same"], report["setting"]["text"]
    parts = [f"text {text['name']}, {text['tokenizer']} tokens" if text else ""]
    if {"trainer.steps", "trainer.batch_size", "model.context"} <= same.keys():
        steps, batch, context = (same[k] for k in ("trainer.steps", "trainer.batch_size", "model.context"))
        parts.append(f"{steps} steps of {batch} x {context} tokens")
    sizes = [f"{k} {same[f'model.{k}']}" for k in ("n_layers", "n_heads", "d_model") if f"model.{k}" in same]
    return "; ".join(part for part in (*parts, ", ".join(sizes)) if part)


def _inline(svg: str) -> str:
    return svg[svg.index("<svg") :]


def _plan(report: dict[str, Any]) -> str:
    return f"; plan <code>{escape(report['plan_hash'])}</code>" if report["plan_hash"] else ""


def _table(head: tuple[str, ...], body: list[tuple[str, ...]], *, reason: bool = False) -> str:
    cell = '<td class="reason">' if reason else "<td>"
    header = "".join(f"{cell.replace('td', 'th')}{escape(h)}</th>" for h in head)
    lines = "".join("<tr>" + "".join(f"{cell}{escape(c)}</td>" for c in row) + "</tr>" for row in body)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>"


def _reasons(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [(a["arm"], " ".join(a["overrides"]), verdict_text(a), a["verdict_reason"] or "") for a in report["arms"]]


def _seeds(report: dict[str, Any]) -> list[tuple[str, ...]]:
    table = []
    for arm in report["arms"]:
        for seed, state in arm["states"].items():
            loss, delta = arm["val_loss"]["values"][seed], (arm["delta"] or {"values": {}})["values"].get(seed)
            shown = ("-" if loss is None else f"{loss:.4f}", "-" if delta is None else f"{delta:+.4f}")
            error = arm["errors"].get(seed)
            table.append((arm["arm"], seed, f"{state}: {error}" if error else state, *shown))
    return table


def _provenance(report: dict[str, Any]) -> list[tuple[str, ...]]:
    flat = {**report["setting"]["same"], **{f"text.{k}": v for k, v in report["setting"]["text"].items()}}
    flat |= {k: v for k, v in report["provenance"].items() if k not in ("versions", "git")}
    flat |= report["provenance"].get("versions", {})
    flat |= {f"git.{k}": v for k, v in (report["provenance"].get("git") or {}).items()}
    return [(str(k), str(v)) for k, v in flat.items() if v is not None]
