"""Settings that differ in how W_O starts: does it order the answers, how much louder the branch becomes once fc_out is gone?"""

from __future__ import annotations

from typing import Any

import numpy as np

from mha_ablate.report.family import TUNED

FEWEST = 4  # different gains, below which an order says nothing


def starts_of(report: dict[str, Any]) -> dict[str, Any] | None:
    """`{points: {point: {gain_out, louder}}, order: {arm: rho}, over: {arm: starts}, stage}` of an unordered study; else None.

    Of one whose points differ in the gain of W_O. `louder` is 1 / gain: how much louder the branch starts without W_O, None
    where that is without end. `order` is Spearman's rank correlation of it with an arm's mean delta, over the starts that have
    both, and `over` how many these are.
    """
    parts = report["parts"]
    stage = TUNED if any(part["stage"] == TUNED for part in parts) else parts[0]["stage"]
    there = [part for part in parts if part["stage"] == stage and part["start_gain"] is not None]
    if (
        not report["one_study"]
        or report["axis"]["numeric"]
        or len({round(part["start_gain"], 6) for part in there}) < FEWEST
    ):
        return None
    points = {part["point"]: _gain(part["start_gain"]) for part in there}
    found: dict[str, list[tuple[float, float]]] = {}
    for part in there:
        for arm in part["arms"][1:]:
            louder = points[part["point"]]["louder"]
            if arm["delta"] and louder is not None and arm["arm"] not in part["unfit"]:
                found.setdefault(arm["arm"], []).append((louder, arm["delta"]["mean"]))
    order = {arm: rank_correlation(pairs) for arm, pairs in found.items() if len(pairs) >= FEWEST}
    return {"points": points, "order": order, "over": {arm: len(found[arm]) for arm in order}, "stage": stage}


def _gain(gain: float) -> dict[str, float | None]:
    return {"gain_out": gain, "louder": 1 / gain if gain else None}


def rank_correlation(pairs: list[tuple[float, float]]) -> float | None:
    """Spearman's rho: Pearson's correlation of the ranks, ties sharing the mean of theirs; None where one side does not vary."""
    a, b = (_ranks(np.array(side, dtype=np.float64)) for side in zip(*pairs, strict=True))
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1. Values that agree to six digits are one: their last bits are rounding."""
    rounded = np.array([float(f"{value:.6g}") for value in values])
    return np.array([(rounded < v).sum() + ((rounded == v).sum() + 1) / 2 for v in rounded])


def ordering(report: dict[str, Any], arm: str | None) -> str:
    """One sentence on the arm; empty for other studies."""
    starts = report["starts"]
    if not starts or starts["order"].get(arm) is None:
        return ""
    rho = starts["order"][arm]
    how = "orders" if abs(rho) >= 0.8 else "goes some way to order" if abs(rho) >= 0.5 else "does not order"
    return (
        f"How much louder the branch starts once fc_out is gone {how} what {arm} costs: rank correlation {rho:+.2f} over "
        f"{starts['over'][arm]} starts."
    )


COLUMNS = ("start", "gain of W_O", "louder without", "arm", "delta, 95%", "verdict")


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of text a start and arm, the quietest W_O first."""
    from mha_ablate.report.tables import delta_text, verdict_text

    starts = report["starts"]
    parts = [part for part in report["parts"] if part["stage"] == starts["stage"] and part["point"] in starts["points"]]
    parts.sort(key=lambda part: part["start_gain"])
    made = []
    for part in parts:
        one = starts["points"][part["point"]]
        louder = "-" if one["louder"] is None else f"{one['louder']:.2f}x"
        made += [
            (part["point"], f"{one['gain_out']:.3f}", louder, arm["arm"], delta_text(arm), verdict_text(arm))
            for arm in part["arms"][1:]
        ]
    return made
