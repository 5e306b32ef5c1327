"""One writer to a folder."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mha_ablate.errors import RequestError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, making the folder if need be. Raises RequestError at once where another process holds it.

    The system lets go of it when the process ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    if lock.exists() and not lock.is_file():  # a pipe would be waited for without end
        raise RequestError(f"{lock} is no file: remove it, or give name=NEW_NAME")
    with lock.open("a") as file:
        for moment in (0.02, 0.1, 0.2, None):  # who only looks whether it is held, holds it for a moment
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    raise RequestError(
                        f"{folder} cannot be locked ({error.strerror}): its file system has no locks, and two processes could "
                        "write to it; mount it with flock, or give outputs=DIR on another one"
                    ) from error
                if moment is None:
                    raise RequestError(
                        f"{folder} is being written by another process: wait for it, or give this one name=NEW_NAME"
                    ) from error
                time.sleep(moment)
        yield


def is_locked(folder: Path) -> bool:
    """Whether another process holds the folder's lock."""
    lock = folder / ".lock"
    if not lock.is_file():
        return False
    try:
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
