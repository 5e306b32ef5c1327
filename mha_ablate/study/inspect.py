"""From the folder of a finished run, or of a GPT-2 checkpoint, to what its output projections are and what they are worth."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from mha_ablate.data.batches import TOKENS_AT_ONCE, validation_windows
from mha_ablate.data.corpus import Corpus
from mha_ablate.data.text import Watch, unwatched
from mha_ablate.data.tokenizers import Tokens
from mha_ablate.errors import RequestError
from mha_ablate.model.gpt import GPT
from mha_ablate.run.folder import RunFolder
from mha_ablate.run.gpt2 import Gpt2Folder, read_gpt2
from mha_ablate.study.finetune import finetuned
from mha_ablate.study.folding import try_folds
from mha_ablate.study.trained import Trained, Which, load
from mha_ablate.surgery.anatomy import of_activity, of_weights
from mha_ablate.surgery.experiments import NO_MATRIX, Subject, each_head, evaluations, rank_curve, whole_model
from mha_ablate.surgery.gpt2 import maps_of
from mha_ablate.surgery.swap import Batch, Bench, attentions

WORK = 2e12  # FLOPs of all passes together: about a minute on one core, whatever the model
TOKENS = (1024, 8192)  # of text, at least and at most, unless told otherwise
DRAWS = 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """How closely to look: windows of text (None: about a minute's worth), random draws a null, steps of fine-tuning (0: none)."""

    windows: int | None = None
    draws: int = DRAWS
    finetune: int = 0
    weights: Which = "last"

    def __post_init__(self) -> None:
        for option, value, low, high in (
            ("--eval-windows", self.windows, 1, 10**6),
            ("--draws", self.draws, 1, 1000),
            ("--finetune", self.finetune, 0, 10**6),
        ):
            if value is not None and not low <= value <= high:
                raise RequestError(f"{option} {value} is out of range: it must be {low} to {high}")


def inspect(folder: RunFolder, asked: Asked, *, say: Say = lambda _: None, watch: Watch = unwatched) -> dict[str, Any]:
    """All that is found, as plain values (docs/inspecting.md has the keys); the folder is only read. Raises RequestError.

    Where the run's text cannot be had, or the folder holds a GPT-2 checkpoint and no text, what is said of weights remains;
    `left_out` has what does not apply, and why.
    """
    foreign = Gpt2Folder(folder.path)
    if foreign.is_one():
        return finite(_of_gpt2(foreign))
    trained = load(folder, asked.weights)
    found = _head(trained)
    found["layers"] = [{"layer": layer, **told} for layer, told in enumerate(_weights(trained.model))]
    if found["layers"] and found["layers"][0].get("w_o") is None:
        found["left_out"].append({"what": "spectra, ranks and cross-head energy", "why": NO_MATRIX})
    try:
        corpus = trained.corpus(watch)
    except RequestError as error:
        found["left_out"].append({"what": "all that needs text", "why": str(error)})
        return finite(found)
    return finite(found | _on_text(trained, corpus, asked, found, say))


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have, such as a loss that has run over."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _head(trained: Trained) -> dict[str, Any]:
    m = trained.config.model
    return {
        "folder": str(trained.folder.path),
        "kind": "run",
        "arm": trained.run["arm"],
        "fc_out": trained.config.fc_out["_target_"].rpartition(".")[2],
        "step": trained.about.get("step"),
        "attention": {"qkv": trained.config.attention.qkv, "value": trained.config.attention.value},
        "sizes": {
            "d_model": m.d_model,
            "n_layers": m.n_layers,
            "n_heads": m.n_heads,
            "head_dim": m.width_of_head,
            "context": m.context,
        },
        **EMPTY,
        "left_out": [],
    }


EMPTY: dict[str, Any] = {
    "text": None,
    "loss": None,
    "experiments": [],
    "ranks": [],
    "heads": [],
    "folds": [],
    "finetune": None,
}


def _weights(model: GPT) -> list[dict[str, Any]]:
    """What the weights say of each layer, in float64; empty where W_O is no fixed matrix."""
    exact = copy.deepcopy(model).double()
    told = []
    for attention in attentions(exact):
        affine = attention.fc_out.as_affine(attention.qkv.map.weight)
        told.append(of_weights(affine[0], attention.qkv.value_weight().detach()) if affine else {"w_o": None})
    return told


def _on_text(trained: Trained, corpus: Corpus, asked: Asked, found: dict[str, Any], say: Say) -> dict[str, Any]:
    """The experiments, and what activity says of each layer."""
    model, n_heads = trained.model, trained.config.model.n_heads
    bench, text = _bench(trained, corpus.val, asked)
    say(f"{text['windows']} of {text['of']} windows of the validation text, {text['tokens']:,} tokens")
    affine = _affine(model)
    subject = Subject(bench, affine, n_heads, asked.draws, bench.losses())
    say("changes of all layers")
    experiments = whole_model(subject)
    say("ranks")
    ranks, no_ranks = rank_curve(subject)
    say("heads")
    heads = each_head(subject)
    say("folds")
    folds = try_folds(trained, bench)
    left_out = [{"what": row["name"], "why": row["why"]} for row in experiments if "why" in row]
    left_out += [{"what": "ranks", "why": no_ranks}] if no_ranks else []
    if text["windows"] < 2:
        left_out.append({"what": "resample", "why": "there is one window, and no other to take outputs from"})
    if asked.finetune:
        say(f"fine-tuning, {asked.finetune} steps each")
    return {
        "text": text,
        "loss": float(subject.losses.mean()),
        "experiments": [row for row in experiments if "why" not in row],
        "ranks": ranks,
        "heads": heads,
        "folds": folds,
        "finetune": finetuned(trained, corpus, bench.batches, asked.finetune) if asked.finetune else None,
        "layers": [row | of_activity(bench, row["layer"]) for row in found["layers"]],
        "left_out": [*found["left_out"], *left_out],
    }


def _affine(model: GPT) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
    """W and b of every layer in fp32, computed in float64; None where one has none."""
    exact = copy.deepcopy(model).double()
    found = [a.fc_out.as_affine(a.qkv.map.weight) for a in attentions(exact)]
    return [(pair[0].float(), pair[1].float()) for pair in found if pair] if all(found) else None


def _bench(trained: Trained, tokens: Tokens, asked: Asked) -> tuple[Bench, dict[str, Any]]:
    """Whole windows spread evenly over the validation text, and what was taken of it."""
    m = trained.config.model
    of = (len(tokens) - 1) // m.context
    wanted = min(of, asked.windows or _windows(trained, asked))
    stride = of // wanted
    pieces = validation_windows(
        tokens, context=m.context, device=torch.device("cpu"), stride=stride, tokens_per_batch=m.context
    )
    windows = list(islice(pieces, wanted))
    ids, targets = (torch.cat(part) for part in zip(*windows, strict=True))
    batches = max(1, min(wanted // 2, -(-wanted * m.context // TOKENS_AT_ONCE)))
    parts: list[Batch] = list(zip(ids.tensor_split(batches), targets.tensor_split(batches), strict=True))
    text = {"windows": wanted, "of": of, "tokens": targets.numel(), "context": m.context, "split": "validation"}
    return Bench(trained.model, parts), text


def _windows(trained: Trained, asked: Asked) -> int:
    """So many that all passes take about `WORK`: the same for every run of these sizes, on every machine."""
    m = trained.config.model
    passes = evaluations(m.n_layers, m.n_heads, min(m.d_model, m.n_heads * m.width_of_head), asked.draws)
    per_token = (trained.run.get("cost") or {}).get("flops_per_token") or 2 * sum(
        p.numel() for p in trained.model.parameters()
    )
    tokens = min(max(WORK / passes / per_token, TOKENS[0]), TOKENS[1])
    return max(2, round(tokens / m.context))


def _of_gpt2(folder: Gpt2Folder) -> dict[str, Any]:
    """Weights alone: there is no text that such a checkpoint would belong to."""
    try:
        config, tensors = read_gpt2(folder)
        maps = list(maps_of(tensors, config["n_layer"], config["n_head"], config["n_embd"]))
    except ValueError as error:
        here = str(folder.path)
        raise RequestError(str(error) if here in str(error) else f"{here}: {error}") from error
    width = config["n_embd"]
    return {
        "folder": str(folder.path),
        "kind": "gpt2",
        "arm": None,
        "fc_out": "c_proj",
        "step": None,
        "attention": {"qkv": "fused", "value": "learned"},
        "sizes": {
            "d_model": width,
            "n_layers": config["n_layer"],
            "n_heads": config["n_head"],
            "head_dim": width // config["n_head"],
            "context": config.get("n_positions", 1024),  # as `transformers` has it where nothing is said
        },
        **EMPTY,
        "layers": [{"layer": i, **of_weights(W.double(), V.double())} for i, (W, V) in enumerate(maps)],
        "left_out": [{"what": "all that needs text", "why": "a GPT-2 checkpoint folder names no text"}],
    }
