"""Our starts are those of the libraries that they are named after: torch itself, and transformers where it is installed.

Each library's module is made several times, and its tensors are pooled and held against the same tensors of our model: the
standard deviation within its sampling error, the largest value within the bound, the kind by Kolmogorov and Smirnov's test.
"""

from __future__ import annotations

import importlib.util
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from mha_ablate.build import model_of
from mha_ablate.config.catalog import choices
from mha_ablate.config.compose import compose
from mha_ablate.study.starts import Start, measured_starts
from scripts import starts_page

D_MODEL, HEADS, LAYERS, D_FF, VOCAB, CONTEXT, SEEDS = 128, 4, 4, 512, 97, 64, 4
MOST = 2**16
SIZES = (f"model.d_model={D_MODEL}", f"model.n_heads={HEADS}", f"model.n_layers={LAYERS}", f"model.d_ff={D_FF}")
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed: pip install '.[hf]'"
)

Parts = dict[str, list[Tensor]]  # by the names of our rules


# ---- ours


@cache
def ours(init: str) -> dict[str, Tensor]:
    """The tensors of a model of ours by rule, pooled over layers and seeds."""
    pooled: Parts = defaultdict(list)
    more = ("model.bias=true", "model.output_bias=true", "model.tied_embedding=false", "model.positions=learned")
    for seed in range(SEEDS):
        sizes = (*SIZES, f"model.context={CONTEXT}", f"init={init}", f"init_seed={seed}", "trainer.device=cpu")
        model = model_of(compose([*sizes, *more]).config, VOCAB)
        for name, tensor in model.named_parameters():
            for rule, part in of_ours(name, tensor.detach()):
                pooled[rule].append(part)
    return joined(pooled)


def of_ours(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    if "qkv" in name:
        rules = ("query", "key", "value") if name.endswith("weight") else ("attention_bias",) * 3
        return zip(rules, tensor.chunk(3), strict=True)
    ends = {
        "fc_out.map.weight": "out",
        "fc_out.map.bias": "out_bias",
        "up.weight": "up",
        "up.bias": "up_bias",
        "down.weight": "down",
        "down.bias": "down_bias",
        "tokens.weight": "embedding",
        "positions.weight": "positions",
        "output.weight": "output",
        "output.bias": "output_bias",
    }
    return [(rule, tensor) for end, rule in ends.items() if name.endswith(end)]


def joined(parts: Parts) -> dict[str, Tensor]:
    """At most MOST values of each, from all of its tensors."""
    whole = {rule: torch.cat([t.detach().flatten() for t in tensors]).double() for rule, tensors in parts.items()}
    return {rule: values[:: -(-len(values) // MOST)] for rule, values in whole.items()}


# ---- theirs: a function that makes the module once, by rule


def linear(inputs: int, outputs: int, weight: str, bias: str) -> Parts:
    made = nn.Linear(inputs, outputs)
    tensors: Parts = {weight: [made.weight], bias: [made.bias]}
    return tensors


def plain_torch() -> Parts:
    found: Parts = defaultdict(list)
    for _ in range(LAYERS):
        pieces = [
            *(linear(D_MODEL, D_MODEL, name, "attention_bias") for name in ("query", "key", "value")),
            linear(D_MODEL, D_MODEL, "out", "out_bias"),
            linear(D_MODEL, D_FF, "up", "up_bias"),
            linear(D_FF, D_MODEL, "down", "down_bias"),
        ]
        for piece in pieces:
            for rule, tensors in piece.items():
                found[rule] += tensors
    ends = linear(D_MODEL, VOCAB, "output", "output_bias")
    tables: Parts = {
        "embedding": [nn.Embedding(VOCAB, D_MODEL).weight],
        "positions": [nn.Embedding(CONTEXT, D_MODEL).weight],
    }
    return {**found, **ends, **tables}


def mha_parts(attention: nn.MultiheadAttention) -> Parts:
    q, k, v = attention.in_proj_weight.chunk(3)
    biases: Parts = {"attention_bias": [attention.in_proj_bias], "out_bias": [attention.out_proj.bias]}
    return {"query": [q], "key": [k], "value": [v], "out": [attention.out_proj.weight], **biases}


def multihead_attention() -> Parts:
    return merged(mha_parts(nn.MultiheadAttention(D_MODEL, HEADS)) for _ in range(LAYERS))


def layer_parts(layer: Any) -> Parts:
    mlp: Parts = {"up": [layer.linear1.weight], "down": [layer.linear2.weight]}
    return {**mha_parts(layer.self_attn), **mlp, "up_bias": [layer.linear1.bias], "down_bias": [layer.linear2.bias]}


def encoder_layer() -> Parts:
    return merged(layer_parts(nn.TransformerEncoderLayer(D_MODEL, HEADS, D_FF)) for _ in range(LAYERS))


def whole_transformer() -> Parts:
    made = nn.Transformer(D_MODEL, HEADS, LAYERS, 1, D_FF, batch_first=True)
    return merged(layer_parts(layer) for layer in made.encoder.layers)


def merged(parts: Iterable[Parts]) -> Parts:
    found: Parts = defaultdict(list)
    for piece in parts:
        for rule, tensors in piece.items():
            found[rule] += tensors
    return dict(found)


def by_names(model: nn.Module, names: dict[str, str]) -> Parts:
    """Parameters by how their names end; the longest end counts."""
    found: Parts = defaultdict(list)
    for name, p in model.named_parameters():
        if ends := [end for end in names if name.endswith(end)]:
            found[names[max(ends, key=len)]].append(p)
    assert set(found) == set(names.values())
    return dict(found)


def gpt2() -> Parts:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {
        "n_embd": D_MODEL,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "n_inner": D_FF,
        "n_positions": CONTEXT,
    }
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, tie_word_embeddings=False, **sizes))
    names = {
        "attn.c_proj.weight": "out",
        "attn.c_proj.bias": "out_bias",
        "attn.c_attn.bias": "attention_bias",
        "mlp.c_fc.weight": "up",
        "mlp.c_fc.bias": "up_bias",
        "mlp.c_proj.weight": "down",
        "mlp.c_proj.bias": "down_bias",
        "wte.weight": "embedding",
        "wpe.weight": "positions",
        "lm_head.weight": "output",
    }
    stacked = by_names(model, {"c_attn.weight": "qkv"})["qkv"]
    rows = [weight.chunk(3, dim=1) for weight in stacked]
    qkv = {name: [row[i] for row in rows] for i, name in enumerate(("query", "key", "value"))}
    return {**by_names(model, names), **qkv}


def llama() -> Parts:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"hidden_size": D_MODEL, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, intermediate_size=D_FF, tie_word_embeddings=False, **sizes))
    names = {
        f"{letter}_proj.weight": rule for letter, rule in zip("qkvo", ("query", "key", "value", "out"), strict=True)
    }
    mlp = {"up_proj.weight": "up", "down_proj.weight": "down"}
    return by_names(model, {**names, **mlp, "embed_tokens.weight": "embedding", "lm_head.weight": "output"})


