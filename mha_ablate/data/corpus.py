"""Text, split and tokenised: what training and validation read. Token arrays are cached by content and memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mha_ablate.data import tokenizers
from mha_ablate.data.cache import check_seal, kept_at, place_of, written
from mha_ablate.data.sources import Source, open_text
from mha_ablate.data.text import Survey, Text, Watch, split_pieces, survey, unwatched
from mha_ablate.data.tokenizers import Tokenizer, Tokens, cut_between_words, evenly, tokenizer_sha256

SAMPLE = 4_000_000  # bytes that merges are learnt from: where no spaces separate words, each takes 70 bytes of memory
SPLITS = ("train", "val")
IDENTITY = ("sha256", "split", "parts", "tokenizer_sha256")  # of tokens; runs that differ here are never compared
NAMES = ("name", "licence", "revision")


@dataclass(frozen=True)
class Corpus:
    """Token arrays of both splits, and what is known about them."""

    name: str
    sha256: str
    split: str
    parts: list[int]
    tokenizer: Tokenizer
    train: Tokens
    val: Tokens
    characters: int
    bytes: int
    train_characters: int
    train_bytes: int
    val_characters: int
    val_bytes: int
    unseen: dict[str, int]
    licence: str | None = None
    revision: str | None = None

    @property
    def vocab_size(self) -> int:
        """Number of distinct token ids."""
        return self.tokenizer.vocab_size

    @property
    def nats_to_bits_per_byte(self) -> float:
        """Factor from nats per token to bits per byte of UTF-8, over the validation split."""
        return _bits_of_a_nat(len(self.val), self.val_bytes)

    @property
    def reference(self) -> dict[str, Any]:
        """What finds exactly these tokens again: their identity, and what the text is called."""
        return {
            "name": self.name,
            "licence": self.licence,
            "revision": self.revision,
            "sha256": self.sha256,
            "split": self.split,
            "parts": self.parts if self.split == "own" else None,
            "tokenizer_sha256": tokenizer_sha256(self.tokenizer),
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What the tokens are made from."""
        return {key: self.reference[key] for key in IDENTITY}

    def unseen_words(self) -> str:
        """What `unseen_words` says of this corpus."""
        return unseen_words(self.summary())

    def summary(self) -> dict[str, Any]:
        """What a manifest says of the text."""
        return {
            **self.reference,
            "characters": self.characters,
            "bytes": self.bytes,
            "train_characters": self.train_characters,
            "train_bytes": self.train_bytes,
            "train_tokens": len(self.train),
            "val_characters": self.val_characters,
            "val_bytes": self.val_bytes,
            "val_tokens": len(self.val),
            "tokenizer": self.tokenizer.state["kind"],
            "vocab_size": self.vocab_size,
            "unseen": self.unseen,
        }


def unseen_words(summary: dict[str, Any]) -> str:
    """What validation has and training lacks, in words; empty where there is nothing of that kind."""
    found = summary.get("unseen") or {}
    if not found.get("distinct"):
        return ""
    kinds = {"char": "character", "byte": "byte", "bpe": "token"}
    what = kinds.get(summary["tokenizer"], "token") + ("s" if found["distinct"] > 1 else "")
    share = found["tokens"] / max(1, summary["val_tokens"])
    return (
        f"{found['distinct']:,} {what} of the validation text ({found['tokens']:,} times, {share:.2%} of it) never occur in "
        "training: they are in the vocabulary, are predicted without having been learnt, and count in the loss"
    )


def bits_per_byte(summary: dict[str, Any]) -> float | None:
    """What a nat per token is in bits per byte of the validation text: tokens / bytes / ln 2.

    None where a token is a character of one byte, the case in which nobody needs it, and for runs that did not record it.
    """
    if summary.get("tokenizer") == "char" and summary.get("val_tokens") == summary.get("val_bytes"):
        return None
    return nat_in_bits_per_byte(summary)


