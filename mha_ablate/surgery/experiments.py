"""What the loss says to each change of the output projection, on fixed windows of text.

Every delta is loss(changed) - loss(untouched), in nats per token. Beside the removal of a part stands its null: W_O plus a
random matrix of that part's Frobenius norm, in several draws. What costs no more than its null is not worth more than its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mha_ablate.surgery.swap import Bench, Concatenated, Fixed, Maps, OnHeads, attentions, resampled, without_head
from mha_ablate.surgery.truncate import block_diagonal, cross_head_energy, order_of_heads, random_like, ranks, truncated

Row = dict[str, Any]
ROUNDING = 1e-9


@dataclass(frozen=True)
class Subject:
    """An untouched model on its bench, its losses, and W `[C, H*V]` and b `[C]` of every layer: None where it is no matrix."""

    bench: Bench
    affine: Sequence[tuple[Tensor, Tensor]] | None
    n_heads: int
    draws: int
    losses: Tensor  # of every window, untouched, [N]

    @property
    def aligned(self) -> bool:
        """Whether z is as wide as the stream, so that it could go there as it is."""
        own = attentions(self.bench.model)[0].fc_out
        return own.value_width * self.n_heads == own.place.d_model

    def delta(self, maps: Maps) -> float:
        """What a change costs."""
        return self.cost(maps)["delta"]

    def cost(self, maps: Maps) -> Row:
        """The same, and its standard error over windows: `delta`, `se` (None with one window)."""
        return self.over_windows(self.apart(maps))

    def apart(self, maps: Maps) -> Tensor:
        """What a change costs in every window, `[N]`."""
        return self.bench.losses(maps) - self.losses

    def over_windows(self, apart: Tensor) -> Row:
        """Mean and standard error of what a change costs in every window."""
        se = float(apart.std()) / len(apart) ** 0.5 if len(apart) > 1 else None
        return {"delta": float(apart.mean()), "se": se}

    def changed(self, change: Callable[[Tensor], Tensor]) -> Row:
        """`change` made to every W, and its null."""
        assert self.affine is not None
        maps = {layer: Fixed(change(W), b) for layer, (W, b) in enumerate(self.affine)}
        apart = [maps[layer].get_buffer("weight") - W for layer, (W, _) in enumerate(self.affine)]
        return {**self.cost(maps), "null": self.null(dict(enumerate(apart)))}

    def null(self, changes: dict[int, Tensor]) -> Row | None:
        """Random changes of the same norms in the same layers; None where nothing is changed."""
        if self.affine is None or not any(float(change.norm()) for change in changes.values()):
            return None
        found = []
        for draw in range(self.draws):
            maps = {}
            for layer, change in changes.items():
                W, b = self.affine[layer]
                maps[layer] = Fixed(W + random_like(change, 1000 * draw + layer), b)
            found.append(self.delta(maps))
        return spread(found)


def spread(values: Sequence[float]) -> Row:
    """Mean, lowest and highest of a few draws."""
    return {"mean": sum(values) / len(values), "low": min(values), "high": max(values), "draws": len(values)}


def whole_model(subject: Subject) -> list[Row]:
    """Changes to all layers at once. Those that do not apply carry `why` in place of a delta."""
    return [
        {"name": "identity", **_identity(subject, loud=False)},
        {"name": "identity_as_loud", **_identity(subject, loud=True)},
        {"name": "no_cross_head", **_no_cross_head(subject)},
        {"name": "shuffled_heads", **_shuffled(subject)},
    ]


NO_MATRIX = "fc_out is no fixed matrix: the sublayer's input has a say in it"


def _identity(subject: Subject, *, loud: bool) -> Row:
    """W_O = I; or s I with the Frobenius norm of W_O, which keeps the branch about as loud."""
    if not subject.aligned:
        return {"why": "the values are together not as wide as the stream, so the identity does not align them"}
    if subject.affine is None:
        if loud:
            return {"why": NO_MATRIX}
        plain = dict.fromkeys(range(len(subject.bench.model.blocks)), Concatenated())
        return {**subject.cost(plain), "null": None}
    eye = torch.eye(len(subject.affine[0][1])).to(subject.affine[0][0])
    if not loud and all(torch.equal(W, eye) for W, _ in subject.affine):
        return {"why": "W_O is the identity already"}
    return subject.changed(lambda W: eye * (W.norm() / eye.norm() if loud else 1.0))


def _no_cross_head(subject: Subject) -> Row:
    if subject.affine is None:
        return {"why": NO_MATRIX}
    if subject.n_heads == 1:
        return {"why": "one head has none to mix with"}
    if not subject.aligned:
        return {"why": "W_O is not square in blocks of heads"}
    if all(cross_head_energy(W, subject.n_heads) < ROUNDING for W, _ in subject.affine):
        return {"why": "W_O maps no head to another's slice"}
    return subject.changed(partial(block_diagonal, n_heads=subject.n_heads))


def _shuffled(subject: Subject) -> Row:
    """Each head's outputs read by another head's columns."""
    if subject.n_heads == 1:
        return {"why": "one head has no other place"}
    found: list[Tensor] = []
    for draw in range(subject.draws):
        maps = {}
        for layer, attention in enumerate(attentions(subject.bench.model)):
            order = order_of_heads(subject.n_heads, 1000 * draw + layer)
            maps[layer] = OnHeads(attention.fc_out, lambda z, order=order: z[:, :, order])
        found.append(subject.apart(maps))
    told = spread([float(apart.mean()) for apart in found])
    return {**subject.over_windows(torch.stack(found).mean(0)), "null": None, "spread": told}


def rank_curve(subject: Subject) -> tuple[list[Row], str | None]:
    """Loss against the rank that W_O is cut to in every layer, with nulls; or why there is no such curve."""
    if subject.affine is None:
        return [], NO_MATRIX
    values = [torch.linalg.svdvals(W) for W, _ in subject.affine]
    if all(float(s.max() - s.min()) <= 1e-5 * float(s.max()) for s in values):
        return [], "the singular values of W_O are all the same, so none come last"
    full = min(subject.affine[0][0].shape)
    return [{"rank": r, **subject.changed(partial(truncated, rank=r))} for r in ranks(full)], None


def each_head(subject: Subject) -> list[Row]:
    """One head at a time silenced: by zeros, by its mean over the text, by its outputs in other windows of the text.

    Zeros take away the head's mean as well, which later layers count on, and so overstate what it does. `null`: W_O of that layer
    plus a random matrix, over all heads, of the norm of the head's columns. `resample` is None with a single window.
    """
    rows = []
    for layer, attention in enumerate(attentions(subject.bench.model)):
        mean_HV = subject.bench.seen(layer)[0].mean((0, 1))
        for head in range(subject.n_heads):
            edits: dict[str, Callable[[Tensor], Tensor]] = {
                "zero": partial(without_head, head=head),
                "mean": partial(without_head, head=head, instead=mean_HV[head]),
            }
            if min(len(ids) for ids, _ in subject.bench.batches) > 1:
                edits["resample"] = partial(resampled, head=head, shift=1)
            costs = {k: subject.cost({layer: OnHeads(attention.fc_out, edit)}) for k, edit in edits.items()}
            row = {"layer": layer, "head": head, "resample": None, **{k: cost["delta"] for k, cost in costs.items()}}
            null = subject.null({layer: _columns(subject, layer, head)}) if subject.affine else None
            rows.append({**row, "se": {k: cost["se"] for k, cost in costs.items()}, "null": null})
    return rows


def _columns(subject: Subject, layer: int, head: int) -> Tensor:
    """W_O with all columns but one head's set to zero."""
    assert subject.affine is not None
    W = subject.affine[layer][0]
    kept = torch.zeros_like(W)
    width = W.shape[1] // subject.n_heads
    kept[:, head * width : (head + 1) * width] = W[:, head * width : (head + 1) * width]
    return kept


def evaluations(n_layers: int, n_heads: int, full_rank: int, draws: int) -> float:
    """How many whole passes over the windows all of this takes; a change of one layer counts for half of one."""
    all_layers = 1 + 2 * (1 + draws) + (1 + draws) + draws + len(ranks(full_rank)) * (1 + draws)
    return all_layers + n_layers * n_heads * (3 + draws) / 2
