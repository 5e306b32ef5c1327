"""How loud the attention branch starts, from its input to its output: every variant under every init, beside dense."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
import yaml

from mha_ablate.build import fc_out_maker
from mha_ablate.config.catalog import choice_names
from mha_ablate.config.compose import compose
from mha_ablate.config.paths import configs_dir
from mha_ablate.model.gpt import GPT
from mha_ablate.model.init import Starts, sizes_of
from tests.unit.small import blocks, gpt, rms

VARIANTS = choice_names("fc_out")
init = pytest.mark.parametrize("init", choice_names("init"))
C, SEEDS = 64, 2
# Their start is what they are about. Any other variant starts as loud as dense.
OWN_START = {"none", "permute", "permute_shared", "orthogonal", "identity_init", "skip_gain", "zero_init"}


@cache
def rules_of(name: str) -> dict[str, str]:
    return yaml.safe_load((configs_dir() / "init" / f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def spec(name: str) -> dict[str, Any]:
    return compose([f"fc_out={name}"]).config.fc_out


def model(variant: str, rules: dict[str, str], **settings: Any) -> GPT:
    sizes = {"d_model": C, "n_layers": 1, "n_heads": 4, "d_ff": C, "context": 4}
    return gpt(fc_out_maker(spec(variant)), **{**sizes, "init": rules, **settings})


def branch_gain(variant: str, init: str, **settings: Any) -> float:
    """rms(y) / rms(x) of attention for single tokens, over a few draws of its weights."""
    stream = torch.Generator().manual_seed(0)
    x_BTC = torch.randn(200, 1, C, generator=stream)
    squares = []
    for seed in range(SEEDS):
        attention = blocks(model(variant, rules_of(init), init_seed=seed, **settings))[0].attention
        squares.append(rms(attention(x_BTC, None)) ** 2)
    return math.sqrt(sum(squares) / SEEDS) / rms(x_BTC)


def expected_gain(variant: str, init: str, H: int, n_in: int) -> float:
    """Dense's V and O by their rules, times what a variant says of itself."""
    D = C // H
    sizes = sizes_of(d_model=C, n_heads=H, head_dim=D, n_layers=1, d_ff=C, divisor=math.sqrt(D))
    starts = Starts(rules_of(init), sizes)
    value = starts.of("value", n_in=n_in, n_out=n_in).std * math.sqrt(n_in)
    out = starts.of("out", n_in=C, n_out=C, layer=1).std * math.sqrt(C)
    fixed = out or 1.0  # a constant that is to match a gain of 0 is 1
    if variant == "none":
        return value
    if variant == "tied":  # z and the map back are of one W_V
        return value * fixed * math.sqrt(2)
    return value * (fixed if variant in ("frozen", "merged_ov") else out)


@pytest.mark.parametrize(("qkv", "H"), [("fused", 4), ("split", 2)])
@init
def test_the_whole_branch_starts_as_loud_as_dense(init: str, qkv: str, H: int) -> None:
    for variant in VARIANTS:
        if variant in OWN_START:
            continue
        found = branch_gain(variant, init, qkv=qkv, n_heads=H)
        wanted = expected_gain(variant, init, H, C if qkv == "fused" else C // H)
        assert found == pytest.approx(wanted, rel=0.08), variant


@init
def test_the_other_variants_are_as_loud_as_they_say(init: str) -> None:
    values_alone = branch_gain("none", init)
    assert values_alone == pytest.approx(expected_gain("none", init, 4, C), rel=0.08)
    for variant in sorted(OWN_START):
        gain = 0.0 if variant == "zero_init" else 1.0
        assert blocks(model(variant, rules_of(init)))[0].attention.fc_out.start_gain == gain, variant
        assert branch_gain(variant, init) == pytest.approx(gain * values_alone, rel=0.02), variant
