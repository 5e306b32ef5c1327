"""A study of several parts: the same arms at several points, or with each arm's learning rate tuned first.

    <study>/<point>/plan.json ...                          where the study has points
    <study>/[<point>/]grid, shared, tuned/plan.json ...    where it tunes: every arm at every rate on tuning seeds, then the
                                                           study's seeds at the shared rate and at each arm's own best

Each part is a whole study with a folder of its own. What was tuned is read from the runs of the grid, as everything is.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mha_ablate.config.compose import key_of
from mha_ablate.config.schema import STAGES_OF_TUNING, StudyConfig, TuneConfig
from mha_ablate.config.sweep import shown_rate
from mha_ablate.errors import RequestError, RunFailed
from mha_ablate.run.folder import RunFolder, StudyFolder, write_json
from mha_ablate.study.cell import Cell
from mha_ablate.study.collect import Study
from mha_ablate.study.promise import changes, headed

GRID, SHARED, TUNED = STAGES_OF_TUNING
STABLE = 0.1  # nats: a rate at which an arm ends this close to its best counts as one that it trains at


@dataclass(frozen=True)
class Part:
    """One part of a study: the folder below it, the words of its point, and its stage of tuning, if any."""

    point: str = ""
    words: tuple[str, ...] = ()
    stage: str = ""

    @property
    def below(self) -> str:
        """The folder below the study's."""
        return "/".join(name for name in (self.point, self.stage) if name)


def points_of(study: StudyConfig) -> list[Part]:
    """The study's points; one without a name where it has none."""
    return [Part(point, tuple(words)) for point, words in study.point_words.items()] or [Part()]


