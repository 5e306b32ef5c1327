"""Counted costs against hand arithmetic: parameters, FLOPs, memory, and the parameter-matched arm."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mha_ablate.build import counted_cost, matched, model_of, optimizer_of
from mha_ablate.config.compose import compose
from mha_ablate.config.schema import RunConfig
from mha_ablate.cost.count import PeakMemory, forward_flops, parameters
from mha_ablate.errors import RequestError
from mha_ablate.model.fc_out.dense import Dense
from mha_ablate.study.plan import make_plan
from tests.unit.small import gpt, ids_of

VOCAB = 96
# What the hand arithmetic below assumes, whatever the defaults are; the overrides of a test come after these.
ASSUMED = (
    "model.positions=learned",
    "model.block=pre",
    "model.norm=layernorm",
    "model.bias=false",
    "model.tied_embedding=true",
    "trainer.device=cpu",
    "trainer.precision=fp32",
)


@cache
def config_of(*overrides: str) -> RunConfig:
    return compose([*ASSUMED, *overrides]).config


@cache
def cost_of(*overrides: str) -> dict[str, Any]:
    return counted_cost(config_of(*overrides), VOCAB)


# ---- by hand: nano, d = 128, H = 4, D = 32, L = 4, T = 64, d_ff = 512, V = 96

d, H, D, L, T, D_FF = 128, 4, 32, 4, 64, 512

EMBEDDING = VOCAB * d + T * d  # tokens (tied with the output) and positions
LAYER = 3 * d * d + d * d + 2 * d * D_FF + 2 * d  # q, k, v; W_O; the MLP; two norms
DENSE_PARAMS = EMBEDDING + L * LAYER + d  # and the final norm

MATRICES = 2 * (3 * d * d + d * d + 2 * d * D_FF) * L  # two FLOPs a weight and token
SCORES_AND_SUMS = L * 2 * (2 * T * d)  # q k^T and the weighted sum of v: 2 T D each, for each of H heads
LOGITS = 2 * VOCAB * d
DENSE_FLOPS = MATRICES + SCORES_AND_SUMS + LOGITS

# overrides, parameters, FLOPs per token of a forward pass
BY_HAND: list[tuple[tuple[str, ...], int, int]] = [
    (("fc_out=dense",), DENSE_PARAMS, DENSE_FLOPS),
    (("fc_out=none",), DENSE_PARAMS - L * d * d, DENSE_FLOPS - 2 * L * d * d),
    (("fc_out=per_head",), DENSE_PARAMS - L * d * d + L * H * D * D, DENSE_FLOPS - 2 * L * d * d + 2 * L * H * D * D),
    (
        ("fc_out=dense", "model.bias=true"),  # q, k, v; W_O; W_1; W_2; two norms a layer; the final norm
        DENSE_PARAMS + L * (3 * d + d + D_FF + d + 2 * d) + d,
        DENSE_FLOPS,
    ),
    (
        ("fc_out=none", "model.bias=true"),
        DENSE_PARAMS - L * d * d + L * (3 * d + D_FF + d + 2 * d) + d,
        DENSE_FLOPS - 2 * L * d * d,
    ),
    (("fc_out=dense", "model.tied_embedding=false"), DENSE_PARAMS + VOCAB * d, DENSE_FLOPS),
    (
        ("fc_out=dense", "model.head_dim=16"),  # H D = 64: half of q, k, v, half of W_O, half of the scores
        DENSE_PARAMS - L * (3 * d * d + d * d) // 2,
        DENSE_FLOPS - L * (3 * d * d + d * d) - SCORES_AND_SUMS // 2,
    ),
    (("fc_out=dense", "model.norm=rmsnorm"), DENSE_PARAMS, DENSE_FLOPS),
    (("fc_out=dense", "model.norm=rmsnorm", "model.bias=true"), DENSE_PARAMS + L * (3 * d + d + D_FF + d), DENSE_FLOPS),
    (("fc_out=dense", "model.block=post"), DENSE_PARAMS - d, DENSE_FLOPS),
    (("fc_out=dense", "model.positions=rope"), DENSE_PARAMS - T * d, DENSE_FLOPS),
    (("fc_out=dense", "model.positions=sinusoidal"), DENSE_PARAMS - T * d, DENSE_FLOPS),
    (
        ("fc_out=dense", "model.d_ff=100"),
        DENSE_PARAMS - L * 2 * d * (D_FF - 100),
        DENSE_FLOPS - 2 * L * 2 * d * (D_FF - 100),
    ),
    (
        ("fc_out=dense", "attention=split"),  # one 32 -> 96 map, run on each of the four slices
        DENSE_PARAMS - L * (3 * d * d - D * 3 * D),
        DENSE_FLOPS - 2 * L * (3 * d * d - H * D * 3 * D),
    ),
    (("fc_out=none", "attention.branch_scale=matched"), DENSE_PARAMS - L * d * d, DENSE_FLOPS - 2 * L * d * d),
]


def test_nanos_numbers_are_the_published_ones() -> None:
    assert DENSE_PARAMS == 808_064
    assert DENSE_FLOPS == 1_728_512
    assert DENSE_FLOPS == 2 * (12 * 128**2 * 4) + 4 * 4 * 64 * 128 + 2 * 96 * 128


@pytest.mark.parametrize(("overrides", "params", "flops"), BY_HAND, ids=[" ".join(o) for o, _, _ in BY_HAND])
def test_parameters_and_flops_are_those_of_hand_arithmetic(overrides: tuple[str, ...], params: int, flops: int) -> None:
    cost = cost_of(*overrides)
    assert cost["params"] == params
    assert cost["flops_per_token"] == flops
    assert cost["train_flops_per_token"] == 3 * flops


def test_minis_numbers_are_those_of_hand_arithmetic_through_the_fused_kernel() -> None:
    cost, width, layers, context = cost_of("model=mini", "trainer.batch_size=1"), 384, 6, 256
    assert cost["params"] == (VOCAB + context) * width + layers * (12 * width**2 + 2 * width) + width
    assert cost["flops_per_token"] == 2 * 12 * width**2 * layers + layers * 4 * context * width + 2 * VOCAB * width


@pytest.mark.parametrize("overrides", [("fc_out=dense",), ("fc_out=none",), ("fc_out=per_head", "model.bias=true")])
def test_the_parts_sum_to_the_whole(overrides: tuple[str, ...]) -> None:
    cost = cost_of(*overrides)
    model = model_of(config_of(*overrides), VOCAB, "meta")
    norms = sum(parameters(model, name) for name in ("norm", "norm_attention", "norm_mlp"))
    assert cost["params_attention"] + parameters(model, "mlp") + norms + cost["params_embedding"] == cost["params"]
    assert cost["params_attention"] == parameters(model, "qkv") + cost["params_fc_out"]


def test_the_parts_are_those_of_hand_arithmetic() -> None:
    cost = cost_of("fc_out=dense", "model.tied_embedding=false")
    assert cost["params_fc_out"] == L * d * d
    assert cost["params_attention"] == L * 4 * d * d
    assert cost["params_embedding"] == EMBEDDING + VOCAB * d
    assert cost_of("fc_out=none")["params_fc_out"] == 0
    assert cost_of("fc_out=per_head")["params_fc_out"] == L * H * D * D


def test_what_is_counted_without_values_is_what_is_counted_with_them() -> None:
    config = config_of("fc_out=dense", "model.n_layers=1", "model.bias=true")
    real, meta = model_of(config, VOCAB), model_of(config, VOCAB, "meta")
    assert parameters(real) == parameters(meta) == sum(p.numel() for p in real.parameters())
    ids = torch.zeros((2, T), dtype=torch.long)
    assert forward_flops(lambda: real(ids)) == forward_flops(lambda: meta(ids.to("meta")))


def test_parameters_of_any_module_count_a_tied_tensor_once() -> None:
    one, two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
    two.weight = one.weight
    model = nn.ModuleDict({"one": one, "two": two})
    assert parameters(model) == 9 + 3
    assert parameters(model, "one") == 9
    assert parameters(model, "two") == 9 + 3
    assert parameters(model, "w") == 0  # a whole word of the dotted name, not a part of one


def test_flops_are_two_per_multiply_add_and_need_no_gradient() -> None:
    a, b = torch.zeros(3, 5), torch.zeros(5, 7, requires_grad=True)
    assert forward_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert forward_flops(lambda: torch.softmax(torch.exp(a) + a, dim=0)) == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_of_explicit_and_fused_attention_are_the_same(device: str) -> None:
    found = []
    for explicit in (True, False):
        with torch.device(device):
            model = gpt(Dense, explicit_attention=explicit)
        ids = ids_of(model).to(device)
        found.append(forward_flops(lambda model=model, ids=ids: model(ids)))
    assert found[0] == found[1]


# ---- memory, of programs whose bytes are known


def on(device: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device=device)


DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])


@DEVICES
def test_peak_is_the_largest_sum_alive_at_once(device: str) -> None:
    with PeakMemory() as memory:
        a = on(device, 1000)  # 4,000 bytes
        b = on(device, 500, dtype=torch.float64)  # 4,000 more
        assert memory.live == 8000
        del a
        assert memory.live == 4000
        c = on(device, 10, 25)  # 1,000 more, after 4,000 had gone
        assert memory.live == 5000
    assert memory.peak == 8000
    assert (b.numel(), c.numel()) == (500, 250)


@DEVICES
def test_a_view_costs_nothing_and_keeps_its_base_alive(device: str) -> None:
    with PeakMemory() as memory:
        base = on(device, 20, 50)
        views = [base.T, base[3:], base.view(-1), base.detach(), base.unflatten(0, (4, 5)).transpose(0, 2)]
        assert memory.live == 4000
        del base
        assert memory.live == 4000
        views.clear()
        assert memory.live == 0
    assert memory.peak == 4000


@DEVICES
def test_an_in_place_operation_costs_nothing_and_a_new_result_its_size(device: str) -> None:
    with PeakMemory() as memory:
        a = on(device, 1000)
        a.mul_(2.0).add_(1.0)
        assert memory.peak == 4000
        b = a + 1.0
        assert memory.peak == 8000
        half = b.to(torch.bfloat16)
        assert memory.peak == 10_000
    assert half.dtype == torch.bfloat16


@DEVICES
def test_memory_that_was_freed_is_not_counted_again(device: str) -> None:
    with PeakMemory() as memory:
        for _ in range(5):
            scratch = on(device, 1000)
            del scratch
        assert memory.live == 0
        x = on(device, 100)
        for _ in range(5):
            x = x + 1.0  # the old x goes when the new one has come
    assert memory.peak == 4000


@DEVICES
def test_what_autograd_keeps_for_the_backward_pass_counts_until_it_is_done(device: str) -> None:
    x = torch.zeros(1000, device=device, requires_grad=True)
    with PeakMemory() as memory:
        y = x.exp()  # autograd keeps this result
        z = y.exp()  # and this one
        del y
        assert memory.live == 8000
        loss = z.sum()
        del z
        assert memory.live == 8004
        loss.backward()
        assert x.grad is not None
        assert memory.live == 4000 + 4  # the gradient and the loss
    assert memory.peak > 8004


@DEVICES
def test_a_tensor_made_before_counts_only_where_it_is_held(device: str) -> None:
    before = torch.zeros(1000, device=device)
    with PeakMemory() as memory:
        total = before.sum()
    assert (memory.peak, total.numel()) == (4, 1)
    with PeakMemory() as memory:
        memory.hold(before)
        memory.hold(before.view(10, 100))
        total = before.sum()
    assert memory.peak == 4004


@DEVICES
def test_a_tensor_made_before_counts_once_from_the_first_operation_that_hands_its_memory_on(device: str) -> None:
    """A view or an in-place change of it: this is how `counted_cost` sees the weights before they move into the buffer."""
    before = torch.zeros(1000, device=device)
    with PeakMemory() as memory:
        view = before.view(10, 100)
        before.add_(1.0)
    assert (memory.peak, view.numel()) == (4000, 1000)


def step_peak(config: RunConfig, device: str) -> int:
    model = model_of(config, VOCAB, device)
    ids = torch.zeros((config.trainer.batch_size, config.model.context), dtype=torch.long, device=device)
    with PeakMemory() as memory:
        optimizer = optimizer_of(config, model, torch.float32)
        model.loss(ids, ids).backward()
        optimizer.step(1e-3, config.optim.grad_clip)
    return memory.peak


SMALL = ("model.d_model=32", "model.n_layers=2", "model.n_heads=2", "trainer.batch_size=4")


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.context=32",),
        ("model.context=32", "fc_out=none", "attention=split"),
        ("model.context=32", "model.dropout=0.1"),
        ("model.context=544", "trainer.batch_size=3"),  # above EXPLICIT_UP_TO: the fused kernel runs
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_memory_counted_without_values_is_that_of_a_step_on_the_cpu(overrides: tuple[str, ...]) -> None:
    config = config_of(*SMALL, *overrides)
    meta = step_peak(config, "meta")
    assert meta == pytest.approx(step_peak(config, "cpu"), rel=0.01)
    assert counted_cost(config, VOCAB)["peak_memory_mb"] == pytest.approx(meta / 1e6, rel=0.01)


def test_the_memory_of_a_step_is_at_least_weights_gradients_and_moments() -> None:
    fp32, bf16 = (cost_of("fc_out=dense", f"trainer.precision={p}") for p in ("fp32", "bf16"))
    assert fp32["peak_memory_mb"] * 1e6 > 4 * 4 * DENSE_PARAMS  # weights, gradients, two moments
    assert bf16["peak_memory_mb"] * 1e6 > (3 * 4 + 2 * 2) * DENSE_PARAMS  # masters and moments; weights and gradients
    assert bf16["peak_memory_mb"] < fp32["peak_memory_mb"]


# ---- match=params


@pytest.mark.parametrize("qkv", ["fused", "split"])
def test_none_mlp_gets_the_saved_parameters_back_exactly(qkv: str) -> None:
    dense, none = (
        config_of(f"attention={qkv}", "fc_out=dense"),
        config_of(f"attention={qkv}", "fc_out=none", "match=params"),
    )
    arm = matched(none, dense, VOCAB)
    assert arm.model.d_ff == 576  # 512 + d / 2: 2 d more a channel make up for d^2
    assert arm.match is None
    assert counted_cost(arm, VOCAB)["params"] == counted_cost(dense, VOCAB)["params"]
    assert counted_cost(arm, VOCAB)["flops_per_token"] == counted_cost(dense, VOCAB)["flops_per_token"]
    assert replace(arm, model=none.model, match="params") == none  # and nothing else changed


def test_the_other_direction_takes_the_mlps_width_away() -> None:
    arm = matched(config_of("fc_out=dense", "match=params"), config_of("fc_out=none"), VOCAB)
    assert arm.model.d_ff == 448


def test_matching_mini_works_as_well() -> None:
    dense = config_of("model=mini", "fc_out=dense")
    arm = matched(config_of("model=mini", "fc_out=none", "match=params"), dense, VOCAB)
    assert arm.model.d_ff == 4 * 384 + 384 // 2
    assert parameters(model_of(arm, VOCAB, "meta")) == parameters(model_of(dense, VOCAB, "meta"))


def test_matching_counts_the_biases_of_the_mlp() -> None:
    dense, none = (config_of("model.bias=true", f"fc_out={f}") for f in ("dense", "none"))
    d_ff = matched(replace(none, match="params"), dense, VOCAB).model.d_ff
    assert d_ff == 512 + round((d * d + d) / (2 * d + 1))


@pytest.mark.parametrize(
    ("arm", "baseline"),
    [
        # Nothing is left to take away: with one channel, dense still has more than none.
        (("fc_out=dense", "model.d_ff=1"), ("fc_out=none", "model.d_ff=1")),
        # A channel is 2 d = 6 of about 60 parameters, and d^2 = 9 is no multiple of it.
        (("fc_out=none", "model.d_model=3", "model.d_ff=1"), ("fc_out=dense", "model.d_model=3", "model.d_ff=1")),
    ],
)
def test_matching_refuses_what_is_more_than_half_a_percent_apart(
    arm: tuple[str, ...], baseline: tuple[str, ...]
) -> None:
    tiny = ("model.n_heads=1", "model.n_layers=1", "model.context=4")
    with pytest.raises(RequestError) as caught:
        matched(config_of(*tiny, *arm, "match=params"), config_of(*tiny, *baseline), 5)
    message = str(caught.value)
    assert "\n" not in message
    assert "match=params" in message
    assert "0.5%" in message


@pytest.mark.parametrize("match", ["params", "flops"])
@pytest.mark.parametrize(("arm", "to", "d_ff"), [("none", "dense", 576), ("dense", "none", 448)])
def test_parameters_and_flops_are_matched_by_the_same_width(match: str, arm: str, to: str, d_ff: int) -> None:
    """For maps by token both counts move together."""
    made = matched(config_of(f"fc_out={arm}", f"match={match}"), config_of(f"fc_out={to}"), VOCAB)
    assert made.model.d_ff == d_ff
    assert cost_of(f"fc_out={to}")["flops_per_token"] == counted_cost(made, VOCAB)["flops_per_token"]


def test_under_split_attention_the_two_matches_are_two() -> None:
    words = ("attention=split",)
    fused = config_of("fc_out=dense")
    by = {
        m: matched(config_of(*words, "fc_out=dense", f"match={m}"), fused, VOCAB).model.d_ff
        for m in ("params", "flops")
    }
    assert by["params"] != by["flops"]
    counts = {m: counted_cost(config_of(*words, f"model.d_ff={d_ff}"), VOCAB) for m, d_ff in by.items()}
    assert counts["params"]["params"] == pytest.approx(cost_of("fc_out=dense")["params"], rel=0.005)
    assert counts["flops"]["flops_per_token"] == pytest.approx(cost_of("fc_out=dense")["flops_per_token"], rel=0.005)


def test_a_study_matches_in_both_directions(small: list[str]) -> None:
    arms = [
        "study.arms.none_mlp=[fc_out=none,match=params]",
        "study.arms.dense_mlp=[fc_out=dense,match=params,match_to=none]",
    ]
    plan = make_plan([*small, *arms, "study.arms=[dense,none,none_mlp,dense_mlp]", "model.positions=rope"])
    counts = {arm: parameters(model_of(config, VOCAB, "meta")) for arm, config in plan.arms.items()}
    assert counts["none_mlp"] == counts["dense"]
    assert counts["dense_mlp"] == counts["none"]


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ("[fc_out=none,match=params,match_to=x]", "match_to=x is none; choose one of dense, none"),
        ("[fc_out=none,match=params,match_to=odd]", "match_to=odd is none"),
    ],
)
def test_what_cannot_be_matched_to_is_said_in_one_line(arm: str, says: str, small: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        make_plan([*small, f"study.arms.odd={arm}", "study.arms=[dense,none,odd]"])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
