"""The metric: loss over the whole validation split."""

from __future__ import annotations

import torch

from mha_ablate.data.batches import validation_windows
from mha_ablate.data.tokenizers import Tokens
from mha_ablate.model.gpt import GPT


def validation_loss(model: GPT, tokens: Tokens, *, device: torch.device) -> float:
    """Mean cross-entropy in nats per token over every window of the split, dropout off."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    with torch.inference_mode():
        for ids, targets in validation_windows(tokens, context=model.context, device=device):
            total += model.loss(ids, targets, reduction="sum")
            count += targets.numel()
    model.train(was_training)
    return (total / count).item()
