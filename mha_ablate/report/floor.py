"""The noise floor: how much two arms differ that do not differ, and what that means for other studies of the setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mha_ablate.report.waterfall import Losses
from mha_ablate.run.folder import StudyFolder
from mha_ablate.stats.paired import Paired, paired
from mha_ablate.stats.power import chance_width


def copies(
    pairs: dict[str, list[str]], losses: Losses, written: Callable[[Paired], dict[str, Any]]
) -> list[dict[str, Any]]:
    """`{name, from, to, delta}` of each pair of arms that differ by chance alone and share a seed."""
    return [
        {"name": name, "from": one, "to": other, "delta": written(paired(losses[one], losses[other]))}
        for name, (one, other) in pairs.items()
        if losses.get(one, {}).keys() & losses.get(other, {}).keys()
    ]


def floor_of(report: dict[str, Any], arm_hash: str) -> dict[str, Any] | None:
    """What `floor.json` holds: the sd of the differences of a pair with the baseline, from how many seeds, for its setting.

    Of several such pairs it is the widest; of other pairs if there are none, since a noisy arm says little of the rest.
    """
    measured = [pair for pair in report["copies"] if pair["delta"]["sd"] is not None]
    with_base = [pair for pair in measured if report["baseline"] in (pair["from"], pair["to"])]
    if not measured:
        return None
    widest = max((pair["delta"] for pair in with_base or measured), key=lambda delta: delta["sd"])
    return {"study": report["name"], "setting": arm_hash, "sd": widest["sd"], "seeds": len(widest["values"])}


def known_floor(folder: StudyFolder, arm_hash: str, n: int) -> dict[str, Any] | None:
    """The floor that a study beside this one has measured for the same setting, the one from most seeds.

    Beside the study's keys it has `half_width`, in nats: a mean over `n` seeds of differences that are chance alone lies no further
    from 0 in 95% of cases. None where none was measured, or `n` is 1.
    """
    found = [kept for kept in folder.floors() if kept["setting"] == arm_hash]
    if n < 2 or not found:
        return None
    best = max(found, key=lambda kept: kept["seeds"])
    return {**best, "half_width": chance_width(best["sd"], best["seeds"], n)}


def floor_notes(report: dict[str, Any]) -> list[str]:
    """What a reader must know of the floor before believing the verdicts."""
    notes = []
    for pair in report["copies"]:
        ends = pair["delta"]["ci95"]
        if ends and not ends[0] <= 0 <= ends[1]:
            notes.append(
                f"{pair['from']} and {pair['to']} should differ by chance alone, and their interval leaves out 0: by chance in one "
                "of twenty such pairs, or something is wrong"
            )
    floor = report["noise_floor"]
    if floor and report["margin"] < floor["half_width"]:
        notes.append(
            f"the margin of ±{report['margin']:g} nats is below the noise floor, ±{floor['half_width']:.2g} at so many seeds "
            f"(study {floor['study']}): so small a difference can be the chance of the start alone"
        )
    return notes
