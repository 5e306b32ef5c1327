"""Cells side by side: through `run_cells` in this process, and a whole study through real workers."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mha_ablate import build
from mha_ablate.config.schema import RunConfig
from mha_ablate.errors import RequestError
from mha_ablate.report.write import write_report
from mha_ablate.run.lock import locked
from mha_ablate.study import cell as cell_module
from mha_ablate.study import keeping
from mha_ablate.study.cell import Cell, run_cell, run_cells
from mha_ablate.study.execute import Pool, lanes_of, time_arms, times_by_worker
from mha_ablate.study.execute import run_cells as run_study
from mha_ablate.study.observer import Observer
from mha_ablate.study.plan import Plan, make_plan
from mha_ablate.study.progress import Progress
from mha_ablate.training.hardware import Hardware
from mha_ablate.training.stack import StackedStep
from mha_ablate.training.step import TrainingStep
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
        assert one.finished()
        assert one.hash == other.hash  # how it was trained is no part of what it is
        here, there = one.folder.read(), other.folder.read()
        assert (here["state"], here["error"]) == ("ok", None)
        assert (here["provenance"].pop("stacked"), there["provenance"].pop("stacked")) == (3, 1)
        for key in ("cost", "text", "provenance", "arm_hash"):
            assert here[key] == there[key], key
        assert here["result"]["val_loss"] == pytest.approx(there["result"]["val_loss"], rel=1e-5)
        for mine, theirs in zip(curves(one), curves(other), strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4)
        a, b = load_file(one.folder.last_file), load_file(other.folder.last_file)
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
    save = keeping.save_weights

    def disk_full(file: Path, *rest: Any) -> None:
        if file == cells[1].folder.last_file:
            raise OSError(28, "No space left on device")
        save(file, *rest)

    monkeypatch.setattr(keeping, "save_weights", disk_full)
    with pytest.raises(OSError, match="No space"):
        run_cells(cells, quiet)
    found = [cell.folder.read() for cell in cells]
    assert [run["state"] for run in found] == ["ok", "failed", "failed"]
    assert "the disk is full" in found[2]["error"]


def test_a_folder_that_another_process_writes_leaves_all_untouched(small: list[str]) -> None:
    cells = cells_of(small, "taken")
    with locked(cells[2].folder.path), pytest.raises(RequestError, match="another process"):
        run_cells(cells, quiet)
    assert [cell.folder.read() for cell in cells] == [{}, {}, {}]


def test_dropout_is_refused_side_by_side(small: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot be stacked"):
        run_cells(cells_of(small, "dropout", "model.dropout=0.1"), quiet)


# ---- through workers


def study(request: list[str], lanes: int | None, observer: Observer | None = None) -> tuple[Plan, Progress]:
    plan = make_plan(request)
    pool = Pool(1, lanes=lanes)
    if isinstance(observer, Killer):
        observer.pool = pool
    try:
        plan.write()
        progress = run_study(plan, pool, observer or Observer())
        if observer is None:
            assert time_arms(plan, Observer(), times_by_worker(pool, Observer())) is None
    finally:
        pool.stop()
    return plan, progress


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A report as path -> value, without what the clock and the folder say."""
    if path.rpartition(".")[2] in (
        "step_ms",
        "tokens_per_s",
        "step_ms_range",
        "step_ms_rounds",
        "step_ratio",
        "step_ratio_range",
        "seconds",
        "notes",
        "stacked",
    ):
        return {}
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, each in pairs for k, v in leaves(each, f"{path}.{key}").items()}
    return {path: value}


def test_a_study_in_stacks_of_three_gives_the_report_of_one_cell_at_a_time(small: list[str], tmp_path: Path) -> None:
    plan, progress = study([*small, *STUDY], 3)
    apart, _ = study([*small, *STUDY, f"outputs={tmp_path / 'apart'}"], None)
    assert progress.failures == []
    assert set(progress.finished.values()) == {"ok"}
    assert [cell.folder.read()["provenance"]["stacked"] for cell in plan.cells] == [3] * 6
    assert [cell.folder.read()["provenance"]["stacked"] for cell in apart.cells] == [1] * 6
    found, expected = (leaves(write_report(p.folder.path)) for p in (plan, apart))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        if isinstance(value, float):
            assert found[path] == pytest.approx(value, rel=1e-3, abs=1e-5), path
        elif str(tmp_path) not in str(value):
            assert found[path] == value, path


