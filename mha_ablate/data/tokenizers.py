"""Text to token ids and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]


def code_points(text: str) -> NDArray[np.uint32]:
    """The Unicode code points of a text, `[characters]`."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def smallest_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The narrowest unsigned type that holds every id."""
    return np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.uint32


@dataclass(frozen=True)
class CharTokenizer:
    """One token a character. The vocabulary is the sorted set of characters in the whole text, as nanoGPT's."""

    characters: str

    @classmethod
    def of(cls, text: str) -> CharTokenizer:
        """The tokenizer whose vocabulary is the characters of `text`."""
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        """Number of distinct ids."""
        return len(self.characters)

    def encode(self, text: str) -> Tokens:
        """Ids of a text, `[characters]`. Raises ValueError for a character outside the vocabulary."""
        known, wanted = code_points(self.characters), code_points(text)
        ids = np.searchsorted(known, wanted)
        ids[ids == len(known)] = 0
        strange = known[ids] != wanted if len(known) else np.ones(len(wanted), dtype=bool)
        if strange.any():
            raise ValueError(f"character {chr(int(wanted[strange.argmax()]))!r} is not in the vocabulary")
        return ids.astype(smallest_dtype(self.vocab_size))

    def decode(self, ids: Tokens) -> str:
        """The text of ids."""
        return "".join(self.characters[i] for i in ids)


@dataclass(frozen=True)
class ByteTokenizer:
    """One token a byte of UTF-8."""

    @property
    def vocab_size(self) -> int:
        """Always 256."""
        return 256

    def encode(self, text: str) -> Tokens:
        """Ids of a text, `[bytes]`."""
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def decode(self, ids: Tokens) -> str:
        """The text of ids; bytes that are no UTF-8 become the replacement character."""
        return np.asarray(ids, dtype=np.uint8).tobytes().decode(errors="replace")


Tokenizer = CharTokenizer | ByteTokenizer


def build_tokenizer(kind: str, text: str) -> Tokenizer:
    """The tokenizer of a kind for a text."""
    return CharTokenizer.of(text) if kind == "char" else ByteTokenizer()


def tokenizer_state(tokenizer: Tokenizer) -> dict[str, str]:
    """What restores a tokenizer, as JSON."""
    if isinstance(tokenizer, CharTokenizer):
        return {"kind": "char", "characters": tokenizer.characters}
    return {"kind": "byte"}


def tokenizer_from(state: dict[str, str]) -> Tokenizer:
    """The tokenizer that `tokenizer_state` described."""
    return CharTokenizer(state["characters"]) if state["kind"] == "char" else ByteTokenizer()
