"""The plain parts: linear maps, norms, the MLP and positions. Each draws its own start by name."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.init import ZEROS, Distribution, Draw


class Linear(nn.Module):
    """y = x W^T (+ b). `x: [..., n_in] -> [..., n_out]`; W and b start as their distributions say.

    `start` may be a list of blocks of rows, `(rows, distribution)`: maps that are kept as one.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bias: bool,
        start: Distribution | list[tuple[int, Distribution]],
        bias_start: Distribution = ZEROS,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.empty(n_out)) if bias else None
        self.blocks = start if isinstance(start, list) else [(n_out, start)]
        self.bias_start = bias_start

    def reset_parameters(self, draw: Draw) -> None:
        """Draw weight and bias. A row that both have starts alike in two maps that differ in the others."""
        draw.fill_rows("weight", self.weight, self.blocks)
        if self.bias is not None:
            draw.fill("bias", self.bias, self.bias_start)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last axis."""
        return F.linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """g (x - mean) / sqrt(var + 1e-5) (+ b) over the last axis (Ba et al. 2016)."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def reset_parameters(self, draw: Draw) -> None:
        """Gain 1, bias 0."""
        draw.constant(self.weight, 1.0)
        if self.bias is not None:
            draw.constant(self.bias, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class RMSNorm(nn.Module):
    """g x / sqrt(mean(x^2) + 1e-5) over the last axis (Zhang & Sennrich 2019). It has no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def reset_parameters(self, draw: Draw) -> None:
        """Gain 1."""
        draw.constant(self.weight, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


def norm(kind: str, width: int, *, bias: bool) -> nn.Module:
    """A LayerNorm or an RMSNorm over `width` channels."""
    return LayerNorm(width, bias=bias) if kind == "layernorm" else RMSNorm(width)


ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}  # the exact GELU


class MLP(nn.Module):
    """W_2 act(W_1 x): `[B T C] -> [B T C]` through d_ff channels, W_1 being `up` and W_2 `down`."""

    def __init__(self, up: Linear, down: Linear, *, kind: str) -> None:
        super().__init__()
        self.up, self.down, self.kind = up, down, kind

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Apply both maps with the activation between them."""
        return self.down(ACTIVATIONS[self.kind](self.up(x_BTC)))


class Embedding(nn.Module):
    """One learned vector per id: `[...] -> [..., width]`."""

    def __init__(self, n: int, width: int, *, start: Distribution) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, width))
        self.start = start

    def reset_parameters(self, draw: Draw) -> None:
        """Draw the table."""
        draw.fill("weight", self.weight, self.start)

    def forward(self, ids: Tensor) -> Tensor:
        """Look the vectors up."""
        return F.embedding(ids, self.weight)


def sinusoidal_table(context: int, width: int) -> Tensor:
    """Sin and cos of position / 10000^(2i / width), interleaved: `[context, width]` (Vaswani et al. 2017, 3.5)."""
    position = torch.arange(context, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    return torch.stack(((position * rate).sin(), (position * rate).cos()), dim=-1).flatten(1)


def rotary_tables(context: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cos, and sin with its sign, of position / 10000^(2i / D) for both halves of a head: two `[context, D]` (Su et al. 2021)."""
    rate = torch.exp(torch.arange(0, head_dim, 2, dtype=torch.float32) * (-math.log(10_000.0) / head_dim))
    angle = torch.arange(context, dtype=torch.float32)[:, None] * rate
    return torch.cat((angle.cos(), angle.cos()), -1), torch.cat((-angle.sin(), angle.sin()), -1)


def rotate(x_BHTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + D/2}) of every position by that position's angles, given as `rotary_tables` makes them."""
    T = x_BHTD.shape[-2]
    return _Rotation.apply(x_BHTD, cos_TD[:T], sin_TD[:T])  # pyright: ignore[reportReturnType]


class _Rotation(torch.autograd.Function):
    """A rotation; its gradient is turned back by the same angles, which takes half of what autograd makes of it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x.contiguous()  # products of rows that lie apart would take longer than the copy
        return x * cos + x.roll(x.shape[-1] // 2, -1) * sin

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _Rotation.apply(grads[0], cos, -sin), None, None  # pyright: ignore[reportReturnType]


def shuffle(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """y_i = x_order(i) along the last axis; `back` is the inverse of `order`."""
    return _Shuffle.apply(x, order, back)  # pyright: ignore[reportReturnType]


class _Shuffle(torch.autograd.Function):
    """A permutation; its gradient is shuffled back, where autograd would add into zeros."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, order: Tensor, back: Tensor) -> Tensor:  # noqa: ARG004
        return x.index_select(-1, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        order, back = ctx.saved_tensors
        return _Shuffle.apply(grads[0], back, order), None, None  # pyright: ignore[reportReturnType]
