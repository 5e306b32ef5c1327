"""A hostile file, setting or folder for each promise in docs/reliability.md, section Security."""

from __future__ import annotations

import ast
import csv
import inspect
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import mha_ablate
from mha_ablate.config.compose import ALLOW_ENV, compose
from mha_ablate.errors import RequestError
from mha_ablate.report import board
from mha_ablate.report.write import write_report
from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from mha_ablate.run.lock import locked
from mha_ablate.run.shape import parsed_yaml
from tests.conftest import Cli
from tests.synthetic import write_study

PACKAGE = Path(mha_ablate.__file__).parent
SCRIPT = "<script>alert(1)<|script>"
MERGES = "a0: &a0 {a: 1, b: 2}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10)
)
SECRET = "hunter2-that-nobody-may-see"


def _calls() -> list[tuple[str, ast.Call]]:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found += [(str(file.relative_to(PACKAGE)), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found


def test_no_pickle_no_eval_and_no_shell_anywhere() -> None:
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.partition(".")[0] for n in names} & {
                "pickle",
                "cPickle",
                "dill",
                "joblib",
                "shelve",
                "marshal",
            }, file
    for file, call in _calls():
        name, words = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
        where = f"{file}:{call.lineno}: {ast.unparse(call)[:80]}"
        forbidden = (
            "eval",
            "exec",
            "os.system",
            "os.popen",
            "torch.load",
            "torch.save",
            "yaml.unsafe_load",
            "yaml.full_load",
        )
        assert name not in forbidden or ast.unparse(call) == "exec('')", where  # which runs nothing
        assert words.get("shell", "False") == "False", where
        assert words.get("allow_pickle", "False") == "False", where
        assert words.get("trust_remote_code", "False") == "False", where
        if name == "yaml.load":
            assert words.get("Loader") in ("loader", "yaml.SafeLoader", "yaml.CSafeLoader"), where


def test_code_in_yaml_is_not_run(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", arms=["dense", "none"], seeds=1, evaluations=2)
    config = study / "dense/seed=0/config.yaml"
    config.write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    write_report(study)
    assert not (tmp_path / "made").exists()


def test_a_target_outside_the_package_is_refused_before_it_is_imported(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile_module.py").write_text("open('imported', 'w').close()\nclass Variant: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for target in ("hostile_module.Variant", "os.system", "mha_ablate.model.fc_out.base.torch.nn.Linear"):
        assert cli("train", f"fc_out._target_={target}").code == 2
    assert "hostile_module" not in sys.modules
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("value", ["$(touch owned)", "`touch owned`", "; touch owned", "| touch owned"])
def test_settings_never_reach_a_shell(value: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for key in ("data.path", "trainer.device", "name"):
        assert cli("train", "data=text", f"{key}={value}").code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "form",
    [
        "${oc.env:SECRET_WORD}",
        "${oc.env:SECRET_WORD,x}",
        "${oc.env:${study.name}}",
        "${oc.decode:${oc.env:SECRET_WORD}}",
        "x${oc.env:SECRET_WORD}y",
        "\\\\${oc.env:SECRET_WORD}",
    ],
)
def test_interpolations_cannot_read_the_environment(form: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_WORD", SECRET)
    monkeypatch.delenv(ALLOW_ENV, raising=False)
    for argv in (
        ["train", f"trainer.device='{form}'"],
        ["train", f"trainer.device={form}"],
        ["compare", f"study.arms.x=['attention.qkv={form}']", "study.arms=[dense,x]"],
    ):
        said = cli(*argv)
        assert said.code == 2, said
        assert SECRET not in said.err + said.out


def test_a_variable_that_is_named_may_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOW_MANY", "7")
    monkeypatch.setenv(ALLOW_ENV, "OTHER,HOW_MANY")
    assert compose(["trainer.steps=${oc.env:HOW_MANY}"]).config.trainer.steps == 7
    monkeypatch.setenv(ALLOW_ENV, "OTHER")
    with pytest.raises(RequestError, match=ALLOW_ENV):
        compose(["trainer.steps=${oc.env:HOW_MANY}"])


def test_tensorboard_listens_on_this_machine_alone_unless_asked() -> None:
    from mha_ablate.cli.board import board as command

    assert inspect.signature(command).parameters["host"].default == "127.0.0.1"
    assert inspect.signature(board.serve).parameters["host"].default == "127.0.0.1"


@pytest.mark.parametrize("name", ["../out", "..", "/tmp/out", "a/b", "a\\b", "~/x/y", "a\x00b", "a\nb", ""])
def test_names_cannot_leave_the_outputs_folder(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("train", f"name='{name}'").code == 2 if name else True
    assert cli("compare", f"study.name='{name}'").code == 2
    assert cli("compare", f"study.arms={{'{name}': [fc_out=none]}}").code == 2
    assert list(tmp_path.iterdir()) == []


def test_names_found_in_a_folder_cannot_leave_it(tmp_path: Path) -> None:
    study = write_study(tmp_path / "in/s", arms=["dense", "none"], seeds=2, evaluations=2)
    for file in [study / "plan.json", *study.rglob("run.json")]:
        file.write_text(file.read_text().replace('"none', '"../../../out'))
    write_report(study)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("place", ["report", "report/answer.png", "report/report.json", "none/mean"])
def test_a_report_is_not_written_through_a_link(place: str, tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", arms=["dense", "none"], seeds=2, evaluations=2)
    victim = tmp_path / "victim"
    folder = place in ("report", "none/mean")
    victim.mkdir() if folder else victim.write_text("mine")
    (study / place).parent.mkdir(exist_ok=True)
    (study / place).symlink_to(victim)
    if folder:
        with pytest.raises(RequestError, match="is a link"):
            write_report(study)
        assert list(victim.iterdir()) == []
    else:
        write_report(study)
        assert victim.read_text() == "mine"


@pytest.mark.parametrize("place", ["dense", "dense/seed=0", "dense/seed=0/metrics.jsonl", "dense/seed=0/checkpoint"])
def test_a_run_is_not_written_through_a_link(place: str, cli: Cli, small: list[str], tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    at = tmp_path / "outputs/train" / place
    at.parent.mkdir(parents=True)
    at.symlink_to(victim)
    said = cli("train", *small)
    assert said.code == 2, said
    assert "is a link" in said.err
    assert list(victim.iterdir()) == []


def test_a_pipe_among_the_files_does_not_stop_a_report(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", arms=["dense", "none"], seeds=2, evaluations=2)
    for name in ("run.json", "metrics.jsonl", "config.yaml"):
        (study / "none/seed=1" / name).unlink()
        os.mkfifo(study / "none/seed=1" / name)
    assert any("left out" in note for note in write_report(study)["notes"])


def test_a_pipe_among_the_checkpoints_or_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.last_file.parent.mkdir(parents=True)
    os.mkfifo(run.last_file)
    with pytest.raises(ValueError, match="it is missing"):
        checkpoint.describe(run.last_file)
    os.mkfifo(run.tokenizer_file)
    with pytest.raises(FileNotFoundError, match="no regular file"):
        checkpoint.load_tokenizer(run, {"tokenizer": {}})
    os.mkfifo(run.path / ".lock")
    with pytest.raises(RequestError, match="is no file"), locked(run.path):
        pass


@pytest.mark.parametrize("bomb", ["[" * 200_000, "{a: " * 100_000, "- " * 50_000, MERGES], ids=["[", "{", "-", "<<"])
def test_yaml_that_takes_all_time_or_all_of_the_stack_counts_as_unreadable(tmp_path: Path, bomb: str) -> None:
    study = write_study(tmp_path / "s", arms=["dense", "none"], seeds=1, evaluations=2)
    file = study / "dense/seed=0/config.yaml"
    file.write_text(bomb)
    said = subprocess.run(
        [sys.executable, "-m", "mha_ablate", "report", str(study)], capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr
    # Newer versions of PyYAML refuse depth by themselves, in words of their own.
    with pytest.raises(ValueError, match=r"nested too deeply|maximum nesting depth"):
        parsed_yaml(bomb)


def test_every_text_of_a_report_is_escaped(cli: Cli, tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", arms=["dense", "none"], seeds=2, evaluations=2)
    for file in [study / "plan.json", *study.rglob("run.json")]:
        text = (
            file.read_text()
            .replace('"none"', f'"=cmd() [/red] {SCRIPT}"')
            .replace('"none/', f'"=cmd() [/red] {SCRIPT}/')
        )
        file.write_text(text.replace("synthetic", "<img src=x onerror=alert(1)>"))
    said = cli("report", str(study))
    assert said.code == 0, said.err
    for name in ("report.html", "answer.svg", "curves.svg", "table.md"):
        shown = (study / "report" / name).read_text(encoding="utf-8")
        assert "<script" not in shown, name
        assert "<img" not in shown, name
    for name in ("answer.svg", "curves.svg"):
        ElementTree.parse(study / "report" / name)
    assert "\\|script" in (study / "report/table.md").read_text()
    with (study / "report/runs.csv").open(newline="") as stream:
        assert not any(row[0].startswith(("=", "+", "-", "@")) for row in csv.reader(stream))
