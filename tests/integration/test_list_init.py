"""`list init`: which start is yours, measured at the user's own sizes; and the page that says so."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mha_ablate.config.catalog import choice_names
from scripts import starts_page
from tests.conftest import Cli
from tests.integration.test_readme import ROOT

SMALL = ["model.d_model=32", "model.n_heads=2", "model.n_layers=2"]
KEYS = {
    "init",
    "meaning",
    "gain_value",
    "gain_out",
    "gain_branch",
    "scores_sd",
    "attended",
    "louder_without",
}


def test_as_json_every_init_has_its_numbers(cli: Cli) -> None:
    found = cli("list", "init", *SMALL, "--json").json["init"]
    assert list(found) == choice_names("init")
    for name, start in found.items():
        assert start.keys() == KEYS
        assert start["init"] == name
        assert len(start["gain_out"]) == 2
        assert 1 <= start["attended"] <= 64
    assert found["zero_out"]["louder_without"] is None
    assert found["zero_out"]["gain_branch"] == 0
    assert found["torch"]["louder_without"] == pytest.approx(3**0.5, rel=0.03)
    assert found["gpt2"]["gain_out"][0] == pytest.approx(0.02 / 2 * 32**0.5, rel=0.03)


def test_sizes_matter(cli: Cli) -> None:
    few, many = (cli("list", "init", *SMALL[:1], f"model.n_heads={h}", "--json").json["init"] for h in (2, 8))
    assert few["keras"]["gain_out"][0] > 1.5 * many["keras"]["gain_out"][0]
    assert few["torch"]["gain_out"] == many["torch"]["gain_out"]


def test_where_the_gain_of_w_o_depends_on_the_layer_the_first_and_the_last_are_shown(cli: Cli, tmp_path: Path) -> None:
    """The example of docs/starts.md, as it stands there."""
    example = re.search(
        r"```yaml\n(# x-transformers.*?)```", (ROOT / "docs/starts.md").read_text(encoding="utf-8"), re.S
    )
    assert example is not None
    (tmp_path / "init").mkdir()
    (tmp_path / "init/depth_scaled.yaml").write_text(example[1], encoding="utf-8")
    words = ["list", "init", "model.d_model=64", "model.n_layers=4", "--config-dir", str(tmp_path)]
    own = cli(*words, "--json").json["init"]["depth_scaled"]
    assert own["gain_out"] == pytest.approx([(2 * layer) ** -0.5 for layer in (1, 2, 3, 4)], rel=0.03)
    assert own["file"] == str(tmp_path / "init/depth_scaled.yaml")
    said = cli(*words).out
    assert re.search(r"^depth_scaled +0\.5\d\d +0\.[67]\d\d \.\. 0\.3\d\d ", said, flags=re.MULTILINE)
    assert "  depth_scaled * " in said


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_a_terminal(width: int) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "mha_ablate", "list", "init", *SMALL]
    said = b""
    with subprocess.Popen(command, stdout=theirs, stdin=theirs, stderr=subprocess.DEVNULL, env=env) as done:
        os.close(theirs)
        try:
            while piece := os.read(ours, 65536):
                said += piece
        except OSError:  # the other side is closed
            pass
    os.close(ours)
    assert done.returncode == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", said.decode()).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= width
    head = next(line for line in lines if line.startswith("init "))
    assert ("sd scores" in head) is (width == 120)
    assert head.endswith("without O")
    assert sum(line.split(" ")[0] in choice_names("init") for line in lines) == len(choice_names("init"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["init", "init=torch"], "init=torch: the table has every init"),
        (["init", "fc_out=none"], "fc_out=none: the table has every init, and fc_out as it is by default"),
        (["init", "model.d_modl=64"], "did you mean 'model.d_model'"),
        (["init", "model.d_model=7"], "not divisible"),
        (["init", "model.d_model=65536", "model.n_heads=1"], "too many to draw"),
        (["init", "init.out='normal(std=q)'"], "init.out=normal(std=q): 'q' is no formula"),
        (["fc_out", "model.d_model=64"], "settings are for `list init`"),
        (["fcout", "model.d_model=64"], "did you mean 'fc_out'"),
    ],
)
def test_a_wrong_setting_is_one_line(words: list[str], says: str, cli: Cli) -> None:
    said = cli("list", *words)
    assert (said.code, said.out) == (2, "")
    assert len(said.err.strip().splitlines()) == 1
    assert says in said.err


def test_large_matrices_are_measured_by_a_sample_of_their_heads(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads of eight and 64 rows of W_O tell what all of them do, V O included."""
    words = ["list", "init", "model.d_model=256", "model.n_heads=8", "model.n_layers=2", "--json"]
    whole = cli(*words).json["init"]
    monkeypatch.setattr("mha_ablate.study.starts.ENTRIES", 2**14)
    for name, start in cli(*words).json["init"].items():
        for key in ("gain_value", "gain_branch", "scores_sd", "attended"):
            assert start[key] == pytest.approx(whole[name][key], rel=0.04), (name, key)
        assert start["gain_out"] == pytest.approx(whole[name]["gain_out"], rel=0.04)


def test_every_family_of_the_page_names_an_init_and_every_init_has_one() -> None:
    assert {init for _, init, _ in starts_page.FAMILIES} == set(choice_names("init"))
