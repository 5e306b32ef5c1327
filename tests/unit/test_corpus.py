"""Text split, tokenised and cached by content."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mha_ablate.data import corpus as module
from mha_ablate.data.corpus import BLOCK, EVERY, Corpus, cache_dir, load_corpus, split_text


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own; nothing is remembered in memory."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MHA_ABLATE_CACHE", str(folder))
    load_corpus.cache_clear()
    yield folder
    load_corpus.cache_clear()


def load(file: Path, split: str = "tail", kind: str = "char", context: int = 4) -> Corpus:
    """The corpus of a file, as a process that has just started would load it."""
    load_corpus.cache_clear()
    return load_corpus("text", str(file), split, kind, context)


def write(file: Path, content: str) -> Path:
    file.write_bytes(content.encode())
    return file


def text_of(corpus: Corpus) -> tuple[str, str]:
    return corpus.tokenizer.decode(corpus.train), corpus.tokenizer.decode(corpus.val)


def entries(cache: Path) -> list[str]:
    return sorted(f.name for f in (cache / "tokens").iterdir())


@pytest.fixture
def no_tokenising(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, tokenising a text is an error."""

    def forbid() -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("the text was tokenised again")

        monkeypatch.setattr(module, "build_tokenizer", refuse)

    return forbid


@given(st.text(max_size=300))
def test_tail_cuts_after_nine_tenths(text: str) -> None:
    train, val = split_text(text, "tail")
    assert train + val == text
    assert len(train) == int(len(text) * 0.9)


def test_tail_by_example() -> None:
    assert split_text("0123456789", "tail") == ("012345678", "9")


def test_blocks_give_every_tenth_block_to_validation() -> None:
    blocks = [chr(ord("A") + i) * BLOCK for i in range(23)]
    train, val = split_text("".join(blocks) + "!?", "blocks")
    assert val == blocks[9] + blocks[19]
    assert train == "".join(b for i, b in enumerate(blocks) if i not in (9, 19)) + "!?"
    assert (BLOCK, EVERY) == (4096, 10)


@given(st.integers(0, 25 * BLOCK))
def test_blocks_lose_nothing(length: int) -> None:
    train, val = split_text("x" * length, "blocks")
    assert len(train) + len(val) == length
    if length >= EVERY:
        assert 0.04 * length <= len(val) <= 0.11 * length


def test_a_short_text_is_cut_into_ten() -> None:
    text = "".join(chr(ord("a") + i) * 7 for i in range(10))
    assert split_text(text, "blocks") == (text[:63], "j" * 7)
    whole = "".join(chr(ord("a") + i) * (BLOCK - 1) for i in range(10))
    assert split_text(whole, "blocks")[1] == "j" * (BLOCK - 1)


def test_a_corpus_holds_both_splits_and_their_sizes(tmp_path: Path) -> None:
    content = "abcdefghi\u00e9" * 20
    corpus = load(write(tmp_path / "t.txt", content))
    assert text_of(corpus) == (content[:180], content[180:])
    assert (corpus.name, corpus.split, corpus.characters) == ("t.txt", "tail", 200)
    assert (corpus.vocab_size, corpus.val_bytes) == (10, 22)


def test_the_vocabulary_covers_both_splits(tmp_path: Path) -> None:
    corpus = load(write(tmp_path / "t.txt", "a" * 90 + "bcdefghijk"))
    assert corpus.vocab_size == 11
    assert text_of(corpus)[1] == "bcdefghijk"


def test_the_summary_identifies_text_and_tokenizer(tmp_path: Path) -> None:
    one = load(write(tmp_path / "one.txt", "abc" * 40)).summary()
    same = load(write(tmp_path / "same.txt", "abc" * 40)).summary()
    assert one.pop("name") == "one.txt"
    assert same.pop("name") == "same.txt"
    assert one == same
    assert json.loads(json.dumps(one)) == one
    sizes = {k: one[k] for k in ("characters", "train_tokens", "val_tokens", "vocab_size", "tokenizer", "split")}
    assert sizes == {
        "characters": 120,
        "train_tokens": 108,
        "val_tokens": 12,
        "vocab_size": 3,
        "tokenizer": "char",
        "split": "tail",
    }
    other = load(write(tmp_path / "other.txt", "abd" * 40)).summary()
    assert other["sha256"] != one["sha256"]
    assert other["tokenizer_sha256"] != one["tokenizer_sha256"]


def test_a_second_load_reads_the_cache(tmp_path: Path, cache: Path, no_tokenising: Callable[[], None]) -> None:
    file = write(tmp_path / "t.txt", "hello \u4e16\u754c " * 50)
    first = load(file)
    assert len(entries(cache)) == 1
    no_tokenising()
    second = load(file)
    assert second.summary() == first.summary()
    assert second.tokenizer == first.tokenizer
    assert (second.characters, second.val_bytes) == (first.characters, first.val_bytes)
    for a, b in ((first.train, second.train), (first.val, second.val)):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def test_the_same_text_elsewhere_shares_the_cache_under_its_own_name(
    tmp_path: Path, no_tokenising: Callable[[], None]
) -> None:
    load(write(tmp_path / "one.txt", "hello world " * 50))
    no_tokenising()
    assert load(write(tmp_path / "two.txt", "hello world " * 50)).name == "two.txt"


def test_other_text_split_and_tokenizer_have_folders_of_their_own(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "t.txt", "hello world " * 50)
    load(file)
    load(file, split="blocks")
    load(file, kind="byte")
    assert len(entries(cache)) == 3
    write(file, "hello there " * 50)
    changed = load(file)
    assert len(entries(cache)) == 4
    assert text_of(changed)[0].startswith("hello there ")


