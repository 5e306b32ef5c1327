"""The seam of fc_out is as wide as the catalogue: variants that need each part of it, and the fold of per_head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from mha_ablate.cost.count import parameters
from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.fc_out.dense import Dense
from mha_ablate.model.fc_out.gate import Gate
from mha_ablate.model.fc_out.merged_ov import MergedOV
from mha_ablate.model.fc_out.none import NoProjection
from mha_ablate.model.fc_out.per_head import PerHead
from mha_ablate.model.fc_out.tied import Tied
from mha_ablate.model.gpt import GPT
from mha_ablate.model.init import GPT2
from mha_ablate.model.layers import Linear
from mha_ablate.run.checkpoint import load_weights, save_weights
from mha_ablate.run.folder import RunFolder
from tests.unit.small import adamw, blocks, fc_outs, gpt, ids_of, inputs_of, loud

BOTH = pytest.mark.parametrize("qkv", ["fused", "split"])


def shared_by_all(place: Place) -> Tied:
    """One W_O for all layers."""
    return Tied(place, to="layers")


class EvenLayersOnly(FcOut):
    """y = W z in layers 0, 2, ..., y = z in the others."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        even = place.layer % 2 == 0
        self.map = Linear(place.width, place.d_model, bias=False, start=place.dense_start) if even else None

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:
        z = z_BTHV.flatten(-2)
        return z if self.map is None else self.map(z)


Maker = Callable[[Place], FcOut]
MAKERS: list[Maker] = [Gate, Tied, MergedOV, shared_by_all, EvenLayersOnly]


# ---- each of them trains


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@BOTH
@pytest.mark.parametrize("make", MAKERS)
def test_a_variant_trains(make: Maker, qkv: str, dtype: torch.dtype) -> None:
    model = gpt(make, qkv=qkv, n_layers=3)
    optimizer = adamw(model, dtype)
    before = optimizer.master.clone()
    assert all(p.dtype == dtype for p in model.parameters())
    ids = ids_of(model, rows=4)
    targets = ids.roll(-1, dims=1)
    losses = []
    for _ in range(2):
        loss = model.loss(ids, targets)
        loss.backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().max() > 0, name
        optimizer.step(1e-2, 1.0)
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(model.loss(ids, targets).item())
    assert losses[0] > losses[1] > losses[2]
    assert (optimizer.master != before).float().mean() > 0.9
    optimizer.release()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.loss(ids, targets).item() == pytest.approx(losses[2], abs=0.03)


@BOTH
@pytest.mark.parametrize("make", MAKERS)
def test_a_variant_is_the_same_model_under_both_ways_of_attending(make: Maker, qkv: str) -> None:
    explicit, sdpa = (loud(gpt(make, qkv=qkv, explicit_attention=e)) for e in (True, False))
    ids = ids_of(explicit)
    torch.testing.assert_close(explicit(ids), sdpa(ids), rtol=1e-11, atol=1e-11)


# ---- what each of them asks of the seam


