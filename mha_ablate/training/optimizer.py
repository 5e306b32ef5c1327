"""AdamW over flat buffers: one fp32 master, one working copy that the model computes in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class FlatAdamW:
    """AdamW with decoupled decay on matrices alone (Loshchilov & Hutter 2019), the gradient clipped by its norm.

    All parameters become views of one flat working buffer of type `dtype`; master and moments stay fp32. Two fused
    calls a step (decayed, not decayed) replace one per tensor, and `torch.optim`, whose import costs a second, is not needed.

    Shapes: every buffer is `[P]` for one model; for a list of S models of one architecture it is `[S, P]`, a row for
    each, and whatever is done to one row depends on that row alone: norm, clipping, update.
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        *,
        dtype: torch.dtype,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
    ) -> None:
        models = [model] if isinstance(model, nn.Module) else list(model)
        self.dtype = dtype
        self.params = [_matrices_first(m) for m in models]
        names = {id(p): name for name, p in models[0].named_parameters()}
        self.names = [names[id(p)] for p in self.params[0]]
        self.frozen = [(p, p.data) for m in models for p in m.parameters() if not p.requires_grad]
        for p, values in self.frozen:
            p.data = values.to(dtype)
        self.decayed = sum(p.numel() for p in self.params[0] if p.dim() >= 2)
        self.master = _filled(self.params)[0] if isinstance(model, nn.Module) else _filled(self.params)
        self.working = self.master if dtype == torch.float32 else self.master.to(dtype)
        self.grad = torch.zeros_like(self.working)
        self.collected, self.parts = torch.zeros(0), 0
        self.mean, self.square = torch.zeros_like(self.master), torch.zeros_like(self.master)
        self.steps = torch.zeros((), device=self.master.device)
        self.weight_decay = weight_decay
        self.constants = {"beta1": betas[0], "beta2": betas[1], "eps": eps, "amsgrad": False, "maximize": False}
        self._point_to(self.working, self.grad)

    @property
    def state(self) -> list[Tensor]:
        """All that a step changes."""
        return [self.master, self.working, self.grad, self.mean, self.square, self.steps]

    def stacked(self) -> list[Tensor]:
        """Each parameter of S models as one leaf `[S, *shape]` over the working buffer, in the buffer's order."""
        views, start = [], 0
        for p in self.params[0]:
            stop = start + p.numel()
            views.append(self.working[:, start:stop].view(-1, *p.shape).detach().requires_grad_())
            start = stop
        return views

    def _point_to(self, values: Tensor, grads: Tensor | None) -> None:
        for lane, (params, row) in enumerate(zip(self.params, self._rows(values), strict=True)):
            grad, start = None if grads is None else self._rows(grads)[lane], 0
            for p in params:
                stop = start + p.numel()
                p.data = row[start:stop].view(p.shape)
                p.grad = None if grad is None else grad[start:stop].view(p.shape)
                start = stop

    def _rows(self, buffer: Tensor) -> Sequence[Tensor]:
        """The buffer model by model, each `[P]`."""
        return buffer.view(len(self.params), -1).unbind()

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradient so far to a sum in fp32, which the next `step` takes: several backward passes make one update."""
        if not len(self.collected):
            self.collected = torch.zeros_like(self.master)
        self.collected += self.grad
        self.parts += 1
        self.grad.zero_()

    @torch.no_grad()
    def step(self, lr: float | Tensor, clip: float) -> Tensor:
        """One update at rate `lr`; gradients longer than `clip` are shortened to it (0: never). Returns their norm, `[]` or `[S]`.

        A rate in a tensor lies on the parameters' device and is read there, which a recorded step needs.
        """
        grad = self.collected if self.parts else self.grad.float()  # the buffer itself where it is fp32 already
        norm = torch.linalg.vector_norm(grad, dim=-1)
        if clip:
            grad.mul_((clip / (norm + 1e-6)).clamp(max=1.0).unsqueeze(-1))
        self.steps += 1
        master, grads, mean, square = (self._rows(b) for b in (self.master, grad, self.mean, self.square))
        for part, decay in ((slice(0, self.decayed), self.weight_decay), (slice(self.decayed, None), 0.0)):
            torch._fused_adamw_(
                [row[part] for row in master],
                [row[part] for row in grads],
                [row[part] for row in mean],
                [row[part] for row in square],
                [],
                [self.steps] * len(self.params),
                lr=lr,
                weight_decay=decay,
                **self.constants,
            )
        if self.working is not self.master:
            self.working.copy_(self.master)
        if self.parts:
            self.collected.zero_()
            self.parts = 0
        self.grad.zero_()
        return norm

    def snapshot(self, lane: int) -> dict[str, Tensor]:
        """What one model's updates so far have led to, in fp32: `weights.NAME`, `mean.NAME` and `square.NAME`, views all."""
        found: dict[str, Tensor] = {}
        for kind, buffer in self._kept.items():
            start = 0
            for name, p in zip(self.names, self.params[lane], strict=True):
                found[f"{kind}.{name}"] = self._rows(buffer)[lane][start : start + p.numel()].view(p.shape)
                start += p.numel()
        return found

    @torch.no_grad()
    def restore(self, snapshots: Sequence[Mapping[str, Tensor]], steps: int) -> None:
        """Stand where these snapshots, one a model, were taken, after `steps` updates. Raises ValueError where they do not fit."""
        for lane, snapshot in enumerate(snapshots):
            here = self.snapshot(lane)
            if {k: v.shape for k, v in here.items()} != {k: v.shape for k, v in snapshot.items()}:
                raise ValueError("a state of other tensors than those of this model")
            for name, values in snapshot.items():
                here[name].copy_(values)
        self.steps.fill_(steps)
        if self.working is not self.master:
            self.working.copy_(self.master)

    @property
    def _kept(self) -> dict[str, Tensor]:
        return {"weights": self.master, "mean": self.mean, "square": self.square}

    @contextmanager
    def in_full(self) -> Iterator[None]:
        """Inside, the models have their fp32 masters, to be saved."""
        self.release()
        try:
            yield
        finally:
            self._point_to(self.working, self.grad)
            for p, values in self.frozen:
                p.data = values.to(self.dtype)

    def release(self) -> None:
        """Give the models their fp32 masters back: what is saved and inspected after training."""
        self._point_to(self.master, None)
        for p, values in self.frozen:
            p.data = values


def _filled(params: list[list[nn.Parameter]]) -> Tensor:
    """The values of S models in fp32, a row for each: `[S, P]`."""
    first = params[0]
    buffer = torch.empty(len(params), sum(p.numel() for p in first), device=first[0].device)
    with torch.no_grad():
        for row, model in zip(buffer, params, strict=True):
            for part, p in zip(row.split([p.numel() for p in model]), model, strict=True):
                part.copy_(p.reshape(-1))
    return buffer


def _matrices_first(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that train: those that decay, then the others, so that each kind lies in one piece."""
    return sorted((p for p in model.parameters() if p.requires_grad), key=lambda p: p.dim() < 2)
