"""`sweep` through real launchers and sweepers: what is equal, what is lost, and what the same command does again."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from tests.conftest import SMALL, Cli
from tests.integration.process import wait_for
from tests.integration.sweeping import (
    CELLS,
    HOOK,
    assert_equal,
    fails_and_is_killed,
    goes_on_without_its_parent,
    runs,
    started,
    states,
    sweep,
    words_of,
    write_text,
)

NO_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra `ray` does that"
)
LAUNCHERS = ["basic", "joblib", "submitit_local", pytest.param("ray", marks=NO_RAY)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def reference(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("reference")
    said = sweep(*words_of(text, outputs))
    assert said.returncode == 0, said.stderr
    return outputs / "sweep"


def test_a_sweep_is_told_kept_and_reported(reference: Path, text: Path, cli: Cli) -> None:
    before = {f.path: f.run_file.stat().st_mtime_ns for f in runs(reference)}
    plan = json.loads((reference / "sweep.json").read_text(encoding="utf-8"))
    assert set(plan["cells"]) == CELLS
    assert plan["swept"] == ["fc_out", "seed"]
    said = sweep(*words_of(text, reference.parent), "--json")
    assert {cell["cell"]: cell["state"] for cell in json.loads(said.stdout)["cells"]} == dict.fromkeys(CELLS, "ok")
    assert {f.path: f.run_file.stat().st_mtime_ns for f in runs(reference)} == before  # nothing is trained again
    report = cli("report", str(reference), "--json")
    assert [arm["arm"] for arm in report.json["arms"]] == ["dense", "none"]
    assert cli("status", str(reference), "--json").json["states"] == {"ok": 4}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_what_fails_or_is_killed_takes_nothing_with_it(
    launcher: str, text: Path, reference: Path, tmp_path: Path
) -> None:
    words = words_of(text, tmp_path, f"hydra/launcher={launcher}")
    fails_and_is_killed(words, tmp_path / "sweep", reference, {})


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_parent_leaves_a_sweep_that_goes_on(
    launcher: str, text: Path, reference: Path, tmp_path: Path
) -> None:
    words = words_of(text, tmp_path, f"hydra/launcher={launcher}")
    goes_on_without_its_parent(words, tmp_path / "sweep", reference, {})


@pytest.mark.parametrize("how", [[], ["hydra/launcher=joblib"], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]])
def test_ctrl_c_ends_it_at_once_and_says_how_to_go_on(how: list[str], text: Path, tmp_path: Path) -> None:
    words = words_of(text, tmp_path, "trainer.steps=1000000", *how)
    sweeping = started(*words)
    wait_for(lambda: [f for f in runs(tmp_path) if f.lines()])
    sweeping.send_signal(signal.SIGINT)
    out, err = sweeping.communicate(timeout=60)
    assert sweeping.returncode == 130
    assert out == ""
    assert "0 of 4 cells are finished and kept; to go on: mha-ablate sweep" in err.splitlines()[-1], err
    owners = [f.read()["owner"]["pid"] for f in runs(tmp_path)]
    wait_for(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in owners), 20)


def test_a_failed_cell_is_tried_again(text: Path, tmp_path: Path) -> None:
    hook = {"PYTHONPATH": str(HOOK), "FAIL_AT": "none/seed=0/metrics.jsonl@1"}
    said = sweep(*words_of(text, tmp_path), "--retries", "1", **hook)
    assert said.returncode == 0, said.stderr
    assert states(tmp_path / "sweep") == dict.fromkeys(CELLS, "ok")


def test_a_sweep_goes_on_by_its_folder(text: Path, reference: Path, tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(reference, folder)
    shutil.rmtree(folder / "none" / "seed=1")
    said = cli("sweep", "--resume", str(folder), "--quiet")
    assert said.code == 0, said.err
    assert_equal(folder, reference)
    refused = cli("sweep", "--resume", str(folder), "trainer.steps=7")
    assert (refused.code, refused.out) == (2, "")
    moved = tmp_path / "moved"
    folder = folder.rename(moved)
    shutil.rmtree(folder / "dense" / "seed=0")
    assert cli("sweep", "--resume", str(folder), "hydra/launcher=joblib", "--quiet").code == 0
    assert_equal(folder, reference)
    assert not (tmp_path / "elsewhere").exists()
    plan = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert len(plan["requests"]) == 2  # as it was, and with another launcher
    plan["cells"]["none/seed=1"] = "0" * 16
    (folder / "sweep.json").write_text(json.dumps(plan), encoding="utf-8")
    shutil.rmtree(folder / "none" / "seed=1")
    changed = cli("sweep", "--resume", str(folder))
    assert changed.code == 2
    assert "was to be another run" in changed.err


def test_a_search_by_optuna_is_kept_too(text: Path, tmp_path: Path) -> None:
    words = [
        "fc_out=none",
        "optim.lr=interval(1e-4,1e-2)",
        *SMALL,
        "data=text",
        f"data.path={text}",
        f"outputs={tmp_path}",
    ]
    words += ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1", "name=search"]
    said = sweep(*words, "--json")
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""
    cells = json.loads(said.stdout)["cells"]
    assert len(cells) == 3
    found = yaml.safe_load((tmp_path / "search" / "optimization_results.yaml").read_text(encoding="utf-8"))
    assert found["best_value"] == min(cell["val_loss"] for cell in cells)
    before = {f.path: f.run_file.stat().st_mtime_ns for f in runs(tmp_path)}
    assert sweep(*words).returncode == 0  # the same seed proposes the same rates, which are finished
    assert {f.path: f.run_file.stat().st_mtime_ns for f in runs(tmp_path)} == before
    assert sweep(*words, "hydra.sweeper.n_trials=5").returncode == 0  # goes on from there
    after = {f.path: f.run_file.stat().st_mtime_ns for f in runs(tmp_path)}
    assert before.items() <= after.items()
    assert len(after) == 5
    none = sweep(*words, "hydra.sweeper.n_trials=0", "name=none")
    assert (none.returncode, none.stdout, none.stderr.count("\n")) == (2, "", 1)


def test_a_search_outlives_what_fails_in_it(text: Path, tmp_path: Path) -> None:
    words = ["fc_out=none", "model.n_heads=choice(3,4,5)", *[w for w in SMALL if not w.startswith("model.n_heads")]]
    words += [
        "data=text",
        f"data.path={text}",
        f"outputs={tmp_path}",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=6",
    ]
    said = sweep(*words)
    assert said.returncode == 1
    assert "1 of 1 cells ended well" in said.stdout
    assert said.stderr.count("\n") == 1
    assert "were no configuration (model.d_model=16 is not divisible by model.n_heads=" in said.stderr
    only_wrong = sweep(*[w.replace("choice(3,4,5)", "choice(3,5)") for w in words], "name=wrong")
    assert only_wrong.returncode == 1
    assert "6 proposal(s) were no configuration" in only_wrong.stderr
    assert only_wrong.stderr.count("\n") == 1


def test_every_request_of_a_folder_is_resumed(reference: Path, text: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(reference, tmp_path / "sweep")
    words = [w if not w.startswith("seed=") else "seed=2" for w in words_of(text, tmp_path)]
    assert cli("sweep", *words, "--quiet").code == 0
    shutil.rmtree(tmp_path / "sweep" / "none" / "seed=1")
    shutil.rmtree(tmp_path / "sweep" / "none" / "seed=2")
    said = cli("sweep", "--resume", str(tmp_path / "sweep"), "--quiet")
    assert "6 of 6 cells ended well" in said.out
    assert set(states(tmp_path / "sweep")) == CELLS | {"dense/seed=2", "none/seed=2"}


def test_a_job_of_a_queue_that_is_not_here_is_not_waited_for(reference: Path, tmp_path: Path, cli: Cli) -> None:
    """Outputs that were copied from a cluster."""
    folder = tmp_path / "copied"
    shutil.copytree(reference, folder)
    shutil.rmtree(folder / "none" / "seed=1")
    (folder / "jobs.json").write_text('{"none/seed=1": "17_0"}', encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mha_ablate.study.slurm.queue", lambda: None)
        patch.setattr("mha_ablate.study.slurm.shutil.which", lambda _: None)
        assert cli("sweep", "--resume", str(folder), "--quiet").code == 0
    assert_equal(folder, reference)


def test_a_file_says_what_is_swept_and_how(text: Path, tmp_path: Path, cli: Cli) -> None:
    own = tmp_path / "own"
    (own / "experiment").mkdir(parents=True)
    (own / "model").mkdir()
    (own / "model" / "smaller.yaml").write_text(
        "# smaller than nano\ndefaults: [nano]\nd_model: 16\ncontext: 8\nn_layers: 1\n"
    )
    (own / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /model: smaller\n  - override /hydra/launcher: joblib\n"
        "trainer: {steps: 4, batch_size: 4, precision: fp32}\n"
        "name: mine\n"
        "hydra:\n  launcher: {n_jobs: 2}\n  sweeper:\n    params: {fc_out: 'dense,none', model.n_heads: '1,2'}\n"
    )
    words = ["+experiment=mine", "data=text", f"data.path={text}", f"outputs={tmp_path / 'out'}", "-cd", str(own)]
    said = cli("sweep", *words, "--quiet")
    assert said.code == 0, said.err
    assert set(states(tmp_path / "out" / "mine")) == {
        f"{a},n_heads={h}/seed=0" for a in ("dense", "none") for h in (1, 2)
    }


EVIL = {
    "hydra: {launcher: {_target_: os.system}}": "hydra.launcher._target_=os.system is refused",
    "hydra: {sweeper: {_target_: subprocess.run}}": "hydra.sweeper._target_=subprocess.run is refused",
    "hydra: {callbacks: {mine: {_target_: os.system}}}": "hydra.callbacks.mine._target_=os.system is refused",
    "hydra: {job: {env_set: {LD_PRELOAD: /tmp/x.so}}}": "hydra.job.env_set in a file",
    "hydra: {job_logging: {handlers: {mine: {'()': os.system}}}}": "hydra.job_logging.handlers.mine.()=os.system is refused",
    "defaults: [override /hydra/launcher: submitit_slurm]\nhydra: {launcher: {setup: [ls]}}": "hydra.launcher.setup in a file",
    'defaults: [override /hydra/launcher: submitit_slurm]\nhydra: {launcher: {comment: "x\\ntouch it"}}': "touch it' is refused",
    "name: ${oc.env:HOME}": "may not read the environment",
    "modle: {d_model: 3}": "unknown key 'modle' (did you mean 'model'?)",
}


@pytest.mark.parametrize("content", EVIL)
def test_a_file_from_elsewhere_runs_nothing(content: str, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "theirs.yaml").write_text(f"# @package _global_\n{content}\n", encoding="utf-8")
    said = cli("sweep", "fc_out=dense,none", "+experiment=theirs", f"outputs={tmp_path / 'out'}", "-cd", str(tmp_path))
    assert (said.code, said.out) == (2, "")
    assert EVIL[content] in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


WRONG = {
    "fc_out=dense,nope": "did you mean 'none'?",
    "hydra/launcher=jobl": "did you mean 'joblib'?",
    "hydra/launcher=ray": "pip install 'mha-ablate[ray]'",
    "hydra.launcher.foo=1": "unknown key 'hydra.launcher.foo'",
    "optim.lr=interval(1,2)": "hydra/sweeper=optuna",
    "model.n_heads=3,4": "model.d_model=16 is not divisible by model.n_heads=3",
    "+model.drpout=1,2": "did you mean 'model.dropout'?",
    "fc_out=a,,b": "cannot read 'fc_out=a,,b'",
    "seed=a,b": "seed=a is no seed",
    "study.seeds=3": "`mha-ablate compare`",
    "hydra.mode=MULTIRUN": "leave hydra.mode out",
    "hydra.sweep.subdir=x": "ARM/seed=N",
    "fc_out=glob(q*)": "no choice fits",
    "hydra.sweeper.max_batch_size=-1": "must be 1 or more",
    "+model=mini": "model has a choice already; leave out the +",
    "match=params,null": "in an arm of `compare`",
}


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_sweep_is_one_line_and_writes_nothing(word: str, text: Path, tmp_path: Path, cli: Cli) -> None:
    small = [w for w in SMALL if w.partition("=")[0] not in word]
    words = [*small, "data=text", f"data.path={text}", f"outputs={tmp_path / 'out'}"]
    said = cli("sweep", *words, word)
    assert (said.code, said.out) == (2, "")
    assert WRONG[word] in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("word", ["prefer=threads", "backend=threading", "require=sharedmem"])
def test_runs_do_not_share_a_process(word: str, text: Path, tmp_path: Path, cli: Cli) -> None:
    words = words_of(text, tmp_path / "out", "hydra/launcher=joblib", f"hydra.launcher.{word}")
    said = cli("sweep", *words)
    assert (said.code, said.out) == (2, "")
    assert f"hydra.launcher.{word} is refused" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"],
            "hydra.launcher.n_jobs=0 is refused: it must be 1",
        ),
        (["hydra/sweeper=optuna"], "has nothing to search"),
        (
            ["hydra/sweeper=optuna", "fc_out=dense,none", "hydra.sweeper.n_trials=0"],
            "hydra.sweeper.n_trials=0 is refused",
        ),
        (["seed=0,1", "hydra.launcher.n_jobs=2"], "of this launcher; choose the one that has it: hydra/launcher=NAME"),
    ],
)
def test_a_sweep_that_could_not_run_is_refused(
    words: list[str], why: str, text: Path, tmp_path: Path, cli: Cli
) -> None:
    said = cli("sweep", *SMALL, "data=text", f"data.path={text}", f"outputs={tmp_path / 'out'}", *words)
    assert (said.code, said.out) == (2, "")
    assert why in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_train_and_compare_name_the_command_that_takes_it(cli: Cli) -> None:
    for argv, said in (
        (["train", "fc_out=dense,none"], "`mha-ablate sweep` runs a list"),
        (["train", "study.seeds=3"], "`mha-ablate compare` runs a study"),
        (["train", "hydra/launcher=joblib"], "`mha-ablate sweep` and `compare` take"),
        (["compare", "hydra/sweeper=optuna"], "`mha-ablate sweep` takes this"),
        (["compare", "hydra/launcher=joblib", "--workers", "2"], "leave one of them out"),
    ):
        found = cli(*argv)
        assert found.code == 2
        assert said in found.err


def test_sweeps_of_other_keys_are_not_mixed(reference: Path, text: Path, cli: Cli) -> None:
    words = [w for w in words_of(text, reference.parent) if not w.startswith("seed=")]
    said = cli("sweep", *words, "optim.lr=1e-3,2e-3")
    assert said.code == 2
    assert "holds a sweep of fc_out: give this one of fc_out, optim.lr a folder of its own" in said.err


def test_hydra_shows_itself(cli: Cli) -> None:
    shown = cli("sweep", "fc_out=none", "--cfg", "job", "--package", "optim", "--resolve")
    assert yaml.safe_load(shown.out)["lr"] == 0.003
    hydra = yaml.safe_load(cli("sweep", "hydra/launcher=joblib", "--cfg", "hydra").out)["hydra"]
    assert hydra["launcher"]["_target_"].endswith("JoblibLauncher")
    assert yaml.safe_load(cli("sweep", "fc_out=none", "--cfg", "all").out)["hydra"]["launcher"]
    assert cli("sweep", "fc_out=none", "--cfg", "everything").code == 2
    listed = cli("sweep", "fc_out=none,dense", "optim.lr=1e-3,2e-3", "--cfg", "job", "--package", "optim")
    assert yaml.safe_load(listed.out)["lr"] == 0.001
    handlers = logging.getLogger().handlers[:]
    assert "Config search path" in cli("sweep", "--info", "searchpath").out
    assert logging.getLogger().handlers == handlers
