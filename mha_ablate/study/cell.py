"""Runs from their configurations to finished run folders: one, or several side by side that differ in their seeds alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mha_ablate import build
from mha_ablate.config.compose import from_plain, to_yaml
from mha_ablate.config.flat import changes, flat
from mha_ablate.config.schema import RunConfig, config_hash
from mha_ablate.corpora import corpus_of
from mha_ablate.data.batches import sample_stride
from mha_ablate.data.corpus import IDENTITY, Corpus
from mha_ablate.errors import RequestError, in_a_line
from mha_ablate.run.folder import FINISHED, RunFolder, this_process, write_atomic
from mha_ablate.run.lock import locked
from mha_ablate.run.provenance import provenance
from mha_ablate.run.record import Record
from mha_ablate.run.shape import config_of as yaml_config_of
from mha_ablate.run.shape import parsed_yaml, read_text
from mha_ablate.run.state import State, find_state
from mha_ablate.study.keeping import RunKeeper, Unusable, resume
from mha_ablate.training.allocator import loaded
from mha_ablate.training.compiled import forget
from mha_ablate.training.evaluate import validation_losses
from mha_ablate.training.hardware import Hardware, name_of
from mha_ablate.training.loop import Outcome, train
from mha_ablate.training.schedule import learning_rate

OnLine = Callable[[dict[str, Any]], None]
OnCellLine = Callable[["Cell", dict[str, Any]], None]


@dataclass(frozen=True)
class Cell:
    """Arm x seed: a resolved configuration, the folder it goes to, and the text that it must find (`Corpus.reference`)."""

    arm: str
    seed: int
    config: RunConfig
    folder: RunFolder
    text: dict[str, Any]
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`ARM/seed=N`, by which it is known in files and messages."""
        return f"{self.arm}/seed={self.seed}"

    @property
    def hash(self) -> str:
        """What a finished run must carry to count as this cell."""
        return config_hash(self._identity)

    @property
    def _identity(self) -> dict[str, Any]:
        return self.config.identity({key: self.text[key] for key in IDENTITY})

    @property
    def arm_hash(self) -> str:
        """The same for every seed of one configuration: what may be averaged."""
        return config_hash({k: v for k, v in self._identity.items() if k not in ("init_seed", "data_seed")})

    def finished(self) -> dict[str, Any] | None:
        """The run.json of a finished run of exactly this cell, tidied up; None where there is none."""
        found = self.folder.read()
        complete = all(found.get(key) for key in ("result", "cost", "text"))
        if found.get("state") not in FINISHED or found.get("config_hash") != self.hash or not complete:
            return None
        self.folder.tidy()
        return found

    def check_folder(self) -> None:
        """Raise RequestError where the folder holds another configuration, or leads elsewhere by a link."""
        self.folder.refuse_links()
        self._refuse_unless(self.folder, "config_hash", self.hash)

    def check_arm(self) -> None:
        """Raise RequestError where a run of this arm at any seed was made with other settings."""
        for file in sorted(self.folder.path.parent.glob("seed=*/run.json")):
            self._refuse_unless(RunFolder(file.parent), "arm_hash", self.arm_hash)

    def _refuse_unless(self, run: RunFolder, key: str, wanted: str) -> None:
        found = run.read()
        if not found and run.run_file.is_file() and run.last_file.is_file() and self._differing(run) != []:
            raise RequestError(
                f"{run.path} holds weights of another run, and its run.json cannot be believed: give this one a folder of its own "
                "with name=NEW_NAME, or remove the old one"
            )
        if found and found.get(key) != wanted:
            raise RequestError(
                f"{run.path} holds another run ({self._difference(run)}): give this one a folder of its own with "
                "name=NEW_NAME, or remove the old one"
            )

    def head(self) -> dict[str, Any]:
        """What run.json says of the cell before anything has happened."""
        return {
            "state": "running",
            "error": None,
            "arm": self.arm,
            "seed": self.seed,
            "overrides": self.overrides,
            "choices": self.choices,
            "config_hash": self.hash,
            "arm_hash": self.arm_hash,
            "owner": this_process(),
            "started": time.time(),
        }

    def _difference(self, run: RunFolder) -> str:
        """Up to three settings in which a run differs from this cell."""
        differing = self._differing(run)
        if differing is None:
            return "its config.yaml cannot be read"
        return ", ".join(differing[:3]) or "its text is another one, and it goes on once that is back"

    def _differing(self, run: RunFolder) -> list[str] | None:
        """The settings that decide a result in which a run's config.yaml differs from this cell; None where it cannot be read."""
        try:
            there = flat(yaml_config_of(parsed_yaml(read_text(run.config_file))))
        except (OSError, ValueError):
            return None
        here = flat(asdict(self.config))
        same_for_the_result = ("study", "outputs", "name", "data.", "seed", "match")
        keys = [k for k in here if k in there and here[k] != there[k] and not k.startswith(same_for_the_result)]
        return [f"{k} is {there[k]} there, {here[k]} here" for k in keys]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a worker process."""
        return {**asdict(self), "folder": str(self.folder.path)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Cell:
        """The cell that `to_json` described."""
        values = {**plain, "folder": RunFolder(Path(plain["folder"])), "config": from_plain(plain["config"])}
        return cls(**values)


def run_cell(cell: Cell, on_line: OnLine, *, count_memory: bool = False) -> dict[str, Any]:
    """Train a cell by itself; otherwise as `run_cells`."""
    return run_cells([cell], lambda _, line: on_line(line), count_memory=count_memory)[0]


def run_cells(cells: Sequence[Cell], on_line: OnCellLine, *, count_memory: bool = False) -> list[dict[str, Any]]:
    """Train cells that differ in their seeds alone, side by side, and leave a complete run folder each; returns their run.json.

    Cells that were interrupted go on where their states were saved, if all of them were at one step; otherwise from the start.
    Cells that have all been finished meanwhile are left as they are. An exception is recorded as `failed` in every cell that was
    not finished by then, if that can be written, then raised.
    `on_line(cell, line)` receives every line of a cell's metrics.jsonl and, when training begins, one that says so: the step it
    begins after and `val_tokens`. With `count_memory` the costs of a run have the peak memory of a step; a study counts it once
    an arm.
    """
    with ExitStack() as locks:
        for cell in cells:
            locks.enter_context(locked(cell.folder.path))
        ended = [found for cell in cells if (found := cell.finished())]
        if len(ended) == len(cells):  # by another process, between the plan and the lock
            return ended
        states = _states(cells)
        runs = [_begun(cell, state, why) for cell, (state, why) in zip(cells, states, strict=True)]
        try:
            try:
                _train_into(cells, runs, [state for state, _ in states if state], on_line, count_memory)
            except Unusable as error:
                runs = [_begun(cell, None, str(error)) for cell in cells]
                _train_into(cells, runs, [], on_line, count_memory)
        except Exception as error:
            for cell, run in zip(cells, runs, strict=True):
                if run["state"] == "running":
                    cell.folder.note_failure(run, in_a_line(error))
            raise
        return runs


def _states(cells: Sequence[Cell]) -> list[tuple[State | None, str | None]]:
    """Where each cell goes on, and why it does not where something was found that cannot be used."""
    found = [find_state(cell.folder, cell.hash) for cell in cells]
    if len({state.step if state else 0 for state, _ in found}) > 1:
        return [(None, why or "the runs that it is trained with were at other steps") for _, why in found]
    return found


def _begun(cell: Cell, state: State | None, why_not: str | None) -> dict[str, Any]:
    """The cell's folder as it was at `state`, or empty but for what is known beforehand; returns its run.json."""
    run = cell.head()
    if state is None:
        cell.folder.clear()
        write_atomic(cell.folder.config_file, to_yaml(cell.config, without=("study",)))
        run |= {"began_anew": why_not} if why_not else {}
    else:
        before = cell.folder.read()
        state.rewind(cell.folder)
        run |= {"started": before.get("started", run["started"])}
        run |= {"resumed": [*before.get("resumed", []), {"step": state.step, "at": time.time()}]}
        run |= {"provenance": before.get("provenance") or {}}
    cell.folder.write(run)
    return run


