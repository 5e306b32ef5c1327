"""Weights in the names and layouts of GPT-2 (Radford et al. 2019) as the `transformers` library has them, and back.

Its `Conv1D` keeps a map as `[n_in, n_out]`, the transpose of ours, and every map and norm has a bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor

from mha_ablate.model.attention import Attention
from mha_ablate.model.block import Block
from mha_ablate.model.gpt import GPT
from mha_ablate.model.layers import Embedding, Linear

PREFIX = "transformer."


@torch.no_grad()
def as_gpt2(model: GPT) -> dict[str, Tensor]:
    """The tensors of a GPT2LMHeadModel with the same logits, biases that the model lacks filled with zeros.

    c_proj is the branch's multiplier times W_O. Raises ValueError where W_O is no fixed square matrix; that the other settings are
    GPT-2's is for the caller to know.
    """
    exact_like = model.tokens.weight
    tensors = {
        "wte.weight": model.tokens.weight,
        "wpe.weight": cast(Embedding, model.positions).weight,
        **_norm("ln_f", model.norm),
    }
    for i, block in enumerate(map(_as_block, model.blocks)):
        W, b = _output(block.attention)
        tensors |= {
            **_norm(f"h.{i}.ln_1", block.norm_attention),
            **_map(f"h.{i}.attn.c_attn", block.attention.qkv.map.weight, block.attention.qkv.map.bias),
            **_map(f"h.{i}.attn.c_proj", W.to(exact_like), b.to(exact_like)),
            **_norm(f"h.{i}.ln_2", block.norm_mlp),
            **_map(f"h.{i}.mlp.c_fc", block.mlp.up.weight, block.mlp.up.bias),
            **_map(f"h.{i}.mlp.c_proj", block.mlp.down.weight, block.mlp.down.bias),
        }
    named = {PREFIX + name: tensor for name, tensor in tensors.items()}
    if model.output is not None:
        named["lm_head.weight"] = cast(Linear, model.output).weight
    return named


def _as_block(block: object) -> Block:
    return cast(Block, block)


def _output(attention: Attention) -> tuple[Tensor, Tensor]:
    affine = attention.fc_out.as_affine(attention.qkv.map.weight.detach())
    if affine is None or affine[0].shape[0] != affine[0].shape[1]:
        raise ValueError("the output projection is no fixed square matrix")
    scale = attention.branch_scale if attention.scale is None else attention.scale
    return affine[0] * scale, affine[1] * scale


def _map(name: str, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    filled = torch.zeros_like(weight[:, 0]) if bias is None else bias
    return {f"{name}.weight": weight.T, f"{name}.bias": filled}


def _norm(name: str, norm: torch.nn.Module | None) -> dict[str, Tensor]:
    weight, bias = cast(Tensor, getattr(norm, "weight")), getattr(norm, "bias", None)  # noqa: B009
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros_like(weight) if bias is None else bias}


def maps_of(
    tensors: Mapping[str, Tensor], n_layers: int, n_heads: int, d_model: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """W_O `[C, C]` and the value weights `[H D C]` of every layer of a GPT-2. Raises ValueError where they are not there."""
    for i in range(n_layers):
        own = f"h.{i}.attn"
        c_attn, c_proj = (_found(tensors, f"{own}.{name}.weight") for name in ("c_attn", "c_proj"))
        if c_attn.shape != (d_model, 3 * d_model) or c_proj.shape != (d_model, d_model):
            raise ValueError(
                f"{own} has shapes {[*c_attn.shape]} and {[*c_proj.shape]}, not those of d_model = {d_model}"
            )
        yield c_proj.T, c_attn[:, 2 * d_model :].T.reshape(n_heads, -1, d_model)


def _found(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    for full in (name, PREFIX + name):
        if full in tensors:
            if not bool(torch.isfinite(tensors[full]).all()):
                raise ValueError(f"{full} is not finite")
            return tensors[full]
    raise ValueError(f"it has no tensor {name}")
