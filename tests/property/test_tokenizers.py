"""Text to ids and back, for any text."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mha_ablate.data.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    build_tokenizer,
    code_points,
    smallest_dtype,
    tokenizer_from,
    tokenizer_state,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))  # any text but lone surrogates, which no UTF-8 file holds
kinds = st.sampled_from(["char", "byte"])


@given(texts, kinds)
def test_decoding_gives_back_what_was_encoded(text: str, kind: str) -> None:
    tokenizer = build_tokenizer(kind, text)
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
    tokenizer = build_tokenizer(kind, text)
    assert tokenizer_from(json.loads(json.dumps(tokenizer_state(tokenizer)))) == tokenizer


@given(st.lists(st.integers(0, 255)))
def test_any_bytes_can_be_shown(ids: list[int]) -> None:
    shown = ByteTokenizer().decode(np.array(ids, dtype=np.uint8))
    assert shown == bytes(ids).decode(errors="replace")


@given(texts)
def test_code_points_are_one_number_a_character(text: str) -> None:
    assert code_points(text).tolist() == [ord(c) for c in text]
