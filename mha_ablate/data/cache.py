"""The cache on disk: folders written whole or not at all, found again by what they hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
FORMAT = 3  # raised whenever files of the cache change their meaning
WRITING = ".mha_ablate-writing-"


def cache_dir() -> Path:
    """Where texts of the Hub and token arrays are kept: $MHA_ABLATE_CACHE, or mha_ablate below the user's cache folder."""
    own = os.environ.get("MHA_ABLATE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mha_ablate"


def place_of(kind: str, what: dict[str, Any]) -> Path:
    """The folder of a thing, named by the SHA-256 of what identifies it."""
    canonical = json.dumps({**what, "format": FORMAT}, sort_keys=True)
    return cache_dir() / kind / hashlib.sha256(canonical.encode()).hexdigest()[:32]


def written(place: Path, write: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """Let `write` fill a folder, `read` it, and move it to `place`; returns what `read` returned.

    A cache is no condition for work: where it cannot be written, the folder is a temporary one and is removed at once.
    What `read` opened or mapped stays usable, whether its folder was moved or removed.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(place.parent)
        with _scratch(place.parent) as folder:
            write(folder)
            result = read(folder)
            if place.is_dir():  # there, but it could not be read: replace it
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another process was faster
                folder.rename(place)
            return result
    except OSError:
        with _scratch(None) as folder:
            write(folder)
            return read(folder)


@contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    """An empty folder in `parent` (None: the system's place for temporary files); removed if it is still there."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=WRITING))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Remove what a killed process left half written more than a day ago."""
    for folder in parent.glob(f"{WRITING}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > 86_400:
                shutil.rmtree(folder, ignore_errors=True)
