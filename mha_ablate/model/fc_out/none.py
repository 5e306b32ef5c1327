"""No output projection."""

from __future__ import annotations

from torch import Tensor

from mha_ablate.model.fc_out.base import FcOut, Place


class NoProjection(FcOut):
    """y = z: the concatenated heads go straight to the residual stream.

    Legal only where n_heads x head_dim = d_model: nothing is left that could change the width.

    Parameters: 0
    FLOPs: 0
    Class: N: per head, W_V alone writes to that head's slice of the residual
    Source: He & Hofmann, arXiv 2311.01906, section 4.2 (W_V and W_P removed); here W_V stays
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keep_width("none")

    @property
    def start_gain(self) -> float:
        """1: the branch is as loud as its values."""
        return 1.0

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:  # noqa: ARG002
        """Concatenate the heads."""
        return z_BTHV.flatten(-2)
