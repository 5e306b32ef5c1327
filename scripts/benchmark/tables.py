"""The result of scripts/bench as tables, for a terminal and for docs/performance.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and rows of words."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def is_words(self, column: int) -> bool:
        """Whether a column holds words, which start at the left; numbers end at the right."""
        return column == 0 or self.head[column] in ("", "arm")


def tables(result: dict[str, Any]) -> list[Table]:
    """All that was measured; what was not has no table. The first one says where."""
    settings = result.get("settings") or {result["setting"]: result}
    made = [
        Table("Where", ("", ""), where(result)),
        Table(
            "Training, all workers", ("setting", "steps/s", "range", "tokens/s", "GFLOP/s", "of peak"), speeds(settings)
        ),
        Table("Compared with", ("setting", "its steps/s", "range", "ratio", "range"), ratios(settings)),
        Table("Matrix products, all workers", ("precision", "GFLOP/s", "range"), peaks(result)),
        Table("Workers", ("setting", "workers", "steps/s", "range", "of one"), scaling(settings)),
        Table("A step of each arm, one worker", ("setting", "arm", "ms", "range"), arms(result, settings)),
        Table("Seconds", ("until", "s", "range"), seconds(result)),
        Table("Of a run's time, not training", ("what", "share", "range"), telling(result)),
    ]
    return [table for table in made if table.rows]


def where(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Machine, software, text, rounds."""
    git = result["git"] or {}
    commit = f" ({git['commit'][:7]}{', changed' if git.get('dirty') else ''})" if git.get("commit") else ""
    rows = [
        ("processor", f"{result['cpu']}, {result['cores']} core(s)"),
        ("workers", str(result["workers"])),
        ("precision", result["precision"]),
        ("torch, python", f"{result['torch']}, {result['python']}"),
        ("allocator", result["allocator"] or ""),
        ("compiled", "" if result.get("compiled") is None else "yes" if result["compiled"] else "no"),
        ("mha_ablate", f"{result['mha_ablate']}{commit}"),
        ("text", result["text"]),
        ("rounds", str(result["rounds"])),
        ("overrides", " ".join(f"{k}={v}" for k, v in result["overrides"].items())),
    ]
    return [row for row in rows if row[1]]


def speeds(settings: dict[str, Any]) -> list[tuple[str, ...]]:
    """Throughput by setting."""
    return [
        (
            name,
            *shown(s, "steps_per_s"),
            f"{s['tokens_per_s']:,.0f}",
            digits(s["gflops"]),
            f"{s['share_of_peak']:.1%}",
        )
        for name, s in settings.items()
        if "steps_per_s" in s
    ]


def ratios(settings: dict[str, Any]) -> list[tuple[str, ...]]:
    """The other command by setting."""
    versus = {name: s["versus"] for name, s in settings.items() if s.get("versus")}
    return [(name, *shown(v, "steps_per_s"), *shown(v, "ratio")) for name, v in versus.items()]


def peaks(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """What the cores can multiply."""
    found, ranges = result.get("gemm_peak_gflops", {}), result.get("gemm_peak_gflops_range", {})
    return [(precision, digits(found[precision]), between(ranges[precision])) for precision in found]


def scaling(settings: dict[str, Any]) -> list[tuple[str, ...]]:
    """Steps per second by workers."""
    return [
        (name, workers, *shown(found, "steps_per_s"), f"{found['steps_per_s'] / s['scaling']['1']['steps_per_s']:.2f}")
        for name, s in settings.items()
        for workers, found in s["scaling"].items()
    ]


def arms(result: dict[str, Any], settings: dict[str, Any]) -> list[tuple[str, ...]]:
    """Step times."""
    places = {name: s["arms"] for name, s in settings.items()} | {"default": result.get("default_arms", {})}
    return [(place, arm, *shown(found, "step_ms")) for place, by_arm in places.items() for arm, found in by_arm.items()]


def seconds(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Start-up and report."""
    names = {"help": "mha-ablate --help", "list": "mha-ablate list", "first step": "mha-ablate train, first step"}
    rows = [(names[name], *shown(found, "s")) for name, found in result["startup_s"].items()]
    if made := result["report"]:
        rows.append(
            (f"mha-ablate report, {made['runs']:,} runs of {made['evaluations']} evaluations", *shown(made, "s"))
        )
    return rows


def telling(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Shares of the wall time."""
    return [
        (what, f"{found['share']:.1%}", " to ".join(dict.fromkeys(f"{value:.1%}" for value in found["share_range"])))
        for what, found in result["telling"].items()
    ]


def shown(found: dict[str, Any], name: str) -> tuple[str, str]:
    """The median and the range of a value."""
    return digits(found[name]), between(found[f"{name}_range"])


def between(ends: list[float]) -> str:
    """`1.2 to 1.4`; a dash for ends that are one, as those of a single round."""
    return " to ".join(map(digits, ends)) if ends[0] != ends[1] else "-"


def digits(value: float) -> str:
    """Three digits, as many decimals as that takes: 0.124, 12.3, 1,235."""
    decimals = max(0, 3 - len(str(int(value)))) if value >= 1 else 3
    return f"{value:,.{decimals}f}"


def as_text(made: list[Table]) -> str:
    """For a terminal of 80 columns."""
    return "\n\n".join("\n".join(text_lines(table)) for table in made)


def text_lines(table: Table) -> list[str]:
    """A table as lines: its title, its head unless that is empty, its rows."""
    rows = [table.head, *table.rows] if any(table.head) else table.rows
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.head))]
    lines = [table.title]
    for row in rows:
        cells = [
            c.ljust(w) if table.is_words(i) else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def as_markdown(made: list[Table]) -> str:
    """For a page."""
    return "\n\n".join(f"**{table.title}**\n\n{markdown_table(table)}" for table in made)


def markdown_table(table: Table) -> str:
    """A table in Markdown."""
    align = tuple("---" if table.is_words(i) else "---:" for i in range(len(table.head)))
    rows = (table.head, align, *table.rows)
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
