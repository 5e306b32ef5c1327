"""A single run as a cell of its own."""

from __future__ import annotations

from mha_ablate import build
from mha_ablate.config.compose import compose
from mha_ablate.corpora import corpus_of, pinned
from mha_ablate.errors import RequestError
from mha_ablate.run.folder import StudyFolder
from mha_ablate.study.cell import Cell
from mha_ablate.study.plan import outputs_of

DEFAULT_NAME = "train"


def single_cell(overrides: list[str]) -> Cell:
    """The cell that `train` runs: outputs/<name or train>/<fc_out>/seed=<seed>. Raises RequestError; writes nothing."""
    composed = compose(overrides)
    config = composed.config
    if config.match is not None:
        raise RequestError(
            "match=params matches an arm to its baseline: use it in an arm of `compare`, or set model.d_ff"
        )
    config = build.resolved(config)
    corpus = corpus_of(config)
    config = pinned(config, corpus)
    build.model_of(config, corpus.vocab_size, "meta")
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
