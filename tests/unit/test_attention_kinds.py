"""Blocks without a skip and in parallel, identity values, shaped attention, learned scales: against their formulas."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from mha_ablate.build import model_of
from mha_ablate.config.compose import compose
from mha_ablate.errors import RequestError
from mha_ablate.model.block import Block
from mha_ablate.model.fc_out.dense import Dense
from mha_ablate.model.fc_out.none import NoProjection
from tests.unit.small import blocks, fc_outs, gpt, ids_of, loud, rms

QKVS = pytest.mark.parametrize("qkv", ["fused", "split"])
EXPLICIT = pytest.mark.parametrize("explicit", [True, False], ids=["open", "fused_kernel"])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.factor * x


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("pre", (3 + 5 * 2 * 3) + 11 * 7 * (3 + 5 * 2 * 3)),
        ("skipless", 5 * 2 * 3 + 11 * 7 * (5 * 2 * 3)),
        ("parallel", 3 + 5 * 2 * 3 + 11 * 2 * 3),
        ("post", 7 * (2 * (3 + 5 * 3) + 11 * 2 * (3 + 5 * 3))),
    ],
)
def test_a_block_is_its_formula(kind: str, wanted: float) -> None:
    """Attention = 5 x, mlp = 11 x, norm of attention = 2 x, norm of the MLP = 7 x."""
    attention, mlp = cast(Any, Times(5.0)), cast(Any, Times(11.0))
    norms = Times(2.0), None if kind == "parallel" else Times(7.0)
    block = Block(attention, mlp, norms, kind=kind, dropout=0.0)
    assert block(torch.tensor([3.0]), None).item() == wanted


@pytest.mark.parametrize("kind", ["pre", "skipless", "parallel", "post"])
def test_all_but_post_norm_models_end_in_a_norm(kind: str) -> None:
    assert (gpt(block=kind).norm is None) == (kind == "post")


def test_a_projection_without_a_skip_starts_with_gain_one() -> None:
    model = gpt(d_model=128, n_heads=4, d_ff=1, block="skipless")
    z = torch.randn(4, 8, 4, 32)
    for fc_out in fc_outs(model):
        assert fc_out.start_gain == pytest.approx(1.0)
        assert rms(fc_out(z, z.flatten(-2))) / rms(z) == pytest.approx(1.0, rel=0.05)


@QKVS
@EXPLICIT
def test_identity_values_are_the_slices_of_the_embedding(qkv: str, explicit: bool) -> None:
    model = loud(gpt(NoProjection, qkv=qkv, value="identity", explicit_attention=explicit))
    x = noise(2, 8, 16)
    for block in blocks(model):
        q, k, v = block.attention.qkv(x)
        assert torch.equal(v, x.view(2, 8, 2, 8).transpose(1, 2))
        weights = (q @ k.mT / math.sqrt(8) + torch.full((8, 8), -math.inf).triu(1)).softmax(-1)
        torch.testing.assert_close(block.attention(x, None), (weights @ v).transpose(1, 2).flatten(2))
        made = torch.einsum("btc,hvc->bhtv", x, block.attention.qkv.value_weight())
        torch.testing.assert_close(made, v)


@QKVS
def test_identity_values_have_no_weights(qkv: str) -> None:
    learned, identity = (gpt(NoProjection, qkv=qkv, value=v) for v in ("learned", "identity"))
    a, b = (blocks(m)[0].attention.qkv.map.weight.shape for m in (learned, identity))
    assert b == (a[0] // 3 * 2, a[1])


@QKVS
def test_values_that_start_orthogonal_hand_the_embedding_on_whole(qkv: str) -> None:
    usual, whole = (gpt(NoProjection, qkv=qkv, value=v) for v in ("learned", "rotation_init"))
    for a, b in zip(blocks(usual), blocks(whole), strict=True):
        weight = b.attention.qkv.value_weight().flatten(0, 1)
        torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)))
        n_qk = len(a.attention.qkv.map.weight) // 3 * 2
        assert torch.equal(a.attention.qkv.map.weight[:n_qk], b.attention.qkv.map.weight[:n_qk])
    assert {n: p.shape for n, p in usual.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    first, second = (b.attention.qkv.value_weight() for b in blocks(whole))
    assert not torch.equal(first, second)


def test_orthogonal_values_of_wide_heads_keep_the_loudness() -> None:
    model = gpt(d_model=16, n_heads=2, head_dim=16, value="rotation_init")
    x = noise(4, 8, 16).float()
    for block in blocks(model):
        _, _, v = block.attention.qkv(x)
        assert rms(v) == pytest.approx(rms(x), rel=1e-4)


def test_identity_values_where_the_heads_do_not_fit_are_refused_in_one_line() -> None:
    config = compose(["model.head_dim=16", "attention.value=identity", "fc_out=dense"]).config
    with pytest.raises(
        RequestError, match=r"attention.value=identity.*d_model = 128.*attention.value=learned"
    ) as caught:
        model_of(config, 9, "meta")
    assert "\n" not in str(caught.value)


@QKVS
@EXPLICIT
def test_shaped_attention_sees_itself_alone_at_the_start(qkv: str, explicit: bool) -> None:
    model = gpt(NoProjection, qkv=qkv, scores="shaped", explicit_attention=explicit).double()
    x = noise(2, 8, 16)
    for block in blocks(model):
        q, _, v = block.attention.qkv(x)
        assert q.abs().max() == 0
        torch.testing.assert_close(block.attention(x, None), v.transpose(1, 2).flatten(2))


@QKVS
@EXPLICIT
def test_shaped_attention_is_its_formula(qkv: str, explicit: bool) -> None:
    model = loud(gpt(NoProjection, qkv=qkv, scores="shaped", explicit_attention=explicit))
    x, T = noise(2, 8, 16), 8
    for block in blocks(model):
        attention = block.attention
        q, k, v = attention.qkv(x)
        weights = (q @ k.mT / math.sqrt(8) + torch.full((T, T), -math.inf).triu(1)).softmax(-1)
        uniform = torch.ones(T, T, dtype=torch.float64).tril() / torch.arange(1, T + 1)[:, None]
        assert attention.shaped is not None
        a, b, c = (p[:, None, None] for p in (attention.shaped.alpha, attention.shaped.beta, attention.shaped.gamma))
        z = (a * torch.eye(T) + b * weights - c * uniform) @ v
        torch.testing.assert_close(attention(x, None), z.transpose(1, 2).flatten(2))


def test_shaped_attention_looks_at_no_token_to_come() -> None:
    model = loud(gpt(scores="shaped"))
    before = ids_of(model)
    after = before.clone()
    after[:, 5] = (after[:, 5] + 1) % 11
    change = (model(after) - model(before)).abs().amax(-1)
    assert change[:, :5].max() < 1e-12
    assert change[:, 5].min() > 1e-9


@pytest.mark.parametrize("make", [Dense, NoProjection])
def test_a_learned_scale_starts_where_matched_does_and_trains(make: Any) -> None:
    matched, learned = (gpt(make, branch_scale=s) for s in ("matched", "learned"))
    ids = ids_of(matched)
    torch.testing.assert_close(learned(ids), matched(ids))
    learned.loss(ids, ids).backward()
    for block in blocks(learned):
        assert block.attention.scale is not None
        assert block.attention.scale.grad is not None
        assert block.attention.scale.grad.abs().item() > 0
    assert {n for n, _ in learned.named_parameters()} - {n for n, _ in matched.named_parameters()} == {
        "blocks.0.attention.scale",
        "blocks.1.attention.scale",
    }


@pytest.mark.parametrize(
    "words",
    [
        ["model.block=skipless", "attention.value=identity", "attention.scores=shaped", "fc_out=none"],
        ["model.block=skipless", "attention.scores=shaped"],
        ["model.block=parallel", "attention.branch_scale=learned"],
    ],
    ids=" ".join,
)
def test_the_new_kinds_train_and_count(words: list[str], small: list[str], tmp_path: Any, cli: Any) -> None:
    said = cli("train", *small, *words, "--json")
    assert said.code == 0, said.err
    run = said.json
    assert run["state"] == "ok"
    assert math.isfinite(run["result"]["val_loss"])


def test_runs_from_before_these_settings_keep_their_hash() -> None:
    config = compose([]).config
    identity = config.identity({})
    assert identity["attention"].keys() == {"qkv", "branch_scale"}
    shaped = compose(["attention.scores=shaped"]).config.identity({})
    assert shaped["attention"]["scores"] == "shaped"
