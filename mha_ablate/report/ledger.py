"""The ledger of costs as tables: for a terminal, as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import textwrap
from dataclasses import dataclass
from typing import Any

from mha_ablate.report.tables import in_latex, no_formula, si


@dataclass(frozen=True)
class Column:
    """A key of a cost, its heading, how a number is written, and whether the change against the baseline stands beside it."""

    key: str
    heading: str
    unit: str = "count"
    versus: bool = False


TABLES = {
    "Parameters": (
        Column("params", "all", versus=True),
        Column("params_embedding", "embedding"),
        Column("params_attention", "attention"),
        Column("params_fc_out", "fc_out"),
        Column("params_mlp", "MLP"),
        Column("params_norm", "norms"),
        Column("params_frozen", "never trained"),
    ),
    "FLOPs per token": (
        Column("flops_per_token", "forward", versus=True),
        Column("train_flops_per_token", "training", versus=True),
        Column("elementwise_flops_per_token", "elementwise in fc_out"),
    ),
    "Memory of a step, and of generation": (
        Column("peak_memory_mb", "peak MB", "decimal", versus=True),
        Column("weights_memory_mb", "weights", "decimal"),
        Column("optimizer_memory_mb", "optimizer", "decimal"),
        Column("activations_memory_mb", "activations", "decimal"),
        Column("kv_cache_bytes_per_token", "KV bytes/token", versus=True),
    ),
    "Time": (
        Column("step_ms", "step ms", "decimal", versus=True),
        Column("tokens_per_s", "tokens/s"),
        Column("prefill_ms", "prefill ms", "decimal", versus=True),
        Column("decode_ms", "decode ms", "decimal", versus=True),
    ),
}


def tables(made: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Rows of words by title, the first of them the heading; a column that holds nothing for any arm is left out."""
    found = {}
    for title, all_columns in TABLES.items():
        columns = [c for c in all_columns if any(arm["cost"].get(c.key) for arm in made["arms"])]
        if not columns:
            continue
        rows = [["arm", *(column.heading for column in columns)]]
        rows += [[arm["arm"], *(_cell(arm, c) for c in columns)] for arm in made["arms"]]
        found[title] = rows
    return found


def _cell(arm: dict[str, Any], column: Column) -> str:
    value = arm["cost"].get(column.key)
    if value is None:
        return "-"
    said = si(value) if column.unit == "count" else f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:,.0f}"
    ratio = arm["versus"].get(column.key)
    if not column.versus or ratio in (None, 1.0):
        return said
    low, high = arm["versus"].get(f"{column.key}_range", (ratio, ratio))
    return f"{said} ~" if low <= 1 <= high else f"{said} {ratio - 1:+.1%}"


def as_text(made: dict[str, Any], width: int) -> str:
    """For a terminal: numbers end at the right; a table wider than `width` is cut into two, each with its arms."""
    lines: list[str] = []
    for title, rows in tables(made).items():
        for part in _fitting(rows, width):
            widths = [max(len(row[i]) for row in part) for i in range(len(part[0]))]
            lines += [title, *(_line(row, widths) for row in part), ""]
    notes = [f"changes are against {made['baseline']}; attention has fc_out in it; memory is in units of 10^6 bytes"]
    if "Time" in tables(made):
        notes.append("times are medians of rounds, their changes medians of each round's ratio; ~: rounds disagree")
    lines += [line for note in notes for line in textwrap.wrap(note, max(20, width))]
    return "\n".join(lines) + "\n"


def _line(row: list[str], widths: list[int]) -> str:
    first, *others = (
        cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(["  " + first, *others]).rstrip()


def _fitting(rows: list[list[str]], width: int) -> list[list[list[str]]]:
    widths = [max(len(row[i]) for row in rows) + 2 for i in range(len(rows[0]))]
    if sum(widths) <= width or len(widths) <= 2:
        return [rows]
    cut = next(i for i in range(len(widths), 1, -1) if i == 2 or sum(widths[:i]) <= width)
    return [[row[:cut] for row in rows], *_fitting([[row[0], *row[cut:]] for row in rows], width)]


def as_csv(made: dict[str, Any]) -> str:
    """One row an arm, numbers in full, `KEY` and `KEY vs BASELINE`."""
    keys = [c.key for columns in TABLES.values() for c in columns if any(c.key in arm["cost"] for arm in made["arms"])]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("arm", *keys, *(f"{key} vs {made['baseline']}" for key in keys)))
    for arm in made["arms"]:
        numbers = [*(arm["cost"].get(key) for key in keys), *(arm["versus"].get(key) for key in keys)]
        writer.writerow((no_formula(arm["arm"]), *numbers))
    return out.getvalue()


def as_markdown(made: dict[str, Any]) -> str:
    """A table for each title."""
    parts = []
    for title, (head, *rows) in tables(made).items():
        lines = [f"**{title}**", "", _row(head), _row(["---", *["---:"] * (len(head) - 1)]), *map(_row, rows)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def as_latex(made: dict[str, Any]) -> str:
    """A `tabular` for each title, in the rules of booktabs."""
    parts = []
    for title, (head, *rows) in tables(made).items():
        body = [" & ".join(map(in_latex, row)) + r" \\" for row in rows]
        parts.append(
            "\n".join(
                [
                    f"% {title}; changes against {made['baseline']}",
                    rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
                    r"\toprule",
                    " & ".join(map(in_latex, head)) + r" \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"
