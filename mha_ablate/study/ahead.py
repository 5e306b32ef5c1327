"""A plan ahead of its study: from a pilot's spread, or a given one, to seeds and hours."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mha_ablate.config.flat import flat
from mha_ablate.config.schema import stages_held
from mha_ablate.errors import RequestError
from mha_ablate.run.folder import StudyFolder
from mha_ablate.stats import power as of_t
from mha_ablate.stats.paired import paired
from mha_ablate.stats.verdict import ALPHA, ENOUGH_SEEDS
from mha_ablate.study.collect import Run, Study, collect


@dataclass(frozen=True)
class Spread:
    """The sd of an arm's paired differences: from `seeds` pairs, and what is planned with, its upper 80% limit."""

    sd: float
    seeds: int | None  # None: given, and taken as it is
    left_out: tuple[str, ...] = ()  # runs of the pilot that have no loss to take part with

    @property
    def planned(self) -> float:
        """What the plan rests on. A pilot's sd is itself uncertain: from 3 seeds the upper limit is 2.1 times as large."""
        return self.sd if self.seeds is None else of_t.upper_sd(self.sd, self.seeds)


@dataclass(frozen=True)
class Need:
    """What one contrast takes: seeds to find the effect, and seeds to be called equivalent where there is none."""

    spread: Spread
    seeds: int | None
    seeds_for_equivalence: int | None

    def to_json(self) -> dict[str, Any]:
        """As plan.json holds it."""
        return {**asdict(self.spread), "planned_sd": self.spread.planned, "seeds_needed": self.seeds}


@dataclass(frozen=True)
class Reckoning:
    """How many seeds a study needs: for every contrast, at the significance that Holm asks of the smallest p of them all."""

    effect: float
    power: float
    margin: float
    needs: dict[str, Need]  # by arm, or by point and arm

    @property
    def alpha(self) -> float:
        """0.05 over the number of contrasts."""
        return ALPHA / len(self.needs)

    @property
    def seeds(self) -> int:
        """As many as the contrast that needs most, and never so few that a verdict is a look. Raises RequestError beyond 10,000."""
        wanted = [need.seeds for need in self.needs.values()]
        if None in wanted:
            raise RequestError(
                f"--effect {self.effect:g}: more than {of_t.MOST} seeds would be needed to see so little; ask for a larger effect"
            )
        return max(ENOUGH_SEEDS, *(n for n in wanted if n is not None))

    def to_json(self, point: str = "") -> dict[str, Any]:
        """As plan.json holds it: the contrasts of one point, or as parts.json does: all of them."""
        chosen = {
            contrast.removeprefix(f"{point} ") if point else contrast: need
            for contrast, need in self.needs.items()
            if not point or contrast.startswith(f"{point} ")
        }
        contrasts = {arm: need.to_json() for arm, need in chosen.items()}
        return {"effect": self.effect, "power": self.power, "alpha": self.alpha, "contrasts": contrasts}


def reckon(spreads: dict[str, Spread], *, effect: float, power: float, margin: float) -> Reckoning:
    """What a true difference of `effect` nats takes to be found with `power` in each contrast."""
    alpha = ALPHA / len(spreads)
    needs = {
        arm: Need(
            spread,
            of_t.seeds_for(effect, spread.planned, alpha=alpha, power=power),
            of_t.seeds_for_equivalence(margin, spread.planned, power=power),
        )
        for arm, spread in spreads.items()
    }
    return Reckoning(effect, power, margin, needs)


@dataclass(frozen=True)
class Pilot:
    """A study that has run and that another one is planned from: of one part, or of several points and stages of tuning."""

    path: Path
    request: list[str] | None  # the words that it was asked for with
    parts: dict[
        str, list[Study]
    ]  # what ran at each point, at the shared rate and at each arm's own; one without a name

    @property
    def first_fresh_seed(self) -> int:
        """Above all that it was judged by."""
        return (
            max((run.seed for studies in self.parts.values() for study in studies for run in study.runs), default=-1)
            + 1
        )

    def at(self, point: str) -> list[Study]:
        """What it says of a point: what ran there, or else its only part. Raises RequestError where it has other points."""
        found = self.parts.get(point) or self.parts.get("")
        if not found:
            raise RequestError(
                f"{self.path} has run at {', '.join(self.parts)} and not at {point or 'one point'}: give a pilot that has, or --sd"
            )
        return found

    def spreads(self, point: str, baseline: str, arms: list[str]) -> dict[str, Spread]:
        """The widest spread of each arm's differences at a point, over the stages. Raises RequestError as `spreads_of` does."""
        stages = [spreads_of(study, baseline, arms) for study in self.at(point)]
        return {arm: max((found[arm] for found in stages), key=lambda spread: spread.planned) for arm in arms}


