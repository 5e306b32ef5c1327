"""The errors that a user may meet. `cli.errors` alone turns them into exit codes."""

from __future__ import annotations

import errno
import re


class MhaAblateError(Exception):
    """Root of them all. The message is one line: what was given, what is allowed, what to do next."""

    exit_code = 1


class RequestError(MhaAblateError):
    """The request is at fault (a wrong key, value, file or folder): exit code 2, nothing was written."""

    exit_code = 2


class RunFailed(MhaAblateError):
    """A run or a cell of a study did not end well: exit code 1."""


class Interrupted(MhaAblateError):
    """Ctrl-C or SIGTERM: exit code 130, everything that had finished is kept."""

    exit_code = 130


DISK = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the quota of the disk is used up", "free some space"),
    errno.EROFS: ("the disk can only be read", "make it writable"),
    errno.EACCES: ("writing or reading is not permitted", "see to the permissions"),
    errno.EPERM: ("writing or reading is not permitted", "see to the permissions"),
    errno.EIO: ("the disk has failed to read or write", "see to the disk"),
    errno.EFBIG: ("a file has reached the size that is allowed", "raise that limit"),
}
NAMED = (errno.EACCES, errno.EPERM)
NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad_alloc|failed to map segment|"
    r"can't start new thread",
    re.IGNORECASE,
)

OUT_OF_TIME = (
    "its job reached the time limit, and may not be requeued again",
    "give it hydra.launcher.timeout_min=MINUTES, or a hydra.launcher.max_num_timeout; it goes on where its state was saved",
)


def hides_interrupt(error: BaseException | None) -> bool:
    """Whether an error arose while a KeyboardInterrupt was on its way, as in the clean-up of a library."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__context__
    return False


def disk_trouble(error: BaseException | None) -> OSError | None:
    """The error of a disk that is behind an error, if one is: libraries raise their own kinds from it."""
    while error is not None:
        # A network may not be permitted either; a file has a name.
        if isinstance(error, OSError) and error.errno in DISK and (error.errno not in NAMED or error.filename):
            return error
        error = error.__cause__
    return None


def machine_trouble(error: BaseException) -> tuple[str, str] | None:
    """What this machine refused, in a few words, and what to do about it; None where something else went wrong."""
    if trouble := disk_trouble(error):
        what, advice = DISK[trouble.errno or 0]
        return what + (f" ({trouble.filename})" if trouble.filename else ""), advice
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or _says_no_memory(error):
        return "the memory is not enough", "take a smaller model, context or trainer.batch_size, or fewer --workers"
    return OUT_OF_TIME if _is_out_of_time(error) else None


def _is_out_of_time(error: BaseException | None) -> bool:
    """Whether submitit ended the job: it raises where a signal meets the code, and whoever runs there may wrap that."""
    while error is not None:
        if type(error).__name__ == "UncompletedJobError":
            return True
        error = error.__cause__ or getattr(error, "inner_exception", None) or error.__context__
    return False


def _says_no_memory(error: BaseException) -> bool:
    """Whether an error of torch, of the loader or of threads speaks of memory: those have no type of their own."""
    return isinstance(error, RuntimeError | ImportError | OSError) and bool(NO_MEMORY.search(str(error)))


def in_a_line(error: BaseException) -> str:
    """What an error says, for a record: in words, with advice, where this machine is to blame."""
    trouble = machine_trouble(error)
    return ": ".join(trouble) if trouble else " ".join(f"{type(error).__name__}: {error}".split())


def nearest(word: str, options: list[str] | tuple[str, ...]) -> str:
    """`" (did you mean 'x'?)"` for the option that looks most like `word`, or an empty string."""
    import difflib

    match = difflib.get_close_matches(str(word), sorted(options), n=1, cutoff=0.7)
    return f" (did you mean '{match[0]}'?)" if match else ""
