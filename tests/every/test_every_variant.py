"""What holds for every variant of fc_out that `configs/fc_out` offers, under every kind of attention."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import replace
from functools import cache
from typing import cast

import pytest
import torch
from torch import Tensor

from mha_ablate.build import counted_cost, counted_work, fc_out_maker, matched, model_of, optimizer_of
from mha_ablate.config.catalog import choice_names, choices
from mha_ablate.config.compose import compose
from mha_ablate.config.schema import RunConfig
from mha_ablate.cost.count import forward_flops, parameters
from mha_ablate.errors import RequestError
from mha_ablate.formula import formulas, value_of
from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.gpt import GPT
from tests.unit.small import blocks, fc_outs, rms

VARIANTS = choice_names("fc_out")
ATTENTIONS = choice_names("attention")
INITS = choice_names("init")
VOCAB = 13
SMALL = (
    "model.d_model=64",
    "model.n_layers=2",
    "model.n_heads=4",
    "model.context=16",
    "trainer.device=cpu",
    "trainer.precision=fp32",
)

variant = pytest.mark.parametrize("variant", VARIANTS)
attention = pytest.mark.parametrize("attention", ATTENTIONS)
bias = pytest.mark.parametrize("bias", ["false", "true"], ids=["no_bias", "bias"])
init = pytest.mark.parametrize("init", INITS)
start = pytest.mark.parametrize(  # every init under one attention, every attention under one init
    ("attention", "init"),
    [("fused", name) for name in INITS] + [(name, "gpt2") for name in ATTENTIONS if name != "fused"],
)


@cache
def composed(*overrides: str) -> RunConfig:
    return compose([*SMALL, *overrides]).config


def config_of(variant: str, attention: str, *overrides: str) -> RunConfig:
    """What compose gives for all of them together; it takes long, so parts that recur are composed once."""
    own = [o for o in overrides if "fc_out" in o]
    rest = [o for o in overrides if "fc_out" not in o]
    return replace(composed(f"attention={attention}", *rest), fc_out=composed(f"fc_out={variant}", *own).fc_out)


def ids(seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (4, 16), generator=torch.Generator().manual_seed(seed))


def class_of(variant: str) -> type[FcOut]:
    return type(fc_outs(model_of(config_of(variant, "fused"), VOCAB, "meta"))[0])


def doc_of(variant: str) -> str:
    """In one line."""
    return " ".join((inspect.getdoc(class_of(variant)) or "").split())


def keeps_width(variant: str) -> bool:
    return "Legal only where n_heads x head_dim = d_model" in doc_of(variant)


def test_there_are_variants_and_attentions() -> None:
    assert {"dense", "none", "per_head"} <= set(VARIANTS)
    assert set(ATTENTIONS) == {"fused", "split", "tutorial"}


@variant
@attention
@bias
def test_it_builds_and_maps_ids_to_logits(variant: str, attention: str, bias: str) -> None:
    model = model_of(config_of(variant, attention, f"model.bias={bias}"), VOCAB)
    logits = model(ids())
    assert logits.shape == (4, 16, VOCAB)
    assert logits.isfinite().all()
    assert all(isinstance(f, FcOut) for f in fc_outs(model))


@variant
@attention
@bias
def test_a_gradient_reaches_every_parameter(variant: str, attention: str, bias: str) -> None:
    config = config_of(variant, attention, f"model.bias={bias}")
    model = model_of(config, VOCAB)
    model.loss(ids(), ids(1)).backward()
    if any(fc_out.start_gain == 0 for fc_out in fc_outs(model)):  # a silent branch hears nothing before it has spoken
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in fc_outs(model)[0].parameters())
        model.zero_grad()
        optimizer = optimizer_of(config, model, torch.float32)
        for _ in range(2):
            model.loss(ids(), ids(1)).backward()
            optimizer.step(1e-3, 1.0)
        model.loss(ids(), ids(1)).backward()
    for name, p in model.named_parameters():
        if not p.requires_grad:
            assert "fc_out" in name, name
            assert p.grad is None, name
            continue
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


@variant
@attention
def test_it_looks_at_no_token_to_come(variant: str, attention: str) -> None:
    model = model_of(config_of(variant, attention), VOCAB).double()
    before = ids()
    after = before.clone()
    after[:, 9] = (after[:, 9] + 1) % VOCAB
    change = (model(after) - model(before)).abs().amax(dim=-1)
    assert change[:, :9].max() < 1e-12
    assert change[:, 9].min() > 1e-9


@variant
@attention
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_steps_of_training_stay_finite_and_lower_the_loss(variant: str, attention: str, precision: str) -> None:
    config = config_of(variant, attention, f"trainer.precision={precision}")
    model = model_of(config, VOCAB)
    optimizer = optimizer_of(config, model, torch.bfloat16 if precision == "bf16" else torch.float32)
    losses = []
    for _ in range(2):
        loss = model.loss(ids(), ids(1))
        loss.backward()
        optimizer.step(4e-3, 1.0)
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(model.loss(ids(), ids(1)).item())
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[0] > losses[1] > losses[2]
    optimizer.release()
    assert all(p.isfinite().all() for p in model.parameters())


@variant
@start
def test_its_start_gain_is_what_is_measured(variant: str, attention: str, init: str) -> None:
    sizes = ("model.d_model=128", "model.n_layers=2", "model.d_ff=1", "model.bias=true", f"init={init}")
    model = model_of(config_of(variant, attention, *sizes), VOCAB)
    stream = torch.Generator().manual_seed(0)
    for fc_out in fc_outs(model):
        with torch.no_grad():  # an init may have biases that are not 0, which are no part of a gain
            for name, p in fc_out.named_parameters():
                if name == "bias" or name.endswith("map.bias") or name.endswith("up.bias"):
                    p.zero_()
        z_BTHV = torch.randn(8, 32, 4, fc_out.value_width, generator=stream)
        y_BTC = fc_out(z_BTHV, torch.randn(8, 32, 128, generator=stream))
        assert y_BTC.shape == (8, 32, 128)
        assert rms(y_BTC) / rms(z_BTHV) == pytest.approx(fc_out.start_gain, rel=0.05)


SAME_AS_DENSE = {  # starts that are the treatment, where dense's own gain happens to be theirs
    ("zero_init", "zero_out"),
    *((name, init) for name in ("identity_init", "skip_gain") for init in ("flax", "nn_transformer", "t5", "xavier")),
}


@variant
@start
def test_it_starts_with_denses_gain_unless_nothing_is_learned_or_the_start_is_the_treatment(
    variant: str, attention: str, init: str
) -> None:
    treatment = "start is the treatment" in doc_of(variant)
    for fc_out in fc_outs(model_of(config_of(variant, attention, f"init={init}"), VOCAB)):
        dense = pytest.approx(fc_out.place.dense_gain)
        if treatment:
            assert (fc_out.start_gain == dense) is ((variant, init) in SAME_AS_DENSE)
        elif any(True for p in fc_out.parameters() if p.requires_grad):
            assert fc_out.start_gain == dense
        else:
            assert fc_out.start_gain in (dense, pytest.approx(1.0))


@variant
@init
def test_it_trains_under_every_init_and_all_of_it_moves(variant: str, init: str) -> None:
    """Where the last map of a branch starts at 0, the maps before it get their first gradient after the first step."""
    config = config_of(variant, "fused", f"init={init}", "model.bias=true", "model.n_layers=1", "model.d_model=32")
    model = model_of(config, VOCAB)
    optimizer = optimizer_of(config, model, torch.float32)
    losses, heard = [], set[str]()
    for _ in range(4):
        loss = model.loss(ids(), ids(1))
        losses.append(loss.item())
        loss.backward()
        heard |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step(2e-3, 1.0)
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    assert heard == {n for n, p in model.named_parameters() if p.requires_grad}


@variant
def test_what_starts_at_0_is_matched_by_no_constant_and_a_learned_scale_trains(variant: str) -> None:
    silent = class_of(variant)(Place(64, 4, 16, 2, 0, False, 64)).start_gain == 0
    matched = config_of(variant, "fused", "init=zero_out", "attention.branch_scale=matched")
    with pytest.raises(RequestError, match=r"^attention\.branch_scale=matched") as caught:
        model_of(matched, VOCAB)
    assert "\n" not in str(caught.value)
    learned = config_of(variant, "fused", "init=zero_out", "attention.branch_scale=learned")
    if silent or fc_outs(model_of(config_of(variant, "fused", "init=zero_out"), VOCAB))[0].start_gain == 0:
        with pytest.raises(
            RequestError, match=r"^attention\.branch_scale=learned .* starts at 0: use 1\.0, or another init$"
        ):
            model_of(learned, VOCAB)
        return
    model = model_of(learned, VOCAB)
    scales = [block.attention.scale for block in blocks(model)]
    assert all(s is not None and s.item() == 0 for s in scales)
    optimizer = optimizer_of(learned, model, torch.float32)
    for _ in range(2):
        model.loss(ids(), ids(1)).backward()
        optimizer.step(1e-3, 1.0)
    assert all(s is not None and s.abs().item() > 0 for s in scales)


@variant
@attention
def test_matched_makes_its_branch_start_as_loud_as_any_others(variant: str, attention: str) -> None:
    plain = model_of(config_of(variant, attention), VOCAB)
    config = config_of(variant, attention, "attention.branch_scale=matched")
    if fc_outs(plain)[0].start_gain == 0:
        with pytest.raises(RequestError, match=r"attention.branch_scale=matched .* starts at 0"):
            model_of(config, VOCAB)
        return
    scaled = model_of(config, VOCAB)
    for one, other in zip(blocks(plain), blocks(scaled), strict=True):
        factor = one.attention.fc_out.place.dense_gain / one.attention.fc_out.start_gain
        x_BTC = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(other.attention(x_BTC, None), factor * one.attention(x_BTC, None))


@variant
@attention
@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_flops_of_a_long_context_are_told_by_short_ones(variant: str, attention: str, positions: str) -> None:
    config = config_of(variant, attention, "model.context=200", f"model.positions={positions}")
    fused = model_of(config, VOCAB, explicit=False)
    direct = forward_flops(lambda: fused(torch.zeros((1, 200), dtype=torch.long))) / 200
    assert counted_work(config, VOCAB)["flops_per_token"] == direct
    meta = model_of(config, VOCAB, "meta", explicit=False)
    assert forward_flops(lambda: meta(torch.zeros((3, 200), dtype=torch.long, device="meta"))) / 600 == direct


@variant
@attention
@bias
def test_its_parameters_are_the_same_in_number_with_values_and_without(variant: str, attention: str, bias: str) -> None:
    config = config_of(variant, attention, f"model.bias={bias}")
    real, meta = model_of(config, VOCAB), model_of(config, VOCAB, "meta")
    assert all(p.is_meta for p in meta.parameters())
    assert {n: p.shape for n, p in meta.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    assert parameters(meta) == parameters(real) == counted_cost(config, VOCAB)["params"]


@variant
@attention
def test_it_starts_the_same_every_time_and_shares_the_rest_with_the_baseline(variant: str, attention: str) -> None:
    def tensors(name: str) -> dict[str, Tensor]:
        return {n: p.detach() for n, p in model_of(config_of(name, attention), VOCAB).named_parameters()}

    torch.manual_seed(1)
    one = tensors(variant)
    torch.manual_seed(2)
    two, dense = tensors(variant), tensors("dense")
    for name, tensor in one.items():
        assert tensor.isfinite().all(), name
        assert torch.equal(tensor, two[name]), name
        if name not in dense or dense[name].shape != tensor.shape:
            continue
        if "fc_out" in name and variant not in (
            "dense",
            "none",
            "per_head",
        ):  # dense's draws, louder where they must be
            torch.testing.assert_close(tensor / rms(tensor), dense[name] / rms(dense[name]))
        else:
            assert torch.equal(tensor, dense[name]), name
    assert {name for name in dense if "fc_out" not in name} <= one.keys()


@variant
@attention
def test_the_mlp_can_make_up_for_its_parameters(variant: str, attention: str) -> None:
    baseline = config_of("dense", attention)
    arm = matched(replace(config_of(variant, attention), match="params"), baseline, VOCAB)
    counts = [parameters(model_of(c, VOCAB, "meta"), trained=True) for c in (arm, baseline)]
    assert counts[0] == pytest.approx(counts[1], rel=0.005)


@variant
def test_its_docstring_opens_with_a_formula_and_says_what_it_costs(variant: str) -> None:
    text = inspect.getdoc(class_of(variant)) or ""
    first = text.partition("\n")[0]
    assert re.match(r"y(_\w+)? = ", first)
    for line in ("Parameters: ", "FLOPs: ", "Class: ", "Source: "):
        assert len(re.findall(f"^{line}", text, flags=re.MULTILINE)) == 1, line
    assert formulas(text)
    listed = {choice.name: choice.meaning for choice in choices("fc_out")}
    assert listed[variant] == first


def sizes_of(fc_out: FcOut) -> dict[str, float]:
    """What the letters in a formula stand for."""
    p = fc_out.place
    own = {"r": "rank", "g": "groups", "B": "block"}
    given = {letter: getattr(fc_out, name) for letter, name in own.items() if hasattr(fc_out, name)}
    return {"d": p.d_model, "C": p.d_model, "H": p.n_heads, "D": p.head_dim, "L": p.n_layers, **given}


@variant
@attention
@pytest.mark.parametrize(
    "sizes",
    [
        ["d_model=64", "n_heads=4", "n_layers=2"],
        ["d_model=96", "n_heads=2", "n_layers=3"],
        ["d_model=64", "n_heads=2", "n_layers=2", "head_dim=8"],
    ],
    ids="-".join,
)
def test_the_formulas_in_its_docstring_are_what_it_costs(variant: str, attention: str, sizes: list[str]) -> None:
    overrides = [f"model.{size}" for size in sizes]
    for setting, by_key in formulas(inspect.getdoc(class_of(variant)) or "").items():
        config = config_of(variant, attention, *overrides, *([f"fc_out.{setting}"] if setting else []))
        if keeps_width(variant) and "head_dim=8" in sizes:
            with pytest.raises(RequestError, match="cannot align"):
                model_of(config, VOCAB)
            continue
        placed = fc_outs(model_of(config, VOCAB))
        assert {k: value_of(f, sizes_of(placed[-1])) for k, f in by_key.items()} == counted(placed), setting


def counted(placed: list[FcOut]) -> dict[str, float]:
    """What the last of these costs by token; a tensor that layers share counts once and is spread over all."""
    own = list(torch.nn.ModuleList(placed).parameters())
    trained, frozen = (sum(p.numel() for p in own if p.requires_grad is kind) for kind in (True, False))
    fc_out, place = placed[-1], placed[-1].place
    z_BTHV, x_BTC = torch.randn(2, 5, place.n_heads, fc_out.value_width), torch.randn(2, 5, place.d_model)
    return {
        "Parameters": trained / len(placed),
        "Frozen": frozen / len(placed),
        "FLOPs": forward_flops(lambda: fc_out(z_BTHV, x_BTC)) / 10,
        "Elementwise": fc_out.elementwise_flops,
    }


@variant
def test_settings_that_it_does_not_take_are_refused_in_one_line(variant: str) -> None:
    for override in ("+fc_out.no_such_setting=1", "+fc_out.place=1"):
        with pytest.raises(RequestError) as caught:
            model_of(config_of(variant, "fused", override), VOCAB, "meta")
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith("fc_out: ")
        assert class_of(variant).__name__ in message
        assert override.partition("=")[0].rpartition(".")[2] in message


@variant
@attention
@pytest.mark.parametrize("head_dim", [8, 24])
def test_where_the_heads_do_not_add_up_to_d_model_it_works_or_says_why_not(
    variant: str, attention: str, head_dim: int
) -> None:
    config = config_of(variant, attention, f"model.head_dim={head_dim}")
    try:
        model = model_of(config, VOCAB)
    except RequestError as error:
        assert_says_why(str(error), variant, head_dim)
    else:
        assert model(ids()).shape == (4, 16, VOCAB)


@variant
def test_it_refuses_a_width_that_it_keeps_by_its_own_name_and_no_other(variant: str) -> None:
    config = config_of(variant, "fused", "model.head_dim=8")
    if keeps_width(variant):
        with pytest.raises(RequestError, match=f"fc_out={variant} cannot align"):
            model_of(config, VOCAB, "meta")
    else:
        assert model_of(config, VOCAB, "meta")


def assert_says_why(message: str, variant: str, head_dim: int) -> None:
    """One line: the variant, the numbers that do not fit, and what to do instead."""
    assert "\n" not in message
    assert f"fc_out={variant}" in message
    assert f"n_heads x head_dim = 4 x {head_dim} = {4 * head_dim}" in message
    assert "d_model = 64" in message
    assert "use fc_out=dense" in message


@pytest.mark.parametrize("variant", ["none", "per_head"])
@attention
@pytest.mark.parametrize("head_dim", [8, 24])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_none_and_per_head_refuse_heads_that_do_not_add_up_to_d_model(
    variant: str, attention: str, head_dim: int, device: str
) -> None:
    with pytest.raises(RequestError) as caught:
        model_of(config_of(variant, attention, f"model.head_dim={head_dim}"), VOCAB, device)
    assert_says_why(str(caught.value), variant, head_dim)


@attention
@pytest.mark.parametrize("head_dim", [8, 24])
def test_dense_is_what_makes_another_head_dim_possible(attention: str, head_dim: int) -> None:
    model = model_of(config_of("dense", attention, f"model.head_dim={head_dim}"), VOCAB)
    weight = cast(torch.nn.Parameter, fc_outs(model)[0].get_parameter("map.weight"))
    assert weight.shape == (64, 4 * head_dim)
    assert model(ids()).isfinite().all()


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("os.system", "is not below mha_ablate.model.fc_out."),
        ("mha_ablate.model.gpt.GPT", "is not below mha_ablate.model.fc_out."),
        ("mha_ablate.model.fc_out.nowhere.Nothing", "cannot be imported"),
        ("mha_ablate.model.fc_out.dense.Nothing", "cannot be imported"),
        ("mha_ablate.model.fc_out.base.Place", "is no variant of FcOut"),
        ("mha_ablate.model.fc_out.dense.Linear", "is no variant of FcOut"),
    ],
)
def test_what_is_no_variant_is_refused(target: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        fc_out_maker({"_target_": target})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["mha_ablate.model.fc_out.base.FcOut", "mha_ablate.model.fc_out.FcOut"])
def test_the_base_class_is_no_variant(target: str) -> None:
    with pytest.raises(RequestError):
        fc_out_maker({"_target_": target})


@variant
def test_it_knows_the_place_it_was_given(variant: str) -> None:
    model: GPT = model_of(config_of(variant, "fused", "model.bias=true"), VOCAB, "meta")
    for i, place in enumerate(f.place for f in fc_outs(model)):
        starts = place.starts
        assert starts is not None
        assert place == Place(64, 4, 16, 2, layer=i, bias=True, value_inputs=64, starts=starts)
