"""Hostile input by the thousand, counted and put into a table."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from scripts.page import check_marks, write_into
from scripts.reliability.hostile import Kind, ending, kinds, make_origin

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"


def main(argv: list[str]) -> int:
    """Try as many inputs of each kind as `argv` says, and print the table; returns 1 where one ended in a traceback."""
    parser = argparse.ArgumentParser(prog="scripts/hostile_test", description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="of each kind (default: 100)")
    parser.add_argument("--kind", default="", help="only kinds in whose name this stands")
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    asked = parser.parse_args(argv)
    if asked.examples < 1:
        print("hostile_test: --examples must be at least 1", file=sys.stderr)
        return 2
    if asked.write:
        check_marks(PAGE, "hostile")
    with tempfile.TemporaryDirectory(prefix="mha_ablate-hostile-") as scratch:
        os.environ["MHA_ABLATE_CACHE"] = str(Path(scratch) / "cache")
        os.environ["HF_HUB_OFFLINE"] = "1"
        chosen = [kind for kind in kinds(make_origin(Path(scratch) / "origin")) if asked.kind in kind.name]
        counts = {kind.name: tried(kind, asked.examples) for kind in chosen}
    text = table(counts)
    print(text)
    if asked.write:
        write_into(PAGE, "hostile", text)
    return int(any(count["tracebacks"] for count in counts.values()))


def tried(kind: Kind, examples: int) -> Counter[str]:
    """How so many examples ended. What ends in a traceback is told once for each kind of exception and place."""
    from hypothesis import HealthCheck, Phase, given, settings

    counts: Counter[str] = Counter()
    seen: set[str] = set()

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )
    @given(kind.drawn)
    def one(drawn: object) -> None:
        with tempfile.TemporaryDirectory(prefix="mha_ablate-hostile-") as folder:
            counts["examples"] += 1
            try:
                counts[ending(kind, drawn, Path(folder))] += 1
            except Exception as error:
                counts["tracebacks"] += 1
                if (said := _told(error)) not in seen:
                    seen.add(said)
                    print(f"TRACEBACK, {kind.name}: {said}\n    {drawn!r:.600}", file=sys.stderr, flush=True)

    one()
    print(f"{kind.name}: {dict(counts)}", file=sys.stderr, flush=True)
    return counts


def _told(error: Exception) -> str:
    """An exception and where in the package it came from."""
    trace, places = error.__traceback__, []
    while trace:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {str(error)[:160]} at {' '.join(places[-6:])}"


def table(counts: dict[str, Counter[str]]) -> str:
    """The table in Markdown."""
    head = [
        "| kind of input | examples | accepted | refused in one line | failed in one line | tracebacks |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    columns = ("examples", "accepted", "refused", "failed", "tracebacks")
    return "\n".join(
        [*head, *(f"| {name} | {' | '.join(f'{c[k]:,}' for k in columns)} |" for name, c in counts.items())]
    )
