"""Where text comes from: the embedded reference, and files read through `datasets`."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from mha_ablate.data.hub import HubData
from mha_ablate.data.plain_files import PlainFiles
from mha_ablate.data.sources import Source, find_files, open_text, python_docs, text_files
from mha_ablate.data.text import survey

CHUNK = 1 << 20  # how much of a file is checked at a time


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own, empty at first."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test puts its text files."""
    made = tmp_path / "texts"
    made.mkdir()
    return made


def put(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def read(path: Path | str) -> str:
    """The whole text that a path names."""
    return text_files(str(path)).read()


def named(path: Path | str) -> tuple[str, str]:
    """Name and content."""
    text = text_files(str(path))
    return text.name, text.read()


def refusal(path: Path | str) -> str:
    """The message with which a path is refused: a ValueError of one line."""
    with pytest.raises(ValueError, match=r".") as caught:
        text_files(str(path))
    assert type(caught.value) is ValueError, "a UnicodeDecodeError is a ValueError too, but not a message for people"
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_python_docs_is_the_same_twice() -> None:
    assert python_docs().read() == python_docs().read()
    assert open_text(Source("python_docs")).read() == python_docs().read()


def test_python_docs_is_large_and_named() -> None:
    text = python_docs()
    assert text.name == "python_docs"
    assert 300_000 < len(text.read()) < 500_000


def test_python_docs_repeats_no_paragraph() -> None:
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n[ \t]*\n", python_docs().read())]
    assert len(paragraphs) > 1000
    assert len(set(paragraphs)) == len(paragraphs)


def test_python_docs_holds_every_paragraph_of_the_topics() -> None:
    from pydoc_data.topics import topics

    def plain(text: str) -> str:
        return "".join(c for c in unicodedata.normalize("NFKC", text) if c.isascii() and c.isalnum())

    kept = {plain(p) for p in re.split(r"\n[ \t]*\n", python_docs().read())}
    wanted = {plain(p) for topic in topics.values() for p in re.split(r"\n[ \t]*\n", topic)}
    assert wanted - kept <= {""}


def test_python_docs_is_plain_typography() -> None:
    text = python_docs().read()
    assert not set("\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u00a0") & set(text)
    assert unicodedata.is_normalized("NFC", text)


def test_python_docs_by_example(monkeypatch: pytest.MonkeyPatch) -> None:
    topics = {
        "b": "  said   again\n \t\nlast  \n",
        "a": "cafe\u0301 \u201chi\u201d\u2014\u2018x\u2019\u2026\n\nsaid\n  again\n\n",
    }
    monkeypatch.setattr("pydoc_data.topics.topics", topics)
    assert python_docs().read() == "caf\u00e9 \"hi\"-'x'...\n\nsaid\n  again\n\nlast"


def test_python_docs_without_the_topics_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="data=text") as caught:
        python_docs()
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_is_read_as_it_is(folder: Path) -> None:
    content = "one\n\n  two \u4e2d\u6587 \U0001f40d\tend without a line break"
    text = open_text(Source("text", str(put(folder / "a.txt", content))))
    assert (text.name, text.read()) == ("a.txt", content)
    assert text.read() == content, "and again"


def test_a_folder_is_read_whole_sorted_and_without_hidden_files(folder: Path) -> None:
    put(folder / "b.txt", "b")
    put(folder / "a.txt", "a")
    put(folder / "deep" / "er" / "c.md", "c")
    put(folder / "deep" / "d", "d")
    put(folder / ".hidden", "no")
    put(folder / ".git" / "x.txt", "no")
    put(folder / "deep" / ".secret" / "y.txt", "no")
    assert named(folder) == ("texts", "a\nb\nd\nc")


def test_a_folder_below_a_hidden_one_is_read(folder: Path) -> None:
    put(folder / ".cache" / "books" / "a.txt", "a")
    assert read(folder / ".cache" / "books") == "a"


