"""A plan made ahead of its study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.conduct.common import check_workers, interruptible
from mha_ablate.errors import RequestError

if TYPE_CHECKING:
    from mha_ablate.config.schema import RunConfig, StudyConfig
    from mha_ablate.study.ahead import Pilot, Reckoning, Spread
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.parts import Part
    from mha_ablate.study.plan import Plan


@dataclass(frozen=True)
class Ahead:
    """A plan made ahead of its study, and written: its words, what it rests on, and the seconds it will take, if that is known."""

    file: Path  # plan.json, or parts.json of a study of several parts
    fixed: dict[str, Any]  # what it holds
    plans: list[Plan]  # one a point
    cells: int  # of all parts, as far as they are known ahead: a grid may be widened, and a best rate be the shared one
    reckoning: Reckoning
    request: list[str]
    seconds: float | None
    notes: list[str]  # what of the pilot was left out, or was otherwise

    @property
    def steps(self) -> int:
        """Of a cell."""
        return self.plans[0].arms[self.plans[0].study.baseline].trainer.steps


def conduct_plan(
    overrides: list[str],
    *,
    pilot: Path | None,
    sd: float | None,
    effect: float,
    power: float,
    workers: int | None,
    observer: Observer,
    config_dir: Path | None = None,
) -> Ahead:
    """Reckon the seeds that a study needs, check it whole, and write its plan. Raises RequestError; trains nothing."""
    check_workers(workers)
    with interruptible():
        observer.checking()
        from mha_ablate.config.compose import compose
        from mha_ablate.study.ahead import pilot_of, reckon
        from mha_ablate.study.parts import check_tuning, points_of

        found = pilot_of(pilot) if pilot else None
        request = planned_request(overrides, found)
        study = compose(request, config_dir).config.study
        arms = _contrasted(study, effect)
        points = points_of(study)
        spreads = _spreads(found, sd, study.baseline, arms, points)
        reckoning = reckon(spreads, effect=effect, power=power, margin=study.margin)
        first = found.first_fresh_seed if found else 0
        request.append(_seeds_word(_fresh(first, reckoning.seeds, study)))
        config = compose(request, config_dir).config
        study = config.study
        check_tuning(study)
        if study.tune and not study.tune.shared:
            raise RequestError(
                "study.tune.shared=false: a plan fixes the runs at the shared rate, and this study has none; give "
                "study.tune.shared=true"
            )
        _check_place(config, study)
        plans = _planned(request, points, study, observer, config_dir)
        notes = _notes(found, overrides, [study.baseline, *arms], points)
        file, fixed = _written(study, request, points, plans, reckoning, notes)
        seconds, cells = _taken(study, plans, points, found, workers)
        return Ahead(file, fixed, plans, cells, reckoning, request, seconds, notes)


def _seeds_word(seeds: list[int]) -> str:
    """As short as it goes: the first n are `study.seeds=n`."""
    listed = f"[{','.join(map(str, seeds))}]"
    return f"study.seeds={len(seeds) if seeds == list(range(len(seeds))) else listed}"


def _spreads(
    pilot: Pilot | None, sd: float | None, baseline: str, arms: list[str], points: list[Part]
) -> dict[str, Spread]:
    """What each contrast is planned with, by point and arm."""
    from mha_ablate.study.ahead import Spread

    found = {}
    for point in points:
        of_point = pilot.spreads(point.point, baseline, arms) if pilot else dict.fromkeys(arms, Spread(sd or 0.0, None))
        found |= {" ".join(filter(None, (point.point, arm))): spread for arm, spread in of_point.items()}
    return found


def _fresh(first: int, count: int, study: StudyConfig) -> list[int]:
    """So many seeds from the first that the pilot has not used, without those that rates are tuned on."""
    taken = set(study.tune.seeds) if study.tune else set()
    return [seed for seed in range(first, first + count + len(taken)) if seed not in taken][:count]


def _check_place(config: RunConfig, study: StudyConfig) -> None:
    """Raise RequestError where the study's folder holds runs, or a plan of another kind.

    Any other plan, of which nothing has run, is replaced: of other factors too.
    """
    from mha_ablate.run.folder import StudyFolder
    from mha_ablate.study.plan import outputs_of

    root = StudyFolder(outputs_of(config) / (config.name or study.name))
    if root.runs():
        raise RequestError(f"{root.path} holds runs already, and a plan comes before them: give name=NEW_NAME")
    mine, other = (root.parts_file, root.plan_file) if _several(study) else (root.plan_file, root.parts_file)
    if other.exists():
        raise RequestError(f"{other} is there, and this study writes {mine.name}: give name=NEW_NAME")


def _planned(
    request: list[str], points: list[Part], study: StudyConfig, observer: Observer, config_dir: Path | None
) -> list[Plan]:
    """The plan of each point, checked, at the shared rate if rates are tuned."""
    from mha_ablate.conduct.points import checked_points
    from mha_ablate.study.parts import single
    from mha_ablate.study.plan import make_plan

    def planned(part: Part) -> Plan:
        words = [*request, *part.words]
        return make_plan(words, watch=observer.reading, config_dir=config_dir, below=part.below, shape=single)

    return checked_points(study, points, planned, request, config_dir)


def _several(study: StudyConfig) -> bool:
    return bool(study.has_points or study.tune)


def _written(
    study: StudyConfig,
    request: list[str],
    points: list[Part],
    plans: list[Plan],
    reckoning: Reckoning,
    notes: list[str],
) -> tuple[Path, dict[str, Any]]:
    """The file that fixes the whole, and what it holds now."""
    from mha_ablate.run.lock import locked
    from mha_ablate.study.parts import write_parts

    root = plans[0].root
    with locked(root.path):
        for point, plan in zip(points, plans, strict=True):
            plan.write({**reckoning.to_json(point.point), "notes": notes})
        if not _several(study):
            return root.plan_file, root.plan() or {}
        return root.parts_file, write_parts(root, study, request, {**reckoning.to_json(), "notes": notes})


def _taken(
    study: StudyConfig, plans: list[Plan], points: list[Part], pilot: Pilot | None, workers: int | None
) -> tuple[float | None, int]:
    """Seconds by the pilot's pace, None without, and cells, those of tuning among them."""
    from mha_ablate.study.ahead import seconds_a_cell
    from mha_ablate.study.execute import default_workers

    total, cells = 0.0, 0
    for point, plan in zip(points, plans, strict=True):
        config = plan.arms[study.baseline]
        grid = len(plan.arms) * len(study.tune.rates) * len(study.tune.seeds) if study.tune else 0
        here = len(plan.cells) * (2 if study.tune else 1) + grid
        runs = [run for part in pilot.at(point.point) for run in part.runs] if pilot else []
        each = seconds_a_cell(runs, config.trainer.steps)
        total, cells = total + (each or float("nan")) * here, cells + here
    at_once = workers or default_workers(plans[0].arms[study.baseline].trainer.device)
    return (total / at_once if total == total else None), cells


