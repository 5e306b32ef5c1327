"""The KV cache: what attention keeps of the tokens before, so that each new one costs one step."""

from __future__ import annotations

import torch
from torch import Tensor


class Past:
    """Keys `[B H S D]` and values `[B H S V]` of one layer, for the tokens so far."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def length(self) -> int:
        """S: how many tokens it holds."""
        return 0 if self.keys is None else self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(t.nbytes for t in (self.keys, self.values) if t is not None)

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest tokens; returns keys and values of all."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat((self.keys, keys), 2), torch.cat((self.values, values), 2)
        self.keys, self.values = keys, values
        return keys, values
