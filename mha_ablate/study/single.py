"""A single run as a cell of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mha_ablate import build
from mha_ablate.config.compose import compose, key_of
from mha_ablate.config.schema import RunConfig
from mha_ablate.corpora import corpus_of, pinned
from mha_ablate.data.corpus import Corpus
from mha_ablate.data.text import Watch, unwatched
from mha_ablate.errors import RequestError
from mha_ablate.run.folder import StudyFolder
from mha_ablate.study.cell import Cell, run_cell
from mha_ablate.study.observer import Observer
from mha_ablate.study.plan import outputs_of
from mha_ablate.study.progress import Progress

DEFAULT_NAME = "train"


def single_cell(overrides: list[str], watch: Watch = unwatched, config_dir: Path | None = None) -> Cell:
    """The cell that `train` runs: outputs/<name or train>/<fc_out>/seed=<seed>. Raises RequestError; writes nothing there.

    `watch` hears of a text being made ready; `config_dir` holds choices of the user's own.
    """
    if theirs := [word for word in overrides if key_of(word).startswith("study.")]:
        raise RequestError(
            f"{theirs[0]}: `train` runs one model, and would not heed it; `mha-ablate compare` runs a study"
        )
    composed = compose(overrides, config_dir)
    config, corpus = prepared(composed.config, watch)
    arm = composed.choices["fc_out"]
    cell = Cell(
        arm=arm,
        seed=config.seed,
        config=config,
        folder=StudyFolder(outputs_of(config) / (config.name or DEFAULT_NAME)).run(arm, config.seed),
        text=corpus.reference,
        overrides=overrides,
        choices=composed.choices,
    )
    cell.check_arm()
    cell.check_folder()
    return cell


def prepared(config: RunConfig, watch: Watch = unwatched, *, elsewhere: bool = False) -> tuple[RunConfig, Corpus]:
    """The configuration with nothing left open, and its text, once the model can be built. Raises RequestError.

    `elsewhere`: another machine will train it.
    """
    refuse_match(config)
    config = build.resolved(config, elsewhere=elsewhere)
    corpus = corpus_of(config, watch=watch)
    config = pinned(config, corpus)
    build.model_of(config, corpus.vocab_size, "meta")
    return config, corpus


def run_single(cell: Cell, observer: Observer, *, count_memory: bool = True) -> dict[str, Any]:
    """Run it in this process, as a study of one cell; returns its run.json."""
    progress = Progress([cell])
    progress.begin(cell, time.monotonic())
    observer.training(progress)

    def on_line(line: dict[str, Any]) -> None:
        progress.hear(cell, line, time.monotonic())
        observer.training(progress)

    return run_cell(cell, on_line, count_memory=count_memory)


def refuse_match(config: RunConfig) -> None:
    """Raise RequestError for a `match` where no study gives it another arm to match."""
    if config.match is not None:
        raise RequestError(
            f"match={config.match} matches an arm to another one: use it in an arm of `compare`, or set model.d_ff"
        )
