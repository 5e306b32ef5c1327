"""Tables in a page of docs/, between two marks: `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""

from __future__ import annotations

from pathlib import Path


class NoPlace(Exception):
    """A page without the marks, once each and in their order. The message is one line."""


def marks(name: str) -> tuple[str, str]:
    """The two lines that a table stands between."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def check_marks(page: Path, name: str) -> None:
    """Raise NoPlace unless the page has a place for the tables. To be called before anything is measured."""
    begin, end = marks(name)
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if not (text.count(begin) == text.count(end) == 1 and text.index(begin) < text.index(end)):
        raise NoPlace(f"{page} has no place for the tables: {begin} and after it {end}, once")


def text_between(page: Path, name: str) -> str:
    """What stands between the two marks of a page, without the empty lines around it. Raises NoPlace."""
    check_marks(page, name)
    begin, end = marks(name)
    return page.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0].strip("\n")


def write_into(page: Path, name: str, text: str) -> None:
    """Put the text between the two marks of a page; whatever stood there goes. Raises NoPlace."""
    check_marks(page, name)
    begin, end = marks(name)
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
