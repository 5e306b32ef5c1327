"""A text as a stream: surveyed, limited and split as the same text in one string would be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mha_ablate.data.text import BLOCK, EVERY, Text, first_characters, limited, limits_of_parts, split_pieces, survey

characters = st.characters(exclude_categories=["Cs"])
Parts = list[list[str]]  # of each part its pieces


def text_of(parts: Parts) -> Text:
    return Text("t", tuple((lambda pieces=pieces: iter(pieces)) for pieces in parts), "a licence", "a revision")


def joined(parts: Parts) -> list[str]:
    return ["".join(pieces) for pieces in parts]


@st.composite
def long_texts(draw: st.DrawFn) -> Parts:
    """Texts of up to 25 blocks, in one to three parts, in pieces of any length; every character can be told apart."""
    edges = st.sampled_from([0, 1, 9, 10, 11, BLOCK - 1, BLOCK * EVERY - 1, BLOCK * EVERY, BLOCK * EVERY + 1])
    total = draw(st.one_of(edges, st.integers(0, 25 * BLOCK), st.integers(0, 200)))
    whole = "".join(map(chr, range(0x10000, 0x10000 + total)))
    cuts = draw(st.lists(st.tuples(st.integers(0, total), st.booleans()), max_size=8))
    parts: Parts = [[]]
    start = 0
    for cut, new_part in sorted(cuts):
        parts[-1].append(whole[start:cut])
        start = cut
        if new_part and len(parts) < 3:
            parts.append([])
    parts[-1].append(whole[start:])
    return parts


def by_definition(parts: Parts, split: str) -> tuple[str, str]:
    """Training and validation, of strings."""
    if split == "own":
        one, two, *_ = [*joined(parts), ""]
        return one, two
    whole = "".join(joined(parts))
    if split == "tail":
        cut = int(len(whole) * 0.9)
        return whole[:cut], whole[cut:]
    size = 4096 if len(whole) >= 40_960 else max(1, len(whole) // 10)
    blocks = [whole[i : i + size] for i in range(0, len(whole), size)]
    validation = blocks[9::10]
    return "".join(b for i, b in enumerate(blocks) if i % 10 != 9), "".join(validation)


def as_streamed(parts: Parts, split: str) -> tuple[str, str]:
    text = text_of(parts)
    pieces = list(split_pieces(text, survey(text), split))
    assert {which for which, _ in pieces} <= {0, 1}, "a third part belongs to neither"
    train, val = ("".join(piece for which, piece in pieces if which == wanted) for wanted in (0, 1))
    return train, val


@given(long_texts(), st.sampled_from(["own", "tail", "blocks"]))
def test_a_streamed_split_is_the_split_of_the_whole(parts: Parts, split: str) -> None:
    assert as_streamed(parts, split) == by_definition(parts, split)


def test_the_third_part_is_held_out_of_an_own_split() -> None:
    assert as_streamed([["a", "b"], ["c"], ["d"]], "own") == ("ab", "c")
    assert as_streamed([["a", "b"], ["c"], ["d"]], "tail") == ("abc", "d")


def test_tail_by_example() -> None:
    assert as_streamed([["0123", "456789"]], "tail") == ("012345678", "9")


def test_blocks_give_every_tenth_block_to_validation() -> None:
    blocks = [chr(ord("A") + i) * BLOCK for i in range(23)]
    train, val = as_streamed([["".join(blocks) + "!?"]], "blocks")
    assert val == blocks[9] + blocks[19]
    assert train == "".join(b for i, b in enumerate(blocks) if i not in (9, 19)) + "!?"
    assert (BLOCK, EVERY) == (4096, 10)


def test_a_short_text_is_cut_into_ten() -> None:
    text = "".join(chr(ord("a") + i) * 7 for i in range(10))
    assert as_streamed([[text]], "blocks") == (text[:63], "j" * 7)
    whole = "".join(chr(ord("a") + i) * (BLOCK - 1) for i in range(10))
    assert as_streamed([[whole]], "blocks")[1] == "j" * (BLOCK - 1)


@given(st.integers(0, 25 * BLOCK))
def test_blocks_give_about_a_tenth(length: int) -> None:
    train, val = as_streamed([["x" * length]], "blocks")
    assert len(train) + len(val) == length
    if length >= EVERY:
        assert 0.04 * length <= len(val) <= 0.11 * length


@given(st.lists(st.lists(st.text(characters), max_size=4), min_size=1, max_size=3))
def test_a_survey_tells_what_the_whole_string_would(parts: Parts) -> None:
    found, whole = survey(text_of(parts)), "".join(joined(parts))
    assert found.sha256 == hashlib.sha256(whole.encode()).hexdigest()
    assert found.parts == tuple(map(len, joined(parts)))
    assert found.characters == len(whole)
    assert found.bytes == len(whole.encode())
    assert found.alphabet == "".join(sorted(set(whole)))
    assert text_of(parts).read() == whole


def test_sha256_is_that_of_the_content_alone() -> None:
    def sha256(name: str, *pieces: str) -> str:
        return survey(Text(name, (lambda: iter(pieces),))).sha256

    assert sha256("n", "a\u00e9\n") == hashlib.sha256(b"a\xc3\xa9\n").hexdigest()
    assert sha256("n", "x", "y") == sha256("other", "xy") != sha256("n", "yx")


def test_a_survey_says_how_far_it_is() -> None:
    said: list[tuple[str, int, int | None]] = []
    survey(text_of([["ab", "c"], ["de"]]), lambda *words: said.append(words))
    assert [done for _, done, _ in said] == [2, 3, 5]
    assert all("t" in what for what, _, _ in said)


@given(long_texts(), st.integers(1, 30 * BLOCK))
def test_a_limited_text_is_the_start_of_each_part(parts: Parts, most: int) -> None:
    text = limited(text_of(parts), most)
    limits = [most, *[max(1, most // 10)] * (len(parts) - 1)]
    assert ["".join(part()) for part in text.parts] == [p[:n] for p, n in zip(joined(parts), limits, strict=True)]
    assert limits_of_parts(most, len(parts)) == limits
    assert (text.name, text.licence, text.revision) == ("t", "a licence", "a revision")


def test_a_text_without_a_limit_is_itself() -> None:
    text = text_of([["a"]])
    assert limited(text, None) is text


@pytest.mark.parametrize(("limit", "pulled"), [(1, 1), (3, 1), (4, 2), (6, 2), (7, 3), (100, 4)])
def test_no_more_is_asked_of_a_source_than_the_limit_takes(limit: int, pulled: int) -> None:
    asked = 0

    def source() -> Iterator[str]:
        nonlocal asked
        for piece in ("abc", "def", "ghi", "jkl"):
            asked += 1
            yield piece

    assert "".join(first_characters(source(), limit)) == "abcdefghijkl"[:limit]
    assert asked == pulled
