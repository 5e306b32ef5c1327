"""Disks that are full or cannot be written, memory that is not there, clocks that jump, caches and texts that change under a run.

Each time: one line that says what happened, the right exit code, and once the fault is gone the same command ends at the same bits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mha_ablate.run.folder import RunFolder
from mha_ablate.run.lock import locked
from mha_ablate.run.record import Record
from mha_ablate.study import cell as cell_module
from mha_ablate.study.cell import Cell, run_cell
from mha_ablate.study.single import single_cell
from tests.conftest import Cli
from tests.every.test_every_resume import ALWAYS, assert_same, quiet, runs_until
from tests.integration.process import run as command


def mount(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *options], capture_output=True, text=True, check=False)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of its own that holds 120 KB."""
    # Not in tmp_path: after a kill the next session of pytest cannot remove what is mounted, and fails at its end.
    with tempfile.TemporaryDirectory(prefix="mha_ablate-disk-") as place:
        if os.geteuid() or mount("-t", "tmpfs", "-o", "size=120k", "tmpfs", place).returncode:
            pytest.skip("a small disk can only be made by root where mounting is allowed")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", "-l", place], check=True)


def whole(small: list[str], *more: str) -> RunFolder:
    cell = single_cell([*small, *more, "name=undisturbed"])
    run_cell(cell, quiet)
    return cell.folder


def test_a_full_disk_ends_a_run_in_one_line_and_room_lets_it_go_on(disk: Path, small: list[str]) -> None:
    words = ["train", *small, f"outputs={disk}", ALWAYS, "--quiet"]
    (disk / "ballast").write_bytes(bytes(60_000))
    said = command(*words)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.count("\n") == 1
    assert "the disk is full" in said.stderr
    mount("-o", "remount,size=4m", str(disk))
    assert command(*words).returncode == 0
    assert_same(RunFolder(disk / "train/dense/seed=0"), whole(small))


def test_a_full_disk_fails_the_cells_of_a_study_by_name(disk: Path, small: list[str]) -> None:
    words = [
        "compare",
        *small,
        f"outputs={disk}",
        "study.arms=[dense,none]",
        "study.seeds=1",
        "--quiet",
        "--workers",
        "1",
    ]
    (disk / "ballast").write_bytes(bytes(90_000))
    said = command(*words)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1, said.stderr
    assert "the disk is full" in said.stderr
    mount("-o", "remount,size=8m", str(disk))
    said = command(*words)
    assert said.returncode == 0, said.stderr


def test_a_folder_that_cannot_be_written_is_refused(disk: Path, small: list[str]) -> None:
    mount("-o", "remount,ro", str(disk))
    said = command("train", *small, f"outputs={disk}", "--quiet")
    assert said.returncode == 2
    assert said.stderr == f"mha-ablate: outputs={disk}: {disk} cannot be written to; give a folder that can be made\n"


def test_memory_that_is_not_there_ends_a_run_in_one_line(small: list[str]) -> None:
    code = (
        "import resource, sys, torch\nfrom mha_ablate.cli import errors\nfrom mha_ablate.cli.main import app\n"
        "import mha_ablate.study.single\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 600_000_000,) * 2)\n"
        f"sys.exit(errors.run(app, ['train', *{small!r}, 'model.d_model=4096', 'model.d_ff=16384', '--quiet']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "memory" in done.stderr
    assert "smaller" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("jump", [-4e8, 4e8])
def test_a_clock_that_jumps_changes_no_result(
    small: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    real, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (jump if next(calls) > 8 else 0.0))
    cell = single_cell([*small, "name=jumped"])
    run_cell(cell, quiet)
    monkeypatch.undo()
    assert_same(cell.folder, whole(small))
    said = cli("report", str(cell.folder.path.parents[1]))
    assert said.code == 0, said.err


def test_a_folder_has_one_writer(small: list[str], cli: Cli) -> None:
    cell = single_cell([*small, "name=taken"])
    with locked(cell.folder.path):
        said = cli("train", *small, "name=taken", "--quiet")
    assert said.code == 2
    assert "is being written by another process" in said.err
    assert said.err.count("\n") == 1


@pytest.fixture
def killed(small: list[str]) -> Cell:
    cell = single_cell([*small, ALWAYS, "trainer.log_every=1", "name=killed"])
    runs_until(cell, 4)
    return cell


def test_a_run_whose_text_is_gone_waits_for_it(killed: Cell, small: list[str], cli: Cli, text_file: Path) -> None:
    words = ["train", *small, ALWAYS, "trainer.log_every=1", "name=killed"]
    content = text_file.read_bytes()
    text_file.unlink()
    said = cli(*words)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert str(text_file) in said.err
    text_file.write_bytes(content + b"and more\n")
    said = cli(*words)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "another run" in said.err
    text_file.write_bytes(content)
    assert "went on from step 3" in cli(*words).err
    assert_same(killed.folder, whole(small, "trainer.log_every=1"))


def cached(kind: str) -> list[Path]:
    return sorted(Path(os.environ["MHA_ABLATE_CACHE"], "tokens").glob(f"*/{kind}"))


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        *((file, "flipped") for file in ("train.bin", "val.bin", "tokenizer.json", "corpus.json", "seal.json")),
        ("train.bin", "emptied"),
        ("val.bin", "removed"),
    ],
)
def test_a_harmed_cache_is_made_again(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, harm: str
) -> None:
    monkeypatch.setenv("MHA_ABLATE_CACHE", str(tmp_path / "cache"))
    first = whole(small)
    [place] = cached(file)
    content = bytearray(place.read_bytes())
    if harm == "removed":
        place.unlink()
    else:
        content[len(content) // 2] ^= 1
        place.write_bytes(b"" if harm == "emptied" else content)
    cell_module.corpus_of.__globals__["load_corpus"].__globals__["_read"].cache_clear()
    cell = single_cell([*small, "name=again"])
    run_cell(cell, quiet)
    assert_same(cell.folder, first)
    assert cached(file) == [place]
    assert place.read_bytes() != b"" or file == "seal.json"


def test_the_last_measurements_are_on_the_disk_before_a_run_counts_as_finished(
    small: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, write = Record.sync, RunFolder.write

    def synced(record: Record) -> dict[str, Any]:
        events.append("synced")
        return sync(record)

    def measured(record: Record, line: bytes) -> None:
        events.append("measured")
        append(record, line)

    def written(folder: RunFolder, values: dict[str, Any]) -> None:
        events.append(values["state"])
        write(folder, values)

    append = Record._append
    monkeypatch.setattr(Record, "sync", synced)
    monkeypatch.setattr(Record, "_append", measured)
    monkeypatch.setattr(RunFolder, "write", written)
    assert cli("train", *small).code == 0
    assert events[-3:] == ["measured", "synced", "ok"]
