"""What people watch: the plain lines, and the live table at 80 and 120 columns."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mha_ablate.cli.live import _study_table, duration, run_line, study_line, thousands
from mha_ablate.study.execute import Progress


def cell(arm: str, seed: int) -> Any:
    return SimpleNamespace(arm=arm, seed=seed, config=SimpleNamespace(trainer=SimpleNamespace(steps=100)))


def study(arms: list[str], seeds: int) -> tuple[Any, Progress]:
    """A study in the middle: one cell done before, one done now, one running, one failed, the rest waiting."""
    cells = [cell(arm, seed) for seed in range(seeds) for arm in arms]
    plan = SimpleNamespace(arms=dict.fromkeys(arms), cells=cells, study=SimpleNamespace(seed_list=list(range(seeds))))
    progress = Progress(cells[1:], 1, losses={(arms[0], 0): 2.1019, (arms[1], 0): 2.2992})
    progress.finished = {(arms[1], 0): "ok", (arms[0], 1): "failed"}
    progress.running = {(arms[1], 1): {"step": 40, "loss/train": 2.345, "perf/tokens_per_s": 12_345.0}}
    progress.first_line = time.monotonic() - 24.0
    return plan, progress


def drawn(plan: Any, progress: Progress, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(_study_table(plan, progress, width))
    return console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("width", "seeds"), [(80, 5), (120, 8), (80, 12), (120, 40)])
def test_the_live_table_fits_and_tells_every_state(width: int, seeds: int) -> None:
    lines = drawn(*study(["dense", "none", "none_scaled"], seeds), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "12.3k tokens/s" in text
    assert "left" in text
    assert "40" in text
    assert "2.3" in text
    if seeds <= 8:
        for word in ("= 2.1019", "= 2.2992", "! failed", ". waiting", "seed 0"):
            assert word in text


def test_the_plain_line_counts_cells_and_steps_and_estimates_what_is_left() -> None:
    _, progress = study(["dense", "none"], 3)
    line = study_line(progress)
    assert line.startswith("3/6 cells  step 240/500  12.3k tokens/s  26s left")
    assert "none/1 step 40 loss 2.345" in line


def test_what_is_not_known_is_not_shown() -> None:
    _, progress = study(["dense", "none"], 3)
    progress.running, progress.first_line = {("none", 1): {}}, None
    assert study_line(progress) == "3/6 cells  step 200/500"


def test_a_run_line_has_step_losses_pace_and_time_left() -> None:
    line = {"step": 50, "loss/train": 2.5, "loss/val": 2.6, "perf/tokens_per_s": 900.0}
    assert run_line(line, 200, 10.0) == "step 50/200  train 2.500  val 2.600  900 tokens/s  30s left"
    assert "train nan" in run_line({"step": 50, "loss/train": None}, 200, 10.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0, "0s"), (59.6, "1m00s"), (125, "2m05s"), (3720, "1h02m"), (-3, "0s")]
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_thousands() -> None:
    assert (thousands(870), thousands(23_400)) == ("870", "23.4k")
