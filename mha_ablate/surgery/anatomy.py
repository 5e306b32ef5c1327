"""What there is to say of each layer's output projection: from its weights, and from what passes through it."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from mha_ablate.model.attention import Attention
from mha_ablate.surgery.diagnose import (
    contributions,
    effective_rank,
    head_columns,
    linear_cka,
    output_overlap,
    output_space,
    ov_svd,
    rms,
    singular_values,
    stable_rank,
)
from mha_ablate.surgery.swap import Bench, attentions
from mha_ablate.surgery.truncate import cross_head_energy


def of_weights(W_CZ: Tensor, value_weight_HVC: Tensor) -> dict[str, Any]:
    """Spectra and ranks of W_O and of each head's OV_h, cross-head energy where W_O is square, overlap of output spaces."""
    n_heads = len(value_weight_HVC)
    columns = head_columns(W_CZ, n_heads)
    taken = [ov_svd(W, V) for W, V in zip(columns, value_weight_HVC, strict=True)]
    overlap, chance = output_overlap([output_space(u, s) for u, s in taken])
    square = W_CZ.shape[0] == W_CZ.shape[1]
    return {
        "w_o": _of_spectrum(singular_values(W_CZ)),
        "ov": [_of_spectrum(s) for _, s in taken],
        "cross_head_energy": cross_head_energy(W_CZ, n_heads) if square else None,
        "cross_head_energy_at_start": 1 - 1 / n_heads if square else None,
        "overlap": _or_none(overlap),
        "overlap_by_chance": _or_none(chance),
    }


def _of_spectrum(s: Tensor) -> dict[str, Any]:
    return {"stable_rank": stable_rank(s), "effective_rank": effective_rank(s), "singular_values": s.tolist()}


@torch.no_grad()
def of_activity(bench: Bench, layer: int) -> dict[str, Any]:
    """Loudness of branch and stream, likeness of heads (linear CKA of what each adds), and whether their sum is the output.

    `sum_of_heads_error`: max |sum_h y_h + f(0) - y| / max |y|.
    """
    attention = attentions(bench.model)[layer]
    z, x, y = bench.seen(layer)
    parts_HNTC, rest = contributions(attention.fc_out, z, x)
    apart = float((parts_HNTC.sum(0) + rest - y).abs().max())
    loudest = float(y.abs().max())
    alike = _likeness(parts_HNTC.flatten(1, 2))
    known = [value for value in alike.values() if not math.isnan(value)]
    branch, stream = rms(y) * _multiplier(attention), rms(bench.streams(layer))
    return {
        "branch_rms": branch,
        "stream_rms": stream,
        "branch_to_stream": branch / stream if stream else None,
        "cka": [{"heads": list(pair), "cka": _or_none(value)} for pair, value in alike.items()],
        "cka_mean": sum(known) / len(known) if known else None,
        "sum_of_heads_error": apart / loudest if loudest else apart,
    }


def _likeness(parts_HNC: Tensor) -> dict[tuple[int, int], float]:
    return {(g, h): linear_cka(parts_HNC[g], parts_HNC[h]) for g, h in combinations(range(len(parts_HNC)), 2)}


def _multiplier(attention: Attention) -> float:
    return abs(float(attention.scale)) if attention.scale is not None else attention.branch_scale


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
