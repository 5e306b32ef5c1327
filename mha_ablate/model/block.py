"""One layer: attention and MLP, each around a residual connection."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.attention import Attention
from mha_ablate.model.layers import MLP


class Block(nn.Module):
    """Pre-norm `x + f(norm(x))`, or post-norm `norm(x + f(x))` as in the original Transformer, for both sublayers."""

    def __init__(
        self, attention: Attention, mlp: MLP, norms: tuple[nn.Module, nn.Module], *, post: bool, dropout: float
    ) -> None:
        super().__init__()
        self.attention, self.mlp = attention, mlp
        self.norm_attention, self.norm_mlp = norms
        self.post, self.dropout = post, dropout

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """`[B T C] -> [B T C]`."""
        if self.post:
            x_BTC = self.norm_attention(x_BTC + self._drop(self.attention(x_BTC, rotary)))
            return self.norm_mlp(x_BTC + self._drop(self.mlp(x_BTC)))
        x_BTC = x_BTC + self._drop(self.attention(self.norm_attention(x_BTC), rotary))
        return x_BTC + self._drop(self.mlp(self.norm_mlp(x_BTC)))

    def _drop(self, y_BTC: Tensor) -> Tensor:
        return F.dropout(y_BTC, self.dropout, self.training) if self.dropout else y_BTC
