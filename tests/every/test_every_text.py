"""What holds for every text that `configs/data` offers, under every tokenizer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mha_ablate.config.catalog import choice_names
from mha_ablate.config.compose import compose
from mha_ablate.config.schema import RunConfig
from mha_ablate.corpora import corpus_of, is_kept, pinned
from mha_ablate.data import corpus as module
from mha_ablate.data import sources
from mha_ablate.data.hub import HubData
from mha_ablate.data.text import Text, Watch

COMMIT = "a" * 40
PARTS = ("training 0123 \u4e2d\u6587\n" * 300, "validation 456\n" * 40, "held out\n" * 40)

data = pytest.mark.parametrize("data", choice_names("data"))
tokenizer = pytest.mark.parametrize("tokenizer", choice_names("tokenizer"))


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, and a Hub that has the same short text under every name."""

    def hub_text(wanted: HubData, max_chars: int | None, licence: str | None, watch: Watch) -> Text:
        parts = tuple((lambda part=part: iter([part])) for part in PARTS[: len(wanted.splits or PARTS)])
        return Text(wanted.name, parts, licence, COMMIT)

    monkeypatch.setenv("MHA_ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "hub_text", hub_text)
    module._read.cache_clear()


def config_of(data: str, tokenizer: str, folder: Path) -> RunConfig:
    (folder / "text.txt").write_text(PARTS[0], encoding="utf-8")
    needed = {
        "text": [f"data.path={folder / 'text.txt'}"],
        "hub": ["data.hub.name=owner/name"],
        "python_docs": ["data.max_chars=20000"],
        "python_code": ["data.max_chars=20000"],
    }
    small = ["model.context=8", "tokenizer.vocab_size=300"] if tokenizer == "bpe" else ["model.context=8"]
    return compose([f"data={data}", f"tokenizer={tokenizer}", "data.sha256=null", *small, *needed.get(data, [])]).config


@data
@tokenizer
def test_it_loads_and_its_numbers_agree(data: str, tokenizer: str, tmp_path: Path) -> None:
    config = config_of(data, tokenizer, tmp_path)
    corpus = corpus_of(config)
    about = json.loads(json.dumps(corpus.summary()))
    assert about["tokenizer"] == config.tokenizer.kind
    assert (about["train_tokens"], about["val_tokens"]) == (len(corpus.train), len(corpus.val))
    assert corpus.split in ("own", "blocks", "tail")
    assert corpus.licence == config.data.licence
    for name, tokens in (("train", corpus.train), ("val", corpus.val)):
        text = corpus.tokenizer.decode(tokens)
        assert (len(text), len(text.encode())) == (about[f"{name}_characters"], about[f"{name}_bytes"])
        assert corpus.tokenizer.encode(text).tolist() == np.asarray(tokens).tolist()
        assert int(np.max(tokens)) < corpus.vocab_size
    assert corpus.nats_to_bits_per_byte == pytest.approx(about["val_tokens"] / about["val_bytes"] / math.log(2))
    assert is_kept(config, corpus)


@data
@tokenizer
def test_what_it_is_known_by_finds_it_again(data: str, tokenizer: str, tmp_path: Path) -> None:
    config = config_of(data, tokenizer, tmp_path)
    corpus = corpus_of(config)
    fixed = pinned(config, corpus)
    assert fixed.data.split == corpus.split != "auto"
    assert fixed.data.hub is None or fixed.data.hub.revision == COMMIT
    (tmp_path / "text.txt").unlink()
    again = corpus_of(fixed, known=json.loads(json.dumps(corpus.reference)))
    assert again.summary() == corpus.summary()
    assert fixed.identity(again.identity) == fixed.identity(corpus.identity)
