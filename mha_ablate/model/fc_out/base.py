"""The seam: what attention asks of its output projection, and what it tells it.

A variant is one subclass of `FcOut` in a file of its own and one YAML that names it. It learns where it stands from
`Place`, gets the heads' outputs and the sublayer's input in `forward`, may want values of another width
(`value_width`), and may tie itself to the value weights or to other layers (`connect`).

Its docstring opens with the formula, and has a line each for `Parameters:` (trained), `Frozen:` (if any), `FLOPs:` (matrix
products, by token), `Elementwise:` (other FLOPs, if any), `Class:` and `Source:`. Tests evaluate the first four, which count
one layer and no bias (`mha_ablate.formula`). A variant that starts otherwise than dense says "the start is the treatment".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mha_ablate.model.init import GPT2, Distribution, Draw, Starts, sizes_of, stream
from mha_ablate.model.layers import shuffle


@dataclass(frozen=True)
class Place:
    """Where an output projection stands: the sizes around it and the layer it is in.

    `value_inputs` is how many channels of the residual each value is a learned sum of, 0 where values are not learned;
    `residual` whether the branch is added to a stream that skips it; `starts` has the rules of the init, GPT-2's where it is None.
    """

    d_model: int
    n_heads: int
    head_dim: int
    n_layers: int
    layer: int
    bias: bool
    value_inputs: int
    residual: bool = True
    starts: Starts | None = None

    @property
    def width(self) -> int:
        """Channels of z, the concatenated heads: n_heads x head_dim."""
        return self.n_heads * self.head_dim

    @property
    def rules(self) -> Starts:
        """The rules of the init."""
        if self.starts is not None:
            return self.starts
        d, D = self.d_model, self.head_dim
        sizes = sizes_of(
            d_model=d, n_heads=self.n_heads, head_dim=D, n_layers=self.n_layers, d_ff=4 * d, divisor=math.sqrt(D)
        )
        return Starts(GPT2, sizes)

    @property
    def dense_start(self) -> Distribution:
        """What a dense W_O is drawn from: as the init has it; without a skip, N(0, 1 / width) whatever the init, of gain 1."""
        if not self.residual:
            return Distribution("normal", 1 / math.sqrt(self.width))
        return self.rules.of("out", n_in=self.width, n_out=self.d_model, layer=self.layer + 1)

    @property
    def dense_gain(self) -> float:
        """rms(y) / rms(z) at the start of a dense W_O. Every learned map starts with this gain.

        0.08 for width 128 and 4 layers under GPT-2's init, whose branch without a projection starts 12 times louder; 0.58 under
        PyTorch's; 0 under one whose branches start silent.
        """
        return self.dense_start.std * math.sqrt(self.width)

    @property
    def fixed_gain(self) -> float:
        """The gain of a map without learned weights that is to start as loud as dense: dense's, or 1 where that is 0.

        A constant 0 would cut the branch off for good.
        """
        return self.dense_gain or 1.0

    @property
    def factor_gains(self) -> tuple[float, float]:
        """Gains of two factors, the first applied first, whose product has dense's.

        Each has the root; where dense's is 0 the last is 0 and the first 1, since two maps of zeros would never train.
        """
        root = math.sqrt(self.dense_gain)
        return (root, root) if root else (1.0, 0.0)

    def map_start(self, n_in: int, gain: float | None = None) -> Distribution:
        """What a map of `n_in` inputs is drawn from, so that its gain is dense's or the one given: of the kind of dense's W_O."""
        gain = self.dense_gain if gain is None else gain
        return self.dense_start.of_std(gain / math.sqrt(n_in))

    @property
    def value_std(self) -> float:
        """Standard deviation with which learned values start. Raises ValueError where they start at 0."""
        n_out = self.width * self.value_inputs // self.d_model  # under attention=split one map serves all heads
        std = self.rules.of("value", n_in=self.value_inputs, n_out=n_out).std
        if not std:
            raise ValueError(
                f"init.value={self.rules.rules['value']}: the values start at 0, and nothing can be tied to that"
            )
        return std

    @property
    def bias_start(self) -> Distribution:
        """What the bias of an output projection is drawn from."""
        return self.rules.of("out_bias", n_in=self.width, n_out=self.d_model)


class FcOut(nn.Module):
    """Base of the variants: maps the heads' outputs z to what is added to the residual stream.

    Subclasses define `forward`, and `reset_parameters(draw)` if they have parameters. Their docstring opens with the formula.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def keep_width(self, name: str) -> None:
        """For variants that keep the width of z: raise ValueError where that is not d_model. `name` is the YAML's."""
        p = self.place
        if p.width != p.d_model:
            raise ValueError(
                f"fc_out={name} cannot align n_heads x head_dim = {p.n_heads} x {p.head_dim} = {p.width} channels with "
                f"d_model = {p.d_model}: use fc_out=dense, or sizes whose product is d_model"
            )

    @property
    def value_width(self) -> int:
        """V: how wide each head's values are. head_dim unless the variant wants another width."""
        return self.place.head_dim

    @property
    def start_gain(self) -> float:
        """rms(y) / rms(z) at initialisation. A learned map starts with dense's, so that arms start equally loud."""
        return self.place.dense_gain

    @property
    def elementwise_flops(self) -> int:
        """FLOPs by token that are no matrix product and that no counter sees: gains, gates, butterflies. A bias is none."""
        return 0

    def connect(self, value_weight: Callable[[], Tensor], earlier: Sequence[FcOut]) -> None:
        """Called once, when all layers stand: tie parameters here.

        `value_weight()` gives the weights that make the values, `[H V C]` (v_h = x W_h^T), alive in the graph.
        `earlier` holds the fc_out of the layers below, first layer first.
        """

    @torch.no_grad()
    def as_affine(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """W `[C, H*V]` and b `[C]` of y = W z + b, in the type of `like`, which is that of the weights; None for any other map.

        W is read off from what comes back for each channel of z alone, so that no variant needs to say it twice. That there
        is nothing else, such as a say of the input x, is checked on random numbers; a variant may say so itself.
        """
        p, V = self.place, self.value_width
        channels = p.n_heads * V
        stream = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=stream, dtype=torch.float64).to(like)

        unit = torch.eye(channels, dtype=like.dtype, device=like.device).view(1, channels, p.n_heads, V)
        b_C = self(torch.zeros_like(unit[:, :1]), drawn(1, 1, p.d_model))[0, 0]
        W_CZ = (self(unit, drawn(1, channels, p.d_model))[0] - b_C).T.contiguous()
        z = drawn(1, 8, p.n_heads, V)
        found, wanted = self(z, drawn(1, 8, p.d_model)), z.flatten(-2) @ W_CZ.T + b_C
        scale = float(wanted.abs().max()) + float(W_CZ.abs().max())
        agree = bool((found - wanted).abs().max() <= math.sqrt(torch.finfo(like.dtype).eps) * scale)
        return (W_CZ, b_C) if agree else None

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:
        """Map the heads' outputs to the residual. `z: [B T H V]`, the sublayer's input `x: [B T C] -> [B T C]`."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")


class WithBias(FcOut):
    """y = mapped(z) (+ b): the base of variants that add a bias of their own, b `[C]`, where model.bias is set.

    Subclasses define `mapped`, and `start(draw)` if they have other parameters.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.bias = nn.Parameter(torch.empty(place.d_model)) if place.bias else None

    def reset_parameters(self, draw: Draw) -> None:
        """The bias starts as the init has it, the rest as `start` has it."""
        if self.bias is not None:
            draw.fill("bias", self.bias, self.place.bias_start)
        self.start(draw)

    def start(self, draw: Draw) -> None:
        """Draw the start of all parameters but the bias."""

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Map the heads' outputs to the residual. `[B T H V] -> [B T C]`."""
        raise NotImplementedError(f"{type(self).__name__} defines no mapped")

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Map, then add the bias."""
        y_BTC = self.mapped(z_BTHV)
        return y_BTC if self.bias is None else y_BTC + self.bias


class FixedOrder(FcOut):
    """y_i = z_p(i): the base of variants that shuffle channels and learn nothing."""

    def __init__(self, place: Place, name: str, layer: str, shuffle_seed: Any) -> None:
        super().__init__(place)
        self.keep_width(name)
        seed = whole(name, "shuffle_seed", shuffle_seed, 0)
        order = torch.randperm(place.width, generator=stream(f"{name}:{place.width}:{layer}:{seed}"))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    @property
    def start_gain(self) -> float:
        """1: the branch is as loud as its values."""
        return 1.0

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Concatenate the heads and shuffle."""
        return shuffle(z_BTHV.flatten(-2), self.get_buffer("order"), self.get_buffer("back"))


# ---- settings: each raises ValueError, in one line, for what a variant does not take. `name` is the YAML's


def refused(name: str, key: str, value: Any, allowed: str) -> ValueError:
    """What to raise: the setting, what it was, what it may be."""
    return ValueError(f"fc_out={name}: fc_out.{key} must be {allowed}, not {value!r}")


def whole(name: str, key: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number from `low` to `high`."""
    if type(value) is not int or value < low or (high is not None and value > high):
        raise refused(name, key, value, f"a whole number from {low} {'up' if high is None else f'to {high}'}")
    return value


def finite(name: str, key: str, value: Any) -> float:
    """A finite number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise refused(name, key, value, "a finite number")
    return float(value)


def one_of(name: str, key: str, value: Any, *allowed: str | bool) -> Any:
    """One of a few words, or true or false."""
    if not any(type(value) is type(a) and value == a for a in allowed):
        words = " or ".join(a if isinstance(a, str) else str(a).lower() for a in allowed)
        raise refused(name, key, value, words)
    return value
