"""The one place that turns a configuration into models, optimizers and batches; `corpora` turns it into text."""

from __future__ import annotations

import glob
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from mha_ablate.config.registered import GROUP, registered
from mha_ablate.config.schema import LARGEST, RunConfig
from mha_ablate.cost.count import PeakMemory, forward_flops, parameters, parts, training_flops
from mha_ablate.data.batches import Batches, SameBatch, TrainBatches
from mha_ablate.data.cache import cache_dir
from mha_ablate.data.corpus import Corpus
from mha_ablate.errors import RequestError
from mha_ablate.model.cache import Past
from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.gpt import GPT
from mha_ablate.training.compiled import compiled_loss, pays, why_not
from mha_ablate.training.hardware import Hardware, resolve
from mha_ablate.training.optimizer import FlatAdamW
from mha_ablate.training.step import TOKENS_AT_ONCE, TrainingStep

if TYPE_CHECKING:
    from mha_ablate.training.stack import StackedStep

VARIANTS = "mha_ablate.model.fc_out."
COUNTED_UP_TO = 64  # tokens of a sequence that is run to count its FLOPs
EXPLICIT_UP_TO = (
    512  # context up to which open attention runs on a CPU: faster, but it keeps the weights of every layer
)


def resolved(config: RunConfig, *, elsewhere: bool = False) -> RunConfig:
    """The same configuration with no `auto` left and an absolute path of the text: what is hashed and written down.

    `elsewhere`: another machine trains, so that a GPU which is not here may be there. Raises RequestError.
    """
    hardware = _hardware_elsewhere(config) if elsewhere else hardware_of(config)
    trainer = replace(
        config.trainer,
        device=hardware.device,
        precision=hardware.precision,
        threads=hardware.threads,
        compile=_compiles(config, hardware.device),
    )
    path = config.data.path
    if path is not None:
        place = Path(path) if Path(path).exists() else Path(path).expanduser()
        here = str(Path.cwd())
        path = str(Path(here if place.exists() else glob.escape(here)) / place)
    return replace(config, trainer=trainer, data=replace(config.data, path=path))


def hardware_of(config: RunConfig) -> Hardware:
    """Device, precision and threads. Raises RequestError for a GPU that is not there."""
    try:
        t = config.trainer
        return resolve(t.device, t.precision, t.threads, memory=cache_dir())
    except ValueError as error:
        raise RequestError(str(error)) from error


def _hardware_elsewhere(config: RunConfig) -> Hardware:
    """As asked: `auto` is the CPU, since nobody has seen the other machine, and on its GPU the precision is to be said."""
    t = config.trainer
    if t.device != "cuda":
        return hardware_of(replace(config, trainer=replace(t, device="cpu")))
    if t.precision == "auto":
        raise RequestError(
            "trainer.device=cuda on another machine, whose GPU cannot be asked from here: give trainer.precision=bf16 or fp32 too"
        )
    return Hardware("cuda", t.precision, t.threads or 1)


def _compiles(config: RunConfig, device: str) -> bool:
    """Whether training steps are compiled: if asked for, or if the run is long enough and it can work. Raises RequestError.

    It depends on nothing but the run and the machine, so all arms of a study are compiled or none.
    """
    asked = config.trainer.compile
    if asked is False or device != "cpu" or (asked == "auto" and not pays(config.trainer.steps)):
        return False
    missing = why_not()
    if missing and asked is True:
        raise RequestError(f"trainer.compile=true: {missing}; install a C++ compiler, or take trainer.compile=auto")
    return missing is None


def kernels_of(config: RunConfig) -> str:
    """By which code a resolved configuration is trained: arms that are compared must agree in it, or their times say nothing."""
    attention = "open" if _explicit(config) else "fused"
    whole = ", steps recorded" if config.trainer.device == "cuda" and not config.model.dropout else ""
    return f"{attention} attention{whole}"


def _explicit(config: RunConfig) -> bool:
    return config.trainer.device == "cpu" and config.model.context <= EXPLICIT_UP_TO


def fc_out_maker(spec: dict[str, Any]) -> Callable[[Place], FcOut]:
    """A function that builds the variant named by `_target_` at a place. Raises RequestError for what is no variant.

    Only classes of this package's `model.fc_out`, and those that an installed package registers as entry points, are
    imported: a configuration file cannot name other code.
    """
    from hydra.utils import get_class

    target = str(spec["_target_"])
    settings = {k: v for k, v in spec.items() if k != "_target_"}
    if not target.startswith(VARIANTS) and target not in registered():
        raise RequestError(
            f"fc_out._target_={target} is not below {VARIANTS}, and no installed package registers it in the entry point group "
            f"{GROUP}: choose a variant by name (`mha-ablate list fc_out`), or install the package that registers it"
        )
    try:
        variant = get_class(target)
    except Exception as error:
        raise RequestError(
            f"fc_out._target_={target} cannot be imported ({' '.join(str(error).split())}): choose a variant by name "
            "(`mha-ablate list fc_out`)"
        ) from error
    if variant.__module__ == FcOut.__module__ or not issubclass(variant, FcOut):
        raise RequestError(f"fc_out._target_={target} is no variant of FcOut")
    try:
        inspect.signature(variant).bind(None, **settings)
    except TypeError as error:
        raise RequestError(f"fc_out: {variant.__name__} takes other settings ({error})") from error
    return lambda place: variant(place, **settings)


