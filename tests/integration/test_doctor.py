"""`doctor` as a process of its own: on a sound machine, and where torch cannot be imported."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.integration.process import run

BROKEN = "raise OSError('libsomething.so.1: cannot open shared object file')\n"


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    lines, plain = run("doctor", cwd=tmp_path), run("doctor", "--json", cwd=tmp_path)
    assert (lines.returncode, plain.returncode) == (0, 0), lines.stdout + lines.stderr + plain.stderr
    assert lines.stderr == plain.stderr == ""
    assert "\x1b" not in lines.stdout
    said = json.loads(plain.stdout)
    assert said.keys() == {"ok", "advice", "facts"}
    assert said["ok"] is True
    assert lines.stdout.splitlines()[-1] == said["advice"]
    for fact in said["facts"]:
        assert fact.keys() == {"group", "key", "value", "state", "why", "fix"}
        assert fact["state"] in ("ok", "note")
        line = next(line for line in lines.stdout.splitlines() if line.split()[1:2] == fact["key"].split()[:1])
        assert line.split()[0] == fact["state"]
    groups = list(dict.fromkeys(fact["group"] for fact in said["facts"]))
    assert [line for line in lines.stdout.splitlines()[:-1] if line and line[0] != " "] == groups
    assert list(tmp_path.iterdir()) == []


def test_a_torch_that_cannot_be_imported_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text(BROKEN, encoding="utf-8")
    paths = [str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    done = run("doctor", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    said = json.loads(done.stdout)
    problems = [fact for fact in said["facts"] if fact["state"] == "problem"]
    assert [fact["key"] for fact in problems] == ["torch"]
    assert "libsomething.so.1" in problems[0]["why"]
    assert problems[0]["fix"] in said["advice"]
    known = {fact["key"] for fact in said["facts"] if fact["value"] != "not known"}
    assert {"cores", "processor", "memory", "outputs", "cache", "Hub"} <= known
