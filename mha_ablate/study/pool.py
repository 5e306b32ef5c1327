"""Worker processes seen from the parent: start them, give them cells, hear what happens, stop them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any

from mha_ablate.data.cache import spare
from mha_ablate.study.cell import Cell
from mha_ablate.training import allocator

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Worker:
    """One worker process with a thread that listens to it. What it says arrives in `inbox` as (worker, message)."""

    def __init__(self, inbox: queue.Queue[tuple[Worker, dict[str, Any]]]) -> None:
        self.cells: list[Cell] = []  # those that it trains now
        self.ready = False
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), **allocator.environment(os.environ)}
        # A session of its own: Ctrl-C reaches the parent alone, which then decides.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mha_ablate.study.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )
        self._listener = threading.Thread(target=self._listen, args=(inbox,), daemon=True)
        self._listener.start()

    def _listen(self, inbox: queue.Queue[tuple[Worker, dict[str, Any]]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # a line cut short by a kill
                inbox.put((self, json.loads(line)))
        self.process.wait()
        inbox.put((self, {"kind": "gone"}))

    def ask(self, request: dict[str, Any]) -> None:
        """Send a request, and where else to look for what the cache could not take. A worker that is gone says so in its inbox."""
        request |= {"spare": str(spare() or "")}
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def give(self, cells: list[Cell]) -> None:
        """Let it run cells side by side; what it says of one carries that one's arm and seed."""
        self.cells = list(cells)
        self.ask({"kind": "cells", "cells": [cell.to_json() for cell in cells]})

    def how_it_ended(self) -> str:
        """One line: the signal or exit code, and the last thing it printed."""
        code = self.process.returncode
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"the worker process ended early ({how}){': ' + last[0] if last else ''}"

    def stop(self) -> None:
        """Kill it: an unfinished run keeps the state `running` with an owner that is gone, and is run again next time."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._listener.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._errors.close()
