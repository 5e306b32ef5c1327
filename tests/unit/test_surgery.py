"""The algebra of surgery on an output projection, in float64: what must hold exactly does."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mha_ablate.model.fc_out.base import FcOut
from mha_ablate.model.fc_out.dense import Dense
from mha_ablate.model.fc_out.gate import Gate
from mha_ablate.model.fc_out.merged_ov import MergedOV
from mha_ablate.model.fc_out.none import NoProjection
from mha_ablate.model.fc_out.per_head import PerHead
from mha_ablate.model.fc_out.shared_head import SharedHead
from mha_ablate.model.gpt import GPT
from mha_ablate.surgery.anatomy import of_activity
from mha_ablate.surgery.diagnose import (
    contributions,
    effective_rank,
    linear_cka,
    output_overlap,
    output_space,
    ov_svd,
    singular_values,
    stable_rank,
)
from mha_ablate.surgery.experiments import Subject, each_head, rank_curve, whole_model
from mha_ablate.surgery.fold import Inexact, can_take, fold_into, fold_value_bias
from mha_ablate.surgery.swap import Bench, Concatenated, Fixed, OnHeads, attentions, resampled, swapped, without_head
from mha_ablate.surgery.truncate import (
    block_diagonal,
    cross_head_energy,
    order_of_heads,
    random_like,
    ranks,
    truncated,
)
from tests.unit.small import gpt, ids_of, loud

EXACT = 1e-10
sizes = st.sampled_from([(1, 4), (2, 3), (2, 4), (3, 2), (4, 2)])
seeds = st.integers(0, 10**6)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bench_of(model: GPT, rows: int = 4) -> Bench:
    ids = ids_of(model, rows)
    return Bench(model, [(ids[:, :-1], ids[:, 1:])])


def apart(model: GPT, other: GPT) -> float:
    ids = ids_of(model)
    with torch.no_grad():
        a, b = model(ids), other(ids)
    return float((a - b).abs().max() / a.abs().max())


def affine_of(model: GPT) -> list[tuple[Tensor, Tensor]]:
    return [pair for a in attentions(model) if (pair := a.fc_out.as_affine(a.qkv.map.weight))]


# ---- matrices


@given(sizes, seeds)
def test_cut_to_full_rank_is_the_matrix_and_less_is_the_nearest(size: tuple[int, int], seed: int) -> None:
    W = random(7, size[0] * size[1], seed=seed)
    assert (truncated(W, min(W.shape)) - W).norm() < EXACT
    s = singular_values(W)
    for rank in range(min(W.shape)):
        cut = truncated(W, rank)
        assert torch.linalg.matrix_rank(cut) == rank
        assert float((W - cut).norm()) == pytest.approx(float(s[rank:].norm()))


def test_the_ranks_of_the_curve_begin_with_none_and_end_with_all() -> None:
    assert ranks(128) == [0, 1, 2, 4, 8, 16, 32, 64, 96, 128]
    assert ranks(1) == [0, 1]
    assert ranks(6) == [0, 1, 2, 4, 6]


@given(sizes, seeds)
def test_blocks_on_the_diagonal_are_kept_and_the_rest_is_the_energy(size: tuple[int, int], seed: int) -> None:
    H, D = size
    W = random(H * D, H * D, seed=seed)
    kept = block_diagonal(W, H)
    for g in range(H):
        for h in range(H):
            block = (slice(g * D, (g + 1) * D), slice(h * D, (h + 1) * D))
            assert torch.equal(kept[block], W[block] if g == h else torch.zeros_like(W[block]))
    assert cross_head_energy(W, H) == pytest.approx(float((W - kept).square().sum() / W.square().sum()))
    assert torch.equal(block_diagonal(W, 1), W)
    assert cross_head_energy(W, 1) == 0


def test_a_random_matrix_has_the_energy_of_its_start() -> None:
    assert cross_head_energy(random(400, 400), 4) == pytest.approx(0.75, abs=0.01)
    assert cross_head_energy(torch.zeros(4, 4), 2) == 0
    with pytest.raises(ValueError, match="no diagonal"):
        block_diagonal(random(4, 6), 2)


def test_random_changes_have_the_norm_of_the_change_and_are_drawn_by_number() -> None:
    change = 3 * random(5, 7)
    one = random_like(change, 1)
    assert float(one.norm()) == pytest.approx(float(change.norm()))
    assert torch.equal(one, random_like(change, 1))
    assert not torch.allclose(one, random_like(change, 2))


@given(st.integers(2, 9), seeds)
def test_no_head_keeps_its_place(n_heads: int, draw: int) -> None:
    order = order_of_heads(n_heads, draw)
    assert sorted(order.tolist()) == list(range(n_heads))
    assert not (order == torch.arange(n_heads)).any()


# ---- numbers


def test_ranks_of_known_spectra() -> None:
    flat, one = torch.ones(6, dtype=torch.float64), torch.tensor([5.0, 0, 0], dtype=torch.float64)
    assert stable_rank(flat) == pytest.approx(6)
    assert effective_rank(flat) == pytest.approx(6)
    assert stable_rank(one) == effective_rank(one) == 1
    assert stable_rank(0 * flat) == effective_rank(0 * flat) == 0
    two = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert stable_rank(two) == pytest.approx(10 / 9)
    assert effective_rank(two) == pytest.approx(4 / 3**0.75)  # exp(H(3/4, 1/4))


@given(seeds)
def test_cka_does_not_see_rotations_scales_and_shifts(seed: int) -> None:
    X, Y = random(30, 4, seed=seed), random(30, 3, seed=seed + 1)
    Q, _ = torch.linalg.qr(random(4, 4, seed=seed + 2))
    assert linear_cka(X, X) == pytest.approx(1)
    assert linear_cka(X, Y) == pytest.approx(linear_cka(Y, X))
    assert linear_cka(2.5 * X @ Q + 7, Y) == pytest.approx(linear_cka(X, Y))
    assert 0 <= linear_cka(X, Y) <= 1 + EXACT


def test_cka_of_known_cases() -> None:
    x = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(x, y) == 0
    assert linear_cka(x, -3 * x) == pytest.approx(1)
    assert math.isnan(linear_cka(x, torch.ones(4, 2)))


@given(sizes, seeds)
def test_ov_is_the_product_and_does_not_see_the_basis_inside_a_head(size: tuple[int, int], seed: int) -> None:
    D, C = size[1], 6
    W, V = random(C, D, seed=seed), random(D, C, seed=seed + 1)
    G = random(D, D, seed=seed + 2) + 3 * torch.eye(D, dtype=torch.float64)
    u, s = ov_svd(W, V)
    assert s.tolist() == pytest.approx(singular_values(W @ V)[:D].tolist(), abs=1e-9)
    assert float((W @ V - u @ (u.T @ W @ V)).norm()) < 1e-9
    again = ov_svd(W @ torch.linalg.inv(G), G @ V)[1]
    assert again.tolist() == pytest.approx(s.tolist(), rel=1e-6)


def test_overlap_of_spaces() -> None:
    eye = torch.eye(6, dtype=torch.float64)
    assert output_overlap([eye[:, :2], eye[:, 2:4]]) == pytest.approx((0, 1 / 3))
    assert output_overlap([eye[:, :2], eye[:, :3]]) == pytest.approx((1, 0.5))
    assert output_overlap([eye[:, :2], eye[:, 1:3]])[0] == pytest.approx(0.5)
    assert all(math.isnan(v) for v in output_overlap([eye[:, :2]]))
    u, s = ov_svd(torch.zeros(6, 2), torch.zeros(2, 6))
    assert output_space(u, s).shape == (6, 0)


# ---- heads


@pytest.mark.parametrize("make", [Dense, NoProjection, PerHead, MergedOV, Gate])
@pytest.mark.parametrize("n_heads", [1, 2, 4])
@pytest.mark.parametrize("qkv", ["fused", "split"])
def test_what_heads_add_sums_to_the_output(make: type[FcOut], n_heads: int, qkv: str) -> None:
    model = loud(gpt(make, n_heads=n_heads, qkv=qkv, bias=True))
    bench = bench_of(model)
    for layer, attention in enumerate(attentions(model)):
        z, x, y = bench.seen(layer)
        with torch.no_grad():
            parts, rest = contributions(attention.fc_out, z, x)
        assert float((parts.sum(0) + rest - y).abs().max()) < EXACT * float(y.abs().max())
        assert len(parts) == n_heads
        assert of_activity(bench, layer)["sum_of_heads_error"] < EXACT


def test_a_map_that_is_not_linear_in_its_heads_is_caught() -> None:
    class Squared(NoProjection):
        def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:
            return z_BTHV.flatten(-2) + z_BTHV.sum(-2).repeat(1, 1, 2).square()

    model = loud(gpt(Squared))
    assert of_activity(bench_of(model), 0)["sum_of_heads_error"] > 0.01
    assert attentions(model)[0].fc_out.as_affine(attentions(model)[0].qkv.map.weight) is None


def test_a_gate_is_no_fixed_matrix_and_others_are_theirs() -> None:
    for make in (Dense, NoProjection, PerHead, MergedOV):
        model = loud(gpt(make, bias=True))
        z, _, y = bench_of(model).seen(1)
        W, b = affine_of(model)[1]
        assert float((z.flatten(-2) @ W.T + b - y).abs().max()) < EXACT * float(y.abs().max())
    assert affine_of(loud(gpt(Gate))) == []


# ---- losses


def test_a_bench_gives_the_models_own_loss_and_swaps_are_undone() -> None:
    model = loud(gpt())
    bench, ids = bench_of(model), ids_of(model, 4)
    with torch.no_grad():
        own = float(model.loss(ids[:, :-1], ids[:, 1:]))
    assert bench.loss() == pytest.approx(own, rel=1e-6)
    before = [a.fc_out for a in attentions(model)]
    swaps = {1: Concatenated(), 0: Fixed(*affine_of(model)[0])}
    assert bench.loss({0: swaps[0]}) == pytest.approx(bench.loss(), abs=1e-9)
    assert bench.loss(swaps) == pytest.approx(bench.loss({1: swaps[1]}), abs=1e-9)
    assert bench.loss({1: swaps[1]}) != pytest.approx(bench.loss(), abs=1e-6)
    with swapped(model, swaps), torch.no_grad():
        whole = float(model.loss(ids[:, :-1], ids[:, 1:]))
    assert bench.loss(swaps) == pytest.approx(whole, rel=1e-6)
    with pytest.raises(RuntimeError), swapped(model, swaps):
        raise RuntimeError
    assert [a.fc_out for a in attentions(model)] == before


def test_silencing_a_head_leaves_the_others() -> None:
    z = random(3, 2, 2, 4)
    cut = without_head(z, 1)
    assert torch.equal(cut[:, :, 0], z[:, :, 0])
    assert not cut[:, :, 1].any()
    mean = without_head(z, 0, z.mean((0, 1))[0])
    assert torch.allclose(mean[0, 0, 0], z[:, :, 0].mean((0, 1)))
    assert torch.equal(resampled(z, 1, 1)[1, :, 1], z[0, :, 1])
    assert torch.equal(resampled(z, 1, 1)[:, :, 0], z[:, :, 0])


def subject_of(model: GPT, n_heads: int = 2) -> Subject:
    bench = bench_of(model)
    return Subject(bench, affine_of(model) or None, n_heads, 2, bench.losses())


def test_experiments_cost_what_they_should() -> None:
    model = loud(gpt())
    subject = subject_of(model)
    curve, why = rank_curve(subject)
    assert why is None
    assert [row["rank"] for row in curve] == [0, 1, 2, 4, 8, 12, 16]
    assert abs(curve[-1]["delta"]) < 1e-9
    silent = {layer: Fixed(0 * W, b) for layer, (W, b) in enumerate(affine_of(model))}
    assert curve[0]["delta"] == pytest.approx(subject.delta(silent))
    assert curve[0]["null"]["draws"] == 2
    assert curve[0]["null"]["low"] <= curve[0]["null"]["mean"] <= curve[0]["null"]["high"]
    heads = each_head(subject)
    assert [(row["layer"], row["head"]) for row in heads] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    own = attentions(model)[1].fc_out
    by_hand = {1: OnHeads(own, partial(without_head, head=0))}
    assert heads[2]["zero"] == pytest.approx(subject.delta(by_hand))
    assert {row["name"] for row in whole_model(subject)} == {
        "identity",
        "identity_as_loud",
        "no_cross_head",
        "shuffled_heads",
    }


def test_changes_of_all_layers_cost_what_they_cost_by_hand() -> None:
    model = loud(gpt(bias=True))
    subject, affine = subject_of(model), affine_of(model)
    found = {row["name"]: row for row in whole_model(subject)}
    eye = torch.eye(16, dtype=torch.float64)
    by_hand = {
        "identity": [eye for _ in affine],
        "identity_as_loud": [eye * W.norm() / 4 for W, _ in affine],  # |I|_F = 4
        "no_cross_head": [torch.block_diag(W[:8, :8], W[8:, 8:]) for W, _ in affine],
    }
    for name, matrices in by_hand.items():
        maps = {layer: Fixed(W, b) for layer, (W, (_, b)) in enumerate(zip(matrices, affine, strict=True))}
        windows = subject.bench.losses(maps) - subject.losses
        assert found[name]["delta"] == pytest.approx(float(windows.mean()), abs=1e-9), name
        assert found[name]["se"] == pytest.approx(float(windows.std()) / len(windows) ** 0.5), name
        nulls = [
            subject.delta(
                {
                    layer: Fixed(W + random_like(changed - W, 1000 * draw + layer), b)
                    for layer, (changed, (W, b)) in enumerate(zip(matrices, affine, strict=True))
                }
            )
            for draw in range(2)
        ]
        assert found[name]["null"]["low"] == pytest.approx(min(nulls), abs=1e-9), name
        assert found[name]["null"]["high"] == pytest.approx(max(nulls), abs=1e-9), name
    two = {layer: Fixed(torch.cat((W[:, 8:], W[:, :8]), 1), b) for layer, (W, b) in enumerate(affine)}
    assert found["shuffled_heads"]["delta"] == pytest.approx(subject.delta(two), abs=1e-9), "two heads change places"
    windows = subject.bench.losses(two) - subject.losses
    assert found["shuffled_heads"]["se"] == pytest.approx(float(windows.std()) / len(windows) ** 0.5)


def test_silenced_heads_cost_what_they_cost_by_hand() -> None:
    model = loud(gpt(bias=True))
    subject, affine = subject_of(model), affine_of(model)
    rows = {(row["layer"], row["head"]): row for row in each_head(subject)}
    for layer, head in rows:
        own, (z, _, _) = attentions(model)[layer].fc_out, subject.bench.seen(layer)
        W, b = affine[layer]
        columns = slice(8 * head, 8 * head + 8)
        part = torch.zeros_like(W)
        part[:, columns] = W[:, columns]
        mean = z[:, :, head].mean((0, 1))
        moved = z[:, :, head].roll(1, 0)
        edits = {
            "zero": Fixed(W - part, b),
            "mean": Fixed(W - part, b + W[:, columns] @ mean),
            "resample": OnHeads(own, lambda z, h=head, m=moved: torch.stack((z[:, :, 1 - h], m)[:: 1 if h else -1], 2)),
        }
        row = rows[layer, head]
        for how, edit in edits.items():
            windows = subject.bench.losses({layer: edit}) - subject.losses
            assert row[how] == pytest.approx(float(windows.mean()), abs=1e-9), how
            assert row["se"][how] == pytest.approx(float(windows.std()) / len(windows) ** 0.5), how
        assert len({round(row[how], 9) for how in edits}) == 3, "three ways to silence, three costs"
        nulls = [subject.delta({layer: Fixed(W + random_like(part, 1000 * draw + layer), b)}) for draw in range(2)]
        assert row["null"]["mean"] == pytest.approx(sum(nulls) / 2, abs=1e-9)


def test_with_one_head_nothing_crosses_and_without_a_projection_nothing_is_swapped() -> None:
    one = {row["name"]: row for row in whole_model(subject_of(loud(gpt(n_heads=1)), 1))}
    assert "why" in one["no_cross_head"]
    assert "why" in one["shuffled_heads"]
    none = {row["name"]: row for row in whole_model(subject_of(loud(gpt(NoProjection))))}
    assert "already" in none["identity"]["why"]
    assert "slice" in none["no_cross_head"]["why"]
    assert rank_curve(subject_of(loud(gpt(NoProjection))))[0] == []


# ---- folds


@given(st.sampled_from([1, 2, 4]), st.booleans(), seeds)
def test_a_fold_gives_the_same_logits(n_heads: int, bias: bool, seed: int) -> None:
    for source, target in ((PerHead, NoProjection), (Dense, MergedOV), (PerHead, MergedOV), (MergedOV, MergedOV)):
        settings = {"n_heads": n_heads, "bias": bias, "positions": "rope", "head_dim": 16 // n_heads}
        model = loud(gpt(source, **settings), seed)
        folded = fold_into(model, gpt(target, **settings).double())
        assert apart(model, folded) < EXACT, (source, target)
    assert apart(folded, fold_into(folded, gpt(MergedOV, **settings).double())) < EXACT


def test_what_was_folded_out_folds_back() -> None:
    model = loud(gpt(PerHead, bias=True))
    wide = fold_into(model, gpt(MergedOV, bias=True).double())
    assert apart(model, fold_into(wide, gpt(NoProjection, bias=True).double())) < EXACT


def test_a_fold_that_would_change_the_function_is_refused() -> None:
    with pytest.raises(Inexact, match=r"layer 0: .*no place"):
        fold_into(loud(gpt(Dense)), gpt(NoProjection).double())
    with pytest.raises(Inexact, match="no fixed matrix"):
        fold_into(loud(gpt(Gate)), gpt(MergedOV).double())
    with pytest.raises(Inexact, match="not learned"):
        fold_into(loud(gpt(PerHead, value="identity")), gpt(NoProjection).double())
    shaped = {"scores": "shaped", "bias": True}
    with pytest.raises(Inexact, match="arrive whole"):
        fold_into(loud(gpt(PerHead, **shaped)), gpt(NoProjection, **shaped).double())
    with pytest.raises(Inexact, match="share one W_V"):
        fold_into(loud(gpt(PerHead, qkv="split")), gpt(NoProjection, qkv="split").double())


def test_one_map_for_all_heads_folds_where_heads_share_their_values() -> None:
    model = loud(gpt(SharedHead, qkv="split"))
    assert apart(model, fold_into(model, gpt(NoProjection, qkv="split").double())) < EXACT


@pytest.mark.parametrize("qkv", ["fused", "split"])
@pytest.mark.parametrize("make", [Dense, PerHead])
def test_value_biases_go_into_the_output_bias(make: type[FcOut], qkv: str) -> None:
    model = loud(gpt(make, bias=True, qkv=qkv))
    folded = fold_value_bias(model)
    assert apart(model, folded) < EXACT
    for attention in attentions(folded):
        values = attention.qkv.map.bias
        assert values is not None
        assert not values[2 * len(values) // 3 :].any()


@pytest.mark.parametrize(
    ("make", "settings", "why"),
    [
        (Dense, {}, "have no bias"),
        (NoProjection, {"bias": True}, "no output bias"),
        (Gate, {"bias": True}, "no fixed matrix"),
        (Dense, {"bias": True, "scores": "shaped"}, "shaped"),
    ],
)
def test_a_value_bias_that_cannot_move_stays(make: type[FcOut], settings: dict, why: str) -> None:
    with pytest.raises(Inexact, match=why):
        fold_value_bias(loud(gpt(make, **settings)))


def test_only_what_holds_nothing_takes_folds() -> None:
    takes = {make: can_take(attentions(gpt(make, bias=True))[0].fc_out) for make in (NoProjection, MergedOV, Dense)}
    assert takes == {NoProjection: True, MergedOV: True, Dense: False}
