"""docs/variants.md and docs/starts.md, and a check that notices when they are not current."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mha_ablate.config.catalog import choice_names
from tests.integration.test_readme import ROOT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the page is made from, with one more variant."""
    for name in ("mha_ablate", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("scripts", "docs"):
        (tmp_path / name).mkdir()
    for file in ("__init__.py", "gen_docs", "starts_page.py"):
        shutil.copy(ROOT / "scripts" / file, tmp_path / "scripts" / file)
    (tmp_path / "mha_ablate/model/fc_out/odd.py").write_text(
        'class Odd:\n    """y = |z|*g: odd, `a*b` and H*D.\n\n    More <of> it.\n\n    Parameters: H\n'
        "    Parameters [rank=2]: 2 H\n    Frozen: D\n"
        '    FLOPs: 0\n    Elementwise: H D\n    Class: neither,\n        but nearly\n    Source: a_b\n    """\n'
    )
    yaml = "_target_: mha_ablate.model.fc_out.odd.Odd\nrank: 8  # how many directions\n"
    (tmp_path / "configs/fc_out/odd.yaml").write_text(yaml)
    return tmp_path


def gen_docs(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(tree / "scripts/gen_docs"), *words]
    return subprocess.run(script, capture_output=True, text=True, cwd=tree, check=False)


def test_the_page_has_every_variant_its_facts_and_its_settings(tree: Path) -> None:
    assert gen_docs(tree).returncode == 0
    page = (tree / "docs/variants.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(#\1\) \|.*\|$", page, flags=re.MULTILINE)
    assert rows == sorted([*choice_names("fc_out"), "odd"]) == re.findall(r"^## (\w+)$", page, flags=re.MULTILINE)
    assert r"| `y = \|z\|*g` | `H`, frozen `D` | `0`, elementwise `H D` | neither, but nearly | a\_b |" in page
    assert "y = |z|\\*g: odd, `a*b` and H\\*D.\n\nMore \\<of> it.\n\n- **Parameters**: H\n" in page
    assert "```yaml\nrank: 8  # how many directions\n```\n" in page
    for file in re.findall(r"\]\(\.\./([\w/.]+)\)", page):
        assert (tree / file).is_file()


def test_the_check_notices_and_changes_nothing(tree: Path) -> None:
    said = gen_docs(tree, "--check")
    assert (said.returncode, said.stdout) == (1, "")
    assert "run scripts/gen_docs" in said.stderr
    assert list((tree / "docs").iterdir()) == []
    gen_docs(tree)
    assert gen_docs(tree, "--check").returncode == 0
    yaml = tree / "configs/fc_out/odd.yaml"
    yaml.write_text(yaml.read_text().replace("8", "9"))
    assert gen_docs(tree, "--check").returncode == 1
    assert gen_docs(tree, "--chek").returncode == 2


def test_ci_and_pre_commit_ask_for_it() -> None:
    assert "scripts/gen_docs --check" in (ROOT / "scripts/check").read_text(encoding="utf-8")
