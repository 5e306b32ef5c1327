"""Where weights begin: every tensor draws from a generator keyed by (init seed, its dotted name).

Two arms of one seed therefore start with the same value in every tensor that both have, whatever else either of
them contains and in whatever order it is built. Each module owns its `reset_parameters(draw)`; from which distribution a
tensor is drawn is told by the rules of `init=...` (`Starts`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mha_ablate.start_rule import CUT, CUT_STD, GPT2, parsed_rule

__all__ = ["GPT2", "ROTATION", "ZEROS", "Distribution", "Draw", "Starts", "initialise", "sizes_of", "stream"]


@dataclass(frozen=True)
class Distribution:
    """What the entries of a tensor are drawn from: `kind` normal, uniform, truncated (at two scales) or zeros, and its `std`.

    `rotation` is a random orthogonal map times `std`, of gain `std` where it is square.
    """

    kind: str
    std: float

    def of_std(self, std: float) -> Distribution:
        """The same kind with another spread; of zeros a normal one."""
        return replace(self, std=std, kind="normal" if self.kind == "zeros" else self.kind)


ZEROS, ROTATION = Distribution("zeros", 0.0), Distribution("rotation", 1.0)


@dataclass(frozen=True)
class Starts:
    """The rules of an init at the sizes of a model: `of("up", n_in=128, n_out=512)` is what W_up is drawn from.

    `rules` has a rule for each of `GPT2`'s names, `sizes` a value for each of `mha_ablate.start_rule.SIZES`.
    """

    rules: Mapping[str, str]
    sizes: Mapping[str, float]

    def of(self, name: str, *, n_in: int, n_out: int, layer: int | None = None) -> Distribution:
        """The distribution of one tensor; `layer` counts from 1. Raises ValueError where its rule has no value."""
        rule = parsed_rule(self.rules[name])
        more = {} if layer is None else {"l": layer}
        try:
            return Distribution(rule.kind, rule.std({**self.sizes, "n_in": n_in, "n_out": n_out, **more}))
        except ValueError as error:
            raise ValueError(f"init.{name}={self.rules[name]}: {error}") from error


def sizes_of(
    *, d_model: int, n_heads: int, head_dim: int, n_layers: int, d_ff: int, divisor: float
) -> dict[str, float]:
    """The letters of a rule; `divisor` is what scores are divided by."""
    width = n_heads * head_dim
    return {"C": d_model, "H": n_heads, "D": head_dim, "K": width, "L": n_layers, "F": d_ff, "S": divisor}


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
    def fill(self, name: str, tensor: Tensor, start: Distribution, *, exact: bool = False) -> None:
        """Fill `tensor` from a distribution.

        `exact` scales each matrix, the last two axes, to an rms of `start.std`: a small one would miss it by chance.
        """
        if tensor.device.type == "meta":
            return
        if start.std == 0:
            tensor.zero_()
        elif start.kind == "rotation":
            self.orthogonal(f"{name}.orthogonal", tensor, start.std)
        else:
            tensor.copy_(self._of_unit_std(name, tensor.shape, start.kind, exact=exact) * start.std)

    @torch.no_grad()
    def fill_rows(self, name: str, tensor: Tensor, blocks: Sequence[tuple[int, Distribution]]) -> None:
        """Fill blocks of rows, each `(rows, its distribution)`, from the one stream of the whole tensor.

        A block that two tensors have starts alike in both, though others of their blocks differ in their distribution.
        """
        if tensor.device.type == "meta":
            return
        whole = {
            kind: self._of_unit_std(name, tensor.shape, kind)
            for kind in {start.kind for _, start in blocks if start.std and start.kind != "rotation"}
        }
        first = 0
        for rows, start in blocks:
            block = tensor[first : first + rows]
            if start.kind in whole and start.std:
                block.copy_(whole[start.kind][first : first + rows] * start.std)
            else:
                self.fill(name, block, start)
            first += rows

    def _of_unit_std(self, name: str, shape: Sequence[int], kind: str, *, exact: bool = False) -> Tensor:
        generator = self._generator(name)
        if kind == "uniform":
            values = (2 * torch.rand(shape, generator=generator) - 1) * math.sqrt(3)
        elif kind == "truncated":
            share = math.erf(CUT / math.sqrt(2))  # of a normal that lies within the cut
            u = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
            values = (torch.erfinv(u * share) * (math.sqrt(2) / CUT_STD)).float()
        else:
            values = torch.randn(shape, generator=generator)
        return values / values.square().mean((-2, -1), keepdim=True).sqrt() if exact else values

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
