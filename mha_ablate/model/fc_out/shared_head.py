"""One projection that all heads share, and none across heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mha_ablate.model.fc_out.base import Place, WithBias
from mha_ablate.model.init import Draw


class SharedHead(WithBias):
    """y_h = W z_h (+ b): one D x D map, the same for every head.

    Shapes: W `[D, D]`, b `[C]` where model.bias is set. Legal only where n_heads x head_dim = d_model. W folds into W_V,
    under attention=split too, whose heads share W_V as well. Start: dense's gain.

    Parameters: D^2
    FLOPs: 2 H D^2
    Class: N
    Source: a control: the smallest second factor that is a full matrix inside a head
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.keep_width("shared_head")
        self.weight = nn.Parameter(torch.empty(place.head_dim, place.head_dim))

    def start(self, draw: Draw) -> None:
        """Dense's gain over D inputs."""
        draw.fill("weight", self.weight, self.place.map_start(self.place.head_dim), exact=True)

    def mapped(self, z_BTHV: Tensor) -> Tensor:
        """Map each head, then concatenate."""
        return F.linear(z_BTHV, self.weight).flatten(-2)