def _notes(pilot: Pilot | None, overrides: list[str], arms: list[str], points: list[Part]) -> list[str]:
    """What of the pilot says less of the planned study, each once."""
    from mha_ablate.study.ahead import pilot_notes

    if pilot is None:
        return []
    told = [pilot_notes(pilot.at(p.point)[0], [*overrides, *p.words], arms) for p in points]
    return list(dict.fromkeys(note for notes in told for note in notes))


def _contrasted(study: StudyConfig, effect: float) -> list[str]:
    """The arms that are compared with the baseline. Raises RequestError for a study that no plan can be made for."""
    if effect < study.margin:
        raise RequestError(
            f"--effect {effect:g} is within the margin of ±{study.margin:g} nats, and so small a difference is called "
            f"equivalent, not found: give study.margin={effect / 2:g}, or a larger effect"
        )
    arms = [arm for arm in study.chosen if arm != study.baseline]
    if not arms:
        raise RequestError(
            f"a plan takes an arm besides the baseline {study.baseline}: choose some with study.arms=[...]"
        )
    return arms


def planned_request(overrides: list[str], pilot: Pilot | None) -> list[str]:
    """The pilot's own words, but for its seeds and name, and then the given ones; under a name of its own."""
    given = {word.partition("=")[0] for word in overrides}
    if "study.seeds" in given:
        raise RequestError("study.seeds: `plan` reckons the seeds; leave them out")
    before = (pilot.request or []) if pilot else []
    kept = [word for word in before if word.partition("=")[0] not in given | {"study.seeds", "name"}]
    if "name" in given:
        return [*kept, *overrides]
    name = pilot.path.resolve().name if pilot else "study"
    return [*kept, *overrides, f"name={name}_planned"]
