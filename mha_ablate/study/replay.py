"""A finished run once more, from its own config.yaml: is it the same run, bit for bit, and if not, from where on?"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mha_ablate.config.compose import compose, from_plain
from mha_ablate.config.flat import changes
from mha_ablate.config.schema import RunConfig
from mha_ablate.corpora import corpus_of
from mha_ablate.data.corpus import IDENTITY
from mha_ablate.errors import RequestError
from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from mha_ablate.run.shape import parsed_yaml, read_text
from mha_ablate.run.shape import plain as plain_values
from mha_ablate.study.cell import Cell
from mha_ablate.study.observer import Observer
from mha_ablate.study.single import run_single

BY_THE_CLOCK = frozenset(("wall_time", "train_s", "perf/step_ms", "perf/tokens_per_s"))


@dataclass(frozen=True)
class Replay:
    """What a second run showed: how much was compared, where it first differs, and what differs around it."""

    lines: int
    tensors: int
    difference: str | None  # None: the same bits
    surroundings: dict[str, list[Any]]  # of provenance: [then, now]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with `same`."""
        return {"same": self.difference is None, **asdict(self)}


def replay(folder: RunFolder, observer: Observer) -> Replay:
    """Train the run in `folder` again, elsewhere, and compare every measurement and every weight; the folder is only read.

    Raises RequestError where it holds no finished run, where its text is another one now, or where its configuration cannot
    be run by this version.
    """
    about = folder.finished()
    config = config_of(folder)
    corpus = corpus_of(config, watch=observer.reading)
    text = about.get("text") or {}
    if changed := [key for key in IDENTITY if text.get(key) != corpus.reference[key]]:
        raise RequestError(
            f"{folder.path}: its text is another one now ({changed[0]} was {text.get(changed[0])}, is "
            f"{corpus.reference[changed[0]]}): bring the old text back to replay the run"
        )
    with tempfile.TemporaryDirectory(prefix="mha_ablate-replay-") as scratch:
        again = RunFolder(Path(scratch) / "run")
        cell = Cell(arm=str(about["arm"]), seed=int(about["seed"]), config=config, folder=again, text=corpus.reference)
        now = run_single(cell, observer, count_memory=False)
        lines = (folder.lines(), again.lines())
        difference = first_difference(*lines) or _difference_of_weights(folder, again)
        tensors = len(checkpoint.load(again.last_file)[0])
        return Replay(
            lines=len(lines[0]),
            tensors=tensors,
            difference=difference,
            surroundings=changes(about.get("provenance") or {}, now["provenance"]),
        )


def config_of(folder: RunFolder) -> RunConfig:
    """The configuration of a run. Keys that this version has added since have their defaults. Raises RequestError."""
    try:
        kept = parsed_yaml(read_text(folder.config_file))
        plain_values(kept)
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder.config_file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(kept, dict):
        raise RequestError(f"{folder.config_file} holds no configuration")
    # Before there was a choice of init, weights started as GPT-2's.
    plain = asdict(compose([] if "init" in kept else ["init=gpt2"]).config)
    for key, value in kept.items():
        default = plain.get(key)
        merge = isinstance(default, dict) and isinstance(value, dict) and key not in ("fc_out", "data")
        plain[key] = {**default, **value} if merge else value  # pyright: ignore[reportGeneralTypeIssues]
    try:
        config = from_plain(plain)
    except RequestError as error:
        raise RequestError(f"{folder.config_file}: {error}") from error
    return replace(config, match=None, match_to=None)


def first_difference(then: list[dict[str, Any]], now: list[dict[str, Any]]) -> str | None:
    """Where two runs' lines first differ in anything but what a clock says, in words; None where they do not."""
    for a, b in zip(then, now, strict=False):
        for key in a | b:
            if key not in BY_THE_CLOCK and a.get(key) != b.get(key):
                return f"step {a['step']}, {key}: {a.get(key)} then, {b.get(key)} now"
    if len(then) != len(now):
        return f"{len(then)} lines then, {len(now)} now"
    return None


def _difference_of_weights(then: RunFolder, now: RunFolder) -> str | None:
    try:
        a = checkpoint.load(then.last_file)[0]
    except ValueError as error:
        return f"the weights cannot be compared: {error}"
    b = checkpoint.load(now.last_file)[0]
    if a.keys() != b.keys():
        return f"the weights are of other tensors: {sorted(a.keys() ^ b.keys())[0]} is in one run alone"
    for name in sorted(a):
        if a[name].shape != b[name].shape or a[name].dtype != b[name].dtype:
            return f"weights after the last step, {name}: other shapes or types"
        if not torch.equal(a[name].nan_to_num(), b[name].nan_to_num()):
            apart = (a[name] - b[name]).abs().max().item()
            return f"weights after the last step, {name}: up to {apart:.3g} apart"
    return None