def t5() -> Parts:
    from transformers import T5Config, T5EncoderModel

    sizes: dict[str, Any] = {"d_model": D_MODEL, "d_kv": D_MODEL // HEADS, "num_heads": HEADS, "num_layers": LAYERS}
    model = T5EncoderModel(T5Config(vocab_size=VOCAB, d_ff=D_FF, **sizes))
    maps = {f"SelfAttention.{letter}.weight": rule for letter, rule in zip("kvo", ("key", "value", "out"), strict=True)}
    mlp = {"DenseReluDense.wi.weight": "up", "DenseReluDense.wo.weight": "down", "shared.weight": "embedding"}
    found = by_names(model, {**maps, **mlp, "SelfAttention.q.weight": "query"})
    # Its scores are not divided by sqrt(D) as ours are: what its q is multiplied by to give the same ones.
    return {**found, "query": [q * math.sqrt(D_MODEL // HEADS) for q in found["query"]]}


def modernbert() -> Parts:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    sizes: dict[str, Any] = {"hidden_size": D_MODEL, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
    own: dict[str, Any] = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    }
    config = ModernBertConfig(vocab_size=VOCAB, intermediate_size=D_FF, **sizes, **own)
    model = ModernBertForMaskedLM(config)
    found = by_names(
        model,
        {
            "attn.Wqkv.weight": "qkv",
            "attn.Wo.weight": "out",
            "mlp.Wi.weight": "up",
            "mlp.Wo.weight": "down",
            "tok_embeddings.weight": "embedding",
        },
    )
    rows = [weight.chunk(3) for weight in found.pop("qkv")]
    found["output"] = [model.decoder.weight.detach()]  # as it comes, that is the embedding
    return {**found, **{name: [row[i] for row in rows] for i, name in enumerate(("query", "key", "value"))}}


TEXT: dict[str, Any] = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
LEARNED = {**TEXT, "max_position_embeddings": CONTEXT}
ONE_TO_ONE = {**TEXT, "num_key_value_heads": HEADS, "head_dim": D_MODEL // HEADS}
PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
TWO_MAPS = {"fc1": "up", "fc2": "down"}
GATED = {**PROJECTIONS, "gate_proj": "up", "up_proj": "up", "down_proj": "down"}
ENDS = {"embed_tokens": "embedding", "lm_head": "output"}
# Families of one start: the class of the model, what its configuration has of its own, and the ends of its tensors' names.
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "Bert": (
        "BertForMaskedLM",
        {**LEARNED, "intermediate_size": D_FF},
        {
            **{"self.query": "query", "self.key": "key", "self.value": "value", "attention.output.dense": "out"},
            **{"intermediate.dense": "up", "output.dense": "down"},
            **{"word_embeddings": "embedding", "position_embeddings": "positions"},
        },
    ),
    "ViT": (
        "ViTModel",
        {"intermediate_size": D_FF, "image_size": 16, "patch_size": 8},
        {**PROJECTIONS, **TWO_MAPS},
    ),
    "OPT": (
        "OPTForCausalLM",
        {**LEARNED, "ffn_dim": D_FF, "word_embed_proj_dim": D_MODEL},
        {
            **{"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"},
            **{**TWO_MAPS, "embed_tokens": "embedding", "embed_positions": "positions"},
        },
    ),
    "GPTNeoX": (
        "GPTNeoXForCausalLM",
        {**LEARNED, "intermediate_size": D_FF},
        {
            **{"query_key_value": "qkv", "attention.dense": "out", "dense_h_to_4h": "up", "dense_4h_to_h": "down"},
            **{"embed_in": "embedding", "lm_head": "output"},
        },
    ),
    "Olmo2": ("Olmo2ForCausalLM", {**ONE_TO_ONE, "intermediate_size": D_FF}, {**GATED, **ENDS}),
    "Qwen3": ("Qwen3ForCausalLM", {**ONE_TO_ONE, "intermediate_size": D_FF}, {**GATED, **ENDS}),
    # Its embedding is multiplied by sqrt(C) where it is read, and is left out.
    "Gemma3Text": ("Gemma3ForCausalLM", {**ONE_TO_ONE, "intermediate_size": D_FF}, GATED),
}


def family(name: str) -> Parts:
    """The tensors of a model of transformers by rule; biases where it has some."""
    import transformers

    kind, own, ends = FAMILIES[name]
    config = getattr(transformers, f"{name}Config")
    sizes = {"hidden_size": D_MODEL, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
    model = getattr(transformers, kind)(config(**sizes, **own))
    found = by_names(model, {f"{end}.weight": rule for end, rule in ends.items()})
    biases = {f"{end}.bias": rule for end, rule in ends.items() if rule not in ("embedding", "positions", "output")}
    if any(parameter.endswith(tuple(biases)) for parameter, _ in model.named_parameters()):
        for rule, tensors in by_names(model, biases).items():
            name_of_bias = "attention_bias" if rule in ("query", "key", "value", "qkv") else f"{rule}_bias"
            found.setdefault(name_of_bias, []).extend(tensors)
    for weight in found.pop("qkv", []):  # a head's q, k and v stand together
        for rule, rows in zip(("query", "key", "value"), weight.unflatten(0, (HEADS, 3, -1)).unbind(1), strict=True):
            found.setdefault(rule, []).append(rows)
    return found


LIBRARIES: list[Any] = [
    pytest.param("torch", plain_torch, id="nn.Linear, nn.Embedding"),
    pytest.param("torch_mha", multihead_attention, id="nn.MultiheadAttention"),
    pytest.param("torch_mha", encoder_layer, id="nn.TransformerEncoderLayer"),
    pytest.param("nn_transformer", whole_transformer, id="nn.Transformer"),
    *(
        pytest.param(init, make, id=f"transformers, {init}", marks=needs_transformers)
        for init, make in (("gpt2", gpt2), ("llama", llama), ("t5", t5), ("modernbert", modernbert))
    ),
    *(
        pytest.param("llama", partial(family, name), id=f"transformers, {name}", marks=needs_transformers)
        for name in FAMILIES
    ),
]
library = pytest.mark.parametrize(("init", "make"), LIBRARIES)
# The largest value over the standard deviation, where there is one.
BOUNDS = {"uniform": math.sqrt(3), "truncated": 2 / 0.8796256610342398}
ALPHA = 1e-4  # of a test of some 70, on seeds that do not change


def theirs(make: Callable[[], Parts]) -> dict[str, Tensor]:
    """Pooled over seeds, and the global random state as it was before."""
    with torch.random.fork_rng(), torch.no_grad():
        pooled = []
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            pooled.append(make())
        return joined(merged(pooled))


@library
def test_our_start_is_that_of_the_library(init: str, make: Callable[[], Parts]) -> None:
    mine, other = ours(init), theirs(make)
    assert other
    for rule, values in other.items():
        alike(mine[rule], values, rule)


def alike(mine: Tensor, other: Tensor, rule: str) -> None:
    """Mean, variance, bound and kind."""
    if not other.any():
        assert not mine.any(), rule
        return
    a, b = float(mine.std()), float(other.std())
    excess = abs(float(stats.kurtosis(other.numpy())))
    for x in (mine, other):
        assert abs(float(x.mean())) < 4.5 * b / math.sqrt(len(x)), rule
    # Var(s) / s^2 = (kurtosis - 1) / 4n, which is at most that of a normal here.
    assert abs(a / b - 1) < 4.5 * math.sqrt(0.5 / len(mine) + 0.5 / len(other)), (rule, a, b)
    kind = "uniform" if float(stats.kurtosis(other.numpy())) < -0.9 else "truncated" if excess > 0.4 else "normal"
    if kind in BOUNDS:
        for x in (mine, other):
            ratio = float(x.abs().max()) / b
            assert ratio < BOUNDS[kind] * (1 + 4.5 * math.sqrt(0.5 / len(other))), (rule, ratio)
    for x, y in ((mine, other), (mine / a, other / b)):
        found: Any = stats.ks_2samp(x.numpy(), y.numpy(), method="asymp")
        assert found.pvalue > ALPHA, (rule, kind)


@library
def test_no_other_init_is_taken_for_it(init: str, make: Callable[[], Parts]) -> None:
    """The comparison above is worth something: it refuses every other init but one that this library's module cannot tell apart."""
    same = {frozenset(("torch_mha", "nn_transformer"))}
    other = theirs(make)
    passed = []
    for choice in choices("init"):
        try:
            for rule, values in other.items():
                alike(ours(choice.name)[rule], values, rule)
        except AssertionError:
            continue
        passed.append(choice.name)
    assert init in passed
    assert all(name == init or frozenset((name, init)) in same for name in passed), passed


@needs_transformers
@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("GPT-2, nanoGPT", ["GPT2"]),
        ("ModernBERT", ["ModernBert"]),
        ("BERT, OPT", ["Bert", "OPT"]),
        ("Llama, GPT-NeoX, ViT of transformers", ["Llama", "GPTNeoX"]),
        ("OLMo2, Qwen3", ["Olmo2", "Qwen3"]),
        ("Gemma3", ["Gemma3Text"]),
        ("T5", ["T5"]),
    ],
)
def test_the_page_says_who_ties_the_embedding(row: str, names: list[str]) -> None:
    import transformers

    [note] = [note for code, _, note in starts_page.FAMILIES if code == row]
    for name in names:
        tied = getattr(transformers, f"{name}Config")().tie_word_embeddings
        assert tied is ("`model.tied_embedding=true`" in note), name


# ---- the gains that were measured in the libraries themselves, d_model 128, 4 heads, 4 layers

# gain of V, gain of O, gain of V O, standard deviation of scores, tokens attended, how many times larger without W_O
MEASURED: dict[str, tuple[float, float, float, float, float, float | None]] = {
    "torch": (0.577, 0.577, 0.333, 0.333, 60.6, 1.73),
    "torch_mha": (0.706, 0.578, 0.408, 0.500, 56.7, 1.73),
    "nn_transformer": (0.708, 1.000, 0.708, 0.501, 56.7, 1.00),
    "xavier": (1.000, 1.000, 1.00, 0.998, 40.7, 1.00),
    "keras": (0.236, 0.632, 0.149, 0.055, 63.9, 1.58),
    "flax": (0.997, 0.999, 1.00, 1.00, 40.6, 1.00),
    "gpt2": (0.226, 0.080, 0.0181, 0.051, 63.9, 12.5),
    "llama": (0.226, 0.227, 0.0512, 0.051, 63.9, 4.4),
    "t5": (1.002, 1.000, 1.00, 0.999, 40.7, 1.00),
    "modernbert": (0.198, 0.070, 0.0139, 0.039, 63.9, 14.2),
    "zero_out": (1.000, 0.0, 0.0, 1.0, 40.7, None),
}


@cache
def starts() -> dict[str, Start]:
    return measured_starts(choices("init"), list(SIZES))[1]


@pytest.mark.parametrize("init", [choice.name for choice in choices("init")])
def test_gains_are_those_measured_in_the_library(init: str) -> None:
    start = starts()[init]
    value, out, branch, scores, attended, louder = MEASURED[init]
    assert start.gain_value == pytest.approx(value, rel=0.01)
    assert start.gain_out == pytest.approx([out] * LAYERS, rel=0.012)
    assert start.gain_branch == pytest.approx(branch, rel=0.015)
    assert start.scores_sd == pytest.approx(scores, rel=0.025)
    assert start.attended == pytest.approx(attended, abs=0.3)
    assert start.louder_without == (None if louder is None else pytest.approx(louder, rel=0.015))
