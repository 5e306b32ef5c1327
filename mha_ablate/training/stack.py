"""Training steps of several models at once: runs that differ in their seeds alone, side by side in one program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from mha_ablate.data.batches import Windows
from mha_ablate.model.gpt import GPT
from mha_ablate.training.graph import Graphed, Recorder
from mha_ablate.training.optimizer import FlatAdamW


class StackedStep:
    """`step, rate -> losses [S], gradient norms [S]`: one update of S models of one architecture, each on its own batch.

    The same arithmetic as S times `TrainingStep`, in another order of summation: every operation takes all lanes at
    once, as the batch of a matrix product. The sum of the losses is differentiated, and since no lane depends on another
    each gets its own gradient; norm, clipping and update are per lane too, so that a lane which diverges leaves the
    others as they are. `record` makes the whole update one replayed program (`Graphed`); null: it runs as it is.

    Dropout is not stacked: its stream belongs to one model and would be another one here. Raises ValueError for it.
    """

    def __init__(
        self,
        models: Sequence[GPT],
        optimizer: FlatAdamW,
        batches: Sequence[Windows],
        *,
        grad_clip: float,
        device: torch.device,
        record: Recorder | None = None,
    ) -> None:
        if any(model.dropout for model in models):
            raise ValueError("dropout draws from a stream of its own: models that use it cannot be stacked")
        self.models, self.optimizer, self.batches = models, optimizer, batches
        self.grad_clip, self.device = grad_clip, device
        self.program = _Loss(models[0])
        self.leaves = optimizer.stacked()
        self.weights = self._by_name(optimizer)
        # What an update reads lies where it is, whatever the step: a recorded update knows addresses, not values.
        self.windows_SBT = torch.stack([each.windows(0) for each in batches]).to(device)
        self.rate = torch.zeros((), device=device)
        self.update = Graphed(self._update, state=optimizer.state, record=record) if record else self._update

    @property
    def tokens(self) -> int:
        """Tokens that a step of one lane is trained on."""
        return self.windows_SBT.shape[1] * self.models[0].context

    def __call__(self, step: int, rate: float) -> tuple[Tensor, Tensor]:
        """Update `step` (from 0) of every lane at learning rate `rate`: mean losses, and norms before clipping.

        Nothing here waits for the device: the windows come from pinned memory, the rate is an argument of a kernel.
        """
        windows = torch.stack([each.windows(step) for each in self.batches])
        on_gpu = self.device.type == "cuda"
        self.windows_SBT.copy_(windows.pin_memory() if on_gpu else windows, non_blocking=on_gpu)
        self.rate.fill_(rate)
        losses, norms = self.update()
        return losses, norms

    def sums(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Every lane's cross-entropy summed over the same windows, in nats: `[S]`."""
        return self._losses(ids_BT, targets_BT, of_windows=None, reduction="sum")

    def _update(self) -> tuple[Tensor, Tensor]:
        losses = self._losses(self.windows_SBT[..., :-1], self.windows_SBT[..., 1:], of_windows=0, reduction="mean")
        grads = torch.autograd.grad(losses.sum(), self.leaves, materialize_grads=True)
        torch.cat([g.reshape(len(self.models), -1) for g in grads], dim=1, out=self.optimizer.grad)
        return losses.detach(), self.optimizer.step(self.rate, self.grad_clip)

    def _losses(self, ids: Tensor, targets: Tensor, *, of_windows: int | None, reduction: str) -> Tensor:
        def loss(weights: dict[str, Tensor], ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
            return functional_call(self.program, weights, (ids_BT, targets_BT, reduction))

        with _FoldLanes():
            return vmap(loss, in_dims=(0, of_windows, of_windows))(self.weights, ids, targets)

    def _by_name(self, optimizer: FlatAdamW) -> dict[str, Tensor]:
        """Every parameter of all lanes, `[S, *shape]`, by its name in `program`: those that train and those that do not."""
        stacked = {id(p): leaf for p, leaf in zip(optimizer.params[0], self.leaves, strict=True)}
        lanes = [dict(model.named_parameters()) for model in self.models]
        return {
            f"model.{name}": stacked[id(p)] if id(p) in stacked else torch.stack([lane[name].data for lane in lanes])
            for name, p in lanes[0].items()
        }


class _Loss(nn.Module):
    """The model's loss as a module's `forward`, which `functional_call` wants."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, targets_BT: Tensor, reduction: str) -> Tensor:
        return self.model.loss(ids_BT, targets_BT, reduction=reduction)


class _FoldLanes(TorchFunctionMode):
    """Inside, fused attention takes the lanes as more windows of its batch.

    Left to vmap it would not know that gradients are wanted, which some kernels on a GPU must be told beforehand, and
    the kernel for a CPU would run lane by lane.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _FoldedAttention.apply(*args, kwargs["is_causal"])
        return func(*args, **kwargs)


class _FoldedAttention(torch.autograd.Function):
    """Attention without dropout, under vmap alone. What `vmap` below does is differentiated as it stands."""

    @staticmethod
    def forward(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTV: Tensor, is_causal: bool) -> Tensor:
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTV, is_causal=is_causal)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: there is no backward of its own."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Tensor, int]:
        *lanes, is_causal = inputs
        q, k, v = (x.movedim(dim, 0).flatten(0, 1) for x, dim in zip(lanes, in_dims, strict=False))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        return y.unflatten(0, (info.batch_size, -1)), 0
