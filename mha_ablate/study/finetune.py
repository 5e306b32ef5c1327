"""Swapped, then trained on for a little: how much of what the swap costs do the other weights make good?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from mha_ablate import build
from mha_ablate.data.corpus import Corpus
from mha_ablate.model.gpt import GPT
from mha_ablate.study.trained import Trained
from mha_ablate.surgery.swap import Batch, Bench, Concatenated, attentions


def finetuned(trained: Trained, corpus: Corpus, batches: Sequence[Batch], steps: int) -> dict[str, Any] | None:
    """Losses on `batches` after `steps` more updates: of the model as it is, and with I or s I in W_O's place in all layers.

    |s I|_F is |W_O|_F; b_O stays, and is not trained on. The batches are those that the run would have seen next, the rate is
    constant: the one that its schedule ends with, or a tenth of its peak where that is 0. None where the identity does not fit.
    """
    model, place = trained.model, attentions(trained.model)[0].fc_out
    if place.value_width * place.place.n_heads != place.place.d_model:
        return None
    optim = trained.config.optim
    rate = optim.final_lr or optim.lr / 10
    after = {"untouched": _trained_on(model, trained, corpus, steps, rate, batches)}
    for name, scales in (("identity", _ones(model)), ("identity_as_loud", _as_loud(model))):
        if scales is not None:
            after[name] = _trained_on(_without_projection(model, scales), trained, corpus, steps, rate, batches)
    deltas = {name: loss - after["untouched"] for name, loss in after.items() if name != "untouched"}
    return {"steps": steps, "rate": rate, "loss": after, "delta": deltas}


def _ones(model: GPT) -> list[float]:
    return [1.0] * len(model.blocks)


def _as_loud(model: GPT) -> list[float] | None:
    """|W_O|_F / |I|_F of every layer; None where W_O is no fixed matrix."""
    found = [a.fc_out.as_affine(a.qkv.map.weight.detach()) for a in attentions(model)]
    return [float(pair[0].norm()) / len(pair[1]) ** 0.5 for pair in found if pair] if all(found) else None


def _without_projection(model: GPT, scales: Sequence[float]) -> GPT:
    other = copy.deepcopy(model)
    for attention, scale in zip(attentions(other), scales, strict=True):
        found = attention.fc_out.as_affine(attention.qkv.map.weight.detach())
        attention._modules["fc_out"] = Concatenated(scale, found[1].clone() if found else None)
    return other


def _trained_on(
    model: GPT, trained: Trained, corpus: Corpus, steps: int, rate: float, batches: Sequence[Batch]
) -> float:
    """The loss on `batches` of a copy that was trained on from where the run ended."""
    own = copy.deepcopy(model).train()
    config = trained.config
    step = build.step_of(config, own, corpus, build.hardware_of(config))
    for i in range(steps):
        step(config.trainer.steps + i, rate)
    step.optimizer.release()
    with torch.no_grad():
        return Bench(own, batches).loss()
