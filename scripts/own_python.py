"""Scripts start under any Python and go on under one that has the package."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.page import NoPlace

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, load_main: Callable[[], Callable[[list[str]], int]]) -> int:
    """Call the main function that `load_main` imports, with the words of the command line; returns the exit code.

    Where this Python lacks the package, the one that scripts/setup made is started instead.
    """
    name = Path(script).name
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the work as Ctrl-C does: nothing is left behind
    try:
        if importlib.util.find_spec("mha_ablate") is None or importlib.util.find_spec("torch") is None:
            return _in_the_checkouts_own(script, name)
        return load_main()(sys.argv[1:])
    except NoPlace as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def _in_the_checkouts_own(script: str, name: str) -> int:
    venv = Path(os.environ.get("VENV", ROOT / ".venv"))
    python = venv / "bin/python"
    if not os.access(python, os.X_OK) or Path(sys.prefix).resolve() == venv.resolve():
        print(f"{name}: neither {sys.executable} nor {venv} has mha_ablate: run scripts/setup first", file=sys.stderr)
        return 2
    return os.execv(python, [str(python), script, *sys.argv[1:]])  # never returns
