"""`mha-ablate data`: the text of a configuration, looked at or made ready, without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mha_ablate.cli.common import ConfigDir, Json, Quiet, Settings, epilog, printable

if TYPE_CHECKING:
    from mha_ablate.data.corpus import Corpus

SAMPLE = 240  # characters
SHOW_EPILOG = epilog(
    {
        "data show": "the default text, by characters",
        "data show tokenizer=bpe": "the same in byte pairs",
        "data show data=text data.path=FILE": "your own text",
        "data show data=wikitext2 --json": "a data set of the Hub, as JSON",
    },
    "data",
    "tokenizer",
)
PREPARE_EPILOG = epilog(
    {
        "data prepare data=wikitext2 tokenizer=bpe": "fetch and tokenise, so that runs need no network",
        "data prepare data=hub data.hub.name=OWNER/NAME data.max_chars=5000000": "the start of any data set, streamed",
    },
    "data",
    "tokenizer",
)
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at a text, or fetch and tokenise it ahead of training.",
    epilog="`mha-ablate list data` names the texts, `mha-ablate list tokenizer` the tokenizers.",
)


@app.command(epilog=SHOW_EPILOG)
def show(settings: Settings = None, config_dir: ConfigDir = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Show a text: size, vocabulary, splits, licence, a sample."""
    from mha_ablate.cli.common import print_json

    corpus, _ = _corpus(settings, config_dir, quiet)
    if as_json:
        print_json({**_about(corpus), "sample": _sample(corpus)})
        return
    _print_facts(corpus)
    print(f"\nThe training text begins:\n\n{printable(_sample(corpus))}")


@app.command(epilog=PREPARE_EPILOG)
def prepare(
    settings: Settings = None, config_dir: ConfigDir = None, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Fetch and tokenise a text into the cache.

    Training then starts at once and needs no network.
    """
    from mha_ablate.cli.common import print_json
    from mha_ablate.data.cache import cache_dir

    corpus, kept = _corpus(settings, config_dir, quiet)
    if as_json:
        print_json({**_about(corpus), "cache": str(cache_dir()) if kept else None})
        return
    _print_facts(corpus)
    print(f"cache       {cache_dir()}" if kept else f"cache       {cache_dir()} cannot be written: nothing is kept")


def _corpus(settings: list[str] | None, config_dir: Path | None, quiet: bool) -> tuple[Corpus, bool]:
    """The corpus of a request, and whether its tokens lie in the cache."""
    from mha_ablate.cli.live import text_view
    from mha_ablate.config.compose import compose
    from mha_ablate.corpora import corpus_of, is_kept

    config = compose(list(settings or []), config_dir).config
    with text_view(quiet=quiet) as view:
        corpus = corpus_of(config, watch=view.reading, any_length=True)
    return corpus, is_kept(config, corpus)


def _about(corpus: Corpus) -> dict[str, Any]:
    return {**corpus.summary(), "bits_per_byte_of_a_nat": corpus.nats_to_bits_per_byte if len(corpus.val) else None}


def _print_facts(corpus: Corpus) -> None:
    """The facts, aligned."""
    about = corpus.summary()
    whole = sum(len(tokens) for tokens in (corpus.train, corpus.val)) or 1
    print(f"text        {corpus.name}" + (f" at {corpus.revision}" if corpus.revision else ""))
    print(f"licence     {printable(corpus.licence or 'not stated')}")
    print(f"sha256      {corpus.sha256}")
    print(f"size        {corpus.characters:,} characters, {corpus.bytes:,} bytes")
    print(f"tokenizer   {about['tokenizer']}, a vocabulary of {corpus.vocab_size:,}")
    for label, name, tokens in (("training", "train", corpus.train), ("validation", "val", corpus.val)):
        print(
            f"{label:<12}{len(tokens):,} tokens ({len(tokens) / whole:.1%}), {about[f'{name}_characters']:,} characters, "
            f"{about[f'{name}_bytes'] / max(1, len(tokens)):.2f} bytes a token"
        )
    print(f"split       {SPLITS[corpus.split]}")
    if not (len(corpus.train) and len(corpus.val)):
        print("too short   a split is empty: nothing can be trained on this text")
    if corpus.unseen["distinct"]:
        print(f"unseen      {corpus.unseen_words()}")


SPLITS = {
    "own": "own: as the data set is published",
    "blocks": "blocks: every 10th block of 4,096 characters validates (of a tenth of the text, if it is short)",
    "tail": "tail: the last 10% of the characters validate",
}


def _sample(corpus: Corpus) -> str:
    """The first characters of the training text; for byte pairs with the borders of tokens."""
    if corpus.tokenizer.state["kind"] != "bpe":
        return corpus.tokenizer.decode(corpus.train[:SAMPLE]).rstrip("\N{REPLACEMENT CHARACTER}")
    return "|".join(
        corpus.tokenizer.decode(corpus.train[i : i + 1]) for i in range(min(SAMPLE // 4, len(corpus.train)))
    )
