"""The comparison as a table: for the terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from mha_ablate.study.collect import Study

COLUMNS = ("arm", "val loss", "delta, 95%", "params", "FLOPs/tok", "step ms", "verdict")
# Headings with a word on each, for those who do not know it.
ESTIMATES = {
    "arm": "",
    "pairs": "seeds",
    "mean": "nats per token",
    "sd": "over seeds",
    "95% t interval": "this one decides",
    "95% BCa": "bootstrap",
    "g": "mean in sd",
    "P(worse)": "share of seeds",
    "r": "correlation",
}
TESTS = {
    "arm": "",
    "verdict": "",
    "p, t test": "is it 0?",
    "p, Holm": "for all arms",
    "p, sign flip": "any symmetric shape",
    "detectable": "nats, power 0.8",
    "p, equivalence": "is it beyond the margin?",
    "least margin": "nats",
}
REACH = ("arm", "seeds that get there", "steps", "GFLOP", "seconds", "steps by seed")
LEDGER = ("arm", "parameters", "attention", "fc_out", "FLOPs/token", "step ms", "tokens/s", "memory MB")
RUNS = ("arm", "seed", "state", "step", "tokens", "gflop", "train_s", "val_loss")
KINDS = {
    "confirmatory": "confirmatory: arms, seeds, margin and the effect to be found were fixed in a plan before the first step",
    "changed": "a plan was made before the first step and changed afterwards: read this as exploratory",
    "exploratory": "exploratory: no plan was made ahead (mha-ablate plan makes one)",
}
MARKUP = re.compile(r"[\\|`*\[\]!]")


def kind_line(report: dict[str, Any]) -> str:
    """Whether the study was planned ahead, and the plan's hash: `mha-ablate plan` prints it when it writes the plan."""
    plan = f"; plan {report['plan_hash']}" if report["kind"] != "exploratory" else ""
    return f"{KINDS[report['kind']]}{plan}"


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


def estimate_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """How large every delta is, in the order of `ESTIMATES`."""
    return [
        (
            arm["arm"],
            str(arm["n"]),
            f"{d['mean']:+.4f}",
            _figure(d["sd"], ".4f"),
            _interval(d["ci95"]),
            _interval(d["bca95"]),
            _figure(d["g"], "+.2f"),
            f"{d['p_worse']:.2f} ({d['p_worse_ci95'][0]:.2f} to {d['p_worse_ci95'][1]:.2f})",
            _figure(d["correlation"], "+.2f"),
        )
        for arm in report["arms"]
        if (d := arm["delta"])
    ]


def certainty_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """How sure every delta is, in the order of `TESTS`."""
    return [
        (
            arm["arm"],
            verdict_text(arm),
            *(_p(d[key]) for key in ("p_t", "p_holm", "p_sign_flip")),
            _figure(d["mde"], ".4f"),
            _p(d["equivalence"]["p"]),
            _figure(d["equivalence"]["least_margin"], ".4f"),
        )
        for arm in report["arms"]
        if (d := arm["delta"])
    ]


def _figure(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _interval(ends: list[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:+.4f} to {ends[1]:+.4f}"


def ledger_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Costs with their shares of the baseline's, in the order of `LEDGER`."""
    base = report["arms"][0]["cost"]

    def cell(cost: dict[str, Any], key: str, how: Any) -> str:
        value = cost.get(key)
        if value is None:
            return "-"
        share = value / base[key] if base.get(key) else None
        if key in ("step_ms", "tokens_per_s") and (ratio := cost.get("step_ratio")):
            share = ratio if key == "step_ms" else 1 / ratio
        return how(value) if share is None or cost is base else f"{how(value)} ({share:.0%})"

    counted = ("params", "params_attention", "params_fc_out", "flops_per_token")
    return [
        (
            arm["arm"],
            *(cell(arm["cost"], key, si) for key in counted),
            cell(arm["cost"], "step_ms", "{:.1f}".format),
            cell(arm["cost"], "tokens_per_s", si),
            cell(arm["cost"], "peak_memory_mb", "{:.1f}".format),
        )
        for arm in report["arms"]
    ]


def reach_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """When arms become as good as the baseline ends, in the order of `REACH`; in brackets, if all do, shares of its."""
    base = report["arms"][0]["to_reach"]
    return [(arm["arm"], *_reach(arm["to_reach"], base)) for arm in report["arms"] if arm["to_reach"]]


def _reach(found: dict[str, Any], base: dict[str, Any] | None) -> tuple[str, ...]:
    def cell(key: str, how: str) -> str:
        if found[key] is None:
            return "-" if found["reached"] else "not reached"
        share = found[key] / base[key] if base and base is not found and base[key] else None
        said = format(found[key], how)
        return said if share is None or found["reached"] < found["of"] else f"{said} ({share:.0%})"

    by_seed = ", ".join("never" if step is None else f"{step:.0f}" for step in found["by_seed"].values())
    of_all = f"{found['reached']} of {found['of']}"
    return of_all, cell("steps", ".0f"), cell("gflop", ".0f"), cell("seconds", ".1f"), by_seed


def latex(report: dict[str, Any]) -> str:
    """The table in LaTeX, for a paper that loads booktabs."""
    return latex_table(*wide(report))


def latex_table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    """Columns and rows in LaTeX: numbers end at the right."""
    columns = "l" + "r" * (len(head) - 2) + "l"
    lines = [r"% \usepackage{booktabs}"]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", f"{' & '.join(map(in_latex, head))} \\\\", r"\midrule"]
    lines += [f"{' & '.join(map(in_latex, row))} \\\\" for row in body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def in_latex(cell: str) -> str:
    """Text that LaTeX sets as it is."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"} | {c: f"\\{c}" for c in "&%$#_{}"}
    text = "".join(special.get(c, c) for c in " ".join(cell.split()))
    return re.sub(r"^-(?=\d)", "$-$", text)  # a minus, where a hyphen would be set


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
    return markdown_table(*wide(report))


def markdown_table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    """Columns and rows in Markdown."""
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
    return _as_csv(RUNS, _run_rows(study))


def parts_csv(studies: dict[str, Study]) -> str:
    """The same of several studies, each row with the name of its own in front."""
    return _as_csv(("part", *RUNS), ((no_formula(part), *row) for part, s in studies.items() for row in _run_rows(s)))


def _run_rows(study: Study) -> Iterator[tuple[Any, ...]]:
    for run in study.runs:
        for line in run.evaluations:
            known = (line.get(k) for k in ("step", "tokens", "gflop", "train_s", "loss/val"))
            yield (no_formula(run.arm), run.seed, run.state, *known)


def _as_csv(head: tuple[str, ...], body: Iterable[tuple[Any, ...]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(body)
    return out.getvalue()


def regenerating(path: Path, baseline: str | None, margin: float | None) -> str:
    """What a shell takes to write this report again."""
    words = ["mha-ablate", "report", str(path)]
    words += ["--baseline", baseline] if baseline else []
    words += ["--margin", f"{margin:g}"] if margin else []
    return shlex.join(words)
