"""Numbers that say what an output projection does, without changing it.

Per head, values and outputs act through OV_h = W_O,h W_V,h alone: W_O,h -> W_O,h G^-1, W_V,h -> G W_V,h changes nothing. What is
computed from OV_h, or from what a head adds to the stream, does not depend on that choice of G.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ROUNDING = 1e-6  # of the largest singular value: weights are kept in float32
NOTHING = 1e-12


def singular_values(W: Tensor) -> Tensor:
    """In falling order, in float64."""
    return torch.linalg.svdvals(W.double())


def stable_rank(s: Tensor) -> float:
    """|W|_F^2 / |W|_2^2 of singular values s (Rudelson & Vershynin 2007): 1 to the rank; 0 for W = 0."""
    top = float(s.max())
    return float(s.square().sum()) / top**2 if top else 0.0


def effective_rank(s: Tensor) -> float:
    """exp(-sum p_i ln p_i), p_i = s_i / sum s, of singular values s (Roy & Vetterli 2007); 0 for W = 0."""
    total = float(s.sum())
    if not total:
        return 0.0
    p = s[s > 0] / total
    return float(torch.exp(-(p * p.log()).sum()))


def head_columns(W_CZ: Tensor, n_heads: int) -> Tensor:
    """The columns that read each head: `[H C V]`."""
    return W_CZ.unflatten(1, (n_heads, -1)).permute(1, 0, 2)


def ov_svd(W_CV: Tensor, value_weight_VC: Tensor) -> tuple[Tensor, Tensor]:
    """U `[C, r]` and s `[r]` of OV_h = W_O,h W_V,h, what a head writes for what it reads (Elhage et al. 2021), in float64.

    r = min(V, C): the product is taken apart by the QR of its factors, which costs V^3 in place of C^3.
    """
    W, V = W_CV.double(), value_weight_VC.double()
    if W.shape[1] >= W.shape[0]:
        u, s, _ = torch.linalg.svd(W @ V, full_matrices=False)
        return u, s
    q, r = torch.linalg.qr(W)
    _, t = torch.linalg.qr(V.T)
    u, s, _ = torch.linalg.svd(r @ t.T)
    return q @ u, s


def output_space(u: Tensor, s: Tensor) -> Tensor:
    """An orthonormal basis of what a head can write, `[C, r]`, r its rank but for rounding in float32."""
    return u[:, s > max(float(s.max()) * ROUNDING, NOTHING)]


def output_overlap(bases: Sequence[Tensor]) -> tuple[float, float]:
    """Mean over pairs of heads of |U_g^T U_h|_F^2 / min(r_g, r_h), and what it is for random spaces: max(r_g, r_h) / C.

    0: heads write to orthogonal spaces; 1: one holds the other. `bases`: `output_space` of each head. nan with fewer than two
    heads that write anything.
    """
    told = [basis for basis in bases if basis.shape[1]]
    pairs = [(a, b) for i, a in enumerate(told) for b in told[i + 1 :]]
    if not pairs:
        return float("nan"), float("nan")
    shared = [float((a.T @ b).square().sum()) / min(a.shape[1], b.shape[1]) for a, b in pairs]
    chance = [max(a.shape[1], b.shape[1]) / a.shape[0] for a, b in pairs]
    return sum(shared) / len(pairs), sum(chance) / len(pairs)


def contributions(fc_out: Callable[[Tensor, Tensor], Tensor], z_BTHV: Tensor, x_BTC: Tensor) -> tuple[Tensor, Tensor]:
    """What each head adds to the branch, `[H B T C]`, and what is left without any, `[B T C]`: y_h = f(z_h alone) - f(0).

    For a map that is linear in z, whatever x does to it, they sum to the output.
    """
    nothing = torch.zeros_like(z_BTHV)
    rest_BTC = fc_out(nothing, x_BTC)
    parts = []
    for head in range(z_BTHV.shape[2]):
        alone = nothing.clone()
        alone[:, :, head] = z_BTHV[:, :, head]
        parts.append(fc_out(alone, x_BTC) - rest_BTC)
    return torch.stack(parts), rest_BTC


def linear_cka(X: Tensor, Y: Tensor) -> float:
    """|Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) of centred columns, X `[N, p]`, Y `[N, q]` (Kornblith et al. 2019): 0 to 1.

    It does not change when either is rotated or scaled. nan where one does not vary.
    """
    X, Y = (a.double() - a.double().mean(0) for a in (X, Y))
    below = float((X.T @ X).norm() * (Y.T @ Y).norm())
    return float((Y.T @ X).square().sum()) / below if below else float("nan")


def rms(x: Tensor) -> float:
    """Root of the mean square of all entries."""
    return float(x.double().square().mean().sqrt())
