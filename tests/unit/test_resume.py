"""Stopping and going on in the small: the optimizer's snapshot, the loop's position, the record's sums, the seal of the cache."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest
import torch

from mha_ablate.data.cache import check_seal, written
from mha_ablate.run.folder import RunFolder
from mha_ablate.run.record import Record
from mha_ablate.run.state import find_state, save_state, saved_step
from tests.unit.small import adamw, gpt, ids_of


def record(folder: RunFolder) -> Record:
    return Record(folder, tokens_per_step=8, train_flops_per_step=1e6, factors={})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_optimizer_that_goes_on_is_the_one_that_never_stopped(dtype: torch.dtype) -> None:
    def step(model, optimizer) -> None:
        ids = ids_of(model)
        model.loss(ids, ids.roll(-1, dims=1)).backward()
        optimizer.step(1e-2, 1.0)

    one = gpt()
    first = adamw(one, dtype)
    step(one, first)
    kept = {k: v.clone() for k, v in first.snapshot(0).items()}
    step(one, first)

    other = gpt(init_seed=1)
    second = adamw(other, dtype)
    step(other, second)
    second.restore([kept], 1)
    step(other, second)
    assert all(torch.equal(a, b) for a, b in zip(first.state, second.state, strict=True))


def test_a_snapshot_of_another_model_is_refused() -> None:
    wide, narrow = gpt(), gpt(n_layers=3)
    with pytest.raises(ValueError, match="other tensors"):
        adamw(wide, torch.float32).restore([adamw(narrow, torch.float32).snapshot(0)], 1)


def test_models_are_in_full_precision_only_while_they_are_saved() -> None:
    model = gpt()
    optimizer = adamw(model, torch.bfloat16)
    before = [(p.dtype, p.data_ptr()) for p in model.parameters()]

    def fail() -> None:
        with optimizer.in_full():
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [(p.dtype, p.data_ptr()) for p in model.parameters()] == before
    assert all(p.grad is not None for p in model.parameters())


def test_a_record_says_what_is_on_the_disk(folder: RunFolder) -> None:
    first = record(folder)
    first.write(1, {"loss/train": 2.0})
    first.close()
    second = record(folder)
    second.write(2, {"loss/train": 1.0})
    content = folder.metrics_file.read_bytes()
    assert second.sync() == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    second.close()


def save(folder: RunFolder, step: int = 3) -> None:
    with_lines = record(folder)
    with_lines.write(step, {"loss/train": 2.0})
    about = {"metrics": with_lines.sync(), "train_s": 1.0, "last_read": 0.5, "best": None}
    save_state(folder, config_hash="abc", step=step, tensors={"weights.a": torch.ones(2)}, about=about)
    with_lines.write(step + 1, {"loss/train": 1.0})
    with_lines.close()


def test_a_state_is_found_by_the_configuration_that_it_belongs_to(folder: RunFolder) -> None:
    assert find_state(folder, "abc") == (None, None)
    save(folder)
    state, why = find_state(folder, "abc")
    assert why is None
    assert state is not None
    assert (state.step, saved_step(folder)) == (3, 3)
    found, why = find_state(folder, "other")
    assert found is None
    assert "another configuration" in str(why)


def test_a_disk_that_fails_does_not_cost_the_run(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors

    save(folder)

    def fails(path: Path, **_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(safetensors, "safe_open", fails)
    with pytest.raises(OSError, match="Input/output error"):
        find_state(folder, "abc")


def test_rewinding_cuts_off_what_came_later_and_leaves_no_scratch(folder: RunFolder) -> None:
    save(folder)
    for file in (folder.path / ".run.json.7.tmp", folder.state_file.parent / ".state.safetensors.7.tmp"):
        file.write_text("half")
    state, _ = find_state(folder, "abc")
    assert state is not None
    state.rewind(folder)
    assert [line["step"] for line in folder.lines()] == [3]
    assert not [f for f in folder.path.rglob("*") if f.name.endswith(".tmp") or "events" in f.name]


@pytest.mark.parametrize("missing", ["config_hash", "step", "metrics"])
def test_a_state_that_lacks_something_is_not_used(folder: RunFolder, missing: str) -> None:
    from mha_ablate.run import checkpoint

    save(folder)
    tensors, about = checkpoint.load(folder.state_file)
    del about[missing]
    checkpoint.save(folder.state_file, tensors, about)
    state, why = find_state(folder, "abc")
    assert state is None
    assert why


def fill(folder: Path) -> None:
    (folder / "one.txt").write_text("one")


def read(folder: Path) -> str:
    check_seal(folder)
    return (folder / "one.txt").read_text()


def test_what_was_written_to_the_cache_is_sealed(tmp_path: Path) -> None:
    place = tmp_path / "cache" / "thing"
    assert written(place, fill, read) == "one"
    assert json.loads((place / "seal.json").read_text()) == {"one.txt": hashlib.sha256(b"one").hexdigest()}
    assert read(place) == "one"


@pytest.mark.parametrize("content", ["", "on", "onE", "one and more"])
def test_what_is_not_what_was_written_is_noticed(tmp_path: Path, content: str) -> None:
    place = tmp_path / "cache" / "thing"
    written(place, fill, read)
    (place / "one.txt").write_text(content)
    with pytest.raises(ValueError, match="not what was written"):
        read(place)


@pytest.mark.parametrize("seal", ["", "{}", "[]", "{", '{"../../one": "x"}'])
def test_a_broken_seal_is_noticed(tmp_path: Path, seal: str) -> None:
    place = tmp_path / "cache" / "thing"
    written(place, fill, read)
    (place / "seal.json").write_text(seal)
    with pytest.raises((ValueError, OSError)):
        read(place)
