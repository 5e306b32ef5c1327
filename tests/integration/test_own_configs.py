"""`--config-dir`: choices of a user's own, on every command that composes, and every refusal in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mha_ablate.config.compose import compose
from mha_ablate.config.paths import configs_dir
from tests.conftest import Cli, Said

VARIANT = "# Nothing, under another name\n_target_: mha_ablate.model.fc_out.none.NoProjection\n"


def put(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A variant, a model and a study of the user's own, in a folder with an awkward name."""
    folder = put(tmp_path / "my configs (ü), $x=1 ${y} it's %20", "fc_out/mine.yaml", VARIANT)
    model = (configs_dir() / "model/mini.yaml").read_text(encoding="utf-8")
    put(folder, "model/tiny.yaml", "# A model of mine\n" + model)
    study = (
        "name: own\nbaseline: a\narms:\n  a: [fc_out=none]\n  b: [fc_out=mine]\npick: null\nseeds: 1\nmargin: 0.01\n"
    )
    put(folder, "study/own.yaml", f"# A study of mine\n{study}")
    return folder


def refused(said: Said, *words: str) -> None:
    assert (said.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    for word in words:
        assert word in said.err


def test_own_choices_compose_and_are_not_there_without_the_folder(own: Path, cli: Cli, small: list[str]) -> None:
    composed = compose(["fc_out=mine", "model=tiny"], own)
    assert composed.choices["fc_out"] == "mine"
    refused(cli("train", *small, "fc_out=mine"), "fc_out=mine: no such choice")
    refused(cli("train", *small, "fc_out=mein", "--config-dir", str(own)), "did you mean 'mine'")


def test_a_run_of_ones_own_variant_needs_the_folder_only_to_be_trained(own: Path, cli: Cli, small: list[str]) -> None:
    run = cli("train", *small, "fc_out=mine", "-cd", str(own), "--json", "-q")
    assert run.code == 0, run.err
    folder = run.json["folder"]
    assert Path(folder).parts[-2] == "mine"
    assert cli("replay", folder, "-q").code == 0
    assert cli("generate", folder, "--prompt", "1 plus", "--tokens", "3", "-q").code == 0
    assert cli("report", str(Path(folder).parent.parent)).code == 0


def test_a_study_of_ones_own_runs_on_workers(own: Path, cli: Cli, small: list[str]) -> None:
    words = [*small, "study=own", "--workers", "1", "-q"]
    said = cli("compare", *words, "--config-dir", str(own))
    assert said.code == 0, said.err
    assert "b: fc_out=mine" in said.out
    again = [line for line in said.out.splitlines() if line.startswith("  mha-ablate compare")]
    assert again
    assert all("--config-dir" in line for line in again)


def test_own_choices_are_swept_and_a_study_of_them_goes_through_a_launcher(
    own: Path, cli: Cli, small: list[str], tmp_path: Path
) -> None:
    how = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "--config-dir", str(own), "-q"]
    small = [word for word in small if not word.startswith("model")]
    swept = cli("sweep", *small, "fc_out=mine,none", "model=tiny", "model.n_layers=1,2", "name=s", *how)
    assert swept.code == 0, swept.err
    assert "4 of 4 cells ended well" in swept.out
    studied = cli("compare", *small, "study=own", "model=tiny", "model.n_layers=1", "name=c", *how)
    assert studied.code == 0, studied.err
    assert "b: fc_out=mine" in studied.out


def test_list_marks_own_choices(own: Path, cli: Cli) -> None:
    said = cli("list", "fc_out", "--config-dir", str(own))
    assert "  mine * " in said.out
    assert "  none   " in said.out
    assert said.out.endswith(f"* from {own}\n")
    found = cli("list", "--json", "-cd", str(own)).json
    assert found["fc_out"]["mine"]["file"] == str(own / "fc_out/mine.yaml")
    assert found["model"]["tiny"]["meaning"] == "A model of mine"
    assert "file" not in found["fc_out"]["none"]
    assert cli("list", "config", "-cd", str(own)).out == cli("list", "config").out


