"""What makes steps quick without changing them: the allocator of workers, and torch.compile where it can work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mha_ablate import build
from mha_ablate.config.compose import compose
from mha_ablate.training import allocator, compiled
from tests.unit.small import adamw, gpt, ids_of

# ---- allocator


def installed(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        folder.joinpath(name).touch()


def test_tcmalloc_is_preferred_and_what_the_user_has_chosen_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path))
    installed(tmp_path / "lib", "libjemalloc.so.2", "libtcmalloc_minimal.so.4")
    assert allocator.environment({}) == {"LD_PRELOAD": str(tmp_path / "lib" / "libtcmalloc_minimal.so.4")}
    assert allocator.environment({"LD_PRELOAD": ""}) == {}
    assert allocator.environment({"LD_PRELOAD": "/my/own.so"}) == {}


def test_where_none_is_installed_nothing_is_preloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "FOLDERS", ())
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path))
    assert allocator.environment({}) == {}
    monkeypatch.setattr(sys, "platform", "darwin")
    installed(tmp_path / "lib", "libtcmalloc_minimal.so.4")
    assert allocator.library() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are read from the kernel")
def test_kept_pages_are_not_faulted_in_again() -> None:
    """Ten large blocks one after the other: without it, every one of them is mapped anew."""
    script = """
import resource, sys, numpy
from mha_ablate.training.allocator import keep_pages
if sys.argv[1] == "keep": keep_pages()
numpy.ones(40 * 2**17)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): numpy.ones(40 * 2**17)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    plain = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", script, how], env=plain, text=True))
        for how in ("keep", "not")
    }
    if faults["not"] < 1000:
        pytest.skip("this C library keeps its pages anyway")
    assert faults["keep"] < faults["not"] / 5


# ---- torch.compile


def resolved(*overrides: str) -> Any:
    return build.resolved(compose(["trainer.device=cpu", *overrides]).config).trainer.compile


def test_auto_compiles_long_runs_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "why_not", lambda: None)
    assert resolved("trainer.steps=2000") is True
    assert resolved("trainer.steps=1999") is False
    assert resolved("trainer.steps=2000", "trainer.compile=false") is False
    assert resolved("trainer.steps=1", "trainer.compile=true") is True


def test_without_a_compiler_everything_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiled.why_not() == "there is no no-such-compiler"
    assert resolved("trainer.compile=true") is False


@pytest.mark.skipif(compiled.why_not() is not None, reason=f"torch.compile cannot work here: {compiled.why_not()}")
def test_a_compiled_loss_is_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    eager, quick = gpt(n_layers=1), gpt(n_layers=1)
    for model in (eager, quick):
        adamw(model, torch.float32)  # parameters are then views of one buffer, as in training
    ids = ids_of(eager)
    loss = compiled.compiled_loss(quick, tmp_path)
    expected, found = eager.loss(ids, ids), loss(ids, ids)
    expected.backward()
    found.backward()
    torch.testing.assert_close(found, expected)
    for one, other in zip(quick.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert any(tmp_path.rglob("*")), "what was compiled is kept in the folder it was given"
    compiled.forget()