def test_nothing_unfinished_stays_in_the_cache(tmp_path: Path, cache: Path) -> None:
    load(write(tmp_path / "t.txt", "hello world " * 50))
    assert not [name for name in entries(cache) if name.startswith(".")]


def empty_array(folder: Path) -> None:
    (folder / "train.npy").write_bytes(b"")


def truncated_array(folder: Path) -> None:
    whole = (folder / "val.npy").read_bytes()
    (folder / "val.npy").write_bytes(whole[:-7])


def garbage_array(folder: Path) -> None:
    (folder / "train.npy").write_bytes(b"no array at all, but long enough to look at")


def missing_array(folder: Path) -> None:
    (folder / "val.npy").unlink()


def shorter_array(folder: Path) -> None:
    np.save(folder / "train.npy", np.load(folder / "train.npy")[:-1])


def missing_meta(folder: Path) -> None:
    (folder / "corpus.json").unlink()


def truncated_meta(folder: Path) -> None:
    (folder / "corpus.json").write_bytes((folder / "corpus.json").read_bytes()[:-9])


def meta_without_a_key(folder: Path) -> None:
    (folder / "corpus.json").write_text("{}")


def meta_of_another_kind(folder: Path) -> None:
    (folder / "corpus.json").write_text("[]")


def meta_of_null(folder: Path) -> None:
    (folder / "corpus.json").write_text("null")


def meta_that_is_not_utf8(folder: Path) -> None:
    (folder / "corpus.json").write_bytes(b"\xff\xfe")


def meta_of_another_text(folder: Path) -> None:
    meta = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**meta, "sha256": "0" * 64}))


BREAKS = [
    empty_array,
    truncated_array,
    garbage_array,
    missing_array,
    shorter_array,
    missing_meta,
    truncated_meta,
    meta_without_a_key,
    meta_of_another_kind,
    meta_of_null,
    meta_that_is_not_utf8,
    meta_of_another_text,
]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda f: f.__name__)
def test_a_broken_cache_is_rebuilt(
    tmp_path: Path, cache: Path, no_tokenising: Callable[[], None], break_it: Callable[[Path], None]
) -> None:
    content = "hello world " * 50
    file = write(tmp_path / "t.txt", content)
    load(file)
    [name] = entries(cache)
    break_it(cache / "tokens" / name)
    assert "".join(text_of(load(file))) == content
    assert entries(cache) == [name]
    no_tokenising()
    assert "".join(text_of(load(file))) == content


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    content = "hello world " * 50
    assert "".join(text_of(load(write(tmp_path / "t.txt", content)))) == content

    monkeypatch.setenv("MHA_ABLATE_CACHE", str(tmp_path / "full"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert "".join(text_of(load(tmp_path / "t.txt"))) == content
    assert entries(tmp_path / "full") == [], "what was begun is taken away"


def test_the_cache_lies_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("MHA_ABLATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "mha_ablate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "mha_ablate"


@pytest.mark.parametrize(
    ("content", "context", "which", "tokens"),
    [("0123456789" * 10, 10, "validation", 10), ("0123456789", 9, "training", 9), ("", 4, "training", 0)],
)
@pytest.mark.parametrize("kind", ["char", "byte"])
def test_a_text_too_short_is_refused_saying_what_is_needed(
    tmp_path: Path, content: str, context: int, which: str, tokens: int, kind: str
) -> None:
    file = write(tmp_path / "short.txt", content)
    with pytest.raises(ValueError, match="too short") as caught:
        load(file, kind=kind, context=context)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "short.txt" in message
    assert f"its {which} split has {tokens} tokens" in message
    assert f"model.context + 1 = {context + 1};" in message


def test_the_shortest_text_that_fits_is_taken(tmp_path: Path) -> None:
    corpus = load(write(tmp_path / "t.txt", "0123456789" * 10), context=9)
    assert len(corpus.val) == 10


def test_bits_per_byte_by_hand(tmp_path: Path) -> None:
    # The last tenth is 10 characters: 6 ASCII, 4 of three bytes each, so 18 bytes.
    file = write(tmp_path / "t.txt", "x" * 90 + "abcdef\u4e2d\u6587\u4e2d\u6587")
    char, byte = load(file, kind="char"), load(file, kind="byte")
    assert (len(char.val), len(byte.val), char.val_bytes, byte.val_bytes) == (10, 18, 18, 18)
    assert char.nats_to_bits_per_byte == pytest.approx(10 / 18 / math.log(2))
    assert byte.nats_to_bits_per_byte == pytest.approx(1 / math.log(2))
    # A model that knows nothing of bytes needs log(256) nats a token, which is 8 bits.
    assert math.log(256) * byte.nats_to_bits_per_byte == pytest.approx(8)


def test_bits_per_byte_is_the_same_from_the_cache(tmp_path: Path) -> None:
    file = write(tmp_path / "t.txt", "x" * 90 + "abcdef\u4e2d\u6587\u4e2d\u6587")
    assert load(file).nats_to_bits_per_byte == load(file).nats_to_bits_per_byte


def test_the_embedded_text_loads(no_tokenising: Callable[[], None]) -> None:
    first = load_corpus("python_docs", None, "blocks", "char", 64)
    assert len(first.train) + len(first.val) == first.characters
    assert 0.09 < len(first.val) / first.characters < 0.11
    load_corpus.cache_clear()
    no_tokenising()
    assert load_corpus("python_docs", None, "blocks", "char", 64).summary() == first.summary()
