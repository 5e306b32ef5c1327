"""The cache on disk: folders written whole or not at all, found again by what they hold."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
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
NOT_TO_BE_WRITTEN = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG),
        *(errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG),
    )
)
_spare: Path | None = None


def cache_dir() -> Path:
    """Where texts of the Hub and token arrays are kept: $MHA_ABLATE_CACHE, or mha_ablate below the user's cache folder."""
    own = os.environ.get("MHA_ABLATE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mha_ablate"


def place_of(kind: str, what: dict[str, Any]) -> Path:
    """The folder of a thing, named by the SHA-256 of what identifies it."""
    canonical = json.dumps({**what, "format": FORMAT}, sort_keys=True)
    return cache_dir() / kind / hashlib.sha256(canonical.encode()).hexdigest()[:32]


def spare() -> Path | None:
    """The folder that stands in for a cache that could not be written, for as long as this process lives; None so far."""
    return _spare


def share_spare(folder: Path | None) -> None:
    """Look into another process's `spare` too: what could not be kept is then not fetched and tokenised by every process."""
    global _spare
    _spare = folder or _spare


def kept_at(place: Path) -> Path:
    """Where a thing is to be read from: its place in the cache, or, where there is nothing, the one in the spare folder."""
    return place if _spare is None or place.is_dir() else _spare / place.parent.name / place.name


def written(place: Path, write: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """Let `write` fill a folder, `read` it, and move it to `place`; returns what `read` returned.

    A cache is no condition for work: where it cannot be written, the folder goes to a spare one, which is removed when this
    process ends. Any other error of `write` (a text that is gone, a network) is raised as it is, and nothing is left.
    What `read` opened or mapped stays usable, whether its folder was moved or removed.
    """
    try:
        return _written_to(place, write, read)
    except OSError as error:
        if error.errno not in NOT_TO_BE_WRITTEN:
            raise
    return _written_to(_make_spare() / place.parent.name / place.name, write, read)


def _written_to(place: Path, write: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """As `written`, there or nowhere."""
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


def _make_spare() -> Path:
    """The spare folder, among the system's temporary files."""
    global _spare
    if _spare is None:
        _remove_leftovers(Path(tempfile.gettempdir()))
        stack = contextlib.ExitStack()
        _spare = stack.enter_context(_scratch(None))
        atexit.register(stack.close)
    return _spare


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
    """An empty folder in `parent` (None: the system's place for temporary files); removed if it is still there.

    It is locked while it is written, which tells it from what a killed process left.
    """
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=WRITING))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _try_to_lock(descriptor)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Remove what a killed process left half written more than a day ago, by a clock that may have jumped since."""
    for folder in parent.glob(f"{WRITING}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > 86_400:
                _remove_unless_locked(folder)


def _remove_unless_locked(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _try_to_lock(descriptor):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _try_to_lock(descriptor: int) -> bool:
    """Whether nobody else holds it; also where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
