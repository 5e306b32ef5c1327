"""`compare`: whole studies on real worker processes, killed, interrupted, resumed.

The command is a process of its own where signals or its exit are the matter; elsewhere it is called in this one, which
saves its imports. The workers are processes always.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mha_ablate.errors import RequestError
from mha_ablate.study.pool import Worker
from tests.conftest import Cli
from tests.integration.process import gone, interrupt, run, start, states, wait_for

TWO_ARMS = ["study.arms=[dense,none]", "study.seeds=2", "--workers", "2"]
TIMING = "measuring step times, one arm at a time: turn 0/16"
LONG = ["trainer.steps=150", "trainer.eval_every=50"]


def essence(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what is measured by the clock."""
    timed = ("step_ms", "tokens_per_s", "step_ratio", "step_ratio_range")
    arms = [{**a, "cost": {k: v for k, v in a["cost"].items() if k not in timed}} for a in report["arms"]]
    for arm in arms:
        arm["to_reach"] = {k: v for k, v in (arm["to_reach"] or {}).items() if k != "seconds"}
    notes = [note for note in report["notes"] if not note.startswith("step times")]
    return {**report, "arms": arms, "notes": notes}


def test_a_study_from_nothing_to_a_report(cli: Cli, small: list[str], tmp_path: Path) -> None:
    done = run("compare", *small, "study.seeds=2", "--json", "--workers", "2")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [arm["arm"] for arm in report["arms"]] == ["dense", "none", "none_scaled", "per_head", "none_mlp"]
    dense, none, _, per_head, none_mlp = report["arms"]
    assert (dense["verdict"], dense["delta"]) == ("baseline", None)
    by_hand = [none["val_loss"]["values"][s] - dense["val_loss"]["values"][s] for s in ("0", "1")]
    assert none["delta"]["mean"] == pytest.approx(sum(by_hand) / 2)
    assert none["cost"]["params_fc_out"] == 0
    assert none_mlp["cost"]["params"] == dense["cost"]["params"]
    assert dense["cost"]["params_fc_out"] == 2 * 16 * 16
    assert per_head["cost"]["params_fc_out"] == 2 * 2 * 8 * 8
    assert all(arm["cost"]["step_ms"] > 0 for arm in report["arms"])
    folder = tmp_path / "outputs/fc_out"
    made = {p.name for p in (folder / "report").iterdir()}
    assert made >= {"report.html", "report.json", "runs.csv", "table.md", "answer.svg", "answer.png"}
    assert json.loads((folder / "report/report.json").read_text()) == report
    assert len(states(folder)) == 10
    for run_file in folder.rglob("run.json"):
        assert json.loads(run_file.read_text())["provenance"]["threads"] == 1

    printed = cli("compare", *small, "study.seeds=2", "--workers", "1")
    assert printed.code == 0, printed.err
    assert report["sentence"] in printed.out
    assert "report.html" in printed.out
    assert printed.out.partition("next:")[2].count("mha-ablate ") == 3
    again = cli("report", str(folder), "--json")
    assert essence(again.json) == essence(report)


def test_quiet_says_nothing_on_the_way(cli: Cli, small: list[str], tmp_path: Path) -> None:
    request = ["compare", *small, *TWO_ARMS, "--workers", "1"]
    told = cli(*request)
    assert [line.partition("  ")[0] for line in told.err.splitlines()][-3:-1] == ["4/4 cells", TIMING]
    assert told.err.endswith("writing the report\n")
    for extra in (["--quiet"], ["-q", "--json", f"outputs={tmp_path / 'other'}"]):
        done = cli(*request, *extra)
        assert (done.code, done.err) == (0, "")
        assert done.out
    assert len(done.json["arms"]) == 2
    refused = cli("compare", *small, "-q", "optim.lr=none")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_more_seeds_keep_the_finished_cells(cli: Cli, small: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "outputs/fc_out"
    request = ["compare", *small, "study.arms=[dense,none]", "--workers", "1"]
    assert cli(*request, "study.seeds=1", "--json").code == 0
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("metrics.jsonl")}
    done = cli(*request, "study.seeds=2", "--json")
    assert done.code == 0, done.err
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(list(folder.rglob("metrics.jsonl"))) == 4
    assert any("plan was changed" in note for note in done.json["notes"])
    refused = cli(*request, "study.seeds=2", "optim.lr=1e-4")
    assert refused.code == 2
    assert "name=" in refused.err
    assert refused.err.count("\n") == 1


