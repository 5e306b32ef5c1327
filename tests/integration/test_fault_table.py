"""Faults of the machine: one line, the right exit code, nothing finished lost, and the same command goes on to the same bits.

scripts/fault_test makes the table of docs/reliability.md from the same list.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from mha_ablate.data import cache, hub
from mha_ablate.errors import disk_trouble, in_a_line, machine_trouble
from scripts.reliability.faults import FAULTS, Bench, Fault, tried
from scripts.reliability.world import NotPermitted, World
from tests.conftest import Cli


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Where all of them happen: they share what an undisturbed call leaves."""
    return Bench(World(tmp_path_factory.mktemp("faults")))


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.tested], ids=lambda fault: fault.name)
def test_a_fault(bench: Bench, fault: Fault) -> None:
    try:
        seen = tried(fault, bench)
    except NotPermitted as error:
        pytest.skip(str(error))
    assert not seen.wrong
    assert seen.same


@pytest.fixture
def no_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_spare", None)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_during_a_fetch_is_no_fault_of_the_request(
    cli: Cli, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import datasets.exceptions

    def load(*_: Any, **__: Any) -> Any:
        try:
            raise full()
        except OSError as error:
            raise datasets.exceptions.DatasetGenerationError("An error occurred while generating") from error

    monkeypatch.setattr(hub, "why_unreachable", lambda: None)
    monkeypatch.setattr(hub, "why_silent", lambda path: None)
    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    said = cli("data", "prepare", "data=hub", "data.hub.name=me/mine", "--quiet")
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "the disk is full" in said.err


def test_an_error_of_the_text_is_not_taken_for_one_of_the_cache(tmp_path: Path, no_spare: None) -> None:
    calls = []

    def write(folder: Path) -> None:
        calls.append(folder)
        raise FileNotFoundError(errno.ENOENT, "gone", "text.txt")

    with pytest.raises(FileNotFoundError):
        cache.written(tmp_path / "tokens/it", write, lambda folder: folder)
    assert len(calls) == 1
    assert list((tmp_path / "tokens").iterdir()) == []
    assert cache.spare() is None


def test_what_the_cache_cannot_take_is_kept_for_this_process(tmp_path: Path, no_spare: None) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file/tokens/it"

    def write(folder: Path) -> None:
        (folder / "a").write_text("b")

    cache.written(place, write, lambda folder: folder)
    assert (cache.kept_at(place) / "a").read_text() == "b"
    spare = cache.spare()
    cache._spare = None
    assert cache.kept_at(place) == place
    cache.share_spare(spare)
    assert (cache.kept_at(place) / "a").exists()


def test_a_clock_that_jumps_takes_no_folder_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e7)
    with cache._scratch(tmp_path) as being_written:
        left = tmp_path / f"{cache.WRITING}left"
        left.mkdir()
        cache._remove_leftovers(tmp_path)
        assert being_written.exists()
        assert not left.exists()


def test_the_words_for_what_this_machine_refuses() -> None:
    behind = RuntimeError("wrapped")
    behind.__cause__ = full()
    assert disk_trouble(behind) is behind.__cause__
    assert in_a_line(behind) == "the disk is full: free some space"
    assert in_a_line(MemoryError()).startswith("the memory is not enough")
    assert machine_trouble(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert machine_trouble(PermissionError(errno.EACCES, "of a socket")) is None
    assert machine_trouble(ValueError("out of memory")) is None
    assert in_a_line(ValueError("two\nlines")) == "ValueError: two lines"
    limit = RuntimeError("a compiler was at work")
    limit.__context__ = type("UncompletedJobError", (RuntimeError,), {})(
        "Job not requeued because: timed-out too many times."
    )
    assert in_a_line(limit).startswith("its job reached the time limit, and may not be requeued again: give it")
