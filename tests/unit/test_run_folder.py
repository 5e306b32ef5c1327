"""The run folder: atomic files, ownership, the record and its events, the weights."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch import nn

from mha_ablate.errors import RequestError
from mha_ablate.run.checkpoint import describe, load_tokenizer, load_weights, save_tokenizer, save_weights
from mha_ablate.run.events import DELTA, HPARAMS, RESULTS, rebuild
from mha_ablate.run.folder import RunFolder, StudyFolder, read_json, this_process, write_atomic, write_json
from mha_ablate.run.lock import locked
from mha_ablate.run.record import Record


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """An empty run folder."""
    made = StudyFolder(tmp_path / "study").run("dense", 3)
    made.path.mkdir(parents=True)
    return made


def test_a_run_lies_below_its_arm_and_seed(tmp_path: Path) -> None:
    assert StudyFolder(tmp_path).run("none", 7).path == tmp_path / "none" / "seed=7"


def test_runs_are_found_wherever_a_run_json_lies(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    for arm, seed in (("b", 1), ("a", 0), ("b", 0)):
        study.run(arm, seed).write({"state": "ok"})
    (tmp_path / "c" / "seed=0").mkdir(parents=True)
    found = [f.path.relative_to(tmp_path).as_posix() for f in study.runs()]
    assert found == ["a/seed=0", "b/seed=0", "b/seed=1"]


# --- whole files


def test_a_written_file_holds_the_text_and_nothing_stands_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    write_atomic(file, "one \u4e2d\n")
    write_atomic(file, "two\n")
    assert file.read_bytes() == b"two\n"
    assert [f.name for f in file.parent.iterdir()] == ["a.txt"]


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_json(file, {"new": 2})
    assert read_json(file) == {"old": 1}
    write_json(file, {"new": 3})
    assert read_json(file) == {"new": 3}


def test_a_write_reaches_the_disk_before_it_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append("replace"), replace(self, to))[1])
    write_atomic(tmp_path / "a", "x")
    assert done == ["fsync", "replace", "fsync"]


def test_json_is_readable_and_strict(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"name": "\u4e2d\u6587", "n": [1, None]})
    assert "\u4e2d\u6587" in file.read_text(encoding="utf-8")
    assert read_json(file) == {"name": "\u4e2d\u6587", "n": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"loss": math.nan})
    assert read_json(file) == {"name": "\u4e2d\u6587", "n": [1, None]}


@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"\xff\xfe", b"\0\0\0"])
def test_json_that_cannot_be_read_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None


@pytest.mark.parametrize("content", ["[1]", "null", "3", '{"state": "ok"'])
def test_a_run_json_that_is_no_object_counts_as_none(folder: RunFolder, content: str) -> None:
    folder.run_file.write_text(content)
    assert folder.read() == {}


# --- lines


def test_lines_come_back_in_order(folder: RunFolder) -> None:
    assert folder.lines() == []
    folder.metrics_file.write_text('{"step": 0, "a": 1}\n{"step": 2, "a": null}\n')
    assert folder.lines() == [{"step": 0, "a": 1}, {"step": 2, "a": None}]


@pytest.mark.parametrize("torn", ['{"step": 3, "loss/val": 1.2', '{"st', "{", "\0\0\0\0"])
def test_a_torn_last_line_is_left_out(folder: RunFolder, torn: str) -> None:
    folder.metrics_file.write_text('{"step": 1}\n{"step": 2}\n' + torn)
    assert folder.lines() == [{"step": 1}, {"step": 2}]


def test_lines_can_be_asked_for_by_what_they_hold(folder: RunFolder) -> None:
    folder.metrics_file.write_text('{"step": 1, "a": 1}\n{"step": 2, "b": 2}\n{"step": 3, "a": null}\n{"step": 4, "a"')
    assert [line["step"] for line in folder.lines(holding="a")] == [1, 3]
    assert [line["step"] for line in folder.lines(without="a")] == [2]
    assert [line["step"] for line in folder.lines()] == [1, 2, 3]


def test_a_digest_tells_contents_apart(folder: RunFolder) -> None:
    seen = [folder.digest()]
    for content in ("", '{"step": 1}', '{"step": 2}'):
        folder.metrics_file.write_text(content)
        seen.append(folder.digest())
    assert len(set(seen)) == 4
    assert seen[0] == ""


def test_lines_that_are_no_record_are_left_out(folder: RunFolder) -> None:
    folder.metrics_file.write_text('{"step": 1}\n\n3\n{"other": 1}\n{"step": 2}\n')
    assert folder.lines() == [{"step": 1}, {"step": 2}]


def test_clear_removes_what_a_run_left_and_nothing_else(folder: RunFolder) -> None:
    for file in (folder.run_file, folder.metrics_file, folder.last_file, folder.state_file):
        write_atomic(file, "x")
    write_atomic(folder.path / "events.out.tfevents.1.host", "x")
    write_atomic(folder.path / "notes.txt", "mine")
    folder.clear()
    assert [f.name for f in folder.path.iterdir()] == ["notes.txt"]
    folder.clear()


# --- who owns a run


def test_this_process_is_named() -> None:
    assert this_process() == {"host": socket.gethostname(), "pid": os.getpid()}


def test_a_locked_folder_is_refused_until_its_holder_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom mha_ablate.run.lock import locked\n"
        f"with locked(pathlib.Path({str(tmp_path)!r})):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RequestError, match="another process"), locked(tmp_path):
            pass
        holder.kill()
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()


# --- the record and its events


def scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve of the event files in a folder: `{tag: [(step, value)]}`."""
    read = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def event_files(path: Path) -> list[Path]:
    return sorted(path.glob("events.out.tfevents*"))


