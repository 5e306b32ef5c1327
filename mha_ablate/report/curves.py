"""A study along the gain that W_O starts with: at which gains do an arm and the baseline coincide, and at which do they part?"""

from __future__ import annotations

import math
from typing import Any

from mha_ablate.report.family import TUNED
from mha_ablate.report.sentence import counted
from mha_ablate.stats.verdict import ENOUGH_SEEDS

# The decision rule's words, and the lists of a report that the gains with that verdict stand in.
KINDS = {"equivalent": "coincide", "costs": "worse", "helps": "better", "undecided": "open"}


def curves_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By arm, `{stage, margin, n, coincide, worse, better, open, sentence}` of a study along the initial gain of W_O; {} of others.

    The lists hold gains, by the verdict on the arm's paired differences there: `coincide` where their 90% interval lies within
    the margin, `worse` and `better` where Holm's p over all contrasts of the stage is below 5%, `open` where neither is so.
    """
    parts = report["parts"]
    stage = TUNED if any(part["stage"] == TUNED for part in parts) else parts[0]["stage"]
    there = [part for part in parts if part["stage"] == stage]
    if not (report["one_study"] and report["axis"]["numeric"] and all(map(_at_its_gain, there))):
        return {}
    arms = dict.fromkeys(one["arm"] for part in there for one in part["arms"][1:])
    return {arm: one for arm in arms if (one := _curve(there, arm, stage))}


def _curve(parts: list[dict[str, Any]], arm: str, stage: str) -> dict[str, Any] | None:
    """Of one arm, without the gains at which it is not fit to be compared; None with fewer than two."""
    fit = [part for part in parts if arm not in part["unfit"]]
    found = [(part["x"], one) for part in fit for one in part["arms"][1:] if one["arm"] == arm and one["delta"]]
    if len(found) < 2:
        return None
    gains = {kind: [x for x, one in found if one["verdict"] == word] for word, kind in KINDS.items()}
    seeds = sorted({one["n"] for _, one in found})
    told = {"stage": stage, "margin": parts[0]["margin"], "n": [seeds[0], seeds[-1]], **gains}
    return told | {"sentence": _sentence(told, arm, parts[0]["baseline"])}


def _at_its_gain(part: dict[str, Any]) -> bool:
    """Whether a part's value on the axis is the gain that its W_O starts with."""
    gain, x = part["start_gain"], part["x"]
    return gain is not None and x is not None and math.isclose(gain, x, rel_tol=1e-6)


def _sentence(told: dict[str, Any], arm: str, base: str) -> str:
    fewest, most = told["n"]
    where = ", each at its own best rate" if told["stage"] == TUNED else ""
    clauses = [
        f"they coincide at {_listed(told['coincide'])} (90% interval within ±{told['margin']:g} nats)"
        if told["coincide"]
        else f"they are found to coincide at no gain (90% interval within ±{told['margin']:g} nats)",
        *(f"{arm} is {kind} at {_listed(told[kind])}" for kind in ("worse", "better") if told[kind]),
    ]
    if not told["worse"] + told["better"]:
        clauses.append("they are found to part at no gain (Holm)")
    if told["open"]:
        clauses.append(f"undecided at {_listed(told['open'])}")
    seeds = counted(most, "paired seed") if fewest == most else f"{fewest} to {most} paired seeds"
    few = ", preliminary" if fewest < ENOUGH_SEEDS else ""
    return f"By the gain that W_O starts with, {arm} against {base}{where} ({seeds}{few}): {'; '.join(clauses)}."


def _listed(gains: list[float]) -> str:
    """`0.25, 0.5 and 1`."""
    words = [f"{gain:.4g}" for gain in gains]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
