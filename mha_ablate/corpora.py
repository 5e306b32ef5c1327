"""From a configuration to its text: the half of `build` that needs no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mha_ablate.config.schema import DataConfig, RunConfig
from mha_ablate.data.corpus import Corpus, Request, load_corpus
from mha_ablate.data.hub import HubData
from mha_ablate.data.sources import Source
from mha_ablate.data.text import Watch, unwatched
from mha_ablate.errors import RequestError


def source_of(data: DataConfig) -> Source:
    """Where the text is to be had."""
    hub = None
    if data.hub is not None:
        splits = tuple(data.hub.splits) if data.hub.splits else None
        hub = HubData(data.hub.name or "", data.hub.config, data.hub.revision, splits, data.hub.column, data.hub.join)
    return Source(data.source, data.path, hub, data.max_chars, data.sha256, data.licence)


def corpus_of(
    config: RunConfig, *, known: dict[str, Any] | None = None, watch: Watch = unwatched, any_length: bool = False
) -> Corpus:
    """The text, split and tokenised; `known` as in `load_corpus`. Raises RequestError for text that cannot be used.

    A text too short for model.context cannot be used, unless `any_length`.
    """
    try:
        return load_corpus(_request(config, watch), context=None if any_length else config.model.context, known=known)
    except ValueError as error:
        raise RequestError(str(error)) from error


def is_kept(config: RunConfig, corpus: Corpus) -> bool:
    """Whether the tokens of a corpus lie in the cache, where the next run finds them."""
    parts = corpus.reference["parts"]
    return _request(config, unwatched).place(corpus.sha256, corpus.split, parts).is_dir()


def _request(config: RunConfig, watch: Watch) -> Request:
    tokenizer = config.tokenizer
    return Request(source_of(config.data), config.data.split, tokenizer.kind, tokenizer.vocab_size, watch)


def pinned(config: RunConfig, corpus: Corpus) -> RunConfig:
    """The same configuration with the split and the Hub's commit that were found: what `auto` and `main` meant."""
    data = replace(config.data, split=corpus.split)
    if data.hub is not None:
        data = replace(data, hub=replace(data.hub, revision=corpus.revision))
    return replace(config, data=data)
