"""Text split, tokenised and cached by content."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mha_ablate.data import corpus as module
from mha_ablate.data.cache import WRITING, cache_dir, written
from mha_ablate.data.corpus import Corpus, Request, load_corpus, unseen_words
from mha_ablate.data.sources import Source
from mha_ablate.data.text import Text
from mha_ablate.data.tokenizers import tokenizer_sha256

KINDS = ("char", "byte", "bpe")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own; nothing is remembered in memory."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MHA_ABLATE_CACHE", str(folder))
    module._read.cache_clear()
    yield folder
    module._read.cache_clear()


def asked(file: Path, split: str = "tail", kind: str = "char", vocab_size: int | None = None) -> Request:
    return Request(Source("text", str(file)), split, kind, vocab_size)


def load(file: Path, split: str = "tail", kind: str = "char", context: int | None = 4, **known: Any) -> Corpus:
    """The corpus of a file, as a process that has just started would load it."""
    module._read.cache_clear()
    return load_corpus(asked(file, split, kind, 300 if kind == "bpe" else None), context=context, **known)


Parts = Callable[..., Request]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    """A request for a text with parts of its own: `load_corpus(parts("training", "validation"), context=4)`."""

    def request(*contents: str, kind: str = "char", split: str = "auto", vocab_size: int | None = None) -> Request:
        text = Text("in parts", tuple((lambda c=c: iter([c])) for c in contents))
        monkeypatch.setattr(module, "open_text", lambda *_: text)
        module._read.cache_clear()
        return Request(Source("python_docs"), split, kind, vocab_size)

    return request


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

        monkeypatch.setattr(module, "_tokenise", refuse)

    return forbid


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
    (folder / "train.bin").write_bytes(b"")


def truncated_array(folder: Path) -> None:
    whole = (folder / "val.bin").read_bytes()
    (folder / "val.bin").write_bytes(whole[:-7])


def garbage_array(folder: Path) -> None:
    (folder / "train.bin").write_bytes(b"no array at all, but long enough to look at")


def missing_array(folder: Path) -> None:
    (folder / "val.bin").unlink()


def shorter_array(folder: Path) -> None:
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-1])


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


def tokenizer_of_nothing(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("null")


def truncated_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes()[:-9])


def tokenizer_that_the_library_refuses(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"kind": "bpe", "definition": "{}"}))


def file_in_place_of_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


BREAKS = [
    tokenizer_of_nothing,
    truncated_tokenizer,
    tokenizer_that_the_library_refuses,
    file_in_place_of_the_folder,
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


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for temporary files of the test's own, empty at first."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, cache: Path, scratch: Path) -> None:
    cache.write_text("a file where the folder should be")
    content = "hello world " * 50
    corpus = load(write(tmp_path / "t.txt", content))
    assert "".join(text_of(corpus)) == content
    assert len(list(scratch.iterdir())) == 1, "what the cache could not take is kept for this process"
    assert load(tmp_path / "t.txt", known=corpus.reference).summary() == corpus.summary()


def test_a_full_disk_is_no_error(tmp_path: Path, cache: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenise = module._tokenise

    def full(folder: Path, *rest: Any) -> None:
        tokenise(folder, *rest)
        if cache in folder.parents:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_tokenise", full)
    content = "hello world " * 50
    assert "".join(text_of(load(write(tmp_path / "t.txt", content)))) == content
    assert list((cache / "tokens").iterdir()) == [], "what was begun is taken away"
    assert len(list(scratch.iterdir())) == 1


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
    request = Request(Source("python_docs"), "blocks", "char", None)
    first = load_corpus(request, context=64)
    assert len(first.train) + len(first.val) == first.characters
    assert 0.09 < len(first.val) / first.characters < 0.11
    module._read.cache_clear()
    no_tokenising()
    assert load_corpus(request, context=64).summary() == first.summary()


# --- tokens of a text that is known


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_known_tokens_are_mapped_without_the_text(tmp_path: Path, no_tokenising: Callable[[], None], kind: str) -> None:
    file = write(tmp_path / "t.txt", "hello \u4e16\u754c " * 50)
    first = load(file, kind=kind)
    file.unlink()
    no_tokenising()
    again = load(file, kind=kind, known=first.reference)
    assert isinstance(again.train, np.memmap)
    assert isinstance(again.val, np.memmap)
    assert again.train.flags.writeable is False
    assert again.summary() == first.summary()
    assert text_of(again) == text_of(first)


def test_a_known_text_that_is_kept_nowhere_is_read_again(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "t.txt", "hello world " * 50)
    first = load(file)
    shutil.rmtree(cache)
    assert load(file, known=first.reference).reference == first.reference


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_a_text_that_changed_since_is_refused(tmp_path: Path, cache: Path, kind: str) -> None:
    file = write(tmp_path / "t.txt", "hello world " * 50)
    first = load(file, kind=kind)
    shutil.rmtree(cache)
    write(file, "hello there " * 50)
    with pytest.raises(ValueError, match="changed since") as caught:
        load(file, kind=kind, known=first.reference)
    assert len(str(caught.value).splitlines()) == 1


def test_a_known_text_may_be_too_short_for_another_context(tmp_path: Path) -> None:
    file = write(tmp_path / "t.txt", "0123456789" * 10)
    first = load(file)
    with pytest.raises(ValueError, match="too short"):
        load(file, context=10, known=first.reference)


def test_a_changed_file_is_noticed_in_the_same_process(tmp_path: Path) -> None:
    file = write(tmp_path / "t.txt", "hello world " * 50)
    first = load_corpus(asked(file), context=4)
    assert load_corpus(asked(file), context=4) is first, "an unchanged one is not read again"
    write(file, "hello there " * 50)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    changed = load_corpus(asked(file), context=4)
    assert text_of(changed)[0].startswith("hello there ")
    assert changed.sha256 != first.sha256
    assert text_of(first)[0].startswith("hello world "), "what was loaded before is what it was"


# --- two at once, and what a killed one leaves

LOAD = """
from mha_ablate.data.corpus import Request, load_corpus
from mha_ablate.data.sources import Source
import json
print(json.dumps(load_corpus(Request(Source("python_docs"), "blocks", "bpe", 512), context=4).summary()))
"""


def test_two_processes_at_once_agree_and_leave_one_entry(cache: Path) -> None:
    both = [subprocess.Popen([sys.executable, "-c", LOAD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    one, other = (json.loads(process.communicate()[0]) for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert one == other
    assert len(entries(cache)) == 1
    request = Request(Source("python_docs"), "blocks", "bpe", 512)
    assert load_corpus(request, context=4, known=one).summary() == one


def test_an_entry_that_another_process_finished_meanwhile_is_no_error(cache: Path) -> None:
    place = cache / "tokens" / "place"

    def write_one(folder: Path) -> None:
        (folder / "a").write_text("one")

    def write_while_another_does(folder: Path) -> None:
        written(place, write_one, lambda folder: None)
        write_one(folder)

    assert written(place, write_while_another_does, lambda folder: (folder / "a").read_text()) == "one"
    assert (place / "a").read_text() == "one"
    assert entries(cache) == ["place"]


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path, cache: Path) -> None:
    old, fresh = (cache / "tokens" / f"{WRITING}{name}" for name in ("old", "fresh"))
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "train.bin").write_bytes(b"half")
    os.utime(old, (time.time() - 90_000, time.time() - 90_000))
    load(write(tmp_path / "t.txt", "hello world " * 50))
    assert not old.exists()
    assert fresh.exists(), "another process may be at work there"


# --- splits of a text's own


def test_a_text_in_parts_is_split_as_it_is(parts: Parts) -> None:
    corpus = load_corpus(parts("aaab", "cc", "held out"), context=None)
    assert (corpus.split, corpus.parts, text_of(corpus)) == ("own", [4, 2, 8], ("aaab", "cc"))
    assert corpus.characters == 14
    assert (corpus.train_characters, corpus.val_characters) == (4, 2)


def test_a_text_in_parts_may_be_cut_all_the_same(parts: Parts) -> None:
    corpus = load_corpus(parts("0123", "456789", split="tail"), context=None)
    assert (corpus.split, text_of(corpus)) == ("tail", ("012345678", "9"))
    assert corpus.reference["parts"] is None


def test_auto_means_blocks_where_there_are_no_parts(tmp_path: Path) -> None:
    assert load(write(tmp_path / "t.txt", "hello world " * 50), split="auto").split == "blocks"


def test_a_text_without_parts_has_no_split_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.split=blocks or tail") as caught:
        load(write(tmp_path / "t.txt", "hello world " * 50), split="own")
    assert len(str(caught.value).splitlines()) == 1


def test_the_same_text_in_other_parts_is_another_identity(parts: Parts) -> None:
    one = load_corpus(parts("aaab", "cc"), context=None)
    other = load_corpus(parts("aaa", "bcc"), context=None)
    assert one.sha256 == other.sha256
    assert one.identity != other.identity
    assert (text_of(one)[1], text_of(other)[1]) == ("cc", "bcc")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=3), st.sampled_from(KINDS))
def test_any_text_comes_back_from_its_tokens(parts: Parts, contents: list[str], kind: str) -> None:
    corpus = load_corpus(parts(*contents, kind=kind, vocab_size=300 if kind == "bpe" else None), context=None)
    assert text_of(corpus) == (contents[0], contents[1])
    assert (corpus.train_bytes, corpus.val_bytes) == (len(contents[0].encode()), len(contents[1].encode()))


# --- what validation has and training lacks


@pytest.mark.parametrize("split", ["own", "tail"])
def test_byte_pairs_are_learnt_from_the_training_split_alone(parts: Parts, split: str) -> None:
    def of(validation: str) -> Corpus:
        training = "the cat sat on the mat. " * 90
        assert len(training) == 9 * len(validation)
        return load_corpus(parts(training, validation, kind="bpe", vocab_size=1024, split=split), context=None)

    plain = of("the cat sat on the mat. " * 10)
    strange = of("zyzzyva " * 30)
    assert tokenizer_sha256(strange.tokenizer) == tokenizer_sha256(plain.tokenizer)
    assert strange.sha256 != plain.sha256
    tokens = {strange.tokenizer.decode(strange.val[i : i + 1]) for i in range(len(strange.val))}
    assert max(map(len, tokens - {" "})) == 1, "no pair of letters was learnt from validation"
    assert "the" in {t.strip() for t in (plain.tokenizer.decode(plain.val[i : i + 1]) for i in range(30))}


def test_a_word_of_validation_becomes_a_token_once_it_is_in_training(parts: Parts) -> None:
    training = "the cat sat on the mat. " * 90 + "zyzzyva " * 30
    corpus = load_corpus(parts(training, "zyzzyva " * 30, kind="bpe", vocab_size=1024), context=None)
    assert len(corpus.val) < 3 * 30


def test_characters_that_training_lacks_are_in_the_vocabulary_and_counted(parts: Parts) -> None:
    corpus = load_corpus(parts("abab", "a\u4e2d\u4e2d\u6587b"), context=None)
    assert corpus.vocab_size == 4
    assert corpus.unseen == {"distinct": 2, "tokens": 3}
    assert text_of(corpus)[1] == "a\u4e2d\u4e2d\u6587b"
    words = corpus.unseen_words()
    assert words == unseen_words(corpus.summary())
    assert words.startswith("2 characters of the validation text (3 times, 60.00% of it) never occur in training")


def test_nothing_is_said_where_training_has_it_all(parts: Parts) -> None:
    corpus = load_corpus(parts("abc", "cba"), context=None)
    assert (corpus.unseen, corpus.unseen_words()) == ({"distinct": 0, "tokens": 0}, "")
    assert unseen_words({}) == ""


@pytest.mark.parametrize(("kind", "said"), [("byte", "3 bytes"), ("bpe", "3 tokens")])
def test_what_is_unseen_is_called_what_it_is(parts: Parts, kind: str, said: str) -> None:
    corpus = load_corpus(parts("abab", "a\u4e2d", kind=kind, vocab_size=256 if kind == "bpe" else None), context=None)
    assert corpus.unseen_words().startswith(f"{said} of the validation text (3 times, 75.00% of it)")


def test_one_is_no_plural(parts: Parts) -> None:
    assert load_corpus(parts("abab", "ac"), context=None).unseen_words().startswith("1 character of")


def test_a_vocabulary_of_another_size_is_another_tokenizer(parts: Parts) -> None:
    content = "the cat and the dog and the cow and the hen " * 40
    sizes = [
        load_corpus(parts(content, kind="bpe", split="tail", vocab_size=v), context=4).vocab_size for v in (260, 270)
    ]
    assert sizes == [260, 270]
