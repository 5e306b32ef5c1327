"""What is kept of runs while they go on: their states now and then, and the best weights so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mha_ablate.data.corpus import Corpus
from mha_ablate.errors import in_a_line
from mha_ablate.run.checkpoint import save_tokenizer, save_weights
from mha_ablate.run.record import Record
from mha_ablate.run.state import State, save_state
from mha_ablate.training.loop import BEGINNING, Outcome, Position
from mha_ablate.training.step import TrainingStep

if TYPE_CHECKING:
    from mha_ablate.study.cell import Cell
    from mha_ablate.training.stack import StackedStep

LOSSES = "losses"  # those since the last line, in the state


class Unusable(Exception):
    """A saved state that cannot be gone on from. The message says why."""


def resume(take_step: TrainingStep | StackedStep, states: Sequence[State]) -> Position:
    """Put models and optimizer where their states were saved, one a lane; the beginning where there are none.

    Raises Unusable for states that are not of these models.
    """
    if not states:
        return BEGINNING
    about = states[0].about
    if not all(LOSSES in state.tensors and state.tensors[LOSSES].is_floating_point() for state in states):
        raise Unusable("its state has no losses")
    try:
        losses = torch.stack([state.tensors[LOSSES].reshape(-1) for state in states], dim=-1).to(take_step.device)
        take_step.optimizer.restore(
            [{k: v for k, v in state.tensors.items() if k != LOSSES} for state in states], states[0].step
        )
    except (ValueError, KeyError, RuntimeError) as error:
        raise Unusable(f"its state does not fit: {in_a_line(error)}") from error
    alone = isinstance(take_step, TrainingStep)
    return Position(
        step=states[0].step,
        train_s=about["train_s"],
        last_read=about["last_read"],
        losses=[row[0] if alone else row for row in losses],
    )


class RunKeeper:
    """Saves the states of runs side by side every `trainer.save_every_s` seconds, and their weights when they are best.

    An evaluation on the way looks at a sample of the validation split, the last one at all of it: "best" compares both.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        records: Sequence[Record],
        take_step: TrainingStep | StackedStep,
        corpus: Corpus,
        states: Sequence[State],
    ) -> None:
        self.cells, self.records, self.take_step = cells, records, take_step
        self.every_s = cells[0].config.trainer.save_every_s
        self.about = {"vocab_size": corpus.vocab_size}
        self.tokenizers = [save_tokenizer(cell.folder, corpus.tokenizer.state) for cell in cells]
        self.best: list[dict[str, Any] | None] = [state.about["best"] for state in states] or [None] * len(cells)
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save the states."""
        return time.monotonic() - self.saved_at >= self.every_s

    def save(self, position: Position, lanes: Sequence[int]) -> None:
        """Save the states of these lanes. Their lines come to the disk before them."""
        losses = [loss.reshape(-1) for loss in position.losses]
        for lane in lanes:
            cell = self.cells[lane]
            save_state(
                cell.folder,
                config_hash=cell.hash,
                step=position.step,
                tensors={**self.take_step.optimizer.snapshot(lane), LOSSES: _of_lane(losses, lane)},
                about={
                    "train_s": position.train_s,
                    "last_read": position.last_read,
                    "best": self.best[lane],
                    "metrics": self.records[lane].sync(),
                    # All randomness after the start is a function of these and the step.
                    "streams": dict(zip(("init_seed", "data_seed"), cell.config.seeds, strict=True)),
                },
            )
        self.saved_at = time.monotonic()

    def look_at(self, lane: int, line: dict[str, Any]) -> None:
        """Keep the weights if no evaluation was lower than that of this line; at the end they are the last ones."""
        loss, best, cell = line.get("loss/val"), self.best[lane], self.cells[lane]
        if loss is None or (best is not None and best["val_loss"] <= loss):
            return
        self.best[lane] = {"step": line["step"], "val_loss": loss}
        if line["step"] == cell.config.trainer.steps:
            cell.folder.best_file.unlink(missing_ok=True)
            return
        with self.take_step.optimizer.in_full():
            self._save(lane, self.take_step.models[lane], cell.folder.best_file, line["step"])

    def finish(self, lane: int, model: nn.Module, outcome: Outcome) -> None:
        """Save the weights at the end."""
        self._save(lane, model, self.cells[lane].folder.last_file, outcome.step)

    def _save(self, lane: int, model: nn.Module, file: Path, step: int) -> None:
        about = {"step": step, "config_hash": self.cells[lane].hash, "tokenizer": self.tokenizers[lane]}
        save_weights(file, model, {**about, **self.about})


def _of_lane(losses: list[Tensor], lane: int) -> Tensor:
    return torch.stack(losses)[:, lane] if losses else torch.zeros(0)
