"""`mha-ablate replay`: the same bits, or where they first differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from tests.conftest import Cli


@pytest.fixture
def run(cli: Cli, small: list[str]) -> RunFolder:
    return RunFolder(Path(cli("train", *small, "--json").json["folder"]))


def content(folder: RunFolder) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in folder.path.rglob("*") if f.is_file()}


def test_a_run_is_the_same_again_and_is_only_read(cli: Cli, run: RunFolder) -> None:
    before = content(run)
    said = cli("replay", str(run.path), "--quiet")
    assert said.code == 0, said.err
    assert said.out == "the same bits: 5 lines of measurements, 15 tensors of weights\n"
    assert content(run) == before
    assert cli("replay", str(run.path), "-q", "--json").json["same"] is True


def test_cells_of_a_study_are_the_same_alone(cli: Cli, small: list[str], tmp_path: Path) -> None:
    assert cli("compare", *small, "study.arms=[dense,none_scaled]", "study.seeds=1", "--quiet").code == 0
    for arm in ("dense", "none_scaled"):
        said = cli("replay", str(tmp_path / "outputs/fc_out" / arm / "seed=0"), "--quiet")
        assert (said.code, said.err) == (0, "")


def test_a_run_of_an_older_version_lacks_settings_and_is_the_same(cli: Cli, run: RunFolder) -> None:
    config = yaml.safe_load(run.config_file.read_text())
    for key in ("save_every_s", "compile"):
        del config["trainer"][key]
    del config["match"]
    run.config_file.write_text(yaml.safe_dump(config))
    assert cli("replay", str(run.path), "-q").code == 0


def test_the_first_difference_is_named(cli: Cli, run: RunFolder) -> None:
    lines = run.lines()
    lines[2]["loss/train"] += 1e-12
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = cli("replay", str(run.path), "-q")
    assert said.code == 1
    assert f"step {lines[2]['step']}, loss/train: {lines[2]['loss/train']} then" in said.err
    assert said.err.count("\n") == 1


def test_a_line_too_few_is_a_difference(cli: Cli, run: RunFolder) -> None:
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in run.lines()[:-1]))
    assert "4 lines then, 5 now" in cli("replay", str(run.path), "-q").err


def test_one_other_weight_is_a_difference(cli: Cli, run: RunFolder) -> None:
    tensors, about = checkpoint.load(run.last_file)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[0] += 0.5
    checkpoint.save(run.last_file, tensors, about)
    said = cli("replay", str(run.path), "-q", "--json")
    assert said.code == 1
    assert f"weights after the last step, {name}: up to 0.5 apart" in said.json["difference"]


def test_what_differs_around_a_run_is_told(cli: Cli, run: RunFolder) -> None:
    about = run.read()
    about["provenance"]["versions"]["torch"] = "2.11.0"
    run.write(about)
    said = cli("replay", str(run.path), "-q")
    assert said.code == 0
    assert "versions.torch: 2.11.0 then, " in said.out


def unfinished(run: RunFolder) -> None:
    run.write({**run.read(), "state": "running"})


def nothing(run: RunFolder) -> None:
    run.run_file.unlink()


def no_config(run: RunFolder) -> None:
    run.config_file.unlink()


def another_key(run: RunFolder) -> None:
    run.config_file.write_text(run.config_file.read_text() + "surprise: 3\n")


def another_text(run: RunFolder) -> None:
    path = Path(yaml.safe_load(run.config_file.read_text())["data"]["path"])
    path.write_text(path.read_text() + "more\n")


def no_text(run: RunFolder) -> None:
    Path(yaml.safe_load(run.config_file.read_text())["data"]["path"]).unlink()


@pytest.mark.parametrize(
    ("break_it", "word"),
    [
        (unfinished, "no finished run (running)"),
        (nothing, "no finished run"),
        (no_config, "config.yaml cannot be read"),
        (another_key, "surprise"),
        (another_text, "its text is another one now"),
        (no_text, "no such file"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_line(cli: Cli, run: RunFolder, break_it, word: str) -> None:
    break_it(run)
    said = cli("replay", str(run.path), "-q")
    assert (said.code, said.out) == (2, "")
    assert word in said.err
    assert said.err.count("\n") == 1
