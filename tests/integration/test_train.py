"""`train`: what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mha_ablate.config.catalog import choice_names
from tests.conftest import Cli


def test_a_run_leaves_a_complete_folder(cli: Cli, small: list[str], tmp_path: Path) -> None:
    said = cli("train", *small, "fc_out=none", "seed=3", "--json")
    assert said.code == 0, said.err
    folder = Path(said.json["folder"])
    assert folder == tmp_path / "outputs/train/none/seed=3"
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    events = {n for n in names if n.startswith("events.out.tfevents")}
    assert len(events) == 1
    assert names - events == {
        "config.yaml",
        "run.json",
        ".lock",
        "metrics.jsonl",
        "checkpoint/last.safetensors",
    }
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["precision"] == "fp32"
    assert config["trainer"]["device"] == "cpu"
    assert config["seed"] == 3
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss/val" in line] == [3, 6]
    assert [line["step"] for line in lines if "loss/train" in line] == [2, 4, 6]
    assert all(line["tokens"] == line["step"] * 4 * 8 for line in lines)
    run = json.loads((folder / "run.json").read_text())
    assert run["state"] == "ok"
    assert run["result"]["val_loss"] == lines[-1]["loss/val"]
    assert run["text"]["sha256"]
    assert run["provenance"]["threads"] >= 1


def test_a_finished_run_is_not_trained_again(cli: Cli, small: list[str], tmp_path: Path) -> None:
    first = cli("train", *small, "--json")
    stamp = (tmp_path / "outputs/train/dense/seed=0/metrics.jsonl").stat().st_mtime_ns
    again = cli("train", *small, "--json")
    assert again.json == first.json
    assert (tmp_path / "outputs/train/dense/seed=0/metrics.jsonl").stat().st_mtime_ns == stamp


def test_progress_is_told_unless_quiet(cli: Cli, small: list[str]) -> None:
    lines = cli("train", *small, "name=told").err.splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["step 0/6", "step 3/6", "step 6/6"]
    assert "val " in lines[1]
    assert "train " in lines[1]
    assert lines[2].endswith("0s left")
    for name in ("quiet", "told"):  # trained, and finished before
        said = cli("train", *small, f"name={name}", "-q", "--json")
        assert (said.code, said.err, said.json["state"]) == (0, "", "ok")


def test_the_same_seed_gives_the_same_bits(cli: Cli, small: list[str]) -> None:
    one = cli("train", *small, "name=a", "trainer.threads=1", "model.dropout=0.1", "--json").json
    two = cli("train", *small, "name=b", "trainer.threads=1", "model.dropout=0.1", "--json").json
    assert one["result"]["val_loss"] == two["result"]["val_loss"]
    weights = [Path(r["folder"], "checkpoint/last.safetensors").read_bytes() for r in (one, two)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tokenizer", choice_names("tokenizer"))
def test_precisions_and_tokenizers_train(cli: Cli, small: list[str], precision: str, tokenizer: str) -> None:
    said = cli("train", *small, f"trainer.precision={precision}", f"tokenizer={tokenizer}", "--json")
    assert said.code == 0, said.err
    assert said.json["text"]["tokenizer"] == tokenizer
    assert said.json["provenance"]["precision"] == precision


def test_paths_of_any_script_are_read(cli: Cli, small: list[str], text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my text (1) ~ a=b, 中文 'quoted'"
    folder.mkdir()
    odd = folder / "ütf {x} [y] #1 %20 $HOME ${seed}.txt"
    odd.write_bytes(text_file.read_bytes())
    rest = [s for s in small if not s.startswith(("data.path", "outputs"))]
    said = cli("train", *rest, f"data.path={odd}", f"outputs={folder / 'out puts'}", "name=läufe 1", "--json")
    assert said.code == 0, said.err
    assert Path(said.json["folder"]) == folder / "out puts" / "läufe 1" / "dense" / "seed=0"


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(cli: Cli, small: list[str], tmp_path: Path) -> None:
    said = cli("train", *small, "optim.lr=1e30", "optim.grad_clip=0", "--json")
    assert said.code == 1
    assert "diverged" in said.err
    assert said.json["state"] == "diverged"
    assert said.json["result"]["val_loss"] is None
    lines = (tmp_path / "outputs/train/dense/seed=0/metrics.jsonl").read_text()
    assert "NaN" not in lines
    assert "Infinity" not in lines


def test_resolved_config_reproduces_the_run(cli: Cli, small: list[str], tmp_path: Path) -> None:
    from mha_ablate.config.compose import compose, from_plain
    from mha_ablate.config.schema import config_hash
    from mha_ablate.data.corpus import IDENTITY

    run = cli("train", *small, "fc_out=per_head", "--json").json
    text = (Path(run["folder"]) / "config.yaml").read_text()
    study = compose([]).config.study
    config = from_plain({**yaml.safe_load(text), "study": {**study.__dict__}})
    assert config_hash(config.identity({key: run["text"][key] for key in IDENTITY})) == run["config_hash"]
