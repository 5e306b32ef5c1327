"""The mean of an arm over its seeds as a run of its own in TensorBoard, which has no means and no bands itself.

At each step the mean is over the seeds that have come so far, and the difference over those at which the baseline has been
evaluated at that step too, paired by seed. So a study that goes on shows what it knows by now; `zz_band/seeds` says how many
seeds that is, and a curve may make a small jump where one of them ends. One seed has a mean and no interval.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from mha_ablate.errors import RequestError
from mha_ablate.run.events import DELTA, LOSS, SEEDS, TWINS, band_tags
from mha_ablate.run.folder import RunFolder
from mha_ablate.run.records import Point
from mha_ablate.stats.paired import t_band
from mha_ablate.study.collect import Run, Study

Lines = dict[int, dict[str, Any]]  # of one step, by seed


def mean_folders(study: Study) -> dict[str, Path]:
    """Where the mean of each arm goes: beside its seeds, if they lie in one folder and no other arm's with them.

    Raises RequestError where a link or a file stands there.
    """
    arms_in: dict[Path, set[str]] = {}
    for run in study.runs:
        arms_in.setdefault(run.folder.mean_dir, set()).add(run.arm)
    places: dict[str, list[Path]] = {}
    for place, arms in arms_in.items():
        if RunFolder(place).run_file.exists() or not place.is_relative_to(study.folder.path):
            continue  # a run of that name, or a report on a single run
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise RequestError(f"{place} is a link or a file, and the mean over seeds is written there: remove it")
        if len(arms) > 1:
            RunFolder(place).clear_events()  # of the time when there was one arm
        for arm in arms:
            places.setdefault(arm, []).append(place)
    return {arm: at[0] for arm, at in places.items() if len(at) == 1 and len(arms_in[at[0]]) == 1}


def mean_points(runs: list[Run], baseline: dict[int, dict[int, float]] | None) -> list[Point]:
    """The curves of an arm's mean: the loss, its band and twins, and the difference to the baseline's losses (by seed and step)."""
    by_step: dict[int, Lines] = {}
    for run in runs:
        for line in run.evaluations:
            by_step.setdefault(line["step"], {})[run.seed] = line
    points: list[Point] = []
    twins: dict[str, list[Point]] = {tag: [] for tag, _, _ in TWINS}
    for step, lines in sorted(by_step.items()):
        at = min(line.get("wall_time", 0.0) for line in lines.values())  # which no seed that comes later turns back
        loss = {seed: line[LOSS] for seed, line in lines.items()}
        points += _with_band(LOSS, loss, dict.fromkeys(loss, 0.0), step, at)
        points.append((SEEDS, len(loss), step, at))
        for tag, key, factor in TWINS:
            if all(key in line for line in lines.values()):
                x = round(statistics.fmean(line[key] for line in lines.values()) * factor)
                twins[tag].append((tag, statistics.fmean(loss.values()), x, at))
        if baseline is not None:
            against = {seed: curve[step] for seed, curve in baseline.items() if step in curve}
            points += _with_band(DELTA, loss, against, step, at)
    for twin in twins.values():
        # A seed that ends early may have been a slow one: without it the mean of time goes back, which no axis can.
        points += sorted(twin, key=lambda point: point[2])
    return points


def _with_band(tag: str, losses: dict[int, float], baseline: dict[int, float], step: int, at: float) -> list[Point]:
    """The mean difference to a baseline, and again with the ends of its interval where there is one; nothing without pairs."""
    if not losses.keys() & baseline.keys():
        return []
    mean, band = t_band(losses, baseline)
    points: list[Point] = [(tag, mean, step, at)]
    if band:
        points += [(name, value, step, at) for name, value in zip(band_tags(tag), (mean, *band), strict=True)]
    return points
