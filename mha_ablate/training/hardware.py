"""What `auto` means on this machine: device, precision, threads.

torch is imported where it is asked, so that `doctor` can count cores where torch cannot be imported.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mha_ablate.training.allocator import keep_pages

if TYPE_CHECKING:
    import torch

# What a processor may have for bfloat16, by the name of its flag, and how torch is asked.
BF16_PROBES = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_tile": "_is_amx_tile_supported"}
WORTH_IT = 1.2  # bf16 is taken where it multiplies so many times as fast: the rest of a step gains little, or loses
TURNS = 8
MOST_TURNS = 20 * TURNS


@dataclass(frozen=True)
class Hardware:
    """Device, working precision and CPU threads of a run, resolved: no `auto` left."""

    device: str
    precision: str
    threads: int

    @property
    def dtype(self) -> torch.dtype:
        """The type that weights are multiplied in; masters are always fp32."""
        import torch

        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def prepare(self) -> None:
        """Set this process up for a run: its threads, and a malloc that keeps the pages of one step for the next."""
        import torch

        torch.set_num_threads(self.threads)
        keep_pages()

    def make_room(self) -> None:
        """Let go of earlier models: a stack and its recording refer to each other, and only a collection frees them."""
        import torch

        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def cpu_count() -> int:
    """Cores that this process may run on; a container's limit (cgroup v2) counts."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such limit, or "max"
        return cores


def resolve(device: str, precision: str, threads: int | None, *, memory: Path | None = None) -> Hardware:
    """Replace `auto` and null. Raises ValueError where a GPU is asked for and none can be used.

    `memory` is a folder that keeps what was found of this processor.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("trainer.device=cuda: torch sees no GPU here; use trainer.device=cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "bf16" if multiplies_bf16(device, memory) else "fp32"
    return Hardware(device, precision, threads or cpu_count())


def multiplies_bf16(device: str, memory: Path | None = None) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32: a GPU is asked, a CPU is tried.

    A CPU's yes is kept in `memory`: a clock beside other load can miss it, and a run that goes on must come to the same
    answer. A no is tried again.
    """
    if device != "cpu":
        return bool(bf16_features(device))
    import torch

    what = f"{name_of(device)} {bf16_features(device)} {torch.__version__}"
    mark = memory and memory / f"multiplies-bf16-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    with contextlib.suppress(OSError):
        if mark and mark.exists():
            return True
    if bf16_speedup() < WORTH_IT:
        return False
    with contextlib.suppress(OSError):
        if mark:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    return True


@functools.cache
def bf16_speedup() -> float:
    """How many times as fast as fp32 one core multiplies bf16 matrices of the sizes of a tiny Transformer.

    The best of a few products each, in turns: some 10 ms in all. Where bf16 is emulated a hundred times slower, one is
    enough to know. Where it does not win at once it gets longer: beside other load a few turns can mislead.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pairs = [
            (torch.ones(768, 128, dtype=d), torch.ones(128, 512, dtype=d)) for d in (torch.float32, torch.bfloat16)
        ]
        best = [math.inf, math.inf]
        for turn in range(MOST_TURNS):
            for which, (a, b) in enumerate(pairs):
                start = time.perf_counter()
                torch.mm(a, b)
                best[which] = min(best[which], time.perf_counter() - start)
            won = turn + 1 >= TURNS and best[0] >= WORTH_IT * best[1]
            if won or best[1] > 100 * best[0]:
                break
        return best[0] / best[1]
    finally:
        torch.set_num_threads(threads)


def bf16_features(device: str) -> tuple[str, ...]:
    """What in the hardware multiplies bfloat16 faster than float32: a CPU's flags, a GPU's capability. Empty: nothing does."""
    import torch

    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return (f"capability {major}.{minor}",) if torch.cuda.is_bf16_supported(including_emulation=False) else ()
    probes = {flag: getattr(torch.cpu, name, None) for flag, name in BF16_PROBES.items()}
    return tuple(flag for flag, probe in probes.items() if probe and probe())


def name_of(device: str) -> str:
    """The processor's or GPU's own name."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()
