"""The training loop, the same for every arm, device and precision."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

Line = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `state` is ok or diverged, `val_loss` the final one (nats per token), nan if diverged."""

    state: str
    step: int
    val_loss: float


@dataclass(frozen=True)
class Position:
    """Where a run stands between two steps, beside its weights: a new one, or one that goes on.

    Seconds of training so far, those of them up to the last line, and the losses since that line, each `[]` or `[S]`.
    """

    step: int = 0
    train_s: float = 0.0
    last_read: float = 0.0
    losses: Sequence[Tensor] = ()


BEGINNING = Position()


class Keeper(Protocol):
    """Saves where a run stands, when it is time for that."""

    def due(self) -> bool:
        """Whether it is time."""
        ...

    def save(self, position: Position, lanes: Sequence[int]) -> None:
        """Save these lanes, those that still train."""
        ...


class Stopwatch:
    """Seconds spent training: evaluation and saving do not count."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self.device, self.seconds, self.since = device, seconds, time.perf_counter()

    def read(self) -> float:
        """Seconds so far, with the device's queue drained first."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        return self.seconds

    def skip(self) -> None:
        """Leave out what happened since the last `read`."""
        self.since = time.perf_counter()


class Step(Protocol):
    """What the loop repeats: an update of one model, or of several side by side, each a lane."""

    @property
    def models(self) -> Sequence[nn.Module]:
        """One a lane."""
        ...

    @property
    def device(self) -> torch.device:
        """Where they are trained."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens that a step of one lane is trained on."""
        ...

    def __call__(self, step: int, rate: float) -> tuple[Tensor, Tensor]:
        """Losses and gradient norms, on the device: `[]` of one model, `[S]` of S lanes."""
        ...


class _Lanes:
    """How far each lane has come: those that still train get lines, and every one has its outcome in the end."""

    def __init__(self, n: int, write: Callable[[int, int, Line], None]) -> None:
        self.write_line, self.training = write, list(range(n))
        self.outcomes = [Outcome("ok", 0, math.nan)] * n

    def write(self, step: int, lines: list[Line]) -> None:
        """Give every lane that trains its line; one whose loss is not finite has ended with it."""
        for lane in list(self.training):
            line = lines[lane]
            self.write_line(lane, step, line)
            val_loss = line.get("loss/val", math.nan)
            if not math.isfinite(line.get("loss/train", val_loss)):
                self.outcomes[lane] = Outcome("diverged", step, val_loss)
                self.training.remove(lane)
            elif "loss/val" in line:
                self.outcomes[lane] = Outcome("ok", step, val_loss)


def train(
    take_step: Step,
    *,
    validate: Callable[[bool], list[float]],
    rate: Callable[[int], float],
    write: Callable[[int, int, Line], None],
    steps: int,
    eval_every: int,
    log_every: int,
    start: Position = BEGINNING,
    keeper: Keeper | None = None,
) -> list[Outcome]:
    """Train every lane up to update `steps`. `write(lane, step, values)` receives every measurement; step counts finished updates.

    `validate(whole)` gives the lanes' validation losses: of a sample on the way, of the whole split after the last step.
    A lane whose training or validation loss is not finite has diverged; the others go on. Between two lines nothing
    waits for the device. Seconds are the stack's: each lane trained on its tokens in that time.

    A run that goes on stands at `start`, its weights and moments with it, and is from there on the run that was never
    interrupted: everything random is drawn anew from its seed and the step.
    """
    for model in take_step.models:
        model.train()
    lanes = _Lanes(len(take_step.models), write)
    watch, last_read = Stopwatch(take_step.device, start.train_s), start.last_read
    losses = list(start.losses)
    for done in range(start.step + 1, steps + 1):
        loss, norm = take_step(done - 1, rate(done - 1))
        losses.append(loss)

        if done % log_every == 0 or done == steps:
            measured, train_s = torch.stack((torch.stack(losses).mean(0), norm)).reshape(2, -1).T.tolist(), watch.read()
            step_s = (train_s - last_read) / len(losses)
            lines = [
                {
                    "loss/train": train_loss,
                    "optim/lr": rate(done - 1),
                    "optim/grad_norm": grad_norm,
                    "perf/step_ms": step_s * 1000,
                    "perf/tokens_per_s": take_step.tokens / step_s,
                    "train_s": train_s,
                }
                for train_loss, grad_norm in measured
            ]
            lanes.write(done, lines)
            losses, last_read = [], train_s
            watch.skip()

        if lanes.training and (done % eval_every == 0 or done == steps):
            train_s = watch.read()
            lanes.write(done, [{"loss/val": val_loss, "train_s": train_s} for val_loss in validate(done == steps)])
            watch.skip()
        if not lanes.training:
            break
        if keeper is not None and done < steps and keeper.due():
            keeper.save(Position(done, watch.read(), last_read, losses), lanes.training)
            watch.skip()
    return lanes.outcomes
