"""Runs that differ in a rule of their start are told apart by it, and it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mha_ablate.config.paths import configs_dir
from mha_ablate.report.assemble import assemble
from mha_ablate.report.write import write_report
from mha_ablate.study.collect import collect
from tests.synthetic import write_study


def rules(init: str, **changed: str) -> dict[str, str]:
    return yaml.safe_load((configs_dir() / f"init/{init}.yaml").read_text()) | changed


def started(path: Path, *starts: tuple[str, dict[str, str], list[str]]) -> Path:
    """A run of dense for each start: its choice of init, its rules, and the words that set them."""
    for number, (init, of_init, words) in enumerate(starts):
        write_study(path / str(number), arms=["dense"], seeds=1, evaluations=1)
        (path / str(number) / "plan.json").unlink()
        folder = path / str(number) / "dense/seed=0"
        run: dict[str, Any] = json.loads((folder / "run.json").read_text())
        run |= {"choices": run["choices"] | {"init": init}, "arm_hash": f"hash-{number}", "overrides": words}
        (folder / "run.json").write_text(json.dumps(run))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"init": of_init}))
    return path


GAIN_2 = "uniform(gain=2)"


def test_a_rule_that_is_not_the_files_is_shown_with_the_choice(tmp_path: Path) -> None:
    path = started(tmp_path / "x", ("torch", rules("torch", out=GAIN_2), [f"init.out={GAIN_2}"]))
    assert [run.init for run in collect(path).runs] == [f"torch, out={GAIN_2}"]
    report = write_report(path)
    assert report["setting"]["same"]["init"] == f"torch, out={GAIN_2}"
    assert report["setting"]["same"]["init.out"] == GAIN_2
    assert f"init=torch, out={GAIN_2}</p>" in (path / "report/report.html").read_text()
    plain = started(tmp_path / "plain", ("torch", rules("torch"), []))
    assert [run.init for run in collect(plain).runs] == ["torch"]


def test_of_a_choice_of_ones_own_the_words_tell_the_rules(tmp_path: Path) -> None:
    mine = rules("torch", out=GAIN_2, value="zeros()")
    path = started(tmp_path / "x", ("mine", mine, ["init=mine", f"init.out={GAIN_2}"]))
    assert [run.init for run in collect(path).runs] == [f"mine, out={GAIN_2}"], "value is the file's, for all we know"
    elsewhere = started(tmp_path / "y", ("../study/fc_out", mine, []))
    assert [run.init for run in collect(elsewhere).runs] == ["../study/fc_out"]


@pytest.mark.parametrize(
    ("starts", "labels"),
    [
        (
            [("torch", rules("torch"), []), ("torch", rules("torch", out=GAIN_2), [])],
            ["dense out=uniform(bound=1 / sqrt(n_in))", f"dense out={GAIN_2}"],
        ),
        ([("torch", rules("torch"), []), ("gpt2", rules("gpt2"), [])], ["dense init=torch", "dense init=gpt2"]),
        (
            [("torch", rules("torch"), []), ("gpt2", rules("gpt2", out=GAIN_2), [])],
            ["dense init=torch out=uniform(bound=1 / sqrt(n_in))", f"dense init=gpt2 out={GAIN_2}"],
        ),
        (
            [("gpt2", {}, []), ("gpt2", rules("gpt2", out=GAIN_2), [])],
            ["dense out=normal(std=0.02 / sqrt(2 L))", f"dense out={GAIN_2}"],
        ),
    ],
    ids=["rule", "choice", "both", "before there was a choice"],
)
def test_runs_are_labelled_by_the_rule_in_which_they_differ(
    starts: list[tuple[str, dict[str, str], list[str]]], labels: list[str], tmp_path: Path
) -> None:
    study = collect(started(tmp_path / "x", *starts))
    assert [run.arm for run in sorted(study.runs, key=lambda run: str(run.folder.path))] == labels
    differs = assemble(study)["setting"]["differs"]
    assert len(differs["init"]) == 2
