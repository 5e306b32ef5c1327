"""The ledger: what is counted agrees with hand arithmetic, what is listed is combined, what is written can be read."""

from __future__ import annotations

import csv
import io
from functools import cache
from typing import Any

import pytest

from mha_ablate.build import cache_bytes_per_token, counted_memory, counted_work
from mha_ablate.config.catalog import choice_names
from mha_ablate.config.compose import compose
from mha_ablate.config.schema import RunConfig
from mha_ablate.config.sweep import sweep
from mha_ablate.errors import RequestError
from mha_ablate.report import ledger as written
from mha_ablate.study.ledger import arms_of, corpus_for, counted, ledger, measure_generation, versus
from tests.conftest import Cli

TINY = ("model.d_model=16", "model.n_layers=2", "model.n_heads=2", "model.context=8", "trainer.batch_size=4")
V, d, H, D, L, T, D_FF = 11, 16, 2, 8, 2, 8, 64


@cache
def config_of(*words: str) -> RunConfig:
    fixed = ("model.positions=rope", "trainer.precision=fp32", "trainer.device=cpu")
    return compose([*TINY, *fixed, *words]).config


def test_a_list_is_every_combination_under_names_of_its_own() -> None:
    made = sweep(["fc_out=dense,none", "model.n_heads=2,4", "seed=3"])
    assert list(made) == ["dense n_heads=2", "dense n_heads=4", "none n_heads=2", "none n_heads=4"]
    assert made["none n_heads=4"] == ["fc_out=none", "model.n_heads=4", "seed=3"]
    assert sweep(["optim.lr=1e-3"]) == {"the default": ["optim.lr=1e-3"]}
    assert list(sweep(["model.n_layers=range(1,4)"])) == ["n_layers=1", "n_layers=2", "n_layers=3"]


def test_an_interval_is_no_list() -> None:
    with pytest.raises(RequestError, match="give a list of values"):
        sweep(["optim.lr=interval(0,1)"])


def test_without_a_choice_all_variants_are_shown_and_what_cannot_be_says_why() -> None:
    arms, refused = arms_of([*TINY, "model.head_dim=4"], ["dense", "none"])
    assert list(arms) == ["dense"]
    assert "d_model = 16" in refused["none"]
    with pytest.raises(RequestError, match="fc_out=none"):
        arms_of([*TINY, "fc_out=none", "model.head_dim=4"], ["dense"])


def test_a_match_is_refused_since_no_study_gives_it_an_arm_to_match() -> None:
    with pytest.raises(RequestError, match=r"^match=params matches an arm to another one: .*set model.d_ff$"):
        arms_of([*TINY, "fc_out=none", "match=params"], [])
    arms, refused = arms_of([*TINY, "fc_out=none", "match=null,flops"], [])
    assert list(arms) == ["match=null"]
    assert refused["match=flops"].startswith("match=flops matches an arm to another one")


def test_texts_of_two_vocabularies_are_refused() -> None:
    arms, _ = arms_of([*TINY, "fc_out=dense", "tokenizer=char,byte"], [])
    with pytest.raises(RequestError, match="different vocabularies"):
        corpus_for(arms)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_by_hand(precision: str) -> None:
    params = V * d + L * (4 * d * d + 2 * d * D_FF + 2 * d) + d
    size = 4 if precision == "fp32" else 2
    found = counted_memory(config_of(f"trainer.precision={precision}", "model.tied_embedding=true"), V)
    assert found["weights"] == params * size
    # Gradients in the working precision and two moments; where weights are bf16 their fp32 masters too; a step count.
    assert found["optimizer"] == params * (size + 8 + (4 if precision == "bf16" else 0)) + 4
    assert found["activations"] > 0
    assert found["peak"] == found["weights"] + found["optimizer"] + found["activations"]


@pytest.mark.parametrize(
    ("words", "channels"),
    [
        ((), H * 2 * D),
        (("model.head_dim=4",), H * 2 * 4),
        (("attention=split",), H * 2 * D),
        (("model.n_heads=4",), 2 * d),
    ],
)
def test_a_token_in_the_cache_by_hand(words: tuple[str, ...], channels: int) -> None:
    assert cache_bytes_per_token(config_of(*words), V) == L * channels * 4
    assert cache_bytes_per_token(config_of(*words, "trainer.precision=bf16"), V) == L * channels * 2


def test_parts_sum_to_the_whole_and_training_is_three_forward_passes() -> None:
    cost = counted(config_of("model.bias=true", "model.tied_embedding=false"), V)
    parts = ("params_embedding", "params_attention", "params_mlp", "params_norm")
    assert sum(cost[part] for part in parts) == cost["params"]
    assert cost["params_frozen"] == 0
    assert cost["train_flops_per_token"] == 3 * cost["flops_per_token"]


