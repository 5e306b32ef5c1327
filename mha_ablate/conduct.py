"""A whole study or run from words to result, as the command line and notebooks both have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.errors import (
    Interrupted,
    MhaAblateError,
    RequestError,
    RunFailed,
    hides_interrupt,
    in_a_line,
    machine_trouble,
)

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

    from mha_ablate.config.schema import RunConfig, StudyConfig, TuneConfig
    from mha_ablate.run.folder import StudyFolder
    from mha_ablate.study.ahead import Reckoning
    from mha_ablate.study.cell import Cell
    from mha_ablate.study.collect import Study
    from mha_ablate.study.execute import Pool, Times
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.parts import Part
    from mha_ablate.study.plan import Plan
    from mha_ablate.study.progress import Progress
    from mha_ablate.study.replay import Replay

NAMED = 3  # failed cells in the one line that ends a study


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
    overrides: list[str], *, workers: int | None, observer: Observer, config_dir: Path | None = None
) -> Conducted:
    """Plan, train what is not finished, measure, report. `config_dir` holds choices of the user's own.

    Raises RequestError before anything is written, RunFailed where no worker can run, Interrupted on Ctrl-C or SIGTERM.
    """
    _check_workers(workers)
    conductor = _Conductor(overrides, workers, observer, config_dir)
    try:
        with interruptible():
            observer.checking()
            return conductor.conduct(_text_at_hand(conductor.overrides, observer, config_dir))
    except Interrupted as error:
        raise Interrupted(f"{error}; {_what_is_kept(conductor.plans)}") from None
    except Exception as error:
        if told := _in_words(error, _what_is_kept(conductor.plans)):
            raise told from error
        raise
    finally:
        if conductor.pool is not None:
            conductor.pool.stop()


def _check_workers(workers: int | None) -> None:
    if workers is not None and not 1 <= workers <= 1024:
        raise RequestError(f"workers={workers} (--workers) is out of range: it must be 1 to 1024")


class _Conductor:
    """One study, part by part: the workers outlive a part."""

    def __init__(self, overrides: list[str], workers: int | None, observer: Observer, config_dir: Path | None) -> None:
        from mha_ablate.config.bridge import apart

        self.overrides, self.hydras = apart(overrides)
        self.workers, self.observer, self.config_dir = workers, observer, config_dir
        _check_hydras(self.hydras, workers)
        self.pool: Pool | None = None
        self.plans: list[Plan] = []
        self.failures: list[str] = []
        self.remarks: list[str] = []

    def conduct(self, asked: RunConfig) -> Conducted:
        """The whole study, and its report."""
        from mha_ablate.study.execute import Pool, default_workers

        self.pool = Pool(self.workers or default_workers(asked.trainer.device))
        if asked.study.points or asked.study.tune:
            return self._several(asked)
        from mha_ablate.study.parts import Part

        plan = self._planned(Part())
        if plan.folder.parts() is not None:
            raise RequestError(
                f"{plan.folder.path} holds a study of several parts, and this one has a single part: give name=NEW_NAME"
            )
        report = self._run(plan, timed=True)
        return Conducted(plan.folder.path, plan, report, self._failure(), self.remarks)

    def _several(self, asked: RunConfig) -> Conducted:
        """Every part is checked before the first one runs."""
        from mha_ablate.report.joint import write_joint
        from mha_ablate.run.folder import StudyFolder, write_json
        from mha_ablate.run.lock import locked
        from mha_ablate.study.parts import SHARED, check_tuning, points_of
        from mha_ablate.study.plan import outputs_of

        study = asked.study
        check_tuning(study)
        path = outputs_of(asked) / (asked.name or study.name)
        if StudyFolder(path).plan_file.exists():
            raise RequestError(
                f"{path} holds a plan of one part, and study={study.name} has several parts: give name=NEW_NAME"
            )
        points = points_of(study)
        stage = SHARED if study.tune else ""
        checked = [self._planned(replace(point, stage=stage)) for point in points]
        if study.tune:
            for point in points:
                self._grid(point, study.tune.rates, asked.optim.lr)
        with locked(path):
            tune = asdict(study.tune) if study.tune else None
            whole = {"study": study.name, "request": self.overrides, "points": study.point_words, "tune": tune}
            write_json(StudyFolder(path).parts_file, whole)
            for number, (point, plan) in enumerate(zip(points, checked, strict=True), start=1):
                self.observer.part(point.point or study.name, number, len(points))
                if study.tune is None:
                    self._run(plan, timed=True)
                else:
                    self._tune_and_run(path, point, plan, study.tune, asked.optim.lr)
            self.observer.writing()
            report = write_joint(path)
        return Conducted(path, None, report, self._failure(), self.remarks)

    def _tune_and_run(self, path: Path, point: Part, shared: Plan, tune: TuneConfig, usual: float) -> None:
        """The grid, widened while an optimum lies at its edge; then the study's seeds at the shared rate and at each arm's own."""
        from mha_ablate.study import parts
        from mha_ablate.study.collect import collect

        grid = path / point.point / parts.GRID
        rates = parts.rates_to_begin_with(
            tune, collect(grid) if grid.is_dir() and any(grid.rglob("run.json")) else None
        )
        while True:
            self._train(self._grid(point, rates, usual))
            tuning = parts.tuning_of(collect(grid))
            if untuned := tuning.untuned(shared.arms):
                break
            wider = tuning.wider(tune)
            if wider == rates:
                break
            rates = wider
        self._run(shared, timed=True)
        if untuned:
            where = f"{point.point}: " if point.point else ""
            self.failures.append(f"{where}no rate of {', '.join(untuned)} has ended, so that none could be tuned")
            return
        stage = replace(point, stage=parts.TUNED)
        tuned = self._planned(stage, lambda study: parts.at_best(study, tuning.best))
        parts.take_over(tuned.cells, shared.folder.path)
        self._run(tuned, timed=False)

    def _grid(self, point: Part, rates: list[float], usual: float) -> Plan:
        from mha_ablate.study.parts import GRID, on_grid

        return self._planned(replace(point, stage=GRID), lambda study: on_grid(study, rates, usual))

    def _planned(self, part: Part, shape: Callable[[StudyConfig], StudyConfig] | None = None) -> Plan:
        from mha_ablate.study.parts import single
        from mha_ablate.study.plan import make_plan

        assert self.pool is not None
        plan = make_plan(
            [*self.overrides, *part.words],
            self.pool.start,
            self.observer.reading,
            self.config_dir,
            below=part.below,
            shape=lambda study: single(shape(study) if shape else study),
        )
        self.plans.append(plan)
        return plan

    def _run(self, plan: Plan, *, timed: bool) -> dict[str, Any]:
        """The cells of one plan, their step times, their report."""
        from mha_ablate.report.write import write_report
        from mha_ablate.run.lock import locked

        with locked(plan.folder.path):
            self._train_locked(plan, timed=timed)
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
        self.failures += [why for why in (_failed_cells(progress) or untimed,) if why]
        self.remarks += _how_they_began(progress)

    def _launched(self, plan: Plan, board: Observer) -> tuple[Progress, Times | None]:
        """The cells through a launcher of Hydra's, and what measures step times there if that is elsewhere."""
        from mha_ablate.config.bridge import multirun_config, session
        from mha_ablate.study.launch import Launching

        with session(self.config_dir) as hydra:
            words = [*self.hydras, f"hydra.sweep.dir={plan.folder.path.absolute()}"]
            config = multirun_config(hydra, words, self.config_dir)
            launching = Launching(hydra, config, plan.folder, board, self.config_dir)
            launching.watch(lambda: launching.launch(plan.cells))
            launching.look()

        def times(configs: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
            with session(self.config_dir) as hydra:
                there = Launching(hydra, config, plan.folder, board, self.config_dir)
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


def _how_they_began(progress: Progress) -> list[str]:
    """Of the cells that were trained now and had been interrupted before: one line each kind."""
    runs = {f"{cell.arm}/seed={cell.seed}": cell.folder.read() for cell in progress.todo}
    went_on = [f"{name} after step {run['resumed'][-1]['step']}" for name, run in runs.items() if "resumed" in run]
    anew = [f"{name} ({run['began_anew']})" for name, run in runs.items() if "began_anew" in run]
    found = (("went on where their states were saved", went_on), ("began anew", anew))
    return [f"{len(cells)} cell(s) {how}: {_some(cells)}" for how, cells in found if cells]


def _some(names: list[str]) -> str:
    """The first few, and how many more."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _failed_cells(progress: Progress) -> str | None:
    """The cells that failed and why, in one line; the first few by name."""
    failures = progress.failures
    if not failures:
        return None
    cells = [f"{cell.arm}/seed={cell.seed}" for cell, _ in failures]
    errors = {error for _, error in failures}
    if len(errors) == 1:
        named = f"{_some(cells)}: {errors.pop()}"
    else:
        named = _some([f"{name}: {error}" for name, (_, error) in zip(cells, failures, strict=True)])
    return f"{len(failures)} cell(s) failed ({named}); the same request runs them again"


def _in_words(error: Exception, kept: str) -> RunFailed | None:
    """A fault of this machine as a failure that says what happened, what is kept and what to do; None for any other error."""
    if isinstance(error, MhaAblateError) or machine_trouble(error) is None:
        return None
    return RunFailed(f"{in_a_line(error)}, then give the same command again; {kept}")


@dataclass(frozen=True)
class Ahead:
    """A plan made ahead of its study, and written: its words, what it rests on, and the seconds it will take, if that is known."""

    plan: Plan
    reckoning: Reckoning
    request: list[str]
    seconds: float | None


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
    _check_workers(workers)
    with interruptible():
        observer.checking()
        from mha_ablate.config.compose import compose
        from mha_ablate.run.lock import locked
        from mha_ablate.study.ahead import Spread, reckon, seconds_a_cell, spreads_of
        from mha_ablate.study.collect import collect
        from mha_ablate.study.execute import default_workers
        from mha_ablate.study.plan import make_plan

        found = collect(pilot) if pilot else None
        request = planned_request(overrides, found)
        study = compose(request, config_dir).config.study
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
        return Ahead(plan, reckoning, request, each and each * len(plan.cells) / at_once)


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


@dataclass(frozen=True)
class Swept:
    """A sweep that has come to its end: its folder, its cells with their run.json, and in one line what went wrong, if anything."""

    folder: Path
    cells: list[tuple[Cell, dict[str, Any]]]
    failure: str | None


def conduct_sweep(
    words: list[str],
    *,
    observer: Observer,
    resume: Path | None = None,
    retries: int = 0,
    config_dir: Path | None = None,
) -> Swept:
    """Every combination of what the words list, through Hydra's launcher and sweeper. What is finished is not run again.

    With `resume`, the words are those of the sweep in that folder. Raises as `conduct` does; every cell of a grid is checked
    before the first one runs.
    """
    from mha_ablate.config.bridge import session

    if not 0 <= retries <= 100:
        raise RequestError(f"retries={retries} (--retries) is out of range: it must be 0 to 100")
    try:
        with interruptible():
            observer.checking()
            if resume is not None:
                words, config_dir = _words_of(resume, words, config_dir)
            with session(config_dir) as hydra:
                sweeping = _Sweeping(hydra, words, config_dir, observer, retries)
                return sweeping.conduct()
    except Exception as error:
        if told := _in_words(error, "what has finished is kept"):
            raise told from error
        raise


def _words_of(folder: Path, given: list[str], config_dir: Path | None) -> tuple[list[str], Path | None]:
    """The request of the sweep that lies in a folder; Hydra's own settings may be given anew, such as another launcher."""
    from mha_ablate.config.bridge import apart, is_hydras
    from mha_ablate.config.compose import key_of
    from mha_ablate.run.folder import StudyFolder

    if not folder.is_dir():
        raise RequestError(f"--resume {folder} is no folder: give one that `mha-ablate sweep` wrote")
    found = StudyFolder(folder).sweep()
    if found is None:
        raise RequestError(
            f"--resume {folder} holds no sweep.json that can be read: give a folder that `mha-ablate sweep` wrote"
        )
    own, hydras = apart(given)
    if own:
        raise RequestError(
            f"{own[0]}: --resume goes on with the sweep as it was; leave settings out, or start a sweep with name=NEW_NAME"
        )
    anew = {key_of(word) for word in hydras}
    kept = [w for w in found["request"] if not (is_hydras(w) and key_of(w) in anew)]
    where = [] if any(key_of(w) == "hydra.sweep.dir" for w in kept) else [f"hydra.sweep.dir={folder.absolute()}"]
    known = Path(found["config_dir"]) if found.get("config_dir") else None
    return [*kept, *hydras, *where], config_dir or known


class _Sweeping:
    """One sweep, from its words to its end."""

    def __init__(
        self, hydra: Hydra, words: list[str], config_dir: Path | None, observer: Observer, retries: int
    ) -> None:
        from mha_ablate.config.bridge import apart, fixed_keys, multirun_config, sent_to
        from mha_ablate.study.launch import Launching
        from mha_ablate.study.sweep import Sweep, check_words

        self.hydra, self.words, self.observer = hydra, words, observer
        self.config = multirun_config(hydra, words, config_dir)
        fixed = fixed_keys(hydra, self.config)
        check_words(words, fixed)
        folder = self._folder(apart(words)[0], fixed, config_dir)
        self.config = sent_to(folder.path, hydra, self.config, words, config_dir)
        self.sweep = Sweep(folder, words, config_dir, fixed, observer.reading)
        self.launching = Launching(hydra, self.config, folder, observer, config_dir, retries)
        self.refused: list[str] = []

    def _folder(self, words: list[str], fixed: set[str], config_dir: Path | None) -> StudyFolder:
        from mha_ablate.config.bridge import sweep_dir_of
        from mha_ablate.config.compose import compose, key_of
        from mha_ablate.study.sweep import folder_of

        config = compose([word for word in words if key_of(word) in fixed], config_dir).config
        return folder_of(config, sweep_dir_of(self.config))

    def conduct(self) -> Swept:
        """Check, run, tell."""
        from mha_ablate.config.bridge import grid, is_grid
        from mha_ablate.run.lock import locked
        from mha_ablate.study.sweep import name_of

        cells = self.sweep.add(grid(self.hydra, self.config)) if is_grid(self.config) else []
        self.sweep.check_neighbours()
        path = self.sweep.folder.path
        with locked(path):
            self.sweep.write()
            try:
                self.launching.watch(self._choose if not is_grid(self.config) else lambda: self._launch(cells))
            except KeyboardInterrupt:
                raise Interrupted(f"interrupted; {self._what_is_left()}") from None
            self.launching.look()
        found = {name_of(cell): cell for cell in self.sweep.cells.values()}
        ended = [(cell, cell.finished() or cell.folder.read()) for cell in found.values()]
        return Swept(path, ended, self._failure())

    def _launch(self, cells: list[Cell]) -> None:
        """In batches, where `hydra.sweeper.max_batch_size` asks for them."""
        size = self.config.hydra.sweeper.max_batch_size or max(1, len(cells))
        for begin in range(0, len(cells), size):
            self.launching.launch(cells[begin : begin + size])

    def _choose(self) -> None:
        """A sweeper that proposes cells as it goes."""
        from mha_ablate.config.bridge import sweeper_with
        from mha_ablate.study.launch import Front

        def cell_of(words: list[str]) -> Cell:
            [cell] = self.sweep.add([words])
            self.sweep.write()
            return cell

        front = Front(self.launching, cell_of)
        sweeper = sweeper_with(front, self.hydra, self.config)
        sweeper.sweep(list(self.config.hydra.overrides.task))
        self.refused = front.refused

    def _failure(self) -> str | None:
        parts = [_failed_cells(self.launching.progress)]
        diverged = [f"{cell.arm}/seed={cell.seed}" for cell in self.sweep.cells.values() if _has_diverged(cell)]
        parts += [f"{len(diverged)} cell(s) diverged ({_some(diverged)})"] if diverged else []
        parts += [f"{len(self.refused)} proposal(s) were no configuration ({self.refused[0]})"] if self.refused else []
        return "; ".join(part for part in parts if part) or None

    def _what_is_left(self) -> str:
        cells = self.sweep.cells.values()
        done = sum(cell.finished() is not None for cell in cells)
        jobs = self.launching.in_the_queue
        on = f"; {len(jobs)} Slurm job(s) go on, `scancel {' '.join(jobs[:3])}` stops them" if jobs else ""
        return f"{done} of {len(cells)} cells are finished and kept{on}"


def _has_diverged(cell: Cell) -> bool:
    run = cell.finished()
    return run is not None and run["state"] != "ok"


def conduct_run(
    overrides: list[str], *, observer: Observer, config_dir: Path | None = None
) -> tuple[Path, dict[str, Any], bool]:
    """Train one model, unless that run is finished; returns its folder, its run.json, and whether it was finished before.

    Raises as `conduct` does.
    """
    cell: Cell | None = None
    try:
        with interruptible():
            observer.checking()
            _text_at_hand(overrides, observer, config_dir)
            from mha_ablate.study.single import run_single, single_cell

            cell = single_cell(overrides, observer.reading, config_dir)
            before = cell.finished()
            return cell.folder.path, before or run_single(cell, observer), before is not None
    except Exception as error:
        if told := _in_words(error, _what_is_kept_of(cell)):
            raise told from error
        raise


def conduct_replay(path: Path, *, observer: Observer) -> Replay:
    """Train the finished run at `path` once more and compare. Raises as `conduct` does."""
    with interruptible():
        observer.checking()
        from mha_ablate.run.folder import RunFolder
        from mha_ablate.study.replay import replay

        return replay(RunFolder(path), observer)


def conduct_cost(
    words: list[str],
    *,
    baseline: str | None,
    timed: bool,
    on_turn: Callable[[int, int], None],
    config_dir: Path | None = None,
) -> dict[str, Any]:
    """The ledger of every arm that the words list; `refused` says which could not be built, and why. Raises RequestError."""
    with interruptible():
        from mha_ablate.config.catalog import choices
        from mha_ablate.config.compose import compose
        from mha_ablate.study.ledger import arms_of, corpus_for, ledger

        arms, refused = arms_of(words, [choice.name for choice in choices("fc_out", config_dir)], config_dir)
        usual = compose([]).config.study.baseline
        base = baseline or (usual if usual in arms else next(iter(arms)))
        made = ledger(arms, corpus_for(arms), baseline=base, timed=timed, on_turn=on_turn)
        return {**made, "refused": refused}


def _text_at_hand(overrides: list[str], observer: Observer, config_dir: Path | None) -> RunConfig:
    """Fetch a text of the Hub, or say that it cannot be had, before seconds are spent on importing torch; returns the request."""
    from mha_ablate.config.compose import compose
    from mha_ablate.corpora import corpus_of

    config = compose(overrides, config_dir).config
    if config.data.hub is not None:
        corpus_of(config, watch=observer.reading, any_length=True)
    return config


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C or SIGTERM inside leaves as `Interrupted`, which a command can complete by how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    except Interrupted:
        raise
    except Exception as error:
        if hides_interrupt(error):
            raise Interrupted("interrupted") from None
        raise


def _what_is_kept_of(cell: Cell | None) -> str:
    if cell is None:
        return "nothing was begun"
    from mha_ablate.run.state import saved_step

    step = saved_step(cell.folder)
    if cell.finished():
        return f"{cell.folder.path} is finished and kept"
    return f"{cell.folder.path} goes on after step {step}" if step else f"{cell.folder.path} will begin anew"


def _what_is_kept(plans: list[Plan]) -> str:
    if not plans:
        return "nothing was begun"
    cells = {cell.folder.path: cell for plan in plans for cell in plan.cells}.values()
    done = sum(cell.finished() is not None for cell in cells)
    return f"{done} of {len(cells)} cells are finished and kept"
