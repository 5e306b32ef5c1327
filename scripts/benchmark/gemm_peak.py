"""The most GFLOP/s that one core reaches in a plain matrix product, at fp32 and bf16, as one line of JSON.

Says `ready` once torch is imported and waits for a line, so that one process a core can begin together.
"""

import json
import sys
import time

import torch

SIZES = (256, 512, 1024, 2048)
SECONDS = 0.25  # for one size at one precision


def best(size: int, dtype: torch.dtype) -> float:
    """GFLOP/s of the fastest of as many products of two square matrices as fit into the time, at least two."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    out = torch.mm(a, b)  # warms up
    fastest, begun, repeats = float("inf"), time.perf_counter(), 0
    while repeats < 2 or time.perf_counter() - begun < SECONDS:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        fastest, repeats = min(fastest, time.perf_counter() - start), repeats + 1
    return 2 * size**3 / fastest / 1e9


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("ready", flush=True)
    sys.stdin.readline()
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    print(json.dumps({name: max(best(size, dtype) for size in SIZES) for name, dtype in kinds.items()}))
