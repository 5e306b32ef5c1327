"""The seam: what attention asks of its output projection, and what it tells it.

A variant is one subclass of `FcOut` in a file of its own and one YAML that names it. It learns where it stands from
`Place`, gets the heads' outputs and the sublayer's input in `forward`, may want values of another width
(`value_width`), and may tie itself to the value weights or to other layers (`connect`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mha_ablate.model.init import dense_gain, residual_std


@dataclass(frozen=True)
class Place:
    """Where an output projection stands: the sizes around it and the layer it is in."""

    d_model: int
    n_heads: int
    head_dim: int
    n_layers: int
    layer: int
    bias: bool

    @property
    def width(self) -> int:
        """Channels of z, the concatenated heads: n_heads x head_dim."""
        return self.n_heads * self.head_dim

    @property
    def dense_std(self) -> float:
        """Standard deviation with which a dense W_O starts."""
        return residual_std(self.n_layers)

    @property
    def dense_gain(self) -> float:
        """rms(y) / rms(z) at the start of a dense W_O. Every learned map starts with this gain."""
        return dense_gain(self.width, self.n_layers)


class FcOut(nn.Module):
    """Base of the variants: maps the heads' outputs z to what is added to the residual stream.

    Subclasses define `forward`, and `reset_parameters(draw)` if they have parameters. Their docstring opens with the formula.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    @property
    def value_width(self) -> int:
        """V: how wide each head's values are. head_dim unless the variant wants another width."""
        return self.place.head_dim

    @property
    def start_gain(self) -> float:
        """rms(y) / rms(z) at initialisation. A learned map starts with dense's, so that arms start equally loud."""
        return self.place.dense_gain

    def connect(self, value_weight: Callable[[], Tensor], earlier: Sequence[FcOut]) -> None:
        """Called once, when all layers stand: tie parameters here.

        `value_weight()` gives the weights that make the values, `[H V C]` (v_h = x W_h^T), alive in the graph.
        `earlier` holds the fc_out of the layers below, first layer first.
        """

    def forward(self, z_BTHV: Tensor, x_BTC: Tensor) -> Tensor:
        """Map the heads' outputs to the residual. `z: [B T H V]`, the sublayer's input `x: [B T C] -> [B T C]`."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")
