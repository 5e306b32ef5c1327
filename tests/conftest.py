"""Shared fixtures: a cache of the tests' own, one thread, a small text and a small setting."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from mha_ablate.cli import errors
from mha_ablate.cli.main import app
from mha_ablate.data import cache

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

SMALL = [
    "model.d_model=16",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.context=8",
    "trainer.steps=6",
    "trainer.batch_size=4",
    "trainer.eval_every=3",
    "trainer.log_every=2",
    "trainer.precision=fp32",
    "optim.warmup_steps=2",
]


@dataclass(frozen=True)
class Said:
    """What one call of the command line left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Said]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MHA_ABLATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        yield


@pytest.fixture(autouse=True)
def _no_spare_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_spare", None)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """About 6,000 characters with some structure to learn."""
    file = tmp_path / "text.txt"
    lines = [f"{i} plus {j} is {i + j}, and {i} times {j} is {i * j}.\n" for i in range(13) for j in range(11)]
    file.write_text("".join(lines), encoding="utf-8")
    return file


@pytest.fixture
def small(text_file: Path, tmp_path: Path) -> list[str]:
    """Overrides of a run that takes a fraction of a second, on `text_file`, below `tmp_path`/outputs."""
    return [*SMALL, "data=text", f"data.path={text_file}", f"outputs={tmp_path / 'outputs'}"]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process: `cli("train", "fc_out=none")`."""

    def call(*argv: str) -> Said:
        capfd.readouterr()
        code = errors.run(app, list(argv))
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return call
