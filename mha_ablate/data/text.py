"""A text as everything downstream reads it: in parts, piece by piece, so that its size costs no memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PIECE = 1 << 18  # characters that are looked at in one go
Watch = Callable[[str, int, int | None], None]  # (what happens, characters done, characters in all if that is known)


def unwatched(what: str, done: int, total: int | None) -> None:
    """Nobody looks on."""


@dataclass(frozen=True)
class Text:
    """A text: what it is called, and its parts in order. A part can be read again and again.

    A text with splits of its own has them as parts: the first trains, the second validates, the others are held out.
    """

    name: str
    parts: tuple[Callable[[], Iterator[str]], ...]
    licence: str | None = None
    revision: str | None = None

    def read(self) -> str:
        """All of it in one string: for texts that are known to be small."""
        return "".join(piece for part in self.parts for piece in part())


@dataclass(frozen=True)
class Survey:
    """What one reading of a text tells: SHA-256 of the whole as UTF-8, characters per part, bytes, distinct characters."""

    sha256: str
    parts: tuple[int, ...]
    bytes: int
    alphabet: str

    @property
    def characters(self) -> int:
        """Length of the whole text."""
        return sum(self.parts)


def survey(text: Text, watch: Watch = unwatched) -> Survey:
    """Read a text once from end to end."""
    digest, size, alphabet, parts = hashlib.sha256(), 0, set[str](), []
    for part in text.parts:
        length = 0
        for piece in part():
            raw = piece.encode()
            digest.update(raw)
            size += len(raw)
            length += len(piece)
            alphabet.update(piece)
            watch(f"reading {text.name}", sum(parts) + length, None)
        parts.append(length)
    return Survey(digest.hexdigest(), tuple(parts), size, "".join(sorted(alphabet)))


def limited(text: Text, max_chars: int | None) -> Text:
    """The first `max_chars` characters of the text, and a tenth as many of each further part."""
    if max_chars is None:
        return text

    def cut(part: Callable[[], Iterator[str]], limit: int) -> Callable[[], Iterator[str]]:
        return lambda: first_characters(part(), limit)

    limits = limits_of_parts(max_chars, len(text.parts))
    parts = tuple(cut(part, limit) for part, limit in zip(text.parts, limits, strict=True))
    return Text(text.name, parts, text.licence, text.revision)


def limits_of_parts(max_chars: int, parts: int) -> list[int]:
    """How many characters each part may have."""
    return [max_chars, *[max(1, max_chars // 10)] * (parts - 1)]


def first_characters(pieces: Iterator[str], limit: int) -> Iterator[str]:
    """Pieces until `limit` characters have come; the source is not asked for more than that takes."""
    for piece in pieces:
        yield piece[:limit]
        limit -= len(piece)
        if limit <= 0:
            return


def split_pieces(text: Text, survey: Survey, split: str) -> Iterator[tuple[int, str]]:
    """The text in order as (0 = training or 1 = validation, piece).

    `own`: the text's own parts. `tail`: the last tenth validates, as nanoGPT's data script cuts. `blocks`: every 10th block
    of 4,096 characters validates, so that both splits have the same mix of subjects; a text of fewer than 10 blocks is
    cut into blocks of a tenth of its length.
    """
    if split == "own":
        for which, part in enumerate(text.parts[:2]):
            yield from ((which, piece) for piece in part())
        return
    runs = _runs(survey.characters, split)
    which, left = next(runs)
    for part in text.parts:
        for piece in part():
            start = 0
            while start < len(piece):
                if left == 0:
                    which, left = next(runs)
                taken = piece[start : start + left]
                yield which, taken
                start, left = start + len(taken), left - len(taken)


BLOCK, EVERY = 4096, 10


def _runs(total: int, split: str) -> Iterator[tuple[int, int]]:
    """(0 or 1, how many characters) from the start of the text to its end or beyond."""
    if split == "tail":
        cut = int(total * 0.9)
        yield 0, cut
        yield 1, total - cut
        return
    size = BLOCK if total >= BLOCK * EVERY else max(1, total // EVERY)
    while True:
        yield 0, (EVERY - 1) * size
        yield 1, size