def model_of(config: RunConfig, vocab_size: int, device: str = "cpu", *, explicit: bool | None = None) -> GPT:
    """The model, its weights drawn from init_seed (none on the meta device). Raises RequestError for sizes that do not fit.

    `explicit` asks for open or fused attention; None takes what is faster on the device that the run is for.
    """
    m, attention = config.model, config.attention
    if explicit is None:
        explicit = _explicit(config)
    try:
        with torch.device("cpu"), _WithoutValues() if device == "meta" else nullcontext():
            model = GPT(
                vocab_size=vocab_size,
                d_model=m.d_model,
                n_layers=m.n_layers,
                n_heads=m.n_heads,
                head_dim=m.width_of_head,
                d_ff=m.width_of_mlp,
                context=m.context,
                make_fc_out=fc_out_maker(config.fc_out),
                qkv=attention.qkv,
                value=attention.value,
                scores=attention.scores,
                divide_by=attention.divide_by,
                qkv_bias=attention.bias,
                branch_scale=attention.branch_scale,
                block=m.block,
                norm_kind=m.norm,
                positions=m.positions,
                mlp=m.mlp,
                bias=m.bias,
                dropout=m.dropout,
                dropout_at=m.dropout_at,
                tied_embedding=m.tied_embedding,
                output_bias=m.output_bias,
                explicit_attention=explicit,
                init=config.init.rules,
                init_seed=config.seeds[0],
            )
    except ValueError as error:
        raise RequestError(str(error)) from error
    return model if device == "cpu" else model.to(device)


