"""Cards of claims as a reader sees them: text for the terminal, HTML for the page."""

from __future__ import annotations

from html import escape
from typing import Any

from mha_ablate.report.claims import ONLY_IF, STANDS
from mha_ablate.report.page import table
from mha_ablate.report.sentence import counted

COLUMNS = ("evidence", "where", "delta, 95%", "seeds", "found", "if it held", "speaks")


def heading(card: dict[str, Any]) -> str:
    """The claim's name and the verdict on it, in a line."""
    condition = f" {card['only_if']}" if card["verdict"] == ONLY_IF else ""
    told = f" ({', '.join(found)})" if (found := remarks(card)) else ""
    return f"{card['claim'].replace('_', ' ')}: {card['verdict']}{condition}{told}"


def remarks(card: dict[str, Any]) -> list[str]:
    """What a reader of the verdict must know with it."""
    known = {
        "the rest is open": card["rest_open"],
        "a look": card["look"],
        "open at own best rates": card["shared_only"],
        "so far": card["so_far"],
        "turns with the start": card.get("turns", False),
    }
    return [word for word, holds in known.items() if holds]


def rows(card: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of text a piece of evidence, in the order of `COLUMNS`."""
    return [
        (
            row["what"],
            row["where"],
            _delta(row),
            "" if row["n"] is None else str(row["n"]),
            row["found"],
            row["predicted"],
            STANDS[row["agrees"]],
        )
        for row in card["evidence"]
    ]


def standing(card: dict[str, Any]) -> str:
    """How much of the evidence decides."""
    if not card["evidence"]:
        return "nothing has been measured yet"
    count = len(card["evidence"])
    return (
        f"{card['open']} of {counted(count, 'row')} still open"
        if card["open"]
        else f"all {count} rows decide"
        if count > 1
        else "its one row decides"
    )


def facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    """The card's lines, each with its name."""
    seeds = sorted({row["n"] for row in card["evidence"] if row["n"]})
    over = (
        f", {seeds[0]} seed{'s' * (seeds != [1])}"
        if len(seeds) == 1
        else f", {seeds[0]} to {seeds[-1]} seeds"
        if seeds
        else ""
    )
    words = card.get("words", {})
    arms = "; ".join(f"{arm} ({', '.join(words[arm])})" if words.get(arm) else arm for arm in card["arms"])
    return [
        ("Claim", card["says"]),
        ("Algebra", card["algebra"]),
        ("Tested by", f"{arms}{over}"),
        ("Evidence", standing(card)),
        *([("By start", _starts(card))] if card.get("turns") else []),
        ("Change", card["change"]),
    ]


def _starts(card: dict[str, Any]) -> str:
    """The verdict under each start of the weights, where it turns with it."""
    told = ", ".join(f"{verdict} under {words}" for words, verdict in card["starts"].items())
    return f"the verdict turns with the start of the weights, at the same other settings: {told}"


def cards_html(cards: list[dict[str, Any]]) -> str:
    """The cards as a part of a page; empty without any. Every text is escaped."""
    return "".join(_card(card) for card in cards)


def _card(card: dict[str, Any]) -> str:
    told = "".join(f"<dt>{name}</dt><dd>{escape(text)}.</dd>" for name, text in facts(card))
    return f"""<section class="claim"><h2>{escape(heading(card))}</h2><dl>{told}</dl>
<details><summary>Every row</summary><div class="scroll">{table(COLUMNS, rows(card), reason=True)}</div></details></section>"""


def _delta(row: dict[str, Any]) -> str:
    if row["delta"] is None:
        return ""
    half = f" ±{(row['ci95'][1] - row['ci95'][0]) / 2:.4f}" if row["ci95"] else ""
    return f"{row['delta']:+.4f}{half}"