def nat_in_bits_per_byte(summary: dict[str, Any]) -> float | None:
    """As `bits_per_byte`, for any token."""
    tokens, size = summary.get("val_tokens"), summary.get("val_bytes")
    return _bits_of_a_nat(tokens, size) if tokens and size else None


def _bits_of_a_nat(tokens: int, size: int) -> float:
    """A nat per token in bits per byte, for a text of so many tokens and bytes."""
    return tokens / size / float(np.log(2))


@dataclass(frozen=True)
class Request:
    """Which text, how it is split, and how it is tokenised. `watch` hears of progress."""

    source: Source
    split: str
    kind: str
    vocab_size: int | None
    watch: Watch = field(default=unwatched, compare=False)

    def place(self, sha256: str, split: str, parts: list[int] | None) -> Path:
        """Where the tokens of a text are kept."""
        what: dict[str, Any] = {"sha256": sha256, "split": split, "parts": parts, "kind": self.kind}
        if self.kind == "bpe":  # what else decides which merges are learnt
            what |= {"vocab_size": self.vocab_size, "sample": SAMPLE, "tokenizers": version("tokenizers")}
        return place_of("tokens", what)


def load_corpus(request: Request, *, context: int | None, known: dict[str, Any] | None = None) -> Corpus:
    """Read, split and tokenise a text, or take its tokens from the cache.

    `known` is the `Corpus.reference` that is meant: its tokens are taken from the cache without reading the text again.
    Raises ValueError where the text cannot be used: empty, not the one that is known, or a split shorter than one
    window of `context` tokens and its target (None: any length will do).
    """
    corpus = _known(request, known) if known else None
    corpus = corpus or _read(request, request.source.stamp())
    if known and any(corpus.reference[k] != known[k] for k in IDENTITY):
        raise ValueError("the text changed since this run was planned: run it again under another name=")
    for which, tokens in (("training", corpus.train), ("validation", corpus.val)):
        if context is not None and len(tokens) < context + 1:
            raise ValueError(
                f"the text of {request.source.label} ({corpus.name}) is too short: its {which} split has {len(tokens)} tokens, "
                f"and one window needs model.context + 1 = {context + 1}; use a longer text or a smaller model.context"
            )
    return corpus


@lru_cache(maxsize=4)
def _read(request: Request, stamp: tuple[Any, ...]) -> Corpus:  # noqa: ARG001
    """The corpus of a text that has to be read. `stamp` makes a changed file another request."""
    text = open_text(request.source, request.watch)
    found = survey(text, request.watch)
    request.source.check(found)
    split = _split(request.split, text, request.source.label)
    about = {name: getattr(text, name) for name in NAMES}
    parts = list(found.parts) if split == "own" else None
    if cached := _cached(request, found.sha256, split, parts, about):
        return cached
    return written(
        request.place(found.sha256, split, parts),
        lambda folder: _tokenise(folder, text, found, split, request),
        lambda folder: _open(folder, about),
    )


def _split(split: str, text: Text, label: str) -> str:
    """`auto` decided, `own` checked."""
    if split == "auto":
        return "own" if len(text.parts) > 1 else "blocks"
    if split == "own" and len(text.parts) < 2:
        raise ValueError(f"{label} has no validation split of its own: use data.split=blocks or tail")
    return split


def _tokenise(folder: Path, text: Text, found: Survey, split: str, request: Request) -> None:
    """Fill a folder: train.bin, val.bin (ids, one after another), tokenizer.json, corpus.json."""

    def training() -> Iterator[str]:
        return (piece for which, piece in split_pieces(text, found, split) if which == 0)

    tokenizer = _tokenizer(request, found, training)
    done, total = 0, sum(found.parts[:2]) if split == "own" else found.characters
    with ExitStack() as streams:
        files = [streams.enter_context((folder / f"{name}.bin").open("wb")) for name in SPLITS]
        encoded = [_Encoded(file, tokenizer) for file in files]
        for which, piece in split_pieces(text, found, split):
            encoded[which].take(piece)
            done += len(piece)
            request.watch(f"tokenising {text.name}", done, total)
        for one in encoded:
            one.finish()
    train, val = encoded
    strange = (val.counts > 0) & (train.counts == 0)
    about = {
        **asdict(found),
        "split": split,
        "parts": list(found.parts),
        "characters": found.characters,
        "unseen": {"distinct": int(strange.sum()), "tokens": int(val.counts[strange].sum())},
        **{f"{n}_{k}": v for n, e in zip(SPLITS, encoded, strict=True) for k, v in e.sizes.items()},
    }
    del about["alphabet"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.state), encoding="utf-8")
    (folder / "corpus.json").write_text(json.dumps(about, indent=2), encoding="utf-8")


