"""Text from a trained model: one token after another, with a KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mha_ablate.model.cache import Past
from mha_ablate.model.gpt import GPT


def continuation(
    model: GPT, prompt: Sequence[int], *, temperature: float, top_k: int | None, seed: int
) -> Iterator[int]:
    """The tokens that follow a prompt, without end. The same seed gives the same tokens.

    Of a long prompt the last `model.context` tokens count. When the context is full the cache is dropped, and the model reads
    the last half of the context anew: positions have changed, so nothing that was kept would still hold. Raises ValueError
    where the model gives no finite logits, as one that diverged does.
    """
    stream = torch.Generator().manual_seed(seed)
    window = list(prompt)[-model.context :]
    past, fresh = _empty(model), window
    while True:
        chosen = pick(_last_logits(model, fresh, past), temperature, top_k, stream)
        yield chosen
        window.append(chosen)
        fresh = [chosen]
        if len(window) > model.context:
            window = window[-max(1, model.context // 2) :]
            past, fresh = _empty(model), window


def pick(logits_V: Tensor, temperature: float, top_k: int | None, stream: torch.Generator) -> int:
    """Draw a token from softmax(logits / temperature), of the `top_k` likeliest alone if given; 0 takes the likeliest."""
    if not logits_V.isfinite().all():
        raise ValueError("the model's logits are not finite: its training diverged")
    if temperature == 0:
        return int(logits_V.argmax())
    kept, ids = logits_V.double().topk(min(top_k or len(logits_V), len(logits_V)))
    weights = torch.softmax((kept - kept.max()) / temperature, dim=-1)
    return int(ids[torch.multinomial(weights, 1, generator=stream)])


def _empty(model: GPT) -> list[Past]:
    return [Past() for _ in model.blocks]


@torch.inference_mode()
def _last_logits(model: GPT, ids: Sequence[int], past: list[Past]) -> Tensor:
    return model(torch.tensor([ids]), past)[0, -1]
