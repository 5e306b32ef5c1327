"""A Transformer small enough for a unit test, and handles on its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mha_ablate.model.block import Block
from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.fc_out.dense import Dense
from mha_ablate.model.gpt import GPT
from mha_ablate.training.optimizer import FlatAdamW

SIZES: dict[str, Any] = {"vocab_size": 11, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "context": 8}


def gpt(make_fc_out: Callable[[Place], FcOut] = Dense, **changes: Any) -> GPT:
    """Two layers, d_model 16, two heads, context 8, unless `changes` says otherwise."""
    settings = SIZES | changes
    settings.setdefault("head_dim", settings["d_model"] // settings["n_heads"])
    return GPT(make_fc_out=make_fc_out, **settings)


def blocks(model: GPT) -> list[Block]:
    return [cast(Block, block) for block in model.blocks]


def fc_outs(model: GPT) -> list[FcOut]:
    return [block.attention.fc_out for block in blocks(model)]


def ids_of(model: GPT, rows: int = 3, length: int | None = None, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.tokens.weight.shape[0], (rows, length or model.context), generator=stream)


@torch.no_grad()
def loud(model: GPT, seed: int = 0) -> GPT:
    """The model in float64 with weights so large that no path through it is negligible."""
    model.double()
    stream = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        noise = torch.randn(p.shape, generator=stream, dtype=torch.float64)
        p.copy_(0.3 * noise if p.dim() >= 2 else 1 + 0.3 * noise)
    return model


def adamw(model: nn.Module, dtype: torch.dtype = torch.float32, weight_decay: float = 0.1) -> FlatAdamW:
    return FlatAdamW(model, dtype=dtype, weight_decay=weight_decay, betas=(0.9, 0.99))


def rms(x: Tensor) -> float:
    return x.detach().double().square().mean().sqrt().item()


def inputs_of(module: nn.Module) -> list[Tensor]:
    """A list that receives the first argument of every call of `module` from now on."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, given: tuple[Any, ...]) -> None:
        kept.append(given[0])

    module.register_forward_pre_hook(keep)
    return kept
