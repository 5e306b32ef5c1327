"""Where text comes from: Python's own documentation and code, local files, the Hub. Splitting and tokenising happen elsewhere."""

from __future__ import annotations

import contextlib
import glob
import re
import sysconfig
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mha_ablate.data.hub import HubData, hub_text
from mha_ablate.data.text import Survey, Text, Watch, limited, unwatched

TYPOGRAPHY = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: "-", 0x2026: "...", 0xA0: " "}


@dataclass(frozen=True)
class Source:
    """Where a text is to be had, and how much of it."""

    kind: str  # python_docs | python_code | text | hub
    path: str | None = None
    hub: HubData | None = None
    max_chars: int | None = None
    sha256: str | None = None
    licence: str | None = None

    @property
    def label(self) -> str:
        """What the user wrote to get it."""
        if self.hub is not None:
            return f"data.hub.name={self.hub.name}"
        return f"data.path={self.path}" if self.path else f"data={self.kind}"

    def stamp(self) -> tuple[Any, ...]:
        """What changes when local files do, also where somebody sets their time back."""
        if self.kind != "text":
            return ()
        files = [(file, file.stat()) for file in find_files(self.path or "")]
        return tuple(
            (str(file), found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size) for file, found in files
        )

    def check(self, found: Survey) -> None:
        """Raise ValueError where the text is not the one that data.sha256 promises."""
        if self.sha256 and found.sha256 != self.sha256.lower():
            raise ValueError(
                f"{self.label}: the text has sha256 {found.sha256}, not data.sha256={self.sha256}: it is another text; "
                "data.sha256=null takes it as it is"
            )


def open_text(source: Source, watch: Watch = unwatched) -> Text:
    """The text of a source. Raises ValueError, in one line, for what cannot be had."""
    if source.hub is not None:
        return hub_text(source.hub, source.max_chars, source.licence, watch)
    embedded = {"python_docs": python_docs, "python_code": python_code}.get(source.kind)
    text = embedded() if embedded else text_files(source.path or "")
    return limited(replace(text, licence=source.licence), source.max_chars)


def python_docs() -> Text:
    """The Python language reference that every CPython carries (`pydoc_data.topics`), each paragraph once.

    Topics include each other (a fifth of the text is repeated), so paragraphs that differ at most in white space are kept once;
    typographic quotes and dashes become ASCII. About 373,000 characters; the text differs between Python versions.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:  # Debian's python3-minimal leaves it out
        raise ValueError(
            "data=python_docs: this Python lacks pydoc_data (install the full python3, or use data=text data.path=FILE)"
        ) from error
    seen: set[str] = set()
    kept: list[str] = []
    for topic in sorted(topics):
        plain = unicodedata.normalize("NFC", topics[topic]).translate(TYPOGRAPHY)
        for paragraph in re.split(r"\n[ \t]*\n", plain):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                kept.append(paragraph.rstrip())
    content = "\n\n".join(kept)
    return Text("python_docs", (lambda: iter([content]),))


def python_code() -> Text:
    """The modules of Python's standard library, as source: those that lie in its folder, by name, whose code is UTF-8.

    About 4.7 million characters; the text differs between Python versions. Raises ValueError where they are not there as source.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    # What is made when Python itself is built differs between machines of one version.
    files = [file for file in sorted(folder.glob("*.py")) if not file.name.startswith("_sysconfigdata")]
    if not files:
        raise ValueError(
            f"data=python_code: {folder} holds no modules as source (install the full python3, or use data=text data.path=FILE)"
        )

    def pieces() -> Iterator[str]:
        for file in files:
            with contextlib.suppress(UnicodeDecodeError, OSError):
                yield unicodedata.normalize("NFC", file.read_text(encoding="utf-8"))

    return Text("python_code", (pieces,))


def text_files(path: str) -> Text:
    """UTF-8 text from a file, every file below a folder, or a glob, streamed by `datasets`; files joined by a line break.

    Line ends become `\\n`; a byte order mark at the start of a file is left out. Raises ValueError where
    nothing is found or a file is not UTF-8.
    """
    files = find_files(path)
    for file in files:
        _check_utf8(file)

    def part() -> Iterator[str]:
        from mha_ablate.data.plain_files import pieces

        return pieces(files)

    return Text(Path(path).name or path, (part,))


def find_files(path: str) -> list[Path]:
    """The files that `path` names, sorted: itself, those below it (hidden ones left out), or those a glob matches."""
    place = Path(path)
    if not place.exists():
        place = place.expanduser()
    if place.is_file():
        return [place.resolve()]
    if place.is_dir():
        below = [p for p in place.rglob("*") if p.is_file()]
        shown = [p for p in below if not any(part.startswith(".") for part in p.relative_to(place).parts)]
        if not shown:
            raise ValueError(f"data.path={path} is a folder without files")
        return sorted(p.resolve() for p in shown)
    matches = sorted(Path(p).resolve() for p in glob.glob(str(place), recursive=True) if Path(p).is_file())  # noqa: PTH207
    if not matches:
        raise ValueError(
            f"data.path={path}: no such file, folder or match (looked in {Path.cwd()}); give the path of a UTF-8 text"
        )
    return matches


def _check_utf8(file: Path) -> None:
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")()
    done = held = 0
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                held = len(decoder.getstate()[0])  # the start of a character that the chunk before cut in two
                decoder.decode(chunk)
                done += len(chunk)
            held = len(decoder.getstate()[0])
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data.path: {file} is not UTF-8 (byte {done - held + error.start}); convert it, for example with iconv, or leave it "
            "out with a glob"
        ) from error
    except OSError as error:
        raise ValueError(f"data.path: {file} cannot be read: {error.strerror}") from error
