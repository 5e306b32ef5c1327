"""Where weights start: the grammar of a rule, every init against its formula, and what is drawn against its distribution."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scipy import stats
from torch import Tensor

from mha_ablate.build import model_of
from mha_ablate.config.catalog import choice_names
from mha_ablate.config.compose import compose, configs_dir
from mha_ablate.config.schema import InitConfig, RunConfig
from mha_ablate.errors import RequestError
from mha_ablate.model.fc_out.base import Place
from mha_ablate.model.fc_out.dense import Dense
from mha_ablate.model.fc_out.merged_ov import MergedOV
from mha_ablate.model.fc_out.none import NoProjection
from mha_ablate.model.init import ROTATION, ZEROS, Distribution, Draw, Starts, sizes_of
from mha_ablate.model.layers import Linear
from mha_ablate.start_rule import CUT_STD, FANS, GPT2, SIZES, Rule, check_rule, parsed_rule
from tests.unit.small import SIZES as SIZES_OF_SMALL
from tests.unit.small import blocks, fc_outs, gpt

INITS = choice_names("init")
SIZE: dict[str, float] = dict.fromkeys((*SIZES, *FANS), 4.0)
init = pytest.mark.parametrize("init", INITS)


# ---- grammar


@pytest.mark.parametrize(
    ("text", "kind", "std"),
    [
        ("normal(std=0.02)", "normal", 0.02),
        ("normal(gain=1)", "normal", 0.5),
        ("uniform(bound=1 / sqrt(n_in))", "uniform", 0.5 / math.sqrt(3)),
        ("uniform(std=0.3)", "uniform", 0.3),
        ("uniform(gain=2)", "uniform", 1.0),
        ("truncated(scale=0.02)", "truncated", 0.02 * 0.8796256610342398),
        ("truncated(std=0.02)", "truncated", 0.02),
        ("zeros()", "zeros", 0.0),
        ("  normal( std = 2 C ) ", "normal", 8.0),
        ("normal(std=0)", "normal", 0.0),
        ("normal(std=2e-2 / sqrt(2 L))", "normal", 0.02 / math.sqrt(8)),
        ("normal(std=(H + D) / log2(K))", "normal", 4.0),
        ("normal(std=S^2 / F)", "normal", 4.0),
    ],
)
def test_a_rule_is_a_kind_and_a_formula(text: str, kind: str, std: float) -> None:
    rule = parsed_rule(text)
    assert rule.kind == kind
    assert rule.std(SIZE) == pytest.approx(std)
    check_rule(text, layered=False)


def test_a_cut_normal_is_as_narrow_as_scipy_has_it() -> None:
    assert pytest.approx(stats.truncnorm(-2, 2).std()) == CUT_STD


def test_the_layer_is_known_to_the_ends_of_layers_alone() -> None:
    check_rule("normal(std=1 / sqrt(2 K l))", layered=True)
    with pytest.raises(ValueError, match="no formula of"):
        check_rule("normal(std=1 / sqrt(2 K l))", layered=False)


BAD = [
    "",
    "normal",
    "normal()",
    "zeros(std=1)",
    "zeros",
    "normal(bound=1)",
    "uniform(scale=1)",
    "truncated(bound=1)",
    "cauchy(std=1)",
    "normal(std=)",
    "normal(0.02)",
    "normal(std=x)",
    "normal(std=l)",
    "normal(std=1 / 0)",
    "normal(std=0 - 1)",
    "normal(std=sqrt(0 - 1))",
    "normal(std=log2(0))",
    "normal(std=sqrt)",
    "normal(std=sqrt())",
    "normal(std=sqrt(1, 2))",
    "normal(std=open(1))",
    "normal(std=n_in.real)",
    "normal(std=__import__)",
    "normal(std=1 if C else 2)",
    "normal(std='a')",
    "normal(std=1e999)",
    "normal(std=1..2)",
    "normal(std=9^9^9^9)",
    "normal(std=9^(9^9))",
    "normal(std=(0 - 8)^0.5)",
    "normal(std=" + "(" * 300 + "1" + ")" * 300 + ")",
    "normal(std=" + "1 + " * 5000 + "1)",
    "normal(std=1)\nnormal(std=1)",
    "normal(std=1); zeros()",
    "normal(std=1) normal(std=1)",
    "normal(std=1, gain=2)",
    "normal(std=\N{GREEK SMALL LETTER SIGMA})",
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_bad_rule_is_one_line_that_names_it_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match=r"\S") as caught:
        check_rule(text, layered=False)
    assert time.process_time() - started < 1
    assert not isinstance(caught.value, UnicodeError)
    with pytest.raises(ValueError, match=r"^init\.query=") as caught:
        InitConfig(**{**GPT2, "query": text})
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["init=pytorch"], ["init=pytorch: no such choice", "torch"]),
        (["init.query=normal"], ["init.query=normal", "none of normal(std=...)"]),
        (["init.query='normal(std=q)'"], ["init.query=normal(std=q)", "'q' is no formula of C, H"]),
        (["init.output='normal(std=1 / sqrt(l))'"], ["init.output=", "no formula"]),
        (["init.query='normal(std=-1)'"], ["init.query=", "-1"]),
        (["init.querry='zeros()'"], ["init.querry", "did you mean 'init.query'?"]),
        (["init.out=null"], ["init.out"]),
    ],
)
def test_a_wrong_setting_is_one_line(words: list[str], says: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        compose(words)
    assert "\n" not in str(caught.value)
    for word in says:
        assert word in str(caught.value)


def test_a_rule_without_a_value_at_the_sizes_of_a_model_is_one_line() -> None:
    config = compose(["init.query='normal(std=sqrt(100 - C))'"]).config  # has one where it is checked
    with pytest.raises(RequestError, match=r"^init\.query=normal\(std=sqrt\(100 - C\)\): ") as caught:
        model_of(config, 5, "meta")
    assert "\n" not in str(caught.value)


# ---- every init against its formula


@cache
def rules_of(name: str) -> dict[str, str]:
    return yaml.safe_load((configs_dir() / "init" / f"{name}.yaml").read_text(encoding="utf-8"))


def test_what_a_model_starts_with_that_is_told_nothing_is_gpt2s() -> None:
    assert rules_of("gpt2") == GPT2


@init
def test_an_init_has_a_rule_for_every_tensor_and_says_where_it_is_from(init: str) -> None:
    assert rules_of(init).keys() == GPT2.keys()
    lines = (configs_dir() / "init" / f"{init}.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines[0]) <= 102
    source = " ".join(line for line in lines if line.startswith("#")).partition("# Source: ")[2]
    version, year, commit = r"[1-9]\d*\.\d|\d+\.\d+\.\d", r"(?:19|20)\d\d\b", r"(?=\w*\d)[0-9a-f]{7,40}\b"
    assert re.search(rf"\b(?:{version}|{year}|{commit})", source), "of which version, year or commit"


def bound(b: float) -> tuple[str, float]:
    return "uniform", b / math.sqrt(3)


def normal(std: float) -> tuple[str, float]:
    return "normal", std


def cut(std: float) -> tuple[str, float]:
    return "truncated", std


ZERO = ("zeros", 0.0)
Formulas = dict[str, Callable[..., tuple[str, float]]]


def written(**own: Callable[..., tuple[str, float]]) -> Formulas:
    """`qkv`, `mlp` and `bias` stand for all of theirs; each takes d, H, D, L, V (vocabulary), T (context), and its fans i, o."""
    groups = {
        "qkv": ("query", "key", "value"),
        "mlp": ("up", "down"),
        "tables": ("embedding", "positions"),
        "bias": ("attention_bias", "out_bias", "mlp_bias", "output_bias"),
    }
    spread = {name: own[group] for group, names in groups.items() if group in own for name in names}
    return {**spread, **{name: f for name, f in own.items() if name not in groups}}


def fan_in(i: int, **_: int) -> tuple[str, float]:
    return bound(1 / math.sqrt(i))


def lecun(i: int, **_: int) -> tuple[str, float]:
    return cut(1 / math.sqrt(i))


def glorot(i: int, o: int, **_: int) -> tuple[str, float]:
    return bound(math.sqrt(6 / (i + o)))


def stacked(d: int, **_: int) -> tuple[str, float]:
    return bound(math.sqrt(6 / (4 * d)))


def fixed(**_: int) -> tuple[str, float]:
    return normal(0.02)


def depth(L: int, **_: int) -> tuple[str, float]:
    return normal(0.02 / math.sqrt(2 * L))


def cut_fixed(**_: int) -> tuple[str, float]:
    return cut(0.02 * 0.8796256610342398)


def cut_depth(L: int, **_: int) -> tuple[str, float]:
    return cut(0.02 * 0.8796256610342398 / math.sqrt(2 * L))


def zero(**_: int) -> tuple[str, float]:
    return ZERO


def one(**_: int) -> tuple[str, float]:
    return normal(1.0)


def root(i: int, **_: int) -> tuple[str, float]:
    return normal(1 / math.sqrt(i))


def gain_one(i: int, **_: int) -> tuple[str, float]:
    return bound(math.sqrt(3 / i))


def narrow(**_: int) -> tuple[str, float]:
    return bound(0.05)


# By K = d throughout: the sizes below have n_heads x head_dim = d_model.
FORMULAS: dict[str, Formulas] = {
    "torch": written(qkv=fan_in, out=fan_in, mlp=fan_in, tables=one, output=fan_in, bias=fan_in),
    "torch_mha": written(
        qkv=stacked,
        out=lambda d, **_: bound(1 / math.sqrt(d)),
        mlp=fan_in,
        tables=one,
        output=fan_in,
        bias=fan_in,
        attention_bias=zero,
        out_bias=zero,
    ),
    "nn_transformer": written(
        qkv=stacked,
        out=lambda d, **_: bound(math.sqrt(6 / (2 * d))),
        mlp=glorot,
        tables=one,
        output=fan_in,
        bias=fan_in,
        attention_bias=zero,
        out_bias=zero,
    ),
    "xavier": written(qkv=glorot, out=glorot, mlp=glorot, tables=narrow, output=glorot, bias=zero),
    "keras": written(
        qkv=lambda d, H, D, **_: bound(math.sqrt(6 / (d * (H + D)))),
        out=lambda d, H, D, **_: bound(math.sqrt(6 / (H * (D + d)))),
        mlp=glorot,
        tables=narrow,
        output=glorot,
        bias=zero,
    ),
    "flax": written(
        qkv=lecun, out=lecun, mlp=lecun, tables=lambda d, **_: normal(1 / math.sqrt(d)), output=lecun, bias=zero
    ),
    "t5": written(
        qkv=root,  # over sqrt(D), where scores are divided by sqrt(D), is T5's 1 / sqrt(d D) without
        out=root,
        mlp=root,
        tables=one,
        output=lambda d, **_: normal(1 / math.sqrt(d)),
        bias=zero,
    ),
    "gpt2": written(qkv=fixed, out=depth, up=fixed, down=depth, tables=fixed, output=fixed, bias=zero),
    "llama": written(qkv=fixed, out=fixed, mlp=fixed, tables=fixed, output=fixed, bias=zero),
    "modernbert": written(
        qkv=cut_fixed, out=cut_depth, up=cut_fixed, down=cut_depth, tables=cut_fixed, output=cut_fixed, bias=zero
    ),
    "zero_out": written(
        qkv=gain_one, out=zero, up=gain_one, down=zero, tables=one, output=lambda **_: normal(0.001), bias=zero
    ),
}
SHAPES = [(128, 4, 4), (128, 8, 4), (128, 1, 2), (96, 3, 2), (768, 12, 12)]


def found(name: str, d: int, H: int, L: int, divisor: float | None = None) -> dict[str, Distribution]:
    """What every tensor of a model of these sizes starts from."""
    fans = fans_of(d)
    sizes = sizes_of(
        d_model=d, n_heads=H, head_dim=d // H, n_layers=L, d_ff=4 * d, divisor=divisor or math.sqrt(d // H)
    )
    starts = Starts(rules_of(name), sizes)
    return {
        tensor: starts.of(tensor, n_in=i, n_out=o, layer=1 if tensor in ("out", "up", "down") else None)
        for tensor, (i, o) in fans.items()
    }


def fans_of(d: int) -> dict[str, tuple[int, int]]:
    V, T = 96, 64
    square = dict.fromkeys(("query", "key", "value", "out", "out_bias"), (d, d))
    mlp = {"up": (d, 4 * d), "down": (4 * d, d), "mlp_bias": (d, 4 * d)}
    ends = {"embedding": (V, d), "positions": (T, d), "output": (d, V), "output_bias": (d, V)}
    return {**square, "attention_bias": (d, 3 * d), **mlp, **ends}


@init
@pytest.mark.parametrize(("d", "H", "L"), SHAPES)
def test_an_init_is_its_formula(init: str, d: int, H: int, L: int) -> None:
    got, fans = found(init, d, H, L), fans_of(d)
    assert got.keys() == FORMULAS[init].keys() == GPT2.keys()
    for tensor, formula in FORMULAS[init].items():
        i, o = fans[tensor]
        kind, std = formula(d=d, H=H, D=d // H, L=L, i=i, o=o)
        assert got[tensor].kind == kind, tensor
        assert got[tensor].std == pytest.approx(std, rel=1e-9), tensor


@init
def test_the_number_of_heads_matters_to_kerass_alone(init: str) -> None:
    few, many = found(init, 128, 4, 4), found(init, 128, 8, 4)
    moved = {name for name in few if many[name].std != pytest.approx(few[name].std)}
    assert moved == ({"query", "key", "value", "out"} if init == "keras" else set())


def test_t5_starts_with_its_own_scores_whatever_they_are_divided_by() -> None:
    for divisor in (1.0, math.sqrt(32), math.sqrt(128)):
        q, k = (found("t5", 128, 4, 4, divisor)[name].std for name in ("query", "key"))
        assert 128 * q * k * math.sqrt(32) / divisor == pytest.approx(1.0)
    assert found("t5", 128, 4, 4, 1.0)["query"].std == pytest.approx(1 / math.sqrt(128 * 32))


@init
def test_every_tensor_of_a_model_starts_from_its_own_rule(init: str) -> None:
    model = model_of(config_of(init, "model.bias=true", "model.tied_embedding=false", "model.output_bias=true"), 96)
    expected = found(init, 128, 4, 2)
    tensors = {n: p.detach() for n, p in model.named_parameters() if "norm" not in n}
    for name, tensor in tensors.items():
        for rule, part in parts_of(name, tensor):
            start = expected[rule]
            if start.kind == "zeros":
                assert (part == 0).all(), name
                continue
            n = part.numel()
            assert part.square().mean().sqrt().item() == pytest.approx(start.std, rel=4 / math.sqrt(n)), (name, rule)
            assert part.abs().max().item() <= bound_of(start) * (1 + 1e-6), (name, rule)


def config_of(init: str, *overrides: str) -> RunConfig:
    sizes = ("model.d_model=128", "model.n_layers=2", "model.context=64", "model.positions=learned")
    return compose([*sizes, f"init={init}", "trainer.device=cpu", *overrides]).config


def parts_of(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """The rules that a parameter starts by, each with its rows."""
    if "qkv" in name:
        rules = ("query", "key", "value") if name.endswith("weight") else ("attention_bias",) * 3
        return list(zip(rules, tensor.chunk(3), strict=True))
    rules = {
        "fc_out.map.weight": "out",
        "fc_out.map.bias": "out_bias",
        "mlp.up.weight": "up",
        "mlp.down.weight": "down",
        "mlp.up.bias": "mlp_bias",
        "tokens.weight": "embedding",
        "positions.weight": "positions",
        "output.weight": "output",
        "output.bias": "output_bias",
    }
    return [(rule, tensor) for end, rule in rules.items() if name.endswith(end)]


def bound_of(start: Distribution) -> float:
    return {
        "normal": math.inf,
        "uniform": start.std * math.sqrt(3),
        "truncated": 2 * start.std / CUT_STD,
        "zeros": 0.0,
    }[start.kind]


# ---- what is drawn


def drawn(start: Distribution, *shape: int, name: str = "weight", seed: int = 0) -> Tensor:
    tensor = torch.full(shape, math.nan)
    Draw(seed, "a").fill(name, tensor, start)
    return tensor


CDFS: dict[str, Any] = {
    "normal": stats.norm(0, 0.3),
    "uniform": stats.uniform(-0.3 * math.sqrt(3), 2 * 0.3 * math.sqrt(3)),
    "truncated": stats.truncnorm(-2, 2, scale=0.3 / CUT_STD),
}


@pytest.mark.parametrize("kind", list(CDFS))
def test_what_is_drawn_is_of_its_kind_and_of_no_other(kind: str) -> None:
    values = drawn(Distribution(kind, 0.3), 300, 400).double()
    n = values.numel()
    assert values.mean().item() == pytest.approx(0, abs=4 * 0.3 / math.sqrt(n))
    assert values.std().item() == pytest.approx(0.3, rel=4 / math.sqrt(n))
    assert values.abs().max().item() <= bound_of(Distribution(kind, 0.3)) * (1 + 1e-6)
    for other, cdf in CDFS.items():
        p = stats.kstest(values.flatten().numpy(), cdf.cdf).pvalue
        assert (p > 0.001) if other == kind else (p < 1e-6), other
    kurtosis = {"normal": 0.0, "uniform": -1.2, "truncated": float(stats.truncnorm(-2, 2).stats("k"))}[kind]
    assert stats.kurtosis(values.flatten().numpy()) == pytest.approx(kurtosis, abs=0.06)


def test_zeros_are_zeros_and_a_spread_of_0_is_one_too() -> None:
    for start in (ZEROS, Distribution("normal", 0.0), Distribution("uniform", 0.0)):
        assert (drawn(start, 3, 4) == 0).all()


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16)])
def test_a_rotation_is_one(shape: tuple[int, int]) -> None:
    W = drawn(ROTATION, *shape).double()
    short = min(shape)
    product = W @ W.T if shape[0] <= shape[1] else W.T @ W
    torch.testing.assert_close(product, torch.eye(short).double() * shape[0] / short, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [*CDFS])
def test_an_exact_draw_has_its_rms_in_every_matrix(kind: str) -> None:
    tensor = torch.empty(5, 3, 4)
    Draw(0, "a").fill("weight", tensor, Distribution(kind, 0.3), exact=True)
    torch.testing.assert_close(tensor.square().mean((-2, -1)).sqrt(), torch.full((5,), 0.3))


def test_other_distributions_of_a_kind_are_the_same_numbers_scaled() -> None:
    for kind in CDFS:
        torch.testing.assert_close(drawn(Distribution(kind, 0.6), 7, 5), 2 * drawn(Distribution(kind, 0.3), 7, 5))


def test_a_kind_with_another_spread_keeps_its_kind_and_zeros_become_normal() -> None:
    assert Distribution("uniform", 0.1).of_std(0.2) == Distribution("uniform", 0.2)
    assert ZEROS.of_std(0.2) == Distribution("normal", 0.2)
    assert Rule("zeros").std({}) == 0.0


def test_blocks_of_rows_are_those_of_the_whole_tensor() -> None:
    def rows(*starts: tuple[int, Distribution]) -> Tensor:
        linear = Linear(6, 9, bias=False, start=list(starts))
        linear.reset_parameters(Draw(3, "qkv"))
        return linear.weight.detach()

    a, b = Distribution("uniform", 0.1), Distribution("uniform", 0.2)
    whole = rows((9, a))
    assert torch.equal(rows((3, a), (3, a), (3, a)), whole)
    mixed = rows((3, ZEROS), (3, b), (3, ROTATION))
    assert (mixed[:3] == 0).all()
    torch.testing.assert_close(mixed[3:6], 2 * whole[3:6])
    torch.testing.assert_close(mixed[6:] @ mixed[6:].T, torch.eye(3))


# ---- what arms share


@init
@pytest.mark.parametrize("settings", [{}, {"d_ff": 40}, {"branch_scale": 0.5}], ids=str)
def test_arms_share_every_tensor_that_both_have_under_every_init(init: str, settings: dict[str, Any]) -> None:
    rules = rules_of(init)
    same = {"init": rules, "bias": True, "tied_embedding": False, "output_bias": True}
    one = dict(gpt(Dense, **same).named_parameters())
    other = dict(gpt(NoProjection, **same, **settings).named_parameters())
    shared = [name for name in one.keys() & other.keys() if one[name].shape == other[name].shape]
    assert len(shared) > 10
    for name in shared:
        a, b = one[name].detach(), other[name].detach()
        if name.endswith("down.bias") and "d_ff" in settings and b.any():  # the same numbers at the scale of other fans
            torch.testing.assert_close(a * math.sqrt(SIZES_OF_SMALL["d_ff"] / 40), b)
        else:
            assert torch.equal(a, b), name


@init
@pytest.mark.parametrize("qkv", ["fused", "split"])
def test_a_wider_value_map_changes_neither_q_nor_k(init: str, qkv: str) -> None:
    """`merged_ov` has values of d_model channels. The rows of q and k stand first in its longer map, from the same stream."""
    dense, merged = gpt(Dense, qkv=qkv, init=rules_of(init)), gpt(MergedOV, qkv=qkv, init=rules_of(init))
    for one, other in zip(blocks(dense), blocks(merged), strict=True):
        a, b = one.attention.qkv.map, other.attention.qkv.map
        rows = sum(n for n, _ in a.blocks[:2])
        assert [start for _, start in a.blocks[:2]] == [start for _, start in b.blocks[:2]]
        assert torch.equal(a.weight[:rows], b.weight[:rows])


@init
def test_the_global_random_state_is_neither_read_nor_moved(init: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = dict(gpt(init=rules_of(init)).named_parameters())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    b = dict(gpt(init=rules_of(init)).named_parameters())
    assert all(torch.equal(a[name], b[name]) for name in a)


# ---- what follows for variants and blocks


def place(init: str, **changes: Any) -> Place:
    settings = {"d_model": 128, "n_heads": 4, "head_dim": 32, "n_layers": 4, "layer": 0, "bias": False, **changes}
    sizes = sizes_of(d_model=128, n_heads=4, head_dim=32, n_layers=4, d_ff=512, divisor=math.sqrt(32))
    return Place(**settings, value_inputs=128, starts=Starts(rules_of(init), sizes))


@init
def test_a_variants_map_is_of_denses_kind_and_gain(init: str) -> None:
    p = place(init)
    assert p.dense_gain == pytest.approx(p.dense_start.std * math.sqrt(128))
    narrower = p.map_start(32)
    assert narrower.std * math.sqrt(32) == pytest.approx(p.dense_gain)
    assert narrower.kind == ("normal" if init == "zero_out" else p.dense_start.kind)
    first, last = p.factor_gains
    assert first * last == pytest.approx(p.dense_gain)
    assert first > 0
    assert p.fixed_gain == (1.0 if init == "zero_out" else p.dense_gain)


# Learned tensors that start alike under every init. docs/starts.md says so of each.
NOT_SET = {
    "": {"norm.weight", "norm_attention.weight", "norm_mlp.weight"},
    "fc_out=identity_init": {"fc_out.weight"},
    "fc_out=zero_init": {"fc_out.weight"},
    "fc_out=skip_gain": {"fc_out.weight"},
    "fc_out=orthogonal": {"fc_out.weight"},
    "fc_out=gate": {"fc_out.gate.weight", "fc_out.gate.bias"},
    "attention.value=rotation_init": {"qkv.map.weight, the rows of value"},
    "attention.scores=shaped": {"shaped.alpha", "shaped.beta", "shaped.gamma", "qkv.map.weight, the rows of query"},
    "model.block=skipless": {"fc_out.map.weight"},
}
SETTINGS_OF_STARTS = [
    *(f"fc_out={name}" for name in choice_names("fc_out")),
    *(setting for setting in NOT_SET if setting and not setting.startswith("fc_out=")),
    "fc_out=none attention.branch_scale=learned",
    "attention=split",
    "model.norm=rmsnorm",
]


@pytest.mark.parametrize("setting", SETTINGS_OF_STARTS)
def test_every_learned_tensor_follows_the_init_unless_the_page_says_otherwise(setting: str) -> None:
    words = ["model.d_model=16", "model.n_heads=2", "model.tied_embedding=false", "model.output_bias=true"]
    own = [f"init.{name}='uniform(std={2 + i})'" for i, name in enumerate(GPT2)]
    one, other = (
        dict(model_of(config_of("gpt2", *words, "model.bias=true", *setting.split(), *more), 9).named_parameters())
        for more in ([], own)
    )
    same = {
        short
        for name in one
        for short, a, b in pieces(name, one[name].detach(), other[name].detach())
        if torch.equal(a, b) and not ("norm" in name and name.endswith("bias"))
    }
    assert same == NOT_SET[""] | NOT_SET.get(setting, set())


def pieces(name: str, a: Tensor, b: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """A parameter without its place, that of q, k and v by what its rows are for."""
    short = re.sub(r"^(blocks\.\d+\.)?(attention\.|mlp\.)?", "", name)
    if short != "qkv.map.weight" or len(a) % 3:
        return [(short, a, b)]
    rows = zip(("query", "key", "value"), a.chunk(3), b.chunk(3), strict=True)
    return [(f"{short}, the rows of {which}", mine, other) for which, mine, other in rows]


@init
def test_without_a_skip_w_o_has_gain_one_under_every_init(init: str) -> None:
    p = place(init, residual=False)
    assert p.dense_start == Distribution("normal", 1 / math.sqrt(128))
    model = gpt(Dense, block="skipless", init=rules_of(init))
    assert all(fc_out.start_gain == pytest.approx(1.0) for fc_out in fc_outs(model))


@init
def test_a_tied_embedding_starts_as_the_output_layer_that_it_is(init: str) -> None:
    tied = model_of(config_of(init, "model.tied_embedding=true"), 96).tokens.weight.detach()
    start = found(init, 128, 4, 2)["output"]
    assert tied.square().mean().sqrt().item() == pytest.approx(start.std, rel=0.05)


def test_values_that_start_at_0_are_tied_to_nothing() -> None:
    config = compose(["fc_out=tied", "init.value='zeros()'"]).config
    with pytest.raises(RequestError, match=r"^init\.value=zeros\(\): the values start at 0"):
        model_of(config, 5, "meta")


def test_a_rule_of_the_layer_reaches_each_layer() -> None:
    config = config_of("torch", "init.out='normal(std=1 / sqrt(2 K l))'", "init.down='zeros()'")
    stds = [f.place.dense_start.std for f in fc_outs(model_of(config, 96, "meta"))]
    assert stds == pytest.approx([1 / math.sqrt(2 * 128), 1 / math.sqrt(4 * 128)])


def test_a_file_that_builds_on_no_choice_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init/mine.yaml").write_text("defaults: [torchh]\nout: normal(std=0.1)\n")
    with pytest.raises(
        RequestError, match=r"^init/mine.yaml builds on init=torchh: .* mean 'torch'\?\); give one of flax, gpt2"
    ):
        compose(["init=mine"], tmp_path)