def pilot_of(path: Path) -> Pilot:
    """Read a pilot. Raises RequestError where there is none."""
    folder = StudyFolder(path)
    whole = folder.parts()
    if whole is None:
        study = collect(path)
        return Pilot(path, list(study.plan.get("request", [])) if study.plan else None, {"": [study]})
    stages = stages_held(whole)
    places = {point: [path / point / stage for stage in stages] for point in whole["points"] or [""]}
    parts = {
        point: [collect(there) for there in folders if any(there.rglob("run.json"))]
        for point, folders in places.items()
    }
    return Pilot(path, list(whole.get("request", [])), {point: found for point, found in parts.items() if found})


def spreads_of(pilot: Study, baseline: str, arms: list[str]) -> dict[str, Spread]:
    """The spread of each arm's differences in a pilot. Raises RequestError for an arm with fewer than two pairs, or with none."""
    losses = {arm: {r.seed: r.val_loss for r in pilot.of(arm) if r.val_loss is not None} for arm in (baseline, *arms)}
    found = {}
    for arm in arms:
        shared = losses[arm].keys() & losses[baseline].keys()
        if len(shared) < 2:
            raise RequestError(
                f"{pilot.folder.path} has {len(shared)} finished pair(s) of {arm} and {baseline}, and a spread takes two: run more "
                "seeds of it, or give --sd"
            )
        sd = paired(losses[arm], losses[baseline]).sd
        assert sd is not None
        found[arm] = Spread(sd, len(shared), tuple(_without_loss(pilot, [baseline, arm])))
    return found


def _without_loss(pilot: Study, arms: list[str]) -> list[str]:
    return [f"{r.arm}/seed={r.seed} {r.state}" for arm in arms for r in pilot.of(arm) if r.val_loss is None]


def pilot_notes(pilot: Study, words: list[str], arms: list[str]) -> list[str]:
    """What of a pilot says less of the planned study: runs that are left out, and settings that it did not have."""
    lost = _without_loss(pilot, arms)
    notes = [f"the spread leaves out {len(lost)} run(s) of the pilot: {', '.join(lost[:5])}"] if lost else []
    runs = [run for arm in arms for run in pilot.of(arm)]
    planned = None if pilot.plan is None else list(pilot.plan.get("request", []))
    had = _words_of(runs) if planned is None else planned
    settings = next((flat(run.config) for run in runs if run.config), {})
    mine = [word for word in _telling(words) if word not in had and not _had(settings, word)]
    if mine:
        notes.append(f"the pilot ran without {' '.join(mine)}: its spread may be another")
    given = {word.partition("=")[0] for word in words}
    theirs = [word for word in _telling(had) if planned is None and word.partition("=")[0] not in given]
    if theirs:  # of a plan they would be taken over
        notes.append(f"the pilot ran with {' '.join(theirs)}, which is not planned: its spread may be another")
    return notes


def _words_of(runs: list[Run]) -> list[str]:
    """What runs without a plan were asked for, the arms' own choice aside."""
    words = dict.fromkeys(word for run in runs for word in run.about.get("overrides", []))
    return [word for word in words if not word.startswith("fc_out=")]


def _telling(words: list[str]) -> list[str]:
    """Words that change how an arm is trained: not which arms and seeds, nor where."""
    return [word for word in words if not word.startswith(("study.", "name=", "outputs=", "seed="))]


def _had(settings: dict[str, Any], word: str) -> bool:
    key, _, value = word.partition("=")
    return str(settings.get(key)) == value


def seconds_a_cell(runs: list[Run], steps: int) -> float | None:
    """How long a cell of so many steps takes, by the runs that ended well, one by one on their worker; None without any."""
    paces = [
        (float(run.about["ended"]) - float(run.about["started"])) / run.about["result"]["step"]
        for run in runs
        if run.state == "ok" and "ended" in run.about and "resumed" not in run.about and run.about["result"].get("step")
    ]
    paces = [pace for pace in paces if pace > 0 and math.isfinite(pace)]
    return steps * statistics.median(paces) if paces else None
