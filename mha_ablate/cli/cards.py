"""Claim cards in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TINTS = {"supported": "green", "refuted": "red", "undecided": "yellow"}


def print_card(out: Console, card: dict[str, Any]) -> None:
    """Verdict, claim, algebra, what was tested on how many seeds, what would change it; and below them every row of evidence."""
    from rich.table import Table
    from rich.text import Text

    from mha_ablate.report.claim_cards import facts, heading, rows

    out.print(Text(heading(card), style=f"bold {TINTS.get(card['verdict'], 'cyan')}"))
    told = Table.grid(padding=(0, 2, 0, 0))
    for name, text in facts(card):
        told.add_row(Text(name.lower(), style="dim"), Text(text))
    _print_indented(out, told)
    evidence = Table.grid(padding=(0, 2, 0, 0))
    for what, where, delta, _, found, _, speaks in rows(card):
        evidence.add_row(
            Text(speaks, style="dim"), Text(where), Text(" ".join(filter(None, (what, delta)))), Text(found)
        )
    _print_indented(out, evidence)
    print()


def _print_indented(out: Console, told: Table) -> None:
    """Two columns in, without spaces at the ends of lines."""
    from rich.padding import Padding

    with out.capture() as drawn:
        out.print(Padding(told, (0, 0, 0, 2)))
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))
