"""Step times that can be compared: all arms in one process, interleaved, alone on the machine, after warm-up."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from mha_ablate import build
from mha_ablate.config.schema import RunConfig
from mha_ablate.corpora import corpus_of

ROUNDS = 7
WARM_UP = 2
SECONDS_PER_TURN = 0.2

OnTurn = Callable[[int, int], None]


def measure_steps(
    configs: dict[str, RunConfig], on_turn: OnTurn, text: dict[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """`step_ms` and `tokens_per_s` of each arm: the median of 7 rounds in which every arm takes a turn; and the rounds.

    Two untimed steps warm an arm up; a turn is as many steps as fit in about 0.2 s, at least one. Between turns, `on_turn` receives
    how many are done and how many there are; warming an arm up counts as one. `text` is the `Corpus.reference` that was planned.
    """
    total = turns(len(configs))
    arms: dict[str, _Stepper] = {}
    for name, config in configs.items():
        arms[name] = _Stepper(config, text)
        on_turn(len(arms), total)
    per_turn = _steps_per_turn(next(iter(arms.values())).seconds(1))
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for name in interleaved(arms, ROUNDS):
        seconds[name].append(arms[name].seconds(per_turn) / per_turn)
        on_turn(len(arms) + sum(map(len, seconds.values())), total)
    return {
        name: {
            "step_ms": 1000 * statistics.median(times),
            "tokens_per_s": arms[name].take_step.tokens / statistics.median(times),
            "step_ms_range": [1000 * min(times), 1000 * max(times)],
            "step_ms_rounds": [1000 * s for s in times],
        }
        for name, times in seconds.items()
    }


def interleaved(arms: Iterable[str], rounds: int) -> Iterator[str]:
    """Every arm once a round, in a random order and in the next round backwards: what a machine does falls on all alike."""
    order = random.Random(0)
    names = list(arms)
    for turn in range(rounds):
        if turn % 2:
            names.reverse()
        else:
            order.shuffle(names)
        yield from names


def turns(arms: int) -> int:
    """How many turns `measure_steps` tells of: each arm is warmed up and then takes one a round."""
    return arms * (1 + ROUNDS)


def seconds_of_timing(step_seconds: Sequence[float]) -> float:
    """About how long `measure_steps` takes, given what a step of each arm takes."""
    steps_of_an_arm = WARM_UP + ROUNDS * _steps_per_turn(step_seconds[0])
    return steps_of_an_arm * sum(step_seconds)


def _steps_per_turn(step_seconds: float) -> int:
    return max(1, min(10, int(SECONDS_PER_TURN / max(1e-4, step_seconds))))


class _Stepper:
    """One arm, ready to take training steps on its text."""

    def __init__(self, config: RunConfig, text: dict[str, Any] | None) -> None:
        hardware = build.hardware_of(config)
        hardware.prepare()
        corpus = corpus_of(config, known=text)
        self.device = torch.device(hardware.device)
        model = build.model_of(config, corpus.vocab_size, hardware.device)
        self.take_step, self.rate = build.training_of([config], [model], corpus, hardware), config.optim.lr
        self.seconds(WARM_UP)

    def seconds(self, steps: int) -> float:
        """Wall time of so many updates."""
        start = time.perf_counter()
        for step in range(steps):
            self.take_step(step, self.rate)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start