def test_a_link_to_a_file_outside_the_folder_is_read(folder: Path, tmp_path: Path) -> None:
    (folder / "link.txt").symlink_to(put(tmp_path / "elsewhere" / "real.txt", "linked"))
    put(folder / "own.txt", "own")
    assert sorted(read(folder).splitlines()) == ["linked", "own"]


def test_a_glob_reads_what_it_matches_in_order(folder: Path) -> None:
    put(folder / "b.txt", "b")
    put(folder / "a.txt", "a")
    put(folder / "c.md", "c")
    put(folder / "deep" / "d.txt", "d")
    assert read(f"{folder}/*.txt") == "a\nb"
    assert read(f"{folder}/**/*.txt") == "a\nb\nd"


def test_an_empty_file_among_others_counts_as_a_document(folder: Path) -> None:
    put(folder / "a.txt", "a")
    put(folder / "b.txt", "")
    put(folder / "c.txt", "c")
    assert read(folder) == "a\n\nc"


def test_a_relative_path_and_a_home_folder_are_understood(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder / "a.txt", "a")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    assert read("a.txt") == "a"
    assert read("~/a.txt") == "a"
    put(folder / "~" / "a.txt", "of a folder called tilde")
    assert read("~/a.txt") == "of a folder called tilde"


NAMES = [
    "two words.txt",
    "a=b.txt",
    "~tilde~.txt",
    "copy (1).txt",
    "[draft].txt",
    "star*.txt",
    "what?.txt",
    'it\'s "quoted".txt',
    "\u4e2d\u6587.txt",
    "#1.txt",
    "100%.txt",
    "50%20.txt",
    "{a,b}.txt",
    "a,b.txt",
    "no_suffix",
    "notes.gz.txt",
]


@pytest.mark.parametrize("name", [*NAMES, ".hidden.txt", "__init__.py", "a::b.txt"])
def test_a_file_name_means_itself(folder: Path, name: str) -> None:
    put(folder / name, "right")
    put(folder / "stars.txt", "wrong")
    put(folder / "d.txt", "wrong")
    assert named(folder / name) == (name, "right")


def test_all_odd_names_are_read_from_a_folder(folder: Path) -> None:
    for name in NAMES:
        put(folder / "odd = (1) [2]" / name, name)
    assert read(folder / "odd = (1) [2]").split("\n") == sorted(NAMES)


def test_line_ends_become_line_feeds(folder: Path) -> None:
    assert read(put(folder / "a.txt", b"a\r\nb\r\n\r\nc\n")) == "a\nb\n\nc\n"


def test_other_separators_are_characters_like_any_other(folder: Path) -> None:
    content = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g"
    assert read(put(folder / "a.txt", content)) == content


def test_a_byte_order_mark_is_left_out(folder: Path) -> None:
    assert read(put(folder / "a.txt", b"\xef\xbb\xbfhi\n")) == "hi\n"


def test_nul_is_a_character_like_any_other(folder: Path) -> None:
    assert read(put(folder / "a.txt", b"a\0b\0")) == "a\0b\0"


@pytest.mark.parametrize(
    "start", ["BZh is how bzip2 begins", "PK\x03\x04 zip", "Rar!\x1a\x07\x00", "\x04\x22\x4d\x18 lz4"]
)
def test_text_that_begins_like_an_archive_is_read_or_refused_in_one_line(folder: Path, start: str) -> None:
    file = put(folder / "a.txt", start)

    def attempt() -> str | ValueError:
        try:
            return read(file)
        except ValueError as error:
            return error

    said = attempt()
    assert said == start or (
        isinstance(said, ValueError) and len(str(said).splitlines()) == 1 and str(file) in str(said)
    )


