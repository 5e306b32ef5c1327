"""What pre-commit checks is what .ci/run checks, and it notices."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHECK = "scripts/check"
TOOLS = ("ruff", "pyright")


def said_and_done(argv: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("GIT_")}, **variables}
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)


def lines(file: str) -> list[str]:
    """A script's commands, comments left out."""
    return [s for s in (ROOT / file).read_text(encoding="utf-8").splitlines() if s and not s.startswith("#")]


def hooks() -> list[dict[str, Any]]:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    return config["repos"][0]["hooks"]


def test_both_call_the_one_script_and_no_tool_beside_it() -> None:
    (hook,) = hooks()
    assert (hook["entry"], hook["language"]) == (CHECK, "system")
    assert (hook["always_run"], hook["pass_filenames"]) == (True, False)  # the whole tree, as in CI
    assert CHECK in lines(".ci/run")
    assert not [line for line in lines(".ci/run") if any(tool in line for tool in TOOLS)]
    for tool in TOOLS:
        assert any(f"-m {tool}" in line for line in lines(CHECK)), tool


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout in small: the real check and settings, one clean module, and a set-up that has nothing to do."""
    for name in (CHECK, "pyproject.toml", ".pre-commit-config.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "scripts/setup").write_text("#!/bin/sh\n")
    (tmp_path / "scripts/gen_docs").write_text('"""Generated pages: none here."""\n')
    (tmp_path / "scripts/setup").chmod(0o755)
    (tmp_path / "mha_ablate").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_nothing.py").write_text("")
    (tmp_path / "mha_ablate/__init__.py").write_text('"""A package."""\n\nNUMBER: int = 3\n')
    return tmp_path


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ("", ""),
        ("import os\n", "F401"),
        ("OTHER = {'a':1}\n", "would be reformatted"),
        ('WORD: int = "three"\n', "reportAssignmentType"),
    ],
    ids=["clean", "lint", "format", "types"],
)
def test_check_notices(addition: str, complaint: str, tree: Path) -> None:
    module = tree / "mha_ablate/__init__.py"
    module.write_text(module.read_text() + addition)
    done = said_and_done([CHECK], tree, VENV=sys.prefix)
    assert (done.returncode != 0) == bool(complaint), done.stdout + done.stderr
    assert complaint in done.stdout


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("code", [0, 3])
def test_pre_commit_passes_and_fails_with_the_check(code: int, tree: Path) -> None:
    (tree / CHECK).write_text(f"#!/bin/sh\necho checked with $# names\nexit {code}\n")
    for argv in (["git", "init", "--quiet"], ["git", "add", "."]):
        assert said_and_done(argv, tree).returncode == 0
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--verbose"]
    done = said_and_done(command, tree, PRE_COMMIT_HOME=str(tree / "home"))
    assert done.returncode == bool(code), done.stdout + done.stderr
    assert "checked with 0 names" in done.stdout
