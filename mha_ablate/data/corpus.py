"""Text, split and tokenised: what training and validation read. Token arrays are cached by content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from mha_ablate.data.sources import Text, load_text
from mha_ablate.data.tokenizers import Tokenizer, Tokens, build_tokenizer, tokenizer_from, tokenizer_state

BLOCK, EVERY = 4096, 10  # split=blocks: of every 10 blocks of 4,096 characters the last one validates


@dataclass(frozen=True)
class Corpus:
    """Token arrays of both splits, and what identifies them."""

    name: str
    text_sha256: str
    split: str
    tokenizer: Tokenizer
    train: Tokens
    val: Tokens
    characters: int
    val_bytes: int

    @property
    def vocab_size(self) -> int:
        """Number of distinct token ids."""
        return self.tokenizer.vocab_size

    @property
    def nats_to_bits_per_byte(self) -> float:
        """Factor from nats per token to bits per byte of UTF-8, over the validation split."""
        return len(self.val) / self.val_bytes / float(np.log(2))

    def summary(self) -> dict[str, object]:
        """What a manifest says of the text."""
        state = json.dumps(tokenizer_state(self.tokenizer), sort_keys=True)
        return {
            "name": self.name,
            "sha256": self.text_sha256,
            "characters": self.characters,
            "split": self.split,
            "train_tokens": len(self.train),
            "val_tokens": len(self.val),
            "vocab_size": self.vocab_size,
            "tokenizer": tokenizer_state(self.tokenizer)["kind"],
            "tokenizer_sha256": hashlib.sha256(state.encode()).hexdigest(),
        }


def split_text(text: str, split: str) -> tuple[str, str]:
    """(training, validation) text. `tail`: the last tenth validates, as nanoGPT's data script cuts.

    `blocks`: every 10th block of 4,096 characters validates, so that both splits have the same mix of subjects.
    A text of fewer than 10 blocks is cut into blocks of a tenth of its length.
    """
    if split == "tail":
        cut = int(len(text) * 0.9)
        return text[:cut], text[cut:]
    size = BLOCK if len(text) >= BLOCK * EVERY else max(1, len(text) // EVERY)
    blocks = [text[i : i + size] for i in range(0, len(text), size)]
    validates = [i % EVERY == EVERY - 1 for i in range(len(blocks))]
    pairs = list(zip(blocks, validates, strict=True))
    return "".join(b for b, v in pairs if not v), "".join(b for b, v in pairs if v)


@lru_cache(maxsize=4)
def load_corpus(source: str, path: str | None, split: str, tokenizer: str, context: int) -> Corpus:
    """Read, split and tokenise a text (or take its token arrays from the cache).

    Raises ValueError where the text is empty or a split is shorter than one window of `context` tokens and its target.
    """
    text = load_text(source, path)
    cached = _from_cache(text, split, tokenizer)
    corpus = cached or _prepare(text, split, tokenizer)
    for which, tokens in (("training", corpus.train), ("validation", corpus.val)):
        if len(tokens) < context + 1:
            raise ValueError(
                f"the text of data={source} ({text.name}) is too short: its {which} split has {len(tokens)} tokens, and one window "
                f"needs model.context + 1 = {context + 1}; use a longer text or a smaller model.context"
            )
    if cached is None:
        _to_cache(corpus)
    return corpus


def _prepare(text: Text, split: str, kind: str) -> Corpus:
    train, val = split_text(text.content, split)
    tokenizer = build_tokenizer(kind, text.content)
    return Corpus(
        text.name,
        text.sha256,
        split,
        tokenizer,
        tokenizer.encode(train),
        tokenizer.encode(val),
        len(text.content),
        len(val.encode()),
    )


def cache_dir() -> Path:
    """Where token arrays are kept: $MHA_ABLATE_CACHE, or mha_ablate below the user's cache folder."""
    own = os.environ.get("MHA_ABLATE_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mha_ablate"


def _cache_folder(text_sha256: str, split: str, kind: str) -> Path:
    return cache_dir() / "tokens" / f"{text_sha256[:32]}-{split}-{kind}-1"


def _from_cache(text: Text, split: str, kind: str) -> Corpus | None:
    """The cached arrays of exactly this text, memory-mapped; None where there are none that can be read."""
    folder = _cache_folder(text.sha256, split, kind)
    try:
        meta = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        train, val = (np.load(folder / f"{s}.npy", mmap_mode="r") for s in ("train", "val"))
        tokenizer = tokenizer_from(meta["tokenizer"])
        sound = meta["sha256"] == text.sha256 and (len(train), len(val)) == (meta["train"], meta["val"])
        if not sound:
            return None
        return Corpus(text.name, text.sha256, split, tokenizer, train, val, meta["characters"], meta["val_bytes"])
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _to_cache(corpus: Corpus) -> None:
    """Write the arrays into a temporary folder and rename it. A cache that cannot be written is no reason to stop."""
    folder = _cache_folder(corpus.text_sha256, corpus.split, tokenizer_state(corpus.tokenizer)["kind"])
    meta = {
        "sha256": corpus.text_sha256,
        "tokenizer": tokenizer_state(corpus.tokenizer),
        "train": len(corpus.train),
        "val": len(corpus.val),
        "characters": corpus.characters,
        "val_bytes": corpus.val_bytes,
    }
    scratch = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
        np.save(scratch / "train.npy", corpus.train)
        np.save(scratch / "val.npy", corpus.val)
        (scratch / "corpus.json").write_text(json.dumps(meta), encoding="utf-8")
        if folder.exists():  # there, but not readable as a cache: replace it
            shutil.rmtree(folder, ignore_errors=True)
        scratch.replace(folder)
    except OSError:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
