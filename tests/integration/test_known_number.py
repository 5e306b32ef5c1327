"""nanoGPT's CPU setting on tiny Shakespeare reaches what nanoGPT reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cli

TEXT = Path(__file__).resolve().parents[3] / "shared/data/tiny_shakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@pytest.mark.slow
@pytest.mark.skipif(not TEXT.is_file(), reason=f"tiny Shakespeare is not at {TEXT}")
def test_nanogpts_cpu_setting_reaches_nanogpts_loss(cli: Cli, tmp_path: Path) -> None:
    said = cli(
        "train",
        "study=nanogpt_cpu",
        "trainer.threads=1",
        "data=text",
        f"data.path={TEXT}",
        f"outputs={tmp_path}",
        "--json",
    )
    assert said.code == 0, said.err
    assert said.json["text"]["sha256"] == SHA256
    assert said.json["text"]["vocab_size"] == 65
    assert said.json["result"]["step"] == 2000
    assert 1.88 <= said.json["result"]["val_loss"] <= 1.92
