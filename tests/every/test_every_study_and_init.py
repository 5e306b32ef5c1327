"""Every arm and every point of every study trains under every init, or is refused in one line that says why."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from mha_ablate.build import model_of, optimizer_of
from mha_ablate.config.catalog import choice_names
from mha_ablate.config.compose import compose, compose_many
from mha_ablate.config.schema import InitConfig, RunConfig
from mha_ablate.errors import RequestError

STUDIES, INITS = choice_names("study"), choice_names("init")
VOCAB = 17


@cache
def init_of(name: str) -> InitConfig:
    return compose([f"init={name}"]).config.init


@cache
def configs_of(study: str) -> dict[str, RunConfig]:
    """Every arm at the study's own setting, and its baseline at every point, made small."""
    asked = compose([f"study={study}"]).config.study
    words = {arm: list(asked.arms[arm]) for arm in asked.chosen}
    words |= {f"{asked.baseline} at {p}": [*own, *asked.arms[asked.baseline]] for p, own in asked.point_words.items()}
    kept = {
        name: [w for w in of_one if not w.startswith(("match", "study.", "data"))] for name, of_one in words.items()
    }
    composed = compose_many([[f"study={study}", *of_one] for of_one in kept.values()])
    return {name: small(one.config) for name, one in zip(kept, composed, strict=True)}


def small(config: RunConfig) -> RunConfig:
    m = config.model
    d_model = 16 * m.n_heads if m.head_dim is None else m.d_model
    return replace(config, model=replace(m, d_model=d_model, n_layers=1, context=8, d_ff=None))


def names_an_init(study: str, name: str) -> bool:
    """Whether a point says itself which init it is run under."""
    _, _, point = name.partition(" at ")
    return any(word.startswith("init") for word in compose([f"study={study}"]).config.study.point_words.get(point, []))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("study", STUDIES)
def test_every_arm_and_point_trains_or_says_why_not(study: str, init: str) -> None:
    for name, config in configs_of(study).items():
        rules = config.init if names_an_init(study, name) else init_of(init)
        config = replace(config, init=rules)
        matched = config.attention.branch_scale == "matched"
        if matched and rules.out == "zeros()" and config.model.block != "skipless":
            with pytest.raises(RequestError, match=r"attention.branch_scale=matched: .* gain 0 .*=learned"):
                model_of(config, VOCAB)
            continue
        model = model_of(config, VOCAB)
        optimizer = optimizer_of(config, model, torch.float32)
        ids = torch.randint(0, VOCAB, (4, 8), generator=torch.Generator().manual_seed(0))
        losses = []
        for _ in range(3):
            loss = model.loss(ids, ids)
            loss.backward()
            optimizer.step(1e-3, 1.0)
            losses.append(loss.item())
        assert all(math.isfinite(loss) for loss in losses), (name, losses)
        assert losses[-1] < losses[0], (name, losses)