def record_of(folder: RunFolder) -> Record:
    return Record(
        folder,
        tokens_per_step=96,
        train_flops_per_step=3e9,
        factors={"loss/val": ("loss/val_bits_per_byte", 1.5)},
    )


def write_three(folder: RunFolder) -> list[dict[str, Any]]:
    record = record_of(folder)
    lines = [
        record.write(0, {"loss/val": 4.0, "train_s": 0.0}),
        record.write(10, {"loss/train": 3.0, "perf/step_ms": 12.5, "train_s": 0.5}),
        record.write(20, {"loss/train": 2.5, "loss/val": 2.0, "train_s": 1.25}),
    ]
    record.close()
    return lines


def test_a_line_says_where_it_stands_and_what_was_measured(folder: RunFolder) -> None:
    returned = write_three(folder)
    lines = [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]
    assert lines == returned == folder.lines()
    for line in lines:
        assert line.pop("wall_time") > 1.7e9
    assert lines == [
        {"step": 0, "tokens": 0, "gflop": 0.0, "loss/val": 4.0, "loss/val_bits_per_byte": 6.0, "train_s": 0.0},
        {"step": 10, "tokens": 960, "gflop": 30.0, "loss/train": 3.0, "perf/step_ms": 12.5, "train_s": 0.5},
        {
            "step": 20,
            "tokens": 1920,
            "gflop": 60.0,
            "loss/train": 2.5,
            "loss/val": 2.0,
            "loss/val_bits_per_byte": 3.0,
            "train_s": 1.25,
        },
    ]


def test_a_line_is_on_disk_as_soon_as_it_is_written(folder: RunFolder) -> None:
    record = record_of(folder)
    record.write(1, {"loss/train": 1.0})
    assert [line["step"] for line in folder.lines()] == [1]
    record.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(folder: RunFolder, value: float) -> None:
    record = record_of(folder)
    line = record.write(1, {"loss/val": value, "loss/train": 2.0})
    record.close()
    assert (line["loss/val"], line["loss/val_bits_per_byte"], line["loss/train"]) == (None, None, 2.0)
    assert folder.lines() == [line]
    assert not {"NaN", "Infinity"} & set(folder.metrics_file.read_text().replace(",", " ").split())
    assert set(scalars(folder.path)) == {"loss/train"}


def test_events_carry_the_same_values_and_twins_on_other_axes(folder: RunFolder) -> None:
    write_three(folder)
    assert len(event_files(folder.path)) == 1
    assert scalars(folder.path) == {
        "loss/val": [(0, 4.0), (20, 2.0)],
        "loss/val_bits_per_byte": [(0, 6.0), (20, 3.0)],
        "loss/train": [(10, 3.0), (20, 2.5)],
        "perf/step_ms": [(10, 12.5)],
        "loss/val_by_tokens": [(0, 4.0), (1920, 2.0)],
        "loss/val_by_gflop": [(0, 4.0), (60, 2.0)],
        "loss/val_by_train_ms": [(0, 4.0), (1250, 2.0)],
    }


