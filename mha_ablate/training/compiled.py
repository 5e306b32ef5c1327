"""torch.compile: where it pays, and what it needs. Eager is the reference; this fuses what lies between the matrix products."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mha_ablate.model.gpt import GPT

PAYS_FROM = (
    10_000  # steps of a run: compiling costs half a minute at first, and gains 2 or 3 ms a step of a small model
)
PROBE = '#include <omp.h>\n#include <Python.h>\nextern "C" int threads() { return omp_get_max_threads(); }\n'
RECOMPILATIONS = 64  # models whose code one process keeps; torch's own 8 is fewer than the arms of a study may be


def compiler() -> str:
    """The C++ compiler that torch.compile calls: $CXX, or the system's usual one."""
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def why_not() -> str | None:
    """Why torch.compile cannot work on this machine's CPU; None where it can."""
    if not shutil.which(compiler()):
        return f"there is no {compiler()}"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h is missing"
    return _cannot_compile(compiler(), sysconfig.get_path("include"))


@lru_cache(maxsize=4)
def _cannot_compile(command: str, include: str) -> str | None:
    """Why a compiler that is there does not make a library of a few lines that need what torch's code needs."""
    flags = ["-shared", "-fPIC", *(["-fopenmp"] if sys.platform != "darwin" else []), f"-I{include}"]
    source = PROBE if sys.platform != "darwin" else PROBE.partition("\n")[2].replace("omp_get_max_threads()", "1")
    with tempfile.TemporaryDirectory() as folder:
        words = [command, *flags, "-x", "c++", "-", "-o", str(Path(folder, "probe.so"))]
        try:
            ran = subprocess.run(words, input=source, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            return f"{command} cannot be run ({error})"
    said = next(iter(ran.stderr.strip().splitlines()), f"exit code {ran.returncode}")
    return None if ran.returncode == 0 else f"{command} does not compile ({said})"


def pays(steps: int) -> bool:
    """Whether a run of so many steps is long enough, for every arm alike."""
    return steps >= PAYS_FROM


def compiled_loss(model: GPT, cache: Path) -> Callable[..., Tensor]:
    """`model.loss` as one compiled function for fixed shapes; what was compiled before comes from the folder `cache`.

    Raises whatever torch.compile raises at the first call.
    """
    import torch
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # torch puts its default there itself: a folder in /tmp whose name anyone can know.
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default_cache_dir()) == default_cache_dir():
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    remove_torn(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
    return torch.compile(model.loss, dynamic=False)


def remove_torn(cache: Path) -> None:
    """Remove libraries that a killed compiler left behind: torch takes what lies under the name of a library to be one.

    One that another process is making is not touched: torch holds its lock meanwhile.
    """
    from torch.utils._filelock import FileLock

    for library in cache.glob("*/*.so"):
        if _is_whole(library):
            continue
        try:
            with FileLock(str(cache / "locks" / f"{library.name.partition('.')[0]}.lock"), timeout=0):
                if not _is_whole(library):
                    library.unlink(missing_ok=True)
        except OSError:  # a timeout among them
            continue


def _is_whole(library: Path) -> bool:
    """Whether the linker came to its end, as far as can be seen: an ELF file ends with its section headers, written last."""
    try:
        with library.open("rb") as file:
            head, size = file.read(64), os.fstat(file.fileno()).st_size
    except OSError:
        return True
    if not head.startswith(b"\x7fELF\x02\x01"):  # 64 bits, little endian
        return bool(head.strip(b"\0"))
    start, each, count = (int.from_bytes(head[a:b], "little") for a, b in ((40, 48), (58, 60), (60, 62)))
    return len(head) == 64 and 0 < start <= start + each * count <= size


def forget() -> None:
    """Let go of what this process compiled for models that are gone."""
    if "torch._dynamo" in sys.modules:
        import torch

        torch._dynamo.reset()
