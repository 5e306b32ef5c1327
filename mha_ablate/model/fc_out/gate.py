"""The standard output projection with a gate that the sublayer's input opens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mha_ablate.model.fc_out.base import FcOut, Place, one_of
from mha_ablate.model.init import Distribution
from mha_ablate.model.layers import Linear

GATE_STD = 0.02  # small under every init: gates are near 1/2, and what they stand before is as loud as dense


class Gate(FcOut):
    """y = W_O (z * sigmoid(G x + c)) (+ b): the sublayer's input x opens and closes what goes into W_O.

    Shapes: W_O `[C, H*D]`, G `[H*D, C]`, b `[C]` and c where model.bias is set. Settings `per`: channel, or head (G `[H, C]`);
    `at`: before W_O, or after it (G `[C, C]`, y = (W_O z (+ b)) * sigmoid(G x + c); per=channel alone). Start: gates near 1/2
    whatever the init (G is N(0, 0.02), c is 0), and so W_O twice as loud as dense's.

    Parameters: 2 C H D
    Parameters [per=head]: C H D + C H
    Parameters [at=after]: C H D + C^2
    FLOPs: 4 C H D
    FLOPs [per=head]: 2 C H D + 2 C H
    FLOPs [at=after]: 2 C H D + 2 C^2
    Elementwise: 2 H D
    Elementwise [per=head]: H + H D
    Elementwise [at=after]: 2 C
    Class: other: D and more: a non-linearity between V and O
    Source: Qiu et al., arXiv 2505.06708: before W_O it helps, after W_O it does nothing
    """

    def __init__(self, place: Place, *, per: Any = "channel", at: Any = "before") -> None:
        super().__init__(place)
        self.per: str = one_of("gate", "per", per, "channel", "head")
        self.at: str = one_of("gate", "at", at, "before", "after")
        if per == "head" and at == "after":
            raise ValueError(
                "fc_out=gate: fc_out.at=after has no heads left to gate: use fc_out.per=channel or fc_out.at=before"
            )
        gates = place.n_heads if per == "head" else place.width if at == "before" else place.d_model
        self.map = Linear(
            place.width,
            place.d_model,
            bias=place.bias,
            start=place.map_start(place.width, 2 * place.dense_gain),
            bias_start=place.bias_start,
        )
        self.gate = Linear(place.d_model, gates, bias=place.bias, start=Distribution("normal", GATE_STD))

    @property
    def elementwise_flops(self) -> int:
        """A sigmoid a gate, a product a gated channel."""
        p = self.place
        return self.gate.weight.shape[0] + (p.width if self.at == "before" else p.d_model)

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:
        """Concatenate the heads, gate, project; or project, gate."""
        open_BTG = torch.sigmoid(self.gate(x_BTC))
        if self.at == "after":
            return self.map(z_BTHV.flatten(-2)) * open_BTG
        if self.per == "head":
            return self.map((z_BTHV * open_BTG.unsqueeze(-1)).flatten(-2))
        return self.map(z_BTHV.flatten(-2) * open_BTG)
