"""Parameters, FLOPs and memory of a model, counted. Any `nn.Module` will do."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

# Part of a model by a word in the dotted names of its parameters: the first that fits.
PARTS = {
    "fc_out": "fc_out",
    "attention": "qkv",
    "mlp": "mlp",
    "tokens": "embedding",
    "positions": "embedding",
    "output": "embedding",
}


def parameters(model: nn.Module, inside: str = "", *, trained: bool | None = None) -> int:
    """Number of parameters, a tied tensor once; with `inside`, of the modules whose dotted name contains that word.

    `trained` asks for those that train, or for those that are frozen, alone.
    """
    seen: dict[int, int] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if (not inside or inside in name.split(".")) and trained in (None, p.requires_grad):
            seen[id(p)] = p.numel()
    return sum(seen.values())


def parts(model: nn.Module) -> dict[str, int]:
    """Parameters by part (`PARTS`), a tied tensor once; norms are what is left, `norm`."""
    found = dict.fromkeys((*PARTS.values(), "norm"), 0)
    for name, p in model.named_parameters():
        words = name.split(".")
        found[next((part for word, part in PARTS.items() if word in words), "norm")] += p.numel()
    return found


def forward_flops(run: Callable[[], Any]) -> int:
    """FLOPs of the matrix multiplications in `run()`: two per multiply-add.

    Elementwise work (softmax, norms, GELU) is not in it. Attention counts as its two matrix products whatever kernel
    would run them, and whole: what a causal kernel skips is not taken off.
    """
    with torch.no_grad():
        return _flops(run)


def training_flops(loss: Callable[[], Tensor]) -> int:
    """The same of `loss()` and its backward pass. Where all weights train that is three times the forward pass."""
    return _flops(lambda: loss().backward())


def _flops(run: Callable[[], Any]) -> int:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH), _Flops() as counter:
        run()
    return counter.total


class _Watching(TorchDispatchMode):
    """Sees every operation. Unless told not to, torch imports its compiler, which takes a second, to keep it out of a mode."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Flops(_Watching):
    """Adds up what torch's own formulas say of the operations that have one."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **kwargs, out_val=out)
        return out


class _FlashOnMeta(TorchFunctionMode):
    """Fused attention on the meta device holds what the real kernel holds.

    Left alone it falls apart into open matrix products there and would count scores that no kernel keeps. With
    dropout, or values of another width than the keys, the CPU's kernel falls apart in the same way.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            q, k, v = args[:3]
            if not kwargs.get("dropout_p") and q.shape[-1] == v.shape[-1]:
                return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True)[0]
        return func(*args, **kwargs)


class PeakMemory(_Watching):
    """Largest sum of bytes of all tensors alive at once: made inside this context, given to `hold`, or handed on inside
    (a view of an older tensor, a change in place).

    Each storage counts once, from the operation that made it until nothing refers to it. Scratch space inside a
    kernel and what the allocator keeps back are not in it, so the figure does not depend on the machine.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}
        self._attention = _FlashOnMeta()

    def __enter__(self) -> PeakMemory:
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._attention.__exit__(*raised)

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor that existed before."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = weakref.finalize(storage, self._gone, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor):
                self.hold(leaf)
        return out
