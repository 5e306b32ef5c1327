"""The decision rule, in one place."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mha_ablate.stats.paired import Paired
from mha_ablate.stats.sample import holm

ALPHA = 0.05
ENOUGH_SEEDS = 8  # below this a verdict is a look, not a result


@dataclass(frozen=True)
class Verdict:
    """`word` is costs, helps, equivalent or undecided; `reason` says in a clause why."""

    word: str
    reason: str
    p_holm: float | None
    look: bool


def decide(
    contrasts: dict[str, Paired], *, margin: float, incomplete: dict[str, str], exploratory: Collection[str] = ()
) -> dict[str, Verdict]:
    """Verdicts on the contrasts of one study.

    *equivalent* if the 90% t interval lies within +- margin (two one-sided tests at 5%); else *costs* or *helps* if
    the Holm-adjusted p of the paired t test over the planned contrasts is under 0.05; else *undecided*. An arm named in
    `incomplete` (its reason: diverged or missing seeds, unequal training) stays undecided, without a p: what is left of it
    is no fair sample. It counts among the contrasts all the same, as p = 1: else a study that is looked at half-way would ask
    less of those that came first.

    Arms in `exploratory` were not planned: they take nothing from those that were, and are themselves adjusted over all.
    """
    known = {arm: c.p_t for arm, c in contrasts.items() if c.p_t is not None and arm not in incomplete}
    every = dict.fromkeys([*contrasts, *incomplete], 1.0) | known
    adjusted = holm(every) | holm({arm: p for arm, p in every.items() if arm not in exploratory})
    return {
        arm: _decide_one(c, adjusted[arm] if arm in known else None, margin, incomplete.get(arm))
        for arm, c in contrasts.items()
    }


def _decide_one(c: Paired, p_holm: float | None, margin: float, incomplete: str | None) -> Verdict:
    look = c.n < ENOUGH_SEEDS
    if incomplete:
        return Verdict("undecided", incomplete, p_holm, look)
    if c.ci90 is None or c.ci95 is None or p_holm is None:
        return Verdict("undecided", "one seed gives no interval", p_holm, look)
    if -margin < c.ci90[0] and c.ci90[1] < margin:
        return Verdict("equivalent", f"the 90% interval lies within ±{margin:g} nats", p_holm, look)
    if p_holm < ALPHA:
        return Verdict("costs" if c.mean > 0 else "helps", f"Holm-adjusted p = {p_holm:.2g}", p_holm, look)
    assert c.mde is not None
    return Verdict(
        "undecided",
        f"{c.n} seeds can detect {c.mde:.2g} nats at best; Holm-adjusted p = {p_holm:.2g}, and the 90% interval is not within "
        f"±{margin:g} nats",
        p_holm,
        look,
    )