class _WithoutValues(TorchFunctionMode):
    """What is made empty, as parameters are, is made on the meta device.

    The few constants of a model (masks, tables of positions) are computed in earnest and moved there: computing them on
    the meta device would make torch import its compiler, which takes a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*args, **({"device": "meta", **kwargs} if func is torch.empty else kwargs))


def optimizer_of(config: RunConfig, model: GPT | Sequence[GPT], dtype: torch.dtype) -> FlatAdamW:
    """AdamW over the parameters of a model or of several side by side, which from now on are of `dtype`."""
    o = config.optim
    return FlatAdamW(model, dtype=dtype, weight_decay=o.weight_decay, betas=(o.beta1, o.beta2))


def batches_of(config: RunConfig, corpus: Corpus, device: torch.device) -> TrainBatches:
    """Training batches from data_seed."""
    return TrainBatches(
        corpus.train,
        batch_size=config.trainer.batch_size,
        context=config.model.context,
        data_seed=config.seeds[1],
        device=device,
    )


def step_of(config: RunConfig, model: GPT, corpus: Corpus, hardware: Hardware) -> TrainingStep:
    """What training repeats, ready to begin: optimizer, batches, and the model in its working precision."""
    batches = batches_of(config, corpus, torch.device(hardware.device))
    step = _step_of(config, model, batches, hardware, compiled=config.trainer.compile is True)
    if config.trainer.compile is True:
        step.warm_up()
    return step


def training_of(
    configs: Sequence[RunConfig], models: Sequence[GPT], corpus: Corpus, hardware: Hardware
) -> TrainingStep | StackedStep:
    """The step that trains cells which differ in their seeds alone, each with its own model.

    One on a CPU, or with dropout, is the ordinary step. On a GPU, and wherever there are several, they are stacked; on a
    GPU the step is recorded once and replayed, since these models would leave it waiting for launches.
    """
    first, *others = configs
    if not others and (hardware.device == "cpu" or first.model.dropout):
        return step_of(first, models[0], corpus, hardware)
    # Not needed on a CPU, where imports are what a small run waits for.
    from mha_ablate.training.graph import record_cuda_graph
    from mha_ablate.training.stack import StackedStep

    device = torch.device(hardware.device)
    return StackedStep(
        models,
        optimizer_of(first, models, hardware.dtype),
        [batches_of(config, corpus, device) for config in configs],
        grad_clip=first.optim.grad_clip,
        device=device,
        record=record_cuda_graph if hardware.device == "cuda" else None,
    )


def _step_of(
    config: RunConfig, model: GPT, batches: Batches, hardware: Hardware, *, compiled: bool = False
) -> TrainingStep:
    return TrainingStep(
        model,
        optimizer_of(config, model, hardware.dtype),
        batches,
        grad_clip=config.optim.grad_clip,
        dropout_seed=config.seeds[1],
        tokens_at_once=TOKENS_AT_ONCE if hardware.device == "cpu" else None,
        loss=compiled_loss(model, cache_dir() / "compiled") if compiled else None,
    )


def counted_cost(config: RunConfig, vocab_size: int) -> dict[str, Any]:
    """What can be counted of a cell before it runs: `counted_work`, and `peak_memory_mb` in units of 10^6 bytes."""
    return {**counted_work(config, vocab_size), "peak_memory_mb": peak_memory(config, vocab_size) / 1e6}


def counted_work(config: RunConfig, vocab_size: int, device: str = "cpu") -> dict[str, Any]:
    """Parameters, trained and frozen, whole and by part, and FLOPs per token.

    `flops_per_token` is the forward pass, `train_flops_per_token` that and the backward pass, both of matrix products;
    `elementwise_flops_per_token` is the other work of fc_out, forward, by the variants' own formulas. Counts are the
    same on the meta device, where nothing is computed; but torch imports its compiler there, for which a run that is about to begin
    would wait longer than for one sequence in earnest.
    """
    model = model_of(config, vocab_size, device, explicit=False)  # counts attention whole, tiles skip some of it
    by_part = parts(model)
    fc_outs = [module for module in model.modules() if isinstance(module, FcOut)]
    return {
        "params": parameters(model),
        "params_frozen": parameters(model, trained=False),
        "params_attention": by_part["qkv"] + by_part["fc_out"],
        "params_fc_out": by_part["fc_out"],
        "params_embedding": by_part["embedding"],
        "params_mlp": by_part["mlp"],
        "params_norm": by_part["norm"],
        "flops_per_token": _per_token(lambda ids: forward_flops(lambda: model(ids)), config.model.context, device),
        "train_flops_per_token": _per_token(
            lambda ids: training_flops(lambda: model.loss(ids, ids)), config.model.context, device
        ),
        "elementwise_flops_per_token": sum(fc_out.elementwise_flops for fc_out in fc_outs),
    }


def _per_token(counted: Callable[[torch.Tensor], int], context: int, device: str) -> float:
    """What is counted over `context` tokens, by token.

    Attention alone grows with the context, in proportion: two short sequences tell what a long one takes.
    """

    def of(T: int) -> float:
        return counted(torch.zeros((1, T), dtype=torch.long, device=device)) / T

    if context <= COUNTED_UP_TO:
        return of(context)
    half, whole = of(COUNTED_UP_TO // 2), of(COUNTED_UP_TO)
    return whole + (whole - half) * (context - COUNTED_UP_TO) / (COUNTED_UP_TO // 2)


def peak_memory(config: RunConfig, vocab_size: int) -> int:
    """Bytes of one training step at its peak, counted on the meta device: weights, masters, moments, gradients, activations."""
    return counted_memory(config, vocab_size)["peak"]


def counted_memory(config: RunConfig, vocab_size: int) -> dict[str, int]:
    """The same in parts, in bytes: `peak`, and of it `weights`, `optimizer` (masters, moments, gradients) and `activations`."""
    model = model_of(config, vocab_size, "meta")
    ids = torch.zeros((config.trainer.batch_size, config.model.context), dtype=torch.long, device="meta")
    with PeakMemory() as memory:
        step = _step_of(config, model, SameBatch(ids, ids), hardware_of(config))
        step(0, 1e-3)
    optimizer = step.optimizer
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    held = {t.untyped_storage()._cdata: t.nbytes for t in optimizer.state}
    weights = optimizer.working.nbytes + frozen
    kept = sum(held.values()) - optimizer.working.nbytes
    return {"peak": memory.peak, "weights": weights, "optimizer": kept, "activations": memory.peak - weights - kept}


def cache_bytes_per_token(config: RunConfig, vocab_size: int) -> int:
    """Bytes that the keys and values of one more token take, in all layers, in the working precision."""
    model = model_of(config, vocab_size, "meta", explicit=True)
    past = [Past() for _ in model.blocks]
    model(torch.zeros((1, 1), dtype=torch.long, device="meta"), past)
    fp32 = sum(layer.nbytes for layer in past)
    return fp32 * hardware_of(config).dtype.itemsize // torch.float32.itemsize


def matched(config: RunConfig, reference: RunConfig, vocab_size: int) -> RunConfig:
    """`match` carried out: model.d_ff such that the trained parameters, or the FLOPs per token, are those of `reference`.

    Raises RequestError where no width comes within 0.5%.
    """

    def count(config: RunConfig) -> float:
        model = model_of(config, vocab_size, "meta", explicit=False)
        if match == "params":
            return parameters(model, trained=True)
        return forward_flops(lambda: model(torch.zeros((1, T), dtype=torch.long, device="meta"))) / T

    def at(d_ff: int) -> RunConfig:
        return replace(config, model=replace(config.model, d_ff=d_ff))

    match, T = config.match, config.model.context
    what = "parameters that train" if match == "params" else "FLOPs per token"
    wanted, least = count(reference), count(at(1))
    per_channel = count(at(2)) - least
    d_ff = min(LARGEST["d_ff"], max(1, 1 + round((wanted - least) / per_channel)))
    if abs(count(at(d_ff)) - wanted) > 0.005 * wanted:
        raise RequestError(
            f"match={match}: the nearest width, model.d_ff={d_ff}, has {count(at(d_ff)):,.0f} {what} where {wanted:,.0f} are to "
            "be matched: more than 0.5% apart"
        )
    return replace(at(d_ff), match=None, match_to=None)
