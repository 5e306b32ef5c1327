"""Other maps in the place of fc_out, for as long as a `with` lasts, and what that does to the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.attention import Attention
from mha_ablate.model.block import Block
from mha_ablate.model.fc_out.base import FcOut
from mha_ablate.model.gpt import GPT

Maps = Mapping[int, nn.Module]  # by layer
Batch = tuple[Tensor, Tensor]  # ids and targets, [B T] each


class Fixed(nn.Module):
    """y = W z + b: a map that is not trained. W `[C, H*V]`, b `[C]`."""

    def __init__(self, W_CZ: Tensor, b_C: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", W_CZ)
        self.register_buffer("bias", b_C)

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """`[B T H V] -> [B T C]`."""
        return F.linear(z_BTHV.flatten(-2), self.get_buffer("weight"), self.get_buffer("bias"))


class Concatenated(nn.Module):
    """y = s z + b: no projection. Legal only where H*V = C. b `[C]` is not trained; None adds nothing."""

    def __init__(self, scale: float = 1.0, b_C: Tensor | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("bias", b_C)

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """`[B T H V] -> [B T C]`."""
        y_BTC = z_BTHV.flatten(-2) * self.scale
        return y_BTC if self.bias is None else y_BTC + self.get_buffer("bias")


class OnHeads(nn.Module):
    """y = fc_out(edit(z), x): the heads' outputs are changed before the map, whatever that is."""

    def __init__(self, inner: nn.Module, edit: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.edit = inner, edit

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:
        """`[B T H V] -> [B T C]`."""
        return self.inner(self.edit(z_BTHV), x_BTC)


def attentions(model: GPT) -> list[Attention]:
    """Attention of every layer, the first one first."""
    return [cast(Block, block).attention for block in model.blocks]


@contextmanager
def swapped(model: GPT, maps: Maps) -> Iterator[GPT]:
    """The model with other maps in the place of some layers' fc_out; afterwards it is what it was."""
    found = attentions(model)
    before = {layer: found[layer].fc_out for layer in maps}
    try:
        for layer, other in maps.items():
            found[layer].fc_out = cast(FcOut, other)
        yield model
    finally:
        for layer, own in before.items():
            found[layer].fc_out = own


def without_head(z_BTHV: Tensor, head: int, instead: Tensor | None = None) -> Tensor:
    """Z with zeros, or what is given, in the place of one head."""
    z_BTHV = z_BTHV.clone()
    z_BTHV[:, :, head] = 0.0 if instead is None else instead
    return z_BTHV


def resampled(z_BTHV: Tensor, head: int, shift: int) -> Tensor:
    """Z with one head's outputs taken from another window of the batch, at the same position: `shift` windows further on."""
    return without_head(z_BTHV, head, z_BTHV[:, :, head].roll(shift, 0))


class Bench:
    """Fixed windows of text on which a model's losses are taken, always the same ones.

    The stream before each layer of the untouched model is kept: a change at layer l costs what lies above it. The model is not
    to be changed from outside meanwhile.
    """

    def __init__(self, model: GPT, batches: Sequence[Batch]) -> None:
        self.model, self.batches = model.eval(), list(batches)
        self._streams: list[list[Tensor]] = []
        with torch.inference_mode():
            for ids, _ in self.batches:
                x = model.embedded(ids)
                kept, rotary = [x], model.rotary(x, 0)
                for block in model.blocks:
                    kept.append(block(kept[-1], rotary))
                self._streams.append(kept)

    def loss(self, maps: Maps | None = None) -> float:
        """Mean cross-entropy in nats per token, with `maps` in the place of those layers' fc_out."""
        return float(self.losses(maps).mean())

    def losses(self, maps: Maps | None = None) -> Tensor:
        """The same window by window, `[N]`: cross-entropy in fp32, its means in fp64. All windows are equally long."""
        found = []
        for (_, targets), logits in zip(self.batches, self.logits(maps), strict=True):
            told = logits.float().log_softmax(-1).gather(-1, targets.unsqueeze(-1))
            found.append(-told.double().mean((1, 2)))
        return torch.cat(found)

    def logits(self, maps: Maps | None = None) -> Iterator[Tensor]:
        """`[B T vocab_size]` of each batch."""
        maps = maps or {}
        first = min(maps, default=len(self.model.blocks))
        with swapped(self.model, maps), torch.inference_mode():
            for kept in self._streams:
                x, rotary = kept[first], self.model.rotary(kept[first], 0)
                for block in self.model.blocks[first:]:
                    x = block(x, rotary)
                yield self.model.logits(x)

    def seen(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Z, x and y of one layer's fc_out over all windows, `[N T H V]`, `[N T C]`, `[N T C]`, and no loss for it."""
        own, caught = attentions(self.model)[layer].fc_out, []

        class Ear(nn.Module):
            def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:
                y_BTC = own(z_BTHV, x_BTC)
                caught.append((z_BTHV, x_BTC, y_BTC))
                return y_BTC

        with swapped(self.model, {layer: Ear()}), torch.inference_mode():
            for kept in self._streams:
                self.model.blocks[layer](kept[layer], self.model.rotary(kept[layer], 0))
        z, x, y = (torch.cat(parts) for parts in zip(*caught, strict=True))
        return z, x, y

    def streams(self, layer: int) -> Tensor:
        """The stream that enters a layer, `[N T C]`."""
        return torch.cat([kept[layer] for kept in self._streams])
