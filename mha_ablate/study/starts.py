"""How attention starts under each init, measured: matrices are drawn as a model draws them, and random input goes through.

Input is N(0, 1), tokens independent. Where a matrix is large, a sample of its heads and rows, all drawn alike, stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mha_ablate.build import model_of
from mha_ablate.config.catalog import Choice
from mha_ablate.config.compose import compose_many, key_of
from mha_ablate.config.schema import RunConfig
from mha_ablate.errors import RequestError
from mha_ablate.model.attention import Attention, SplitQKV
from mha_ablate.model.init import Draw
from mha_ablate.model.layers import Linear
from mha_ablate.surgery.swap import attentions

WINDOWS, TOKENS = 4, 64  # of random input; 64 is what `attended` is for flat attention
ENTRIES = 2**21  # of a matrix that are drawn at most, in whole heads
LARGEST_HEAD = 2**26  # entries of one head's map, beyond which nothing is measured
DRAWS = 8  # at most; a small matrix is drawn several times, since one draw misses its gain by chance
WORK = 2**20  # entries drawn for one init, roughly


@dataclass(frozen=True)
class Start:
    """How attention starts: gains are rms(out) / rms(in).

    `gain_out` has one for each layer's W_O, `gain_branch` is that of W_O W_V for one token in the first layer, `scores_sd` the
    standard deviation of what the softmax gets, `attended` the mean of exp(entropy) of its weights over 64 tokens.
    """

    gain_value: float
    gain_out: list[float]
    gain_branch: float
    scores_sd: float
    attended: float

    @property
    def louder_without(self) -> float | None:
        """How many times larger the branch starts without W_O: 1 / gain, geometric mean over layers; None where one is 0."""
        if 0.0 in self.gain_out:
            return None
        return math.exp(-sum(map(math.log, self.gain_out)) / len(self.gain_out))


def measured_starts(
    choices: Sequence[Choice], settings: list[str], config_dir: Path | None = None
) -> tuple[RunConfig, dict[str, Start]]:
    """The start under each init at the sizes of `settings`, and a configuration of these sizes. Raises RequestError."""
    for word in settings:
        if key_of(word) in ("init", "fc_out"):
            raise RequestError(
                f"{word}: the table has every init, and fc_out as it is by default: give sizes, such as model.d_model=768"
            )
    requests = [[*settings, f"init={choice.name}"] for choice in choices]
    configs = [composed.config for composed in compose_many(requests, config_dir)]
    return configs[0], {choice.name: measured(config) for choice, config in zip(choices, configs, strict=True)}


def measured(config: RunConfig) -> Start:
    """The start of attention in a model of this configuration. Raises RequestError for sizes that cannot be built."""
    plain = replace(config, attention=replace(config.attention, branch_scale=1.0))
    layers = attentions(model_of(plain, 1, "meta"))
    place = layers[0].fc_out.place
    per_head = layers[0].qkv.map.weight.shape[1] * place.head_dim
    if per_head > LARGEST_HEAD:
        raise RequestError(
            f"one head's map has {per_head:,} entries, too many to draw: take a smaller model.d_model, or more heads"
        )
    seeds = range(config.seeds[0], config.seeds[0] + min(DRAWS, max(1, WORK // (place.d_model * place.width))))
    try:
        drawn = [_drawn(layers, seed) for seed in seeds]
    except ValueError as error:
        raise RequestError(str(error)) from error
    squares = torch.tensor([d.squares for d in drawn], dtype=torch.float64).mean(0).sqrt().tolist()
    value, branch, scores, *out = squares
    return Start(value, out, branch, scores, sum(d.attended for d in drawn) / len(drawn))


@dataclass(frozen=True)
class _Drawn:
    """Squares of the gains of V and of V O, the variance of scores, the square of each layer's gain of O; tokens attended."""

    squares: list[float]
    attended: float


@torch.no_grad()
def _drawn(layers: Sequence[Attention], seed: int) -> _Drawn:
    """One draw of the matrices, and what comes out of them."""
    qkv, place = layers[0].qkv, layers[0].fc_out.place
    D, n_in = place.head_dim, qkv.map.weight.shape[1]
    heads = min(place.n_heads, max(1, ENTRIES // (n_in * D)))
    split = isinstance(qkv, SplitQKV)
    stream = torch.Generator().manual_seed(seed)

    rows = D if split else heads * D  # of each of W_Q, W_K, W_V
    blocks = [(rows, start) for _, start in qkv.map.blocks]
    biased = qkv.map.bias is not None
    maps = Linear(n_in, rows * len(blocks), bias=biased, start=blocks, bias_start=qkv.map.bias_start)
    maps.reset_parameters(Draw(seed, "blocks.0.attention.qkv.map"))
    x_NSI = _noise(stream, WINDOWS * TOKENS, heads if split else 1, n_in)
    q, k, *values = (part.reshape(WINDOWS, TOKENS, heads, D) for part in maps(x_NSI).split(rows, -1))
    v_NK = values[0].flatten(0, 1).flatten(1) if values else x_NSI.flatten(1)[:, : heads * D]
    scores_WHTS = torch.einsum("wthd,wshd->whts", q, k) / layers[0].divisor
    weights = scores_WHTS.softmax(-1)
    attended = (-(weights * weights.clamp_min(1e-30).log()).sum(-1)).exp()

    z_NK = _noise(stream, WINDOWS * TOKENS, place.width)
    gains: list[float] = []
    branch, known = 0.0, {}
    for layer, attention in enumerate(layers):
        start = attention.fc_out.place.dense_start
        if start not in known:
            C = min(place.d_model, max(1, ENTRIES // place.width))
            out = Linear(place.width, C, bias=place.bias, start=start, bias_start=place.bias_start)
            out.reset_parameters(Draw(seed, f"blocks.{layer}.attention.fc_out.map"))
            known[start] = _power(out(z_NK)) / _power(z_NK)
            if layer == 0:
                y_NC = v_NK @ out.weight[:, : heads * D].T * math.sqrt(place.n_heads / heads)
                branch = _power(y_NC if out.bias is None else y_NC + out.bias) / _power(x_NSI)
        gains.append(known[start])
    return _Drawn(
        [_power(v_NK) / _power(x_NSI), branch, float(scores_WHTS.double().var()), *gains],
        float(attended.double().mean()),
    )


def _noise(stream: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=stream)


def _power(x: Tensor) -> float:
    return float(x.double().square().mean())
