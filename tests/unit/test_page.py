"""Tables between the two marks of a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import own_python
from scripts.benchmark import main as bench
from scripts.calibration import main as calibration
from scripts.page import NoPlace, check_marks, marks, write_into
from scripts.reliability import breaking, limits
from scripts.reliability import main as kills

BEGIN, END = marks("kills")
SCRIPTS = [(bench, "bench", "bench"), (breaking, "hostile_test", "hostile"), (limits, "limits_test", "limits")]
SCRIPTS += [(kills, "kill_test", "kills"), (calibration, "calibrate", "calibration")]


@pytest.mark.parametrize(("script", "_name", "mark"), SCRIPTS)
def test_every_page_has_its_marks(script, _name: str, mark: str) -> None:
    check_marks(script.PAGE, mark)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN} {END}"])
def test_a_page_without_a_place_for_tables_is_refused(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(NoPlace, match=r"page\.md has no place"):
        check_marks(page, "kills")
    with pytest.raises(NoPlace, match=r"page\.md has no place"):
        write_into(page, "kills", "new")
    assert page.read_text() == text


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before {BEGIN} old {END} after <!-- bench: begin --> kept", encoding="utf-8")
    for _ in range(2):
        write_into(page, "kills", "| é |")
    wanted = f"before {BEGIN}\n\n| é |\n\n{END} after <!-- bench: begin --> kept"
    assert page.read_text(encoding="utf-8") == wanted


@pytest.mark.parametrize(("script", "name", "_mark"), SCRIPTS)
def test_a_missing_mark_is_one_line_before_anything_is_measured(
    script, name: str, _mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr("tempfile.TemporaryDirectory", None)  # nothing may begin
    monkeypatch.setattr("sys.argv", [name, "--write"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert own_python.run(name, lambda: script.main) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"{name}: ")
    assert "has no place" in err
