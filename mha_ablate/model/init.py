"""Where weights begin: every tensor draws from a generator keyed by (init seed, its dotted name).

Two arms of one seed therefore start with the same value in every tensor that both have, whatever else either of
them contains and in whatever order it is built. Each module owns its `reset_parameters(draw)`.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

STD = 0.02  # GPT-2 (Radford et al. 2019): every weight, residual branches divided by sqrt(2 n_layers)


def residual_std(n_layers: int) -> float:
    """Standard deviation of the last map of a residual branch: 0.02 / sqrt(2 n_layers) (GPT-2)."""
    return STD / math.sqrt(2 * n_layers)


def stream(key: str) -> torch.Generator:
    """A random stream on the CPU that belongs to `key` alone."""
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Draw:
    """Initial values for the tensors of one module, each from its own random stream."""

    def __init__(self, seed: int, prefix: str) -> None:
        self.seed, self.prefix = seed, prefix

    def _generator(self, name: str) -> torch.Generator:
        return stream(f"{self.seed}:{self.prefix}.{name}" if self.prefix else f"{self.seed}:{name}")

    @torch.no_grad()
    def normal(self, name: str, tensor: Tensor, std: float, *, exact: bool = False) -> None:
        """Fill `tensor` with N(0, std^2).

        `exact` scales each matrix, the last two axes, to an rms of `std`: a small one would miss it by chance.
        """
        if tensor.device.type == "meta":
            return
        values = torch.randn(tensor.shape, generator=self._generator(name))
        if exact:
            values /= values.square().mean((-2, -1), keepdim=True).sqrt()
        tensor.copy_(values * std)

    @torch.no_grad()
    def orthogonal(self, name: str, tensor: Tensor, gain: float) -> None:
        """Fill `tensor` `[n_out, n_in]` with a random (semi-)orthogonal map of rms(y) / rms(z) = `gain`.

        The shorter side is orthonormal up to one factor. QR in float64, R's diagonal made positive: uniform over all
        such maps (Mezzadri 2007).
        """
        if tensor.device.type == "meta":
            return
        n_out, n_in = tensor.shape
        tall = torch.randn(max(n_out, n_in), min(n_out, n_in), generator=self._generator(name), dtype=torch.float64)
        q, r = torch.linalg.qr(tall)
        q = q * r.diagonal().sign()
        tensor.copy_((q if n_out >= n_in else q.T) * (gain * math.sqrt(n_out / min(n_out, n_in))))

    @torch.no_grad()
    def constant(self, tensor: Tensor, value: float) -> None:
        """Fill `tensor` with `value`."""
        tensor.fill_(value)


def initialise(model: nn.Module, seed: int) -> None:
    """Call `reset_parameters(draw)` of every module that has one."""
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset(Draw(seed, name))