def test_events_have_the_wall_time_of_their_line(folder: RunFolder) -> None:
    lines = write_three(folder)
    read = EventAccumulator(str(folder.path)).Reload()
    assert [e.wall_time for e in read.Scalars("loss/val")] == [lines[0]["wall_time"], lines[2]["wall_time"]]


def rebuild_from(
    folder: RunFolder,
    *,
    ok: bool = True,
    deltas: dict[int, float] | None = None,
    loss: float = 2.0,
    ended: float = 1060.0,
) -> bool:
    return rebuild(
        folder.path,
        folder.lines,
        lines_digest=folder.digest(),
        hparams={"arm": "none", "fc_out": "none", "seed": "3", "n_heads": "4", "lr": 0.004},
        session="none/seed=3",
        results={"result/val_loss": loss, "result/params_M": 0.75},
        deltas=deltas or {},
        ok=ok,
        times=(1000.0, ended),
    )


def test_a_rebuilt_event_file_equals_the_first_and_adds_results_and_delta(folder: RunFolder) -> None:
    write_three(folder)
    before = scalars(folder.path)
    [old] = event_files(folder.path)
    rebuild_from(folder, deltas={20: 0.125, 10: 9.0})
    assert not old.exists()
    assert len(event_files(folder.path)) == 1
    after = scalars(folder.path)
    added = {tag: points for tag, points in after.items() if tag not in before}
    assert {tag: after[tag] for tag in before} == before
    assert added == {
        DELTA: [(20, 0.125)],  # where there is a validation loss to differ
        "result/val_loss": [(20, 2.0)],
        "result/params_M": [(20, 0.75)],
    }


def test_rebuilding_again_changes_nothing(folder: RunFolder) -> None:
    write_three(folder)
    rebuild_from(folder, deltas={20: 0.125})
    once = scalars(folder.path)
    rebuild_from(folder, deltas={20: 0.125})
    assert scalars(folder.path) == once
    assert len(event_files(folder.path)) == 1


