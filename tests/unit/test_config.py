"""Configurations: composed from YAML, checked, identified, written and read back; the catalogue of what can be chosen."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mha_ablate.config import schema
from mha_ablate.config.catalog import choice_names, choices, groups
from mha_ablate.config.compose import compose, compose_many, configs_dir, from_plain, to_yaml
from mha_ablate.config.schema import HubConfig, RunConfig, StudyConfig, config_hash, safe_name
from mha_ablate.errors import RequestError
from mha_ablate.start_rule import GPT2

CHOICES = sorted(f.relative_to(configs_dir()) for f in configs_dir().glob("*/*.yaml"))
TEXT = {"sha256": "0" * 64, "split": "blocks", "parts": None, "tokenizer_sha256": "1" * 64}
REQUIRED = {"data/text": ["data.path=some/where.txt"], "data/hub": ["data.hub.name=owner/name"]}


HUB = HubConfig(name="owner/name", config=None, revision=None, splits=None, column="text", join="")


@pytest.fixture(scope="module")
def default() -> RunConfig:
    """What no override at all gives."""
    return compose([]).config


def hash_of(config: RunConfig, **text: Any) -> str:
    return config_hash(config.identity({**TEXT, **text}))


def but(config: RunConfig, **changes: Any) -> RunConfig:
    """The configuration with other values: `but(config, optim={"lr": 1.0}, seed=3)`."""

    def new(key: str, value: Any) -> Any:
        old = getattr(config, key)
        return replace(old, **value) if dataclasses.is_dataclass(old) and not isinstance(old, type) else value

    return replace(config, **{key: new(key, value) for key, value in changes.items()})


# --- the YAML files


def test_there_are_configs_to_compose() -> None:
    assert len(CHOICES) >= 15
    assert {c.parent.name for c in CHOICES} == set(groups())


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_yaml_composes(choice: Path) -> None:
    group, name = choice.parent.as_posix(), choice.stem
    composed = compose([f"{group}={name}", *REQUIRED.get(f"{group}/{name}", [])])
    assert composed.choices[group] == name


def test_the_default_choices_are_those_of_the_index(default: RunConfig) -> None:
    index = yaml.safe_load((configs_dir() / "config.yaml").read_text(encoding="utf-8"))
    written = {
        k.removeprefix("override "): v
        for entry in index["defaults"]
        if isinstance(entry, dict)
        for k, v in entry.items()
    }
    composed = compose([])
    assert {k: composed.choices[k] for k in written} == written
    assert composed.config == default


def test_every_default_is_written_in_yaml_alone() -> None:
    classes = [c for c in vars(schema).values() if dataclasses.is_dataclass(c)]
    assert RunConfig in classes
    assert len(classes) == 12
    for cls in classes:
        for field in fields(cls):  # pyright: ignore[reportArgumentType]
            assert field.default is dataclasses.MISSING, f"{cls}.{field.name}"
            assert field.default_factory is dataclasses.MISSING, f"{cls}.{field.name}"


def test_an_override_reaches_the_configuration() -> None:
    config = compose(["fc_out=none", "model.n_heads=8", "optim.lr=2e-3", "seed=7"]).config
    assert config.fc_out["_target_"].endswith("NoProjection")
    assert (config.model.n_heads, config.optim.lr, config.seed) == (8, 2e-3, 7)


def test_requests_composed_together_do_not_touch_each_other() -> None:
    one, two, plain = compose_many([["optim.lr=1.0"], ["model.bias=true"], []])
    assert (one.config.optim.lr, one.config.model.bias) == (1.0, False)
    assert (two.config.optim.lr, two.config.model.bias) == (plain.config.optim.lr, True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optim": {"lr": 0.0}}, "optim.lr=0.0"),
        ({"optim": {"lr": math.nan}}, "optim.lr=nan"),
        ({"optim": {"lr": math.inf}}, "optim.lr=inf"),
        ({"optim": {"min_lr": 1.0}}, "above optim.lr"),
        ({"optim": {"grad_clip": -1.0}}, "optim.grad_clip=-1.0"),
        ({"optim": {"weight_decay": math.inf}}, "optim.weight_decay=inf"),
        ({"optim": {"beta2": 1.0}}, "[0.0, 1.0)"),
        ({"model": {"dropout": 1.0}}, "[0.0, 1.0)"),
        ({"model": {"n_layers": 0}}, "model.n_layers=0"),
        ({"model": {"n_heads": 3}}, "not divisible"),
        ({"model": {"head_dim": 3, "positions": "rope"}}, "even head_dim"),
        ({"model": {"norm": "layer"}}, "did you mean 'layernorm'"),
        ({"trainer": {"device": "gpu"}}, "auto, cpu, cuda"),
        ({"trainer": {"steps": 0}}, "trainer.steps=0"),
        ({"trainer": {"threads": 5000}}, "4096 or less"),
        ({"data": {"source": "text"}}, "data.path=FILE"),
        ({"data": {"path": "x"}}, "add data=text"),
        ({"data": {"source": "web"}}, "python_docs, python_code, text, hub"),
        ({"data": {"split": "own "}}, "did you mean 'own'"),
        ({"data": {"max_chars": 0}}, "data.max_chars=0"),
        ({"data": {"source": "hub"}}, "data.hub.name=OWNER/NAME"),
        ({"data": {"hub": HUB}}, "data.hub is read by data sets of the Hub alone"),
        ({"tokenizer": {"kind": "words"}}, "char, byte, bpe"),
        ({"tokenizer": {"kind": "bpe"}}, "tokenizer.vocab_size"),
        ({"tokenizer": {"vocab_size": 300}}, "for tokenizer=bpe alone"),
        ({"tokenizer": {"kind": "bpe", "vocab_size": 255}}, "256 or more"),
        ({"tokenizer": {"kind": "bpe", "vocab_size": 2**16 + 1}}, "65536 or less"),
        ({"attention": {"branch_scale": 0}}, "branch_scale=0"),
        ({"attention": {"branch_scale": "loud"}}, "branch_scale=loud"),
        ({"attention": {"branch_scale": True}}, "branch_scale=True"),
        ({"study": {"margin": 0.0}}, "study.margin=0.0"),
        ({"study": {"arms": {}}}, "study.arms is empty"),
        ({"study": {"name": "a/b"}}, "study.name='a/b'"),
        ({"name": ".."}, "name='..'"),
        ({"outputs": ""}, "outputs is empty"),
        ({"match": "memory"}, "match=memory"),
        ({"match_to": "none"}, "match is null"),
        ({"seed": -1}, "seed=-1"),
        ({"init_seed": 2**31}, "init_seed=2147483648"),
        ({"fc_out": {}}, "choose a variant"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_in_one_line(default: RunConfig, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        but(default, **changes)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": None}, "data.hub.name=OWNER/NAME"),
        ({"name": ""}, "data.hub.name=OWNER/NAME"),
        ({"splits": []}, "at least one"),
        ({"splits": ["train", "train"]}, "none twice"),
    ],
    ids=str,
)
def test_a_data_set_of_the_hub_needs_a_name_and_distinct_splits(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        replace(HUB, **changes)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data=hub"], "data.hub.name=OWNER/NAME"),
        (["data=wikitext2", "data.hub=null"], "data.hub.name=OWNER/NAME"),
        (["data=wikitext2", "data.hub=wikitext"], "data.hub=wikitext"),
        (["data=wikitext2", "data.hub.naem=a/b"], "did you mean 'data.hub.name'"),
        (["data=wikitext2", "data.hub.splits=train"], "data.hub.splits"),
        (["data.hub.name=a/b"], "data.hub.name"),
        (["data=text", "data.path=x", "data.hub.name=a/b"], "data.hub.name"),
        (["tokenizer=bpe", "tokenizer.vocab_size=null"], "tokenizer.vocab_size"),
        (["tokenizer=bpe", "tokenizer.vocab_size=many"], "a whole number"),
        (["tokenizer=byte", "tokenizer.vocab_size=512"], "for tokenizer=bpe alone"),
    ],
    ids=str,
)
def test_a_wrong_text_or_tokenizer_is_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)) as caught:
        compose(overrides)
    assert len(str(caught.value).splitlines()) == 1


# --- identity

OTHER: dict[str, dict[str, Any]] = {
    "optim": {
        "lr": 1e-3,
        "min_lr": 1e-5,
        "warmup_steps": 7,
        "weight_decay": 0.05,
        "beta1": 0.8,
        "beta2": 0.95,
        "grad_clip": 0.0,
    },
    "model": {
        "d_model": 64,
        "n_layers": 2,
        "n_heads": 2,
        "head_dim": 16,
        "d_ff": 100,
        "context": 32,
        "block": "post",
        "norm": "rmsnorm",
        "positions": "sinusoidal",
        "mlp": "relu",
        "bias": True,
        "dropout": 0.1,
        "dropout_at": "norm",
        "tied_embedding": True,
        "output_bias": True,
    },
    "trainer": {
        "steps": 10,
        "batch_size": 3,
        "eval_every": 7,
        "log_every": 3,
        "device": "cpu",
        "precision": "fp32",
        "threads": 2,
        "compile": True,
    },
    "attention": {
        "qkv": "split",
        "value": "identity",
        "scores": "shaped",
        "divide_by": "sqrt_d_model",
        "bias": True,
        "branch_scale": "matched",
    },
}


NO_MATTER = {"save_every_s"}


def test_how_often_the_state_is_saved_does_not_change_the_hash(default: RunConfig) -> None:
    assert hash_of(but(default, trainer={"save_every_s": 7.0})) == hash_of(default)


@pytest.mark.parametrize(("group", "key"), [(g, k) for g, keys in OTHER.items() for k in keys])
def test_whatever_matters_changes_the_hash(default: RunConfig, group: str, key: str) -> None:
    assert getattr(getattr(default, group), key) != OTHER[group][key], "the default has become the other value"
    if key == "output_bias":  # there is one where there is an output layer
        default = but(default, model={"tied_embedding": False})
    changed = but(default, **{group: {key: OTHER[group][key]}})
    assert hash_of(changed) != hash_of(default)


@pytest.mark.parametrize("group", list(OTHER))
def test_the_list_of_what_matters_is_complete(default: RunConfig, group: str) -> None:
    assert set(OTHER[group]) | NO_MATTER == {f.name for f in fields(getattr(default, group))} | NO_MATTER


def test_text_split_tokenizer_variant_and_seeds_change_the_hash(default: RunConfig) -> None:
    changed = [
        hash_of(default, sha256="1" * 64),
        hash_of(default, split="tail"),
        hash_of(default, split="own", parts=[90, 10]),
        hash_of(default, split="own", parts=[80, 20]),
        hash_of(default, tokenizer_sha256="2" * 64),
        hash_of(but(default, fc_out=compose(["fc_out=none"]).config.fc_out)),
        hash_of(but(default, seed=1)),
        hash_of(but(default, init_seed=1)),
        hash_of(but(default, data_seed=1)),
    ]
    assert len({hash_of(default), *changed}) == 10


def test_what_was_asked_of_text_and_tokenizer_counts_through_the_tokens_alone(default: RunConfig) -> None:
    """`split: auto` and `own`, or a vocabulary asked for and one as large as the text allows, may mean the same tokens."""
    asked = but(default, data={"split": "auto", "max_chars": 5}, tokenizer={"kind": "bpe", "vocab_size": 300})
    assert hash_of(asked) == hash_of(default)


def test_folder_name_study_and_place_of_the_text_do_not_change_the_hash(default: RunConfig) -> None:
    elsewhere = but(
        default,
        outputs="/else/where",
        name="mine",
        data={"source": "text", "path": "/a/b.txt"},
        study={"name": "other", "margin": 0.5, "seeds": [4], "pick": ["dense"]},
    )
    assert hash_of(elsewhere) == hash_of(default)
    assert hash_of(but(elsewhere, data={"path": "/c/d.txt"})) == hash_of(default)


def test_null_means_its_default_written_out(default: RunConfig) -> None:
    written = but(
        default,
        model={"d_ff": 4 * default.model.d_model, "head_dim": default.model.d_model // default.model.n_heads},
        optim={"min_lr": default.optim.lr / 10},
        init_seed=default.seed,
        data_seed=default.seed,
    )
    unwritten = but(default, model={"d_ff": None, "head_dim": None}, optim={"min_lr": None})
    assert hash_of(but(unwritten, init_seed=None, data_seed=None)) == hash_of(written)
    assert hash_of(default) == hash_of(written)


@pytest.mark.parametrize("lr", ["4e-3", "3e-3", "1e-3", "6e-4", "7e-2"])
def test_a_tenth_of_the_rate_typed_by_hand_is_the_default(default: RunConfig, lr: str) -> None:
    number, exponent = lr.split("e-")
    null = but(default, optim={"lr": float(lr)})
    typed = but(default, optim={"lr": float(lr), "min_lr": float(f"{number}e-{int(exponent) + 1}")})
    assert hash_of(null) == hash_of(typed)


def test_a_whole_number_and_its_float_are_one_configuration() -> None:
    whole, real = compose_many(
        [
            ["attention.branch_scale=1", "optim.weight_decay=1", "optim.lr=1"],
            ["attention.branch_scale=1.0", "optim.weight_decay=1.0", "optim.lr=1.0"],
        ]
    )
    assert hash_of(whole.config) == hash_of(real.config)


def test_seeds_fall_back_on_seed(default: RunConfig) -> None:
    assert default.with_seed(5).seeds == (5, 5)
    assert but(default, seed=5, init_seed=0).seeds == (0, 5)
    assert but(default, seed=5, data_seed=0).seeds == (5, 0)
    assert hash_of(but(default, seed=9, init_seed=1, data_seed=2)) == hash_of(but(default, init_seed=1, data_seed=2))


def test_the_identity_is_json_and_the_hash_stays(default: RunConfig) -> None:
    identity = default.identity(TEXT)
    assert config_hash(json.loads(json.dumps(identity))) == config_hash(identity)
    assert config_hash(dict(reversed(identity.items()))) == config_hash(identity)
    assert re.fullmatch(r"[0-9a-f]{16}", config_hash(identity))


# --- to YAML and back


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["study=nanogpt_cpu"],
        ["fc_out=none", "attention=split", "attention.branch_scale=matched", "optim.min_lr=1e-7", "init_seed=3"],
        ["data=text", "data.path=a b/\u4e2d\u6587 (1) 'x' \"y\".txt", "name=mine", "study.seeds=[3,5]"],
        ["study.arms.mine=[fc_out=none,optim.lr=2e-3]", "study.arms=[dense,mine]"],
        ["data=wikitext2", "tokenizer=bpe", "data.max_chars=1000"],
        ["data=hub", "data.hub.name=a/b", "data.hub.config=${x} 'y'", "data.hub.join= | ", "data.hub.splits=[a,b]"],
    ],
    ids=str,
)
def test_a_configuration_comes_back_from_its_yaml(overrides: list[str]) -> None:
    config = compose(overrides).config
    assert from_plain(yaml.safe_load(to_yaml(config))) == config
    assert from_plain(dataclasses.asdict(config)) == config, "as a worker process receives it"


@pytest.mark.parametrize("path", ["${name}.txt", "${", "a$b", "100%", "#a", "a: b", "- x", "null", "1e3", "~"])
def test_a_strange_path_comes_back_from_its_yaml(default: RunConfig, path: str) -> None:
    config = but(default, data={"source": "text", "path": path})
    assert from_plain(yaml.safe_load(to_yaml(config))) == config
    assert from_plain(dataclasses.asdict(config)) == config, "as a worker process receives it"


def test_the_yaml_has_the_order_of_the_schema_and_leaves_out_what_is_asked(default: RunConfig) -> None:
    names = [f.name for f in fields(RunConfig)]
    assert list(yaml.safe_load(to_yaml(default))) == names
    assert list(yaml.safe_load(to_yaml(default, without=("study",)))) == [n for n in names if n != "study"]


# --- studies


def with_seeds(default: RunConfig, seeds: Any) -> StudyConfig:
    return replace(default.study, seeds=seeds)


def test_seeds_are_a_count_or_a_list(default: RunConfig) -> None:
    assert with_seeds(default, 3).seed_list == [0, 1, 2]
    assert with_seeds(default, [7, 2, 40]).seed_list == [7, 2, 40]
    count, listed = compose_many([["study.seeds=2"], ["study.seeds=[7,2]"]])
    assert (count.config.study.seed_list, listed.config.study.seed_list) == ([0, 1], [7, 2])


@pytest.mark.parametrize(
    "seeds",
    [0, -1, [], [1, 1], [0, -1], [2**31], True, [True, False], "3", 2.0, [0.5], None, 10_001, {"a": 1}],
    ids=str,
)
def test_other_seeds_are_refused(default: RunConfig, seeds: Any) -> None:
    with pytest.raises(ValueError, match=r"study\.seeds"):
        with_seeds(default, seeds)


# nanoGPT's command for a CPU (its readme): `train.py config/train_shakespeare_char.py --block_size=64 --batch_size=12 --n_layer=4
# --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0`, with min_lr 1e-4, beta2 0.99, 100 steps of warm-up.
NANOGPT: dict[str, dict[str, Any]] = {
    "init": GPT2,
    "attention": {
        **{"qkv": "fused", "value": "learned", "scores": "softmax", "divide_by": "sqrt_head_dim"},
        **{"bias": None, "branch_scale": 1.0},
    },
    "model": {
        **{"d_model": 128, "n_layers": 4, "n_heads": 4, "head_dim": None, "d_ff": None, "context": 64},
        **{"block": "pre", "norm": "layernorm", "positions": "learned", "mlp": "gelu", "bias": False},
        **{"dropout": 0.0, "dropout_at": "branch", "tied_embedding": True, "output_bias": False},
    },
    "tokenizer": {"kind": "char", "vocab_size": None},
    "optim": {
        **{"lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 100, "weight_decay": 0.1},
        **{"beta1": 0.9, "beta2": 0.99, "grad_clip": 1.0},
    },
}


@pytest.mark.parametrize("data", [[], ["data=tiny_shakespeare"]], ids=str)
def test_the_known_number_keeps_its_setting_whole_whatever_the_defaults_are(data: list[str]) -> None:
    config = compose(["study=nanogpt_cpu", *data]).config
    plain = dataclasses.asdict(config)
    assert {group: plain[group] for group in NANOGPT} == NANOGPT
    assert (config.trainer.steps, config.trainer.batch_size, config.data.split) == (2000, 12, "tail")
    assert (config.fc_out["_target_"].rpartition(".")[2], config.study.baseline) == ("Dense", "dense")
    assert config.study.arms == {"dense": ["fc_out=dense"], "none": ["fc_out=none"]}


def test_arms_in_brackets_pick_among_the_arms(default: RunConfig) -> None:
    study = compose(["study.arms=[none,dense]"]).config.study
    assert study.chosen == ["none", "dense"]
    assert study.arms == default.study.arms, "the others are still defined"
    assert default.study.chosen == list(default.study.arms)


@pytest.mark.parametrize(
    ("pick", "said"), [("[dense,nona]", "did you mean 'none'"), ("[]", "at least one"), ("[none,none]", "twice")]
)
def test_a_wrong_pick_is_refused(pick: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        compose([f"study.arms={pick}"])


def test_an_arm_is_added_by_name(default: RunConfig) -> None:
    study = compose(["study.arms.mine=[fc_out=none,optim.lr=2e-3]"]).config.study
    assert study.arms["mine"] == ["fc_out=none", "optim.lr=2e-3"]
    assert study.chosen == [*default.study.chosen, "mine"]


def test_an_arm_may_have_spaces_after_commas() -> None:
    study = compose(["study.arms.mine=[fc_out=none, optim.lr=2e-3]"]).config.study
    assert study.arms["mine"] == ["fc_out=none", "optim.lr=2e-3"]


def test_an_arm_may_have_no_overrides() -> None:
    assert compose(["study.arms.mine=[]"]).config.study.arms["mine"] == []


def test_an_arm_may_quote_its_overrides() -> None:
    study = compose(["study.arms.mine=['fc_out=none','optim.lr=2e-3']"]).config.study
    assert study.arms["mine"] == ["fc_out=none", "optim.lr=2e-3"]


def test_an_added_arm_can_be_picked_and_an_old_one_redefined() -> None:
    study = compose(["study.arms.mine=[fc_out=none]", "study.arms=[dense,mine]"]).config.study
    assert study.chosen == ["dense", "mine"]
    assert compose(["study.arms.none=[fc_out=per_head]"]).config.study.arms["none"] == ["fc_out=per_head"]


# --- free text

printable = st.text(st.characters(exclude_categories=["C", "Zl", "Zp", "Zs"], include_characters=" "), min_size=1)
nasty = st.lists(
    st.sampled_from(["${", "}", "'", '"', "\\", "$", "a", " ", "=", ",", "[", "]", "{", ":", "~", "#", "%"])
)
paths = st.one_of(printable, nasty.map("".join)).filter(
    lambda p: p not in ("", "null", "???") and not (len(p) > 1 and p[0] == p[-1] and p[0] in "'\"")
)


@settings(max_examples=12, deadline=None)
@given(st.lists(paths, min_size=4, max_size=4))
def test_any_printable_path_survives(some: list[str]) -> None:
    a, b, c, d = some
    one, other = compose_many(
        [["data=text", f"data.path={path}", f"outputs={outputs}"] for path, outputs in ((a, b), (c, d))]
    )
    assert [one.config.data.path, one.config.outputs, other.config.data.path, other.config.outputs] == some


@pytest.mark.parametrize(
    "path",
    [
        "${name}",
        "a${oc.env:HOME}b",
        "a\\${b}",
        "a\\\\${b}",
        "it's",
        "'half",
        "a\\'b",
        "[a](b) {c} = d, e",
        " padded ",
        "books/*.txt",
        "true",
        "C:\\texts\\new\\",
        "tab\there",
    ],
)
def test_a_path_means_itself(path: str) -> None:
    config = compose(["data=text", f"data.path={path}", f"outputs={path}"]).config
    assert (config.data.path, config.outputs) == (path, path)


@pytest.mark.parametrize(
    ("value", "meant"),
    [("'a b'", "a b"), ('"a b"', "a b"), ("null", None), ("'null'", "null"), ("'it\\'s'", "it's")],
)
def test_a_value_in_quotes_is_read_as_quoted(value: str, meant: str | None) -> None:
    source = ["data=text"] if meant else []
    assert compose([*source, f"data.path={value}"]).config.data.path == meant


def test_outputs_and_name_are_free_text_too() -> None:
    config = compose(["outputs=my runs (2)", "name=run 1 = best"]).config
    assert (config.outputs, config.name) == ("my runs (2)", "run 1 = best")


# --- names of folders


@pytest.mark.parametrize("name", ["a", "run-1_b.c", "\u4e2d\u6587", "a b", "seed=3", "~", "a" * 100, "x$y"])
def test_a_name_that_can_be_a_folder_is_taken(name: str, tmp_path: Path) -> None:
    safe_name("name", name)
    (tmp_path / name).mkdir()
    assert [f.name for f in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "...", "/", "a/b", "/a", "a\\b", "a.", ".a", " a", "a "),
        *("a\n", "a\x00b", "a\x1bb", "\x7f", "a\u2028b"),
        *("a:b", "a*", "a?", 'a"', "a<b", "a>b", "a|b", "a" * 201),
    ],
    ids=ascii,
)
def test_a_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of one folder") as caught:
        safe_name("name", name)
    assert len(str(caught.value).splitlines()) == 1


@settings(max_examples=300)
@given(st.text(max_size=120))
@example("\u4e2d" * 100)
def test_an_accepted_name_is_one_folder(name: str) -> None:
    try:
        safe_name("name", name)
    except ValueError:
        return
    assert len(name.encode()) <= 255, "no file system takes more"
    assert Path("/base", name).parent == Path("/base")
    assert Path("/base", name).name == name


@pytest.mark.parametrize("arm", ["a/b", "..", "a:b", ""])
def test_an_arm_needs_a_name_that_can_be_a_folder(default: RunConfig, arm: str) -> None:
    with pytest.raises(ValueError, match="an arm's name"):
        replace(default.study, arms={**default.study.arms, arm: []})


# --- the catalogue


def test_groups_stand_in_the_order_of_the_index() -> None:
    index = yaml.safe_load((configs_dir() / "config.yaml").read_text(encoding="utf-8"))
    keys = [key for entry in index["defaults"] if isinstance(entry, dict) for key in entry]
    assert groups() == [key for key in keys if not key.startswith("override ")]
    assert set(groups()) == {f.name for f in configs_dir().iterdir() if f.is_dir()}


def test_a_group_that_is_not_there_is_refused_with_a_hint() -> None:
    with pytest.raises(RequestError, match="did you mean 'fc_out'"):
        choices("fc_ou")


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_has_a_meaning_of_one_line(choice: Path) -> None:
    listed = {c.name: c.meaning for c in choices(choice.parent.name)}
    meaning = listed[choice.stem]
    assert meaning.strip() == meaning != ""
    assert len(meaning.splitlines()) == 1
    assert len(meaning) < 150
    assert not meaning.startswith(("@", "#"))


@pytest.mark.parametrize("group", groups())
def test_names_alone_are_those_of_the_choices(group: str) -> None:
    assert choice_names(group) == [c.name for c in choices(group)] == sorted(choice_names(group))


def test_meanings_in_a_group_differ() -> None:
    for group in groups():
        meanings = [c.meaning for c in choices(group)]
        assert len(set(meanings)) == len(meanings), group


def test_the_catalogue_needs_neither_torch_nor_hydra() -> None:
    code = (
        "import sys; from mha_ablate.config import catalog\n"
        "assert all(catalog.choices(g) for g in catalog.groups())\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "hydra", "omegaconf", "numpy", "datasets", "scipy", "matplotlib", "tensorboard", "yaml"}
    assert "mha_ablate" in out
    assert not [name for name in heavy if f"'{name}'" in out]


@pytest.mark.parametrize("key", ["data.path", "outputs", "name"])
def test_three_question_marks_are_refused_because_hydra_means_no_value(key: str) -> None:
    with pytest.raises(RequestError, match=r"\./\?\?\?"):
        compose(["data=text", f"{key}=???"])
