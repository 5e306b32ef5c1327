"""Verdicts over all parts of a study together: ten points are ten chances of a false alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mha_ablate.config.schema import STAGES_OF_TUNING, stages_held
from mha_ablate.run.folder import StudyFolder
from mha_ablate.stats.paired import paired
from mha_ablate.stats.verdict import decide

_, SHARED, TUNED = STAGES_OF_TUNING
STAGES = {SHARED: "shared rate", TUNED: "own best rate", "": ""}


def wholes(path: Path, parts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The parts.json of each study that `parts` belong to, by its folder below `path`: `""` for `path` itself."""
    found = {}
    for part in parts:
        folder = path / part["folder"]
        for above in (folder.parent, folder.parent.parent):
            below = path in (above, *above.parents)
            if below and (whole := StudyFolder(above).parts()):
                name = above.relative_to(path).as_posix()
                found["" if name == "." else name] = whole
    return found


def whole_above(folder: Path) -> Path | None:
    """The folder of the study that this one is a part of; None where it is no part."""
    absolute = folder.resolve()
    return next((above for above in (absolute.parent, absolute.parent.parent) if StudyFolder(above).parts()), None)


def parts_of(name: str, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that lie below a study's folder."""
    return [part for part in parts if not name or part["folder"].startswith(f"{name}/")]


def absent_of(name: str, whole: dict[str, Any], parts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(point, stage) of the parts that a study has and that have no run yet."""
    there = {(part["point"], part["stage"]) for part in parts}
    stages = stages_held(whole)
    wanted = [(point, stage) for stage in stages for point in whole["points"] or [""]]
    places = [("/".join(filter(None, (name, point))), stage) for point, stage in wanted if point or stage]
    return [place for place in places if place not in there]


def decide_together(parts: list[dict[str, Any]], absent: list[tuple[str, str]]) -> None:
    """Verdicts over all contrasts of a stage together: ten points are ten chances of a false alarm, those to come among them."""
    for stage in STAGES:
        of_stage = [part for part in parts if part["stage"] == stage]
        of_point = max((sum(not arm["exploratory"] for arm in part["arms"][1:]) for part in of_stage), default=0)
        later = {f"{place}\n{n}": "not run yet" for place in absent if place[1] == stage for n in range(of_point)}
        unfit_arms = {_contrast(p, arm): why for p in of_stage for arm, why in p["unfit"].items()}
        unplanned = {_contrast(p, a["arm"]) for p in of_stage for a in p["arms"][1:] if a["exploratory"]}
        cells = [(p, a) for p in of_stage for a in p["arms"][1:] if a["delta"]]
        contrasts = {_contrast(p, a["arm"]): paired(_losses(a), _losses(p["arms"][0])) for p, a in cells}
        verdicts = {
            margin: decide(contrasts, margin=margin, incomplete=unfit_arms | later, exploratory=unplanned)
            for margin in {part["margin"] for part in of_stage}
        }
        for part, arm in cells:
            verdict = verdicts[part["margin"]][_contrast(part, arm["arm"])]
            arm |= {"verdict": verdict.word, "verdict_reason": verdict.reason, "look": verdict.look}
            arm["delta"] |= {"p_holm": verdict.p_holm, "verdict_reason": verdict.reason}
        for part in of_stage:
            part["family"] = len({*contrasts, *unfit_arms, *later} - unplanned)


def _contrast(part: dict[str, Any], arm: str) -> str:
    """A contrast's name among those of all parts."""
    return f"{part['folder']}\n{arm}"


def _losses(arm: dict[str, Any]) -> dict[int, float]:
    return {int(seed): loss for seed, loss in arm["val_loss"]["values"].items() if loss is not None}