def test_an_event_file_that_says_it_all_is_left_alone(folder: RunFolder) -> None:
    write_three(folder)
    assert rebuild_from(folder, deltas={20: 0.125})
    [made] = event_files(folder.path)
    before = made.stat()
    assert not rebuild_from(folder, deltas={20: 0.125})
    [kept] = event_files(folder.path)
    assert (kept, kept.stat().st_ino, kept.stat().st_mtime_ns) == (made, before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("changed", [{"ok": False}, {"deltas": {20: 0.25}}, {"loss": 2.5}, {"ended": 1061.0}])
def test_an_event_file_is_made_anew_where_what_it_says_has_changed(folder: RunFolder, changed: dict[str, Any]) -> None:
    write_three(folder)
    rebuild_from(folder, deltas={20: 0.125})
    [old] = event_files(folder.path)
    assert rebuild_from(folder, **{"deltas": {20: 0.125}, **changed})
    [new] = event_files(folder.path)
    assert new != old
    assert not rebuild_from(folder, **{"deltas": {20: 0.125}, **changed})


def spoil_lines(folder: RunFolder) -> None:
    folder.metrics_file.write_text(folder.metrics_file.read_text().replace("2.5", "2.75"))


def spoil_file(folder: RunFolder) -> None:
    [made] = event_files(folder.path)
    made.write_bytes(made.read_bytes()[:-7])


def spoil_folder(folder: RunFolder) -> None:
    (folder.path / "events.out.tfevents.1.host").write_bytes(b"")


def remove_file(folder: RunFolder) -> None:
    event_files(folder.path)[0].unlink()


@pytest.mark.parametrize("spoil", [spoil_lines, spoil_file, spoil_folder, remove_file])
def test_an_event_file_is_made_anew_where_lines_or_files_have_changed(
    folder: RunFolder, spoil: Callable[[RunFolder], None]
) -> None:
    write_three(folder)
    rebuild_from(folder)
    spoil(folder)
    assert rebuild_from(folder)
    assert len(event_files(folder.path)) == 1
    assert scalars(folder.path)["loss/train"] == [(line["step"], line["loss/train"]) for line in folder.lines()[1:]]
    assert not list(folder.path.glob(".*tmp"))


def test_an_interrupted_rebuild_leaves_the_older_events(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_three(folder)
    [old] = event_files(folder.path)

    def stop(messages: list[bytes]) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("mha_ablate.run.records.framed", stop)
    with pytest.raises(KeyboardInterrupt):
        rebuild_from(folder)
    assert event_files(folder.path) == [old]


@pytest.mark.parametrize("ok", [True, False])
def test_a_rebuilt_event_file_has_its_row_in_the_hparams_table(folder: RunFolder, ok: bool) -> None:
    write_three(folder)
    rebuild_from(folder, ok=ok)
    contents = EventAccumulator(str(folder.path)).Reload().PluginTagToContent("hparams")
    data: dict[str, Any] = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(content)  # pyright: ignore
        for tag, content in contents.items()
    }
    experiment = data["_hparams_/experiment"].experiment
    assert [info.name for info in experiment.hparam_infos] == list(HPARAMS)
    assert [info.name for info in experiment.hparam_infos if info.differs] == ["arm"]
    assert [info.name.tag for info in experiment.metric_infos] == list(RESULTS)
    assert len(HPARAMS) <= 5, "TensorBoard shows five"
    assert len(RESULTS) <= 5, "TensorBoard shows five"
    start = data["_hparams_/session_start_info"].session_start_info
    assert set(start.hparams) == set(HPARAMS)
    assert start.hparams["arm"].string_value == "none"
    assert start.hparams["seed"].string_value == "3"
    assert start.hparams["lr"].number_value == 0.004
    assert start.start_time_secs == 1000.0
    end = data["_hparams_/session_end_info"].session_end_info
    assert end.end_time_secs == 1060.0
    assert end.status == (1 if ok else 2)


def test_a_run_without_lines_can_be_rebuilt(folder: RunFolder) -> None:
    rebuild_from(folder, ok=False)
    assert set(scalars(folder.path)) == {"result/val_loss", "result/params_M"}


# --- weights


BYTES = {"kind": "byte"}


class Net(nn.Module):
    """Two maps of which the second may reuse the first's weight."""

    def __init__(self, width: int = 4, *, tied: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(3, width, bias=False)
        self.second = nn.Linear(3, width, bias=False)
        self.register_buffer("table", torch.arange(5.0))
        if tied:
            self.second.weight = self.first.weight


def saved(folder: RunFolder, model: nn.Module) -> RunFolder:
    save_weights(folder.last_file, model, {"step": 12, "vocab_size": 7})
    return folder


def same(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_weights_come_back_with_what_was_said_of_them(folder: RunFolder) -> None:
    model, fresh = Net(), Net()
    info = load_weights(saved(folder, model), fresh)
    assert same(model, fresh)
    assert (info["step"], info["vocab_size"]) == (12, 7)
    assert [f.name for f in folder.last_file.parent.iterdir()] == ["last.safetensors"]
    assert describe(folder.last_file) == info


def test_what_a_checkpoint_says_is_json_that_any_reader_of_safetensors_finds(folder: RunFolder) -> None:
    from safetensors import safe_open

    with safe_open(saved(folder, Net()).last_file, framework="np") as file:
        assert json.loads(file.metadata()["mha_ablate"])["about"]["step"] == 12


def test_the_best_weights_are_the_last_ones_unless_there_are_better(folder: RunFolder) -> None:
    last, best, fresh = Net(), Net(), Net()
    load_weights(saved(folder, last), fresh, "best")
    assert same(last, fresh)
    save_weights(folder.best_file, best, {"step": 6})
    assert load_weights(folder, fresh, "best")["step"] == 6
    assert same(best, fresh)
    assert load_weights(folder, fresh)["step"] == 12
    assert same(last, fresh)


@pytest.mark.parametrize(
    "state", [{"kind": "char", "characters": "a\u4e2d"}, {"kind": "bpe", "definition": '{"a": 1}'}]
)
def test_the_tokenizer_comes_back(folder: RunFolder, state: dict[str, str]) -> None:
    told = dict(state)
    about = {"tokenizer": save_tokenizer(folder, told)}
    assert load_tokenizer(folder, about) == state
    assert told == state, "what was given is left as it was"
    assert folder.tokenizer_file.is_file() == ("definition" in state)
    assert ("definition" in about["tokenizer"]) is False, "it is stored once"


def test_saving_again_replaces(folder: RunFolder) -> None:
    saved(folder, Net())
    model, fresh = Net(), Net()
    load_weights(saved(folder, model), fresh)
    assert same(model, fresh)


def test_tied_weights_are_stored_once_and_come_back_tied(folder: RunFolder) -> None:
    from safetensors.torch import load_file

    model, fresh = Net(tied=True), Net(tied=True)
    saved(folder, model)
    assert sorted(load_file(folder.last_file)) == ["first.weight", "table"]
    load_weights(folder, fresh)
    assert same(model, fresh)
    assert fresh.second.weight is fresh.first.weight
    untied = Net()
    load_weights(folder, untied)
    assert torch.equal(untied.second.weight, model.first.weight)


def test_a_transposed_view_is_not_mistaken_for_the_same_weight(folder: RunFolder) -> None:
    model, fresh = Net(width=3), Net(width=3)
    model.second.weight = nn.Parameter(model.first.weight.detach().t())
    load_weights(saved(folder, model), fresh)
    assert same(model, fresh)


def test_views_of_one_buffer_are_stored_apart(folder: RunFolder) -> None:
    model, fresh = Net(), Net()
    flat = torch.arange(24.0)
    model.first.weight = nn.Parameter(flat[:12].view(4, 3))
    model.second.weight = nn.Parameter(flat[12:].view(4, 3))
    load_weights(saved(folder, model), fresh)
    assert same(model, fresh)


def test_weights_are_stored_in_fp32(folder: RunFolder) -> None:
    from safetensors.torch import load_file

    model = Net().to(torch.bfloat16)
    stored = load_file(saved(folder, model).last_file)
    assert {t.dtype for t in stored.values()} == {torch.float32}
    assert torch.equal(stored["first.weight"], model.first.weight.float())


def no_file(folder: RunFolder) -> None:
    folder.last_file.unlink()


def truncated_file(folder: RunFolder) -> None:
    folder.last_file.write_bytes(folder.last_file.read_bytes()[:-5])


def empty_file(folder: RunFolder) -> None:
    folder.last_file.write_bytes(b"")


def flipped_bit(folder: RunFolder) -> None:
    content = bytearray(folder.last_file.read_bytes())
    content[-3] ^= 1
    folder.last_file.write_bytes(content)


def of_somebody_else(folder: RunFolder) -> None:
    from safetensors.torch import save_file

    save_file(Net().state_dict(), folder.last_file)


def renamed_tensor(folder: RunFolder) -> None:
    content = folder.last_file.read_bytes()
    folder.last_file.write_bytes(content.replace(b'"table"', b'"tabel"'))


def another_format(folder: RunFolder) -> None:
    content = folder.last_file.read_bytes()
    folder.last_file.write_bytes(content.replace(b'\\"format\\": 2', b'\\"format\\": 9'))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (no_file, "no checkpoint that can be read"),
        (truncated_file, "no checkpoint that can be read"),
        (empty_file, "no checkpoint that can be read"),
        (flipped_bit, "checksum"),
        (of_somebody_else, "no checkpoint that can be read"),
        (renamed_tensor, "checksum"),
        (another_format, "has format 9, this version reads 2"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_checkpoint_that_cannot_be_read_is_refused_in_one_line(
    folder: RunFolder, break_it: Callable[[RunFolder], None], said: str
) -> None:
    model = Net()
    break_it(saved(folder, Net()))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=said) as caught:
        load_weights(folder, model)
    assert str(folder.path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("other", [Net(width=5), nn.Linear(2, 2)], ids=["wider", "another class"])
def test_a_checkpoint_of_another_model_is_refused_in_one_line(folder: RunFolder, other: nn.Module) -> None:
    saved(folder, Net())
    with pytest.raises(ValueError, match="of another model") as caught:
        load_weights(folder, other)
    assert str(folder.path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_interrupted_saving_keeps_the_older_weights(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    model, fresh = Net(), Net()
    saved(folder, model)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            saved(folder, Net())
    load_weights(folder, fresh)
    assert same(model, fresh)
