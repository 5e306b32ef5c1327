"""`scripts/calibrate` in short: its tables, their place, and that it draws the same at every call."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.calibration import main as script
from scripts.page import marks

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/calibrate"
CELLS = 3 * 7  # distributions, numbers of seeds


def calibrated(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)


def shape_of(tables: str) -> list[str]:
    """Titles and first columns, without what was measured."""
    lines = [line for line in tables.splitlines() if line.startswith(("*", "|"))]
    return [line if line.startswith("*") else line.split("|")[1] for line in lines]


@pytest.fixture(scope="module")
def printed() -> str:
    done = calibrated("--samples", "20")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_table_is_there_and_every_cell_is_a_number(printed: str) -> None:
    assert printed.startswith("20 samples or studies a row; 4 for BCa and for plans.")
    assert printed.count("\n**") == 8
    rows = [line.split("|")[2:-1] for line in printed.splitlines() if re.match(r"\| [\w.-]+ \| \d", line)]
    planned = len(script.MARGINS) + len(script.EFFECTS) * len(script.PILOTS)
    screens = len(script.SCREENS) + len(script.SO_FAR)
    assert len(rows) == 3 * CELLS + planned + screens + len(script.SETTINGS) * len(script.RATIOS)
    for cell in (cell.strip() for row in rows for cell in row):
        assert re.fullmatch(r"\d+(\.\d+)?%?", cell), cell


def test_the_same_command_gives_the_same_tables(printed: str) -> None:
    assert calibrated("--samples", "20").stdout == printed


def test_the_page_holds_tables_of_this_script(printed: str) -> None:
    begin, end = marks("calibration")
    written = script.PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    assert shape_of(written) == shape_of(printed)
    assert "20,000 samples" in written


def test_write_puts_what_is_printed_into_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("\n".join(["before", *marks("calibration"), "after"]))
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "tables", lambda samples: f"{samples} samples")
    assert script.main(["--samples", "7", "--write"]) == 0
    assert capsys.readouterr().out == "7 samples\n"
    begin, end = marks("calibration")
    assert page.read_text() == f"before\n{begin}\n\n7 samples\n\n{end}\nafter"


@pytest.mark.parametrize("samples", ["0", "-3", "4"])
def test_too_few_samples_are_refused_in_one_line(samples: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--samples", samples]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "calibrate: --samples must be at least 5\n")
