"""What loss costs: who is on the frontier, and what it takes to reach the baseline's loss."""

from __future__ import annotations

import itertools
from typing import Any

from mha_ablate.study.collect import Run, Study

PRICES = {"params": "parameters", "flops_per_token": "FLOPs a token", "step_ms": "step time"}
SIDE_BY_SIDE = "interleaved after warm-up, no other cell running"


def priced(report: dict[str, Any], key: str) -> dict[str, tuple[float, float]]:
    """Mean loss and cost of each arm that has both; a step time as the baseline's times the ratio to it, which has no drift.

    Arms that did not end well at the seeds of the baseline are left out, and so are times that were not taken side by side.
    """
    base, left_out = report["arms"][0]["cost"].get(key), unequal(report)
    points = {}
    for arm in report["arms"]:
        loss, cost = arm["val_loss"]["mean"], arm["cost"].get(key)
        if key == "step_ms":
            ratio = arm["cost"].get("step_ratio")
            cost = None if arm["cost"].get("timed") != SIDE_BY_SIDE else base * ratio if base and ratio else cost
        if loss is not None and cost is not None and arm["arm"] not in left_out:
            points[arm["arm"]] = (loss, cost)
    return points


def frontier(report: dict[str, Any], key: str) -> list[str]:
    """Arms that no other arm beats: none has at most the mean loss and at most the cost, and less of one of them."""
    points = priced(report, key)
    return [
        arm
        for arm, (loss, cost) in points.items()
        if not any(
            other <= loss and price <= cost and (other, price) != (loss, cost) for other, price in points.values()
        )
    ]


def unequal(report: dict[str, Any]) -> list[str]:
    """Arms whose losses are of other seeds than the baseline's: their mean is not comparable with the others'."""

    def ended(arm: dict[str, Any]) -> set[str]:
        return {seed for seed, loss in arm["val_loss"].get("values", {}).items() if loss is not None}

    base, *others = report["arms"]
    return [arm["arm"] for arm in others if ended(arm) != ended(base)]


def priced_keys(report: dict[str, Any]) -> list[str]:
    """The costs that at least two arms have."""
    return [key for key in PRICES if len(priced(report, key)) > 1]


def to_reach(study: Study, arm: str, base: str, cost: dict[str, Any]) -> dict[str, Any] | None:
    """Updates, seconds and GFLOP until an arm is as good as the baseline ends at the same seed: means over seeds that get there.

    Between evaluations the loss is taken to fall in a line. Seconds are updates times the step time, which was measured
    apart. The baseline gets there at its end. None where no seed has a pair.
    """
    ends = {run.seed: run.val_loss for run in study.of(base) if run.val_loss is not None}
    runs = [run for run in study.of(arm) if run.seed in ends and run.curve]
    if not runs:
        return None
    found = {run.seed: _first_at(run, ends[run.seed]) if arm != base else float(max(run.curve)) for run in runs}
    steps = [step for step in found.values() if step is not None]
    mean = sum(steps) / len(steps) if steps else None
    a_step = _gflop_a_step(runs[0])
    return {
        "reached": len(steps),
        "of": len(runs),
        "loss": sum(ends[run.seed] for run in runs) / len(runs),
        "steps": mean,
        "seconds": mean * cost["step_ms"] / 1e3 if mean and cost.get("step_ms") else None,
        "gflop": mean * a_step if mean and a_step else None,
        "by_seed": {str(seed): step for seed, step in found.items()},
    }


def _first_at(run: Run, goal: float) -> float | None:
    """The step at which a run's evaluations first come down to `goal`."""
    points = sorted(run.curve.items())
    if points[0][1] <= goal:
        return float(points[0][0])
    for (step, loss), (later, lower) in itertools.pairwise(points):
        if lower <= goal:
            return step + (later - step) * (loss - goal) / (loss - lower)
    return None


def _gflop_a_step(run: Run) -> float | None:
    last = run.evaluations[-1]
    return last["gflop"] / last["step"] if last.get("gflop") and last["step"] else None
