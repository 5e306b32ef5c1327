"""Who serves malloc. Activations are taken and given back every step: an allocator that keeps its pages saves their faults."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# In order of preference, by the file that a system's package of them installs.
LIBRARIES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libjemalloc.so.2", "libmimalloc.so.2", "libmimalloc.so.3")
FOLDERS = ("/usr/lib64", "/usr/lib", "/usr/local/lib")
NAMES = ("tcmalloc", "jemalloc", "mimalloc")
PROC = Path("/proc")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT, KEPT_BY_OLDER = 1 << 30, 32 << 20


def library() -> str | None:
    """A page-keeping allocator that can be preloaded into a process: its path, or None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    conda = os.environ.get("CONDA_PREFIX")
    folders = [Path(conda, "lib")] if conda else []
    folders += [*sorted(Path("/usr/lib").glob("*-linux-gnu")), *map(Path, FOLDERS)]
    found = (str(folder / name) for name in LIBRARIES for folder in folders if (folder / name).is_file())
    return next(found, None)


def loaded(proc: Path = PROC) -> str | None:
    """Which of them serves this process: what is mapped into it says more than what LD_PRELOAD asks for. None: the C library."""
    try:
        maps = (proc / "self" / "maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    mapped = {line.rpartition("/")[2] for line in maps.splitlines() if "/" in line}
    return next((name for name in NAMES if any(name in file for file in mapped)), None)


def environment(current: Mapping[str, str]) -> dict[str, str]:
    """What a new process needs to get that allocator. Empty where there is none, or where the user has chosen already."""
    if "LD_PRELOAD" in current or (found := library()) is None:
        return {}
    return {"LD_PRELOAD": found}


def keep_pages() -> bool:
    """Ask glibc's own malloc to keep its pages, from inside a process that is running; whether it listened."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    # Older ones take no more than half a heap. Where none is taken, to set the other would freeze this one as it is.
    return any(mallopt(M_MMAP_THRESHOLD, most) for most in (KEPT, KEPT_BY_OLDER)) and bool(
        mallopt(M_TRIM_THRESHOLD, KEPT)
    )