class Killer(Observer):
    """Kills the first worker as soon as its cells have written a line."""

    pool: Pool
    killed = False

    def training(self, progress: Progress) -> None:
        if not self.killed and any(line.get("step") for line in progress.running.values()):
            self.killed = True
            os.kill(self.pool.workers[0].process.pid, signal.SIGKILL)


def test_a_worker_that_dies_fails_its_cells_and_the_others_go_on(small: list[str], tmp_path: Path) -> None:
    request = [*small, *STUDY, "trainer.steps=200", "trainer.log_every=1", "trainer.eval_every=200"]
    _, progress = study(request, 3, Killer())
    failed = {("dense", seed) for seed in range(3)}
    assert {key for key, state in progress.finished.items() if state == "failed"} == failed
    assert all("SIGKILL" in error for _, error in progress.failures)
    _, again = study(request, 3, Observer())
    assert again.finished.keys() == failed
    assert set(states(tmp_path / "outputs/fc_out").values()) == {"ok"}


def test_a_failure_in_a_stack_is_told_cell_by_cell(small: list[str], tmp_path: Path) -> None:
    blocked = tmp_path / "outputs/failed/dense/seed=0"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("no folder")
    plan, progress = study([*small, *STUDY, "name=failed"], 3, Observer())
    assert {key for key, state in progress.finished.items() if state == "failed"} == {("dense", s) for s in range(3)}
    assert all("Error" in error for _, error in progress.failures)
    assert states(tmp_path / "outputs/failed") == {f"none/seed={seed}": "ok" for seed in range(3)}
    assert json.loads((plan.cells[1].folder.path / "run.json").read_text())["provenance"]["stacked"] == 3


def test_on_a_cpu_every_cell_goes_by_itself(small: list[str]) -> None:
    plan = make_plan([*small, *STUDY])
    assert lanes_of(plan, 2) == {"dense": 1, "none": 1}


def test_on_a_gpu_as_many_cells_as_fit_go_together(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan([*small, *STUDY])
    there = {arm: replace(c, trainer=replace(c.trainer, device="cuda")) for arm, c in plan.arms.items()}
    there["none"] = replace(there["none"], model=replace(there["none"].model, dropout=0.1))
    mb = build.counted_cost(plan.arms["dense"], plan.corpus.vocab_size)["peak_memory_mb"]
    monkeypatch.setattr(build, "counted_cost", lambda *_: {"peak_memory_mb": mb})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(12.5 * mb * 1e6), 0))
    assert lanes_of(replace(plan, arms=there), 1) == {"dense": 6, "none": 1}
    assert lanes_of(replace(plan, arms=there), 2) == {"dense": 3, "none": 1}


def test_one_cell_on_a_cpu_or_with_dropout_takes_the_ordinary_step(small: list[str]) -> None:
    plan = make_plan([*small, *STUDY])
    plain, vocab = plan.arms["dense"], plan.corpus.vocab_size
    dropped = replace(plain, model=replace(plain.model, dropout=0.1))
    on_cpu, on_gpu = Hardware("cpu", "fp32", 1), Hardware("cuda", "fp32", 1)

    def kind(config: RunConfig, hardware: Hardware, lanes: int) -> type:
        models = [build.model_of(config, vocab) for _ in range(lanes)]
        return type(build.training_of([config] * lanes, models, plan.corpus, hardware))

    assert kind(plain, on_cpu, 1) is kind(dropped, on_cpu, 1) is kind(dropped, on_gpu, 1) is TrainingStep
    assert kind(plain, on_cpu, 2) is StackedStep