def _train_into(
    cells: Sequence[Cell],
    runs: list[dict[str, Any]],
    states: Sequence[State],
    on_line: OnCellLine,
    count_memory: bool,
) -> None:
    """The runs themselves, from their states if they have any; fills `runs` with what they were and how they ended."""
    config = cells[0].config
    hardware = build.hardware_of(config)
    hardware.prepare()
    corpus = corpus_of(config, known=cells[0].text)
    cost = build.counted_work(config, corpus.vocab_size)
    _introduce(cells, runs, hardware, {"text": corpus.summary(), "cost": cost})

    forget()  # models of earlier cells
    if hardware.device == "cuda" or len(cells) > 1:
        hardware.make_room()
    models = [build.model_of(cell.config, corpus.vocab_size, hardware.device) for cell in cells]
    take_step = build.training_of([cell.config for cell in cells], models, corpus, hardware)
    start = resume(take_step, states)
    if start.step > config.trainer.steps:
        raise Unusable(f"its state is of step {start.step} of {config.trainer.steps}")
    sample = len(corpus.val) / sample_stride(corpus.val, config.model.context)
    with ExitStack() as open_records:
        records = [open_records.enter_context(closing(_record(cell, corpus, cost, take_step.tokens))) for cell in cells]
        keeper = RunKeeper(cells, records, take_step, corpus, states)
        for cell in cells:
            # Not measured, and not recorded: training begins.
            on_line(cell, {"step": start.step, "val_tokens": len(corpus.val), "sample_tokens": sample})

        def write(lane: int, step: int, values: dict[str, float]) -> None:
            line = records[lane].write(step, values)
            keeper.look_at(lane, line)
            on_line(cells[lane], line)

        outcomes = train(
            take_step,
            validate=lambda whole: validation_losses(take_step, corpus.val, whole=whole),
            rate=_rate_of(config),
            write=write,
            steps=config.trainer.steps,
            eval_every=config.trainer.eval_every,
            log_every=config.trainer.log_every,
            start=start,
            keeper=keeper,
        )
        for record in records:  # a power cut must not leave a finished run without its last lines
            record.sync()
    take_step.optimizer.release()
    ended = time.time()
    if count_memory:  # at the end: torch takes a second to get ready for it
        cost |= {"peak_memory_mb": build.peak_memory(config, corpus.vocab_size) / 1e6}
    for lane, (cell, run, outcome) in enumerate(zip(cells, runs, outcomes, strict=True)):
        keeper.finish(lane, models[lane], outcome)
        _conclude(cell, run, outcome, {"cost": cost, "ended": ended})


