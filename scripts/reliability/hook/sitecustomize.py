"""Kills this process, as a power cut would, in the middle of what it does to its files.

Python imports this module by itself where its folder is in PYTHONPATH. KILL_AT=REGEX@N: at the Nth time that a file whose
path matches is about to be opened for writing, renamed, removed, shortened or made; KILL_IN=worker or parent: there alone.
"""

import os
import re
import signal
import sys

WRITES = {"os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir"}


def watch() -> None:
    """Count what happens to files that match, and end at the one that was named."""
    pattern, _, which = os.environ["KILL_AT"].rpartition("@")
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
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


role = "worker" if "mha_ablate.study.worker" in getattr(sys, "orig_argv", []) else "parent"
if "KILL_AT" in os.environ and os.environ.get("KILL_IN", role) == role:
    watch()
