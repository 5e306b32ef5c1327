"""Each variant of fc_out is its formula: against a W_O written out in full, and every setting that is wrong is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from scipy.linalg import hadamard
from torch import Tensor
from torch.func import functional_call, vmap

from mha_ablate.build import fc_out_maker, model_of
from mha_ablate.config.catalog import choice_names
from mha_ablate.config.compose import compose
from mha_ablate.config.schema import RunConfig
from mha_ablate.errors import RequestError
from mha_ablate.formula import formulas, value_of
from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.gpt import GPT
from mha_ablate.model.init import Draw, initialise
from tests.unit.small import adamw, blocks, fc_outs, ids_of, loud, rms

PLACE = Place(d_model=24, n_heads=4, head_dim=6, n_layers=2, layer=0, bias=True, value_inputs=24)
WIDER = Place(d_model=24, n_heads=4, head_dim=10, n_layers=2, layer=0, bias=True, value_inputs=24)
FIXED = ("none", "permute", "permute_shared", "orthogonal", "merged_ov")  # no bias: nothing is learned
UNCONNECTED = [name for name in choice_names("fc_out") if name != "tied"]  # these work without a model around them


@cache
def spec(name: str) -> dict[str, Any]:
    """What its YAML says."""
    return compose([f"fc_out={name}"]).config.fc_out


def made(name: str, place: Place = PLACE, **settings: Any) -> FcOut:
    """The variant in float64, started, its weights then moved so far that no two are alike."""
    fc_out = fc_out_maker({**spec(name), **settings})(place)
    initialise(fc_out, 0)
    fc_out.double()
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in fc_out.parameters():
            p.add_(torch.randn(p.shape, generator=stream, dtype=torch.float64))
    return fc_out


def of(fc_out: FcOut, name: str) -> Tensor:
    return dict(fc_out.named_parameters())[name].detach()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(place: Place = PLACE) -> tuple[Tensor, Tensor]:
    return drawn(2, 5, place.n_heads, place.head_dim), drawn(2, 5, place.d_model, seed=1)


# ---- every linear variant against its matrix, written out entry by entry or block by block


def by_entry(place: Place, entry: Callable[[int, int, int, int], Any]) -> Tensor:
    """W_O with `entry(g, c, h, v)` at channel c of output head g and channel v of head h."""
    H, D = place.n_heads, place.head_dim
    W = torch.zeros(H * D, H * D, dtype=torch.float64)
    for g in range(H):
        for c in range(D):
            for h in range(H):
                for v in range(D):
                    W[g * D + c, h * D + v] = float(entry(g, c, h, v))
    return W


def grouped_matrix(f: FcOut) -> Tensor:
    return of(f, "up.weight") @ torch.block_diag(*of(f, "down"))


def monarch_matrix(f: FcOut) -> Tensor:
    A, W = of(f, "across"), of(f, "inside")
    across = by_entry(PLACE, lambda g, c, h, v: A[c, g, h] if c == v else 0)
    return across @ by_entry(PLACE, lambda g, c, h, v: W[h, c, v] if g == h else 0)


def walsh(block: int) -> Tensor:
    return torch.tensor(hadamard(block), dtype=torch.float64) / math.sqrt(block)


def shuffled(f: FcOut) -> Tensor:
    return torch.eye(24, dtype=torch.float64)[f.get_buffer("order")]


MATRICES: dict[str, Callable[[FcOut], Tensor]] = {
    "dense": lambda f: of(f, "map.weight"),
    "none": lambda f: torch.eye(24, dtype=torch.float64),
    "per_head": lambda f: torch.block_diag(*of(f, "weight")),
    "head_scale": lambda f: torch.diag(of(f, "gain").repeat_interleave(6)),
    "diagonal": lambda f: torch.diag(of(f, "gain")),
    "shared_head": lambda f: torch.kron(torch.eye(4, dtype=torch.float64), of(f, "weight")),
    "permute": shuffled,
    "permute_shared": shuffled,
    "orthogonal": lambda f: of(f, "weight"),
    "hadamard": lambda f: of(f, "gain")[:, None] * torch.block_diag(*[walsh(8)] * 3),
    "cross_head": lambda f: torch.kron(of(f, "weight"), torch.eye(6, dtype=torch.float64)),
    "kronecker": lambda f: torch.kron(of(f, "heads"), of(f, "channels")),
    "cross_channel": lambda f: by_entry(PLACE, lambda g, c, h, v: of(f, "weight")[c, g, h] if c == v else 0),
    "monarch": monarch_matrix,
    "low_rank": lambda f: of(f, "up.weight") @ of(f, "down.weight"),
    "grouped": grouped_matrix,
    "sum_heads": lambda f: of(f, "map.weight").repeat(1, 4),
    "overparam": lambda f: of(f, "second.weight") @ of(f, "first.weight"),
    "frozen": lambda f: of(f, "map.weight"),
    "identity_init": lambda f: of(f, "weight"),
    "zero_init": lambda f: of(f, "weight"),
    "orthogonal_init": lambda f: of(f, "weight"),
    "skip_gain": lambda f: torch.eye(24, dtype=torch.float64) + of(f, "weight"),
}


def bias_of(f: FcOut) -> Tensor:
    """The one parameter that is called bias: 1-D, as wide as the residual."""
    (bias,) = (p.detach() for name, p in f.named_parameters() if name.endswith("bias"))
    assert bias.shape == (f.place.d_model,)
    return bias


@pytest.mark.parametrize("name", list(MATRICES))
def test_it_is_the_matrix_of_its_formula(name: str) -> None:
    fc_out = made(name)
    z_BTHV, x_BTC = inputs()
    expected = z_BTHV.flatten(-2) @ MATRICES[name](fc_out).T
    if name not in FIXED:
        expected = expected + bias_of(fc_out)
    torch.testing.assert_close(fc_out(z_BTHV, x_BTC).detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["low_rank", "grouped", "sum_heads", "overparam", "frozen", "zero_init", "orthogonal_init"]
)
def test_it_is_the_matrix_of_its_formula_where_the_width_changes(name: str) -> None:
    fc_out = made(name, WIDER)
    z_BTHV, x_BTC = inputs(WIDER)
    W = MATRICES[name](fc_out)
    assert W.shape == (24, 40)
    torch.testing.assert_close(fc_out(z_BTHV, x_BTC).detach(), z_BTHV.flatten(-2) @ W.T + bias_of(fc_out))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", choice_names("fc_out"))
def test_a_bias_is_there_where_it_is_asked_for_and_something_is_learned(name: str, bias: bool) -> None:
    fc_out = made(name, replace(PLACE, bias=bias))
    found = [p for n, p in fc_out.named_parameters() if n.endswith("bias")]
    gates = name == "gate"
    assert len(found) == (bias and name not in FIXED) * (1 + gates)
    initialise(fc_out, 0)
    assert all((p == 0).all() and p.requires_grad for p in found)


def test_all_linear_variants_are_here() -> None:
    assert set(choice_names("fc_out")) - set(MATRICES) == {"gate", "merged_ov", "tied"}


def test_merged_ov_sums_the_heads_as_loud_as_dense() -> None:
    z_BTHV, x_BTC = drawn(2, 5, 4, 24), drawn(2, 5, 24)
    fc_out = made("merged_ov")
    assert fc_out.value_width == 24
    expected = sum(z_BTHV[:, :, h] for h in range(4)) * (PLACE.dense_gain / 2)
    torch.testing.assert_close(fc_out(z_BTHV, x_BTC), expected)


@pytest.mark.parametrize(("per", "at"), [("channel", "before"), ("head", "before"), ("channel", "after")])
def test_a_gate_by_hand(per: str, at: str) -> None:
    fc_out = made("gate", WIDER, per=per, at=at)
    z_BTHV, x_BTC = inputs(WIDER)
    W, b, G, c = (of(fc_out, n) for n in ("map.weight", "map.bias", "gate.weight", "gate.bias"))
    y = fc_out(z_BTHV, x_BTC).detach()
    for i in range(2):
        for t in range(5):
            gates = 1 / (1 + torch.exp(-(G @ x_BTC[i, t] + c)))
            assert len(gates) == {"channelbefore": 40, "headbefore": 4, "channelafter": 24}[per + at]
            z = z_BTHV[i, t].flatten()
            if at == "after":
                expected = (W @ z + b) * gates
            else:
                expected = W @ (z * (gates.repeat_interleave(10) if per == "head" else gates)) + b
            torch.testing.assert_close(y[i, t], expected)


def model(name: str, *overrides: str, vocab_size: int = 11) -> GPT:
    return model_of(config(name, *overrides), vocab_size)


def config(name: str, *overrides: str) -> RunConfig:
    sizes = ["model.d_model=16", "model.n_layers=3", "model.n_heads=2", "model.context=8", "trainer.device=cpu"]
    return compose([*sizes, f"fc_out={name}", *overrides]).config


@pytest.mark.parametrize("attention", ["fused", "split"])
@pytest.mark.parametrize("head_dim", [8, 6])
def test_tied_takes_the_value_weights_back(attention: str, head_dim: int) -> None:
    tied = loud(model("tied", f"attention={attention}", f"model.head_dim={head_dim}", "model.bias=true"))
    for block in blocks(tied):
        fc_out, qkv = block.attention.fc_out, block.attention.qkv
        z_BTHV = drawn(2, 5, 2, head_dim)
        terms = 2 * head_dim if attention == "fused" else head_dim
        s = fc_out.place.dense_gain / (fc_out.place.value_std * math.sqrt(terms))
        W_HVC = qkv.value_weight()
        assert (W_HVC != 0).sum(dim=(0, 1)).tolist() == [terms] * 16
        expected = s * sum(z_BTHV[:, :, h] @ W_HVC[h] for h in range(2)) + of(fc_out, "bias")
        torch.testing.assert_close(fc_out(z_BTHV, drawn(2, 5, 16)), expected)


def test_tied_to_layers_is_one_matrix_with_a_bias_for_each_layer() -> None:
    tied, dense = model("tied", "fc_out.to=layers", "model.bias=true"), model("dense", "model.bias=true")
    first, *others = (dict(f.named_parameters()) for f in fc_outs(tied))
    assert all(own["map.weight"] is first["map.weight"] for own in others)
    assert all(own["bias"] is not first["bias"] for own in others)
    assert torch.equal(first["map.weight"], dict(fc_outs(dense)[0].named_parameters())["map.weight"])


def test_tied_refuses_values_that_are_not_learned() -> None:
    with pytest.raises(RequestError, match=r"^fc_out=tied .* use attention.value=learned$"):
        model("tied", "attention.value=identity")
    assert model("tied", "fc_out.to=layers", "attention.value=identity")


# ---- fixed maps


@pytest.mark.parametrize("name", ["permute", "permute_shared"])
def test_an_order_is_the_same_for_every_init_seed_and_another_for_another_shuffle_seed(name: str) -> None:
    def orders(*overrides: str) -> list[list[int]]:
        return [f.get_buffer("order").tolist() for f in fc_outs(model(name, *overrides))]

    first = orders()
    assert all(sorted(order) == list(range(16)) for order in first)
    assert orders("init_seed=3") == first
    assert all(a != b for a, b in zip(orders("fc_out.shuffle_seed=1"), first, strict=True))
    assert len({tuple(order) for order in first}) == (3 if name == "permute" else 1)
    assert "order" not in " ".join(model(name).state_dict())


@pytest.mark.parametrize("shared", [False, True])
def test_a_rotation_keeps_lengths_is_drawn_by_the_seed_and_never_trained(shared: bool) -> None:
    rotated = model("orthogonal", f"fc_out.shared={str(shared).lower()}")
    weights = [of(f, "weight") for f in fc_outs(rotated)]
    for W in weights:
        torch.testing.assert_close(W @ W.T, torch.eye(16), rtol=0, atol=1e-6)
    assert len({W.data_ptr() for W in weights}) == (1 if shared else 3)
    other = model("orthogonal", f"fc_out.shared={str(shared).lower()}", "init_seed=1")
    assert not torch.equal(of(fc_outs(other)[0], "weight"), weights[0])
    before = [W.clone() for W in weights]
    optimizer = adamw(rotated)
    rotated.loss(ids_of(rotated), ids_of(rotated, seed=1)).backward()
    optimizer.step(1e-2, 1.0)
    optimizer.release()
    assert all(torch.equal(of(f, "weight"), W) for f, W in zip(fc_outs(rotated), before, strict=True))


def test_frozen_is_dense_as_it_starts() -> None:
    frozen, dense = model("frozen"), model("dense")
    assert torch.equal(frozen(ids_of(frozen)), dense(ids_of(dense)))


@pytest.mark.parametrize(
    ("d_model", "block", "taken"), [(24, None, 8), (24, 2, 2), (32, None, 32), (6, None, 2), (32, 8, 8)]
)
def test_hadamard_blocks(d_model: int, block: int | None, taken: int) -> None:
    place = Place(d_model, 2, d_model // 2, 2, 0, False, d_model)
    fc_out = made("hadamard", place, block=block)
    z_BTHV = drawn(3, 4, 2, d_model // 2)
    W = torch.block_diag(*[walsh(taken)] * (d_model // taken)) * of(fc_out, "gain")[:, None]
    torch.testing.assert_close(fc_out(z_BTHV, drawn(3, 4, d_model)).detach(), z_BTHV.flatten(-2) @ W.T)


@pytest.mark.parametrize("name", UNCONNECTED)
def test_its_gradient_is_that_of_its_formula(name: str) -> None:
    fc_out = made(name)
    z_BTHV, x_BTC = drawn(1, 2, 4, fc_out.value_width).requires_grad_(), drawn(1, 2, 24).requires_grad_()
    assert torch.autograd.gradcheck(fc_out, (z_BTHV, x_BTC), fast_mode=True)


@pytest.mark.parametrize("name", UNCONNECTED)
def test_lanes_side_by_side_are_each_its_own(name: str) -> None:
    lanes = [made(name), made(name, replace(PLACE, n_layers=5))]
    weights = {
        n: torch.stack([dict(f.named_parameters())[n].detach() for f in lanes])
        for n in dict(lanes[0].named_parameters())
    }
    z, x = drawn(2, 3, 5, 4, lanes[0].value_width), drawn(2, 3, 5, 24)
    stacked = vmap(lambda w, z, x: functional_call(lanes[0], w, (z, x)))(weights, z, x)
    for i in range(2):
        own = {n: w[i] for n, w in weights.items()}
        torch.testing.assert_close(stacked[i], functional_call(lanes[0], own, (z[i], x[i])))


@pytest.mark.parametrize("name", choice_names("fc_out"))
def test_in_bf16_it_answers_in_bf16(name: str) -> None:
    small = model(name, "model.bias=true").bfloat16()
    fc_out = fc_outs(small)[-1]
    z_BTHV, x_BTC = drawn(2, 5, 2, fc_out.value_width).bfloat16(), drawn(2, 5, 16).bfloat16()
    y_BTC = fc_out(z_BTHV, x_BTC)
    assert y_BTC.dtype == torch.bfloat16
    small.double()
    torch.testing.assert_close(y_BTC.double(), fc_out(z_BTHV.double(), x_BTC.double()), rtol=0.05, atol=0.02)


# ---- starts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_heads", [1, 2, 4, 32])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("name", ["shared_head", "cross_head", "kronecker", "cross_channel", "monarch"])
def test_a_small_map_misses_its_gain_for_no_seed(name: str, residual: bool, n_heads: int, seed: int) -> None:
    place = Place(64, n_heads, 64 // n_heads, 3, 0, False, 64, residual=residual)
    fc_out = fc_out_maker(spec(name))(place)
    initialise(fc_out, seed)
    z_BTHV = torch.randn(64, 64, n_heads, 64 // n_heads, generator=torch.Generator().manual_seed(0))
    assert rms(fc_out(z_BTHV, z_BTHV)) / rms(z_BTHV) == pytest.approx(place.dense_gain, rel=0.05)


@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8), (1, 5), (1, 1)])
def test_an_orthogonal_draw_has_the_gain_it_is_given(shape: tuple[int, int]) -> None:
    W = torch.empty(shape, dtype=torch.float64)
    Draw(0, "a").orthogonal("weight", W, 0.3)
    y, z = drawn(4000, shape[1]) @ W.T, drawn(4000, shape[1])
    assert rms(y) / rms(z) == pytest.approx(0.3, rel=0.05)
    values = torch.linalg.svdvals(W)
    torch.testing.assert_close(values, values[:1].expand_as(values))
    again = torch.empty(shape, dtype=torch.float64)
    Draw(1, "a").orthogonal("weight", again, 0.3)
    assert not torch.equal(W, again) or shape == (1, 1)
    Draw(0, "a").orthogonal("weight", again, 0.3)
    assert torch.equal(W, again)


@pytest.mark.parametrize(
    ("name", "settings", "gain"),
    [
        *((name, {}, 1) for name in ("none", "permute", "permute_shared", "orthogonal", "identity_init", "skip_gain")),
        ("zero_init", {}, 0),
        ("skip_gain", {"a": -0.5, "b": 2}, 0.5),
        ("skip_gain", {"a": 0}, 0),
    ],
)
def test_starts_that_are_the_treatment(name: str, settings: dict[str, Any], gain: float) -> None:
    fc_out = fc_out_maker({**spec(name), **settings})(PLACE)
    initialise(fc_out, 0)
    z_BTHV, x_BTC = (t.float() for t in inputs())
    assert fc_out.start_gain == gain
    assert rms(fc_out(z_BTHV, x_BTC)) / rms(z_BTHV) == pytest.approx(gain)


def test_skip_gain_weighs_both_its_parts() -> None:
    fc_out = made("skip_gain", a=0.5, b=-2)
    z_BTHV, x_BTC = inputs()
    z = z_BTHV.flatten(-2)
    expected = 0.5 * z - 2 * z @ of(fc_out, "weight").T + of(fc_out, "bias")
    torch.testing.assert_close(fc_out(z_BTHV, x_BTC).detach(), expected)


# ---- settings


WRONG = [
    ("permute", "shuffle_seed", (-1, 1.5, True, None, "a"), "a whole number from 0 up"),
    ("permute_shared", "shuffle_seed", (-1, 1.5, True, None, "a"), "a whole number from 0 up"),
    ("orthogonal", "shared", (1, 0, None, "yes", "a\nb"), "true or false"),
    (
        "hadamard",
        "block",
        (1, 3, 0, -2, 16, 8.0, True, "a"),
        "a power of two that divides d_model = 24 (2, 4, 8) or null",
    ),
    ("low_rank", "rank", (0, -1, 25, 1.5, True, "a", math.nan), "a whole number from 1 to 24"),
    ("grouped", "groups", (0, 3, 8, 2.0, True, "a"), "a divisor of n_heads = 4 (1, 2, 4)"),
    ("grouped", "rank", (0, 13, 1.5, True, "a"), "a whole number from 1 to 12"),
    ("tied", "to", ("value", None, True, 1, ["values"]), "values or layers"),
    ("skip_gain", "a", (math.nan, math.inf, -math.inf, True, None, "a"), "a finite number"),
    ("skip_gain", "b", (math.nan, math.inf, -math.inf, True, None, "a", 0, 0.0), "a finite number"),
    ("gate", "per", ("token", None, True, 1), "channel or head"),
    ("gate", "at", ("behind", None, True, 1), "before or after"),
]


@pytest.mark.parametrize(
    ("name", "key", "value", "allowed"),
    [(name, key, value, allowed) for name, key, values, allowed in WRONG for value in values],
)
def test_a_wrong_setting_is_refused_in_one_line(name: str, key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=r"^fc_out=") as caught:
        fc_out_maker({**spec(name), key: value})(PLACE)
    message = str(caught.value)
    assert message.startswith(f"fc_out={name}: fc_out.{key} must be {allowed}")
    assert message.endswith(f"not {value!r}")
    assert "\n" not in message


def test_every_setting_of_every_yaml_is_tried_above() -> None:
    settings = {(n, key) for n in choice_names("fc_out") for key in spec(n)}
    assert {(n, key) for n, key in settings if key != "_target_"} == {(n, key) for n, key, *_ in WRONG}


def test_wrong_settings_are_request_errors_on_the_command_line() -> None:
    for overrides in (["low_rank", "fc_out.rank=0"], ["gate", "fc_out.per=head", "fc_out.at=after"]):
        with pytest.raises(RequestError, match=f"^fc_out={overrides[0]}"):
            model(*overrides)


def test_odd_widths_have_no_hadamard() -> None:
    with pytest.raises(RequestError, match=r"^fc_out=hadamard needs an even d_model, not 9"):
        model("hadamard", "model.d_model=9", "model.n_heads=3", "model.positions=learned")


@pytest.mark.parametrize(("head_dim", "n_heads", "rank"), [(6, 4, 6), (1, 4, 4), (40, 1, 6)])
def test_a_rank_that_is_not_given_fits(head_dim: int, n_heads: int, rank: int) -> None:
    place = Place(24, n_heads, head_dim, 2, 0, False, 24)
    assert made("low_rank", place).get_parameter("down.weight").shape[0] == rank
    assert made("grouped", place, groups=1).get_parameter("down").shape[1] == rank


# ---- the formulas' own language


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("0", 0),
        ("2 d (H + D)", 2 * 24 * 10),
        ("H^2 + D^2", 16 + 36),
        ("C log2(B) + C", 24 * 3 + 24),
        ("C H D / L", 24 * 24 / 3),
        ("(H - 1) D", 18),
        ("2 d^2", 2 * 24**2),
        ("(H) (D)", 24),
        ("1.5 H", 6),
        ("2e-2 / sqrt(2 B)", 0.005),
    ],
)
def test_a_formula_is_evaluated(formula: str, value: float) -> None:
    assert value_of(formula, {"d": 24, "C": 24, "H": 4, "D": 6, "B": 8, "L": 3}) == value


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "x",
        "2 +",
        "open(1)",
        "H.real",
        "__import__",
        "[1]",
        "1.5.2",
        "1e",
        "H if H else D",
        "log2",
        "'a'",
        "2 ** H; D",
    ],
)
def test_what_is_no_formula_is_refused(formula: str) -> None:
    with pytest.raises(ValueError, match="is no formula of H, D"):
        value_of(formula, {"H": 4, "D": 6})


def test_lines_of_another_setting_stand_on_those_of_the_yaml() -> None:
    found = formulas("y = z\n\nParameters: H\nParameters [per=head]: D\nFLOPs: 2 H\nClass: N")
    rest = {"Frozen": "0", "Elementwise": "0", "FLOPs": "2 H"}
    assert found == {"": {"Parameters": "H", **rest}, "per=head": {"Parameters": "D", **rest}}


@pytest.mark.parametrize(("n_heads", "groups"), [(1, 1), (2, 2), (3, 1), (4, 2)])
def test_grouped_takes_two_groups_where_they_divide_the_heads(n_heads: int, groups: int) -> None:
    config = compose(["fc_out=grouped", f"model.n_heads={n_heads}", f"model.d_model={24 * n_heads}"]).config
    assert fc_outs(model_of(config, 5, "meta"))[0].groups == groups
