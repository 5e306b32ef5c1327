"""How many numbers decide what the heads of a layer can write: the degrees of freedom of its OV maps, by algebra."""

from __future__ import annotations


def freedom_lost(d_model: int, n_heads: int, *, split: bool) -> float:
    """What removing a full projection takes from a layer's OV maps, in numbers, for n_heads x head_dim = d_model.

    Fused: each head's map is a product of rank D, and all of them together have 2 d^2 - d^2 / H degrees of freedom with the
    projection and d^2 without it: d^2 (1 - 1 / H) are lost, nothing at one head. Split, where one D x D map makes every head's
    values: d^2 with it and d^2 / H^2 without: d^2 (1 - 1 / H^2).
    """
    return d_model**2 * (1 - 1 / n_heads ** (2 if split else 1))
