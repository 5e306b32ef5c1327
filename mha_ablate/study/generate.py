"""From the folder of a finished run to text that its model makes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from mha_ablate import build
from mha_ablate.data.tokenizers import Tokenizer, as_it_comes, tokenizer_from
from mha_ablate.errors import RequestError
from mha_ablate.model.generate import continuation
from mha_ablate.model.gpt import GPT
from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from mha_ablate.study.replay import config_of

MOST_TOKENS = 10**9


@dataclass(frozen=True)
class Wish:
    """How a text is to go on: how many tokens, how daring (0: always the likeliest), and from which seed."""

    prompt: str
    tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompt:
            raise RequestError(
                "--prompt is empty: a model continues a text, so give it at least one character to start from"
            )
        for option, value, low, high in (
            ("--tokens", self.tokens, 1, MOST_TOKENS),
            ("--top-k", self.top_k, 1, MOST_TOKENS),
            ("--seed", self.seed, 0, 2**31 - 1),
        ):
            if value is not None and not low <= value <= high:
                raise RequestError(f"{option} {value} is out of range: it must be {low} to {high}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise RequestError(
                f"--temperature {self.temperature} is out of range: it must be 0 (always the likeliest token) or more"
            )


def generate(folder: RunFolder, wish: Wish, which: Literal["last", "best"] = "last") -> Iterator[str]:
    """The text that follows the prompt, one piece a token, on the CPU; everything is checked before the first.

    A piece is empty while a character is not whole. The folder is only read. Raises RequestError where it holds no finished
    run with weights that can be read, and where the run's tokenizer cannot spell the prompt.
    """
    folder.finished()
    config = config_of(folder)
    best = which == "best" and folder.best_file.exists()
    try:
        about = checkpoint.describe(folder.best_file if best else folder.last_file)
        tokenizer = _tokenizer(folder, about)
        model = build.model_of(config, tokenizer.vocab_size)
        checkpoint.load_weights(folder, model, which)
    except ValueError as error:
        raise RequestError(str(error)) from error
    ids = _spelled(wish.prompt, tokenizer)
    return _pieces(folder, model.eval(), tokenizer, ids, wish)


def _pieces(folder: RunFolder, model: GPT, tokenizer: Tokenizer, ids: list[int], wish: Wish) -> Iterator[str]:
    tokens = continuation(model, ids, temperature=wish.temperature, top_k=wish.top_k, seed=wish.seed)
    try:
        yield from as_it_comes(tokenizer, islice(tokens, wish.tokens))
    except ValueError as error:
        raise RequestError(f"{folder.path}: {error}") from error


def _tokenizer(folder: RunFolder, about: dict[str, Any]) -> Tokenizer:
    try:
        tokenizer = tokenizer_from(checkpoint.load_tokenizer(folder, about))
        tokenizer.vocab_size  # noqa: B018 - a learnt one is read here
        return tokenizer
    except Exception as error:  # the `tokenizers` library has none of its own
        reason = " ".join(str(error).split())
        raise RequestError(f"{folder.path}: its tokenizer cannot be read ({type(error).__name__}: {reason})") from error


def _spelled(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """The prompt's tokens. Raises RequestError for what the tokenizer does not know."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise RequestError("--prompt is not UTF-8 text: give it in the encoding of your terminal") from error
    try:
        return [int(i) for i in tokenizer.encode(prompt)]
    except ValueError as error:
        raise RequestError(
            f"--prompt: {error} of this run, the {tokenizer.vocab_size} characters of its text: leave it out, or train with "
            "tokenizer=byte or tokenizer=bpe, which can spell anything"
        ) from error
