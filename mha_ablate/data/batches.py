"""Which tokens a step sees: a pure function of (data seed, step), and the fixed windows of validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mha_ablate.data.tokenizers import Tokens


class TrainBatches:
    """Random windows of the training split. `batch(step)` is the same for every arm, process and machine."""

    def __init__(self, tokens: Tokens, *, batch_size: int, context: int, data_seed: int, device: torch.device) -> None:
        self.tokens, self.batch_size, self.data_seed, self.device = tokens, batch_size, data_seed, device
        self.offsets = np.arange(context + 1)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids and targets of a step, each `[batch_size, context]`; targets are the ids one further on."""
        stream = np.random.Generator(np.random.Philox(key=[self.data_seed, step]))
        starts = stream.integers(0, len(self.tokens) - len(self.offsets) + 1, size=self.batch_size)
        windows = torch.from_numpy(self.tokens[starts[:, None] + self.offsets].astype(np.int64)).to(self.device)
        return windows[:, :-1], windows[:, 1:]


def validation_windows(
    tokens: Tokens, *, context: int, device: torch.device, tokens_per_batch: int = 4096
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and targets that cover the whole split once: windows side by side, the last one shorter if it must be.

    Every token but the first is a target exactly once.
    """
    full = (len(tokens) - 1) // context
    per_batch = max(1, tokens_per_batch // context)
    for start in range(0, full, per_batch):
        count = min(per_batch, full - start)
        piece = tokens[start * context : (start + count) * context + 1].astype(np.int64)
        ids = torch.from_numpy(piece).to(device)
        yield ids[:-1].view(count, context), ids[1:].view(count, context)
    if rest := (len(tokens) - 1) % context:
        ids = torch.from_numpy(tokens[-rest - 1 :].astype(np.int64)).to(device)
        yield ids[None, :-1], ids[None, 1:]
