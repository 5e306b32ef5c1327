"""Settings that differ in how W_O starts: is what removal costs ordered by how much larger the branch becomes without it?"""

from __future__ import annotations

import math
from typing import Any

from mha_ablate.report.family import TUNED
from mha_ablate.stats.ranks import p_rank, rank_correlation

FEWEST = 4  # different gains, below which an order says nothing
FROM_0 = "from 0"  # instead of a factor, where W_O starts at 0


def starts_of(report: dict[str, Any]) -> dict[str, Any] | None:
    """`{points: {point: {gain_out, louder}}, order, order_p, over, stage}` of an unordered study with starts; else None.

    A study has starts if its points differ in the gain of W_O. `louder` is 1 / gain: how much larger the branch starts without
    W_O; it is None where W_O starts at 0, and counts as infinite. `order` has for each arm Spearman's rank correlation of it
    with the arm's mean delta, over the `over` starts that have both, and `order_p` its two-sided permutation p.
    """
    parts = report["parts"]
    stage = TUNED if any(part["stage"] == TUNED for part in parts) else parts[0]["stage"]
    there = [part for part in parts if part["stage"] == stage and part["start_gain"] is not None]
    few = len({round(part["start_gain"], 6) for part in there}) < FEWEST
    if not report["one_study"] or report["axis"]["numeric"] or few:
        return None
    points = {part["point"]: _gain(part["start_gain"]) for part in there}
    found: dict[str, list[tuple[float, float]]] = {}
    for part in there:
        for arm in part["arms"][1:]:
            if arm["delta"] and arm["arm"] not in part["unfit"]:
                found.setdefault(arm["arm"], []).append((factor(points[part["point"]]), arm["delta"]["mean"]))
    enough = {arm: pairs for arm, pairs in found.items() if len(pairs) >= FEWEST}
    return {
        "points": points,
        "order": {arm: rank_correlation(pairs) for arm, pairs in enough.items()},
        "order_p": {arm: p_rank(pairs) for arm, pairs in enough.items()},
        "over": {arm: len(pairs) for arm, pairs in enough.items()},
        "stage": stage,
    }


def _gain(gain: float) -> dict[str, float | None]:
    return {"gain_out": gain, "louder": 1 / gain if gain else None}


def factor(start: dict[str, float | None]) -> float:
    """By how much the branch starts larger without W_O; infinite where W_O starts at 0."""
    return math.inf if start["louder"] is None else start["louder"]


def factor_text(start: dict[str, float | None], digits: int = 2) -> str:
    """`1.73x`, or `from 0`."""
    return FROM_0 if start["louder"] is None else f"{start['louder']:.{digits}f}x"


def correlation_text(starts: dict[str, Any], arm: str) -> str:
    """`rank correlation +0.15 (p = 0.65)`; empty for an arm without one."""
    rho, p = starts["order"].get(arm), starts["order_p"].get(arm)
    if rho is None or p is None:
        return ""
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.01 else f"p = {p:.2f}"
    return f"rank correlation {rho:+.2f} ({shown})"


def ordering(report: dict[str, Any], arm: str | None) -> str:
    """One sentence on the arm; empty for other studies."""
    starts = report["starts"]
    if not starts or arm is None or not (told := correlation_text(starts, arm)):
        return ""
    return (
        f"How much larger the branch starts once fc_out is gone, against {arm} minus {report['parts'][0]['baseline']}: "
        f"{told} over {starts['over'][arm]} starts."
    )


COLUMNS = ("start", "gain of W_O", "louder without", "arm", "delta, 95%", "verdict")


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of text a start and arm, the smallest W_O first."""
    from mha_ablate.report.tables import delta_text, verdict_text

    starts = report["starts"]
    made = []
    for part in parts_by_start(report):
        one = starts["points"][part["point"]]
        made += [
            (part["point"], f"{one['gain_out']:.3f}", factor_text(one), arm["arm"], delta_text(arm), verdict_text(arm))
            for arm in part["arms"][1:]
        ]
    return made


def parts_by_start(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a study of starts, those first whose branch becomes largest without W_O."""
    starts = report["starts"]
    parts = [part for part in report["parts"] if part["stage"] == starts["stage"] and part["point"] in starts["points"]]
    return sorted(parts, key=lambda part: -factor(starts["points"][part["point"]]))
