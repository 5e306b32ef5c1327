"""Processor, memory, allocator, compiler, GPU."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import warnings
from pathlib import Path

from mha_ablate.doctor.fact import Answer, size
from mha_ablate.training import compiled
from mha_ablate.training.allocator import NAMES, loaded
from mha_ablate.training.allocator import library as preloadable
from mha_ablate.training.hardware import BF16_PROBES, bf16_features, cpu_count, name_of

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def processor() -> Answer:
    """The CPU's own name."""
    return Answer(name_of("cpu"))


def cores() -> Answer:
    """Cores that this process may use, of how many."""
    usable, present = cpu_count(), os.cpu_count() or 1
    if usable < present:
        return Answer(f"{usable} of {present}", why="affinity or a container's limit keeps this process to them")
    return Answer(str(usable))


def instructions() -> Answer:
    """What torch finds in the processor: the vector set that its kernels use, and what multiplies bf16."""
    import torch

    flags = bf16_features("cpu")
    lacking = [flag for flag in BF16_PROBES if flag not in flags]
    vectors = torch.backends.cpu.get_cpu_capability()
    return Answer(", ".join((vectors, *flags)), why=f"no {' and no '.join(lacking)}" if lacking else "")


def memory(proc: Path = PROC, cgroup: Path = CGROUP) -> Answer:
    """Memory in all and still available; a container's limit (cgroup v2) counts."""
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return Answer(size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total, available = 1024 * kib["MemTotal"], 1024 * kib["MemAvailable"]
    try:
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such limit, or "max"
        limit, used = total, 0
    if limit >= total:
        return Answer(f"{size(total)}, {size(available)} of it available")
    available = max(0, min(available, limit - used))
    return Answer(f"{size(limit)}, {size(available)} of it available", why=f"a container's limit; {size(total)} in all")


def allocator(proc: Path = PROC) -> Answer:
    """Who serves malloc in this process, and in the workers of `compare`."""
    if not proc.joinpath("self", "maps").exists():
        return Answer("the system's")
    preload = os.environ.get("LD_PRELOAD", "")
    if name := loaded(proc):
        return Answer(name, why="LD_PRELOAD names it" if name in preload else "loaded, though not by LD_PRELOAD")
    libc, number = platform.libc_ver()
    usual = f"{libc} {number} malloc" if libc else "the C library's malloc"
    asked = next((name for name in NAMES if name in preload), None)
    if asked:
        return Answer(usual, "note", f"LD_PRELOAD asks for {asked}, which was not loaded")
    better = preloadable()
    if better:
        return Answer(usual, why=f"the workers of `compare` preload {Path(better).name}")
    return Answer(usual, why=f"told to keep its pages; none of {', '.join(NAMES)} is installed, which do it better")


def compiler() -> Answer:
    """The C++ compiler that torch.compile would call, and what keeps it from working."""
    found = next((name for name in (compiled.compiler(), "g++", "clang++", "c++") if shutil.which(name)), None)
    reason, without = compiled.why_not(), "long runs are then not compiled, and somewhat slower"
    named = _first_line(found) if found else "none found"
    if reason is None:
        return Answer(named, why=f"torch.compile calls it for runs of {compiled.PAYS_FROM:,} steps and more")
    other = f", unless CXX={found}" if found and found != compiled.compiler() else ""
    return Answer(named, "note", f"torch.compile cannot work: {reason}{other}; {without}")


def _first_line(program: str) -> str:
    """How a compiler names itself and its version."""
    try:
        run = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=True)
        return run.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return f"{program}, which does not say its version"


def gpu(proc: Path = PROC) -> Answer:
    """The GPU that torch would use, or why it uses none."""
    import torch

    driver = _nvidia_driver(proc)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")  # a driver that is too old is a warning to torch
        if not torch.cuda.is_available():
            return _no_gpu(driver, [str(w.message) for w in said])
    major, minor = torch.cuda.get_device_capability()
    number, present = torch.cuda.current_device(), torch.cuda.device_count()
    facts = [
        size(torch.cuda.get_device_properties(number).total_memory),
        f"capability {major}.{minor}",
        "bf16" if bf16_features("cuda") else "no bf16",
        f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}",
        *([f"driver {driver}"] if driver else []),
        *([f"the first of {present}"] if present > 1 else []),
    ]
    return Answer(name_of("cuda"), why=", ".join(facts))


def _no_gpu(driver: str | None, warned: list[str]) -> Answer:
    """Why there is none; a note where the machine has an NVIDIA driver, and so most likely a GPU."""
    import torch

    built_for = torch.version.cuda or torch.version.hip
    if not built_for:
        why = "this torch is built without CUDA"
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        why = "CUDA_VISIBLE_DEVICES hides it"
    else:
        why = " ".join(warned[0].split()) if warned else f"torch, built for CUDA {built_for}, finds none"
    if driver:
        return Answer("none that torch can use", "note", f"{why}; the machine has NVIDIA's driver {driver}")
    return Answer("none that torch can use", why=why)


def _nvidia_driver(proc: Path) -> str | None:
    """The version of NVIDIA's kernel driver, where it is loaded (Linux)."""
    try:
        text = (proc / "driver" / "nvidia" / "version").read_text(encoding="utf-8")
    except OSError:
        return None
    number = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return number[0] if number else None
