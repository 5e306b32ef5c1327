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
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
FORMAT = 3  # raised whenever files of the cache change their meaning
WRITING = ".mha_ablate-writing-"
SEAL = "seal.json"


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
            _seal(folder)
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
            _seal(folder)
            return read(folder)


def _seal(folder: Path) -> None:
    """Note the checksum of every file, and have all of them on the disk."""
    sums = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    (folder / SEAL).write_text(json.dumps(sums, indent=2), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_seal(folder: Path) -> None:
    """Raise ValueError where a file is not what was once written; OSError where one is missing.

    What was found whole is not read again by this process unless it changes.
    """
    sums = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    if not isinstance(sums, dict) or not sums:
        raise ValueError(f"{folder}: its seal is broken")
    for name, expected in sums.items():
        file = folder / Path(name).name
        about = file.stat()
        if _sha256_of(file, about.st_size, about.st_mtime_ns, about.st_ino) != expected:
            raise ValueError(f"{file} is not what was written")


@lru_cache(maxsize=256)
def _sha256_of(file: Path, size: int, changed: int, inode: int) -> str:  # noqa: ARG001
    """The checksum; what a file's size, time and place say makes a changed one another request."""
    return _sha256(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
