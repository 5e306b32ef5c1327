"""What holds of generation for every variant of fc_out: a KV cache changes nothing but the time it takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from mha_ablate.build import model_of
from mha_ablate.config.catalog import choice_names
from mha_ablate.config.compose import compose
from mha_ablate.config.schema import RunConfig
from mha_ablate.errors import RequestError
from mha_ablate.model.cache import Past
from mha_ablate.model.generate import continuation
from mha_ablate.model.gpt import GPT
from tests.unit.small import ids_of, loud

VOCAB = 13
CONTEXT = 12
SMALL = ("model.d_model=8", "model.n_layers=2", "model.n_heads=2", f"model.context={CONTEXT}", "trainer.device=cpu")
POSITIONS = ("learned", "rope", "sinusoidal")
BLOCKS = ("pre", "skipless", "parallel", "post")
SETTINGS = [
    *itertools.product(POSITIONS, BLOCKS, ["softmax"], ["learned"]),
    *itertools.product(POSITIONS, BLOCKS, ["shaped"], ["learned", "identity"]),
    *itertools.product(POSITIONS, BLOCKS, ["softmax"], ["identity"]),
]

variant = pytest.mark.parametrize("variant", choice_names("fc_out"))
attention = pytest.mark.parametrize("attention", choice_names("attention"))
kernel = pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "sdpa"])


@cache
def config_of(variant: str, attention: str) -> RunConfig:
    return compose([*SMALL, f"fc_out={variant}", f"attention={attention}"]).config


def models(variant: str, attention: str, *, explicit: bool = True) -> Iterator[tuple[str, GPT]]:
    """A model of every setting that the variant goes with, its weights loud, in float64, and what it is."""
    plain = config_of(variant, attention)
    for positions, block, scores, value in SETTINGS:
        config = replace(
            plain,
            model=replace(plain.model, positions=positions, block=block),
            attention=replace(plain.attention, scores=scores, value=value),
        )
        try:
            model = model_of(config, VOCAB, explicit=explicit)
        except RequestError:
            continue
        yield f"{positions} {block} {scores} {value}", loud(model).eval()


@torch.no_grad()
def in_pieces(model: GPT, ids_BT: Tensor, widths: list[int]) -> Tensor:
    """Logits with a cache, the tokens given `widths` at a time."""
    past = [Past() for _ in model.blocks]
    return torch.cat([model(piece, past) for piece in ids_BT.split(widths, dim=1)], dim=1)


@variant
@attention
@kernel
def test_logits_with_the_cache_are_those_of_whole_windows(variant: str, attention: str, explicit: bool) -> None:
    tried = 0
    for what, model in models(variant, attention, explicit=explicit):
        ids = ids_of(model)
        with torch.no_grad():
            whole = model(ids)
        for widths in ([1] * CONTEXT, [5, 1, 4, 2]):
            apart = (in_pieces(model, ids, widths) - whole).abs().max()
            assert apart < 1e-10 * max(1.0, whole.abs().max().item()), f"{what}, {widths}: {apart}"
        tried += 1
    assert tried >= len(POSITIONS)


@torch.no_grad()
def without_cache(model: GPT, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens, every one from a whole window: when one is full, its last half goes on."""
    window, made = prompt[-CONTEXT:], []
    for _ in range(count):
        made.append(int(model(torch.tensor([window]))[0, -1].argmax()))
        window = [*window, made[-1]]
        if len(window) > CONTEXT:
            window = window[-(CONTEXT // 2) :]
    return made


@variant
@attention
@pytest.mark.parametrize("length", [1, CONTEXT + 5])
def test_greedy_text_with_the_cache_is_the_same_without(variant: str, attention: str, length: int) -> None:
    for what, model in models(variant, attention):
        prompt = ids_of(model, rows=1, length=length)[0].tolist()
        tokens = continuation(model, prompt, temperature=0.0, top_k=None, seed=0)
        assert list(itertools.islice(tokens, 2 * CONTEXT)) == without_cache(model, prompt, 2 * CONTEXT), what
