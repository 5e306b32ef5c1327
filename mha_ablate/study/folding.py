"""Folds of a run's model: which are exact, and a checkpoint written of one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mha_ablate import build
from mha_ablate.config.catalog import choice_names
from mha_ablate.config.compose import to_yaml
from mha_ablate.config.paths import configs_dir
from mha_ablate.config.schema import RunConfig
from mha_ablate.errors import RequestError, nearest
from mha_ablate.model.fc_out.base import Place
from mha_ablate.model.gpt import GPT
from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder, write_atomic
from mha_ablate.run.shape import parsed_yaml, read_text
from mha_ablate.study.cell import Cell
from mha_ablate.study.trained import Trained
from mha_ablate.surgery.fold import Inexact, can_take, fold_into, fold_value_bias
from mha_ablate.surgery.swap import Bench, attentions

VALUE_BIAS = "v_bias"  # b_V into b_O; every other fold is named by the variant that takes W_O
PROBE = 64  # tokens on which logits are compared


@dataclass(frozen=True)
class Folded:
    """The same function as another checkpoint: its configuration, and its model in fp32."""

    name: str
    config: RunConfig
    model: GPT


def fold(trained: Trained, name: str) -> Folded:
    """Fold and keep. Raises RequestError for a fold that there is not, and Inexact for one that would change the function."""
    if name not in (names := [VALUE_BIAS, *targets()]):
        raise RequestError(f"--fold {name}: there is no such fold{nearest(name, names)}; there are {', '.join(names)}")
    exact = copy.deepcopy(trained.model).double()
    if name == VALUE_BIAS:
        return Folded(name, trained.config, fold_value_bias(exact).float())
    config = _config_of(trained, name)
    try:
        target = build.model_of(config, trained.vocab_size)
    except RequestError as error:
        raise Inexact(str(error)) from error
    return Folded(name, config, fold_into(exact, target.double()).float().eval())


@cache
def targets() -> tuple[str, ...]:
    """The variants that hold nothing of their own, into which a W_O can be folded."""
    place = Place(d_model=8, n_heads=2, head_dim=4, n_layers=1, layer=0, bias=True, value_inputs=8)
    return tuple(name for name in choice_names("fc_out") if can_take(build.fc_out_maker(spec_of(name))(place)))


@cache
def spec_of(name: str) -> dict[str, Any]:
    """What a configuration says of a variant: its class and its usual settings."""
    return parsed_yaml(read_text(configs_dir() / "fc_out" / f"{name}.yaml"))


def _config_of(trained: Trained, name: str) -> RunConfig:
    """The run's configuration with the other variant; a branch as loud as it was made, which hangs on the variant."""
    config, scale = trained.config, trained.config.attention.branch_scale
    made = attentions(trained.model)[0]
    if isinstance(scale, str) and made.scale is None:
        scale = made.branch_scale
    return replace(config, fc_out=dict(spec_of(name)), attention=replace(config.attention, branch_scale=scale))


def apart(model: GPT, other: GPT) -> float:
    """Max |logit difference| on one window of arbitrary tokens, the same for every model of these sizes."""
    T, vocab_size = min(model.context, PROBE), model.tokens.weight.shape[0]
    ids = torch.randint(0, vocab_size, (4, T), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return float((model(ids) - other(ids)).abs().max())


def try_folds(trained: Trained, bench: Bench) -> list[dict[str, Any]]:
    """Every fold there is: `exact`, and then `delta` in nats and `max_logit_difference`, both in fp32; or `why` not."""
    return list(_tried(trained, bench))


def _tried(trained: Trained, bench: Bench) -> Iterator[dict[str, Any]]:
    loss = bench.loss()
    for name in [VALUE_BIAS, *targets()]:
        if _is_it(trained, name):
            continue
        try:
            folded = fold(trained, name).model
        except Inexact as error:
            yield {"name": name, "exact": False, "why": str(error)}
            continue
        delta = Bench(folded, bench.batches).loss() - loss
        yield {"name": name, "exact": True, "delta": delta, "max_logit_difference": apart(trained.model, folded)}


def _is_it(trained: Trained, name: str) -> bool:
    return name != VALUE_BIAS and spec_of(name) == trained.config.fc_out


def write_folded(trained: Trained, name: str, out: Path) -> dict[str, Any]:
    """Write a run-like folder whose model is the folded one; returns what was compared. Raises RequestError.

    config.yaml, run.json and checkpoint/ are as of a run, and `folded` in run.json says where it comes from; it has no
    metrics of its own.
    """
    refuse_filled(out, trained.folder)
    try:
        folded = fold(trained, name)
    except Inexact as error:
        raise RequestError(f"--fold {name} is not exact here: {' '.join(str(error).split())}") from error
    difference = apart(trained.model, folded.model)
    told = {"from": str(trained.folder.path), "fold": name, "max_logit_difference": difference}
    target = RunFolder(out)
    write_atomic(target.config_file, to_yaml(folded.config, without=("study",)))
    kept = checkpoint.save_tokenizer(target, checkpoint.load_tokenizer(trained.folder, trained.about))
    run = _run_of(trained, folded, target, told)
    about = {"step": trained.about.get("step"), "config_hash": run["config_hash"], "tokenizer": kept}
    checkpoint.save_weights(target.last_file, folded.model, about)
    target.write(run)  # last: before it, the folder is no finished run
    return {"folder": str(out), **told}


def _run_of(trained: Trained, folded: Folded, target: RunFolder, told: dict[str, Any]) -> dict[str, Any]:
    """run.json: the result is the old run's, whose function this is; its times and costs were those of other weights."""
    old = trained.run
    cell = Cell(
        arm=f"{old['arm']}_{folded.name}", seed=int(old["seed"]), config=folded.config, folder=target, text=old["text"]
    )
    result = {k: v for k, v in (old.get("result") or {}).items() if k in ("step", "val_loss")}
    own = {
        "arm": cell.arm,
        "config_hash": cell.hash,
        "arm_hash": cell.arm_hash,
        "overrides": [],
        "choices": {},
        "result": result,
    }
    return {k: v for k, v in old.items() if k != "resumed"} | own | {"folded": told, "cost": {}}


def refuse_filled(out: Path, run: RunFolder) -> None:
    """Raise RequestError where something lies at `out` already, or where it lies in the run that it is made from."""
    if run.path.resolve() in (out.resolve(), *out.resolve().parents):
        raise RequestError(f"--out {out} lies in the run itself, which is only read: name a folder elsewhere")
    if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        raise RequestError(f"--out {out} is there already: name a folder that is new or empty")
