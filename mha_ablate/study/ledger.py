"""What each arm costs, without training any: parameters, FLOPs, memory, and times measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mha_ablate import build
from mha_ablate.config.compose import compose
from mha_ablate.config.schema import RunConfig
from mha_ablate.config.sweep import sweep
from mha_ablate.corpora import corpus_of
from mha_ablate.data.corpus import Corpus
from mha_ablate.errors import RequestError
from mha_ablate.model.cache import Past
from mha_ablate.study.single import refuse_match
from mha_ablate.study.timing import interleaved, measure_steps

ROUNDS = 7
DECODED = 16  # tokens of a turn
OnTurn = Callable[[int, int], None]


def arms_of(
    words: list[str], variants: list[str], config_dir: Path | None = None
) -> tuple[dict[str, RunConfig], dict[str, str]]:
    """Every combination of what `words` list (`fc_out=dense,none model.n_heads=2,4`), by name; and why some cannot be.

    Where fc_out is not chosen, all `variants` are. An arm is named by what it was listed for. Raises RequestError for a
    request that is wrong whatever the arm, and where none can be built.
    """
    if not any(word.startswith("fc_out=") for word in words):
        words = [f"fc_out={','.join(variants)}", *words]
    arms: dict[str, RunConfig] = {}
    refused: dict[str, str] = {}
    for name, overrides in sweep(words).items():
        try:
            config = compose(overrides, config_dir).config
            refuse_match(config)
            build.model_of(config, 2, "meta")
            arms[name] = build.resolved(replace(config, trainer=replace(config.trainer, threads=1)))
        except RequestError as error:
            refused[name] = str(error)
    if not arms:
        raise RequestError(next(iter(refused.values())))
    return arms, refused


def corpus_for(arms: dict[str, RunConfig]) -> Corpus:
    """The text that all arms are counted for: its vocabulary is part of their cost. Raises RequestError where they differ."""
    first, *others = arms.values()
    if any((config.data, config.tokenizer) != (first.data, first.tokenizer) for config in others):
        raise RequestError("arms of different texts or tokenizers have different vocabularies: ask for one at a time")
    return corpus_of(first, any_length=True)


def ledger(
    arms: dict[str, RunConfig], corpus: Corpus, *, baseline: str, timed: bool = True, on_turn: OnTurn = lambda *_: None
) -> dict[str, Any]:
    """`{baseline, arms: [{arm, cost, versus}]}`: costs under the keys of report.json, and as ratios to the baseline's.

    Raises RequestError for a baseline that is not among the arms.
    """
    if baseline not in arms:
        raise RequestError(f"--baseline {baseline} is not among the arms ({', '.join(arms)})")
    costs = {arm: counted(config, corpus.vocab_size) for arm, config in arms.items()}
    if timed:
        steps = measure_steps(arms, on_turn, corpus.reference)
        latencies = measure_generation(arms, corpus.vocab_size, on_turn)
        costs = {arm: {**costs[arm], **steps[arm], **latencies[arm]} for arm in arms}
    base = costs[baseline]
    ordered = [baseline, *(arm for arm in arms if arm != baseline)]
    return {
        "baseline": baseline,
        "arms": [{"arm": arm, "cost": costs[arm], "versus": versus(costs[arm], base)} for arm in ordered],
    }


def counted(config: RunConfig, vocab_size: int) -> dict[str, Any]:
    """All that needs no clock; memory in units of 10^6 bytes."""
    memory = build.counted_memory(config, vocab_size)
    return {
        **build.counted_work(config, vocab_size, "meta"),
        **{f"{key}_memory_mb": size / 1e6 for key, size in memory.items()},
        "kv_cache_bytes_per_token": build.cache_bytes_per_token(config, vocab_size),
    }


def versus(cost: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Each number as a ratio to the baseline's, where that is not 0; times round by round, which takes a drift out.

    Of a time there is `KEY_range` too: the least and the greatest ratio of a round.
    """
    ratios: dict[str, Any] = {
        key: value / base[key] for key, value in cost.items() if isinstance(value, int | float) and base.get(key)
    }
    for key in ratios.keys() & {"step_ms", "prefill_ms", "decode_ms"}:
        rounds = [mine / theirs for mine, theirs in zip(cost[f"{key}_rounds"], base[f"{key}_rounds"], strict=True)]
        ratios[key], ratios[f"{key}_range"] = statistics.median(rounds), [min(rounds), max(rounds)]
    if "step_ms" in ratios:
        ratios["tokens_per_s"] = 1 / ratios["step_ms"]
    return ratios


def measure_generation(arms: dict[str, RunConfig], vocab_size: int, on_turn: OnTurn) -> dict[str, dict[str, Any]]:
    """`prefill_ms` of half a context in one go, and `decode_ms` of each token after it, from the KV cache; one sequence.

    In the working precision, the median of 7 rounds in which every arm takes a turn, after one that is not counted; and the rounds.
    Without a token after half a context, there is no `decode_ms`.
    """
    speakers = {arm: _Speaker(config, vocab_size) for arm, config in arms.items()}
    seconds: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
    for turn, arm in enumerate(interleaved(arms, 1 + ROUNDS), start=1):
        seconds[arm].append(speakers[arm].seconds())
        on_turn(turn, (1 + ROUNDS) * len(arms))
    return {arm: _latencies(rounds[1:]) for arm, rounds in seconds.items()}


def _latencies(rounds: list[tuple[float, float]]) -> dict[str, Any]:
    of_all = {
        name: [1000 * s for s in seconds]
        for name, seconds in zip(("prefill_ms", "decode_ms"), zip(*rounds, strict=True), strict=True)
        if all(seconds)
    }
    medians = {name: statistics.median(times) for name, times in of_all.items()}
    return {**medians, **{f"{name}_rounds": times for name, times in of_all.items()}}


class _Speaker:
    """One arm, ready to read half a context and to speak."""

    def __init__(self, config: RunConfig, vocab_size: int) -> None:
        hardware = build.hardware_of(config)
        hardware.prepare()
        model = build.model_of(config, vocab_size, explicit=True)
        self.device = torch.device(hardware.device)
        self.model = model.to(device=self.device, dtype=hardware.dtype).eval()
        self.prompt = torch.zeros((1, max(1, config.model.context // 2)), dtype=torch.long, device=self.device)
        self.decoded = min(DECODED, config.model.context - self.prompt.shape[1])

    @torch.no_grad()
    def seconds(self) -> tuple[float, float]:
        """Of the prompt, and of one token after it; without a token after it, 0."""
        past = [Past() for _ in self.model.blocks]
        start = self._now()
        self.model(self.prompt, past)
        middle = self._now()
        for _ in range(self.decoded):
            self.model(self.prompt[:, :1], past)
        return middle - start, (self._now() - middle) / max(1, self.decoded)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
