"""A fact about this machine and its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

State = Literal["ok", "note", "problem"]


class Answer(NamedTuple):
    """What was found: a value, whether that is fine, why, and what to do where it is not.

    A problem stops `compare`; a note is worth knowing and stops nothing.
    """

    value: str
    state: State = "ok"
    why: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Fact:
    """An answer under the name of its question."""

    group: str
    key: str
    value: str
    state: State
    why: str
    fix: str


def in_words(error: BaseException) -> str:
    """An exception as one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def size(count: float) -> str:
    """Bytes for people: `512 B`, `3.4 MiB`, `15.6 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