def test_data_takes_own_choices(cli: Cli, tmp_path: Path, text_file: Path) -> None:
    text = (configs_dir() / "data/text.yaml").read_text(encoding="utf-8")
    own = put(tmp_path / "own", "data/sums.yaml", text.replace("path: null", f"path: {text_file}"))
    said = cli("data", "show", "data=sums", "--config-dir", str(own), "--json")
    assert said.code == 0, said.err
    assert str(text_file) in json.dumps(said.json) or "text.txt" in said.json["name"]


COMMANDS = (["train"], ["compare"], ["data", "show"], ["data", "prepare"], ["list"], ["list", "config"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_that_cannot_be_used_is_one_line(command: list[str], cli: Cli, tmp_path: Path) -> None:
    def said(folder: Path, *words: str) -> Said:
        return cli(*command, *(words if "list" not in command else ()), "--config-dir", str(folder))

    (tmp_path / "empty").mkdir()
    refused(said(tmp_path / "nowhere"), str(tmp_path / "nowhere"), "is not there")
    refused(said(tmp_path / "empty"), str(tmp_path / "empty"), "holds no choice", "fc_out/mine.yaml")
    refused(said(put(tmp_path / "a", "README.md", "x") / "README.md"), "is not a folder")
    refused(said(put(tmp_path / "b", "fcout/mine.yaml", VARIANT)), "fcout is no group", "did you mean 'fc_out'")
    refused(said(put(tmp_path / "c", "fc_out/none.yaml", VARIANT)), "c/fc_out/none.yaml", "another name")
    if command == ["list", "config"]:  # it prints what is chosen, and chooses none of them
        return
    for number, text in enumerate(["a: [1", "a: b: c", "\t", "{", "", "just words", "- a\n- b", "\0", "a: *b"]):
        folder = put(tmp_path / f"d{number}", "model/broken.yaml", text)
        refused(said(folder, "model=broken"), str(folder / "model/broken.yaml"))
    file = put(tmp_path / "e", "model/latin.yaml", "") / "model/latin.yaml"
    file.write_bytes(b"a: \xff")
    refused(said(tmp_path / "e", "model=latin"), str(file), "cannot be read")


def test_a_broken_file_beside_those_that_are_chosen_is_no_hindrance(cli: Cli, tmp_path: Path, small: list[str]) -> None:
    own = put(tmp_path / "own", "data/broken.yaml", "path: [open")
    put(own, "model/fine.yaml", "\n".join(["defaults: [nano]", "d_model: 16", ""]))
    assert cli("train", *small, "model=fine", "--config-dir", str(own)).code == 0
    refused(cli("train", *small, "data=broken", "--config-dir", str(own)), "data/broken.yaml cannot be read")


def test_a_mistake_is_looked_for_in_the_file_that_was_chosen(cli: Cli, tmp_path: Path) -> None:
    own = put(tmp_path / "own", "model/a.yaml", "d_modle: 16\ndefaults: [nano]\n")
    put(own, "model/b.yaml", "defaults: [nano]\nd_modle: 16\n")
    refused(cli("train", "model=b", "--config-dir", str(own)), f"{own / 'model/b.yaml'}, line 2: ", "d_modle")


def test_a_class_that_nobody_registers_is_refused_by_list_and_never_imported(cli: Cli, tmp_path: Path) -> None:
    own = put(tmp_path, "fc_out/mine.yaml", "_target_: os.system\n")
    for words in (["list"], ["train", "fc_out=mine"]):
        refused(cli(*words, "--config-dir", str(own)), "os.system", "mha_ablate.fc_out")


def test_a_file_of_ones_own_that_lacks_keys_is_named_with_all_of_them(cli: Cli, tmp_path: Path) -> None:
    own = put(tmp_path / "own", "study/mine.yaml", "name: mine\nbaseline: dense\narms: {dense: [fc_out=dense]}\n")
    said = cli("compare", "study=mine", "--config-dir", str(own))
    refused(said, f"{own / 'study/mine.yaml'}: study.margin, study.pick, study.seeds have no value: give them")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", ["fc_out=mine"], "--config-dir DIR adds choices of your own"),
        ("compare", ["study=mine"], "--config-dir DIR adds choices of your own"),
        ("sweep", ["+experiment=mine"], "a group of your own comes with --config-dir DIR"),
    ],
)
def test_whoever_forgot_the_folder_is_told_of_it(command: str, words: list[str], said: str, cli: Cli) -> None:
    refused(cli(command, *words), said)
