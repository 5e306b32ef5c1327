"""What people watch: plain lines, and the live picture at every width and height."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live

from mha_ablate.cli import live
from mha_ablate.cli.live import PlainRun, PlainStudy, run_line, study_line, study_view
from mha_ablate.cli.picture import Head, Lively, OnTerminal, RunPicture, StudyPicture
from mha_ablate.cli.words import duration, thousands
from mha_ablate.study.observer import Observer
from mha_ablate.study.progress import Progress

NOW = time.monotonic()  # pictures look at the clock themselves


def cell(arm: str, seed: int) -> Any:
    trainer = SimpleNamespace(steps=100, eval_every=100, batch_size=10)
    return SimpleNamespace(
        arm=arm, seed=seed, config=SimpleNamespace(trainer=trainer, model=SimpleNamespace(context=10))
    )


def study(arms: list[str], seeds: int) -> Progress:
    """A study in the middle: a cell done before, one done now, one diverged, one running, one failed, the rest waiting."""
    cells = [cell(arm, seed) for seed in range(seeds) for arm in arms]
    progress = Progress(cells, {(arms[0], 0): 2.1019}, workers=2)
    for nr, (state, loss) in enumerate((("ok", 2.2992), ("diverged", None), ("failed", None)), start=1):
        progress.begin(cells[nr], NOW - 50)
        progress.hear(cells[nr], {"step": 0}, NOW - 49)
        progress.hear(cells[nr], {"step": 100, "loss/train": 2.0}, NOW - 39)
        progress.end(cells[nr], state, NOW - 38, loss=loss, error="out of luck")
    progress.begin(cells[4], NOW - 10)
    progress.hear(cells[4], {"step": 0}, NOW - 4)
    progress.hear(cells[4], {"step": 40, "loss/train": 2.345, "perf/tokens_per_s": 12_345.0}, NOW)
    return progress


def drawn(picture: Any, width: int, height: int = 24, **how: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, **{"force_terminal": False, **how})
    console.print(picture)
    return console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]


ARMS = ["dense", "none", "none_scaled"]
ODD = ["[red]", "配列", "none"]
LONG = [f"{'an_arm_with_a_long_name' * 2}_{n}" for n in range(30)]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("height", [5, 10, 24, 50])
@pytest.mark.parametrize(
    ("arms", "seeds"), [(ARMS, 2), (ARMS, 5), (ARMS, 200), (ODD, 5), ([f"a{n}" for n in range(12)], 20), (LONG, 4)]
)
def test_the_picture_never_leaves_the_terminal(arms: list[str], seeds: int, width: int, height: int) -> None:
    lines = drawn(StudyPicture(study(arms, seeds)), width, height)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= height
    assert height < 10 or any(line.startswith(arms[0][: width // 4]) for line in lines)
    assert "training" in lines[0] or width < 80
    assert lines[-1].startswith("= 2 done")


@pytest.mark.parametrize(("width", "seeds"), [(80, 5), (120, 8)])
def test_every_cell_has_its_own_words_where_there_is_room(width: int, seeds: int) -> None:
    text = "\n".join(drawn(StudyPicture(study(ARMS, seeds)), width))
    for word in ("= 2.1019", "= 2.2992", "! failed", "~ diverged", "> 40   2.3", ". waiting", "seed 0", "> 1 running"):
        assert word in text
    assert re.search(r"12\.3k tokens/s  (\d+h\d\dm|\d+m\d\ds|\d+s) left", text)


def test_with_many_seeds_a_cell_is_a_mark_and_with_more_a_number() -> None:
    lines = drawn(StudyPicture(study(ARMS, 12)), 80)
    marks = {"dense": "=!..........", "none": "=>..........", "none_scaled": "~..........."}
    assert dict(line.split()[:2] for line in lines[3:6]) == marks
    assert "1: 40   2.3" in lines[4]
    assert "1= 198. 1!" in drawn(StudyPicture(study(ARMS, 200)), 80)[3]


def test_a_low_terminal_shows_the_arms_that_run_and_counts_the_others() -> None:
    lines = drawn(StudyPicture(study(LONG, 2)), 120, height=10)
    assert [line.split()[0] for line in lines[3:6]] == [LONG[n] for n in (0, 3, 4)]
    assert lines[6].startswith("and 27 more arms: 1 done, 52 waiting, 1 diverged")


def test_without_colour_the_picture_is_the_same() -> None:
    picture = StudyPicture(study(ARMS, 5))
    how = {"force_terminal": True, "color_system": "truecolor"}
    coloured = drawn(picture, 80, **how, no_color=False)
    bare = drawn(picture, 80, **how, no_color=True)
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
    plain = [[re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines[2:]] for lines in (coloured, bare)]
    assert plain[0] == plain[1]
    assert any(colour.search(line) for line in coloured)
    assert not any(colour.search(line) for line in bare)


def test_a_run_shows_step_losses_pace_and_time_left() -> None:
    progress = Progress([cell("dense", 0)])
    progress.begin(progress.cells[0], NOW - 20)
    assert run_line(progress, NOW) == "step 0/100"
    progress.hear(progress.cells[0], {"step": 0, "val_tokens": 400, "sample_tokens": 400}, NOW - 10)
    progress.hear(progress.cells[0], {"step": 50, "loss/train": 2.5, "perf/tokens_per_s": 900.0}, NOW)
    progress.running["dense", 0]["loss/val"] = None
    # 50 steps at 0.2 s, and an evaluation on the tokens of 4 steps, at half their time
    assert run_line(progress, NOW) == "step 50/100  train 2.500  val nan  900 tokens/s  10s left"
    for width in (40, 80, 120):
        lines = drawn(RunPicture(progress), width)
        assert len(lines) == 2
        assert max(map(len, lines)) <= width
    assert "step 50/100  train 2.500  val nan" in lines[1]
    assert "50%" in lines[0]


def test_the_plain_line_counts_cells_and_steps_and_says_what_is_left() -> None:
    line = study_line(study(["dense", "none"], 3), NOW)
    assert line.startswith("4/6 cells  step 340/500  12.3k tokens/s  ")
    assert "dense/2 step 40 loss 2.345" in line


def test_what_is_not_known_is_not_shown() -> None:
    progress = Progress([cell("dense", 0), cell("none", 0)])
    progress.begin(progress.cells[0], NOW)
    assert study_line(progress, NOW) == "0/2 cells  step 0/200"
    assert "left" not in "".join(drawn(StudyPicture(progress), 80))
    assert "> starting" in "".join(drawn(StudyPicture(progress), 80))


# ---- when something is said


def test_plain_lines_come_when_a_cell_ends_and_every_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [NOW]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    progress, view = study(ARMS, 5), PlainStudy()

    def said() -> int:
        view.training(progress)
        return len(capsys.readouterr().err.splitlines())

    assert said() == 1
    assert said() == 0
    now[0] += live.INTERVAL - 0.1
    assert said() == 0
    now[0] += 0.2
    assert said() == 1
    progress.end(progress.cells[4], "ok", now[0], loss=2.0)
    assert (said(), said()) == (1, 0)
    view.timing(0, 24)
    view.timing(1, 24)
    now[0] += live.INTERVAL
    view.timing(9, 24)
    view.writing()
    words = "measuring step times, one arm at a time: turn"
    assert capsys.readouterr().err.splitlines() == [f"{words} 0/24", f"{words} 9/24  19s left", "writing the report"]


def test_where_there_is_no_terminal_or_none_that_can_draw_lines_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    with study_view() as view:
        assert type(view) is PlainStudy
    monkeypatch.setattr(live.sys, "stderr", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setenv("TERM", "dumb")
    with live.run_view() as view:
        assert type(view) is PlainRun
    monkeypatch.setenv("TERM", "xterm")
    with study_view(quiet=True) as view:
        assert type(view) is Observer


def test_the_picture_names_each_phase() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)
    shown = Live(console=console, auto_refresh=False)
    view = Lively(shown, "checking arms", StudyPicture)
    view.checking()
    assert isinstance(shown.renderable, Head)
    assert shown.renderable.what == "checking arms"
    view.training(study(ARMS, 5))
    assert isinstance(shown.renderable, StudyPicture)
    view.timing(0, 24)
    assert isinstance(shown.renderable, Head)
    assert (shown.renderable.share, shown.renderable.ends) == (0.0, None)
    view.timing(1, 24)
    view.timing(12, 24)
    assert isinstance(shown.renderable, Head)
    assert shown.renderable.share == 0.5
    assert shown.renderable.ends is not None
    view.writing()
    assert isinstance(shown.renderable, Head)
    assert shown.renderable.what == "writing the report"


def test_a_terminal_that_became_narrower_is_wiped_once() -> None:
    console = Console(file=io.StringIO(), width=120, height=24, force_terminal=True, color_system=None)
    written = console.file
    assert isinstance(written, io.StringIO)
    with OnTerminal(console=console, auto_refresh=False) as shown:
        shown.update(Head("training"), refresh=True)
        console.width = 140
        shown.refresh()
        assert "\x1b[2J" not in written.getvalue()
        console.width = 80
        shown.refresh()
        shown.refresh()
    assert written.getvalue().count("\x1b[2J") == 1


def test_time_left_runs_on_while_a_picture_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [NOW]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    head = Head("training", 0.5, ends=NOW + 65)
    assert drawn(head, 80)[0].rstrip().endswith("1m05s left")
    now[0] += 10
    assert drawn(head, 80)[0].rstrip().endswith("55s left")


# ---- a real terminal

WATCH = """
from mha_ablate.cli.live import study_view
from tests.unit.test_live import ARMS, study
with study_view() as view:
    view.checking()
    view.training(study(ARMS, 4))
    if hasattr(view, "live"):
        view.live.refresh()
    view.timing(3, 24)
    view.writing()
