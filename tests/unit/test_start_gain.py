"""The gain that a report reads off from a run's files is that which the model's W_O starts with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from mha_ablate.build import model_of
from mha_ablate.config.compose import compose
from mha_ablate.report.joint import start_gain
from mha_ablate.study.collect import Study, collect
from tests.synthetic import write_study
from tests.unit.small import fc_outs

SIZES = ["model.d_model=64", "model.n_heads=2", "model.n_layers=3", "model.context=8", "trainer.precision=fp32"]
OF_SIZES = "init.out=normal(std=S C F / (L D n_in))"  # a rule with every letter that could be mistaken


def study(path: Path, *words: str, variant: str = "dense") -> Study:
    """Runs of dense and none whose configuration is that of these words."""
    write_study(path, arms=["dense", "none"], seeds=1, evaluations=1)
    config = asdict(compose([*SIZES, *words]).config)
    for file in path.rglob("config.yaml"):
        file.write_text(yaml.safe_dump({key: value for key, value in config.items() if key != "study"}))
        run = json.loads((file.parent / "run.json").read_text())
        (file.parent / "run.json").write_text(json.dumps(run | {"choices": {"fc_out": variant}}))
    return collect(path)


@pytest.mark.parametrize("divide_by", ["sqrt_head_dim", "sqrt_d_model", "one"])
@pytest.mark.parametrize("words", [[OF_SIZES], [OF_SIZES, "model.head_dim=16", "model.d_ff=96"], ["init=zero_out"]])
def test_the_gain_is_that_of_the_model(words: list[str], divide_by: str, tmp_path: Path) -> None:
    words = [*words, f"attention.divide_by={divide_by}"]
    model = model_of(compose([*SIZES, *words]).config, 11)
    assert start_gain(study(tmp_path / "x", *words), "dense") == pytest.approx(fc_outs(model)[0].place.dense_gain)


def test_the_divisor_counts() -> None:
    """Else the test above would show nothing of it."""
    gains = {
        fc_outs(model_of(compose([*SIZES, OF_SIZES, f"attention.divide_by={by}"]).config, 11))[0].place.dense_gain
        for by in ("sqrt_head_dim", "sqrt_d_model", "one")
    }
    assert len(gains) == 3


def test_without_a_skip_or_a_dense_baseline_no_rule_gives_the_gain(tmp_path: Path) -> None:
    assert start_gain(study(tmp_path / "skipless", "model.block=skipless"), "dense") is None
    assert start_gain(study(tmp_path / "other", variant="identity_init"), "dense") is None
    assert start_gain(study(tmp_path / "pre"), "dense") == pytest.approx(3**-0.5), "PyTorch's start"
