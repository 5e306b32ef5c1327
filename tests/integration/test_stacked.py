"""Cells side by side: through `run_cells` in this process, and a whole study through real workers."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mha_ablate.errors import RequestError
from mha_ablate.report.write import write_report
from mha_ablate.run.lock import locked
from mha_ablate.study import cell as cell_module
from mha_ablate.study.cell import Cell, run_cell, run_cells
from mha_ablate.study.execute import Pool, time_arms
from mha_ablate.study.execute import run_cells as run_study
from mha_ablate.study.observer import Observer
from mha_ablate.study.plan import Plan, make_plan
from mha_ablate.study.progress import Progress
from tests.integration.process import states

STUDY = ["study.arms=[dense,none]", "study.seeds=3"]
MEASURED = ("loss/train", "loss/val", "optim/lr", "optim/grad_norm", "step", "tokens", "gflop")


def quiet(*_: Any) -> None:
    """Hear nothing."""


def cells_of(small: list[str], name: str, *more: str) -> list[Cell]:
    return make_plan([*small, f"name={name}", "study.arms=[dense]", "study.seeds=3", *more]).cells


def curves(cell: Cell) -> list[list[float]]:
    return [[line[k] for k in MEASURED if k in line] for line in cell.folder.lines()]


def test_cells_side_by_side_leave_what_they_leave_alone(small: list[str]) -> None:
    stacked, alone = cells_of(small, "stacked"), cells_of(small, "alone")
    heard: list[tuple[int, int]] = []
    runs = run_cells(stacked, lambda cell, line: heard.append((cell.seed, line["step"])))
    for cell in alone:
        run_cell(cell, quiet)
    assert [step for seed, step in heard if seed == 1] == [0, 2, 3, 4, 6, 6]
    assert [run["seed"] for run in runs] == [0, 1, 2]
    for one, other in zip(stacked, alone, strict=True):
        assert one.is_done()
        assert one.hash == other.hash  # how it was trained is no part of what it is
        here, there = one.folder.read(), other.folder.read()
        assert (here["state"], here["error"]) == ("ok", None)
        assert (here["provenance"].pop("stacked"), there["provenance"].pop("stacked")) == (3, 1)
        for key in ("cost", "text", "provenance", "arm_hash"):
            assert here[key] == there[key], key
        assert here["result"]["val_loss"] == pytest.approx(there["result"]["val_loss"], rel=1e-5)
        for mine, theirs in zip(curves(one), curves(other), strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4)
        a, b = load_file(one.folder.weights_file), load_file(other.folder.weights_file)
        assert a.keys() == b.keys()
        assert all((a[k] - b[k]).abs().max() < 1e-4 for k in a)
        assert {p.name for p in one.folder.path.iterdir()} >= {"config.yaml", "run.json", "metrics.jsonl", "checkpoint"}
        assert list(one.folder.path.glob("events.out.tfevents*"))
    assert len({run["result"]["val_loss"] for run in runs}) == 3


def test_a_lane_that_diverges_is_recorded_by_itself(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    built = cell_module.build.model_of

    def one_is_sick(config: Any, *rest: Any, **more: Any) -> Any:
        model = built(config, *rest, **more)
        if config.seed == 1 and not next(model.parameters()).is_meta:
            model.tokens.weight.data.fill_(float("nan"))
        return model

    monkeypatch.setattr(cell_module.build, "model_of", one_is_sick)
    runs = run_cells(cells_of(small, "sick"), quiet)
    assert [run["state"] for run in runs] == ["ok", "diverged", "ok"]
    assert runs[1]["error"] == "the loss was not finite at step 2"
    assert runs[1]["result"]["val_loss"] is None


def test_a_folder_that_cannot_be_written_fails_those_that_were_not_finished(
    small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(small, "full")
    save = cell_module.save_weights

    def disk_full(folder: Any, *rest: Any) -> None:
        if folder == cells[1].folder:
            raise OSError(28, "No space left on device")
        save(folder, *rest)

    monkeypatch.setattr(cell_module, "save_weights", disk_full)
    with pytest.raises(OSError, match="No space"):
        run_cells(cells, quiet)
    found = [cell.folder.read() for cell in cells]
    assert [run["state"] for run in found] == ["ok", "failed", "failed"]
    assert "No space left" in found[2]["error"]


def test_a_folder_that_another_process_writes_leaves_all_untouched(small: list[str]) -> None:
    cells = cells_of(small, "taken")
    with locked(cells[2].folder.path), pytest.raises(RequestError, match="another process"):
        run_cells(cells, quiet)
    assert [cell.folder.read() for cell in cells] == [{}, {}, {}]


def test_dropout_is_refused_side_by_side(small: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot be stacked"):
        run_cells(cells_of(small, "dropout", "model.dropout=0.1"), quiet)


# ---- through workers


def study(small: list[str], name: str, lanes: int | None) -> tuple[Plan, Progress, dict[str, Any]]:
    plan = make_plan([*small, *STUDY, f"name={name}"])
    pool = Pool(1, lanes=lanes)
    try:
        plan.write()
        progress = run_study(plan, pool, Observer())
        assert time_arms(plan, pool, Observer()) is None
    finally:
        pool.stop()
    return plan, progress, write_report(plan.folder.path)


def numbers(value: Any) -> Any:
    """A report as pytest can compare it: numbers approximately, what the clock and the folder say left out."""
    timed = ("step_ms", "tokens_per_s", "step_ms_range", "notes", "study", "folder", "provenance", "written")
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items() if k not in timed}
    if isinstance(value, list):
        return [numbers(v) for v in value]
    return pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value


def test_a_study_in_stacks_of_three_gives_the_report_of_one_cell_at_a_time(small: list[str]) -> None:
    plan, progress, stacked = study(small, "stacked", 3)
    _, _, ordinary = study(small, "ordinary", None)
    assert progress.failures == []
    assert set(progress.finished.values()) == {"ok"}
    assert [cell.folder.read()["provenance"]["stacked"] for cell in plan.cells] == [3] * 6
    plain = {k: v for k, v in stacked.items() if k != "sentence"}
    plain_ordinary = {k: v for k, v in ordinary.items() if k != "sentence"}
    assert strip(plain) == numbers(plain_ordinary)
    assert stacked["arms"][1]["delta"]["mean"] == pytest.approx(ordinary["arms"][1]["delta"]["mean"], abs=1e-5)
    assert stacked["provenance"]["stacked"] == 3


def strip(value: Any) -> Any:
    """What `numbers` leaves out, left out."""
    kept = numbers({"all": value})["all"]

    def plain(template: Any, found: Any) -> Any:
        if isinstance(template, dict):
            return {k: plain(template[k], found[k]) for k in template}
        if isinstance(template, list):
            return [plain(t, f) for t, f in zip(template, found, strict=True)]
        return found

    return plain(kept, value)


class Killer(Observer):
    """Kills the first worker as soon as its cells have written a line."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.killed = pool, 0

    def training(self, progress: Progress) -> None:
        if not self.killed and any(line.get("step") for line in progress.running.values()):
            self.killed = self.pool.workers[0].process.pid
            os.kill(self.killed, signal.SIGKILL)


