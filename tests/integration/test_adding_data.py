"""docs/adding-data.md to the letter: its commands and its file, in a copy of the project, beside a stand-in for the Hub."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import serving
from tests.integration.test_readme import ROOT, commands, shortened

PAGE = "docs/adding-data.md"
COMMIT = "b08601e04326c79dfdd32d625aee71d232d685c3"
CONFIG = "wikitext-103-raw-v1"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A copy of the project with the page's file in it, a folder to work in, and the environment to call it from there."""
    project, place = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("reader")
    for part in ("mha_ablate", "configs"):
        shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (name,) = re.findall(r"This one is `(configs/data/\w+\.yaml)`", text)
    (project / name).write_text(block, encoding="utf-8")
    (place / "my_text.txt").write_text("".join(f"{i} and {j} make {i + j}.\n" for i in range(30) for j in range(30)))
    with serving() as hub:
        splits = {"train": 3000, "validation": 400, "test": 400}
        card = "".join(f"  - split: {split}\n    path: {CONFIG}/{split}-*\n" for split in splits)
        files = {
            f"{CONFIG}/{split}-00000-of-00001.parquet": [f" = {split} {i} = \n" for i in range(rows)]
            for split, rows in splits.items()
        }
        readme = f"---\nconfigs:\n- config_name: {CONFIG}\n  data_files:\n{card}---\n"
        hub.add("Salesforce/wikitext", tmp_path_factory.mktemp("hub"), COMMIT, files, readme)
        yield (
            place,
            {
                **os.environ,
                "PYTHONPATH": str(project),
                "HF_ENDPOINT": hub.address,
                "HF_HOME": str(place / "hf"),
                "MHA_ABLATE_CACHE": str(place / "cache"),
            },
        )


@pytest.mark.parametrize("command", commands(PAGE))
def test_a_command_of_the_page_runs(command: str, reader: tuple[Path, dict[str, str]]) -> None:
    place, env = reader
    program, *words = shortened(command)
    assert program == "mha-ablate"
    words = [sys.executable, "-m", "mha_ablate", *words]
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    if "data=wikitext103" in command:
        assert "Salesforce/wikitext" in done.stdout or "removing fc_out" in done.stdout
    if command == "mha-ablate list data":
        assert "wikitext103" in done.stdout
