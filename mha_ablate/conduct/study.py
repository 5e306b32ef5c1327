"""A whole study, from words to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.conduct.common import check_workers, failed_cells, in_words, interruptible, some, text_at_hand
from mha_ablate.errors import Interrupted, RequestError

if TYPE_CHECKING:
    from mha_ablate.config.schema import RunConfig, StudyConfig, TuneConfig
    from mha_ablate.study.execute import Pool, Times
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.parts import Part
    from mha_ablate.study.plan import Plan
    from mha_ablate.study.progress import Progress


@dataclass(frozen=True)
class Conducted:
    """A study that has come to its end: its folder, its report, and in one line what went wrong, if anything did.

    `plan` is None for a study of several parts. `remarks` say of cells that were interrupted before how they began: where they
    went on, or why they could not.
    """

    folder: Path
    plan: Plan | None
    report: dict[str, Any]
    failure: str | None
    remarks: list[str]


def conduct(
    overrides: list[str],
    *,
    workers: int | None,
    observer: Observer,
    config_dir: Path | None = None,
    check: Callable[[RunConfig], None] = lambda _: None,
) -> Conducted:
    """Plan, train what is not finished, measure, report. `config_dir` holds choices of the user's own.

    `check` may refuse the request by a RequestError, before anything is looked at.
    Raises RequestError before anything is written, RunFailed where no worker can run, Interrupted on Ctrl-C or SIGTERM.
    """
    check_workers(workers)
    conductor = _Conductor(overrides, workers, observer, config_dir)
    try:
        with interruptible():
            observer.checking()
            return conductor.conduct(text_at_hand(conductor.overrides, observer, config_dir, check))
    except Interrupted as error:
        raise Interrupted(f"{error}; {_what_is_kept(conductor.plans)}") from None
    except Exception as error:
        if told := in_words(error, _what_is_kept(conductor.plans)):
            raise told from error
        raise
    finally:
        if conductor.pool is not None:
            conductor.pool.stop()


class _Conductor:
    """One study, part by part: the workers outlive a part."""

    def __init__(self, overrides: list[str], workers: int | None, observer: Observer, config_dir: Path | None) -> None:
        from mha_ablate.config.bridge import apart

        self.overrides, self.hydras = apart(overrides)
        self.workers, self.observer, self.config_dir = workers, observer, config_dir
        _check_hydras(self.hydras, workers)
        self.elsewhere = _runs_elsewhere(self.hydras, config_dir)
        self.pool: Pool | None = None
        self.plans: list[Plan] = []
        self.failures: list[str] = []
        self.remarks: list[str] = []

    def conduct(self, asked: RunConfig) -> Conducted:
        """The whole study, and its report."""
        from mha_ablate.study.execute import Pool, default_workers

        self.pool = Pool(1 if self.hydras else self.workers or default_workers(asked.trainer.device))
        if asked.study.has_points or asked.study.tune:
            return self._several(asked)
        from mha_ablate.study.parts import Part

        plan = self._planned(Part())
        if plan.folder.parts() is not None:
            raise RequestError(
                f"{plan.folder.path} holds a study of several parts, and this one has a single part: give name=NEW_NAME"
            )
        self._warn(plan.folder.plan_file, plan.departures())
        report = self._run(plan, timed=True)
        return Conducted(plan.folder.path, plan, report, self._failure(), self.remarks)

    def _several(self, asked: RunConfig) -> Conducted:
        """Every part is checked before the first one runs."""
        from mha_ablate.conduct.points import checked_points, timed_points
        from mha_ablate.report.joint import write_joint
        from mha_ablate.report.write import write_again
        from mha_ablate.run.folder import StudyFolder
        from mha_ablate.run.lock import locked
        from mha_ablate.study.parts import check_factors, check_tuning, departures, points_of, write_parts
        from mha_ablate.study.plan import outputs_of

        study = asked.study
        check_tuning(study)
        path = outputs_of(asked) / (asked.name or study.name)
        if StudyFolder(path).plan_file.exists():
            raise RequestError(
                f"{path} holds a plan of one part, and study={study.name} has several parts: give name=NEW_NAME"
            )
        held = (StudyFolder(path).parts() or {}).get("study", study.name)
        if held != study.name:
            raise RequestError(f"{path} holds study={held}, and this is study={study.name}: give name=NEW_NAME")
        check_factors(StudyFolder(path), study)
        points = points_of(study)
        checked = checked_points(study, points, self._planned, self.overrides, self.config_dir)
        if study.tune:
            for point in points:
                self._grid(point, study.tune.rates, asked.optim.lr)
        whole = StudyFolder(path)
        self._warn(whole.parts_file, departures(whole, study) or [w for plan in checked for w in plan.departures()][:1])
        with locked(path):
            fixed = write_parts(whole, study, self.overrides)
            power = None if fixed.get("earlier") else fixed.get("power")
            told = zip(points, checked, timed_points(study, points), strict=True)
            for number, (point, plan, timed) in enumerate(told, start=1):
                self.observer.part(point.point or study.name, number, len(points))
                if study.tune is None:
                    self._run(plan, timed=timed)
                else:
                    self._tune_and_run(path, point, plan, study.tune, asked.optim.lr, power, timed=timed)
            self.observer.writing()
            report = write_joint(path)
            write_again(path, report)
        return Conducted(path, None, report, self._failure(), self.remarks)

    def _warn(self, file: Path, departures: list[str]) -> None:
        """Of a plan made ahead that this request departs from: said while it can still be kept."""
        if departures:
            self.observer.warning(
                f"with this, {file.parent} departs from the plan made ahead there ({'; '.join(departures)}), and its report "
                "will say so; name=NEW_NAME keeps the plan, and so does its own command once runs that it lacks are removed"
            )

    def _tune_and_run(
        self,
        path: Path,
        point: Part,
        shared: Plan,
        tune: TuneConfig,
        usual: float,
        power: dict[str, Any] | None,
        *,
        timed: bool,
    ) -> None:
        """The grid, widened while an optimum lies at its edge; then the study's seeds at the shared rate and at each arm's own.

        `power` is the reckoning of a plan made ahead: it holds for each arm's own best rate, which is found by a rule fixed there.
        """
        from mha_ablate.study import parts
        from mha_ablate.study.collect import collect

        grid = path / point.point / parts.GRID
        before = collect(grid) if grid.is_dir() and any(grid.rglob("run.json")) else None
        rates = parts.rates_to_begin_with(tune, before, shared.arms)
        while True:
            self._train(self._grid(point, rates, usual))
            tuning = parts.tuning_of(collect(grid)).only(shared.arms)
            if untuned := tuning.untuned(shared.arms):
                break
            wider = tuning.wider(tune)
            if wider == rates:
                break
            rates = wider
        if tune.shared:
            self._run(shared, timed=timed)
        if untuned:
            where = f"{point.point}: " if point.point else ""
            self.failures.append(f"{where}no rate of {', '.join(untuned)} has ended, so that none could be tuned")
            return
        stage = replace(point, stage=parts.TUNED)
        tuned = self._planned(stage, lambda study: parts.at_best(study, tuning.best))
        if power and tuned.folder.plan() is None:
            tuned.write((shared.folder.plan() or {}).get("power"))
        if tune.shared:
            parts.take_over(tuned.cells, shared.folder.path)
        self._run(tuned, timed=timed and not tune.shared)

    def _grid(self, point: Part, rates: list[float], usual: float) -> Plan:
        from mha_ablate.study.parts import GRID, on_grid

        return self._planned(replace(point, stage=GRID), lambda study: on_grid(study, rates, usual))

    def _planned(self, part: Part, shape: Callable[[StudyConfig], StudyConfig] | None = None) -> Plan:
        from mha_ablate.study.parts import single
        from mha_ablate.study.plan import make_plan

        assert self.pool is not None
        plan = make_plan(
            [*self.overrides, *part.words],
            (lambda: None) if self.hydras else self.pool.start,
            self.observer.reading,
            self.config_dir,
            below=part.below,
            shape=lambda study: single(shape(study) if shape else study),
            elsewhere=self.elsewhere,
        )
        self.plans.append(plan)
        return plan

    def _run(self, plan: Plan, *, timed: bool) -> dict[str, Any]:
        """The cells of one plan, their step times, their report."""
        from mha_ablate.report.write import write_report
        from mha_ablate.run.lock import locked

        with locked(plan.folder.path):
            self._train_locked(plan, timed=timed)
            self.remarks += _more_than_asked(plan)
            self.observer.writing()
            return write_report(plan.folder.path)

    def _train(self, plan: Plan) -> None:
        """Without step times and a report: a grid is shown by that of the whole."""
        from mha_ablate.run.lock import locked

        with locked(plan.folder.path):
            self._train_locked(plan, timed=False)

    def _train_locked(self, plan: Plan, *, timed: bool) -> None:
        from mha_ablate.report.live import LiveBoard
        from mha_ablate.study.execute import run_cells, time_arms, times_by_worker

        assert self.pool is not None
        plan.folder.clear_scratch()
        plan.write()
        board = LiveBoard(self.observer, plan.folder.path, plan.study.baseline)
        times = times_by_worker(self.pool, self.observer)
        if self.hydras:
            progress, launched_times = self._launched(plan, board)
            times = launched_times or times
        else:
            progress = run_cells(plan, self.pool, board, timed=timed)
        untimed = time_arms(plan, self.observer, times) if timed else None
        self.failures += [why for why in (failed_cells(progress) or untimed,) if why]
        self.remarks += _how_they_began(progress)

    def _launched(self, plan: Plan, board: Observer) -> tuple[Progress, Times | None]:
        """The cells through a launcher of Hydra's, and what measures step times there if that is elsewhere."""
        from mha_ablate.config.bridge import multirun_config, session
        from mha_ablate.study.launch import Launching

        with session(self.config_dir) as hydra:
            words = [*self.hydras, f"hydra.sweep.dir={plan.folder.path.absolute()}"]
            config = multirun_config(hydra, words, self.config_dir)
            launching = Launching(hydra, config, plan.folder, board)
            launching.watch(lambda: launching.launch(plan.cells))
            launching.look()

        def times(configs: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
            with session(self.config_dir) as hydra:
                there = Launching(hydra, config, plan.folder, board)
                return there.watch(lambda: there.times(configs, text))

        return launching.progress, times if launching.on_other_machines else None

    def _failure(self) -> str | None:
        return "; ".join(self.failures) or None


def _check_hydras(words: list[str], workers: int | None) -> None:
    """Refuse what would be silently ignored of Hydra's own settings in a study."""
    from mha_ablate.config.compose import key_of

    for word in words:
        if key_of(word).startswith(("hydra/sweeper", "hydra.sweep")):
            raise RequestError(
                f"{word}: a study has its own arms and seeds, and name= says where; `mha-ablate sweep` takes this"
            )
    if words and workers is not None:
        raise RequestError(f"--workers {workers}: {words[0]} says how many cells run at once; leave one of them out")


def _runs_elsewhere(words: list[str], config_dir: Path | None) -> bool:
    """Whether Hydra's settings send the cells to other machines. Raises RequestError for settings that cannot be."""
    from mha_ablate.config.bridge import multirun_config, session

    if not words:
        return False
    with session(config_dir) as hydra:
        config = multirun_config(hydra, words, config_dir)
        from mha_ablate.study.launch import is_elsewhere

        return is_elsewhere(config)


def _how_they_began(progress: Progress) -> list[str]:
    """Of the cells that were trained now and had been interrupted before: one line each kind."""
    runs = {cell.name: cell.folder.read() for cell in progress.todo}
    went_on = [f"{name} after step {run['resumed'][-1]['step']}" for name, run in runs.items() if "resumed" in run]
    anew = [f"{name} ({run['began_anew']})" for name, run in runs.items() if "began_anew" in run]
    found = (("went on where their states were saved", went_on), ("began anew", anew))
    return [f"{len(cells)} cell(s) {how}: {some(cells)}" for how, cells in found if cells]


def _more_than_asked(plan: Plan) -> list[str]:
    """Of seeds that an earlier request left and that take part in the report, though this one did not name them."""
    lie = set((plan.folder.plan() or {}).get("seeds", []))
    asked = plan.study.seed_list
    if lie <= set(asked):
        return []
    return [f"{len(asked)} seed(s) were asked for, and the report is over all {len(lie)} that {plan.folder.path} holds"]


def _what_is_kept(plans: list[Plan]) -> str:
    if not plans:
        return "nothing was begun"
    cells = {cell.folder.path: cell for plan in plans for cell in plan.cells}.values()
    done = sum(cell.finished() is not None for cell in cells)
    return f"{done} of {len(cells)} cells are finished and kept"
