"""The learning rate over the run."""

import math


def learning_rate(step: int, *, steps: int, peak: float, final: float, warmup: int) -> float:
    """Rate of update `step` (from 0): linear warm-up to `peak`, then half a cosine down to `final` at `steps`.

    peak (step + 1) / (warmup + 1) below `warmup`, then final + (peak - final) (1 + cos(pi t)) / 2 with
    t = (step - warmup) / (steps - warmup).
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    t = (step - warmup) / max(1, steps - warmup)
    return final + (peak - final) * (1 + math.cos(math.pi * min(t, 1.0))) / 2
