"""The standard output projection."""

from __future__ import annotations

from torch import Tensor

from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.layers import Linear


class Dense(FcOut):
    """y = W_O z (+ b): one full map, the standard Transformer.

    Shapes: W_O `[C, H*D]`, b `[C]` where model.bias is set. Start: the init's.

    Parameters: C H D
    FLOPs: 2 C H D
    Class: D, the baseline
    Source: Vaswani et al. 2017, section 3.2.2
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.map = Linear(
            place.width, place.d_model, bias=place.bias, start=place.dense_start, bias_start=place.bias_start
        )

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Concatenate the heads and project."""
        return self.map(z_BTHV.flatten(-2))
