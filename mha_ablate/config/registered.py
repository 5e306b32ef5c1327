"""Variants of other packages: classes that an installed package registers as entry points. Nothing of them is imported here."""

from __future__ import annotations

import importlib.util
from importlib.machinery import PathFinder
from pathlib import Path

GROUP = "mha_ablate.fc_out"


def registered() -> dict[str, str]:
    """`{"theirs.gain.Gain": "theirs"}`: every class in the entry point group, by its full dotted name, and its package."""
    from importlib.metadata import entry_points

    points = entry_points(group=GROUP)
    return {f"{p.module}.{p.attr}": p.dist.name if p.dist else p.module for p in points}


def file_of(module: str) -> Path | None:
    """The source file of a module, found without importing it or the packages around it; None where there is none."""
    top, *rest = module.split(".")
    try:
        found = importlib.util.find_spec(top)  # of a top-level name this only looks
        path = top
        for name in rest:
            if found is None or found.submodule_search_locations is None:
                return None
            path = f"{path}.{name}"
            found = PathFinder.find_spec(path, list(found.submodule_search_locations))
    except (ImportError, ValueError):
        return None
    file = Path(found.origin) if found and found.has_location and found.origin else None
    return file if file and file.suffix == ".py" and file.is_file() else None