def test_a_large_file_is_one_document(folder: Path) -> None:
    content = "0123456789abcde\n" * (3 * CHUNK // 16) + "\u4e2d end"
    assert read(put(folder / "a.txt", content)) == content


@pytest.mark.parametrize(
    ("letters", "end", "offset"),
    [
        (0, b"\xff", 0),
        (3, b"\xffdef", 3),
        (3, b"\xe9 au lait", 3),
        (0, "\u4e2d".encode() + b"\x80", 3),
        (3, b"\xe4\xb8", 3),  # the file ends within a character
        (CHUNK, b"\xff", CHUNK),
        (CHUNK + 5, b"\xff", CHUNK + 5),
        (CHUNK - 1, "\u4e2d".encode() + b"\xff", CHUNK + 2),  # a character lies across the border of two chunks
        (CHUNK - 2, b"\xe4\xb8a", CHUNK - 2),  # a broken one does
        (2 * CHUNK - 1, b"\xe4\xb8", 2 * CHUNK - 1),
    ],
)
def test_what_is_not_utf8_is_refused_with_file_and_offset(folder: Path, letters: int, end: bytes, offset: int) -> None:
    file = put(folder / "bad.txt", b"a" * letters + end)
    with pytest.raises(UnicodeDecodeError) as python:
        file.read_bytes().decode()
    assert python.value.start == offset
    message = refusal(file)
    assert str(file) in message
    assert f"byte {offset})" in message


def test_the_file_that_is_not_utf8_is_named_among_many(folder: Path) -> None:
    put(folder / "a.txt", "fine")
    put(folder / "b.txt", b"\xff\xfe")
    assert str(folder / "b.txt") in refusal(folder)


def test_what_is_missing_is_refused(folder: Path) -> None:
    for path in (folder / "none.txt", f"{folder}/*.txt", folder / "a" / "b"):
        assert str(path) in refusal(path)


def test_a_folder_without_files_is_refused(folder: Path) -> None:
    assert str(folder) in refusal(folder)
    put(folder / ".hidden", "no")
    (folder / "sub").mkdir()
    assert "without files" in refusal(folder)


def test_an_empty_file_is_an_empty_text(folder: Path) -> None:
    assert named(put(folder / "a.txt", "")) == ("a.txt", "")


def test_nothing_is_left_in_the_temporary_folder(folder: Path, scratch: Path) -> None:
    assert read(put(folder / "a.txt", "a")) == "a"
    assert list(scratch.iterdir()) == []
    assert [f.name for f in folder.iterdir()] == ["a.txt"], "nor beside the text"


def test_nothing_is_left_in_the_caches_of_datasets(folder: Path) -> None:
    from datasets import config

    caches = [Path(config.HF_DATASETS_CACHE), Path(config.HF_MODULES_CACHE)]
    before = {file for cache in caches for file in cache.rglob("*")}
    assert read(put(folder / "a.txt", "a")) == "a"
    assert {file for cache in caches for file in cache.rglob("*")} == before


def test_nothing_is_left_when_reading_fails(folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        assert list(scratch.iterdir()), "links are made in the temporary folder"
        raise OSError("no space left")

    monkeypatch.setattr(PlainFiles, "_generate_tables", fail)
    with pytest.raises(OSError, match="no space left"):
        read(put(folder / "a.txt", "a"))
    assert list(scratch.iterdir()) == []


@pytest.fixture
def bars() -> Iterator[None]:
    """Leave the progress bars of `datasets` as they were."""
    import datasets

    before = datasets.utils.is_progress_bar_enabled()
    yield
    (datasets.enable_progress_bars if before else datasets.disable_progress_bars)()


@pytest.mark.usefixtures("bars")
def test_progress_bars_are_as_they_were(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import datasets

    file = str(put(folder / "a.txt", "a"))
    datasets.enable_progress_bars()
    capfd.readouterr()
    read(file)
    assert capfd.readouterr() == ("", ""), "reading says nothing"
    assert datasets.utils.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    read(file)
    assert not datasets.utils.is_progress_bar_enabled()

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    datasets.enable_progress_bars()
    monkeypatch.setattr(PlainFiles, "_generate_tables", fail)
    with pytest.raises(OSError, match="no space left"):
        read(file)
    assert datasets.utils.is_progress_bar_enabled()


def test_a_text_read_again_after_a_change_is_the_new_one(folder: Path) -> None:
    file = put(folder / "a.txt", "old")
    assert read(file) == "old"
    put(file, "new")
    assert read(file) == "new"


def test_found_files_are_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder / "a.txt", "a")
    monkeypatch.chdir(folder)
    for path in ("a.txt", ".", "*.txt"):
        assert find_files(path) == [folder.resolve() / "a.txt"]


# --- what is asked of a source


@pytest.mark.parametrize(
    ("source", "label"),
    [
        (Source("python_docs"), "data=python_docs"),
        (Source("text", "my books"), "data.path=my books"),
        (Source("hub", hub=HubData("a/b", None, None, None, "text", "")), "data.hub.name=a/b"),
    ],
    ids=str,
)
def test_a_source_is_called_as_it_was_asked_for(source: Source, label: str) -> None:
    assert source.label == label


@pytest.mark.parametrize("most", [1, 5, 12, 100])
def test_max_chars_takes_the_start_of_a_text(folder: Path, most: int) -> None:
    file = put(folder / "a.txt", "one\ntwo\nthree")
    text = open_text(Source("text", str(file), max_chars=most))
    assert (text.name, text.read()) == ("a.txt", "one\ntwo\nthree"[:most])


def test_max_chars_takes_the_start_of_the_embedded_text() -> None:
    assert open_text(Source("python_docs", max_chars=1234)).read() == python_docs().read()[:1234]


def test_a_text_that_is_read_in_part_leaves_nothing(folder: Path, scratch: Path) -> None:
    put(folder / "a.txt", "line\n" * CHUNK)
    text = open_text(Source("text", str(folder), max_chars=7))
    assert text.read() == "line\nli"
    assert list(scratch.iterdir()) == []


def test_the_licence_is_the_one_that_was_given(folder: Path) -> None:
    file = str(put(folder / "a.txt", "a"))
    assert open_text(Source("text", file)).licence is None
    assert open_text(Source("text", file, licence="mine")).licence == "mine"


def test_the_text_must_be_the_one_that_was_promised(folder: Path) -> None:
    file = str(put(folder / "a.txt", "right"))
    found = survey(text_files(file))
    right = hashlib.sha256(b"right").hexdigest()
    Source("text", file, sha256=right).check(found)
    Source("text", file, sha256=None).check(found)
    with pytest.raises(ValueError, match=right) as caught:
        Source("text", file, sha256="0" * 64).check(found)
    assert len(str(caught.value).splitlines()) == 1
    assert "0" * 64 in str(caught.value)
    assert file in str(caught.value)


def test_a_stamp_changes_with_the_files(folder: Path) -> None:
    source = Source("text", str(folder))
    file = put(folder / "a.txt", "a")
    stamps = [source.stamp()]
    assert source.stamp() == stamps[0]
    put(folder / "b.txt", "b")
    stamps.append(source.stamp())
    put(file, "longer")
    stamps.append(source.stamp())
    os.utime(file, ns=(0, 12345))
    stamps.append(source.stamp())
    assert len(set(stamps)) == 4
    assert Source("python_docs").stamp() == ()


def test_python_code_is_the_standard_librarys_own() -> None:
    text = open_text(Source("python_code", max_chars=60_000)).read()
    assert len(text) == 60_000
    assert "from __future__" in text
    assert "def " in text
    assert text == open_text(Source("python_code", max_chars=60_000)).read()


def test_python_code_without_modules_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(ValueError, match="holds no modules as source"):
        open_text(Source("python_code"))


def test_a_module_that_is_not_utf8_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_bytes(b"x = '\xff'\n")
    (tmp_path / "_sysconfigdata_here.py").write_text("built = 1\n")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert open_text(Source("python_code")).read() == "x = 1\n"