def test_ratios_are_to_the_baseline_and_times_are_compared_round_by_round() -> None:
    base = {
        "params": 100,
        "params_fc_out": 0,
        "step_ms": 20.0,
        "step_ms_rounds": [10.0, 20.0, 40.0],
        "tokens_per_s": 9.0,
    }
    mine = {"params": 90, "params_fc_out": 5, "step_ms": 10.0, "step_ms_rounds": [5.0, 10.0, 80.0], "tokens_per_s": 9.5}
    assert versus(mine, base) == {"params": 0.9, "step_ms": 0.5, "step_ms_range": [0.5, 2.0], "tokens_per_s": 2.0}
    assert versus(base, base) == {"params": 1.0, "step_ms": 1.0, "step_ms_range": [1.0, 1.0], "tokens_per_s": 1.0}


@pytest.mark.parametrize(
    ("ratios", "said"),
    [((0.5, 0.5, 2.0), "4.00 ~"), ((0.5, 0.4, 0.9), "4.00 -50.0%"), ((1.1, 1.01, 1.2), "4.00 +10.0%")],
)
def test_a_change_that_the_rounds_disagree_about_is_not_given(ratios: tuple[float, float, float], said: str) -> None:
    ratio, *spread = ratios
    dense = {"arm": "dense", "cost": {"step_ms": 3.0}, "versus": {"step_ms": 1.0, "step_ms_range": [1.0, 1.0]}}
    none = {"arm": "none", "cost": {"step_ms": 4.0}, "versus": {"step_ms": ratio, "step_ms_range": spread}}
    made = {"baseline": "dense", "arms": [dense, none]}
    assert written.tables(made)["Time"] == [["arm", "step ms"], ["dense", "3.00"], ["none", said]]
    assert "rounds disagree" in written.as_text(made, 80)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    arms, _ = arms_of([*TINY, "fc_out=dense,none", "data.max_chars=3000"], [])
    return ledger(arms, corpus_for(arms), baseline="dense")


def test_everything_is_measured_and_compared(made: dict[str, Any]) -> None:
    for arm in made["arms"]:
        for key in (
            "step_ms",
            "tokens_per_s",
            "prefill_ms",
            "decode_ms",
            "peak_memory_mb",
            "params",
            "flops_per_token",
        ):
            assert arm["cost"][key] > 0
            assert arm["versus"][key] > 0
    dense, none = made["arms"]
    assert dense["versus"]["params"] == 1
    assert none["cost"]["params"] == dense["cost"]["params"] - L * d * d
    assert none["versus"]["flops_per_token"] == none["cost"]["flops_per_token"] / dense["cost"]["flops_per_token"]


def test_a_baseline_that_is_no_arm_is_refused() -> None:
    with pytest.raises(RequestError, match="--baseline dens is not among the arms"):
        ledger({"dense": config_of()}, cast_none(), baseline="dens")


def cast_none() -> Any:
    return None


def test_a_context_of_one_token_has_nothing_to_decode() -> None:
    config = config_of("model.context=1")
    assert measure_generation({"dense": config}, V, lambda *_: None)["dense"]["prefill_ms"] > 0


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_terminal_is_wide_enough(made: dict[str, Any], width: int) -> None:
    text = written.as_text(made, width)
    assert max(map(len, text.splitlines())) <= width
    assert "Parameters" in text
    assert "decode ms" in text


def test_csv_holds_the_numbers_in_full(made: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(written.as_csv(made))))
    assert [row["arm"] for row in rows] == ["dense", "none"]
    for row, arm in zip(rows, made["arms"], strict=True):
        assert float(row["step_ms"]) == arm["cost"]["step_ms"]
        assert float(row["params vs dense"]) == arm["versus"]["params"]


def test_markdown_and_latex_have_as_many_cells_in_every_row(made: dict[str, Any]) -> None:
    for part in written.as_markdown(made).split("\n\n"):
        rows = [line for line in part.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1
    odd = {**made, "arms": [{**made["arms"][0], "arm": "a_b & 50% #$~^{}\\"}]}
    latex = written.as_latex(odd)
    assert r"a\_b \& 50\% \#\$\textasciitilde{}\textasciicircum{}\{\}\textbackslash{}" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == latex.count(r"\toprule") == 4


def test_the_command_prints_json_alone_and_says_what_it_left_out(cli: Cli) -> None:
    said = cli("cost", *TINY, "fc_out=dense,none", "model.head_dim=4", "--no-time", "--json", "data.max_chars=3000")
    assert said.code == 0
    assert [arm["arm"] for arm in said.json["arms"]] == ["dense"]
    assert "none is left out: fc_out=none" in said.err
    assert "step_ms" not in said.json["arms"][0]["cost"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fc_out=non"], "did you mean 'none'"),
        (["fc_out=none", "model.head_dim=4"], "use fc_out=dense"),
        (["--format", "word"], "'word'"),
        (["model.n_heads=3"], "not divisible"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(words: list[str], said: str, cli: Cli) -> None:
    found = cli("cost", *TINY, "--no-time", *words)
    assert found.code == 2
    assert said in found.err
    assert found.out == ""


@pytest.mark.parametrize("name", choice_names("fc_out"))
def test_work_is_the_same_on_the_meta_device(name: str) -> None:
    config = compose(
        [f"fc_out={name}", "model.d_model=16", "model.n_layers=2", "model.n_heads=4", "model.context=8"]
    ).config
    assert counted_work(config, 11, "meta") == counted_work(config, 11)
