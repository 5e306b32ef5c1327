"""Which variants are the same function class: each "=" of the catalogue folded out in float64, and where it stops to hold.

A fold takes a model of one variant with weights large enough that no path is negligible, and makes one of another variant that
gives the same logits. What is said of a class holds under attention=fused with learned values and nothing between V and O.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mha_ablate.build import fc_out_maker
from mha_ablate.config.compose import compose
from mha_ablate.data.batches import TrainBatches
from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.gpt import GPT
from mha_ablate.training.step import TrainingStep
from tests.unit.small import adamw, blocks, fc_outs, gpt, ids_of, loud

C = 16
HEADS = pytest.mark.parametrize("H", [1, 2, 4, 8])
BIAS = pytest.mark.parametrize("bias", [False, True], ids=["no_bias", "bias"])


@cache
def maker(name: str, *settings: str) -> Callable[[Place], FcOut]:
    return fc_out_maker(compose([f"fc_out={name}", *settings]).config.fc_out)


def model(name: str, H: int = 2, *settings: str, **changes: Any) -> GPT:
    return loud(gpt(maker(name, *settings), n_heads=H, d_model=C, **changes))


@torch.no_grad()
def matrix(fc_out: FcOut, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """W `[C, H*V]` and b `[C]` of y = W z + b, read off what a variant does to every unit vector."""
    width = fc_out.place.n_heads * fc_out.value_width
    eye = torch.eye(width, dtype=torch.float64).view(1, width, fc_out.place.n_heads, -1)
    x_BTC = torch.zeros(1, width, C, dtype=torch.float64) if x is None else x.expand(1, width, C)
    b = fc_out(torch.zeros_like(eye), x_BTC)[0]
    return (fc_out(eye, x_BTC)[0] - b).T, b[0]


@torch.no_grad()
def copy_the_rest(source: GPT, target: GPT) -> None:
    """Everything but what is inside attention."""
    theirs = dict(target.named_parameters())
    for name, p in source.named_parameters():
        if ".attention." not in name:
            theirs[name].copy_(p)


@torch.no_grad()
def fold(
    source: GPT, target: GPT, values: Callable[[FcOut], Tensor], out: Callable[[FcOut, FcOut, Tensor], None]
) -> None:
    """Make `target` what `source` is: in each layer its values are `values(fc_out)` `[H*V', H*V]` times those of `source`.

    `out(fc_out of source, fc_out of target, the new values' bias)` fills the rest; it may change that bias.
    """
    copy_the_rest(source, target)
    for one, other in zip(blocks(source), blocks(target), strict=True):
        a, b = one.attention.qkv.map, other.attention.qkv.map
        kept = 2 * one.attention.fc_out.place.width  # rows of q and k
        M = values(one.attention.fc_out)
        b.weight.copy_(torch.cat((a.weight[:kept], M @ a.weight[kept:])))
        v_bias = M @ a.bias[kept:] if a.bias is not None else torch.zeros(len(M), dtype=torch.float64)
        out(one.attention.fc_out, other.attention.fc_out, v_bias)
        if a.bias is not None and b.bias is not None:
            b.bias.copy_(torch.cat((a.bias[:kept], v_bias)))


def assert_same(one: GPT, other: GPT) -> None:
    ids = ids_of(one)
    assert one(ids).detach().std() > 0.1
    torch.testing.assert_close(other(ids), one(ids), rtol=0, atol=1e-10)


def block_diagonal(W: Tensor, H: int) -> bool:
    blocked = torch.block_diag(*(W.view(H, C // H, H, C // H)[h, :, h] for h in range(H)))
    return torch.equal(W, blocked)


# ---- class N


@HEADS
@BIAS
@pytest.mark.parametrize("name", ["head_scale", "diagonal", "shared_head", "per_head"])
def test_what_stays_within_a_head_folds_into_its_values(name: str, H: int, bias: bool) -> None:
    source, target = model(name, H, bias=bias), model("none", H, bias=bias)

    def values(fc_out: FcOut) -> Tensor:
        W, _ = matrix(fc_out)
        assert block_diagonal(W, H)
        return W

    def out(mine: FcOut, _: FcOut, v_bias: Tensor) -> None:
        v_bias += matrix(mine)[1]  # rows of attention sum to 1: a bias passes through them

    fold(source, target, values, out)
    assert_same(source, target)


@pytest.mark.parametrize(
    "name", ["cross_head", "cross_channel", "dense", "hadamard", "orthogonal", "permute", "sum_heads"]
)
def test_what_mixes_heads_is_not_block_diagonal(name: str) -> None:
    W, _ = matrix(fc_outs(model(name, 4))[0])
    assert not block_diagonal(W, 4)


def without_values(name: str, H: int) -> GPT:
    return model(name, H, qkv="split")


@pytest.mark.parametrize("name", ["head_scale", "diagonal", "per_head"])
def test_under_split_attention_they_are_more_than_none(name: str) -> None:
    """There one W_V serves all heads: no single map is W_h W_V for two heads whose W_h differ."""
    H, D = 4, C // 4
    fc_out = fc_outs(without_values(name, H))[0]
    W, _ = matrix(fc_out)
    maps = torch.stack([W.view(H, D, H, D)[h, :, h] for h in range(H)])
    nearest = maps.mean(0)  # by least squares, which is what one shared map can do
    assert (maps - nearest).abs().max() > 0.1


def test_a_map_shared_by_the_heads_folds_under_split_attention_too() -> None:
    source, target = (model(name, 4, qkv="split") for name in ("shared_head", "none"))
    copy_the_rest(source, target)
    with torch.no_grad():
        for one, other in zip(blocks(source), blocks(target), strict=True):
            w = one.attention.qkv.map.weight
            folded = one.attention.fc_out.get_parameter("weight") @ w[2 * C // 4 :]
            other.attention.qkv.map.weight.copy_(torch.cat((w[: 2 * C // 4], folded)))
    assert_same(source, target)


@pytest.mark.parametrize("name", ["head_scale", "diagonal", "shared_head", "per_head"])
def test_identity_values_have_nothing_to_fold_into(name: str) -> None:
    """With no W_V, none has no parameter of its values at all, and each of these maps z by more than the identity."""
    source = model(name, 2, value="identity")
    assert all("value" not in n for n, _ in source.named_parameters())
    W, _ = matrix(fc_outs(source)[0])
    assert (W - torch.eye(C, dtype=torch.float64)).abs().max() > 0.1
    rows = {m: blocks(model(m, 2, value="identity"))[0].attention.qkv.map.weight.shape[0] for m in (name, "none")}
    assert rows[name] == rows["none"] == 2 * C  # q and k alone


@pytest.mark.parametrize("settings", [(), ("fc_out.per=head",), ("fc_out.at=after",)], ids=str)
def test_a_gate_is_no_fixed_map(settings: tuple[str, ...]) -> None:
    """What z is multiplied by depends on the token: no weights of a linear map can do the same for two of them."""
    fc_out = fc_outs(model("gate", 2, *settings))[0]
    stream = torch.Generator().manual_seed(0)
    one, other = (torch.randn(C, generator=stream, dtype=torch.float64) for _ in range(2))
    assert (matrix(fc_out, one)[0] - matrix(fc_out, other)[0]).abs().max() > 0.01
    plain = fc_outs(model("dense", 2))[0]
    assert torch.equal(matrix(plain, one)[0], matrix(plain, other)[0])


# ---- a shuffle or a rotation of the residual stream


@torch.no_grad()
def in_another_basis(source: GPT, target: GPT, Q: Tensor) -> None:
    """`target` computes with Q^T x where `source` has x: all that reads the stream is turned by Q, all that writes it by Q^T."""
    theirs = dict(target.named_parameters())
    for name, p in source.named_parameters():
        if name not in theirs:
            continue
        if name.startswith(("tokens", "positions")) or name.endswith(("qkv.map.weight", "up.weight", "output.weight")):
            theirs[name].copy_(p @ Q)
        elif name.endswith(("down.weight", "down.bias")) or "norm" in name:
            theirs[name].copy_(Q.T @ p)
        else:
            theirs[name].copy_(p)


def order_of(source: GPT) -> Tensor:
    """P of y = P z, the same in every layer."""
    matrices = [matrix(fc_out)[0] for fc_out in fc_outs(source)]
    assert all(torch.equal(W, matrices[0]) for W in matrices)
    return matrices[0]


@HEADS
@pytest.mark.parametrize("positions", ["learned", "rope"])
@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("block", ["pre", "post", "parallel", "skipless"])
def test_one_shuffle_for_all_layers_is_none_in_another_order(H: int, positions: str, kind: str, block: str) -> None:
    changes = {"positions": positions, "norm_kind": kind, "block": block, "bias": True, "tied_embedding": False}
    source, target = model("permute_shared", H, **changes), model("none", H, **changes)
    in_another_basis(source, target, order_of(source))
    assert_same(source, target)


@pytest.mark.parametrize("changes", [{"positions": "sinusoidal"}, {"qkv": "split"}], ids=str)
def test_a_fixed_table_or_slices_of_the_stream_break_that(changes: dict[str, str]) -> None:
    source, target = model("permute_shared", 2, **changes), model("none", 2, **changes)
    if "qkv" in changes:  # the one map has the width of a slice: there is nothing to turn but the rest
        copy_the_rest(source, target)
    else:
        in_another_basis(source, target, order_of(source))
    ids = ids_of(source)
    assert (source(ids) - target(ids)).abs().max() > 1e-2


def test_a_shuffle_of_its_own_in_every_layer_is_not_one_basis() -> None:
    first, second = (matrix(fc_out)[0] for fc_out in fc_outs(model("permute")))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("gains", [False, True], ids=["gains_equal", "gains_differ"])
def test_one_rotation_for_all_layers_is_none_as_long_as_the_norms_have_no_gains(gains: bool) -> None:
    source = model("orthogonal", 2, "fc_out.shared=true", norm_kind="rmsnorm", positions="rope")
    target = model("none", 2, norm_kind="rmsnorm", positions="rope")
    stream = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(C, C, generator=stream, dtype=torch.float64))[0]
    with torch.no_grad():
        for fc_out in fc_outs(source):  # `loud` has made it no rotation
            fc_out.get_parameter("weight").copy_(Q)
        for name, p in source.named_parameters():
            if "norm" in name and not gains:
                p.fill_(1.0)
    in_another_basis(source, target, Q)
    if not gains:
        with torch.no_grad():
            for name, p in target.named_parameters():
                if "norm" in name:
                    p.fill_(1.0)
        assert_same(source, target)
        return
    ids = ids_of(source)
    assert (source(ids) - target(ids)).abs().max() > 1e-2


TOLERANCE = 1e-5  # nats, at each of 200 steps in fp32: rounding alone, which was 8e-7 where this was written


def test_from_mapped_weights_one_shuffle_retraces_none_through_200_steps() -> None:
    source = gpt(maker("permute_shared"), n_heads=4, d_model=C)
    target, stranger = gpt(maker("none"), n_heads=4, d_model=C), gpt(maker("none"), n_heads=4, d_model=C, init_seed=1)
    for trained in (source, target):
        trained.double()
    in_another_basis(source, target, order_of(source))
    text = ((np.arange(400) ** 2 + np.arange(400) // 7) % 11).astype(np.uint8)

    def losses(trained: GPT) -> Tensor:
        batches = TrainBatches(text, batch_size=8, context=8, data_seed=0, device=torch.device("cpu"))
        step = TrainingStep(trained, adamw(trained.float()), batches, grad_clip=1.0, dropout_seed=0)
        return torch.stack([step(i, 3e-3)[0] for i in range(200)])

    one, other = losses(source), losses(target)
    assert one[0] - one[-1] > 1.0, "it has learned something"
    torch.testing.assert_close(other, one, rtol=0, atol=TOLERANCE)
    assert (losses(stranger) - one).abs().max() > 1000 * TOLERANCE


# ---- between N and D, and class D


@HEADS
@BIAS
def test_kronecker_is_cross_head(H: int, bias: bool) -> None:
    source, target = model("kronecker", H, bias=bias), model("cross_head", H, bias=bias)

    def values(fc_out: FcOut) -> Tensor:
        return torch.block_diag(*[fc_out.get_parameter("channels")] * H)

    def out(mine: FcOut, theirs: FcOut, _: Tensor) -> None:
        theirs.get_parameter("weight").copy_(mine.get_parameter("heads"))
        if bias:
            theirs.get_parameter("bias").copy_(mine.get_parameter("bias"))

    fold(source, target, values, out)
    assert_same(source, target)


@HEADS
@BIAS
def test_monarch_is_cross_channel(H: int, bias: bool) -> None:
    source, target = model("monarch", H, bias=bias), model("cross_channel", H, bias=bias)

    def values(fc_out: FcOut) -> Tensor:
        return torch.block_diag(*fc_out.get_parameter("inside"))

    def out(mine: FcOut, theirs: FcOut, _: Tensor) -> None:
        theirs.get_parameter("weight").copy_(mine.get_parameter("across"))
        if bias:
            theirs.get_parameter("bias").copy_(mine.get_parameter("bias"))

    fold(source, target, values, out)
    assert_same(source, target)


DENSE_IN_CLASS = [
    "overparam",
    "identity_init",
    "zero_init",
    "orthogonal_init",
    "skip_gain",
    "sum_heads",
    "low_rank",
    "frozen",
]


@HEADS
@BIAS
@pytest.mark.parametrize("name", [*DENSE_IN_CLASS, "grouped", "hadamard", "cross_channel", "tied"])
def test_dense_contains_every_fixed_map(name: str, H: int, bias: bool) -> None:
    settings = ("fc_out.groups=1",) if name == "grouped" else ()
    source, target = model(name, H, *settings, bias=bias), model("dense", H, bias=bias)

    def out(mine: FcOut, theirs: FcOut, _: Tensor) -> None:
        W, b = matrix(mine)
        theirs.get_parameter("map.weight").copy_(W)
        if bias:
            theirs.get_parameter("map.bias").copy_(b)

    fold(source, target, lambda _: torch.eye(C, dtype=torch.float64), out)
    assert_same(source, target)


def through(W: Tensor, name: str, theirs: FcOut) -> None:
    """Weights of a variant of class D that make it the map W."""
    eye = torch.eye(C, dtype=torch.float64)
    if name == "overparam":
        theirs.get_parameter("first.weight").copy_(eye)
        theirs.get_parameter("second.weight").copy_(W)
    elif name == "low_rank":
        theirs.get_parameter("down.weight").copy_(eye)
        theirs.get_parameter("up.weight").copy_(W)
    elif name == "grouped":
        theirs.get_parameter("down").copy_(torch.stack([torch.eye(C // 2, dtype=torch.float64)] * 2))
        theirs.get_parameter("up.weight").copy_(W)
    elif name == "skip_gain":
        theirs.get_parameter("weight").copy_((W - 0.5 * eye) / 2.0)
    else:
        theirs.get_parameter("weight").copy_(W)


SETTINGS = {
    "low_rank": (f"fc_out.rank={C}",),
    "grouped": ("fc_out.groups=2", f"fc_out.rank={C // 2}"),
    "skip_gain": ("fc_out.a=0.5", "fc_out.b=2.0"),
}


@pytest.mark.parametrize("H", [2, 4, 8])
@pytest.mark.parametrize(
    "name", ["overparam", "identity_init", "zero_init", "orthogonal_init", "skip_gain", "low_rank", "grouped"]
)
def test_what_is_of_class_d_can_be_any_dense(name: str, H: int) -> None:
    source, target = model("dense", H), model(name, H, *SETTINGS.get(name, ()))

    def out(mine: FcOut, theirs: FcOut, _: Tensor) -> None:
        through(mine.get_parameter("map.weight"), name, theirs)

    fold(source, target, lambda _: torch.eye(C, dtype=torch.float64), out)
    assert_same(source, target)


@HEADS
@BIAS
def test_merged_ov_contains_dense(H: int, bias: bool) -> None:
    """W_V,h' = W_O,h W_V,h; the bias of W_O becomes one of the values."""
    source, target = model("dense", H, bias=bias), model("merged_ov", H, bias=bias)
    scale = fc_outs(source)[0].place.dense_gain / H**0.5

    def values(fc_out: FcOut) -> Tensor:
        W = fc_out.get_parameter("map.weight").view(C, H, C // H) / scale
        stacked = torch.zeros(H, C, H, C // H, dtype=torch.float64)
        for h in range(H):
            stacked[h, :, h] = W[:, h]
        return stacked.view(H * C, C)

    def out(mine: FcOut, _: FcOut, v_bias: Tensor) -> None:
        v_bias += matrix(mine)[1].repeat(H) / (H * scale)

    fold(source, target, values, out)
    assert_same(source, target)


# ---- degrees of freedom: how many directions the OV maps can move in


def degrees_of_freedom(name: str, H: int, d: int, qkv: str) -> int:
    """Numeric rank of the derivative of all heads' OV maps `[H, d, d]` by W_V and the variant's own parameters."""
    made = gpt(maker(name), d_model=d, n_heads=H, n_layers=1, qkv=qkv).double()
    attention = blocks(loud(made))[0].attention
    fc_out, V = attention.fc_out, attention.fc_out.value_width
    kept = [p for p in fc_out.parameters() if p.requires_grad]
    rows = attention.qkv.map.weight.shape[0] * V // (2 * (d // H) + V)  # those of W_V
    weight = attention.qkv.map.weight
    eye = torch.eye(H * V, dtype=torch.float64).view(1, H * V, H, V)

    def ov(value_rows: Tensor, *own: Tensor) -> Tensor:
        names = [n for n, p in fc_out.named_parameters() if p.requires_grad]
        W = torch.func.functional_call(
            fc_out, dict(zip(names, own, strict=True)), (eye, torch.zeros(1, H * V, d).double())
        )
        W_HVC = W[0].view(H, V, d)
        if qkv == "fused":
            return torch.einsum("hvc,hvx->hcx", W_HVC, value_rows.view(H, V, d))
        return torch.einsum("hvc,vs->hcs", W_HVC, value_rows)

    start = (weight.detach()[-rows:], *(p.detach() for p in kept))
    parts = torch.func.jacrev(ov, argnums=tuple(range(len(start))))(*start)
    jacobian = torch.cat([part.reshape(-1, p.numel()) for part, p in zip(parts, start, strict=True)], dim=1)
    values = torch.linalg.svdvals(jacobian)
    return int((values > 1e-9 * values[0]).sum())


@pytest.mark.parametrize("H", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "fused", "split"),
    [
        ("dense", lambda d, H: 2 * d * d - d * d // H, lambda d, _: d * d),
        ("none", lambda d, _: d * d, lambda d, H: d * d // H**2),
        ("per_head", lambda d, _: d * d, lambda d, H: d * d // H),
        ("head_scale", lambda d, _: d * d, None),
        ("overparam", lambda d, H: 2 * d * d - d * d // H, lambda d, _: d * d),
        ("merged_ov", lambda d, H: H * d * d, lambda d, H: d * d // H),
        ("cross_head", lambda d, H: d * d + H * H - H, None),
        ("kronecker", lambda d, H: d * d + H * H - H, None),
    ],
)
def test_degrees_of_freedom_are_those_of_the_algebra(name: str, fused: Any, split: Any, H: int) -> None:
    d = 8
    assert degrees_of_freedom(name, H, d, "fused") == fused(d, H)
    if split is not None:
        assert degrees_of_freedom(name, H, d, "split") == split(d, H)


@pytest.mark.parametrize("H", [2, 4])
def test_monarch_is_more_than_cross_channel_under_split_attention_alone(H: int) -> None:
    found = {
        qkv: [degrees_of_freedom(n, H, 8, qkv) for n in ("monarch", "cross_channel")] for qkv in ("fused", "split")
    }
    assert found["fused"][0] == found["fused"][1]
    assert found["split"][0] > found["split"][1]
