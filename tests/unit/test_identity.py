"""Which runs are the same: settings that came later leave the identity of earlier runs as it was, and count where they are used."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mha_ablate.config.compose import compose, to_yaml
from mha_ablate.config.schema import RunConfig, config_hash
from mha_ablate.errors import RequestError
from mha_ablate.run.folder import RunFolder
from mha_ablate.start_rule import GPT2
from mha_ablate.study.replay import config_of

TEXT = {"sha256": "0" * 64, "split": "blocks", "parts": None, "tokenizer_sha256": "1" * 64}

# config.yaml of two runs as they were written before there was a choice of init, activation, divisor, dropout's place and
# biases, with the hashes that those runs have.
EARLIER: dict[str, Any] = {
    "fc_out": {"_target_": "mha_ablate.model.fc_out.dense.Dense"},
    "attention": {"qkv": "fused", "value": "learned", "scores": "softmax", "branch_scale": 1.0},
    "model": {
        "d_model": 128,
        "n_layers": 4,
        "n_heads": 4,
        "head_dim": None,
        "d_ff": None,
        "context": 64,
        "block": "pre",
        "norm": "layernorm",
        "positions": "rope",
        "bias": False,
        "dropout": 0.0,
        "tied_embedding": True,
    },
    "data": {
        "source": "python_docs",
        "path": None,
        "hub": None,
        "split": "blocks",
        "max_chars": None,
        "sha256": None,
        "licence": "PSF-2.0",
    },
    "tokenizer": {"kind": "char", "vocab_size": None},
    "optim": {
        "lr": 0.003,
        "min_lr": None,
        "warmup_steps": 40,
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.99,
        "grad_clip": 1.0,
    },
    "trainer": {
        "steps": 220,
        "batch_size": 12,
        "eval_every": 55,
        "log_every": 10,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "compile": False,
        "save_every_s": 30.0,
    },
    "seed": 0,
    "init_seed": None,
    "data_seed": None,
    "outputs": "outputs",
    "name": None,
    "match": None,
    "match_to": None,
    "init_offset": 0,
}
EARLIER_WITH_BIAS: dict[str, Any] = {
    **EARLIER,
    "fc_out": {"_target_": "mha_ablate.model.fc_out.none.NoProjection"},
    "attention": {**EARLIER["attention"], "qkv": "split", "branch_scale": "matched"},
    "model": {**EARLIER["model"], "block": "post", "bias": True, "dropout": 0.1, "tied_embedding": False},
}
KNOWN = [(EARLIER, "52ae18452245b41b"), (EARLIER_WITH_BIAS, "f120bae667b62665")]
# What runs did before there was a choice.
BEFORE = ["attention.divide_by=sqrt_head_dim", "model.mlp=gelu", "model.dropout_at=branch", "model.output_bias=false"]
OTHER = ["attention.divide_by=one", "attention.divide_by=sqrt_d_model", "attention.bias=true", "model.mlp=relu"]
OTHER += ["model.dropout_at=norm", "init=torch"]


def hash_of(config: RunConfig) -> str:
    return config_hash(config.identity(TEXT))


def composed(*words: str) -> RunConfig:
    return compose(["init=gpt2", "model.bias=false", "model.tied_embedding=true", *BEFORE, *words]).config


def read(folder: Path, kept: dict[str, Any]) -> RunConfig:
    run = RunFolder(folder)
    run.config_file.write_text(yaml.safe_dump(kept))
    return config_of(run)


@pytest.mark.parametrize(("kept", "known"), KNOWN, ids=["plain", "with_bias"])
def test_an_earlier_run_is_read_as_it_ran_and_keeps_its_hash(tmp_path: Path, kept: dict[str, Any], known: str) -> None:
    config = read(tmp_path, kept)
    assert config.init.rules == GPT2
    attention, model = config.attention, config.model
    assert (attention.divide_by, attention.bias) == ("sqrt_head_dim", None)
    assert (model.mlp, model.dropout_at, model.output_bias) == ("gelu", "branch", False)
    assert (attention.qkv, model.bias) == (kept["attention"]["qkv"], kept["model"]["bias"])
    assert hash_of(config) == known


def test_the_identity_of_an_earlier_run_names_none_of_the_later_settings(tmp_path: Path) -> None:
    identity = read(tmp_path, EARLIER).identity(TEXT)
    assert "init" not in identity
    assert identity["attention"].keys() == {"qkv", "branch_scale"}
    assert not {"mlp", "dropout_at", "output_bias"} & identity["model"].keys()


def test_a_later_run_is_read_with_the_init_that_it_had(tmp_path: Path) -> None:
    for words in (["init=torch"], ["init=gpt2"], ["model=tutorial", "attention=tutorial", "init=torch"]):
        config = compose(words).config
        run = RunFolder(tmp_path)
        run.config_file.write_text(to_yaml(config, without=("study",)))
        again = config_of(run)
        assert replace(again, study=config.study) == config
        assert hash_of(again) == hash_of(config)


def test_each_later_setting_makes_another_run() -> None:
    hashes = [hash_of(composed(*words)) for words in ([], *([word] for word in OTHER))]
    hashes.append(hash_of(composed("model.tied_embedding=false")))
    hashes.append(hash_of(composed("model.tied_embedding=false", "model.output_bias=true")))
    hashes.append(hash_of(composed("init.query=zeros()")))
    assert len(set(hashes)) == len(hashes) == len(OTHER) + 4


@pytest.mark.parametrize("bias", ["true", "false"])
def test_a_bias_that_is_the_models_own_is_no_other_run(bias: str) -> None:
    other = {"true": "false", "false": "true"}[bias]
    plain, same, off = (
        hash_of(composed(f"model.bias={bias}", f"attention.bias={word}")) for word in ("null", bias, other)
    )
    assert plain == same != off


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attention.divide_by=sqrt_d_modle"], ["attention.divide_by=sqrt_d_modle", "did you mean 'sqrt_d_model'"]),
        (["attention.divide_by=16"], ["attention.divide_by=16", "sqrt_head_dim, sqrt_d_model, one"]),
        (["attention.bias=some"], ["attention.bias", "some"]),
        (["model.mlp=rleu"], ["model.mlp=rleu", "did you mean 'relu'"]),
        (["model.mlp=swiglu"], ["model.mlp=swiglu", "gelu, relu"]),
        (["model.dropout_at=norms"], ["model.dropout_at=norms", "did you mean 'norm'"]),
        (["model.output_bias=some"], ["model.output_bias", "some"]),
        (
            ["model.tied_embedding=true", "model.output_bias=true"],
            ["model.output_bias=true needs an output layer of its own", "model.tied_embedding=false"],
        ),
        (["model=tutorial", "model.tied_embedding=true"], ["model.output_bias=true", "model.tied_embedding=false"]),
        (["model=tutoral"], ["model=tutoral", "tutorial"]),
        (["attention=tutoral"], ["attention=tutoral", "tutorial"]),
        (["model=tutorial", "attention=tutorial", "model.n_heads=3", "model.head_dim=4"], ["not divisible"]),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_in_one_line(words: list[str], said: list[str]) -> None:
    with pytest.raises(RequestError, match=re.escape(said[0])) as caught:
        compose(words)
    assert len(str(caught.value).splitlines()) == 1
    for word in said:
        assert word in str(caught.value)
