"""The Python interface, as a notebook uses it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

import mha_ablate
from mha_ablate import Comparison, compare, load_runs, train
from mha_ablate.errors import RequestError
from mha_ablate.run.folder import RunFolder

ARMS = ["study.arms=[dense,none]", "study.seeds=2"]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    from tests.conftest import SMALL

    place = tmp_path_factory.mktemp("notebook")
    text = place / "text.txt"
    text.write_text("".join(f"{i} and {j}: {i + j}. ä中\n" for i in range(25) for j in range(15)), encoding="utf-8")
    words = [*SMALL, *ARMS, "data=text", f"data.path={text}", f"outputs={place / 'outputs'}", "name=a"]
    return compare(*words, workers=1, quiet=True)


def test_a_comparison_says_what_the_command_line_says(comparison: Comparison) -> None:
    assert comparison.report == json.loads((comparison.folder / "report/report.json").read_text())
    assert comparison.failure is None
    assert comparison.sentence in str(comparison)
    assert comparison.sentence in comparison._repr_html_()
    for note in comparison.notes:
        assert note in str(comparison)


def test_the_table_has_one_row_an_arm(comparison: Comparison) -> None:
    dense, none = comparison.table.to_dict("records")
    assert (dense["arm"], none["arm"]) == ("dense", "none")
    rows = comparison.runs.to_dict("records")
    last = {(row["arm"], row["seed"]): row["loss/val"] for row in rows if not math.isnan(row["loss/val"])}
    assert math.isclose(none["val_loss"], fmean([last["none", 0], last["none", 1]]))
    delta = fmean([last["none", seed] - last["dense", seed] for seed in (0, 1)])
    assert math.isclose(none["delta"], delta, abs_tol=1e-12)
    assert none["ci95_low"] <= delta <= none["ci95_high"]
    assert dense["params"] - none["params"] == dense["params_fc_out"] > none["params_fc_out"] == 0
    assert none["overrides"] == "fc_out=none"


def test_runs_are_tidy(comparison: Comparison) -> None:
    runs = load_runs(comparison.folder)
    assert set(zip(runs["arm"], runs["seed"], strict=True)) == {(a, s) for a in ("dense", "none") for s in (0, 1)}
    assert set(runs["state"]) == {"ok"}
    assert len(runs) == len(runs.drop_duplicates(["arm", "seed", "step"]))
    for arm, seed in (("dense", 0), ("none", 1)):
        lines = RunFolder(comparison.folder / f"{arm}/seed={seed}").lines()
        rows = [row for row in runs.to_dict("records") if (row["arm"], row["seed"]) == (arm, seed)]
        for name in ("loss/train", "loss/val"):
            measured = [row[name] for row in rows if not math.isnan(row[name])]
            assert measured == [line[name] for line in lines if name in line]
    assert {"step", "tokens", "gflop", "train_s", "loss/train", "loss/val"} <= set(runs.columns)
    assert max(runs["step"]) == 6


def test_training_gives_the_run_of_the_comparison(comparison: Comparison) -> None:
    config = (comparison.folder / "none/seed=1/config.yaml").read_text()
    from tests.conftest import SMALL

    text = next(line.split(": ", 1)[1] for line in config.splitlines() if line.strip().startswith("path: "))
    words = [*SMALL, "data=text", f"data.path={text}", f"outputs={comparison.folder.parent}", "name=b"]
    run = train(*words, "fc_out=none", "seed=1", quiet=True)
    assert run.state == "ok"
    of_comparison = RunFolder(comparison.folder / "none/seed=1").read()
    assert run.val_loss == of_comparison["result"]["val_loss"]
    assert list(run.curve["loss/val"].dropna())[-1] == run.val_loss
    again = train(*words, "fc_out=none", "seed=1", quiet=True)
    assert again.about == run.about, "a finished run is not trained again"


def test_a_wrong_request_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"unknown key 'fc_oot' \(did you mean 'fc_out'"):
        compare("fc_oot=none", quiet=True)
    with pytest.raises(RequestError, match="out of range"):
        compare(workers=0)
    with pytest.raises(RequestError, match="no such choice"):
        train("fc_out=nune", quiet=True)
    with pytest.raises(RequestError, match="each is a string of its own"):
        train(["fc_out=none"], quiet=True)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RequestError, match="is no folder"):
        load_runs("nowhere")
    assert list(tmp_path.iterdir()) == []


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = "import sys, mha_ablate; assert not {'torch', 'pandas', 'hydra', 'datasets'} & set(sys.modules); mha_ablate.compare"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'campare'"):
        mha_ablate.campare  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
