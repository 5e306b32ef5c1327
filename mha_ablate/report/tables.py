"""The comparison as a table: for the terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import re
from html import escape
from typing import Any

from mha_ablate.study.collect import Study

COLUMNS = ("arm", "val loss", "delta, 95%", "params", "FLOPs/tok", "step ms", "verdict")
MARKUP = re.compile(r"[\\|`*\[\]!]")


def si(value: float | None) -> str:
    """A count with three digits and a suffix: 808064 -> 808k, 1597440 -> 1.60M."""
    if value is None:
        return "-"
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            scaled = value / limit
            return f"{scaled:#.3g}".rstrip(".") + suffix
    return f"{value:.0f}"


def delta_text(arm: dict[str, Any]) -> str:
    """`+0.0312 ±0.0060`: the mean and half the 95% t interval, which is symmetric."""
    delta = arm["delta"]
    if delta is None:
        return "-"
    if not delta["ci95"]:
        return f"{delta['mean']:+.4f}"
    return f"{delta['mean']:+.4f} ±{(delta['ci95'][1] - delta['ci95'][0]) / 2:.4f}"


def verdict_text(arm: dict[str, Any]) -> str:
    """The verdict as it is shown: below 8 seeds it is a look; what the plan did not hold is exploratory."""
    if arm["verdict"] != "baseline" and arm["delta"] is None:
        return "no data"
    asides = [word for word, on in (("a look", arm["look"]), ("exploratory", arm.get("exploratory"))) if on]
    return f"{arm['verdict']} ({', '.join(asides)})" if asides else arm["verdict"]


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of text per arm, in the order of `COLUMNS`."""
    return [
        (
            arm["arm"],
            "-" if arm["val_loss"]["mean"] is None else f"{arm['val_loss']['mean']:.4f}",
            delta_text(arm),
            si(arm["cost"].get("params")),
            si(arm["cost"].get("flops_per_token")),
            "-" if arm["cost"].get("step_ms") is None else f"{arm['cost']['step_ms']:.1f}",
            verdict_text(arm),
        )
        for arm in report["arms"]
    ]


def bits_text(arm: dict[str, Any], factor: float) -> str:
    """`2.3412 (+0.0291 ±0.0040)`: bits per byte of an arm, and its delta."""
    if arm["val_loss"]["mean"] is None:
        return "-"
    delta = arm["delta"]
    half = f" ±{factor * (delta['ci95'][1] - delta['ci95'][0]) / 2:.4f}" if delta and delta["ci95"] else ""
    change = f" ({factor * delta['mean']:+.4f}{half})" if delta else ""
    return f"{factor * arm['val_loss']['mean']:.4f}{change}"


def bits_line(report: dict[str, Any]) -> str:
    """All arms in bits per byte, for where the table has no room; empty where a token is a character of one byte."""
    factor = report.get("bits_per_byte")
    if not factor:
        return ""
    shown = ", ".join(f"{arm['arm']} {bits_text(arm, factor)}" for arm in report["arms"])
    return f"bits per byte (a nat per token is {factor:.4f} here): {shown}"


def wide(report: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows where there is room: with bits per byte, where tokens are not characters of one byte."""
    factor = report.get("bits_per_byte")
    if not factor:
        return COLUMNS, rows(report)
    pairs = zip(rows(report), report["arms"], strict=True)
    body = [(*row[:3], bits_text(arm, factor), *row[3:]) for row, arm in pairs]
    return (*COLUMNS[:3], "bits/byte", *COLUMNS[3:]), body


def markdown(report: dict[str, Any]) -> str:
    """The table in Markdown."""
    head, body = wide(report)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in body]
    return "\n".join(lines) + "\n"


def _escaped(cell: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no end of the row."""
    return MARKUP.sub(r"\\\g<0>", " ".join(escape(cell, quote=False).split()))


def no_formula(cell: str) -> str:
    """Text that a spreadsheet shows as it is: one that begins like a formula would be carried out."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell


def runs_csv(study: Study) -> str:
    """One tidy row per arm, seed and evaluated step."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("arm", "seed", "state", "step", "tokens", "gflop", "train_s", "val_loss"))
    for run in study.runs:
        for line in run.evaluations:
            known = (line.get(k) for k in ("step", "tokens", "gflop", "train_s", "loss/val"))
            writer.writerow((no_formula(run.arm), run.seed, run.state, *known))
    return out.getvalue()