@BOTH
def test_a_gate_reads_the_sublayers_normed_input(qkv: str) -> None:
    model = loud(gpt(Gate, qkv=qkv, n_layers=1))
    block = blocks(model)[0]
    gate = cast(Gate, block.attention.fc_out)
    x_BTC = torch.randn(2, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normed = block.norm_attention(x_BTC)
    kept = inputs_of(gate.gate)
    block(x_BTC, None)
    torch.testing.assert_close(kept[0], normed)


@BOTH
def test_a_tied_projection_sends_gradients_to_the_value_weights_through_both_uses(qkv: str) -> None:
    model = loud(gpt(Tied, qkv=qkv))
    ids, targets = ids_of(model), ids_of(model, seed=1)

    def loss() -> Tensor:  # in float64, unlike GPT.loss
        return nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    weights = [b.attention.qkv.map.weight for b in blocks(model)]
    whole = torch.autograd.grad(loss(), weights)
    value_weights = [b.attention.qkv.value_weight for b in blocks(model)]
    as_output = [w().detach().requires_grad_() for w in value_weights]
    for fc_out, leaf in zip(fc_outs(model), as_output, strict=True):
        cast(Tied, fc_out).value_weight = lambda leaf=leaf: leaf
    *through_values, g0, g1 = torch.autograd.grad(loss(), [*weights, *as_output])
    for i, g_HVC in enumerate((g0, g1)):
        through_output = torch.autograd.grad(value_weights[i](), weights[i], g_HVC)[0]
        assert through_values[i].abs().max() > 1e-4
        assert through_output.abs().max() > 1e-4
        torch.testing.assert_close(whole[i], through_values[i] + through_output, rtol=1e-9, atol=1e-12)


@BOTH
def test_a_tied_projection_follows_the_value_weights_as_they_train(qkv: str) -> None:
    model = gpt(Tied, qkv=qkv)
    optimizer = adamw(model, torch.bfloat16)
    model.loss(ids_of(model), ids_of(model, seed=1)).backward()
    optimizer.step(1e-2, 0.0)
    optimizer.release()
    for block in blocks(model):
        assert torch.equal(cast(Tied, block.attention.fc_out).value_weight(), block.attention.qkv.value_weight())


@BOTH
def test_merged_ov_gets_values_as_wide_as_the_embedding(qkv: str) -> None:
    model = gpt(MergedOV, qkv=qkv)
    rows = 2 * (8 + 8 + 16) if qkv == "fused" else 8 + 8 + 16
    for block in blocks(model):
        assert block.attention.qkv.map.weight.shape[0] == rows
        assert block.attention.qkv.value_weight().shape == (2, 16, 16)
    assert model(ids_of(model)).shape == (3, 8, 11)


def test_merged_ov_contains_dense() -> None:
    """W_V,h' = W_O,h W_V,h gives the same function, so the seam leaves nothing out."""
    dense, merged = loud(gpt(Dense)), loud(gpt(MergedOV))
    with torch.no_grad():
        copy_common(dense, merged)
        for one, other in zip(blocks(dense), blocks(merged), strict=True):
            w_o_CHV = cast(Dense, one.attention.fc_out).map.weight.view(16, 2, 8)
            scale = one.attention.fc_out.place.dense_gain / 2**0.5
            merged_HCX = torch.einsum("chv,hvx->hcx", w_o_CHV / scale, one.attention.qkv.value_weight())
            q_and_k = one.attention.qkv.map.weight[: 2 * 2 * 8]
            other.attention.qkv.map.weight.copy_(torch.cat((q_and_k, merged_HCX.flatten(0, 1))))
    ids = ids_of(dense)
    torch.testing.assert_close(merged(ids), dense(ids), rtol=0, atol=1e-10)


@BOTH
def test_one_projection_shared_by_all_layers_is_one_parameter(qkv: str) -> None:
    shared, dense = (gpt(make, qkv=qkv, n_layers=3) for make in (shared_by_all, Dense))
    first, *others = (f.get_parameter("map.weight") for f in fc_outs(shared))
    assert all(w is first for w in others)
    assert parameters(shared) == parameters(dense) - 2 * 16 * 16
    assert parameters(shared, "fc_out") == 16 * 16
    optimizer = adamw(shared)
    assert optimizer.master.numel() == parameters(shared)
    assert len({f.get_parameter("map.weight").data_ptr() for f in fc_outs(shared)}) == 1


def test_layers_below_are_handed_over_first_layer_first() -> None:
    met: list[tuple[int, list[int]]] = []

    class Nosy(NoProjection):
        def connect(self, value_weight: Callable[[], Tensor], earlier: Sequence[FcOut]) -> None:
            met.append((self.place.layer, [e.place.layer for e in earlier]))

    gpt(Nosy, n_layers=3)
    assert met == [(0, []), (1, [0]), (2, [0, 1])]


@BOTH
@pytest.mark.parametrize("make", MAKERS)
def test_weights_survive_the_checkpoint(make: Maker, qkv: str, tmp_path: Path) -> None:
    model = gpt(make, qkv=qkv, n_layers=3)
    optimizer = adamw(model, torch.bfloat16)
    ids = ids_of(model)
    model.loss(ids, ids.roll(-1, dims=1)).backward()
    optimizer.step(1e-2, 1.0)
    optimizer.release()
    folder = RunFolder(tmp_path)
    save_weights(folder.last_file, model, {"arm": "mine"})

    other = gpt(make, qkv=qkv, n_layers=3, init_seed=1)
    assert not torch.equal(other(ids), model(ids))
    info = load_weights(folder, other)
    assert info["arm"] == "mine"
    assert torch.equal(other(ids), model(ids))
    tied = {f"blocks.{i}.attention.fc_out.map.weight": "blocks.0.attention.fc_out.map.weight" for i in (1, 2)}
    assert info["same"] == (tied if make is shared_by_all else {})


def test_a_variant_knows_its_layer_and_the_sizes_around_it() -> None:
    model = gpt(EvenLayersOnly, n_layers=5, bias=True)
    owners = [name.split(".")[1] for name, _ in model.named_parameters() if "fc_out" in name]
    assert owners == ["0", "2", "4"]
    for layer, fc_out in enumerate(fc_outs(model)):
        starts = fc_out.place.starts
        assert fc_out.place == Place(
            d_model=16, n_heads=2, head_dim=8, n_layers=5, layer=layer, bias=True, value_inputs=16, starts=starts
        )
        assert starts is not None
        assert starts.rules is GPT2
        assert starts.sizes == {"C": 16, "H": 2, "D": 8, "K": 16, "L": 5, "F": 32, "S": 8**0.5}
        assert fc_out.place.width == 16


# ---- algebra: per_head folds into none


def copy_common(source: GPT, target: GPT) -> None:
    """Copy every parameter that both have in the same shape."""
    theirs = dict(target.named_parameters())
    with torch.no_grad():
        for name, p in source.named_parameters():
            if name in theirs and theirs[name].shape == p.shape:
                theirs[name].copy_(p)


def per_head_map(model: GPT, layer: int) -> Tensor:
    return cast(PerHead, fc_outs(model)[layer]).weight


@pytest.mark.parametrize("bias", [False, True], ids=["no_bias", "bias"])
@pytest.mark.parametrize("positions", ["learned", "rope"])
@pytest.mark.parametrize("n_heads", [1, 2, 4])
def test_under_fused_attention_per_head_folds_into_none(n_heads: int, positions: str, bias: bool) -> None:
    per_head, none = (loud(gpt(m, n_heads=n_heads, positions=positions, bias=bias)) for m in (PerHead, NoProjection))
    copy_common(per_head, none)
    ids = ids_of(per_head)
    assert (per_head(ids) - none(ids)).abs().max() > 1e-2  # before the fold they are different functions
    with torch.no_grad():
        for layer, block in enumerate(blocks(none)):
            w_HCV, qkv = per_head_map(per_head, layer), block.attention.qkv
            folded_HVC = torch.einsum("hcv,hvx->hcx", w_HCV, qkv.value_weight())
            qkv.map.weight[2 * 16 :] = folded_HVC.flatten(0, 1)
            if bias:  # attention weights sum to one, so what is added to z can be added to every value
                own = cast(PerHead, fc_outs(per_head)[layer]).bias
                assert own is not None
                assert qkv.map.bias is not None
                v_bias_HV = qkv.map.bias[2 * 16 :].view(n_heads, -1)
                qkv.map.bias[2 * 16 :] = torch.einsum("hcv,hv->hc", w_HCV, v_bias_HV).flatten() + own
    assert (per_head(ids) - none(ids)).abs().max() < 1e-10


def best_split_fold(per_head: GPT) -> tuple[GPT, float]:
    """The `none` under split attention nearest to `per_head`, and the relative error of its value maps.

    Every head's W_h W_V would have to be the one shared map; their mean is the nearest in least squares.
    """
    none = loud(gpt(NoProjection, n_heads=len(per_head_map(per_head, 0)), qkv="split"))
    copy_common(per_head, none)
    missed = wanted = 0.0
    with torch.no_grad():
        for layer, block in enumerate(blocks(none)):
            D = 16 // block.attention.qkv.n_heads
            shared_VS = block.attention.qkv.map.weight[2 * D :]
            wanted_HVS = per_head_map(per_head, layer) @ shared_VS
            best_VS = wanted_HVS.mean(0)
            shared_VS.copy_(best_VS)
            missed += (wanted_HVS - best_VS).square().sum().item()
            wanted += wanted_HVS.square().sum().item()
    return none, (missed / wanted) ** 0.5


@pytest.mark.parametrize("n_heads", [2, 4])
def test_under_split_attention_the_shared_map_cannot_carry_a_map_per_head(n_heads: int) -> None:
    per_head = loud(gpt(PerHead, n_heads=n_heads, qkv="split"))
    none, error = best_split_fold(per_head)
    ids = ids_of(per_head)
    assert error > 0.1
    assert (per_head(ids) - none(ids)).abs().max() > 1e-2


@pytest.mark.parametrize("n_heads", [1, 2, 4])
def test_under_split_attention_the_fold_works_only_where_all_heads_have_one_map(n_heads: int) -> None:
    per_head = loud(gpt(PerHead, n_heads=n_heads, qkv="split"))
    with torch.no_grad():
        for layer in range(2):
            per_head_map(per_head, layer)[:] = per_head_map(per_head, layer)[0].clone()
    none, error = best_split_fold(per_head)
    ids = ids_of(per_head)
    assert error < 1e-12
    assert (per_head(ids) - none(ids)).abs().max() < 1e-10


@pytest.mark.parametrize("make", [NoProjection, PerHead])
def test_split_attention_is_a_special_case_of_fused(make: type[FcOut]) -> None:
    """Each head's q, k and v rows of the fused map, zero outside the head's slice, give the split model."""
    split, fused = (loud(gpt(make, qkv=qkv)) for qkv in ("split", "fused"))
    copy_common(split, fused)
    with torch.no_grad():
        for one, other in zip(blocks(split), blocks(fused), strict=True):
            parts = one.attention.qkv.map.weight.split(8)
            whole = [torch.block_diag(part, part) for part in parts]
            other.attention.qkv.map.weight.copy_(torch.cat(whole))
    ids = ids_of(split)
    assert (split(ids) - fused(ids)).abs().max() < 1e-10
