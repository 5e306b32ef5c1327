"""A plan made ahead of its study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mha_ablate.conduct.common import check_workers, interruptible
from mha_ablate.errors import RequestError

if TYPE_CHECKING:
    from mha_ablate.config.schema import StudyConfig
    from mha_ablate.study.ahead import Reckoning
    from mha_ablate.study.collect import Study
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.plan import Plan


@dataclass(frozen=True)
class Ahead:
    """A plan made ahead of its study, and written: its words, what it rests on, and the seconds it will take, if that is known."""

    plan: Plan
    reckoning: Reckoning
    request: list[str]
    seconds: float | None
    notes: list[str]  # what of the pilot was left out, or was otherwise


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
    """Reckon the seeds that a study needs, check it whole, and write its plan.json. Raises RequestError; trains nothing."""
    check_workers(workers)
    with interruptible():
        observer.checking()
        from mha_ablate.config.compose import compose
        from mha_ablate.run.folder import StudyFolder
        from mha_ablate.run.lock import locked
        from mha_ablate.study.ahead import Spread, pilot_notes, reckon, seconds_a_cell, spreads_of
        from mha_ablate.study.collect import collect
        from mha_ablate.study.execute import default_workers
        from mha_ablate.study.plan import make_plan

        if pilot and StudyFolder(pilot).parts() is not None:
            raise RequestError(
                f"--pilot {pilot} holds a study of several parts: give one of them, a folder below it with a plan.json"
            )
        found = collect(pilot) if pilot else None
        request = planned_request(overrides, found)
        study = compose(request, config_dir).config.study
        arms = _contrasted(study, effect)
        spreads = dict.fromkeys(arms, Spread(sd, None)) if sd is not None else {}
        if found:
            spreads = spreads_of(found, study.baseline, arms)
        reckoning = reckon(spreads, effect=effect, power=power, margin=study.margin)
        first = max((run.seed for run in found.runs), default=-1) + 1 if found else 0
        request.append(f"study.seeds=[{','.join(str(first + i) for i in range(reckoning.seeds))}]")
        plan = make_plan(request, watch=observer.reading, config_dir=config_dir)
        if plan.folder.runs():
            raise RequestError(
                f"{plan.folder.path} holds runs already, and a plan comes before them: give name=NEW_NAME"
            )
        with locked(plan.folder.path):
            plan.write(reckoning.to_json())
        config = plan.arms[study.baseline]
        each = seconds_a_cell(found.runs, config.trainer.steps) if found else None
        at_once = workers or default_workers(config.trainer.device)
        notes = pilot_notes(found, overrides, [study.baseline, *arms]) if found else []
        return Ahead(plan, reckoning, request, each and each * len(plan.cells) / at_once, notes)


def _contrasted(study: StudyConfig, effect: float) -> list[str]:
    """The arms that are compared with the baseline. Raises RequestError for a study that no plan can be made for."""
    if study.points or study.tune:
        raise RequestError(
            f"study={study.name} has several parts, and a plan is made for one: give study.points=null study.tune=null, and "
            "what is asked at one point, such as model.n_heads=4"
        )
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


def planned_request(overrides: list[str], pilot: Study | None) -> list[str]:
    """The pilot's own words, but for its seeds and name, and then the given ones; under a name of its own."""
    given = {word.partition("=")[0] for word in overrides}
    if "study.seeds" in given:
        raise RequestError("study.seeds: `plan` reckons the seeds; leave them out")
    before = list((pilot.plan or {}).get("request", [])) if pilot else []
    kept = [word for word in before if word.partition("=")[0] not in given | {"study.seeds", "name"}]
    if "name" in given:
        return [*kept, *overrides]
    name = pilot.folder.path.resolve().name if pilot else "study"
    return [*kept, *overrides, f"name={name}_planned"]
