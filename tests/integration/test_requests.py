"""Wrong requests: one line that helps, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cli

# (command line, words that the one line must hold)
WRONG: list[tuple[list[str], list[str]]] = [
    (["trian"], ["trian", "train"]),
    (["compare", "--jsn"], ["--jsn", "--json"]),
    (["train", "fc_out=non"], ["fc_out=non", "did you mean 'none'", "dense"]),
    (["train", "modl=nano"], ["unknown key 'modl'", "did you mean 'model'"]),
    (["train", "model.drpout=0.1"], ["model.drpout", "did you mean 'model.dropout'"]),
    (["train", "+model.drpout=0.1"], ["model.drpout", "did you mean 'model.dropout'"]),
    (["train", "fc_out.rank=3"], ["fc_out"]),
    (["train", "+fc_out.rank=3"], ["fc_out", "rank"]),
    (["train", "fc_out._target_=os.system"], ["os.system"]),
    (["train", "fc_out._target_=mha_ablate.model.fc_out.base.Place"], ["Place"]),
    (["train", "model.d_model=wide"], ["model.d_model", "wide"]),
    (["train", "trainer.steps=1.5"], ["trainer.steps", "1.5"]),
    (["train", "trainer.steps=0"], ["trainer.steps=0", "1 or more"]),
    (["train", "model.dropout=1"], ["model.dropout", "[0.0, 1.0)"]),
    (["train", "optim.lr=-1"], ["optim.lr", "above 0"]),
    (["train", "optim.lr=nan"], ["optim.lr", "above 0"]),
    (["train", "optim.min_lr=1"], ["optim.min_lr", "optim.lr"]),
    (["train", "model.n_heads=3"], ["128", "3", "divisible"]),
    (["train", "model.positions=rope", "model.head_dim=33"], ["rope", "even"]),
    (["train", "fc_out=none", "model.head_dim=48"], ["fc_out=none", "4 x 48 = 192", "d_model = 128", "fc_out=dense"]),
    (["train", "fc_out=per_head", "model.head_dim=48"], ["fc_out=per_head", "192", "fc_out=dense"]),
    (["train", "attention=split", "model.n_heads=3", "model.head_dim=4"], ["attention=split", "divisible"]),
    (["train", "seed=1,2"], ["seed=1,2", "one value"]),
    (["train", "fc_out=dense,none"], ["fc_out=dense,none", "one value"]),
    (["train", "seed=-1"], ["seed=-1", "0 or more"]),
    (["train", "bogus"], ["bogus", "KEY=VALUE"]),
    (["train", "=3"], ["=3", "KEY=VALUE"]),
    (["train", "hydra.mode=MULTIRUN"], ["hydra.mode"]),
    (["train", "~model.bias"], ["model.bias"]),
    (["train", "~fc_out"], ["fc_out"]),
    (["train", "model=null"], ["group"]),
    (["train", "match=params"], ["match=params", "compare"]),
    (["train", "name=../elsewhere"], ["../elsewhere", "one folder"]),
    (["train", "name=.."], ["'..'"]),
    (["train", "name=/etc"], ["/etc"]),
    (["train", "data=text"], ["data.path"]),
    (["train", "data.path=x.txt"], ["data=text"]),
    (["train", "data=text", "data.path=not there.txt"], ["not there.txt", "no such file"]),
    (["train", "trainer.precision=fp16"], ["fp16", "bf16"]),
    (["train", "trainer.device=tpu"], ["tpu", "cuda"]),
    (["compare", "study.arms=[dense,nne]"], ["nne", "did you mean 'none'"]),
    (["compare", "study.arms=[none]"], ["study.baseline=dense"]),
    (["compare", "study.arms=[]"], ["at least one"]),
    (["compare", "study.seeds=0"], ["study.seeds=0"]),
    (["compare", "study.seeds=[1,1]"], ["[1, 1]", "distinct"]),
    (["compare", "study.margin=0"], ["study.margin"]),
    (["compare", "study.name=a/b"], ["a/b"]),
    (["compare", "study=nope"], ["study=nope", "fc_out"]),
    (["compare", "fc_out=none"], ["fc_out", "study.arms"]),
    (["compare", "seed=3"], ["study.seeds"]),
    (["compare", "fc_out._target_=mha_ablate.model.fc_out.dense.Dense"], ["fc_out", "study.arms"]),
    (["compare", "study.arms.x=[fc_out=none,data_seed=9]"], ["data_seed", "pairs"]),
    (["compare", "study.arms.x=[fc_out=none,outputs=elsewhere]"], ["outputs"]),
    (["compare", "study.arms.x=[trainer.precision=fp32]", "trainer.precision=bf16"], ["trainer.precision", "arms"]),
    (
        ["compare", "study.arms.x=[trainer.compile=true]", "study.arms=[dense,x]"],
        ["arm x: trainer.compile=true", "dense has false", "outside the arms"],
    ),
    (["compare", "trainer.compile=perhaps"], ["trainer.compile=perhaps", "auto, true, false"]),
    (["compare", "study.arms.x=fc_out=none"], ["study.arms.x", "list"]),
    (["compare", "study.arms=dense"], ["study.arms=[dense,none]"]),
    (["train", "outputs=/dev/null/x"], ["/dev/null", "not a folder"]),
    (["compare", "outputs=/dev/null"], ["/dev/null", "not a folder"]),
    (["train", "d_model=32"], ["did you mean 'model.d_model'"]),
    (["train", "trainer.steps=4O"], ["trainer.steps needs a whole number, not 4O"]),
    (["compare", "trainer.threads=2"], ["trainer.threads=2", "one thread", "--workers"]),
    (["compare", "study.arms.bad=[fc_out=non]"], ["arm bad", "did you mean 'none'"]),
    (["compare", "model.head_dim=48"], ["arm none", "192"]),
    (["compare", "--workers", "0"], ["--workers", "0"]),
    (["report"], ["DIR"]),
    (["report", "nowhere"], ["nowhere"]),
    (["report", ".", "--margin", "-1"], ["--margin"]),
    (["board", "nowhere"], ["nowhere"]),
    (["list", "fcout"], ["fcout", "did you mean 'fc_out'"]),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_wrong_request_gets_one_helpful_line(
    argv: list[str], words: list[str], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli(*argv)
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.count("\n") == 1
    for word in words:
        assert word in said.err, said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "too short"), (b"too short", "too short"), (b"caf\xe9 " * 999, "not UTF-8")]
)
def test_unusable_text_is_refused(
    content: bytes, word: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_bytes(content)
    said = cli("train", "data=text", "data.path=text.txt")
    assert (said.code, said.out) == (2, "")
    assert word in said.err
    assert said.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["text.txt"]


def test_folder_without_runs_is_no_report(cli: Cli, tmp_path: Path) -> None:
    said = cli("report", str(tmp_path))
    assert said.code == 2
    assert "holds no run" in said.err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from tests.integration.process import run

    done = run("report", str(tmp_path / "nowhere"), "--debug")
    assert "Traceback" in done.stderr
    assert "RequestError" in done.stderr


def test_runs_on_different_text_are_not_compared(cli: Cli, small: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("another text, as long as it needs to be. " * 80, encoding="utf-8")
    assert cli("train", *small).code == 0
    assert cli("train", *small, "fc_out=none", f"data.path={other}").code == 0
    said = cli("report", str(tmp_path / "outputs" / "train"))
    assert said.code == 2
    assert "different text" in said.err
    assert said.err.count("\n") == 1


def test_a_folder_with_another_configuration_is_refused(cli: Cli, small: list[str], tmp_path: Path) -> None:
    assert cli("train", *small).code == 0
    before = (tmp_path / "outputs/train/dense/seed=0/run.json").read_text()
    said = cli("train", *small, "optim.lr=1e-4")
    assert said.code == 2
    assert "name=" in said.err
    assert (tmp_path / "outputs/train/dense/seed=0/run.json").read_text() == before
    assert cli("train", *small, "optim.lr=1e-4", "name=slow").code == 0


def test_another_setting_under_the_same_arm_is_refused_even_at_another_seed(cli: Cli, small: list[str]) -> None:
    assert cli("train", *small, "seed=0").code == 0
    said = cli("train", *small, "seed=1", "optim.lr=1e-4")
    assert said.code == 2
    assert "optim.lr is 0.003 there, 0.0001 here" in said.err


def test_a_run_that_is_being_written_is_left_alone(cli: Cli, small: list[str], tmp_path: Path) -> None:
    from mha_ablate.run.lock import locked

    with locked(tmp_path / "outputs/train/dense/seed=0"):
        said = cli("train", *small)
    assert said.code == 2
    assert "another process" in said.err
    assert cli("train", *small).code == 0
