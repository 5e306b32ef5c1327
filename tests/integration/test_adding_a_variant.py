"""docs/adding-a-variant.md to the letter: its files and commands, with its package installed into a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.integration.test_readme import ROOT, commands, shortened

PAGE = "docs/adding-a-variant.md"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the page's files in it, and an environment that finds what `pip install` put beside it."""
    place, target = tmp_path_factory.mktemp("reader"), tmp_path_factory.mktemp("installed")
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    shown = re.findall(r"^`([\w/.]+)`[^\n]*\n\n```\w+\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert [Path(name).suffix for name, _ in shown] == [".py", ".toml", ".yaml"]
    for name, block in shown:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(block, encoding="utf-8")
    return place, {**os.environ, "PYTHONPATH": f"{target}:{ROOT}", "OMP_NUM_THREADS": "1", "TARGET": str(target)}


def done(words: list[str], place: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, timeout=300, check=False)


def ours(*words: str) -> list[str]:
    return [sys.executable, "-m", "mha_ablate", *words]


@pytest.mark.parametrize("command", commands(PAGE))
def test_a_command_of_the_page_runs(command: str, reader: tuple[Path, dict[str, str]]) -> None:
    place, env = reader
    program, *words = shortened(command)
    if program == "pip":
        offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", env["TARGET"]]
        words = [sys.executable, "-m", "pip", *words, *offline]
    else:
        assert program == "mha-ablate"
        words = ours(*words)
    said = done(words, place, env)
    assert said.returncode == 0, said.stderr
    if command.startswith("mha-ablate list"):
        assert "gain *" in said.stdout
        assert "y_h = g z_h" in said.stdout
        assert "parameters H; class N under attention=fused; source NormFormer" in " ".join(said.stdout.split())
    if command.startswith("mha-ablate compare"):
        assert "gain: fc_out=gain" in said.stdout


def test_its_package_stands_in_provenance(reader: tuple[Path, dict[str, str]]) -> None:
    run = json.loads((reader[0] / "outputs/train/gain/seed=0/run.json").read_text())
    assert run["provenance"]["versions"]["mha-gain"] == "0.1"


def test_its_setting_can_be_set_and_nothing_of_it_is_imported_for_list(reader: tuple[Path, dict[str, str]]) -> None:
    place, env = reader
    words = [
        "train",
        *SMALL,
        "fc_out=gain",
        "fc_out.start=2.0",
        "--config-dir",
        "mha_gain/configs",
        "name=two",
        "--json",
    ]
    said = done(ours(*words), place, env)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["state"] == "ok"
    code = (
        "import sys\nfrom pathlib import Path\nfrom mha_ablate.config.catalog import choices\n"
        "found = {c.name: c.facts for c in choices('fc_out', Path('mha_gain/configs'))}\n"
        "print(found['gain']['Parameters'], 'mha_gain' in sys.modules, 'torch' in sys.modules)"
    )
    assert done([sys.executable, "-c", code], place, env).stdout == "H False False\n"


def test_a_run_says_what_it_lacks_where_the_package_is_gone(reader: tuple[Path, dict[str, str]]) -> None:
    place, env = reader
    without = {**env, "PYTHONPATH": str(ROOT)}
    run = "outputs/train/gain/seed=0"
    for words in (["replay", run], ["generate", run, "--prompt", "a"]):
        said = done(ours(*words, "-q"), place, without)
        assert said.returncode == 2
        assert "no installed package registers it in the entry point group mha_ablate.fc_out" in said.stderr
        assert len(said.stderr.splitlines()) == 1
    assert done(ours("report", "outputs/train"), place, without).returncode == 0


def test_a_class_of_the_package_that_it_does_not_register_is_not_imported(
    reader: tuple[Path, dict[str, str]],
) -> None:
    place, env = reader
    for target in ("mha_gain.Other", "mha_gain.nn.Linear", "mha_gain"):
        said = done(ours("train", shlex.quote(f"fc_out._target_={target}")), place, env)
        assert said.returncode == 2
        assert "no installed package registers it" in said.stderr
