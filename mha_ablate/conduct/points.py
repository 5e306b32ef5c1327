"""The points of a study: each checked before the first one runs, and which of them have their steps timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mha_ablate.errors import RequestError

if TYPE_CHECKING:
    from mha_ablate.config.schema import StudyConfig
    from mha_ablate.study.parts import Part
    from mha_ablate.study.plan import Plan

NO_SLOWER = ("init", "optim")  # groups whose settings no step takes longer by


def checked_points(
    study: StudyConfig,
    points: Sequence[Part],
    planned: Callable[[Part], Plan],
    overrides: list[str],
    config_dir: Path | None,
) -> list[Plan]:
    """The plan of each point of a study that was asked for by `overrides`.

    Where rates are tuned, arms are checked at the shared rate, even if nothing is run at it: their own are not known yet.
    Raises RequestError where a point cannot be. A screen's error names the design point or the level whose fault it is, and two
    of its points that are one setting are refused.
    """
    from mha_ablate.study.parts import SHARED

    plans = []
    for point in points:
        try:
            plans.append(planned(replace(point, stage=SHARED if study.tune else "")))
        except RequestError as error:
            if not study.factor_words:
                raise
            raise RequestError(f"{_at_fault(point, study, overrides, config_dir)}: {error}") from error
    if study.factor_words:
        _check_unlike(study, plans)
    return plans


def _at_fault(point: Part, study: StudyConfig, overrides: list[str], config_dir: Path | None) -> str:
    """The level that no design point can be built with; else the design point."""

    def composes(words: Sequence[str]) -> bool:
        from mha_ablate.config.compose import compose

        try:
            compose([*overrides, *words], config_dir)
        except RequestError:
            return False
        return True

    for factor, levels in study.factor_words.items():
        for words in levels:
            others = [other for other in study.point_words.values() if set(words) <= set(other)]
            if not composes(words) and not any(map(composes, others)):
                return f"study.factors.{factor}, level {' '.join(words)}"
    return f"design point {point.point} ({' '.join(point.words)}) cannot be built"


def _check_unlike(study: StudyConfig, plans: list[Plan]) -> None:
    """Raise RequestError for a screen of which two design points are one setting: a factor then changes nothing."""
    names, words = list(study.point_words), study.point_words
    seen: dict[tuple[str, ...], str] = {}
    for name, plan in zip(names, plans, strict=True):
        other = seen.setdefault(tuple(cell.hash for cell in plan.cells), name)
        if other != name:
            raise RequestError(
                f"design points {other} ({' '.join(words[other])}) and {name} ({' '.join(words[name])}) are the same setting: "
                "a factor's two levels come to the same, or a later factor sets the same key; give levels that differ"
            )


def timed_points(study: StudyConfig, points: Sequence[Part]) -> list[bool]:
    """Whether the steps of each point are timed: not where an earlier point differs in its start or its optimizer alone.

    A screen times none of its points.
    """
    from mha_ablate.config.compose import key_of

    seen: set[tuple[str, ...]] = set()
    timed = []
    for point in points:
        telling = tuple(word for word in point.words if key_of(word).partition(".")[0] not in NO_SLOWER)
        timed.append(telling not in seen and not study.factor_words)
        seen.add(telling)
    return timed
