"""The cost of removal taken apart: a chain of arms, each step with its paired interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mha_ablate.stats.paired import Paired, paired

Losses = dict[str, dict[int, float]]
Chain = dict[str, list[str]]  # a step's name and its two arms: loss(first) - loss(second)


def waterfall(chain: Chain, losses: Losses, written: Callable[[Paired], dict[str, Any]]) -> dict[str, Any] | None:
    """`{steps: [{name, from, to, delta}], total: {from, to, delta}, seeds}` over the seeds that every arm of the chain has.

    Over the same seeds the means of the steps add up to the whole. None where an arm is missing, or no seed is shared.
    `written` turns a contrast into plain values.
    """
    if not chain or any(arm not in losses for pair in chain.values() for arm in pair):
        return None
    arms = list(dict.fromkeys(arm for pair in chain.values() for arm in pair))
    shared = set.intersection(*(set(losses[arm]) for arm in arms))
    if not shared:
        return None

    def between(first: str, second: str) -> dict[str, Any]:
        kept = ({s: losses[arm][s] for s in shared} for arm in (first, second))
        return {"from": first, "to": second, "delta": written(paired(*kept))}

    steps = [{"name": name, **between(*pair)} for name, pair in chain.items()]
    return {"steps": steps, "total": between(arms[0], arms[-1]), "seeds": sorted(shared)}
