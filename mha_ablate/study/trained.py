"""A finished run's model, back in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from mha_ablate import build
from mha_ablate.config.schema import RunConfig
from mha_ablate.corpora import corpus_of
from mha_ablate.data.corpus import IDENTITY, Corpus
from mha_ablate.data.text import Watch, unwatched
from mha_ablate.data.tokenizers import tokenizer_from
from mha_ablate.errors import RequestError
from mha_ablate.model.gpt import GPT
from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from mha_ablate.study.replay import config_of

Which = Literal["last", "best"]


@dataclass(frozen=True)
class Trained:
    """What a finished run left: run.json, configuration, what the checkpoint says of itself, and the model on the CPU."""

    folder: RunFolder
    run: dict[str, Any]
    config: RunConfig
    about: dict[str, Any]
    vocab_size: int
    model: GPT

    def corpus(self, watch: Watch = unwatched) -> Corpus:
        """The text that it was trained on. Raises RequestError where that cannot be had, or is another one now."""
        corpus = corpus_of(self.config, watch=watch)
        kept = self.run.get("text") or {}
        for key in IDENTITY:
            if kept.get(key) != corpus.reference[key]:
                raise RequestError(
                    f"the text is another one now ({key} was {kept.get(key)}, is {corpus.reference[key]})"
                )
        return corpus


def load(folder: RunFolder, which: Which = "last") -> Trained:
    """Read a finished run; nothing is written. Raises RequestError where it holds none with sound and finite weights."""
    run = folder.finished()
    config = on_cpu(config_of(folder))
    best = which == "best" and folder.best_file.exists()
    try:
        about = checkpoint.describe(folder.best_file if best else folder.last_file)
        vocab_size = _vocab_size(folder, about)
        model = build.model_of(config, vocab_size)
        checkpoint.load_weights(folder, model, which)
    except ValueError as error:
        raise RequestError(str(error)) from error
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise RequestError(f"{folder.path}: its weights are not finite: its training diverged")
    return Trained(folder, run, config, about, vocab_size, model.eval())


def on_cpu(config: RunConfig) -> RunConfig:
    """The configuration with what a look at weights needs, wherever the run was trained: the CPU, fp32, nothing compiled."""
    return replace(config, trainer=replace(config.trainer, device="cpu", precision="fp32", compile=False))


def _vocab_size(folder: RunFolder, about: dict[str, Any]) -> int:
    try:
        return tokenizer_from(checkpoint.load_tokenizer(folder, about)).vocab_size
    except Exception as error:  # the `tokenizers` library has none of its own
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder.path}: its tokenizer cannot be read ({type(error).__name__}: {reason})") from error