def test_a_worker_that_dies_fails_its_cells_and_the_others_go_on(small: list[str], tmp_path: Path) -> None:
    steps = ["trainer.steps=400", "trainer.log_every=1", "trainer.eval_every=400"]
    plan = make_plan([*small, *STUDY, *steps, "name=killed"])
    pool = Pool(1, lanes=3)
    try:
        progress = run_study(plan, pool, Killer(pool))
        assert {key: state for key, state in progress.finished.items() if state == "failed"} == {
            ("dense", seed): "failed" for seed in range(3)
        }
        assert all("SIGKILL" in error for _, error in progress.failures)
        again = run_study(plan, pool, Observer())
    finally:
        pool.stop()
    assert len(again.todo) == 3
    assert set(states(tmp_path / "outputs/killed").values()) == {"ok"}


def test_a_failure_in_a_stack_is_told_cell_by_cell(small: list[str], tmp_path: Path) -> None:
    plan = make_plan([*small, *STUDY, "name=failed"])
    blocked = plan.cells[0].folder
    blocked.path.parent.mkdir(parents=True)
    blocked.path.write_text("no folder")
    pool = Pool(1, lanes=3)
    try:
        progress = run_study(plan, pool, Observer())
    finally:
        pool.stop()
    assert {key for key, state in progress.finished.items() if state == "failed"} == {("dense", s) for s in range(3)}
    assert all("Error" in error for _, error in progress.failures)
    assert states(tmp_path / "outputs/failed") == {f"none/seed={seed}": "ok" for seed in range(3)}
    assert json.loads((plan.cells[1].folder.path / "run.json").read_text())["provenance"]["stacked"] == 3


def test_on_a_cpu_every_cell_goes_by_itself(small: list[str]) -> None:
    from mha_ablate.study.execute import lanes_of

    plan = make_plan([*small, *STUDY])
    assert lanes_of(plan, 2) == {"dense": 1, "none": 1}


def test_on_a_gpu_as_many_cells_as_fit_go_together(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mha_ablate import build
    from mha_ablate.study.execute import lanes_of

    plan = make_plan([*small, *STUDY])
    there = {arm: replace(c, trainer=replace(c.trainer, device="cuda")) for arm, c in plan.arms.items()}
    there["none"] = replace(there["none"], model=replace(there["none"].model, dropout=0.1))
    mb = build.counted_cost(plan.arms["dense"], plan.corpus.vocab_size)["peak_memory_mb"]
    monkeypatch.setattr(build, "counted_cost", lambda *_: {"peak_memory_mb": mb})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(12.5 * mb * 1e6), 0))
    assert lanes_of(replace(plan, arms=there), 1) == {"dense": 6, "none": 1}
    assert lanes_of(replace(plan, arms=there), 2) == {"dense": 3, "none": 1}
