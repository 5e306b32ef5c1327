"""A place in which things go wrong on purpose: small disks, clocks that jump, texts and caches that change."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

SMALL = [
    "model.d_model=16",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.context=8",
    "trainer.steps=20",
    "trainer.batch_size=4",
    "trainer.eval_every=5",
    "trainer.log_every=5",
    "trainer.precision=fp32",
    "trainer.save_every_s=0",  # a state after every step
    "optim.warmup_steps=2",
]
ARMS = ["study.arms=[dense,none]", "study.seeds=2"]
MIDDLE = 10  # the step at which things happen


class NotPermitted(Exception):
    """Disks of a size of their own need the right to mount them."""


@dataclass(frozen=True)
class Said:
    """What one call left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The last thing that it said on standard error."""
        return (self.err.strip().splitlines() or [""])[-1]


@dataclass
class World:
    """A scratch folder with a text, a cache, and places for outputs."""

    path: Path

    def __post_init__(self) -> None:
        self.text.write_text(TEXT, encoding="utf-8")

    @property
    def text(self) -> Path:
        """The text of every request."""
        return self.path / "text.txt"

    @property
    def cache(self) -> Path:
        """The cache of every call."""
        return self.path / "cache"

    def words(self, command: str, outputs: Path) -> list[str]:
        """A small `train` or `compare` that leaves its folders in `outputs`."""
        more = [*ARMS, "--workers", "1"] if command == "compare" else []
        return [command, *SMALL, "data=text", f"data.path={self.text}", f"outputs={outputs}", "--quiet", *more]

    def call(self, words: list[str], cache: Path | None = None) -> Said:
        """The command line, in this process; workers are processes of their own."""
        from mha_ablate.cli import errors
        from mha_ablate.cli.main import app
        from mha_ablate.data import cache as kept
        from mha_ablate.data import corpus

        corpus._read.cache_clear()  # a new process knows nothing
        kept._spare = None
        out, err = io.StringIO(), io.StringIO()
        cached = {"MHA_ABLATE_CACHE": str(cache or self.cache)}
        with mock.patch.dict(os.environ, cached), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = errors.run(app, words)
        return Said(code, out.getvalue(), err.getvalue())

    @contextmanager
    def disk(self, megabytes: float) -> Iterator[Disk]:
        """A disk of this size. Raises NotPermitted."""
        # Not in `path`: who sweeps that up after a kill cannot remove what is mounted.
        with tempfile.TemporaryDirectory(prefix="mha_ablate-disk-") as place:
            mount("-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs", place)
            try:
                yield Disk(Path(place))
            finally:
                subprocess.run(["umount", "-l", place], check=False, capture_output=True)


@dataclass(frozen=True)
class Disk:
    """A small disk, to be filled, emptied, made read-only and grown."""

    path: Path

    def fill(self) -> None:
        """Leave not a byte."""
        with (self.path / ".filler").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(4096))

    def empty(self) -> None:
        """Take back what `fill` took."""
        (self.path / ".filler").unlink()

    def remount(self, *options: str) -> None:
        """`ro`, `rw`, `size=16m`."""
        mount("-o", ",".join(["remount", *options]), str(self.path))


def mount(*words: str) -> None:
    """Mount. Raises NotPermitted."""
    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotPermitted("there is no mount here") from None
    if done.returncode:
        raise NotPermitted(f"mounting a small disk is not permitted here: {done.stderr.strip()}")


@contextmanager
def at_step(action: Callable[[], Any], step: int = MIDDLE) -> Iterator[None]:
    """Have something happen when a run in this process has recorded a step."""
    from mha_ablate.run.record import Record

    write, waiting = Record.write, [action]

    def and_then(record: Record, at: int, values: dict[str, float]) -> dict[str, Any]:
        line = write(record, at, values)
        if at >= step and waiting:
            waiting.pop()()
        return line

    with mock.patch.object(Record, "write", and_then):
        yield


@contextmanager
def before_the_cells(action: Callable[[], Any]) -> Iterator[None]:
    """Have something happen to a study between its plan and its first cell."""
    from mha_ablate.study import execute

    run_cells = execute.run_cells

    def first(*given: Any, **named: Any) -> Any:
        action()
        return run_cells(*given, **named)

    with mock.patch.object(execute, "run_cells", first):
        yield


@contextmanager
def clock(jump: float) -> Iterator[None]:
    """A wall clock that has jumped by so many seconds at every other look."""
    real, looks = time.time, [0]

    def jumping() -> float:
        looks[0] += 1
        return real() + (jump if looks[0] % 2 else 0.0)

    with mock.patch.object(time, "time", jumping):
        yield


def interrupt() -> None:
    """As Ctrl-C does."""
    raise KeyboardInterrupt


def flip(file: Path, place: float = 0.5) -> None:
    """Turn one bit over."""
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x10
    file.write_bytes(content)


LIMITED = """
import os, resource, sys
import torch
from mha_ablate.cli import errors
from mha_ablate.cli.main import app
from mha_ablate.report import write
from mha_ablate.study import execute, single
import torch._subclasses.fake_tensor, tensorboard.summary.writer.event_file_writer, safetensors.torch, datasets
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1]) * 1_000_000, resource.RLIM_INFINITY))
sys.exit(errors.run(app, sys.argv[2:]))
"""


def with_memory(megabytes: int, words: list[str], cache: Path) -> Said:
    """Call in a process that may take so much more memory once everything is imported."""
    env = {**os.environ, "MHA_ABLATE_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(megabytes), *words], capture_output=True, text=True, env=env, check=False
    )
    return Said(done.returncode, done.stdout, done.stderr)


def with_address_space(megabytes: int, words: list[str], cache: Path) -> Said:
    """Call in a process that may have so much address space from its start, as under `ulimit -v`."""
    env = {**os.environ, "MHA_ABLATE_CACHE": str(cache)}
    limit = megabytes * 1_000_000
    done = subprocess.run(
        [sys.executable, "-m", "mha_ablate", *words],
        capture_output=True,
        text=True,
        env=env,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    return Said(done.returncode, done.stdout, done.stderr)


TEXT = "".join(f"{i} plus {j} is {i + j}, and {i} times {j} is {i * j}.\n" for i in range(13) for j in range(11))
