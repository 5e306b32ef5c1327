"""`sweep` and `compare` through a real Slurm of two nodes on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mha_ablate.run.folder import RunFolder
from tests.conftest import SMALL
from tests.integration.process import COMMAND, wait_for
from tests.integration.sweeping import (
    ROOT,
    STEPS,
    assert_equal,
    fails_and_is_killed,
    goes_on_without_its_parent,
    started,
    sweep,
    words_of,
    write_text,
)

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Slurm of two nodes on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = min(probe.getsockname()[1], 65000)
    # Not below tmp_path: the path of a Unix socket is short.
    place = Path("/tmp") / f"mha_ablate-slurm-{os.getpid()}"
    own = {"SLURM_LOCAL": str(place), "SLURM_LOCAL_PORT": str(port)}
    up = [str(ROOT / "scripts" / "slurm_local"), "up", "--nodes", "2"]
    done = subprocess.run(up, env=os.environ | own, capture_output=True, text=True, timeout=90, check=False)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    try:
        assert done.returncode == 0, done.stderr
        yield {"SLURM_CONF": f"{place}/slurm.conf"}
    finally:
        subprocess.run([up[0], "down"], env=os.environ | own, check=True, capture_output=True)


@pytest.fixture(scope="module")
def reference(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("reference")
    said = sweep(*words_of(text, outputs))
    assert said.returncode == 0, said.stderr
    return outputs / "sweep"


def test_what_fails_or_is_killed_takes_nothing_with_it(
    slurm: dict[str, str], text: Path, reference: Path, tmp_path: Path
) -> None:
    words = words_of(text, tmp_path, "hydra/launcher=submitit_slurm")
    fails_and_is_killed(words, tmp_path / "sweep", reference, slurm)


def test_a_killed_parent_leaves_a_sweep_that_goes_on(
    slurm: dict[str, str], text: Path, reference: Path, tmp_path: Path
) -> None:
    words = words_of(text, tmp_path, "hydra/launcher=submitit_slurm")
    goes_on_without_its_parent(words, tmp_path / "sweep", reference, slurm)


def test_a_job_that_is_preempted_goes_on(slurm: dict[str, str], text: Path, tmp_path: Path) -> None:
    words = [
        "fc_out=dense",
        *STEPS,
        "trainer.steps=100000",
        "trainer.compile=false",
        "trainer.eval_every=50000",
        "data=text",
        f"data.path={text}",
    ]
    words += [f"outputs={tmp_path}", "hydra/launcher=submitit_slurm"]
    sweeping = started(*words, "--quiet", **slurm)
    run = RunFolder(tmp_path / "sweep" / "dense" / "seed=0")
    try:
        wait_for(lambda: run.state_file.is_file())
        job = json.loads((tmp_path / "sweep" / "jobs.json").read_text(encoding="utf-8"))["dense/seed=0"]
        subprocess.run(["scontrol", "requeue", job], env=os.environ | slurm, check=True)  # as a preemption does
        wait_for(lambda: run.read().get("resumed"))
        assert run.read()["owner"]["slurm_job"] == job
        subprocess.run(["scancel", job], env=os.environ | slurm, check=True)
        out, err = sweeping.communicate(timeout=120)
    finally:
        sweeping.kill()
        sweeping.communicate()
    assert sweeping.returncode == 1
    assert f"Slurm job {job}" in err
    assert "failed   dense/seed=0" in out
    assert run.read()["state"] == "failed"


def test_a_study_goes_to_slurm_and_is_the_same(slurm: dict[str, str], text: Path, tmp_path: Path) -> None:
    study = [
        "study.arms=[dense,none]",
        "study.seeds=2",
        *SMALL,
        "data=text",
        f"data.path={text}",
        f"outputs={tmp_path}",
    ]
    for name, more in (("here", []), ("there", ["hydra/launcher=submitit_slurm"])):
        done = subprocess.run(
            [*COMMAND, "compare", *study, f"name={name}", *more, "--quiet", "--json"],
            env=os.environ | slurm,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert all(arm["cost"]["step_ms"] for arm in report["arms"])
    assert_equal(tmp_path / "there", tmp_path / "here")


def test_a_job_that_reaches_its_time_limit_says_so_and_keeps_its_state(
    slurm: dict[str, str], text: Path, tmp_path: Path
) -> None:
    words = ["fc_out=dense", *STEPS, "data=text", f"data.path={text}", f"outputs={tmp_path}"]
    words += ["trainer.steps=1000000", "trainer.eval_every=1000000", "trainer.compile=false"]
    # Slurm may send its signal a minute earlier than asked for: with less time it could come before a slow machine has begun.
    limits = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=30"]
    said = sweep(*words, "hydra/launcher=submitit_slurm", *limits, **slurm)
    run = RunFolder(tmp_path / "sweep" / "dense" / "seed=0")
    assert said.returncode == 1
    assert "its job reached the time limit" in said.stderr
    assert "hydra.launcher.timeout_min=MINUTES" in run.read()["error"]
    assert run.state_file.is_file()
