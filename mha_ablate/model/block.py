"""One layer: attention and MLP, and how they meet the residual stream."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.attention import Attention
from mha_ablate.model.cache import Past
from mha_ablate.model.layers import MLP

PRE_NORM = ("pre", "skipless", "parallel")  # blocks that read a normed stream, and leave it without a norm


class Block(nn.Module):
    """Attention and MLP around the residual stream x, by `kind`:

    - `pre`: x + f(norm(x)), twice.
    - `post`: norm(x + f(x)), twice, as in the original Transformer (Vaswani et al. 2017).
    - `skipless`: attention(norm(x)) replaces x, then x + mlp(norm(x)) (He & Hofmann, arXiv 2311.01906: no attention skip).
    - `parallel`: x + attention(norm(x)) + mlp(norm(x)), one norm for both (Wang & Komatsuzaki 2021, GPT-J).

    `dropout` is at the end of each branch, `dropout_after_norm` behind each norm.
    """

    def __init__(
        self,
        attention: Attention,
        mlp: MLP,
        norms: tuple[nn.Module, nn.Module | None],
        *,
        kind: str,
        dropout: float,
        dropout_after_norm: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention, self.mlp = attention, mlp
        self.norm_attention, self.norm_mlp = norms
        self.kind, self.dropout, self.dropout_after_norm = kind, dropout, dropout_after_norm

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor] | None, past: Past | None = None) -> Tensor:
        """`[B T C] -> [B T C]`."""
        if self.kind == "post":
            x_BTC = self._norm_attention(x_BTC + self._drop(self.attention(x_BTC, rotary, past)))
            return self._norm_mlp(x_BTC + self._drop(self.mlp(x_BTC)))
        normed_BTC = self._norm_attention(x_BTC)
        y_BTC = self._drop(self.attention(normed_BTC, rotary, past))
        if self.kind == "parallel":
            return x_BTC + y_BTC + self._drop(self.mlp(normed_BTC))
        x_BTC = y_BTC if self.kind == "skipless" else x_BTC + y_BTC
        return x_BTC + self._drop(self.mlp(self._norm_mlp(x_BTC)))

    def _norm_attention(self, x_BTC: Tensor) -> Tensor:
        return self._drop(self.norm_attention(x_BTC), self.dropout_after_norm)

    def _norm_mlp(self, x_BTC: Tensor) -> Tensor:
        return x_BTC if self.norm_mlp is None else self._drop(self.norm_mlp(x_BTC), self.dropout_after_norm)

    def _drop(self, y_BTC: Tensor, rate: float | None = None) -> Tensor:
        rate = self.dropout if rate is None else rate
        return F.dropout(y_BTC, rate, self.training) if rate else y_BTC
