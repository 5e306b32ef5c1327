"""Where a run came from: versions, hardware, the state of the code."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from mha_ablate import __version__

PACKAGES = ("torch", "numpy", "hydra-core", "datasets", "tensorboard")


@lru_cache(maxsize=1)
def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that the package runs from and whether it has changes; None for an installed wheel."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None

    def git(*words: str) -> str:
        run = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True)
        return run.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def packages_of(module: str) -> list[str]:
    """The installed packages that a module comes from; none for this one."""
    top = module.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return []
    return sorted(set(packages_distributions().get(top, [])))


def provenance(
    *,
    device: str,
    device_name: str,
    precision: str,
    threads: int,
    allocator: str | None,
    stacked: int = 1,
    code_of: str = __name__,
) -> dict[str, Any]:
    """What a sceptic asks first: code, versions, machine, threads, precision, who serves malloc (None: the C library), and how
    many runs were trained side by side. `code_of` is a module whose package has a version too, where it is not this one.
    """
    versions = {}
    for package in (*PACKAGES, *packages_of(code_of)):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "mha_ablate": __version__,
        "git": git_state(),
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "device": device,
        "device_name": device_name,
        "precision": precision,
        "threads": threads,
        "allocator": allocator,
        "stacked": stacked,
    }