def write_parts(
    folder: StudyFolder, study: StudyConfig, request: list[str], power: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write parts.json, and return it: points, tuning, arms and seeds of the whole. `power` as in `Plan.write`.

    Tuning in another way than was planned cannot be taken back: its rates lie in the grid, and take part.
    """
    before = {} if power else folder.parts() or {}
    now = _merged(study, before)
    final = bool(before.get("earlier")) and before.get("tune") != now["tune"]
    if (whole := headed(now, before, request=request, power=power, final=final)) is None:
        return before
    write_json(folder.parts_file, whole)
    return whole


def departures(folder: StudyFolder, study: StudyConfig) -> list[str]:
    """What the whole would have otherwise than a plan made ahead of it has, in words."""
    before = folder.parts() or {}
    promised = before.get("promised")
    return [] if promised is None else changes(promised, _merged(study, before))


def _merged(study: StudyConfig, before: dict[str, Any]) -> dict[str, Any]:
    """What the request fixes, and of a promise what the request leaves out."""
    promised = before.get("promised", {})
    claims = {name: asdict(claim) for name, claim in study.claims.items()}
    return {
        "study": study.name,
        "baseline": study.baseline,
        "margin": study.margin,
        "seeds": sorted({*promised.get("seeds", []), *study.seed_list}),
        "arms": {**promised.get("arms", {}), **{arm: list(study.arms[arm]) for arm in study.chosen}},
        "points": {**promised.get("points", {}), **{point: list(words) for point, words in study.point_words.items()}},
        "tune": _tune(study),
        **({"claims": claims} if claims else {}),
        **({"factors": factors} if (factors := _factors(study)) else {}),
    }


def _tune(study: StudyConfig) -> dict[str, Any] | None:
    """How rates are tuned; `shared` stands in it where the shared rate is left out."""
    if study.tune is None:
        return None
    tune = json.loads(json.dumps(asdict(study.tune)))
    return {key: value for key, value in tune.items() if key != "shared" or not value}


def _factors(study: StudyConfig) -> dict[str, list[list[str]]]:
    """Both levels of every factor of a screen, low and high."""
    return {name: list(levels) for name, levels in study.factor_words.items()}


def check_factors(folder: StudyFolder, study: StudyConfig) -> None:
    """Raise RequestError where a folder holds a screen of other factors: its points have the same names and other settings."""
    held = folder.parts() or {}
    if held.get("factors", {}) != _factors(study) and (held.get("factors") or study.factor_words) and held:
        raise RequestError(
            f"{folder.path} holds a study of {', '.join(held.get('factors', {})) or 'no factors'}, and this one has "
            f"{', '.join(study.factor_words) or 'no factors'}, or other levels of them: give name=NEW_NAME"
        )


def arm_at(arm: str, rate: float) -> str:
    """The name of an arm of the grid."""
    return f"{arm}_lr{shown_rate(rate)}"


def on_grid(study: StudyConfig, rates: list[float], usual: float) -> StudyConfig:
    """Every arm at every rate on the tuning seeds; the baseline is that at the rate next to `usual`."""
    assert study.tune is not None
    arms = {arm_at(arm, rate): _at_rate(study.arms[arm], rate) for arm in study.chosen for rate in rates}
    near = min(rates, key=lambda rate: abs(math.log(rate / usual)))
    base = arm_at(study.baseline, near)
    return replace(
        study, arms=arms, pick=None, baseline=base, seeds=study.tune.seeds, waterfall={}, copies={}, claims={}
    )


def at_best(study: StudyConfig, best: dict[str, float]) -> StudyConfig:
    """The study's arms, each at its own best rate."""
    return replace(study, arms={arm: [*words, *_rate(best.get(arm))] for arm, words in study.arms.items()})


def _at_rate(words: list[str], rate: float) -> list[str]:
    """An arm's words at a rate; what it is matched to is at the same one."""
    moved = [f"{word}_lr{shown_rate(rate)}" if word.startswith("match_to=") else word for word in words]
    return [*moved, *_rate(rate)]


def _rate(rate: float | None) -> list[str]:
    return [] if rate is None else [f"optim.lr={shown_rate(rate)}"]


def single(study: StudyConfig) -> StudyConfig:
    """The study as one part of itself."""
    return replace(study, points=None, factors={}, own_factors=None, tune=None, claims={})


def check_tuning(study: StudyConfig) -> None:
    """Raise RequestError where tuning and the arms or the seeds of a study do not go together."""
    if study.tune is None:
        return
    own = [arm for arm in study.chosen if _sets_rate(study.arms[arm])]
    if own:
        raise RequestError(f"arm {own[0]} sets optim.lr, and study.tune finds each arm's own: leave one of them out")
    _check_rates(study)
    both = sorted(set(study.tune.seeds) & set(study.seed_list))
    if both:
        raise RequestError(
            f"study.tune.seeds has {both[0]}, which is one of study.seeds: a rate tuned on test seeds is fitted to them"
        )


def _check_rates(study: StudyConfig) -> None:
    """Raise RequestError where a point or a factor sets the rate that tuning then finds in its place."""
    why = "sets optim.lr, which study.tune replaces by each arm's best rate, so that"
    for name, levels in study.factor_words.items():
        if any(map(_sets_rate, levels)):
            others = ",".join(other for other in study.factor_words if other != name) or "..."
            raise RequestError(
                f"study.factors.{name} {why} the factor would change nothing: give study.factors=[{others}], or study.tune=null"
            )
    for name, words in study.point_words.items():
        if _sets_rate(words):
            raise RequestError(
                f"study.points: {name} {why} the point would change nothing: leave it out, or give study.tune=null"
            )


def _sets_rate(words: Collection[str]) -> bool:
    return any(key_of(word) == "optim.lr" for word in words)


@dataclass(frozen=True)
class Tuning:
    """What a grid showed: the mean final loss of each arm at each rate over the tuning seeds, infinite where a seed diverged."""

    losses: dict[str, dict[float, float]]
    seeds: list[int] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """All rates, from the lowest."""
        return sorted({rate for curve in self.losses.values() for rate in curve})

    @property
    def best(self) -> dict[str, float]:
        """Each arm's best rate. Raises RunFailed for an arm that diverged at every one."""
        for arm, curve in self.losses.items():
            if not any(map(math.isfinite, curve.values())):
                raise RunFailed(f"{arm} diverged at every rate of the grid: give lower ones, study.tune.rates=[...]")
        return {arm: min(curve, key=lambda rate: curve[rate]) for arm, curve in self.losses.items()}

    def untuned(self, arms: Collection[str]) -> list[str]:
        """Arms of which no rate has ended at all of its seeds: what suits them is not known."""
        return [arm for arm in arms if arm not in self.losses]

    @property
    def at_edge(self) -> list[str]:
        """Arms whose best rate is the lowest or the highest that they were tried at: a better one may lie outside."""
        return [arm for arm, rate in self.best.items() if rate in (min(self.losses[arm]), max(self.losses[arm]))]

    @property
    def widest_stable(self) -> dict[str, float]:
        """The highest rate at which an arm still trains: no seed diverged, and it ends within 0.1 nats of its best."""
        limit = {arm: curve[self.best[arm]] + STABLE for arm, curve in self.losses.items()}
        return {arm: max(r for r, loss in curve.items() if loss <= limit[arm]) for arm, curve in self.losses.items()}

    @property
    def sensitivity(self) -> dict[str, float]:
        """Mean over the grid of how far an arm ends above its best, in nats, at most 1 each (Wortsman et al. 2023, section 2.1)."""
        return {
            arm: statistics.fmean(min(1.0, loss - curve[self.best[arm]]) for loss in curve.values())
            for arm, curve in self.losses.items()
        }

    def only(self, arms: Collection[str]) -> Tuning:
        """What it showed of these arms: an earlier request may have left others."""
        return Tuning({arm: curve for arm, curve in self.losses.items() if arm in arms}, self.seeds)

    def wider(self, tune: TuneConfig) -> list[float]:
        """The rates, with one more at each end that is some arm's best, up to `tune.widen`: for all arms, to keep budgets equal."""
        rates, best = self.rates, set(self.best.values())
        under, over = sum(r < tune.rates[0] for r in rates), sum(r > tune.rates[-1] for r in rates)
        below = [_rounded(rates[0] ** 2 / rates[1])] if rates[0] in best and under < tune.widen else []
        above = [_rounded(rates[-1] ** 2 / rates[-2])] if rates[-1] in best and over < tune.widen else []
        return [*below, *rates, *above]


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")


def tuning_of(grid: Study) -> Tuning:
    """Read from the runs of a grid; an arm at a rate counts once all of its tuning seeds have ended."""
    losses: dict[str, dict[float, float]] = {}
    for name in grid.arms:
        wanted = _tuning_seeds(grid, name)
        runs = [run for run in grid.of(name) if run.seed in wanted and run.state in ("ok", "diverged")]
        if len(runs) < len(wanted):
            continue
        rate = float(runs[0].config["optim"]["lr"])
        values = [math.inf if run.val_loss is None else run.val_loss for run in runs]
        losses.setdefault(name.rpartition("_lr")[0], {})[rate] = statistics.fmean(values)
    return Tuning(losses, sorted({run.seed for run in grid.runs}))


def _tuning_seeds(grid: Study, name: str) -> set[int]:
    """The seeds planned for an arm at a rate: an earlier request may have left other arms with others. Without a plan, all."""
    cells = (grid.plan or {}).get("cells", {})
    planned = {int(cell.rpartition("=")[2]) for cell in cells if cell.rpartition("/")[0] == name}
    return planned or {run.seed for run in grid.runs}


def rates_to_begin_with(tune: TuneConfig, before: Study | None, arms: Collection[str]) -> list[float]:
    """The rates of the request, and those that an interrupted study had widened the grid of these arms by."""
    mine = [run for run in before.runs if run.config and run.arm.rpartition("_lr")[0] in arms] if before else []
    return sorted({*tune.rates, *(float(run.config["optim"]["lr"]) for run in mine)})


def take_over(cells: list[Cell], sibling: Path) -> None:
    """Copy from a sibling part what is the very same run there: an arm whose best rate is the shared one."""
    for cell in cells:
        there = RunFolder(sibling / cell.arm / cell.folder.path.name)
        found = there.read()
        if cell.folder.read() or found.get("config_hash") != cell.hash or found.get("state") not in ("ok", "diverged"):
            continue
        scratch = cell.folder.path.with_name(f".{cell.folder.path.name}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(there.path, scratch)
        about: dict[str, Any] = {**found, "copied_from": f"{sibling.name}/{cell.arm}/{cell.folder.path.name}"}
        write_json(scratch / cell.folder.run_file.name, about)
        if cell.folder.path.is_dir():
            cell.folder.path.rmdir()
        scratch.rename(cell.folder.path)
