"""Every command in README.md and CONTRIBUTING.md runs, in the order in which a reader would type them, on a small setting."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SMALL
from tests.hub import serving
from tests.integration.process import run, wait_for
from tests.integration.test_hub import SETTINGS, card, layout

ROOT = Path(__file__).resolve().parents[2]
TRAINS = ("scripts/demo", "mha-ablate train", "mha-ablate compare")


def commands(page: str = "README.md") -> list[str]:
    """The lines of the page's `sh` blocks, comments and blank lines left out."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the commands run, one after the other: a folder with the reader's own text in it, beside a stand-in for the Hub."""
    folder = tmp_path_factory.mktemp("reader")
    lines = [f"{i} and {j} make {i + j}.\n" for i in range(20) for j in range(20)]
    (folder / "my_text.txt").write_text("".join(lines), encoding="utf-8")
    with serving() as hub, pytest.MonkeyPatch.context() as patch:
        for name in ("wikitext2", "tinystories"):
            wanted = SETTINGS[name]["hub"]
            readme = card(wanted["config"], wanted["splits"])
            hub.add(wanted["name"], folder / "hub" / name, wanted["revision"], layout(name), readme)
        patch.setenv("HF_ENDPOINT", hub.address)
        yield folder


def shortened(command: str) -> list[str]:
    """The command as it stands, made small where it trains: settings that the page names itself keep their values."""
    words = shlex.split(command)
    if not command.startswith(TRAINS):
        return words
    named = {word.partition("=")[0] for word in words}
    extra = [s for s in SMALL if s.partition("=")[0] not in named]
    if words[:2] == ["mha-ablate", "compare"]:  # one worker: the tests already run side by side
        extra += ["--workers", "1", *([] if "study.seeds" in named else ["study.seeds=2"])]
    return [*words, *extra]


def environment(place: Path) -> dict[str, str]:
    bin_dir = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "VENV": sys.prefix, "OMP_NUM_THREADS": "1"}


def test_the_readme_has_commands_to_run() -> None:
    found = commands()
    assert {"scripts/demo", "scripts/test"} <= set(found)
    for command in ("train", "compare", "report", "board", "list"):
        assert any(line.startswith(f"mha-ablate {command}") for line in found), command


@pytest.mark.parametrize("command", commands())
def test_readme_command_runs(command: str, place: Path) -> None:
    if command.startswith(". "):
        assert command == ". .venv/bin/activate"  # what scripts/setup made; here the tests' own environment serves
        return
    words = shortened(command)
    env = environment(place)
    if words[0] == "scripts/test":
        words = [str(ROOT / words[0]), "--version"]  # the whole of it is what runs here
    elif words[0] == "scripts/demo":
        words = [str(ROOT / words[0]), *words[1:], f"outputs={place / 'outputs'}", "name=fc_out"]
    elif words[:2] == ["mha-ablate", "board"]:
        run_board(words, place, env)
        return
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"


def run_board(words: list[str], place: Path, env: dict[str, str]) -> None:
    process = subprocess.Popen(
        [*words, "--port", "0"], cwd=place, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = wait_for(process.stdout.readline, 60)
        assert "http://127.0.0.1:" in line
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


def test_the_python_of_the_readme_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(place)
    ran: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), ran)
    assert list(ran["found"].table["arm"]) == ["dense", "none"]
    assert len(ran["load_runs"]("outputs/notebook")) >= 4
    assert (place / "outputs/once/none/seed=0/run.json").exists()


# ---- CONTRIBUTING.md

ELSEWHERE = ("scripts/check", "pre-commit run --all-files")  # test_checks.py runs both


@pytest.mark.parametrize("command", commands("CONTRIBUTING.md"))
def test_contributing_command_runs(command: str, place: Path) -> None:
    if command.startswith(". "):
        assert command == ". .venv/bin/activate"
        return
    if command in ELSEWHERE:
        return
    words = shlex.split(command)
    if words[0] == "pre-commit":
        words.append("--help")  # installing it would change the checkout
    elif words[0] == "scripts/test":
        selected = ["-n", "0", "--collect-only", "-q"]  # fails where nothing is
        words += selected if words[1:] else ["--version"]
    if words[0].startswith("scripts/"):
        words[0] = str(ROOT / words[0])
    done = subprocess.run(
        words, cwd=place, env=environment(place), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"


def test_the_variant_of_contributing_is_one_class_and_one_yaml(tmp_path: Path) -> None:
    """The two files that the page shows, put into a copy of the tree, are a variant that is listed and trains."""
    for name in ("mha_ablate", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.findall(r"^`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert [Path(name).suffix for name, _ in shown] == [".py", ".yaml"]
    for name, text in shown:
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text, encoding="utf-8")
    variant = Path(shown[1][0]).stem
    done = run("list", "fc_out", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["fc_out"][variant]["meaning"].startswith("y"), done.stderr
    done = run("train", *SMALL, f"fc_out={variant}", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "ok"
