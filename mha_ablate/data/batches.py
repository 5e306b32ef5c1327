"""Which tokens a step sees: a pure function of (data seed, step), and the fixed windows of validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mha_ablate.data.tokenizers import Tokens


class Batches(Protocol):
    """What a training step takes its tokens from."""

    @property
    def batch_size(self) -> int:
        """Windows a step."""
        ...

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        ...

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids and targets of a step, each `[batch_size, context]`."""
        ...


class Windows(Protocol):
    """What a step of several models takes its tokens from."""

    def windows(self, step: int) -> Tensor:
        """Ids and one token more of a step, `[batch_size, context + 1]`, in the host's memory."""
        ...


class SameBatch:
    """One batch for every step: what a step is counted on, where no text is needed."""

    def __init__(self, ids: Tensor, targets: Tensor) -> None:
        self.ids, self.targets = ids, targets
        self.batch_size, self.device = len(ids), ids.device

    def batch(self, step: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """That batch."""
        return self.ids, self.targets


class TrainBatches:
    """Random windows of the training split. `batch(step)` is the same for every arm, process and machine."""

    def __init__(self, tokens: Tokens, *, batch_size: int, context: int, data_seed: int, device: torch.device) -> None:
        self.tokens, self.batch_size, self.data_seed, self.device = tokens, batch_size, data_seed, device
        self.offsets = np.arange(context + 1)

    def windows(self, step: int) -> Tensor:
        """Ids and one token more of a step, `[batch_size, context + 1]`, in the host's memory."""
        stream = np.random.Generator(np.random.Philox(key=[self.data_seed, step]))
        starts = stream.integers(0, len(self.tokens) - len(self.offsets) + 1, size=self.batch_size)
        return torch.from_numpy(self.tokens[starts[:, None] + self.offsets].astype(np.int64))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids and targets of a step, each `[batch_size, context]`; targets are the ids one further on."""
        windows = to_device(self.windows(step), self.device)
        return windows[:, :-1], windows[:, 1:]


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, for a GPU by way of pinned memory, so that nobody waits."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


TOKENS_AT_ONCE = 4096  # of validation
TOKENS_OF_A_SAMPLE = 4096  # at least so many are looked at on the way, where the split has them


def sample_stride(tokens: Tokens, context: int) -> int:
    """Every how many windows of a split one is taken, for a look on the way: spread over the split, always the same ones."""
    return max(1, (len(tokens) - 1) // context // -(-TOKENS_OF_A_SAMPLE // context))


def validation_windows(
    tokens: Tokens, *, context: int, device: torch.device, stride: int = 1, tokens_per_batch: int = TOKENS_AT_ONCE
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and targets that cover the whole split once: windows side by side, the last one shorter if it must be.

    Every token but the first is a target exactly once. A `stride` above 1 leaves out all but every so many windows.
    """
    windows = np.arange(0, (len(tokens) - 1) // context, stride)
    per_batch = max(1, tokens_per_batch // context)
    for first in range(0, len(windows), per_batch):
        starts = windows[first : first + per_batch, None] * context
        piece = tokens[starts + np.arange(context + 1)].astype(np.int64)
        ids = to_device(torch.from_numpy(piece), device)
        yield ids[:, :-1], ids[:, 1:]
    rest = (len(tokens) - 1) % context
    if rest and stride == 1:
        ids = to_device(torch.from_numpy(tokens[-rest - 1 :].astype(np.int64)), device)
        yield ids[None, :-1], ids[None, 1:]
