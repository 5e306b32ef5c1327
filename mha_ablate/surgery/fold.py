"""Folds: the same function with its weights elsewhere. Each is exact, or refused.

Attention's weights sum to 1, so a constant that a value carries arrives whole: that is what lets biases move.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from mha_ablate.model.attention import Attention, SplitQKV
from mha_ablate.model.fc_out.base import FcOut
from mha_ablate.model.gpt import GPT
from mha_ablate.surgery.diagnose import head_columns
from mha_ablate.surgery.swap import attentions

EXACT = 1e-9  # relative, in float64


class Inexact(ValueError):
    """A fold that would change the function; says by how much, or why."""


def can_take(fc_out: FcOut) -> bool:
    """Whether anything can be folded into this map: it holds no tensor of its own and is tied to none."""
    held = [*fc_out.parameters(), *fc_out.buffers()]
    return not held and type(fc_out).connect is FcOut.connect


def values_behind(W_CZ: Tensor, values_HVN: Tensor, P_CY: Tensor) -> Tensor:
    """U_h `[H, V', N]` with P_h U_h = W_h V_h for every head: these values through P do what V_h do through W.

    The least-squares answer, pinv(P_h) W_h V_h. Raises Inexact where that is none: W V writes where P cannot.
    """
    n_heads = len(values_HVN)
    wanted, P_HCY = head_columns(W_CZ, n_heads) @ values_HVN, head_columns(P_CY, n_heads)
    U = torch.linalg.pinv(P_HCY) @ wanted
    lost = float((P_HCY @ U - wanted).norm()) / max(float(wanted.norm()), 1e-300)
    if lost > EXACT:
        raise Inexact(f"{lost:.0%} of what heads write, by its norm, has no place there")
    return U


@torch.no_grad()
def fold_into(model: GPT, target: GPT) -> GPT:
    """`target` with the weights of `model`, each layer's W_O folded into its values; both in float64.

    The target has the same sizes and settings, and its fc_out takes folds (`can_take`). V_h becomes pinv(P_h) W_h V_h
    (`values_behind`); biases become c_h with sum_h P_h c_h = b_O + sum_h W_h b_V,h. Raises Inexact.
    """
    theirs = {k: v for k, v in model.state_dict().items() if ".fc_out." not in k and ".qkv." not in k}
    missing, unexpected = target.load_state_dict(theirs, strict=False)
    if unexpected or any(".qkv." not in name for name in missing):
        raise Inexact(f"the other model has other tensors: {[*unexpected, *missing][0]}")
    for layer, (old, new) in enumerate(zip(attentions(model), attentions(target), strict=True)):
        try:
            _fold_layer(old, new)
        except Inexact as error:
            raise Inexact(f"layer {layer}: {error}") from None
    return target


def _fold_layer(old: Attention, new: Attention) -> None:
    if old.qkv.identity_values:
        raise Inexact("its values are not learned, so there is no W_V to fold into")
    weight = old.qkv.map.weight
    source, place = old.fc_out.as_affine(weight), new.fc_out.as_affine(weight)
    if source is None or place is None:
        raise Inexact("its output projection is no fixed matrix")
    (W, b), (P, _) = source, place
    bias = old.qkv.map.bias
    if bool(b.any()) and (bias is None or old.shaped is not None):
        raise Inexact("its output bias has no value bias to go into that would arrive whole")
    weights = values_behind(W, _values(old, "weight"), P)
    biases = None if bias is None else _biases_behind(old, W, b, P)
    _write_values(old, new, weights, biases)


def _values(attention: Attention, name: str) -> Tensor:
    """What makes each head's values, weight `[H, V, n_in]` or bias `[H, V, 1]`: under attention=split the shared map's, H times."""
    qkv, V = attention.qkv, attention.fc_out.value_width
    H = 1 if isinstance(qkv, SplitQKV) else qkv.n_heads
    rows = getattr(qkv.map, name)[2 * H * qkv.widths[0] :]
    return rows.view(H, V, -1).expand(qkv.n_heads, V, -1)


def _biases_behind(old: Attention, W_CZ: Tensor, b_C: Tensor, P_CY: Tensor) -> Tensor:
    """Value biases `[H, V', 1]` for all constants together, or head by head where they do not arrive whole."""
    given = _values(old, "bias")
    if old.shaped is not None:
        return values_behind(W_CZ, given, P_CY)
    arriving_C = b_C + (head_columns(W_CZ, old.qkv.n_heads) @ given).sum(0).squeeze(-1)
    return _spread(P_CY, arriving_C, old.qkv.n_heads).unsqueeze(-1)


def _spread(P_CY: Tensor, b_C: Tensor, n_heads: int) -> Tensor:
    """The smallest c `[H, V']` with P c = b. Raises Inexact where there is none."""
    c = torch.linalg.pinv(P_CY) @ b_C
    if float((P_CY @ c - b_C).norm()) > EXACT * float(b_C.norm()):
        raise Inexact("its output bias points where the values cannot write")
    return c.view(n_heads, -1)


def _write_values(old: Attention, new: Attention, weights_HYN: Tensor, biases_HY1: Tensor | None) -> None:
    """Queries and keys as they are, other values."""
    H = old.qkv.n_heads
    if isinstance(old.qkv, SplitQKV):
        if not (_alike(weights_HYN) and (biases_HY1 is None or _alike(biases_HY1))):
            raise Inexact("heads share one W_V under attention=split, and need different ones")
        H = 1
    kept = 2 * H * old.qkv.widths[0]
    new.qkv.map.weight.copy_(torch.cat((old.qkv.map.weight[:kept], weights_HYN[:H].flatten(0, 1))))
    if old.qkv.map.bias is not None and new.qkv.map.bias is not None and biases_HY1 is not None:
        new.qkv.map.bias.copy_(torch.cat((old.qkv.map.bias[:kept], biases_HY1[:H].flatten())))


def _alike(x: Tensor) -> bool:
    return bool((x - x[:1]).norm() <= EXACT * x.norm())


@torch.no_grad()
def fold_value_bias(model: GPT) -> GPT:
    """A copy in which every value bias is 0 and has gone into the output bias: b_O + W_O b_V. Raises Inexact.

    Under shaped attention values do not arrive with weights that sum to 1.
    """
    folded = copy.deepcopy(model)
    for layer, attention in enumerate(attentions(folded)):
        qkv, own = attention.qkv, attention.fc_out
        if qkv.identity_values or qkv.map.bias is None:
            raise Inexact("its values have no bias (model.bias=true has, unless attention.bias=false)")
        affine, bias = own.as_affine(qkv.map.weight), _output_bias(own)
        if affine is None or bias is None or attention.shaped is not None:
            what = "shaped attention changes what arrives" if attention.shaped is not None else "it has no output bias"
            raise Inexact(f"layer {layer}: {what if affine else 'its output projection is no fixed matrix'}")
        split = isinstance(qkv, SplitQKV)
        values = qkv.map.bias[2 * qkv.widths[0] * (1 if split else qkv.n_heads) :]
        bias += affine[0] @ (values.repeat(qkv.n_heads) if split else values)
        values.zero_()
    return folded


def _output_bias(fc_out: FcOut) -> nn.Parameter | None:
    """The parameter that is added to y at the end: the one that comes back for z = 0."""
    p = fc_out.place
    like = next(fc_out.parameters(), None)
    if like is None:
        return None
    z = torch.zeros(1, 1, p.n_heads, fc_out.value_width, dtype=like.dtype, device=like.device)
    b_C = fc_out(z, torch.zeros(1, 1, p.d_model, dtype=like.dtype, device=like.device))[0, 0]
    named = [q for name, q in fc_out.named_parameters() if name.rpartition(".")[2] == "bias" and q.shape == b_C.shape]
    return cast(nn.Parameter, named[0]) if len(named) == 1 and torch.equal(named[0], b_C) else None
