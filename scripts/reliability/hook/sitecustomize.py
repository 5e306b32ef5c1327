"""Kills this process, as a power cut would, in the middle of what it does to its files.

Python imports this module by itself where its folder is in PYTHONPATH. KILL_AT=REGEX@N: at the Nth time that a file whose
path matches is about to be opened for writing, renamed, removed, shortened or made; KILL_AT=evaluation@N: in the middle of an
evaluation, at the Nth batch of windows of all; KILL_IN=worker or parent: there alone. FAIL_AT=REGEX@N raises there instead.
"""

import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator

WRITES = {"os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir"}


def kill() -> None:
    """As a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    """As a bug would."""
    raise RuntimeError("it was made to fail")


def watch(at: str, end: Callable[[], None]) -> None:
    """Count what happens to files that match, and end at the one that was named."""
    pattern, _, which = at.rpartition("@")
    wanted, left = re.compile(pattern), [int(which)]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            if not isinstance(args[2], int) or not args[2] & (os.O_WRONLY | os.O_RDWR):
                return
        elif event not in WRITES:
            return
        if any(isinstance(arg, str | bytes | os.PathLike) and wanted.search(os.fsdecode(arg)) for arg in args[:2]):
            left[0] -= 1
            if not left[0]:
                end()

    sys.addaudithook(hook)


class InEvaluations:
    """Finds the module that evaluates, and puts a count into what it reads its windows by."""

    def __init__(self, which: int) -> None:
        self.left = which

    def find_spec(self, name: str, *_: object) -> object:
        """Called by each import; it leaves all others to the ordinary finders."""
        if name != "mha_ablate.training.evaluate":
            return None
        sys.meta_path.remove(self)  # pyright: ignore[reportArgumentType]
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_count(module: object) -> None:
            run(module)  # pyright: ignore[reportArgumentType]
            module.validation_windows = self.counted(module.validation_windows)  # pyright: ignore

        spec.loader.exec_module = run_and_count
        return spec

    def counted(self, windows: object) -> object:
        """The same windows, until the one that was named."""

        def some(*given: object, **named: object) -> Iterator[object]:
            for window in windows(*given, **named):  # pyright: ignore[reportCallIssue]
                self.left -= 1
                if not self.left:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield window

        return some


role = "worker" if "mha_ablate.study.worker" in getattr(sys, "orig_argv", []) else "parent"
if "KILL_AT" in os.environ and os.environ.get("KILL_IN", role) == role:
    phase, _, number = os.environ["KILL_AT"].rpartition("@")
    if phase == "evaluation":
        sys.meta_path.insert(0, InEvaluations(int(number)))  # pyright: ignore[reportArgumentType]
    else:
        watch(os.environ["KILL_AT"], kill)
if "FAIL_AT" in os.environ:
    watch(os.environ["FAIL_AT"], fail)
