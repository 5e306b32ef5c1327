"""TensorBoard serves what `compare` wrote."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

from tests.conftest import Cli
from tests.integration.process import interrupt, start, wait_for


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def test_board_serves_the_paired_delta_on_loopback(cli: Cli, small: list[str], tmp_path: Path) -> None:
    for fc_out in ("dense", "none"):
        assert cli("train", *small, f"fc_out={fc_out}").code == 0
    folder = tmp_path / "outputs" / "train"
    report = cli("report", str(folder), "--json").json
    process = start("board", str(folder), "--port", "0", "--json")
    try:
        assert process.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            said += process.stdout.readline()
        urls = json.loads(said)
        assert urls["url"].startswith("http://127.0.0.1:")
        assert "pinnedCards" in urls["link"]
        assert "delta_val_loss" in urls["link"]
        assert "#custom_scalars" in urls["bands"]
        assert "#hparams" in urls["table"]

        def tags() -> Any:
            found = fetch(f"{urls['url']}data/plugin/scalars/tags")
            return found if "cost/delta_val_loss" in found.get("none/seed=0", {}) else None

        found = wait_for(tags, 60)
        assert {"loss/val", "loss/val_by_tokens", "loss/val_by_gflop", "loss/val_by_train_ms"} <= set(
            found["none/seed=0"]
        )
        points = fetch(f"{urls['url']}data/plugin/scalars/scalars?tag=cost%2Fdelta_val_loss&run=none%2Fseed%3D0")
        assert [p[1] for p in points] == [3, 6]
        assert abs(points[-1][2] - report["arms"][1]["delta"]["mean"]) < 1e-5
        of_mean = fetch(f"{urls['url']}data/plugin/scalars/scalars?tag=cost%2Fdelta_val_loss&run=none%2Fmean")
        assert [p[1:] for p in of_mean] == [p[1:] for p in points], "of one seed"
        layout = fetch(f"{urls['url']}data/plugin/custom_scalars/layout")
        assert [len(category["chart"]) for category in layout["category"]] == [1, 1]
    finally:
        interrupt(process, signal.SIGTERM)
    assert process.returncode == 130
