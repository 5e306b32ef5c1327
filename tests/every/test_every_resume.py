"""A run that is interrupted and goes on is, bit for bit, the run that never was: for everything that can be trained."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mha_ablate.config.catalog import choice_names
from mha_ablate.errors import RequestError
from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from mha_ablate.study.cell import Cell, run_cell, run_cells
from mha_ablate.study.plan import make_plan
from mha_ablate.study.replay import BY_THE_CLOCK
from mha_ablate.study.single import single_cell
from tests.conftest import Cli

WEIGHTS = ("last.safetensors", "best.safetensors")
ALWAYS = "trainer.save_every_s=0"  # after every step


class Killed(BaseException):
    """Ends a run as a kill does: nobody catches it, and nothing is tidied up in run.json."""


def runs_until(cell: Cell, step: int) -> None:
    """Begin the run, and be killed when the line of `step` comes."""

    def on_line(line: dict[str, Any]) -> None:
        if line["step"] >= step and "val_tokens" not in line:
            raise Killed

    with pytest.raises(Killed):
        run_cell(cell, on_line)
    assert cell.folder.read()["state"] == "running"


def quiet(*_: Any) -> None:
    """Hear nothing."""


def measured(folder: RunFolder) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in BY_THE_CLOCK} for line in folder.lines()]


def assert_same(one: RunFolder, other: RunFolder) -> None:
    assert measured(one) == measured(other)
    (a, about_a), (b, about_b) = checkpoint.load(one.last_file), checkpoint.load(other.last_file)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert about_a == about_b
    assert one.best_file.exists() == other.best_file.exists()
    if one.best_file.exists():
        (a, about_a), (b, about_b) = checkpoint.load(one.best_file), checkpoint.load(other.best_file)
        assert about_a == about_b
        assert all(torch.equal(a[k], b[k]) for k in a)
    for folder in (one, other):
        names = {f.name for f in folder.path.rglob("*") if f.is_file() and "events" not in f.name}
        assert names <= {"config.yaml", "run.json", "metrics.jsonl", ".lock", "tokenizer.json", *WEIGHTS}
    keys = ("val_loss", "step", "gflop")
    assert [one.read()["result"][k] for k in keys] == [other.read()["result"][k] for k in keys]


def interrupted_and_whole(overrides: list[str], at: tuple[int, ...]) -> Iterator[RunFolder]:
    """The folders of one run that was killed at these steps and went on each time, and of one that was not."""
    cell = single_cell([*overrides, ALWAYS, "name=killed"])
    for step in at:
        runs_until(cell, step)
    run = run_cell(cell, quiet)
    assert len(run.get("resumed", [])) == len(at), run.get("began_anew")
    yield cell.folder
    whole = single_cell([*overrides, "name=whole"])
    run_cell(whole, quiet)
    yield whole.folder


def check(overrides: list[str], at: tuple[int, ...] = (3,)) -> None:
    assert_same(*interrupted_and_whole(overrides, at))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", choice_names("fc_out"))
def test_for_every_variant_and_precision(small: list[str], variant: str, precision: str) -> None:
    check([*small, f"fc_out={variant}", f"trainer.precision={precision}"])


@pytest.mark.parametrize("tokenizer", choice_names("tokenizer"))
def test_for_every_tokenizer(small: list[str], tokenizer: str) -> None:
    check([*small, f"tokenizer={tokenizer}"])


@pytest.mark.parametrize("attention", choice_names("attention"))
@pytest.mark.parametrize(
    "more",
    [
        ["model.dropout=0.2"],
        ["model.positions=learned", "model.bias=true", "model.norm=rmsnorm", "model.block=post"],
        ["trainer.log_every=5", "trainer.eval_every=4"],
        ["trainer.log_every=100", "trainer.eval_every=1"],
        ["trainer.batch_size=300"],  # several micro-batches make a step
    ],
    ids=" ".join,
)
def test_for_every_attention_and_other_settings(small: list[str], attention: str, more: list[str]) -> None:
    check([*small, f"attention={attention}", *more], (4,))


def test_after_several_interruptions(small: list[str]) -> None:
    check([*small, "trainer.log_every=1"], (2, 2, 3, 5))


def test_cells_side_by_side_go_on_together(small: list[str]) -> None:
    def cells(name: str) -> list[Cell]:
        words = [*small, f"name={name}", "study.arms=[dense]", "study.seeds=3", ALWAYS, "trainer.log_every=1"]
        return make_plan(words).cells

    def on_line(cell: Cell, line: dict[str, Any]) -> None:
        if cell.seed == 2 and line["step"] == 3:
            raise Killed

    killed, whole = cells("killed"), cells("whole")
    with pytest.raises(Killed):
        run_cells(killed, on_line)
    assert all(run["resumed"][0]["step"] == 2 for run in run_cells(killed, quiet))
    run_cells(whole, quiet)
    for one, other in zip(killed, whole, strict=True):
        assert_same(one.folder, other.folder)


def test_cells_side_by_side_that_stand_at_other_steps_begin_anew(small: list[str]) -> None:
    cells = make_plan([*small, "study.arms=[dense]", "study.seeds=2", ALWAYS, "trainer.log_every=1"]).cells
    runs_until(cells[0], 3)
    runs = run_cells(cells, quiet)
    assert "other steps" in runs[0]["began_anew"]
    assert all("resumed" not in run for run in runs)
    assert [len({line["step"] for line in cell.folder.lines()}) for cell in cells] == [6, 6]


@pytest.fixture
def killed(small: list[str]) -> Cell:
    cell = single_cell([*small, ALWAYS, "trainer.log_every=1", "name=killed"])
    runs_until(cell, 4)
    return cell


def flip(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x10
    file.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.001, 0.03, 0.5, 1.0])
def test_a_state_with_one_wrong_bit_is_not_used(killed: Cell, small: list[str], place: float) -> None:
    flip(killed.folder.state_file, place)
    run = run_cell(killed, quiet)
    assert "checkpoint" in run["began_anew"] or "configuration" in run["began_anew"]
    whole = single_cell([*small, "trainer.log_every=1", "name=whole"])
    run_cell(whole, quiet)
    assert_same(killed.folder, whole.folder)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_state_is_not_used(killed: Cell, size: int) -> None:
    content = killed.folder.state_file.read_bytes()
    killed.folder.state_file.write_bytes(content[:size])
    assert "no checkpoint that can be read" in run_cell(killed, quiet)["began_anew"]


def test_a_state_whose_metrics_were_changed_is_not_used(killed: Cell) -> None:
    lines = killed.folder.metrics_file.read_text().splitlines(keepends=True)
    killed.folder.metrics_file.write_text("".join(lines[1:]))
    assert "metrics.jsonl" in run_cell(killed, quiet)["began_anew"]
    assert killed.folder.lines()[0]["step"] == 1


def test_half_a_line_of_metrics_is_cut_off(killed: Cell, small: list[str]) -> None:
    with killed.folder.metrics_file.open("a") as stream:
        stream.write('{"step": 4, "loss/tr')
    assert run_cell(killed, quiet)["resumed"][0]["step"] == 3
    whole = single_cell([*small, "trainer.log_every=1", "name=whole"])
    run_cell(whole, quiet)
    assert_same(killed.folder, whole.folder)


def test_a_run_that_lost_everything_but_its_state_begins_anew(killed: Cell) -> None:
    for file in killed.folder.path.iterdir():
        if file.is_file() and file.name != ".lock":
            file.unlink()
    assert "metrics.jsonl" in run_cell(killed, quiet)["began_anew"]


def test_a_run_whose_record_was_lost_goes_on(killed: Cell, small: list[str]) -> None:
    killed.folder.run_file.write_text('{"state": "run')
    assert run_cell(killed, quiet)["resumed"][0]["step"] == 3


def test_a_run_folder_can_be_copied_and_go_on_elsewhere(killed: Cell, tmp_path: Path) -> None:
    from dataclasses import replace

    shutil.copytree(killed.folder.path, tmp_path / "copy")
    here = replace(killed, folder=RunFolder(tmp_path / "copy"))
    assert run_cell(here, quiet)["resumed"][0]["step"] == 3
    run_cell(killed, quiet)
    assert_same(here.folder, killed.folder)


def test_the_best_weights_are_those_of_the_lowest_evaluation(small: list[str]) -> None:
    small = [*small, "trainer.eval_every=1", "optim.lr=0.5", "optim.min_lr=0.5"]
    for seed in range(10):  # where the loss rises and falls depends on the machine's arithmetic
        cell = single_cell([*small, "trainer.steps=11", f"seed={seed}"])
        run_cell(cell, quiet)
        losses = {line["step"]: line["loss/val"] for line in cell.folder.lines() if "loss/val" in line}
        best = min(losses, key=lambda step: losses[step])
        if 0 < best < 11:
            break
    else:
        pytest.fail("at no seed is the lowest loss before the last")
    assert checkpoint.describe(cell.folder.best_file)["step"] == best
    shorter = single_cell([*small, f"trainer.steps={best}", f"seed={seed}", "name=b"])
    run_cell(shorter, quiet)
    a, b = checkpoint.load(cell.folder.best_file)[0], checkpoint.load(shorter.folder.last_file)[0]
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not shorter.folder.best_file.exists(), "the last are the best"


def test_train_says_where_it_went_on(killed: Cell, small: list[str], cli: Cli) -> None:
    words = [*small, ALWAYS, "trainer.log_every=1", "name=killed"]
    said = cli("train", *words)
    assert said.code == 0
    assert "went on from step 3" in said.err
    assert "finished before" in cli("train", *words).err


def test_train_says_why_it_began_anew(killed: Cell, small: list[str], cli: Cli) -> None:
    killed.folder.state_file.write_bytes(b"no state")
    said = cli("train", *small, ALWAYS, "trainer.log_every=1", "name=killed")
    assert said.code == 0
    assert "began anew: " in said.err
    assert "state.safetensors" in said.err


def test_a_run_that_goes_on_remembers_its_best_evaluation(small: list[str]) -> None:
    check([*small, "trainer.eval_every=1", "trainer.steps=11", "optim.lr=0.5", "optim.min_lr=0.5"], (11,))


def test_a_cell_that_another_process_has_finished_meanwhile_is_left_as_it_is(small: list[str]) -> None:
    cell = single_cell([*small, "name=raced"])
    first = run_cell(cell, quiet)
    before = cell.folder.last_file.stat().st_mtime_ns
    assert run_cell(cell, quiet) == first
    assert cell.folder.last_file.stat().st_mtime_ns == before


def resaved(cell: Cell, **changes: Any) -> None:
    """The state with something else in it, under a checksum that is right."""
    tensors, about = checkpoint.load(cell.folder.state_file)
    tensors |= changes.pop("tensors", {})
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    checkpoint.save(cell.folder.state_file, tensors, {**about, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 10**6},
        {"step": 0},
        {"best": "x"},
        {"train_s": "x"},
        {"metrics": {"bytes": 10**18, "sha256": ""}},
        {"tensors": {"losses": torch.ones(2, 2, dtype=torch.complex64)}},
        {"tensors": {"losses": None}},
        {"tensors": {"strange": torch.ones(1)}},
    ],
)
def test_a_state_that_fits_no_run_is_begun_anew(killed: Cell, changes: dict[str, Any]) -> None:
    resaved(killed, **changes)
    run = run_cell(killed, quiet)
    assert run["state"] == "ok"
    assert run["began_anew"]
    assert "resumed" not in run


def test_a_state_of_another_format_is_refused_and_kept(killed: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    before = killed.folder.state_file.read_bytes()
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    with pytest.raises(RequestError, match="go on with the version that wrote it"):
        run_cell(killed, quiet)
    assert killed.folder.state_file.read_bytes() == before


def test_a_finished_run_whose_run_json_was_damaged_is_not_overwritten_by_another(small: list[str], cli: Cli) -> None:
    cell = single_cell([*small, "name=damaged"])
    run_cell(cell, quiet)
    before = cell.folder.last_file.read_bytes()
    cell.folder.run_file.write_text("{")
    refused = cli("train", *small, "name=damaged", "optim.lr=1e-4")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "holds weights of another run" in refused.err
    assert cell.folder.last_file.read_bytes() == before
    assert cli("train", *small, "name=damaged").code == 0, "the same run may be made again"


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "config.yaml"])
def test_a_folder_in_the_place_of_a_file_is_refused(small: list[str], cli: Cli, name: str) -> None:
    cell = single_cell([*small, "name=folder"])
    (cell.folder.path / name).mkdir(parents=True)
    refused = cli("train", *small, "name=folder")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "is not what a run keeps there" in refused.err
