"""The training loop, the same for every arm, device and precision."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mha_ablate.training.step import TrainingStep

Line = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `state` is ok or diverged, `val_loss` the final one (nats per token), nan if diverged."""

    state: str
    step: int
    val_loss: float


class Stopwatch:
    """Seconds spent training: evaluation and saving do not count."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.since = device, 0.0, time.perf_counter()

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


def train(
    take_step: TrainingStep,
    *,
    validate: Callable[[bool], float],
    rate: Callable[[int], float],
    write: Callable[[int, Line], None],
    steps: int,
    eval_every: int,
    log_every: int,
) -> Outcome:
    """Train for `steps` updates. `write(step, values)` receives every measurement; step counts finished updates.

    `validate(whole)` gives the validation loss: of a sample on the way, of the whole split after the last step.
    Ends early, as diverged, when the training or validation loss is not finite.
    """
    take_step.model.train()
    watch = Stopwatch(take_step.batches.device)
    losses: list[torch.Tensor] = []
    val_loss = math.nan
    norm, last_read = torch.zeros(()), 0.0
    for step in range(steps + 1):
        if step == steps or (step and step % eval_every == 0):
            train_s = watch.read()
            val_loss = validate(step == steps)
            write(step, {"loss/val": val_loss, "train_s": train_s})
            watch.skip()
            if not math.isfinite(val_loss):
                return Outcome("diverged", step, val_loss)
        if step == steps:
            break

        loss, norm = take_step(step, rate(step))
        losses.append(loss)

        if (step + 1) % log_every == 0 or step + 1 == steps:
            train_loss, train_s = torch.stack(losses).mean().item(), watch.read()
            step_s = (train_s - last_read) / len(losses)
            write(
                step + 1,
                {
                    "loss/train": train_loss,
                    "optim/lr": rate(step),
                    "optim/grad_norm": norm.item(),
                    "perf/step_ms": step_s * 1000,
                    "perf/tokens_per_s": take_step.tokens / step_s,
                    "train_s": train_s,
                },
            )
            losses, last_read = [], train_s
            watch.skip()
            if not math.isfinite(train_loss):
                return Outcome("diverged", step + 1, math.nan)
    return Outcome("ok", steps, val_loss)
