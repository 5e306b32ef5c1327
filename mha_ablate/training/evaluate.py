"""The metric: loss over the whole validation split, and a glance at it on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mha_ablate.data.batches import TOKENS_AT_ONCE, sample_stride, validation_windows
from mha_ablate.data.tokenizers import Tokens
from mha_ablate.model.gpt import GPT
from mha_ablate.training.step import TrainingStep

if TYPE_CHECKING:
    from mha_ablate.training.stack import StackedStep


def validation_loss(model: GPT, tokens: Tokens, *, device: torch.device, whole: bool = True) -> float:
    """Mean cross-entropy in nats per token over every window of the split, dropout off.

    With `whole=False` over a fixed sample of the windows, the same for every model: a point of the curve, not the result.
    """
    was_training = model.training
    model.eval()
    stride = 1 if whole else sample_stride(tokens, model.context)
    windows = validation_windows(tokens, context=model.context, device=device, stride=stride)
    [loss] = _means(lambda ids, targets: model.loss(ids, targets, reduction="sum"), windows, device)
    model.train(was_training)
    return loss


def validation_losses(take_step: TrainingStep | StackedStep, tokens: Tokens, *, whole: bool = True) -> list[float]:
    """`validation_loss` of every lane, those of a stack all at once; no more tokens go in together than in training."""
    if isinstance(take_step, TrainingStep):
        return [validation_loss(take_step.model, tokens, device=take_step.device, whole=whole)]
    stack, context = take_step, take_step.models[0].context
    windows = validation_windows(
        tokens,
        context=context,
        device=stack.device,
        stride=1 if whole else sample_stride(tokens, context),
        tokens_per_batch=max(stack.tokens, TOKENS_AT_ONCE // len(stack.models)),
    )
    return _means(stack.sums, windows, stack.device)


def _means(
    sums: Callable[[Tensor, Tensor], Tensor], windows: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> list[float]:
    """What `sums` gives, one number or one a lane, added up and divided by the number of targets."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    with torch.inference_mode():
        for ids, targets in windows:
            total = total + sums(ids, targets)
            count += targets.numel()
    return (total / count).reshape(-1).tolist()