def _tokenizer(request: Request, found: Survey, training: Callable[[], Iterator[str]]) -> Tokenizer:
    """The tokenizer of a text. Characters are taken from all of it, merges are learnt from the training split alone."""
    if request.kind == "char":
        return tokenizers.CharTokenizer(found.alphabet)
    if request.kind == "byte":
        return tokenizers.ByteTokenizer()
    request.watch("training the tokenizer", 0, None)
    sample = evenly(training(), SAMPLE / max(1, found.bytes))
    return tokenizers.BpeTokenizer.trained_on(sample, request.vocab_size or 0)


class _Encoded:
    """The ids of one split, written as the text comes in; counted on the way."""

    def __init__(self, stream: BinaryIO, tokenizer: Tokenizer) -> None:
        self.stream, self.tokenizer, self.held = stream, tokenizer, ""
        self.counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
        self.sizes = {"characters": 0, "bytes": 0, "tokens": 0}

    def take(self, piece: str) -> None:
        """Encode what is long enough to be cut between words; keep the rest for later."""
        self.sizes["characters"] += len(piece)
        self.sizes["bytes"] += len(piece.encode())
        self.held += piece
        if len(self.held) > CHUNK:
            *whole, self.held = cut_between_words([self.held], CHUNK // 2)
            for chunk in whole:
                self._write(chunk)

    def _write(self, chunk: str) -> None:
        ids = self.tokenizer.encode(chunk)
        self.counts += np.bincount(ids, minlength=len(self.counts))
        self.sizes["tokens"] += len(ids)
        self.stream.write(ids.data)  # `tofile` would not say why a disk refuses

    def finish(self) -> None:
        """Encode the rest."""
        self._write(self.held)


CHUNK = 1 << 18


def _cached(request: Request, sha256: str, split: str, parts: list[int] | None, about: dict[str, Any]) -> Corpus | None:
    """The kept tokens of exactly this text; None where there are none that can be read."""
    try:
        found = _open(kept_at(request.place(sha256, split, parts)), about)
    except Exception:  # whatever is wrong with what lies there (`tokenizers` raises plain ones): it is made again
        return None
    return found if found.sha256 == sha256 else None


def _known(request: Request, known: dict[str, Any]) -> Corpus | None:
    """The kept tokens of a text that is known, without a look at the text."""
    return _cached(request, known["sha256"], known["split"], known["parts"], {k: known[k] for k in NAMES})


def _open(folder: Path, about: dict[str, Any]) -> Corpus:
    """The corpus in a folder that `_tokenise` filled; ids stay on disk and are mapped."""
    check_seal(folder)
    known = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    tokenizer = tokenizers.tokenizer_from(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    dtype = tokenizers.smallest_dtype(tokenizer.vocab_size)
    train, val = (_mapped(folder / f"{name}.bin", dtype) for name in SPLITS)
    if (len(train), len(val)) != (known.pop("train_tokens"), known.pop("val_tokens")):
        raise ValueError(f"{folder} is not whole")
    return Corpus(**known, **about, tokenizer=tokenizer, train=train, val=val)


def _mapped(file: Path, dtype: Any) -> Tokens:
    """The ids in a file. An empty file cannot be mapped."""
    return np.memmap(file, dtype=dtype, mode="r") if file.stat().st_size else np.zeros(0, dtype=dtype)