def _introduce(
    cells: Sequence[Cell], runs: list[dict[str, Any]], hardware: Hardware, known: dict[str, dict[str, Any]]
) -> None:
    """Write down what is known when training begins: text, counted costs, where it happens."""
    came_from = provenance(
        **asdict(hardware),
        device_name=name_of(hardware.device),
        stacked=len(cells),
        allocator=loaded(),
        code_of=cells[0].config.fc_out["_target_"],
    )
    for cell, run in zip(cells, runs, strict=True):
        if "resumed" in run:
            run["resumed"][-1]["changed"] = changes(run["provenance"], came_from)
        run |= {**known, "provenance": came_from}
        cell.folder.write(run)


def _conclude(cell: Cell, run: dict[str, Any], outcome: Outcome, known: dict[str, Any]) -> None:
    """Write down how a run ended: from here on nothing touches it."""
    error = None if outcome.state == "ok" else f"the loss was not finite at step {outcome.step}"
    end = {"state": outcome.state, "error": error, "result": _result(cell.folder, outcome), **known}
    cell.folder.write(run | end)
    run |= end
    cell.folder.state_file.unlink(missing_ok=True)


def _rate_of(config: RunConfig) -> Callable[[int], float]:
    """The learning rate by step."""
    return lambda step: learning_rate(
        step,
        steps=config.trainer.steps,
        peak=config.optim.lr,
        final=config.optim.final_lr,
        warmup=config.optim.warmup_steps,
    )


def _record(cell: Cell, corpus: Corpus, cost: dict[str, Any], tokens_per_step: int) -> Record:
    """Where the cell's lines go."""
    return Record(
        cell.folder,
        tokens_per_step=tokens_per_step,
        train_flops_per_step=cost["train_flops_per_token"] * tokens_per_step,
        factors={"loss/val": ("loss/val_bits_per_byte", corpus.nats_to_bits_per_byte)},
    )


def _result(folder: RunFolder, outcome: Outcome) -> dict[str, Any]:
    """The end of the run in numbers; step time is the median over the logged intervals, the first left out."""
    import math
    import statistics

    lines = folder.lines()
    timed = [line for line in lines if "perf/step_ms" in line]
    steady = timed[1:] or timed
    return {
        "step": outcome.step,
        "val_loss": outcome.val_loss if math.isfinite(outcome.val_loss) else None,
        "step_ms": statistics.median(line["perf/step_ms"] for line in steady) if steady else None,
        "tokens_per_s": statistics.median(line["perf/tokens_per_s"] for line in steady) if steady else None,
        "train_s": lines[-1]["train_s"] if lines else None,
        "gflop": lines[-1]["gflop"] if lines else None,
    }
