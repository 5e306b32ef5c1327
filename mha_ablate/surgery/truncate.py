"""Less of a matrix: fewer directions, no mixing of heads, and random losses of the same size to hold them against."""

from __future__ import annotations

import torch
from torch import Tensor


def truncated(W: Tensor, rank: int) -> Tensor:
    """The nearest matrix of at most `rank`: sum over i <= rank of s_i u_i v_i^T (Eckart & Young 1936). Rank 0 gives zeros."""
    u, s, vh = torch.linalg.svd(W, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


def ranks(full: int) -> list[int]:
    """Where the curve of loss against rank is looked at: 0, powers of two, three quarters, and the full rank."""
    steps = {0, *(2**i for i in range(full.bit_length())), 3 * full // 4, full}
    return sorted(r for r in steps if r <= full)


def block_diagonal(W_CZ: Tensor, n_heads: int) -> Tensor:
    """What of a square W stays inside heads: the H blocks on its diagonal, zeros elsewhere. With one head that is W."""
    kept = torch.block_diag(*(block for block in _blocks(W_CZ, n_heads).unbind()))
    return kept.to(W_CZ)


def _blocks(W_CZ: Tensor, n_heads: int) -> Tensor:
    """`[H D D]`. Raises ValueError for a W that is not square in blocks."""
    if W_CZ.shape[0] != W_CZ.shape[1] or W_CZ.shape[0] % n_heads:
        raise ValueError(
            f"a {' x '.join(map(str, W_CZ.shape))} matrix has no diagonal of {n_heads} equal square blocks"
        )
    D = W_CZ.shape[0] // n_heads
    return W_CZ.view(n_heads, D, n_heads, D).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def cross_head_energy(W_CZ: Tensor, n_heads: int) -> float:
    """1 - |blockdiag W|^2 / |W|^2, the share of W's Frobenius norm that maps a head to another's slice; 0 for W = 0.

    A W of independent entries has 1 - 1/H.
    """
    whole = float(W_CZ.square().sum())
    return 1 - float(_blocks(W_CZ, n_heads).square().sum()) / whole if whole else 0.0


def random_like(change: Tensor, draw: int) -> Tensor:
    """A Gaussian matrix of the shape and the Frobenius norm of `change`; the same `draw` gives the same one."""
    stream = torch.Generator().manual_seed(draw)
    noise = torch.randn(change.shape, generator=stream, dtype=torch.float64).to(change)
    return noise * (change.norm() / noise.norm())


def order_of_heads(n_heads: int, draw: int) -> Tensor:
    """A random order in which no head keeps its place, `[H]`: a random cycle through all of them (Sattolo 1986). H > 1."""
    stream = torch.Generator().manual_seed(draw)
    cycle = torch.randperm(n_heads, generator=stream)
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(-1)
    return order
