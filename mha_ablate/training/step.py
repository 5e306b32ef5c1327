"""One training step: batch, forward, backward, update. What the loop repeats and what step times are measured on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mha_ablate.data.batches import Batches
from mha_ablate.model.gpt import GPT
from mha_ablate.training.optimizer import FlatAdamW

TOKENS_AT_ONCE = 2048  # what goes through the model at once on a CPU: the activations then stay in its caches


class TrainingStep:
    """`step, rate -> loss, gradient norm`: one update of the model, the same work for every arm.

    A batch of more than `tokens_at_once` tokens (null: no limit) passes in micro-batches of whole windows, whose
    gradients are summed in fp32: the same mean loss over the batch, with fewer trips to memory. Dropout draws from a
    stream keyed by (dropout_seed, step), the same in every arm. `loss` replaces the model's own loss where it is compiled.
    """

    def __init__(
        self,
        model: GPT,
        optimizer: FlatAdamW,
        batches: Batches,
        *,
        grad_clip: float,
        dropout_seed: int,
        tokens_at_once: int | None = TOKENS_AT_ONCE,
        loss: Callable[..., Tensor] | None = None,
    ) -> None:
        self.model, self.optimizer, self.batches = model, optimizer, batches
        self.models, self.device = [model], batches.device
        self.grad_clip, self.dropout_seed = grad_clip, dropout_seed
        self.loss = loss or model.loss
        self.windows = batches.batch_size if tokens_at_once is None else max(1, tokens_at_once // model.context)

    @property
    def tokens(self) -> int:
        """Tokens that a step is trained on."""
        return self.batches.batch_size * self.model.context

    def __call__(self, step: int, rate: float) -> tuple[Tensor, Tensor]:
        """Update `step` (from 0) at learning rate `rate`: the batch's mean loss and the gradient's norm before clipping."""
        ids, targets = self.batches.batch(step)
        torch.manual_seed(self.dropout_seed * 1_000_003 + step)
        if len(ids) <= self.windows:
            loss = self.loss(ids, targets)
            loss.backward()
        else:
            loss = self._in_parts(ids, targets)
        return loss.detach(), self.optimizer.step(rate, self.grad_clip)

    def warm_up(self) -> None:
        """Pass the first batch through once and forget it: what is compiled is compiled before the clock runs."""
        ids, targets = (part[: self.windows] for part in self.batches.batch(0))
        torch.manual_seed(0)
        self.loss(ids, targets).backward()
        self.optimizer.grad.zero_()

    def _in_parts(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        total = torch.zeros((), device=ids_BT.device)
        for ids, targets in zip(ids_BT.split(self.windows), targets_BT.split(self.windows), strict=True):
            part = self.loss(ids, targets) * (len(ids) / len(ids_BT))
            part.backward()
            self.optimizer.collect()
            total += part.detach()
        return total
