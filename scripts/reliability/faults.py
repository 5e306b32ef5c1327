"""Faults of the machine and of what lies on it: what the user sees, what is kept, and whether the same command goes on."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scripts.page import check_marks, write_into
from scripts.reliability.essence import finished
from scripts.reliability.kills import compared
from scripts.reliability.world import (
    Disk,
    NotPermitted,
    Said,
    World,
    at_step,
    before_the_cells,
    clock,
    flip,
    interrupt,
    with_address_space,
    with_memory,
)

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"
BIG = ["model.d_model=512", "model.n_layers=4", "trainer.steps=2", "trainer.save_every_s=1000"]  # 13 million parameters


@dataclass
class Seen:
    """What a fault did: the last line and exit code, what was kept, whether the end was the same bits, what was wrong."""

    said: Said
    kept: str
    same: bool
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fault:
    """A thing that goes wrong, and how the command must answer."""

    name: str
    code: int
    says: str  # a regular expression for its one line; empty: it may not say anything
    happens: Callable[[Bench], Seen]
    tested: bool = True  # by the tests too: one of a kind is enough there


class Bench:
    """Where faults are tried: a world, and what an undisturbed call leaves there."""

    def __init__(self, world: World) -> None:
        self.world, self.tried = world, 0
        self.references: dict[tuple[str, ...], Path] = {}

    def outputs(self) -> Path:
        """A folder of its own for every trial."""
        self.tried += 1
        return self.world.path / f"outputs{self.tried}"

    def reference(self, command: str, *more: str) -> Path:
        """What is left when nothing disturbs the command."""
        key = (command, *more)
        if key not in self.references:
            folder = self.references[key] = self.world.path / f"reference{len(self.references)}"
            said = self.world.call([*self.world.words(command, folder), *more])
            if said.code:
                raise RuntimeError(f"{command} fails when nothing disturbs it: {said.err}")
        return self.references[key]

    def tokens(self) -> Path:
        """The folder in the cache."""
        [folder] = (self.world.cache / "tokens").iterdir()
        return folder

    def goes_on(self, said: Said, command: str, outputs: Path, kept: str, *more: str) -> Seen:
        """The fault is gone: call again, and compare with what an undisturbed call leaves."""
        before = finished(outputs) if outputs.exists() else {}
        again = self.world.call([*self.world.words(command, outputs), *more])
        wrong = [f"{name} was finished and is not as it was" for name in changed(before, outputs)]
        wrong += [f"again: exit code {again.code}, {again.line}"] if again.code else []
        wrong += [] if again.code else compared(outputs, self.reference(command, *more))
        return Seen(said, kept, not wrong, wrong)

    def interrupted(self) -> Path:
        """The outputs of a `train` that was stopped half way."""
        outputs = self.outputs()
        with at_step(interrupt):
            self.world.call(self.world.words("train", outputs))
        return outputs


def changed(before: dict[str, object], outputs: Path) -> list[str]:
    """The finished runs that are no longer what they were."""
    after = finished(outputs)
    return [name for name in before if after.get(name) != before[name]]


def run_of(outputs: Path) -> Path:
    """The folder of the small `train`."""
    return outputs / "train/dense/seed=0"


# Disks


def full_disk_while_training(bench: Bench) -> Seen:
    with bench.world.disk(4) as disk:
        outputs = disk.path / "outputs"
        with at_step(disk.fill):
            said = bench.world.call(bench.world.words("train", outputs))
        disk.empty()
        return bench.goes_on(said, "train", outputs, "all up to the last state")


def full_disk_in_a_study(bench: Bench) -> Seen:
    with bench.world.disk(0.3) as disk:
        outputs = disk.path / "outputs"
        said = bench.world.call(bench.world.words("compare", outputs))
        before = finished(outputs)
        disk.remount("size=16m")
        seen = bench.goes_on(said, "compare", outputs, f"{len(before)} of 4 cells")
        seen.wrong += [] if 0 < len(before) < 4 else [f"{len(before)} cells were finished: the disk has the wrong size"]
        return seen


def full_disk_at_the_report(bench: Bench) -> Seen:
    with bench.world.disk(16) as disk:
        outputs = disk.path / "outputs"
        shutil.copytree(bench.reference("compare"), outputs)
        shutil.rmtree(outputs / "fc_out/report")
        disk.fill()
        said = bench.world.call(bench.world.words("compare", outputs))
        disk.empty()
        return bench.goes_on(said, "compare", outputs, "all cells")


def full_disk_for_the_cache(bench: Bench) -> Seen:
    with bench.world.disk(1) as disk:
        disk.fill()
        outputs = bench.outputs()
        said = bench.world.call(bench.world.words("compare", outputs), cache=disk.path)
        return bench.goes_on(said, "compare", outputs, "all: the cache is a spare one meanwhile")


def read_only(disk: Disk) -> AbstractContextManager[None]:
    @contextmanager
    def made() -> Iterator[None]:
        disk.remount("ro")
        try:
            yield
        finally:
            disk.remount("rw")

    return made()


def read_only_run(bench: Bench) -> Seen:
    with bench.world.disk(4) as disk:
        outputs = disk.path / "outputs"
        with at_step(interrupt):
            bench.world.call(bench.world.words("train", outputs))
        with read_only(disk):
            said = bench.world.call(bench.world.words("train", outputs))
        return bench.goes_on(said, "train", outputs, "all up to the last state")


def read_only_report(bench: Bench) -> Seen:
    with bench.world.disk(16) as disk:
        outputs = disk.path / "outputs"
        shutil.copytree(bench.reference("compare"), outputs)
        with read_only(disk):
            said = bench.world.call(["report", str(outputs / "fc_out")])
        return bench.goes_on(said, "compare", outputs, "all cells")


def cache_below_a_file(bench: Bench) -> Seen:
    outputs = bench.outputs()
    text, away = bench.world.text, bench.world.path / "away.txt"
    file = bench.world.path / "file"
    file.touch()
    with before_the_cells(lambda: text.rename(away)):  # so that workers cannot tokenise again by themselves
        said = bench.world.call(bench.world.words("compare", outputs), cache=file / "cache")
    away.rename(text)
    return bench.goes_on(said, "compare", outputs, "all: the cache is a spare one meanwhile")


# Memory, clocks, processes


def memory_while_training(bench: Bench) -> Seen:
    outputs = bench.outputs()
    said = with_memory(60, [*bench.world.words("train", outputs), *BIG], bench.world.cache)
    return bench.goes_on(said, "train", outputs, "no state was saved yet", *BIG)


def memory_at_the_start(bench: Bench) -> Seen:
    outputs = bench.outputs()
    said = with_address_space(250, bench.world.words("compare", outputs), bench.world.cache)
    return bench.goes_on(said, "compare", outputs, "nothing was begun")


def clock_that_jumps(bench: Bench, jump: float) -> Seen:
    outputs = bench.outputs()
    with clock(jump):
        with at_step(interrupt):
            bench.world.call(bench.world.words("train", outputs))
        said = bench.world.call(bench.world.words("train", outputs))
    return bench.goes_on(said, "train", outputs, "all")


def two_on_one_folder(bench: Bench, command: str) -> Seen:
    from mha_ablate.run.lock import locked

    outputs = bench.interrupted() if command == "train" else bench.outputs()
    with locked(run_of(outputs) if command == "train" else outputs / "fc_out"):
        said = bench.world.call(bench.world.words(command, outputs))
    return bench.goes_on(said, command, outputs, "what the first one writes")


# What lies on the disk


def damaged(bench: Bench, damage: Callable[[Path], object], kept: str) -> Seen:
    """A run is stopped, its folder damaged; the same command is called."""
    outputs = bench.interrupted()
    damage(run_of(outputs))
    said = bench.world.call(bench.world.words("train", outputs))
    return bench.goes_on(said, "train", outputs, kept)


def truncated(run: Path) -> None:
    file = run / "checkpoint/state.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def half_a_line(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "loss/tr')


def damaged_cache(bench: Bench, damage: Callable[[Path], object]) -> Seen:
    """The tokens are damaged between two calls."""
    outputs = bench.interrupted()
    damage(bench.tokens())
    said = bench.world.call(bench.world.words("train", outputs))
    return bench.goes_on(said, "train", outputs, "all; the text is tokenised again")


def cache_damaged_before_the_cells(bench: Bench, damage: Callable[[Path], object]) -> Seen:
    """The tokens are damaged between a plan and its cells."""
    outputs = bench.outputs()
    with before_the_cells(lambda: damage(bench.tokens())):
        said = bench.world.call(bench.world.words("compare", outputs))
    return bench.goes_on(said, "compare", outputs, "all; the text is tokenised again")


# The text


def text_changes(bench: Bench, change: Callable[[Path], object]) -> Seen:
    """A run is stopped; its text changes; it is brought back."""
    outputs = bench.interrupted()
    before = bench.world.text.read_bytes()
    change(bench.world.text)
    said = bench.world.call(bench.world.words("train", outputs))
    bench.world.text.write_bytes(before)
    return bench.goes_on(said, "train", outputs, "all up to the last state")


def text_gone_before_the_cells(bench: Bench) -> Seen:
    """The text and its tokens go away between plan and cells: only then must a cell fail."""
    outputs = bench.outputs()
    before = bench.world.text.read_bytes()

    def remove() -> None:
        bench.world.text.unlink()
        shutil.rmtree(bench.world.cache)

    with before_the_cells(remove):
        said = bench.world.call(bench.world.words("compare", outputs))
    bench.world.text.write_bytes(before)
    return bench.goes_on(said, "compare", outputs, "the plan")


def add_a_line(text: Path) -> None:
    with text.open("a", encoding="utf-8") as stream:
        stream.write("One more line.\n")


def flip_in(name: str) -> Callable[[Path], None]:
    return lambda folder: flip(folder / name)


STATE = "checkpoint/state.safetensors"
FAULTS = [
    Fault("full disk: `train`, half way", 1, r"the disk is full.*same command again.*goes on after step", full_disk_while_training),
    Fault("full disk: `compare`, half way", 1, r"the disk is full.*same command again.*of 4 cells", full_disk_in_a_study),
    Fault("full disk: the report", 1, r"the disk is full.*4 of 4 cells are finished and kept", full_disk_at_the_report),
    Fault("full disk: the cache", 0, "", full_disk_for_the_cache),
    Fault("read-only disk: a run to go on with", 2, r"cannot be written to", read_only_run),
    Fault("read-only disk: `report`", 1, r"the disk can only be read.*same command again", read_only_report),
    Fault("cache below a file, and the text gone after the plan", 0, "", cache_below_a_file),
    Fault("memory: `train`", 1, r"the memory is not enough.*same command again", memory_while_training),
    Fault("memory: too little to begin", 1, r"the memory is not enough.*same command again", memory_at_the_start),
    Fault("clock jumps back a year and forth", 0, "", lambda b: clock_that_jumps(b, -3.2e7)),
    Fault("clock jumps ahead a year and back", 0, "", lambda b: clock_that_jumps(b, 3.2e7), tested=False),
    Fault("two processes: one run", 2, r"being written by another process", lambda b: two_on_one_folder(b, "train")),
    Fault("two processes: one study", 2, r"being written by another process", lambda b: two_on_one_folder(b, "compare")),
    Fault("state cut short", 0, "", lambda b: damaged(b, truncated, "the run begins anew; run.json says why")),
    Fault("state with a bit turned over", 0, "", lambda b: damaged(b, flip_in(STATE), "the run begins anew; run.json says why")),
    Fault("half a line of metrics", 0, "", lambda b: damaged(b, half_a_line, "all up to the last state")),
    Fault("cache: a bit of train.bin", 0, "", lambda b: damaged_cache(b, flip_in("train.bin"))),
    Fault("cache: a bit of tokenizer.json", 0, "", lambda b: damaged_cache(b, flip_in("tokenizer.json"))),
    Fault("cache: a bit of corpus.json", 0, "", lambda b: damaged_cache(b, flip_in("corpus.json"))),
    Fault("cache: no seal", 0, "", lambda b: damaged_cache(b, lambda folder: (folder / "seal.json").unlink())),
    Fault("cache: gone", 0, "", lambda b: damaged_cache(b, shutil.rmtree)),
    Fault("cache: gone after the plan", 0, "", lambda b: cache_damaged_before_the_cells(b, shutil.rmtree)),
    Fault("cache: a bit after the plan", 0, "", lambda b: cache_damaged_before_the_cells(b, flip_in("val.bin")), tested=False),
    Fault("text gone", 2, r"no such file", lambda b: text_changes(b, Path.unlink)),
    Fault("text changed", 2, r"its text is another one", lambda b: text_changes(b, add_a_line)),
    Fault("text and cache gone between plan and cells", 1, r"cell\(s\) failed.*no such file", text_gone_before_the_cells),
]  # fmt: skip


def tried(fault: Fault, bench: Bench) -> Seen:
    """Let a fault happen and hold what was seen against what must be. Raises NotPermitted where it needs more rights."""
    seen = fault.happens(bench)
    said = seen.said
    if said.code != fault.code:
        seen.wrong.append(f"exit code {said.code}, not {fault.code}")
    lines = said.err.strip().splitlines()
    if len(lines) != bool(fault.says) or not re.search(fault.says, said.err):
        seen.wrong.append(f"it said: {said.err.strip()[-1000:] or 'nothing'}")
    return seen


def main(argv: list[str]) -> int:
    """Try every fault and print the table; returns 1 where one was not answered as it must be."""
    parser = argparse.ArgumentParser(prog="scripts/fault_test", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    asked = parser.parse_args(argv)
    if asked.write:
        check_marks(PAGE, "faults")
    wrong = 0
    rows = [
        "| fault | what the user sees | exit code | kept | goes on to the same bits |",
        "| --- | --- | ---: | --- | --- |",
    ]
    with tempfile.TemporaryDirectory(prefix="mha_ablate-faults-") as scratch:
        bench = Bench(World(Path(scratch).resolve()))
        for fault in FAULTS:
            print(fault.name, file=sys.stderr, flush=True)
            try:
                seen = tried(fault, bench)
            except NotPermitted as error:
                rows.append(f"| {fault.name} | not tried: {error} | | | |")
                continue
            wrong += bool(seen.wrong)
            for line in seen.wrong:
                print(f"  WRONG: {line}", file=sys.stderr)
            rows.append(row(fault, seen, bench.world.path))
    text = "\n".join(rows)
    if asked.write:
        write_into(PAGE, "faults", text)
    print(text)
    return int(wrong > 0)


def row(fault: Fault, seen: Seen, scratch: Path) -> str:
    """A line of the table; folders of the trial are cut from it."""
    said = re.sub(rf"{re.escape(str(scratch))}/(disk\d+/)?", "", seen.said.line.removeprefix("mha-ablate: "))
    said = said.replace(str(Path.cwd()), ".")
    shown = f"`{said}`" if fault.says else "nothing: the result"
    return f"| {fault.name} | {shown.replace('|', '/')} | {seen.said.code} | {seen.kept} | {'yes' if seen.same else 'NO'} |"
