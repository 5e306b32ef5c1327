"""The decoder-only Transformer around the attention under study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.attention import MAKERS, Attention, Shaped
from mha_ablate.model.block import PRE_NORM, Block
from mha_ablate.model.cache import Past
from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.init import GPT2, Starts, initialise, sizes_of
from mha_ablate.model.layers import MLP, Embedding, Linear, norm, rotary_tables, sinusoidal_table
from mha_ablate.start_rule import divisor_of


class GPT(nn.Module):
    """Token and position embedding, `n_layers` blocks, a final norm (pre-norm blocks), an output layer.

    ids `[B T]` -> logits `[B T vocab_size]`. `make_fc_out(place)` builds the output projection of each layer.
    Weights start by name from `init_seed`, as the rules of `init` say; on the meta device none are drawn. A tied embedding starts
    as the output layer that it is. `dropout_at`: `branch` (attention's weights, the end of each branch, the embedding) or
    `norm` (after each norm of a block, the embedding).
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        d_model: int,
        n_layers: int,
        n_heads: int,
        head_dim: int,
        d_ff: int,
        context: int,
        make_fc_out: Callable[[Place], FcOut],
        qkv: str = "fused",
        value: str = "learned",
        scores: str = "softmax",
        divide_by: str = "sqrt_head_dim",
        qkv_bias: bool | None = None,
        branch_scale: float | str = 1.0,
        block: str = "pre",
        norm_kind: str = "layernorm",
        positions: str = "learned",
        mlp: str = "gelu",
        bias: bool = False,
        dropout: float = 0.0,
        dropout_at: str = "branch",
        tied_embedding: bool = True,
        output_bias: bool = False,
        explicit_attention: bool = True,
        init: Mapping[str, str] = GPT2,
        init_seed: int = 0,
    ) -> None:
        super().__init__()
        self.context, self.dropout = context, dropout
        divisor = divisor_of(divide_by, head_dim=head_dim, d_model=d_model)
        sizes = {"d_model": d_model, "n_heads": n_heads, "head_dim": head_dim, "n_layers": n_layers, "d_ff": d_ff}
        starts = Starts(init, sizes_of(**sizes, divisor=divisor))
        after_norm, in_branch = (dropout, 0.0) if dropout_at == "norm" else (0.0, dropout)

        def make_block(layer: int) -> Block:
            inputs = 0 if value == "identity" else d_model if qkv == "fused" else d_model // n_heads
            residual = block != "skipless"
            fc_out = make_fc_out(Place(d_model, n_heads, head_dim, n_layers, layer, bias, inputs, residual, starts))
            attention = Attention(
                MAKERS[qkv](
                    d_model,
                    n_heads,
                    head_dim,
                    fc_out.value_width,
                    bias=bias if qkv_bias is None else qkv_bias,
                    starts=starts,
                    identity_values=value == "identity",
                    orthogonal_values=value == "rotation_init",
                    zero_queries=scores == "shaped",
                ),
                fc_out,
                context=context,
                dropout=in_branch,
                divisor=divisor,
                branch_scale=_scale(branch_scale, fc_out),
                explicit=explicit_attention,
                learned_scale=branch_scale == "learned",
                shaped=Shaped(n_heads) if scores == "shaped" else None,
            )
            norms = norm(norm_kind, d_model, bias=bias), norm(norm_kind, d_model, bias=bias)
            one, two = norms[0], None if block == "parallel" else norms[1]
            parts = attention, _mlp(mlp, starts, layer, d_model=d_model, d_ff=d_ff, bias=bias), (one, two)
            return Block(*parts, kind=block, dropout=in_branch, dropout_after_norm=after_norm)

        output_start = starts.of("output", n_in=d_model, n_out=vocab_size)
        token_start = output_start if tied_embedding else starts.of("embedding", n_in=vocab_size, n_out=d_model)
        position_start = starts.of("positions", n_in=context, n_out=d_model)
        self.tokens = Embedding(vocab_size, d_model, start=token_start)
        self.positions = Embedding(context, d_model, start=position_start) if positions == "learned" else None
        self.blocks = nn.ModuleList(make_block(layer) for layer in range(n_layers))
        self.norm = norm(norm_kind, d_model, bias=bias) if block in PRE_NORM else None
        self.output = None
        if not tied_embedding:
            of_bias = starts.of("output_bias", n_in=d_model, n_out=vocab_size)
            self.output = Linear(d_model, vocab_size, bias=output_bias, start=output_start, bias_start=of_bias)

        # Scaled like the token embedding it is added to, so that neither drowns the other at the start.
        sinus = sinusoidal_table(context, d_model) * token_start.std if positions == "sinusoidal" else None
        cos, sin = rotary_tables(context, head_dim) if positions == "rope" else (None, None)
        for name, table in (("sinus_TC", sinus), ("cos", cos), ("sin", sin)):
            self.register_buffer(name, table, persistent=False)
        initialise(self, init_seed)
        self._connect()

    def _connect(self) -> None:
        """Let every fc_out see its layer's value weights and the layers below it."""
        placed: list[FcOut] = []
        for block in self.blocks:
            attention = cast(Block, block).attention
            attention.fc_out.connect(attention.qkv.value_weight, tuple(placed))
            placed.append(attention.fc_out)

    def forward(self, ids_BT: Tensor, past: Sequence[Past] | None = None) -> Tensor:
        """Logits for the next token at every position: `[B T vocab_size]`.

        `past`, one a layer, holds the tokens before these and takes these in; all of them must fit into the context.
        """
        start = past[0].length if past else 0
        x_BTC = self.embedded(ids_BT, start)
        rotary = self.rotary(x_BTC, start)
        for i, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, rotary, past[i]) if past else block(x_BTC, rotary)
        return self.logits(x_BTC)

    def embedded(self, ids_BT: Tensor, start: int = 0) -> Tensor:
        """The stream before the first block, `[B T C]`; the first token stands at position `start`."""
        stop = start + ids_BT.shape[1]
        x_BTC = self.tokens(ids_BT)
        if self.positions is not None:
            x_BTC = x_BTC + self.positions.weight[start:stop]
        if self.sinus_TC is not None:
            x_BTC = x_BTC + self.get_buffer("sinus_TC")[start:stop].to(x_BTC.dtype)
        return F.dropout(x_BTC, self.dropout, self.training) if self.dropout else x_BTC

    def logits(self, x_BTC: Tensor) -> Tensor:
        """What the output layer makes of the stream after the last block: `[B T vocab_size]`."""
        if self.norm is not None:
            x_BTC = self.norm(x_BTC)
        return F.linear(x_BTC, self.tokens.weight) if self.output is None else self.output(x_BTC)

    def rotary(self, like: Tensor, start: int) -> tuple[Tensor, Tensor] | None:
        """The tables of angles in the working precision, once for all layers."""
        if self.cos is None:
            return None
        return self.get_buffer("cos")[start:].to(like.dtype), self.get_buffer("sin")[start:].to(like.dtype)

    def loss(self, ids_BT: Tensor, targets_BT: Tensor, *, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats per token, computed in fp32 (`reduction="sum"`: their sum)."""
        logits = self(ids_BT).flatten(0, 1).float()
        return F.cross_entropy(logits, targets_BT.flatten(), reduction=reduction)


def _mlp(kind: str, starts: Starts, layer: int, *, d_model: int, d_ff: int, bias: bool) -> MLP:
    """The MLP of a layer, counted from 0."""
    up, down = (
        Linear(
            n_in,
            n_out,
            bias=bias,
            start=starts.of(name, n_in=n_in, n_out=n_out, layer=layer + 1),
            bias_start=starts.of("mlp_bias", n_in=n_in, n_out=n_out),
        )
        for name, n_in, n_out in (("up", d_model, d_ff), ("down", d_ff, d_model))
    )
    return MLP(up, down, kind=kind)


def _scale(branch_scale: float | str, fc_out: FcOut) -> float:
    """The branch's multiplier; `matched`, and the start of `learned`, makes it as loud as a dense projection would.

    Raises ValueError where the branch starts silent, and where dense's does: a constant 0 would cut the branch off for good.
    """
    if not isinstance(branch_scale, str):
        return branch_scale
    if not fc_out.start_gain:
        raise ValueError(
            f"attention.branch_scale={branch_scale} would match the size of a branch that starts at 0: use 1.0, or another init"
        )
    gain = fc_out.place.dense_gain
    if not gain and branch_scale == "matched":
        raise ValueError(
            "attention.branch_scale=matched: fc_out=dense starts with gain 0 under this init, and a constant 0 would never train: "
            "use attention.branch_scale=learned, which starts at 0 and leaves it, or another init"
        )
    return gain / fc_out.start_gain
