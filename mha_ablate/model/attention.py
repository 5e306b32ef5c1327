"""Causal multi-head self-attention with an injected output projection.

B batch, T time, S time looked back on, C d_model, H heads, D head_dim, V value width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import FcOut
from mha_ablate.model.layers import Linear, rotate

QUERIES_AT_ONCE = 128  # of a tile of open attention: measured (docs/log.md)
SCORES_AT_ONCE = 2**20


class FusedQKV(nn.Module):
    """Standard: one map `C -> H (D + D + V)` makes q, k and v of every head from the whole embedding."""

    def __init__(self, d_model: int, n_heads: int, head_dim: int, value_width: int, *, bias: bool) -> None:
        super().__init__()
        self.n_heads, self.widths = n_heads, (head_dim, head_dim, value_width)
        self.map = Linear(d_model, n_heads * sum(self.widths), bias=bias)

    def forward(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q and k `[B H T D]`, v `[B H T V]`."""
        B, T, _ = x_BTC.shape
        parts = self.map(x_BTC).split([self.n_heads * w for w in self.widths], dim=-1)
        q, k, v = (p.view(B, T, self.n_heads, w).transpose(1, 2) for p, w in zip(parts, self.widths, strict=True))
        return q, k, v

    def value_weight(self) -> Tensor:
        """The rows that make the values, per head: `[H V C]`."""
        D, _, V = self.widths
        return self.map.weight[2 * self.n_heads * D :].view(self.n_heads, V, -1)


class SplitQKV(nn.Module):
    """The popular tutorial's: the embedding is cut into H slices, and one map `C/H -> D + D + V` serves them all.

    Head h sees slice h alone, and its weights are those of every other head.
    """

    def __init__(self, d_model: int, n_heads: int, head_dim: int, value_width: int, *, bias: bool) -> None:
        super().__init__()
        self.n_heads, self.widths = n_heads, (head_dim, head_dim, value_width)
        self.map = Linear(d_model // n_heads, sum(self.widths), bias=bias)

    def forward(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q and k `[B H T D]`, v `[B H T V]`."""
        x_BTHS = x_BTC.unflatten(-1, (self.n_heads, -1))
        q, k, v = self.map(x_BTHS).transpose(1, 2).split(self.widths, dim=-1)
        return q, k, v

    def value_weight(self) -> Tensor:
        """The map from the whole embedding to each head's values, zero outside the head's slice: `[H V C]`."""
        D, _, _ = self.widths
        shared_VS = self.map.weight[2 * D :]
        eye_HH = torch.eye(self.n_heads, dtype=shared_VS.dtype, device=shared_VS.device)
        return torch.einsum("hg,vs->hvgs", eye_HH, shared_VS).flatten(-2)


QKV = {"fused": FusedQKV, "split": SplitQKV}


class Attention(nn.Module):
    """branch_scale * fc_out(softmax(q k^T / sqrt(D), causal) v): `[B T C] -> [B T C]`.

    `fc_out` is injected; attention knows none of its variants. `explicit` computes the softmax in the open, which is
    faster than the fused kernel's backward on a CPU; otherwise torch's scaled_dot_product_attention runs.
    """

    def __init__(
        self,
        qkv: FusedQKV | SplitQKV,
        fc_out: FcOut,
        *,
        context: int,
        dropout: float,
        branch_scale: float,
        explicit: bool,
    ) -> None:
        super().__init__()
        self.qkv, self.fc_out = qkv, fc_out
        self.dropout, self.branch_scale, self.explicit = dropout, branch_scale, explicit
        ahead = torch.full((context, context), -math.inf).triu(1) if explicit else torch.empty(0)
        self.register_buffer("ahead_TS", ahead, persistent=False)

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attend, then hand z by head and the sublayer's input to `fc_out`."""
        q, k, v = self.qkv(x_BTC)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        z_BHTV = self._explicit(q, k, v) if self.explicit else self._fused(q, k, v)
        y_BTC = self.fc_out(z_BHTV.transpose(1, 2), x_BTC)
        return y_BTC if self.branch_scale == 1.0 else y_BTC * self.branch_scale

    def _explicit(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTV: Tensor) -> Tensor:
        """A few windows at a time, whose scores stay in the cache."""
        _, H, T, D = q_BHTD.shape
        k_BHTD = k_BHTD * (1.0 / math.sqrt(D))
        windows = max(1, SCORES_AT_ONCE // (H * T * min(T, QUERIES_AT_ONCE)))
        parts = zip(q_BHTD.split(windows), k_BHTD.split(windows), v_BHTV.split(windows), strict=True)
        return _joined([self._tiles(q, k, v) for q, k, v in parts], dim=0)

    def _tiles(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTV: Tensor) -> Tensor:
        """A few queries at a time, against the keys up to the last of them: most of what lies ahead is never computed."""
        tiles = []
        for start in range(0, q_BHTD.shape[2], QUERIES_AT_ONCE):
            stop = min(start + QUERIES_AT_ONCE, q_BHTD.shape[2])
            scores_BHQS = q_BHTD[:, :, start:stop] @ k_BHTD[:, :, :stop].transpose(-2, -1)
            ahead_QS = self.get_buffer("ahead_TS")[start:stop, :stop]
            weights_BHQS = torch.softmax(scores_BHQS + ahead_QS.to(scores_BHQS.dtype), dim=-1)
            tiles.append(F.dropout(weights_BHQS, self.dropout, self.training) @ v_BHTV[:, :, :stop])
        return _joined(tiles, dim=2)

    def _fused(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTV: Tensor) -> Tensor:
        rate = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTV, dropout_p=rate, is_causal=True)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