def test_a_finished_study_starts_no_worker(
    cli: Cli, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ["compare", *small, "study.arms=[dense,none]", "study.seeds=1", "--workers", "1", "--json"]
    first = cli(*request)
    assert first.code == 0, first.err
    started: list[Worker] = []

    def counted(*given: Any) -> Worker:
        started.append(Worker(*given))
        return started[-1]

    monkeypatch.setattr("mha_ablate.study.execute.Worker", counted)
    again = cli(*request)
    assert (again.code, started) == (0, [])
    assert again.json == first.json

    (tmp_path / "outputs/fc_out/cost.json").unlink()
    assert cli(*request).code == 0
    assert len(started) == 1, "step times are to be measured"
    assert cli(*request, "study.seeds=2").code == 0
    assert len(started) == 2, "there is a seed to train"


def test_killed_half_way_and_called_again_gives_the_uninterrupted_report(
    cli: Cli, small: list[str], tmp_path: Path
) -> None:
    request = ["compare", *small, *LONG, *TWO_ARMS, "--json"]
    process = start(*request)
    folder = tmp_path / "outputs/fc_out"
    wait_for(lambda: "ok" in states(folder).values() and "running" in states(folder).values())
    process.kill()
    process.communicate()
    owners = [json.loads(f.read_text())["owner"]["pid"] for f in folder.rglob("run.json")]
    wait_for(lambda: all(gone(pid) for pid in owners), 20)
    kept = {k: (folder / k / "metrics.jsonl").stat().st_mtime_ns for k, v in states(folder).items() if v == "ok"}
    assert kept
    assert len(kept) < 4

    resumed = cli(*request)
    assert resumed.code == 0, resumed.err
    assert {k: (folder / k / "metrics.jsonl").stat().st_mtime_ns for k in kept} == kept
    whole = cli(*request, f"outputs={tmp_path / 'uninterrupted'}")
    assert essence(resumed.json) == essence(whole.json)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_is_finished_and_says_how_to_go_on(
    how: signal.Signals, small: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "outputs/fc_out"
    process = start("compare", *small, *TWO_ARMS, "trainer.steps=4000", "trainer.eval_every=4000")
    wait_for(lambda: "running" in states(folder).values())
    owners = [json.loads(f.read_text())["owner"]["pid"] for f in folder.rglob("run.json")]
    _, err = interrupt(process, how)
    assert process.returncode == 130
    last = err.strip().splitlines()[-1]
    assert "finished and kept" in last
    assert "mha-ablate compare" in last
    assert "Traceback" not in err
    assert all(gone(pid) for pid in owners)


def test_an_interrupted_train_says_how_to_start_again(cli: Cli, small: list[str], tmp_path: Path) -> None:
    process = start("train", *small, "trainer.steps=200000", "trainer.eval_every=200000")
    wait_for(lambda: "running" in states(tmp_path / "outputs").values())
    _, err = interrupt(process, signal.SIGTERM)
    assert process.returncode == 130
    assert "mha-ablate train" in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    assert cli("train", *small, "name=other", "--json").code == 0


def test_a_killed_worker_takes_no_other_cell_with_it(cli: Cli, small: list[str], tmp_path: Path) -> None:
    request = ["compare", *small, *LONG, *TWO_ARMS, "--json"]
    folder = tmp_path / "outputs/fc_out"
    process = start(*request)

    def running() -> Path | None:
        return next((folder / k for k, v in states(folder).items() if v == "running"), None)

    victim = wait_for(running)
    os.kill(json.loads((victim / "run.json").read_text())["owner"]["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    name = victim.relative_to(folder).as_posix()
    assert name in err
    assert "SIGKILL" in err
    assert sorted(states(folder).values()) == ["failed", "ok", "ok", "ok"]
    assert any("failed" in note for note in json.loads(out)["notes"])

    again = cli(*request)
    assert again.code == 0, again.err
    assert set(states(folder).values()) == {"ok"}


def test_two_at_once_on_one_study_do_not_mix(cli: Cli, small: list[str], tmp_path: Path) -> None:
    request = ["compare", *small, *TWO_ARMS, "trainer.steps=20000", "trainer.eval_every=20000"]
    first = start(*request)
    wait_for(lambda: states(tmp_path / "outputs/fc_out"))
    second = cli(*request)
    assert second.code == 2, second.err
    assert "another process" in second.err
    assert second.err.count("\n") == 1
    interrupt(first, signal.SIGINT)


def test_a_worker_killed_before_it_wrote_a_word_leaves_a_cell_that_can_run(small: list[str], tmp_path: Path) -> None:
    from mha_ablate.study.execute import Pool, _replace
    from mha_ablate.study.plan import make_plan
    from mha_ablate.study.pool import Worker
    from mha_ablate.study.progress import Progress

    plan = make_plan([*small, "study.arms=[dense,none]", "study.seeds=1"])
    pool = Pool(0)
    worker = Worker(pool.inbox)
    worker.cells, worker.ready = [plan.cells[0]], True
    pool.workers.append(worker)
    worker.process.kill()
    worker.process.wait()
    progress = Progress(plan.cells)
    progress.begin(plan.cells[0], 0.0)
    _replace(worker, pool, progress)
    assert progress.failures[0][0] == plan.cells[0]
    assert states(tmp_path / "outputs/fc_out") == {"dense/seed=0": "failed"}
    plan.cells[0].check_folder()
    assert plan.cells[0].finished() is None


def test_sigterm_in_the_first_moment_is_an_interruption(small: list[str]) -> None:
    process = start("compare", *small)

    def catches_sigterm() -> bool:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    wait_for(catches_sigterm)  # the first thing that the command does; torch is far from imported then
    _, err = interrupt(process, signal.SIGTERM)
    assert (process.returncode, err.count("\n")) == (130, 1), err


def test_an_interruption_inside_an_exec_of_text_ends_with_our_code_too(tmp_path: Path) -> None:
    """As dataclasses do on import; CPython would leave by SIGINT."""
    (tmp_path / "interrupted.py").write_text(
        "from mha_ablate.cli import errors, main\n"
        "def app(*_, **__):\n    exec('raise KeyboardInterrupt')\n"
        "main.app = app\nmain.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (130, "mha-ablate: interrupted\n")


@pytest.mark.parametrize("kind", [AttributeError, RequestError])
def test_an_interruption_that_a_library_covers_up_is_one(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    def covers_up(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise kind("from the cleaning up")

    monkeypatch.setattr("mha_ablate.conduct.conduct", covers_up)
    done = cli("compare")
    assert (done.code, done.err) == (130, "mha-ablate: interrupted\n")


def test_a_diverged_cell_is_kept_and_shown(cli: Cli, small: list[str]) -> None:
    request = [
        "compare",
        *small,
        "study.arms.wild=[fc_out=none,optim.lr=1e30,optim.grad_clip=0]",
        "study.arms=[dense,wild]",
        "study.seeds=2",
        "--workers",
        "1",
        "--json",
    ]
    done = cli(*request)
    assert done.code == 0, done.err
    report = done.json
    wild = report["arms"][1]
    assert set(wild["states"].values()) == {"diverged"}
    assert wild["delta"] is None
    assert wild["verdict"] == "undecided"
    assert "diverged" in wild["verdict_reason"]
    assert "2 run(s) diverged: wild/seed=0, wild/seed=1" in report["notes"]
    assert "diverged" in report["sentence"]


def test_arms_of_a_seed_start_alike(cli: Cli, small: list[str], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    frozen = [*small, "trainer.steps=1", "optim.lr=1e-30", "optim.weight_decay=0", "optim.min_lr=0"]
    assert cli("compare", *frozen, "study.seeds=1", "--workers", "1", "--json").code == 0
    weights = {f.parents[2].name: load_file(f) for f in (tmp_path / "outputs").rglob("last.safetensors")}
    base = weights.pop("dense")
    assert len(weights) == 4
    for arm, tensors in weights.items():
        shared = [k for k in tensors.keys() & base.keys() if tensors[k].shape == base[k].shape]
        assert len(shared) == (9 if arm == "none_mlp" else 13), arm  # all but fc_out (and the wider MLP)
        assert all((tensors[k] == base[k]).all() for k in shared)


def test_cells_that_were_interrupted_are_named_with_where_they_went_on(cli: Cli, small: list[str]) -> None:
    from mha_ablate.study.plan import make_plan
    from tests.every.test_every_resume import runs_until

    words = [*small, "study.arms=[dense,none]", "study.seeds=2", "trainer.save_every_s=0", "trainer.log_every=1"]
    cells = make_plan(words).cells
    runs_until(cells[0], 4)
    runs_until(cells[1], 4)
    cells[1].folder.state_file.write_bytes(b"no state")
    said = cli("compare", *words, "--json")
    assert said.code == 0
    assert "1 cell(s) went on where their states were saved: dense/seed=0 after step 3" in said.err
    assert "1 cell(s) began anew: none/seed=0 (" in said.err
    assert "state.safetensors" in said.err
    again = cli("compare", *words, "--json")
    assert "cell(s)" not in again.err
