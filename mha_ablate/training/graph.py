"""A computation recorded once on a GPU and replayed from then on: one launch instead of thousands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
Function = Callable[[], Outputs]
Recorder = Callable[[Function], Function]

WARM_UPS = 3  # runs before a recording: libraries choose their kernels and take their workspace then


class Graphed:
    """`function()`, recorded at the first call and replayed at every one: the same outputs, as tensors of their own.

    `function` reads its inputs from tensors that stay where they are, for the caller to write to between calls, and
    changes nothing but the tensors in `state`. However often the recorder runs it to warm up, they are put back as they were.
    """

    def __init__(self, function: Function, *, state: Sequence[Tensor], record: Recorder) -> None:
        self.function, self.state, self.record = function, state, record
        self.replay: Function | None = None

    def __call__(self) -> Outputs:
        """Run it once."""
        if self.replay is None:
            self.replay = self._recorded()
        # A replay writes to the same outputs again, and the caller may want to keep these until later.
        return tuple(output.clone() for output in self.replay())

    def _recorded(self) -> Function:
        before = [tensor.clone() for tensor in self.state]
        replay = self.record(self.function)
        for tensor, values in zip(self.state, before, strict=True):
            tensor.copy_(values)
        return replay


def record_cuda_graph(function: Function) -> Function:
    """`function` as a CUDA graph, after warm-up runs beside the current stream. Recording itself computes nothing.

    `function` may neither wait for the host nor depend on it: no `.item()`, no transfer, no random numbers.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=beside):  # the same stream, so that nothing of the warm-up ties it to another
        outputs = function()

    def replay() -> Outputs:
        graph.replay()
        return outputs

    return replay
