"""Claims on trial: what a study's parts say for and against each, row by row, and the verdict on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mha_ablate.report.evidence import NO_COST, Row, cost_rows, expectation_rows, rate_rows, refusal_rows
from mha_ablate.report.family import SHARED, TUNED

# What the rows of a claim add up to.
SUPPORTED, ONLY_IF, REFUTED, UNDECIDED = "supported", "supported only if", "refuted", "undecided"
STANDS = {True: "for", False: "against", None: "open"}
SHOWN = 4  # places named in a verdict
# What a start of the weights is made of: a tied embedding starts as the output layer does.
START_KEYS = ("init", "model.tied_embedding")
OWN_START = "the study's own"
Words = tuple[str, ...]


def cards(
    whole: dict[str, Any], parts: list[dict[str, Any]], tunings: list[dict[str, Any]], *, complete: bool = True
) -> list[dict[str, Any]]:
    """One card a claim, with its `evidence` (rows as in `report.evidence`) and `open`, how many of them decide nothing.

    `{claim, says, algebra, arms, words, change, verdict, only_if, rest_open, look, shared_only, so_far, open, starts,
    turns, evidence}`. `rest_open`: it is supported under a condition, and nothing speaks against it elsewhere either. `starts`: the
    verdict under each start of the weights, over the settings that all of them have; `turns`: it is supported, if only in part,
    under one and refuted under another. `shared_only`: each arm's own best rate leaves open what the shared rate decides.
    `so_far`: it rests on runs, and the study is not `complete`.
    """
    return [
        _card(name, claim, whole, parts, tunings) | {"so_far": _rests_on_runs(claim) and not complete}
        for name, claim in whole.get("claims", {}).items()
    ]


def _card(
    name: str,
    claim: dict[str, Any],
    whole: dict[str, Any],
    parts: list[dict[str, Any]],
    tunings: list[dict[str, Any]],
) -> dict[str, Any]:
    at, expects = claim.get("at"), claim.get("expects", {})
    here = [part for part in parts if not at or part["point"] in at]
    rows = [
        *cost_rows(claim["costs"], here, whole.get("points", {})),
        *expectation_rows(expects, here),
        *rate_rows(claim["rates"], tunings, parts),
        *refusal_rows(claim["refused"], whole, parts),
    ]
    verdict, only_if = weighed(rows)
    by_start = _by_start(rows, whole.get("points", {}))
    arms = list(dict.fromkeys([*claim["costs"], *expects, *claim["rates"], *claim["refused"]]))
    return {
        "claim": name,
        **{key: claim[key] for key in ("says", "algebra", "change")},
        "arms": arms,
        "words": {arm: whole["arms"][arm] for arm in arms if arm in whole.get("arms", {})},
        "verdict": verdict,
        "only_if": only_if,
        "rest_open": verdict == ONLY_IF and all(row["agrees"] is not False for row in rows),
        "look": verdict != UNDECIDED and any(row["look"] for row in rows if row["agrees"] is not None),
        "shared_only": verdict != UNDECIDED and _shared_only(rows),
        "open": sum(row["agrees"] is None for row in rows),
        "starts": by_start,
        "turns": REFUTED in by_start.values() and not {SUPPORTED, ONLY_IF}.isdisjoint(by_start.values()),
        "evidence": rows,
    }


def _by_start(rows: list[Row], points: dict[str, list[str]]) -> dict[str, str]:
    """The verdict under each start of the weights, by all the words that choose it; empty where all points have one init.

    Points are compared that differ in the start alone: those whose other words stand under every start. A start that shares no
    setting with those before it is left out. `the study's own` are points that name none.
    """
    found: dict[Words, dict[Words, list[Row]]] = {}
    for row in rows:
        if row["point"] in points:
            start, others = _start_and_others(points[row["point"]])
            found.setdefault(start, {}).setdefault(others, []).append(row)
    common: set[Words] = set()
    kept: list[Words] = []
    for start, by_setting in found.items():
        if shared := (common & by_setting.keys() if kept else set(by_setting)):
            common, kept = shared, [*kept, start]
    if len({tuple(word for word in start if not word.startswith("model.")) for start in kept}) < 2:
        return {}
    of_start = {start: [row for others in common for row in found[start][others]] for start in kept}
    return {" ".join(start) or OWN_START: weighed(evidence)[0] for start, evidence in of_start.items()}


def _start_and_others(words: list[str]) -> tuple[Words, Words]:
    """The words of a point that set where the weights start, and the others; which arms run is no setting."""
    keys = {word: word.partition("=")[0].lstrip("+") for word in words}
    start = tuple(word for word, key in keys.items() if key in START_KEYS or key.startswith("init."))
    return start, tuple(sorted(word for word, key in keys.items() if word not in start and key[:6] != "study."))


def _shared_only(rows: list[Row]) -> bool:
    """Whether rows at the shared rate decide, and rows at own best rates are there and all open."""
    decided, own = ([row for row in rows if row["stage"] == stage] for stage in (SHARED, TUNED))
    return bool(own) and any(row["agrees"] is not None for row in decided) and all(row["agrees"] is None for row in own)


def _rests_on_runs(claim: dict[str, Any]) -> bool:
    return bool(claim["costs"] or claim.get("expects") or claim["rates"])


def weighed(rows: list[Row]) -> tuple[str, str | None]:
    """The verdict on a claim, and the condition where it holds under one.

    A claim is supported where every row that can speak for it does: a row that is open shows it as little as one against it. It is
    refuted where some row is against it and none for it. A row that predicts no cost can speak against a claim, and not for it:
    that nothing happens where nothing should is not what it says.
    """
    main = [row for row in rows if row["predicted"] != NO_COST]
    agree = [row for row in main if row["agrees"] is True]
    if not agree:
        return (REFUTED if any(row["agrees"] is False for row in main) else UNDECIDED), None
    rest = [row for row in main if row["agrees"] is not True]
    apart = [row for row in rows if row["predicted"] == NO_COST and row["agrees"] is False]
    told = [_condition(agree, rest)] if rest else []
    told += [f"what it costs at {_places(apart)}, where by algebra nothing is lost, is taken off"] if apart else []
    return (ONLY_IF, ", and ".join(told)) if told else (SUPPORTED, None)


def _condition(agree: list[Row], rest: list[Row]) -> str:
    """What tells the rows for a claim from the others: the stage, the arm, the place, or else the rows themselves."""
    for key in ("stage", "arm", "point"):
        of_agree, of_rest = ({row[key] for row in rows} for rows in (agree, rest))
        without_stage = key == "stage" and "" in of_agree  # what holds at any rate is not told apart by one
        if not of_agree & of_rest and not without_stage:
            return _either(dict.fromkeys(_as_condition(key, row[key]) for row in agree))
    return _either(f"the arm is {row['arm']}, at {row['where']}" for row in agree)


def _as_condition(key: str, value: str) -> str:
    if key == "stage":
        return {SHARED: "all arms share one learning rate", TUNED: "each arm has its own best learning rate"}[value]
    if key == "arm":
        return f"{value} is what shows it"
    return value if "=" in value else f"the setting is {value}"


def _places(rows: list[dict[str, Any]]) -> str:
    return ", ".join(_few(dict.fromkeys(row["point"] for row in rows)))


def _either(words: Iterable[str]) -> str:
    return " or ".join(_few(words))


def _few(words: Iterable[str]) -> list[str]:
    words = list(words)
    return words[:SHOWN] + ([f"{len(words) - SHOWN} more"] if len(words) > SHOWN else [])
