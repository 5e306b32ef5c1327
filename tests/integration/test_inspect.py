"""`mha-ablate inspect` on tiny trained runs: what it finds, what it writes, every refusal in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mha_ablate.config.catalog import choice_names
from mha_ablate.run.folder import RunFolder
from tests.conftest import SMALL, Cli, Said

LOOK = ("--eval-windows", "8", "--draws", "2", "--quiet")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("inspect") / "abc.txt"
    file.write_text("abc cab bca\n" * 900)
    return file


def trained(cli: Cli, text: Path, *words: str) -> Path:
    said = cli(
        "train", *SMALL, "data=text", f"data.path={text}", f"outputs={text.parent / 'outputs'}", *words, "--json"
    )
    assert said.code == 0, said.err
    return Path(said.json["folder"])


def looked(cli: Cli, run: Path, *options: str) -> dict:
    said = cli("inspect", str(run), *LOOK, "--json", *options)
    assert said.code == 0, said.err
    return said.json


def refused(said: Said, *words: str) -> None:
    assert (said.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1, said.err
    for word in words:
        assert word in said.err


def by_name(rows: list[dict]) -> dict[str, dict]:
    return {row["name"]: row for row in rows}


def test_a_usual_run_is_taken_apart_and_left_as_it_was(cli: Cli, text: Path) -> None:
    run = trained(cli, text, "name=usual")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    found = looked(cli, run, "--finetune", "2")
    assert {file: file.read_bytes() for file in before} == before
    assert found["text"] == {"windows": 8, "of": found["text"]["of"], "tokens": 64, "context": 8, "split": "validation"}
    assert [row["rank"] for row in found["ranks"]] == [0, 1, 2, 4, 8, 12, 16]
    assert found["ranks"][-1]["delta"] == pytest.approx(0, abs=1e-6)
    assert [(row["layer"], row["head"]) for row in found["heads"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert set(by_name(found["experiments"])) == {"identity", "identity_as_loud", "no_cross_head", "shuffled_heads"}
    assert set(found["finetune"]["delta"]) == {"identity", "identity_as_loud"}
    for layer in found["layers"]:
        assert layer["cross_head_energy_at_start"] == 0.5
        assert 0 < layer["cross_head_energy"] < 1
        assert layer["sum_of_heads_error"] < 1e-4
        assert len(layer["w_o"]["singular_values"]) == 16
        assert len(layer["ov"]) == 2
    folds = by_name(found["folds"])
    assert folds["merged_ov"]["exact"]
    assert folds["merged_ov"]["max_logit_difference"] < 1e-4
    assert not folds["none"]["exact"]


def test_the_same_question_has_the_same_answer(cli: Cli, text: Path) -> None:
    run = trained(cli, text, "name=twice")
    assert looked(cli, run) == looked(cli, run)


def test_the_page_the_figures_and_the_numbers_are_written_beside_the_run(cli: Cli, text: Path) -> None:
    run = trained(cli, text, "name=page")
    said = cli("inspect", str(run), *LOOK)
    assert said.code == 0, said.err
    place = RunFolder(run).inspect_dir
    assert said.out.endswith(f"page: {place / 'inspect.html'}\n")
    assert max(len(line) for line in said.out.splitlines()[3:-3]) <= 80 + len(str(run))
    names = {file.name for file in place.iterdir()}
    figures = ("ranks", "heads", "spectra", "cross_head_energy")
    assert names == {"inspect.html", "inspect.json", *(f"{f}.{kind}" for f in figures for kind in ("svg", "png"))}
    page = (place / "inspect.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 5
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "").partition("<svg")[0]
    assert f"mha-ablate inspect {run}" in page
    written = json.loads((place / "inspect.json").read_text(encoding="utf-8"))
    again = looked(cli, run)
    assert {k: v for k, v in again.items() if k != "page"} == written
    assert cli("report", str(text.parent / "outputs" / "page")).code == 0  # the folder is still one of a run


@pytest.mark.parametrize("variant", choice_names("fc_out"))
def test_every_variant_can_be_looked_at(cli: Cli, text: Path, variant: str) -> None:
    run = trained(cli, text, f"fc_out={variant}", f"name=every_{variant}")
    found = looked(cli, run)
    assert found["loss"] > 0
    assert len(found["heads"]) == 4
    assert len(found["layers"]) == 2
    told = {row["name"] for row in found["experiments"]} | {row["what"] for row in found["left_out"]}
    assert {"identity", "identity_as_loud", "no_cross_head", "shuffled_heads"} <= told
    if found["ranks"]:  # the usual weights back in their place
        assert found["ranks"][-1]["delta"] == pytest.approx(0, abs=1e-4)
    for row in found["folds"]:
        assert not row["exact"] or row["max_logit_difference"] < 1e-3, row


@pytest.mark.parametrize(
    "settings", [["attention=split"], ["model.n_heads=1"], ["model.bias=true"], ["model.block=post"]]
)
def test_other_settings_can_be_looked_at(cli: Cli, text: Path, settings: list[str]) -> None:
    run = trained(cli, text, *settings, f"name=set_{settings[0].replace('=', '_')}")
    found = looked(cli, run)
    exact = {name for name, row in by_name(found["folds"]).items() if row["exact"]}
    assert ("v_bias" in exact) == (settings == ["model.bias=true"])
    assert ("merged_ov" in exact) == (settings != ["attention=split"])


def test_a_fold_is_written_as_a_run_with_the_same_logits(cli: Cli, text: Path, tmp_path: Path) -> None:
    run, out = trained(cli, text, "name=fold", "model.bias=true"), tmp_path / "folded"
    said = cli("inspect", str(run), "--fold", "merged_ov", "--out", str(out), "--json")
    assert said.code == 0, said.err
    assert said.json["max_logit_difference"] < 1e-4
    assert not RunFolder(run).inspect_dir.exists()
    words = ("--prompt", "abc", "--tokens", "20", "--temperature", "0", "--json")
    texts = [cli("generate", str(folder), *words).json["text"] for folder in (run, out)]
    assert texts[0] == texts[1]
    again = looked(cli, out)
    assert (again["fc_out"], again["arm"]) == ("MergedOV", "dense_merged_ov")
    assert again["loss"] == pytest.approx(looked(cli, run)["loss"], abs=1e-5)
    refused(cli("inspect", str(run), "--fold", "merged_ov", "--out", str(out)), str(out), "new or empty")


def test_what_cannot_be_asked_is_said_in_a_line(cli: Cli, text: Path, tmp_path: Path) -> None:
    run = trained(cli, text, "name=refused")
    refused(cli("inspect", str(tmp_path / "nothing")), "nothing")
    refused(cli("inspect", str(run), "--draws", "0"), "--draws 0", "1 to 1000")
    refused(cli("inspect", str(run), "--eval-windows", "-1"), "--eval-windows -1")
    refused(cli("inspect", str(run), "--fold", "merged_ov"), "--out")
    refused(cli("inspect", str(run), "--fold", "merged", "--out", str(tmp_path / "x")), "did you mean 'merged_ov'")
    refused(cli("inspect", str(run), "--fold", "none", "--out", str(tmp_path / "x")), "not exact here", "no place")
    assert not (tmp_path / "x").exists()


def test_a_text_that_is_gone_leaves_what_weights_say(cli: Cli, text: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("cba abc\n" * 900)
    run = trained(cli, own, "name=gone")
    own.write_text("something else entirely\n" * 400)
    found = looked(cli, run)
    assert found["text"] is None
    assert found["experiments"] == []
    assert all(layer["w_o"] for layer in found["layers"])
    assert any("the text is another one now" in row["why"] for row in found["left_out"])


def test_broken_weights_are_said_in_a_line(cli: Cli, text: Path, tmp_path: Path) -> None:
    run = tmp_path / "broken"
    shutil.copytree(trained(cli, text, "name=broken"), run)
    RunFolder(run).last_file.write_bytes(b"nothing of the kind")
    refused(cli("inspect", str(run), *LOOK), str(run))