print("the result")
"""


def at_a_terminal(columns: int, **env: str) -> str:
    """What a study writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24", **env}
    process = subprocess.Popen([sys.executable, "-c", WATCH], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_terminal_no_line_is_wider_and_nothing_stays(columns: int, no_color: bool) -> None:
    text = at_a_terminal(columns, **({"NO_COLOR": "1"} if no_color else {}))
    assert ("\x1b[32m" in text) != no_color
    words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", text)
    assert max(map(len, re.split(r"[\r\n]+", words))) <= columns
    for said in ("checking arms", "training", "= 2.2992", "writing the report"):
        assert said in words
    last_picture, _, after = text.rpartition("writing the report")
    assert "\x1b[1A\x1b[2K" in after  # wiped
    assert "\x1b[?25h" in after  # the cursor is back
    assert after.rstrip().endswith("the result")
    assert last_picture


def test_a_dumb_terminal_gets_plain_lines() -> None:
    text = at_a_terminal(80, TERM="dumb").replace("\r", "")
    assert "\x1b" not in text
    assert text.splitlines()[0].startswith("4/12 cells")


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0, "0s"), (59.6, "1m00s"), (125, "2m05s"), (3720, "1h02m"), (-3, "0s")]
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_thousands() -> None:
    assert (thousands(870), thousands(23_400)) == ("870", "23.4k")
