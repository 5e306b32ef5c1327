"""Large text and many runs: seconds and memory of the commands that have to deal with them."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.page import check_marks, write_into
from scripts.reliability.kills import COMMAND, TINY

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"
MOST_MEMORY_MB = 2000  # of any of these commands
PREPARE = ["data", "prepare", "data=text", "--quiet"]
WORDS = "attention output projection head value query residual stream layer gain rank of and a"


@dataclass(frozen=True)
class Measured:
    """One command: what it had to do, how it ended, what it took."""

    what: str
    exit_code: int
    seconds: float
    memory_mb: float

    @property
    def wrong(self) -> bool:
        """Whether it failed, or took more memory than promised."""
        return self.exit_code != 0 or self.memory_mb > MOST_MEMORY_MB


def main(argv: list[str]) -> int:
    """Measure at the size that `argv` asks for, and print the table; returns 1 where a command failed or took too much."""
    parser = argparse.ArgumentParser(prog="scripts/limits_test", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="of text (default: 1000)")
    parser.add_argument("--runs", type=int, default=10_000, help="in one folder, an even number (default: 10000)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    asked = parser.parse_args(argv)
    if asked.megabytes < 1 or asked.runs < 2:
        print("limits_test: --megabytes must be at least 1, --runs at least 2", file=sys.stderr)
        return 2
    if asked.write:
        check_marks(PAGE, "limits")
    with tempfile.TemporaryDirectory(prefix="mha_ablate-limits-") as scratch:
        os.environ["MHA_ABLATE_CACHE"] = str(Path(scratch) / "cache")
        found = [*large_text(Path(scratch), asked.megabytes), *many_runs(Path(scratch), asked.runs)]
    print(table(found))
    if asked.write:
        write_into(PAGE, "limits", table(found))
    return int(any(one.wrong for one in found))


def measured(what: str, words: list[str], folder: Path) -> Measured:
    """Run one command of `mha-ablate` to its end, its words into a file of `folder`."""
    begun = time.monotonic()
    with (folder / "said").open("w+b") as said:
        process = subprocess.Popen([*COMMAND, *words], stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            print(f"{what}: exit code {process.returncode}: {said.read()[-500:].decode()}", file=sys.stderr)
    unit = 1 if sys.platform == "darwin" else 1024  # of the largest resident size, in bytes
    one = Measured(what, process.returncode, time.monotonic() - begun, used.ru_maxrss * unit / 1e6)
    print(f"{what}: {one.seconds:.0f} s, {one.memory_mb:.0f} MB", file=sys.stderr, flush=True)
    return one


def large_text(scratch: Path, megabytes: int) -> list[Measured]:
    """`data prepare` by each tokenizer."""
    file = scratch / "large.txt"
    draw = random.Random(0)
    with file.open("w", encoding="utf-8") as stream:
        while stream.tell() < megabytes * 10**6:
            words = draw.choices(WORDS.split(), k=100_000)
            stream.writelines(" ".join(words[i : i + 12]) + f" {draw.random()}.\n" for i in range(0, len(words), 12))
    size = f"{file.stat().st_size / 1e6:,.0f} MB"
    found = [
        measured(
            f"data prepare, {size}, tokenizer={kind}", [*PREPARE, f"data.path={file}", f"tokenizer={kind}"], scratch
        )
        for kind in ("char", "byte", "bpe")
    ]
    file.unlink()
    shutil.rmtree(scratch / "cache")
    return found


def many_runs(scratch: Path, runs: int) -> list[Measured]:
    """What reads a whole study folder, in which every run is finished; `compare` begins with its plan."""
    request = ["compare", *TINY, "study.arms=[dense,none]", f"outputs={scratch / 'outputs'}", "name=many"]
    first = measured("compare, 2 runs", [*request, "study.seeds=1"], scratch)
    multiply(request[1:], runs // 2)
    folder = str(scratch / "outputs/many")
    size = f"{runs // 2 * 2:,} runs"
    return [
        first,
        measured(f"report, {size}, the first", ["report", folder], scratch),
        measured(f"report, {size}, again", ["report", folder], scratch),
        measured(f"compare, {size}, all finished", [*request, f"study.seeds={runs // 2}"], scratch),
    ]


def multiply(words: list[str], seeds: int) -> None:
    """Make a study of one finished seed into one of many finished ones: copies, whose losses are moved a little."""
    from mha_ablate.config.compose import to_yaml
    from mha_ablate.run.folder import RunFolder
    from mha_ablate.study.plan import make_plan

    plan = make_plan([*words, f"study.seeds={seeds}"])
    for cell in plan.cells:
        source = RunFolder(cell.folder.path.parent / "seed=0")
        if cell.folder == source:
            continue
        draw = random.Random(f"{cell.arm} {cell.seed}")
        about, lines = source.read(), source.lines()
        moved = [{k: v + draw.gauss(0, 0.02) if k == "loss/val" else v for k, v in line.items()} for line in lines]
        cell.folder.path.mkdir(parents=True)
        cell.folder.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in moved), encoding="utf-8")
        cell.folder.config_file.write_text(to_yaml(cell.config, without=("study",)), encoding="utf-8")
        own: dict[str, Any] = {"seed": cell.seed, "config_hash": cell.hash}
        own["result"] = {**about["result"], "val_loss": moved[-1]["loss/val"]}
        cell.folder.write(about | own)
    plan.write()


def table(found: list[Measured]) -> str:
    """The table in Markdown."""
    rows = [f"| {one.what} | {one.seconds:.0f} s | {one.memory_mb:,.0f} MB |" for one in found]
    return "\n".join(["| command | time | memory |", "| --- | ---: | ---: |", *rows])
