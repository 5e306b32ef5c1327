"""Causal multi-head self-attention with an injected output projection.

B batch, T time, S time looked back on (T, and before it what a cache holds), C d_model, H heads, D head_dim, V value width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.cache import Past
from mha_ablate.model.fc_out.base import FcOut
from mha_ablate.model.init import ROTATION, ZEROS, Draw, Starts
from mha_ablate.model.layers import Linear, rotate

QUERIES_AT_ONCE = 128  # of a tile of open attention: measured (docs/log.md)
SCORES_AT_ONCE = 2**20


class QKV(nn.Module):
    """What makes q, k and v of every head: `[B T C] -> [B H T D], [B H T D], [B H T V]`.

    `identity_values` leaves no W_V: head h's values are slice h of the embedding (He & Hofmann, arXiv 2311.01906).
    `orthogonal_values` starts W_V as a random rotation, which hands the values on as loud as they come.
    `zero_queries` starts with scores of 0, all earlier tokens alike. Raises ValueError where identity values do not fit.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        head_dim: int,
        value_width: int,
        *,
        bias: bool,
        starts: Starts,
        identity_values: bool = False,
        orthogonal_values: bool = False,
        zero_queries: bool = False,
    ) -> None:
        super().__init__()
        if identity_values and n_heads * value_width != d_model:
            raise ValueError(
                f"attention.value=identity cuts d_model = {d_model} into n_heads slices, and the values are to be {n_heads} x "
                f"{value_width} channels: use attention.value=learned, or sizes whose product is d_model"
            )
        self.n_heads, self.identity_values = n_heads, identity_values
        self.widths = (head_dim, head_dim, *(() if identity_values else (value_width,)))
        n_in, copies = self.map_size(d_model)
        outs = [copies * width for width in self.widths]
        names = ("query", "key", "value")[: len(outs)]
        # Values of another width start by the fans of the usual one: the branch is then as loud under every init.
        usual = copies * head_dim
        start = {name: starts.of(name, n_in=n_in, n_out=usual) for name in names}
        start |= {"query": ZEROS} if zero_queries else {}
        start |= {"value": ROTATION} if orthogonal_values and not identity_values else {}
        self.map = Linear(
            n_in,
            sum(outs),
            bias=bias,
            start=list(zip(outs, start.values(), strict=True)),
            bias_start=starts.of("attention_bias", n_in=n_in, n_out=len(outs) * usual),
        )

    def map_size(self, d_model: int) -> tuple[int, int]:
        """(Inputs of the learned map, how many heads it makes `widths` channels for)."""
        raise NotImplementedError

    def parts(self, x_BTC: Tensor) -> list[Tensor]:
        """What the map gives, by `widths`: `[B H T width]` each."""
        raise NotImplementedError

    def learned_value_weight(self) -> Tensor:
        """`value_weight` where values are learned."""
        raise NotImplementedError

    def forward(self, x_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q and k `[B H T D]`, v `[B H T V]`."""
        q, k, *values = self.parts(x_BTC)
        return q, k, values[0] if values else x_BTC.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def value_weight(self) -> Tensor:
        """The map from the embedding to each head's values: `[H V C]`."""
        if not self.identity_values:
            return self.learned_value_weight()
        like = self.map.weight
        d_model = like.shape[1] * (self.n_heads if isinstance(self, SplitQKV) else 1)
        return torch.eye(d_model, dtype=like.dtype, device=like.device).view(self.n_heads, -1, d_model)


class FusedQKV(QKV):
    """Standard: one map `C -> H (D + D + V)` makes q, k and v of every head from the whole embedding."""

    def map_size(self, d_model: int) -> tuple[int, int]:
        """`C -> H * sum(widths)`: all queries first, then all keys, then all values."""
        return d_model, self.n_heads

    def parts(self, x_BTC: Tensor) -> list[Tensor]:
        """Each a view of one piece of the product."""
        B, T, _ = x_BTC.shape
        parts = self.map(x_BTC).split([self.n_heads * w for w in self.widths], dim=-1)
        return [p.view(B, T, self.n_heads, w).transpose(1, 2) for p, w in zip(parts, self.widths, strict=True)]

    def learned_value_weight(self) -> Tensor:
        """The rows that make the values."""
        D, _, V = self.widths
        return self.map.weight[2 * self.n_heads * D :].view(self.n_heads, V, -1)


class SplitQKV(QKV):
    """The embedding is cut into H slices, and one map `C/H -> D + D + V` serves them all.

    Head h sees slice h alone, and its weights are those of every other head. A popular tutorial cuts in this way; its other
    choices are settings of their own (`attention=tutorial`, `model=tutorial`).
    """

    def map_size(self, d_model: int) -> tuple[int, int]:
        """`C/H -> sum(widths)`."""
        return d_model // self.n_heads, 1

    def parts(self, x_BTC: Tensor) -> list[Tensor]:
        """The same map on every slice."""
        x_BTHS = x_BTC.unflatten(-1, (self.n_heads, -1))
        return list(self.map(x_BTHS).transpose(1, 2).split(self.widths, dim=-1))

    def learned_value_weight(self) -> Tensor:
        """Zero outside the head's slice."""
        D, _, _ = self.widths
        shared_VS = self.map.weight[2 * D :]
        eye_HH = torch.eye(self.n_heads, dtype=shared_VS.dtype, device=shared_VS.device)
        return torch.einsum("hg,vs->hvgs", eye_HH, shared_VS).flatten(-2)


MAKERS = {"fused": FusedQKV, "split": SplitQKV}


class Shaped(nn.Module):
    """alpha v + beta z - gamma mean(v): shaped attention, a learned number of each a head (He & Hofmann, arXiv 2311.01906, 4.1).

    `mean(v)` is over all tokens up to now, which is what z is while the scores are 0. All three start at 1, so that with
    queries that start at 0 every token sees itself alone.
    """

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma = (nn.Parameter(torch.empty(n_heads)) for _ in range(3))

    def reset_parameters(self, draw: Draw) -> None:
        """All ones."""
        for p in (self.alpha, self.beta, self.gamma):
            draw.constant(p, 1.0)

    def forward(self, z_BHTV: Tensor, v_BHSV: Tensor) -> Tensor:
        """`[B H T V]`; the T tokens are the last of the S that there are values of."""
        T, S = z_BHTV.shape[2], v_BHSV.shape[2]
        seen_S1 = torch.arange(1, S + 1, device=z_BHTV.device, dtype=z_BHTV.dtype)[:, None]
        mean_BHTV = (v_BHSV.cumsum(2) / seen_S1)[:, :, S - T :]
        a, b, c = (p[:, None, None] for p in (self.alpha, self.beta, self.gamma))
        return a * v_BHSV[:, :, S - T :] + b * z_BHTV - c * mean_BHTV


class Attention(nn.Module):
    """branch_scale * fc_out(softmax(q k^T / divisor, causal) v): `[B T C] -> [B T C]`.

    `fc_out` is injected; attention knows none of its variants. `explicit` computes the softmax in the open, which is
    faster than the fused kernel's backward on a CPU; otherwise torch's scaled_dot_product_attention runs. `shaped` changes
    what the heads make of their values. A learned `branch_scale` starts at the number given. `divisor`: sqrt(D) usually.
    """

    def __init__(
        self,
        qkv: QKV,
        fc_out: FcOut,
        *,
        context: int,
        dropout: float,
        divisor: float,
        branch_scale: float,
        explicit: bool,
        learned_scale: bool = False,
        shaped: Shaped | None = None,
    ) -> None:
        super().__init__()
        self.qkv, self.fc_out, self.shaped = qkv, fc_out, shaped
        self.dropout, self.divisor, self.branch_scale, self.explicit = dropout, divisor, branch_scale, explicit
        self.scale = nn.Parameter(torch.empty(1)) if learned_scale else None
        ahead = torch.full((context, context), -math.inf).triu(1) if explicit else torch.empty(0)
        self.register_buffer("ahead_TS", ahead, persistent=False)

    def reset_parameters(self, draw: Draw) -> None:
        """The scale, where it is learned."""
        if self.scale is not None:
            draw.constant(self.scale, self.branch_scale)

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor] | None, past: Past | None = None) -> Tensor:
        """Attend, then hand z by head and the sublayer's input to `fc_out`. With a `past`, also to the tokens in it."""
        q, k, v = self.qkv(x_BTC)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if past is not None:
            k, v = past.extended(k, v)
        z_BHTV = self._explicit(q, k, v) if self.explicit else self._fused(q, k, v)
        if self.shaped is not None:
            z_BHTV = self.shaped(z_BHTV, v)
        y_BTC = self.fc_out(z_BHTV.transpose(1, 2), x_BTC)
        if self.scale is not None:
            return y_BTC * self.scale
        return y_BTC if self.branch_scale == 1.0 else y_BTC * self.branch_scale

    def _explicit(self, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSV: Tensor) -> Tensor:
        """A few windows at a time, whose scores stay in the cache."""
        _, H, T, _ = q_BHTD.shape
        k_BHSD = k_BHSD * (1.0 / self.divisor)
        windows = max(1, SCORES_AT_ONCE // (H * T * min(T, QUERIES_AT_ONCE)))
        parts = zip(q_BHTD.split(windows), k_BHSD.split(windows), v_BHSV.split(windows), strict=True)
        return _joined([self._tiles(q, k, v) for q, k, v in parts], dim=0)

    def _tiles(self, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSV: Tensor) -> Tensor:
        """A few queries at a time, against the keys up to the last of them: most of what lies ahead is never computed."""
        past, tiles = k_BHSD.shape[2] - q_BHTD.shape[2], []
        for start in range(0, q_BHTD.shape[2], QUERIES_AT_ONCE):
            stop = min(start + QUERIES_AT_ONCE, q_BHTD.shape[2])
            first, last = past + start, past + stop
            scores_BHQS = q_BHTD[:, :, start:stop] @ k_BHSD[:, :, :last].transpose(-2, -1)
            ahead_QS = self.get_buffer("ahead_TS")[first:last, :last]
            weights_BHQS = torch.softmax(scores_BHQS + ahead_QS.to(scores_BHQS.dtype), dim=-1)
            tiles.append(F.dropout(weights_BHQS, self.dropout, self.training) @ v_BHSV[:, :, :last])
        return _joined(tiles, dim=2)

    def _fused(self, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSV: Tensor) -> Tensor:
        """The kernel's own causal mask is of whole windows: with a past it gets one, unless there is a single query."""
        rate, T, S = self.dropout if self.training else 0.0, q_BHTD.shape[2], k_BHSD.shape[2]
        seen_TS = torch.ones(T, S, dtype=torch.bool, device=q_BHTD.device).tril(S - T) if 1 < T < S else None
        return F.scaled_dot_product_attention(
            q_BHTD, k_BHSD, v_BHSV, attn_mask=seen_TS, dropout_p=rate, is_causal=T == S, scale=1.0 / self.divisor
        )


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
