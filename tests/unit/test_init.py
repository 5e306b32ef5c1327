"""Weights start by name: arms of one seed share what both have, and learned projections start with dense's gain."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.fc_out.dense import Dense
from mha_ablate.model.fc_out.none import NoProjection
from mha_ablate.model.fc_out.per_head import PerHead
from mha_ablate.model.gpt import GPT
from mha_ablate.model.init import Distribution, Draw, initialise
from mha_ablate.model.layers import Linear
from tests.unit.small import SIZES, gpt, rms

Build = Callable[[int], GPT]

ARMS: dict[str, Build] = {
    "dense": lambda seed: gpt(Dense, init_seed=seed),
    "none": lambda seed: gpt(NoProjection, init_seed=seed),
    "per_head": lambda seed: gpt(PerHead, init_seed=seed),
    "none_mlp": lambda seed: gpt(NoProjection, init_seed=seed, d_ff=40),
    "none_scaled": lambda seed: gpt(NoProjection, init_seed=seed, branch_scale="matched"),
    "three_layers_of_dense": lambda seed: gpt(Dense, init_seed=seed, n_layers=3),
}


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(list(ARMS)[:5], 2)))
def test_arms_of_one_seed_share_every_tensor_of_equal_name_and_shape_bit_for_bit(
    one: str, other: str, seed: int
) -> None:
    a, b = tensors(ARMS[one](seed)), tensors(ARMS[other](seed))
    shared = {name for name in a.keys() & b.keys() if a[name].shape == b[name].shape}
    for name in shared:
        assert torch.equal(a[name], b[name]), name
    # All but fc_out's own and, where d_ff differs, the MLP's.
    outside = {name for name in a.keys() | b.keys() if "fc_out" not in name}
    of_other_width = {name for name in outside if "mlp" in name and "norm" not in name}
    assert shared >= outside - (of_other_width if "none_mlp" in (one, other) else set())


def test_a_layer_more_leaves_all_but_the_ends_of_branches_as_they_were() -> None:
    a, b = tensors(ARMS["dense"](0)), tensors(ARMS["three_layers_of_dense"](0))
    for name in a:
        ends_branch = "fc_out" in name or "down" in name
        factor = math.sqrt(2 / 3) if ends_branch else 1.0
        torch.testing.assert_close(b[name], a[name] * factor, rtol=1e-6 if ends_branch else 0, atol=0)


@pytest.mark.parametrize("arm", list(ARMS))
def test_another_seed_draws_every_matrix_anew(arm: str) -> None:
    a, b = tensors(ARMS[arm](0)), tensors(ARMS[arm](1))
    for name, tensor in a.items():
        if tensor.dim() >= 2:
            assert not torch.equal(tensor, b[name]), name
            assert (tensor == b[name]).float().mean() < 0.01, name


def test_no_two_tensors_of_a_model_share_their_draws() -> None:
    firsts = [(p / p.std()).flatten()[:8] for p in tensors(gpt(PerHead, n_layers=3)).values() if p.dim() >= 2]
    for a, b in itertools.combinations(firsts, 2):
        assert not torch.allclose(a, b, atol=1e-3)


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = tensors(gpt())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    torch.rand(5)
    b = tensors(gpt())
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_order_in_which_arms_are_built_does_not_matter() -> None:
    forward = {arm: tensors(build(3)) for arm, build in ARMS.items()}
    backward = {arm: tensors(build(3)) for arm, build in reversed(ARMS.items())}
    for arm, found in forward.items():
        assert all(torch.equal(found[name], backward[arm][name]) for name in found)


def test_the_order_of_modules_inside_a_model_does_not_matter() -> None:
    def made(order: tuple[str, ...]) -> nn.Module:
        parts = nn.ModuleDict({name: Linear(4, 4, bias=True, start=Distribution("normal", 0.02)) for name in order})
        initialise(parts, 5)
        return parts

    a, b = tensors(made(("up", "down"))), tensors(made(("down", "up")))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_draw_is_keyed_by_seed_and_dotted_name_and_nothing_else() -> None:
    def drawn(seed: int, prefix: str, name: str) -> Tensor:
        tensor = torch.empty(6)
        Draw(seed, prefix).fill(name, tensor, Distribution("normal", 1.0))
        return tensor

    assert torch.equal(drawn(1, "a.b", "weight"), drawn(1, "a", "b.weight"))
    assert torch.equal(drawn(1, "", "weight"), drawn(1, "", "weight"))
    others = [drawn(1, "a", "weight"), drawn(2, "a", "weight"), drawn(1, "b", "weight"), drawn(1, "a", "bias")]
    for one, other in itertools.combinations(others, 2):
        assert not torch.allclose(one, other)


def test_weights_have_gpt2s_standard_deviations() -> None:
    model = tensors(gpt(d_model=128, n_heads=4, n_layers=4, d_ff=512, vocab_size=96, context=64, bias=True))
    for name, tensor in model.items():
        if tensor.dim() >= 2:
            end = "fc_out" in name or "down" in name
            expected = 0.02 / math.sqrt(8) if end else 0.02
            assert tensor.std().item() == pytest.approx(expected, rel=0.05), name
            assert tensor.mean().item() == pytest.approx(0.0, abs=expected / 20), name
        else:
            gain = "norm" in name and name.endswith("weight")
            assert (tensor == (1.0 if gain else 0.0)).all(), name


def test_no_weight_is_left_as_the_allocator_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **kw: plain(*shape, **kw).fill_(math.nan))
    for make in (Dense, NoProjection, PerHead):
        for kind in ("layernorm", "rmsnorm"):
            model = gpt(make, bias=True, tied_embedding=False, norm_kind=kind)
            assert all(p.isfinite().all() for p in tensors(model).values())


def test_on_the_meta_device_nothing_is_drawn() -> None:
    with torch.device("meta"):
        model = gpt(PerHead, bias=True, positions="sinusoidal")
    assert all(p.is_meta for p in model.parameters())
    assert {n: p.shape for n, p in tensors(model).items()} == {
        n: p.shape for n, p in tensors(gpt(PerHead, bias=True, positions="sinusoidal")).items()
    }


# ---- gain at the start


SETTINGS: list[dict[str, Any]] = [
    {"d_model": 128, "n_heads": 4, "n_layers": 4},
    {"d_model": 128, "n_heads": 1, "n_layers": 1},
    {"d_model": 128, "n_heads": 8, "n_layers": 2},
]


def measured_gain(
    make: type[FcOut], *, d_model: int, n_heads: int, n_layers: int, head_dim: int | None = None
) -> float:
    """rms(y) / rms(z) of an fc_out as a model of this size starts it, for random z."""
    head_dim = head_dim or d_model // n_heads
    fc_out = make(Place(d_model, n_heads, head_dim, n_layers, layer=0, bias=False, value_inputs=128))
    initialise(fc_out, 0)
    stream = torch.Generator().manual_seed(0)
    z = torch.randn(8, 64, n_heads, head_dim, generator=stream)
    return rms(fc_out(z, torch.randn(8, 64, d_model, generator=stream))) / rms(z)


@pytest.mark.parametrize("sizes", SETTINGS)
@pytest.mark.parametrize("make", [Dense, PerHead])
def test_every_learned_projection_starts_with_denses_gain(make: type[FcOut], sizes: dict[str, Any]) -> None:
    expected = 0.02 / math.sqrt(2 * sizes["n_layers"]) * math.sqrt(128)
    place = Place(
        128, sizes["n_heads"], 128 // sizes["n_heads"], sizes["n_layers"], layer=0, bias=False, value_inputs=128
    )
    assert make(place).start_gain == pytest.approx(expected)
    assert measured_gain(make, **sizes) == pytest.approx(expected, rel=0.04)


def test_denses_gain_counts_the_width_of_z_where_that_is_not_d_model() -> None:
    gain = measured_gain(Dense, d_model=128, n_heads=4, n_layers=2, head_dim=64)
    assert gain == pytest.approx(0.02 / 2 * math.sqrt(256), rel=0.04)
    assert Place(128, 4, 64, 2, 0, False, 128).dense_gain == pytest.approx(0.02 / 2 * math.sqrt(256))


@pytest.mark.parametrize("sizes", SETTINGS)
def test_no_projection_has_gain_one(sizes: dict[str, Any]) -> None:
    assert measured_gain(NoProjection, **sizes) == pytest.approx(1.0, abs=1e-6)
    place = Place(
        128, sizes["n_heads"], 128 // sizes["n_heads"], sizes["n_layers"], layer=0, bias=False, value_inputs=128
    )
    assert NoProjection(place).start_gain == 1.0


def test_without_a_projection_the_branch_starts_about_twelve_times_louder_at_nanos_size() -> None:
    assert Place(128, 4, 32, 4, 0, False, 128).dense_start == Distribution("normal", 0.02 / math.sqrt(8))
    assert Place(128, 4, 32, 4, 0, False, 128).dense_gain == pytest.approx(0.08)
    assert 1 / Place(128, 4, 32, 4, 0, False, 128).dense_gain == pytest.approx(12.5)


def test_small_sizes_are_those_the_arms_assume() -> None:
    assert (SIZES["d_model"], SIZES["n_layers"]) == (16, 2)
