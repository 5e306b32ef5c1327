"""The Transformer around fc_out: causality, attention, norms, positions, ties, dropout, biases, loudness."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mha_ablate.model import attention as tiles
from mha_ablate.model.attention import MAKERS, Attention, FusedQKV, SplitQKV
from mha_ablate.model.block import Block
from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.fc_out.dense import Dense
from mha_ablate.model.fc_out.none import NoProjection
from mha_ablate.model.fc_out.per_head import PerHead
from mha_ablate.model.gpt import GPT
from mha_ablate.model.init import GPT2, Starts, initialise, sizes_of
from mha_ablate.model.layers import LayerNorm, RMSNorm, rotary_tables, rotate, sinusoidal_table
from tests.unit.small import blocks, fc_outs, gpt, ids_of, inputs_of, loud, rms

POSITIONS = ("learned", "rope", "sinusoidal")
BOTH = pytest.mark.parametrize("qkv", ["fused", "split"])


def made_qkv(
    qkv: str, *, d_model: int = 12, n_heads: int = 3, head_dim: int = 4, value_width: int = 4, bias: bool = False
) -> Any:
    """The q, k, v maps alone, in float64, with weights that matter."""
    sizes = sizes_of(d_model=d_model, n_heads=n_heads, head_dim=head_dim, n_layers=1, d_ff=1, divisor=1.0)
    made = MAKERS[qkv](d_model, n_heads, head_dim, value_width, bias=bias, starts=Starts(GPT2, sizes)).double()
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=stream, dtype=torch.float64))
    return made


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- causality


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "sdpa"])
@BOTH
@pytest.mark.parametrize("block", ["pre", "post"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_a_token_changes_no_logit_before_it_and_every_logit_from_it_on(
    positions: str, block: str, qkv: str, explicit: bool
) -> None:
    model = loud(gpt(positions=positions, block=block, qkv=qkv, explicit_attention=explicit))
    before = ids_of(model, rows=2)
    with torch.no_grad():
        plain = model(before)
        for t in range(model.context):
            after = before.clone()
            after[:, t] = (after[:, t] + 1) % 11
            change = (model(after) - plain).abs().amax(dim=-1)
            assert (change[:, :t] < 1e-12).all()
            assert (change[:, t:] > 1e-9).all()


def test_a_shorter_input_gives_the_logits_of_the_longer_ones_start() -> None:
    for positions, explicit in itertools.product(POSITIONS, (True, False)):
        model = loud(gpt(positions=positions, explicit_attention=explicit))
        ids = ids_of(model)
        torch.testing.assert_close(model(ids[:, :5]), model(ids)[:, :5], rtol=0, atol=1e-12)


# ---- attention


@pytest.mark.parametrize("head_dim", [8, 6, 10])
@BOTH
@pytest.mark.parametrize("positions", POSITIONS)
def test_explicit_attention_is_scaled_dot_product_attention(positions: str, qkv: str, head_dim: int) -> None:
    settings: dict[str, Any] = {"positions": positions, "qkv": qkv, "head_dim": head_dim}
    explicit, sdpa = (loud(gpt(explicit_attention=e, **settings)) for e in (True, False))
    for length in (1, 5, 8):
        ids = ids_of(explicit, length=length)
        torch.testing.assert_close(explicit(ids), sdpa(ids), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 9), st.integers(1, 200), st.integers(1, 5), st.integers(1, 8))
def test_tiles_and_windows_at_once_change_no_result(queries: int, scores: int, rows: int, length: int) -> None:
    explicit, sdpa = (loud(gpt(explicit_attention=e)) for e in (True, False))
    ids = ids_of(explicit, rows=rows, length=length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "QUERIES_AT_ONCE", queries)
        patch.setattr(tiles, "SCORES_AT_ONCE", scores)
        explicit.loss(ids, ids).backward()
        torch.testing.assert_close(explicit(ids), sdpa(ids), rtol=1e-12, atol=1e-12)
    sdpa.loss(ids, ids).backward()
    for one, other in zip(explicit.parameters(), sdpa.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)  # the loss is in fp32


def test_a_long_context_is_tiled_by_default() -> None:
    shapes: list[tuple[int, ...]] = []
    model = gpt(context=300, n_layers=1)
    with pytest.MonkeyPatch.context() as patch:
        plain = torch.softmax
        patch.setattr(torch, "softmax", lambda x, dim: shapes.append(tuple(x.shape)) or plain(x, dim=dim))
        model(ids_of(model, rows=20))
    assert {shape[2:] for shape in shapes} == {(128, 128), (128, 256), (44, 300)}
    assert [shape[0] for shape in shapes if shape[2] == 44] == [13, 7]


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "sdpa"])
def test_attention_is_the_textbooks_head_by_head(explicit: bool) -> None:
    model = loud(gpt(n_layers=1, head_dim=6, explicit_attention=explicit))
    attention = blocks(model)[0].attention
    x_TC = noise(5, 16)
    q_w, k_w, v_w = attention.qkv.map.weight.view(3, 2, 6, 16)
    heads = []
    for h in range(2):
        q, k, v = x_TC @ q_w[h].T, x_TC @ k_w[h].T, x_TC @ v_w[h].T
        rows = []
        for t in range(5):
            weights = torch.softmax(k[: t + 1] @ q[t] / math.sqrt(6), dim=0)
            rows.append(weights @ v[: t + 1])
        heads.append(torch.stack(rows))
    dense = attention.fc_out
    assert isinstance(dense, Dense)
    expected = torch.cat(heads, dim=-1) @ dense.map.weight.T
    torch.testing.assert_close(attention(x_TC[None], None)[0], expected, rtol=1e-12, atol=1e-12)


def test_fc_out_receives_z_by_head_and_the_sublayers_input() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(NoProjection):
        def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:
            seen.append((z_BTHV, x_BTC))
            return super().forward(z_BTHV, x_BTC)

    for block, qkv in itertools.product(("pre", "post"), ("fused", "split")):
        model = loud(gpt(Spy, n_layers=1, block=block, qkv=qkv))
        attention, norm = blocks(model)[0].attention, blocks(model)[0].norm_attention
        x_BTC = noise(2, 1, 16)  # one position: attention is the identity, so z = v
        seen.clear()
        blocks(model)[0](x_BTC, None)
        z_BTHV, given = seen[0]
        torch.testing.assert_close(given, norm(x_BTC) if block == "pre" else x_BTC)
        torch.testing.assert_close(z_BTHV, attention.qkv(given)[2].transpose(1, 2))


# ---- q, k, v


@BOTH
@pytest.mark.parametrize("value_width", [4, 12])
def test_value_weight_makes_the_values_from_the_whole_embedding(qkv: str, value_width: int) -> None:
    made = made_qkv(qkv, value_width=value_width)
    x_BTC = noise(2, 5, 12)
    v_BHTV = made(x_BTC)[2]
    weight_HVC = made.value_weight()
    assert weight_HVC.shape == (3, value_width, 12)
    torch.testing.assert_close(torch.einsum("btc,hvc->bhtv", x_BTC, weight_HVC), v_BHTV, rtol=1e-12, atol=1e-12)


@BOTH
def test_value_weight_is_alive_in_the_graph(qkv: str) -> None:
    made = made_qkv(qkv)
    made.value_weight().sum().backward()
    rows = made.map.weight.grad.abs().sum(dim=1) > 0
    values = 4 if qkv == "split" else 3 * 4
    assert rows[-values:].all()
    assert not rows[:-values].any()


@BOTH
def test_q_and_k_are_n_heads_by_head_dim_and_v_as_wide_as_asked(qkv: str) -> None:
    q, k, v = made_qkv(qkv, value_width=7)(noise(2, 5, 12))
    assert (q.shape, k.shape, v.shape) == ((2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 7))


def test_split_attention_shows_each_head_its_own_slice_alone() -> None:
    made = made_qkv("split")
    x_BTC = noise(2, 5, 12)
    for h in range(3):
        other = x_BTC.clone()
        other[..., 4 * h : 4 * h + 4] += 1.0
        for before, after in zip(made(x_BTC), made(other), strict=True):
            changed = ((after - before).abs() > 1e-9).flatten(2).any(dim=2).all(dim=0)
            assert changed.tolist() == [g == h for g in range(3)]
        outside = torch.ones(12, dtype=torch.bool)
        outside[4 * h : 4 * h + 4] = False
        assert (made.value_weight()[h][:, outside] == 0).all()


def test_split_attention_shares_one_map_between_heads() -> None:
    made = made_qkv("split", bias=True)
    assert made.map.weight.shape == (12, 4)
    same_slices = noise(2, 5, 4).repeat(1, 1, 3)
    for part in made(same_slices):
        for h in (1, 2):
            torch.testing.assert_close(part[:, h], part[:, 0], rtol=0, atol=1e-14)
    weight = made.value_weight()
    assert torch.equal(weight[0][:, :4], weight[2][:, 8:])


def test_fused_attention_has_maps_of_its_own_for_every_head() -> None:
    made = made_qkv("fused")
    assert made.map.weight.shape == (36, 12)
    v = made(noise(2, 5, 4).repeat(1, 1, 3))[2]
    assert (v[:, 0] - v[:, 1]).abs().max() > 0.1


def test_with_one_head_split_and_fused_are_the_same_function() -> None:
    fused, split = (loud(gpt(n_heads=1, qkv=qkv)) for qkv in ("fused", "split"))
    ids = ids_of(fused)
    torch.testing.assert_close(fused(ids), split(ids), rtol=0, atol=1e-12)


def test_the_two_kinds_of_qkv_are_the_ones_on_offer() -> None:
    assert {"fused": FusedQKV, "split": SplitQKV} == MAKERS


# ---- norms and blocks


class Halve(nn.Module):
    def forward(self, x: Tensor, *_: object) -> Tensor:
        return 0.5 * x + 1.0


class AddOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1.0


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * x


def toy_block(*, post: bool) -> Block:
    """attention(x) = x / 2 + 1, mlp(x) = x + 1, norm_attention(x) = 2 x, norm_mlp(x) = x + 1."""
    attention, mlp = cast(Any, Halve()), cast(Any, AddOne())
    return Block(attention, mlp, (Double(), AddOne()), kind="post" if post else "pre", dropout=0.0)


def test_a_pre_norm_block_adds_f_of_norm_to_an_untouched_stream() -> None:
    # 3 + (2*3 / 2 + 1) = 7, then 7 + ((7 + 1) + 1) = 16
    assert toy_block(post=False)(torch.tensor([3.0]), None).item() == 16.0


def test_a_post_norm_block_normalises_the_sum() -> None:
    # 2 (3 + (3 / 2 + 1)) = 11, then (11 + (11 + 1)) + 1 = 24
    assert toy_block(post=True)(torch.tensor([3.0]), None).item() == 24.0


def test_only_a_pre_norm_model_ends_in_a_norm() -> None:
    assert isinstance(gpt(block="pre").norm, LayerNorm)
    assert gpt(block="post").norm is None
    assert all(block.kind == "post" for block in blocks(gpt(block="post")))
    assert not any(block.kind == "post" for block in blocks(gpt(block="pre")))


def test_norms_follow_their_formulas() -> None:
    x, g, b = noise(3, 6), noise(6, seed=1), noise(6, seed=2)
    layer, root = LayerNorm(6, bias=True).double(), RMSNorm(6).double()
    with torch.no_grad():
        layer.weight.copy_(g)
        root.weight.copy_(g)
        assert layer.bias is not None
        layer.bias.copy_(b)
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(layer(x), g * (x - mean) / (var + 1e-5).sqrt() + b)
    torch.testing.assert_close(root(x), g * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())


@pytest.mark.parametrize(("kind", "cls"), [("layernorm", LayerNorm), ("rmsnorm", RMSNorm)])
def test_the_chosen_norm_stands_everywhere(kind: str, cls: type[nn.Module]) -> None:
    model = gpt(norm_kind=kind)
    norms = [m for block in blocks(model) for m in (block.norm_attention, block.norm_mlp)]
    assert all(type(m) is cls for m in [*norms, model.norm])


def test_the_mlp_is_an_exact_gelu_between_two_maps() -> None:
    mlp = blocks(loud(gpt()))[0].mlp
    x = noise(4, 16)
    h = x @ mlp.up.weight.T
    gelu = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
    torch.testing.assert_close(mlp(x), gelu @ mlp.down.weight.T, rtol=1e-12, atol=1e-12)


# ---- embeddings and positions


def final_hidden(model: GPT, ids: Tensor) -> Tensor:
    """What the output layer reads, of a pre-norm model."""
    assert model.norm is not None
    kept = inputs_of(model.norm)
    model(ids)
    return model.norm(kept[0])


def test_a_tied_output_layer_is_the_token_embedding_itself() -> None:
    model = loud(gpt(tied_embedding=True))
    ids = ids_of(model)
    assert model.output is None
    assert not [name for name, _ in model.named_parameters() if name.startswith("output")]
    torch.testing.assert_close(model(ids), final_hidden(model, ids) @ model.tokens.weight.T)
    with torch.no_grad():
        model.tokens.weight.zero_()
    assert (model(ids) == 0).all()


def test_an_untied_output_layer_has_weights_of_its_own() -> None:
    model = loud(gpt(tied_embedding=False))
    ids = ids_of(model)
    assert model.output is not None
    assert model.output.weight.data_ptr() != model.tokens.weight.data_ptr()
    assert model.output.bias is None
    torch.testing.assert_close(model(ids), final_hidden(model, ids) @ model.output.weight.T)
    with torch.no_grad():
        model.output.weight.zero_()
    assert (model(ids) == 0).all()


@pytest.mark.parametrize("positions", POSITIONS)
@BOTH
def test_every_kind_of_position_tells_order_apart(positions: str, qkv: str) -> None:
    model = loud(gpt(n_layers=1, positions=positions, qkv=qkv))
    ids, swapped = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 1, 3, 4]])
    assert (model(ids)[:, -1] - model(swapped)[:, -1]).abs().max() > 1e-6


def test_only_learned_positions_have_parameters() -> None:
    named = {p: {name for name, _ in gpt(positions=p).named_parameters()} for p in POSITIONS}
    assert named["learned"] - named["rope"] == {"positions.weight"}
    assert named["rope"] == named["sinusoidal"]


def test_sinusoidal_positions_are_vaswanis() -> None:
    table = sinusoidal_table(7, 10)
    assert table.shape == (7, 10)
    for t, i in itertools.product(range(7), range(5)):
        angle = t / 10_000 ** (2 * i / 10)
        assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_sinusoidal_positions_are_added_at_the_scale_of_the_token_embedding() -> None:
    model = gpt(positions="sinusoidal")
    with torch.no_grad():
        model.tokens.weight.zero_()
    kept = inputs_of(blocks(model)[0])
    model(ids_of(model, rows=1, length=5))
    torch.testing.assert_close(kept[0][0], sinusoidal_table(5, 16) * 0.02)


def test_rope_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rotary_tables(9, 6)
    q, k = noise(6), noise(6, seed=1)
    turned_q = rotate(q.expand(1, 1, 9, 6), cos, sin)[0, 0]
    turned_k = rotate(k.expand(1, 1, 9, 6), cos, sin)[0, 0]
    scores = turned_q @ turned_k.T
    for distance in range(-8, 9):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert scores[0].std() > 0.1  # and it does depend on that


def test_rope_turns_the_pairs_half_a_head_apart_by_position_over_base() -> None:
    cos, sin = rotary_tables(9, 6)
    x = noise(6)
    turned = rotate(x.expand(1, 1, 9, 6), cos, sin)[0, 0]
    torch.testing.assert_close(turned[0], x, rtol=0, atol=0)
    for t, i in itertools.product(range(9), range(3)):
        angle = t / 10_000 ** (2 * i / 6)
        a, b = x[i].item(), x[i + 3].item()
        assert turned[t, i].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-5)
        assert turned[t, i + 3].item() == pytest.approx(a * math.sin(angle) + b * math.cos(angle), abs=1e-5)


def test_the_gradient_of_a_rotation_is_that_of_finite_differences() -> None:
    cos, sin = (table.double() for table in rotary_tables(5, 6))
    x = noise(2, 3, 5, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), x)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, cos, sin), x)


def test_a_rope_model_is_blind_to_where_a_window_starts() -> None:
    """Shifting q and k by the same offset changes no attention output."""
    model = loud(gpt(positions="rope"))
    attention = blocks(model)[0].attention
    cos, sin = rotary_tables(12, 8)
    x_BTC = noise(2, 8, 16)
    torch.testing.assert_close(attention(x_BTC, (cos, sin)), attention(x_BTC, (cos[4:], sin[4:])), rtol=0, atol=1e-5)


# ---- dropout, bias, loudness


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "sdpa"])
def test_dropout_acts_in_training_and_not_in_evaluation(explicit: bool) -> None:
    model = gpt(dropout=0.5, explicit_attention=explicit)
    without = gpt(dropout=0.0, explicit_attention=explicit)
    ids = ids_of(model)
    model.train()
    assert not torch.equal(model(ids), model(ids))
    assert not torch.allclose(model(ids), without(ids))
    model.eval()
    assert torch.equal(model(ids), without(ids))


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "sdpa"])
def test_dropout_falls_on_attention_weights_branches_and_embedding(explicit: bool) -> None:
    model = gpt(dropout=0.5, explicit_attention=explicit, n_layers=1).train()
    block = blocks(model)[0]
    x_BTC = torch.randn(4, 8, 16)
    assert not torch.equal(block.attention(x_BTC, None), block.attention(x_BTC, None))
    kept = inputs_of(block)
    model(ids_of(model, rows=16))
    assert 0.4 < (kept[0] == 0).float().mean().item() < 0.6
    # With the attention branch silenced, what a block adds is the dropped-out MLP branch.
    with torch.no_grad():
        block.attention.qkv.map.weight.zero_()
    added = block(x_BTC, None) - x_BTC
    assert 0.4 < (added == 0).float().mean().item() < 0.6


def names(model: GPT) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters()}


@pytest.mark.parametrize("make", [Dense, NoProjection, PerHead])
@BOTH
def test_the_bias_flag_adds_the_biases_and_nothing_else(make: type[FcOut], qkv: str) -> None:
    d, d_ff, layers = 16, 32, 2
    off, on = (names(gpt(make, qkv=qkv, bias=bias)) for bias in (False, True))
    added = {name: shape.numel() for name, shape in on.items() if name not in off}
    assert {name: shape for name, shape in on.items() if name in off} == off
    assert all(name.endswith("bias") for name in added)
    qkv_bias = 3 * d if qkv == "fused" else 3 * (d // 2)
    of_fc_out = 0 if make is NoProjection else d
    per_layer = qkv_bias + of_fc_out + (d_ff + d) + 2 * d
    assert sum(added.values()) == layers * per_layer + d


def test_rmsnorm_has_no_bias_whatever_the_flag_says() -> None:
    on = names(gpt(bias=True, norm_kind="rmsnorm"))
    assert not [name for name in on if "norm" in name and name.endswith("bias")]
    assert "blocks.0.mlp.up.bias" in on


def test_the_bias_of_per_head_and_dense_is_added_to_every_position() -> None:
    place = Place(d_model=16, n_heads=2, head_dim=8, n_layers=2, layer=0, bias=True, value_inputs=12)
    for fc_out in (Dense(place), PerHead(place)):
        initialise(fc_out, 0)
        bias = fc_out.map.bias if isinstance(fc_out, Dense) else fc_out.bias
        assert bias is not None
        with torch.no_grad():
            bias.copy_(torch.arange(16.0))
        y = fc_out(torch.zeros(2, 3, 2, 8), torch.zeros(2, 3, 16))
        assert torch.equal(y, torch.arange(16.0).expand(2, 3, 16))


def test_per_head_is_a_block_diagonal_dense() -> None:
    place = Place(d_model=12, n_heads=3, head_dim=4, n_layers=2, layer=0, bias=False, value_inputs=12)
    per_head, dense = PerHead(place).double(), Dense(place).double()
    with torch.no_grad():
        per_head.weight.copy_(noise(3, 4, 4))
        dense.map.weight.copy_(torch.block_diag(*per_head.weight))
    z, x = noise(2, 5, 3, 4, seed=1), noise(2, 5, 12, seed=2)
    torch.testing.assert_close(per_head(z, x), dense(z, x), rtol=1e-12, atol=1e-12)


def test_none_hands_on_the_heads_side_by_side() -> None:
    place = Place(d_model=12, n_heads=3, head_dim=4, n_layers=2, layer=0, bias=True, value_inputs=12)
    z = noise(2, 5, 3, 4)
    y = NoProjection(place)(z, noise(2, 5, 12))
    for h in range(3):
        assert torch.equal(y[..., 4 * h : 4 * h + 4], z[:, :, h])


@pytest.mark.parametrize("scale", [0.25, 3.0])
@BOTH
def test_branch_scale_multiplies_the_branch(scale: float, qkv: str) -> None:
    plain, scaled = (loud(gpt(branch_scale=s, qkv=qkv)) for s in (1.0, scale))
    x_BTC = noise(2, 8, 16)
    for one, other in zip(blocks(plain), blocks(scaled), strict=True):
        torch.testing.assert_close(other.attention(x_BTC, None), scale * one.attention(x_BTC, None))


@pytest.mark.parametrize("make", [Dense, NoProjection, PerHead])
def test_matched_starts_the_branch_as_loud_as_dense(make: type[FcOut]) -> None:
    sizes: dict[str, Any] = {"d_model": 128, "n_heads": 4, "n_layers": 4, "d_ff": 1, "context": 16}
    dense, arm = gpt(Dense, **sizes), gpt(make, branch_scale="matched", **sizes)
    place = fc_outs(arm)[0].place
    x_BTC = torch.randn(4, 16, 128, generator=torch.Generator().manual_seed(0))
    for one, other in zip(blocks(dense), blocks(arm), strict=True):
        torch.testing.assert_close(one.attention.qkv.map.weight, other.attention.qkv.map.weight)
        loudness = rms(other.attention(x_BTC, None)) / rms(one.attention(x_BTC, None))
        assert loudness == pytest.approx(1.0, rel=0.05)
        gain = other.attention.branch_scale * other.attention.fc_out.start_gain
        assert gain == pytest.approx(place.dense_gain)


def test_the_default_branch_scale_is_one_for_every_variant() -> None:
    attentions: list[Attention] = [b.attention for make in (Dense, NoProjection, PerHead) for b in blocks(gpt(make))]
    assert {a.branch_scale for a in attentions} == {1.0}


def test_the_loss_is_the_mean_surprise_in_nats() -> None:
    model = loud(gpt())
    ids, targets = ids_of(model), ids_of(model, seed=1)
    chance = torch.softmax(model(ids), dim=-1).gather(-1, targets[..., None])
    surprise = -chance.log()
    assert model.loss(ids, targets).item() == pytest.approx(surprise.mean().item(), rel=1e-5)
    assert model.loss(ids, targets, reduction="sum").item() == pytest.approx(surprise.sum().item(), rel=1e-5)
