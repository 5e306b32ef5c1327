"""One request, killed several times on its way to the end, against the same request left in peace."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.reliability.essence import essence, finished

LIMIT_S = 600  # a request that takes longer does not end
MARK = "MHA_ABLATE_KILL_TEST"  # in the environment of all that a request starts
HOOK = Path(__file__).resolve().parent / "hook"
COMMAND = [sys.executable, "-m", "mha_ablate"]
TINY = [
    "model.d_model=16",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.context=8",
    "trainer.steps=40",
    "trainer.batch_size=4",
    "trainer.eval_every=10",
    "trainer.log_every=5",
    "trainer.save_every_s=0",  # a state after every step
    "data.max_chars=20000",
]
REQUESTS = {
    "train": ["train", *TINY],
    "compare": ["compare", *TINY, "study.arms=[dense,none]", "study.seeds=2"],
}


@dataclass(frozen=True)
class Where:
    """What is killed, and where: at a file that matches `files`, in an `evaluation`, or (None) at any moment."""

    who: str  # train | worker | compare
    phase: str
    files: str | None = None
    times: int = 1

    @property
    def request(self) -> str:
        """The command that it happens to."""
        return "train" if self.who == "train" else "compare"


PHASES = {
    "start": r"(config\.yaml|run\.json|plan\.json|\.lock)",
    "metrics": r"metrics\.jsonl",
    "TensorBoard": r"(tfevents|\.events\.)",
    "state": r"checkpoint/.*state\.safetensors",
    "weights": r"checkpoint/.*(last|best)\.safetensors",
    "report": r"(/report|cost\.json)",
    "evaluation": "evaluation",  # no file, but the middle of one
}
# How often a request touches such files, about: the kill falls on one of these times.
OF = {
    "train": {"start": 8, "metrics": 1, "TensorBoard": 1, "state": 70, "weights": 6, "evaluation": 5},
    "worker": {"start": 8, "metrics": 2, "TensorBoard": 2, "state": 120, "weights": 12, "evaluation": 10},
    "compare": {"start": 3, "TensorBoard": 10, "report": 14},
}
PLACES = [
    *(Where(who, phase, PHASES[phase], times) for who, phases in OF.items() for phase, times in phases.items()),
    *(Where(who, "any moment") for who in OF),
]


@dataclass
class Tally:
    """What the kills at one place did: how many hit, how many runs were finished before them, what came out wrong."""

    tried: int = 0
    hit: int = 0
    kept: int = 0
    wrong: list[str] = field(default_factory=list)


class Chain:
    """A request in a folder of its own, to be killed and called again until it ends by itself."""

    def __init__(self, request: str, folder: Path, chance: random.Random, typical: float) -> None:
        self.words = [*REQUESTS[request], f"outputs={folder}", "--quiet"]
        self.folder, self.chance, self.typical = folder, chance, typical

    def kill(self, where: Where, tally: Tally) -> bool:
        """Call the request and kill it at a place; returns whether it was hit. What was finished before must be as it was.

        Raises TimeoutError where the request or one of its workers does not end.
        """
        before = finished(self.folder)
        tally.tried += 1
        hit = self._killed(where)
        tally.kept += len(before)
        tally.hit += hit
        after = finished(self.folder)
        tally.wrong += [
            f"{name} was finished and is not as it was" for name in before if after.get(name) != before[name]
        ]
        return hit

    def _killed(self, where: Where) -> bool:
        env = {**os.environ}
        if where.files:
            env |= {
                "PYTHONPATH": os.pathsep.join([str(HOOK), *filter(None, [os.environ.get("PYTHONPATH")])]),
                "KILL_AT": f"{where.files}@{self.chance.randint(1, where.times)}",
                "KILL_IN": "worker" if where.who == "worker" else "parent",
            }
        hit = False
        with started(self.words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            if not where.files:
                time.sleep(self.chance.uniform(0, self.typical))
                victim = process.pid if where.who != "worker" else self.chance.choice([0, *workers_of(process.pid)])
                hit = bool(victim) and process.poll() is None
                if hit:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
            code = process.wait(timeout=LIMIT_S)
            wait_for_workers(self.folder)
        # A worker that was killed fails its cell, and the study says so by its exit code.
        return code == -signal.SIGKILL or (where.who == "worker" and code == 1) or (where.who == "worker" and hit)

    def end(self) -> str | None:
        """Call the request until it ends by itself; returns what it said if that was an error, or that it does not end."""
        try:
            with started(self.words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                said = process.communicate(timeout=LIMIT_S)[1]
        except TimeoutError as error:
            return str(error)
        return None if process.returncode == 0 else f"exit code {process.returncode}: {said.strip()[-300:]}"


@contextlib.contextmanager
def started(words: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command, which is killed with all that it started where we leave by an exception.

    Raises TimeoutError where it does not end in time.
    """
    own = f"{os.getpid()}-{time.monotonic_ns()}"
    env = {**options.pop("env", os.environ), MARK: own}
    process = subprocess.Popen(
        [*COMMAND, *words],
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
        env=env,
        **options,
    )
    try:
        yield process
    except BaseException as error:
        process.kill()
        for pid in marked(own):  # workers are in sessions of their own, and may have lost their parent
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError(f"{words[0]} did not end in {LIMIT_S} s") from None
        raise
    finally:
        if process.stderr:
            process.stderr.close()


def marked(own: str) -> list[int]:
    """The processes that carry this mark in their environment."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={own}".encode() in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return found


def workers_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_for_workers(folder: Path) -> None:
    """Until no worker holds a run of this folder: those of a killed parent leave by themselves."""
    import fcntl

    deadline = time.monotonic() + 30
    for lock in folder.rglob(".lock"):
        with lock.open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{lock.parent} is still being written 30 s after the kill") from None
                    time.sleep(0.05)


def compared(folder: Path, reference: Path) -> list[str]:
    """In what two folders of one request differ, clocks and process numbers left aside."""
    here, there = essence(folder), essence(reference)
    names = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    return [f"{name} is not what an undisturbed call leaves" for name in names]
