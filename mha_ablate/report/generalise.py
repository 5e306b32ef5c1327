"""How far the answer of a study of several points generalises: the mean over its points, and what a new setting may show."""

from __future__ import annotations

import statistics
from typing import Any

from mha_ablate.report.family import TUNED
from mha_ablate.report.sentence import counted
from mha_ablate.stats.over_points import FEWEST, OverPoints, over_points


def over_points_of(parts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of every arm, in nats per token: `{mean, ci95, between_sd, prediction95, points, coverage, ci_coverage, stage}`.

    Empty for a study of one point. Points of which the arm lacks a seed, or is no fair pair, are left out, and so are those with
    one seed, of which no spread is known. Where fewer than two points have more seeds, `mean` is the plain mean over all points,
    and all else is None. At each arm's own best rate where that was tuned.
    """
    stage = TUNED if any(part["stage"] == TUNED for part in parts) else parts[0]["stage"]
    found: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        for arm in part["arms"][1:]:
            if part["stage"] == stage and arm["delta"] and arm["arm"] not in part["unfit"]:
                found.setdefault(arm["arm"], []).append(arm)
    return {arm: _over(of_points) | {"stage": stage} for arm, of_points in found.items() if len(of_points) > 1}


def _over(arms: list[dict[str, Any]]) -> dict[str, Any]:
    spread = [arm for arm in arms if arm["delta"]["sd"] is not None]
    if len(spread) > 1:
        variances = [arm["delta"]["sd"] ** 2 / arm["n"] for arm in spread]
        one = over_points([arm["delta"]["mean"] for arm in spread], variances, [arm["n"] for arm in spread])
    else:
        mean = statistics.fmean(arm["delta"]["mean"] for arm in arms)
        one = OverPoints(mean, None, None, None, len(arms), None)
    return {
        "mean": one.mean,
        "ci95": list(one.ci95) if one.ci95 else None,
        "between_sd": one.between_sd,
        "prediction95": list(one.prediction95) if one.prediction95 else None,
        "points": one.k,
        "coverage": one.coverage,
        "ci_coverage": one.ci_coverage,
    }


def generalises(report: dict[str, Any], arm: str | None) -> str:
    """One sentence on the arm; empty below five points, where nothing can be said of a new setting."""
    found = report["over_points"].get(arm)
    if not found or found["points"] < FEWEST or not found["prediction95"]:
        return ""
    low, high = found["ci95"]
    below, above = found["prediction95"]
    if found["between_sd"]:
        differ = f"settings differ by a standard deviation of {found['between_sd']:.3f} beyond chance"
        at, else_ = "with the spread between settings that is estimated here", ""
    else:
        differ = "no difference between settings is found beyond chance, which does not show that they are alike"
        at, else_ = "whose settings do not differ", ", and in fewer if they do"
    return (
        f"Over {counted(found['points'], 'setting')} {arm} minus the baseline is {found['mean']:+.3f} nats per token on average "
        f"(95% CI {low:+.3f} to {high:+.3f}); {differ}. A setting that was not tried, if it is one of their kind, may lie between "
        f"{below:+.3f} and {above:+.3f} (95% prediction interval, which holds in {found['coverage']:.0%} of simulations at this "
        f"size {at}{else_})."
    )
