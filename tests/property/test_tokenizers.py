"""Text to ids and back, for any text."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mha_ablate.config.catalog import choice_names
from mha_ablate.data.sources import python_docs
from mha_ablate.data.tokenizers import (
    BpeTokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    code_points,
    cut_between_words,
    evenly,
    smallest_dtype,
    tokenizer_from,
    tokenizer_sha256,
)

KINDS = ("char", "byte", "bpe")
SNIPPETS = [
    *("the cat", " sat on", " the mat's", "don't", " 1234", "!?", "...", "a", "x_y", "\u00e9", "e\u0301"),
    *(
        " ",
        "  ",
        "\n",
        "\n\n\n",
        "\r\n",
        "\r",
        "\t",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x1f",
        "\x85",
        "\xa0",
        "\u2028",
        "\u3000",
        "\0",
    ),
    *(
        "\u4e2d\u6587\u5b57",
        "\u4eca\u5929\uff0c",
        "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
        "\u0645\u064e\u0631\u0652",
        "\u200f",
        "\u200d",
    ),
    *(
        "\U0001f40d",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f1e9\U0001f1ea",
        "\ufeff",
        "\ufffd",
        "\U0010ffff",
    ),
]
anything = st.text(st.characters(exclude_categories=["Cs"]))  # any text but lone surrogates, which no UTF-8 file holds
texts = st.one_of(anything, st.lists(st.sampled_from(SNIPPETS)).map("".join))
kinds = st.sampled_from(KINDS)


def made(kind: str, text: str) -> Tokenizer:
    """A tokenizer of a kind, learnt from `text`."""
    if kind == "char":
        return CharTokenizer.of(text)
    return ByteTokenizer() if kind == "byte" else BpeTokenizer.trained_on(iter([text]), 300)


GAP = re.compile(r"(?<=[\S\x1c-\x1f])[^\S\x1c-\x1f]")  # white space as Unicode has it, after what is none
LEARNT = BpeTokenizer.trained_on(iter([*SNIPPETS, *SNIPPETS, " the cat sat" * 9, "!\x1c" * 9, "\u4e2d\u6587" * 9]), 420)


def test_every_tokenizer_is_tested_here() -> None:
    assert set(choice_names("tokenizer")) == set(KINDS)


@given(texts, kinds)
def test_decoding_gives_back_what_was_encoded(text: str, kind: str) -> None:
    tokenizer = made(kind, text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(texts)
def test_a_character_vocabulary_is_sorted_and_complete(text: str) -> None:
    tokenizer = CharTokenizer.of(text)
    assert list(tokenizer.characters) == sorted(set(text))
    assert tokenizer.vocab_size == len(set(text))


@given(texts)
def test_character_ids_are_places_in_the_vocabulary(text: str) -> None:
    tokenizer = CharTokenizer.of(text)
    assert tokenizer.encode(text).tolist() == [tokenizer.characters.index(c) for c in text]


@given(texts)
def test_byte_ids_are_the_bytes_of_utf8(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(text).tolist() == list(text.encode())
    assert tokenizer.vocab_size == 256


@given(texts, texts)
def test_part_of_the_text_is_encoded_alike(head: str, tail: str) -> None:
    tokenizer = CharTokenizer.of(head + tail)
    assert [*tokenizer.encode(head), *tokenizer.encode(tail)] == tokenizer.encode(head + tail).tolist()


@given(texts, st.characters(exclude_categories=["Cs"]))
def test_an_unknown_character_is_refused_by_name(text: str, stranger: str) -> None:
    tokenizer = CharTokenizer.of(text.replace(stranger, ""))
    with pytest.raises(ValueError, match="not in the vocabulary") as caught:
        tokenizer.encode(text + stranger)
    assert repr(stranger) in str(caught.value)


@given(st.integers(1, 2**20))
def test_the_dtype_is_the_narrowest_that_holds_every_id(vocab_size: int) -> None:
    chosen = np.dtype(smallest_dtype(vocab_size))
    fitting = [t for t in (np.uint8, np.uint16, np.uint32) if np.iinfo(t).max >= vocab_size - 1]
    assert chosen == np.dtype(fitting[0])


@pytest.mark.parametrize(
    ("size", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)]
)
def test_ids_take_the_narrowest_dtype(size: int, dtype: type[np.unsignedinteger]) -> None:
    text = "".join(chr(c + 0x10000) for c in range(size))
    tokenizer = CharTokenizer.of(text)
    ids = tokenizer.encode(text)
    assert ids.dtype == dtype
    assert ids.tolist() == list(range(size))


def test_bytes_take_one_byte_each() -> None:
    assert ByteTokenizer().encode("\u4e2d").dtype == np.uint8


@given(texts, kinds)
def test_a_tokenizer_comes_back_from_json(text: str, kind: str) -> None:
    tokenizer = made(kind, text)
    again = tokenizer_from(json.loads(json.dumps(tokenizer.state)))
    assert again == tokenizer
    assert tokenizer_sha256(again) == tokenizer_sha256(tokenizer)
    assert again.vocab_size == tokenizer.vocab_size
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()


@given(st.lists(st.integers(0, 255)))
def test_any_bytes_can_be_shown(ids: list[int]) -> None:
    shown = ByteTokenizer().decode(np.array(ids, dtype=np.uint8))
    assert shown == bytes(ids).decode(errors="replace")


@given(texts)
def test_code_points_are_one_number_a_character(text: str) -> None:
    assert code_points(text).tolist() == [ord(c) for c in text]


# --- byte pairs


@given(texts, texts)
def test_byte_pairs_hold_any_text_and_not_only_their_own(own: str, other: str) -> None:
    tokenizer = made("bpe", own)
    ids = tokenizer.encode(other)
    assert tokenizer.decode(ids) == other
    assert len(ids) <= len(other.encode())
    assert all(ids < tokenizer.vocab_size)


@given(texts)
def test_byte_pairs_are_those_of_the_library(text: str) -> None:
    assert LEARNT.encode(text).tolist() == LEARNT.library.encode(text).ids


def test_byte_pairs_are_learnt_up_to_the_vocabulary_asked_for() -> None:
    text = python_docs().read()[:50_000]
    assert BpeTokenizer.trained_on(iter([text]), 400).vocab_size == 400
    assert BpeTokenizer.trained_on(iter([text]), 256).vocab_size == 256
    few = BpeTokenizer.trained_on(iter(["abab abab"]), 1024)
    assert 256 < few.vocab_size < 270, "there are no more merges to learn"


def test_the_narrowest_dtype_holds_byte_pairs() -> None:
    text = python_docs().read()[:20_000]
    assert BpeTokenizer.trained_on(iter([text]), 256).encode(text).dtype == np.uint8
    assert BpeTokenizer.trained_on(iter([text]), 257).encode(text).dtype == np.uint16


def test_a_long_text_encodes_as_a_whole() -> None:
    text = python_docs().read()[:150_000]
    tokenizer = BpeTokenizer.trained_on(iter([text[:50_000]]), 500)
    assert tokenizer.encode(text).tolist() == tokenizer.library.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text
    unbroken = "\u4e2d\u6587\u5b57" * 60_000
    assert tokenizer.decode(tokenizer.encode(unbroken)) == unbroken


TRAIN = """
from mha_ablate.data.sources import python_docs
from mha_ablate.data.tokenizers import BpeTokenizer, tokenizer_sha256
print(tokenizer_sha256(BpeTokenizer.trained_on(iter([python_docs().read()[:60_000]]), 700)))
"""


def test_the_same_text_gives_the_same_byte_pairs_in_any_process() -> None:
    text = python_docs().read()[:60_000]
    here = {tokenizer_sha256(BpeTokenizer.trained_on(iter([text]), 700)) for _ in range(3)}
    for threads in ("1", "2"):
        env = {**os.environ, "RAYON_NUM_THREADS": threads}
        there = subprocess.run([sys.executable, "-c", TRAIN], env=env, capture_output=True, text=True, check=True)
        here.add(there.stdout.strip())
    assert len(here) == 1


# --- cut between words


@given(st.lists(texts), st.integers(1, 40))
@example(["a" * 400], 10)
@example(["ab! ", "\x1c cd"], 2)
def test_cutting_loses_nothing(pieces: list[str], size: int) -> None:
    whole = "".join(pieces)
    cut = list(cut_between_words(pieces, size))
    assert "".join(cut) == whole
    assert all(cut)


@given(st.lists(texts), st.integers(1, 40))
@example(["!\x1c" * 9], 8)
@example(["\u4e2d \u6587\u3000" * 9], 3)
def test_pieces_encode_to_what_the_whole_does(pieces: list[str], size: int) -> None:
    whole = "".join(pieces)
    cut = list(cut_between_words(pieces, size))
    places = list(itertools.accumulate(map(len, cut[:-1])))
    within_words = [at for at in places if not GAP.match(whole, at)]
    assert not [at for at in within_words if GAP.search(whole, at - size + 1, at + size)], "there was a gap near"
    if within_words:
        return
    ids = [i for piece in cut for i in LEARNT.library.encode(piece).ids]
    assert ids == LEARNT.library.encode(whole).ids


@given(st.lists(st.text("ab\u4e2d", min_size=1, max_size=5)), st.integers(1, 40))
def test_pieces_are_about_as_long_as_asked(words: list[str], size: int) -> None:
    assert all(len(piece) <= size + 6 for piece in cut_between_words([" ".join(words)], size))


@given(st.integers(0, 400), st.integers(1, 40))
def test_text_without_white_space_is_cut_where_it_is(length: int, size: int) -> None:
    *cut, last = [*cut_between_words(["\u4e2d" * length], size)] or [""]
    assert all(len(piece) == size for piece in cut)
    assert len(last) < 2 * size


# --- a sample spread over a text


@given(st.lists(texts), st.integers(1, 50))
def test_a_short_text_is_taken_whole(pieces: list[str], piece: int) -> None:
    whole = "".join(pieces)
    assert "".join(evenly(iter(pieces), 1.0, piece)) == whole
    assert "".join(evenly(iter(pieces), 7.5, piece)) == whole


@pytest.mark.parametrize("wanted", [500, 1000, 3000, 7000])
def test_a_long_text_is_sampled_from_start_to_end(wanted: int) -> None:
    words = [f"w{i}" for i in range(2000)]
    whole = " ".join(words)
    sample = list(evenly(iter([whole]), wanted / len(whole), piece=50))
    assert wanted - 100 <= sum(map(len, sample)) <= wanted + 200
    places = [whole.index(chunk) for chunk in sample]
    assert places == sorted(places)
    assert places[0] == 0
    for tenth in range(10):
        assert any(tenth <= 10 * place / len(whole) < tenth + 1 for place in places)
