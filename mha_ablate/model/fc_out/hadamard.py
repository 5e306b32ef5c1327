"""A fixed Walsh-Hadamard transform, then a learned gain per channel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias, refused
from mha_ablate.model.init import Draw


class Hadamard(WithBias):
    """y = g * (I kron H_B) z / sqrt(B) (+ b): a fixed Walsh-Hadamard transform of blocks of B channels, then a gain per channel.

    Shapes: g `[C]`, b `[C]` where model.bias is set. Legal only where n_heads x head_dim = d_model. Setting `block` = B: a
    power of two that divides d_model, the largest one if null. Sums and differences of pairs, log2(B) times, take the
    place of a matrix product. Start: every gain is dense's.

    Parameters: C
    FLOPs: 0
    Elementwise: C log2(B) + C
    Class: other: fixed mixing, inside blocks of B channels
    Source: arXiv 2603.08343
    """

    def __init__(self, place: Place, *, block: Any = None) -> None:
        super().__init__(place)
        self.keep_width("hadamard")
        largest = place.d_model & -place.d_model
        if largest == 1:
            raise ValueError(
                f"fc_out=hadamard needs an even d_model, not {place.d_model}: it pairs channels; blocks are powers of two"
            )
        allowed = [2**i for i in range(1, largest.bit_length())]
        if block is not None and (type(block) is not int or block not in allowed):
            words = f"a power of two that divides d_model = {place.d_model} ({', '.join(map(str, allowed))}) or null"
            raise refused("hadamard", "block", block, words)
        self.block: int = block or largest
        self.gain = nn.Parameter(torch.empty(place.d_model))

    @property
    def elementwise_flops(self) -> int:
        """A sum or difference a channel and stage, a product a channel."""
        return self.place.d_model * self.block.bit_length()

    def start(self, draw: Draw) -> None:
        """As loud as dense."""
        draw.constant(self.gain, self.place.dense_gain)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Concatenate, transform, scale each channel."""
        sums = _WalshHadamard.apply(z_BTHV.flatten(-2), self.block)
        return sums * (self.gain / math.sqrt(self.block))


class _WalshHadamard(torch.autograd.Function):
    """H_B of every B channels in turn, not normalised. H_B is symmetric, so that the gradient takes the same way."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, block: int) -> Tensor:
        shape = x.shape
        apart = 1
        while apart < block:
            a, b = x.reshape(-1, 2, apart).unbind(1)
            x = torch.stack((a + b, a - b), 1)
            apart *= 2
        return x.reshape(shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:  # noqa: ARG004
        ctx.block = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _WalshHadamard.apply(grads[0], ctx.block), None  # pyright: ignore[reportReturnType]
