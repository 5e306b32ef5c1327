"""AdamW over flat buffers: one fp32 master, one working copy that the model computes in."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FlatAdamW:
    """AdamW with decoupled decay on matrices alone (Loshchilov & Hutter 2019), the gradient clipped by its norm.

    All parameters become views of one flat working buffer of type `dtype`; master and moments stay fp32. Two fused
    calls a step (decayed, not decayed) replace one per tensor, and `torch.optim`, whose import costs a second, is not needed.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dtype: torch.dtype,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
    ) -> None:
        params = sorted((p for p in model.parameters() if p.requires_grad), key=lambda p: p.dim() < 2)
        self.frozen = [(p, p.data) for p in model.parameters() if not p.requires_grad]
        for p, values in self.frozen:
            p.data = values.to(dtype)
        self.decayed = sum(p.numel() for p in params if p.dim() >= 2)
        self.master = torch.cat([p.detach().float().reshape(-1) for p in params])
        self.working = self.master if dtype == torch.float32 else self.master.to(dtype)
        self.grad = torch.zeros_like(self.working)
        self.collected, self.parts = torch.zeros(0), 0
        self.mean, self.square = torch.zeros_like(self.master), torch.zeros_like(self.master)
        self.steps = torch.zeros((), device=self.master.device)
        self.weight_decay = weight_decay
        self.constants = {"beta1": betas[0], "beta2": betas[1], "eps": eps, "amsgrad": False, "maximize": False}
        self.params = params
        self._point_to(self.working, self.grad)

    def _point_to(self, values: Tensor, grads: Tensor | None) -> None:
        start = 0
        for p in self.params:
            stop = start + p.numel()
            p.data = values[start:stop].view(p.shape)
            p.grad = None if grads is None else grads[start:stop].view(p.shape)
            start = stop

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradient so far to a sum in fp32, which the next `step` takes: several backward passes make one update."""
        if not len(self.collected):
            self.collected = torch.zeros_like(self.master)
        self.collected += self.grad
        self.parts += 1
        self.grad.zero_()

    @torch.no_grad()
    def step(self, lr: float, clip: float) -> Tensor:
        """One update at rate `lr`; gradients longer than `clip` are shortened to it (0: never). Returns their norm."""
        grad = self.collected if self.parts else self.grad.float()  # the buffer itself where it is fp32 already
        norm = torch.linalg.vector_norm(grad)
        if clip:
            grad.mul_((clip / (norm + 1e-6)).clamp(max=1.0))
        self.steps += 1
        for part, decay in ((slice(0, self.decayed), self.weight_decay), (slice(self.decayed, None), 0.0)):
            torch._fused_adamw_(
                [self.master[part]],
                [grad[part]],
                [self.mean[part]],
                [self.square[part]],
                [],
                [self.steps],
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

    def release(self) -> None:
        """Give the model its fp32 masters back: what is saved and inspected after training."""
        self._point_to(self.master, None)
        for p, values in self.frozen:
            p.data = values
