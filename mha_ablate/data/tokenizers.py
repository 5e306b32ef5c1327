"""Text to token ids and back."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import tokenizers

Tokens = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]
BYTES = 256  # the smallest BPE vocabulary: every byte, so that no text is unknown


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

    @property
    def state(self) -> dict[str, str]:
        """What restores it, as JSON."""
        return {"kind": "char", "characters": self.characters}

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

    def bytes_of(self, token: int) -> bytes:
        """The UTF-8 of one token."""
        return self.characters[token].encode()


@dataclass(frozen=True)
class ByteTokenizer:
    """One token a byte of UTF-8."""

    @property
    def vocab_size(self) -> int:
        """Always 256."""
        return BYTES

    @property
    def state(self) -> dict[str, str]:
        """What restores it, as JSON."""
        return {"kind": "byte"}

    def encode(self, text: str) -> Tokens:
        """Ids of a text, `[bytes]`."""
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def decode(self, ids: Tokens) -> str:
        """The text of ids; bytes that are no UTF-8 become the replacement character."""
        return np.asarray(ids, dtype=np.uint8).tobytes().decode(errors="replace")

    def bytes_of(self, token: int) -> bytes:
        """The token itself."""
        return bytes([token])


@dataclass(frozen=True)
class BpeTokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; bytes as in GPT-2) by the `tokenizers` library.

    `definition` is that library's own JSON: `tokenizers.Tokenizer.from_str` reads it.
    """

    definition: str

    @classmethod
    def trained_on(cls, text: Iterator[str], vocab_size: int) -> BpeTokenizer:
        """Learn merges until there are `vocab_size` tokens, or none is left to learn. The same text gives the same tokenizer."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[],
            show_progress=False,
        )
        library = Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # pyright: ignore
        library.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        library.train_from_iterator(text, trainer)
        return cls(library.to_str())

    @cached_property
    def library(self) -> tokenizers.Tokenizer:
        """The tokenizer itself."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.definition)

    @property
    def vocab_size(self) -> int:
        """Number of distinct ids."""
        return self.library.get_vocab_size()

    @property
    def state(self) -> dict[str, str]:
        """What restores it, as JSON."""
        return {"kind": "bpe", "definition": self.definition}

    def encode(self, text: str) -> Tokens:
        """Ids of a text. Long text is cut where no token could reach across, and its pieces are encoded in parallel."""
        pieces = list(cut_between_words([text], 1 << 15))
        ids = [found.ids for found in self.library.encode_batch_fast(pieces)]
        return np.fromiter((i for piece in ids for i in piece), smallest_dtype(self.vocab_size))

    def decode(self, ids: Tokens) -> str:
        """The text of ids; bytes that are no UTF-8 become the replacement character."""
        return self.library.decode([int(i) for i in ids])

    def bytes_of(self, token: int) -> bytes:
        """The bytes that one token stands for, which need not be whole characters."""
        known = byte_level_alphabet()
        return bytes(known[c] for c in self.library.id_to_token(token) or "")


Tokenizer = CharTokenizer | ByteTokenizer | BpeTokenizer


@cache
def byte_level_alphabet() -> dict[str, int]:
    """How GPT-2 spells bytes as visible characters: printable ones as themselves, the others from U+0100 on."""
    themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(BYTES) if b not in themselves]
    return {chr(b): b for b in themselves} | {chr(BYTES + i): b for i, b in enumerate(others)}


def as_it_comes(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of ids, a piece a token, empty while a character is not whole; all of it together is what `decode` gives."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        yield decoder.decode(tokenizer.bytes_of(token))
    yield decoder.decode(b"", final=True)


def tokenizer_from(state: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `state` describes. Raises KeyError or ValueError for what is none."""
    if state["kind"] == "char":
        return CharTokenizer(state["characters"])
    if state["kind"] == "bpe":
        return BpeTokenizer(state["definition"])
    return ByteTokenizer()


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """SHA-256 of what restores it."""
    return hashlib.sha256(json.dumps(tokenizer.state, sort_keys=True).encode()).hexdigest()


def cut_between_words(pieces: Iterator[str] | list[str], size: int) -> Iterator[str]:
    """The same text in pieces of about `size` characters, each cut before white space that follows a visible character.

    GPT-2's pre-tokenizer never joins across such a place, so the pieces encode to what the whole would. Text without any
    (2 x `size` characters) is cut where it is.
    """
    held = ""
    for piece in pieces:
        held += piece
        while len(held) > size:
            cut = _gap_near(held, size) or (size if len(held) >= 2 * size else 0)
            if not cut:
                break
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


# White space as Unicode, and so GPT-2's pre-tokenizer, has it: Python's \s holds four separators more.
GAP = re.compile(r"(?:\S|[\x1c-\x1f])(?=(?![\x1c-\x1f])\s)")


def _gap_near(text: str, start: int) -> int:
    """The first place at or after `start` where white space follows a visible character, or else the last one before; 0 if none."""
    if after := GAP.search(text, max(0, start - 1)):
        return after.end()
    return max((found.end() for found in GAP.finditer(text, 0, start)), default=0)


def evenly(text: Iterator[str], share: float, piece: int = 1 << 16) -> Iterator[str]:
    """About `share` of a text, in pieces spread evenly over it; all of it where `share` is 1 or more."""
    position, due = 0, 0.0
    for chunk in cut_between_words(text, piece):
        if position >= due:
            yield chunk
            due += len(chunk) / min(1.0, share)
        position += len(chunk)
