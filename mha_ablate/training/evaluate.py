"""The metric: loss over the whole validation split, and a glance at it on the way."""

from __future__ import annotations

import torch

from mha_ablate.data.batches import sample_stride, validation_windows
from mha_ablate.data.tokenizers import Tokens
from mha_ablate.model.gpt import GPT


def validation_loss(model: GPT, tokens: Tokens, *, device: torch.device, whole: bool = True) -> float:
    """Mean cross-entropy in nats per token over every window of the split, dropout off.

    With `whole=False` over a fixed sample of the windows, the same for every model: a point of the curve, not the result.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    stride = 1 if whole else sample_stride(tokens, model.context)
    with torch.inference_mode():
        for ids, targets in validation_windows(tokens, context=model.context, device=device, stride=stride):
            total += model.loss(ids, targets, reduction="sum")
            count += targets.numel()
    model.train(was_training)
    return (total / count).item()
