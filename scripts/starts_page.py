"""docs/starts.md: which `init=` a library's code has, and what attention starts with under each, measured."""

from __future__ import annotations

import torch

from mha_ablate.config.catalog import choices
from mha_ablate.study.starts import Start, measured_starts

TIED = "the output layer is the embedding: add `model.tied_embedding=true`"
NORMED = "q and k are normalised as well, so scores have a standard deviation near 1"
# What people run, in the words that they would look for; the init that it is; what to know of it.
FAMILIES = [
    ("`nn.Linear`, `nn.Embedding` as they come: courses, tutorials, notebooks", "torch", "all four biases uniform"),
    ("vit-pytorch", "torch", "no bias on q, k, v; with one head it has no output projection"),
    (
        "x-transformers",
        "torch",
        "its attention and MLP: its embedding has std sqrt(2 / C); no biases; with one head it has no output projection; "
        "`depth_scale_residual=True`: below",
    ),
    ("timm.layers.Attention by itself; timm's ViT with `weight_init` reset or skip", "torch", "no bias on q, k, v"),
    ("equinox", "torch", "no biases by default"),
    ("torch nn.MultiheadAttention, nn.TransformerEncoderLayer", "torch_mha", "biases of attention 0"),
    ("torchvision's ViT", "torch_mha", "its attention: its MLP is Glorot with biases of std 1e-6, its output layer 0"),
    ("the encoder and decoder inside torch nn.Transformer", "nn_transformer", "not what its layers have by themselves"),
    ('timm\'s ViT with `weight_init="jax"`', "nn_transformer", "its attention: everything else is another start"),
    ('timm\'s ViT with `weight_init="moco"`', "xavier", "its attention"),
    ("Keras from 3.15", "xavier", "GroupQueryAttention: K and V by their own width"),
    (
        "flax with `kernel_init=xavier_uniform()`",
        "xavier",
        "its attention and MLP: its embedding has std 1 / sqrt(C), as in `init=flax`",
    ),
    ("Keras up to 3.14", "keras", "the only one whose start depends on the number of heads"),
    ("flax.linen, flax.nnx", "flax", ""),
    ("haiku with `VarianceScaling(1.0)`", "flax", "its attention; VarianceScaling(s): every gain times sqrt(s)"),
    ("GPT-2, nanoGPT", "gpt2", TIED),
    ("ModernBERT", "modernbert", TIED),
    ("BERT, OPT", "llama", f"biases 0; {TIED}"),
    ("Llama, GPT-NeoX, ViT of transformers", "llama", "Llama has no biases, the others have 0"),
    ("OLMo2, Qwen3", "llama", NORMED),
    ("Gemma3", "llama", f"{NORMED}; its embedding is multiplied by sqrt(C); {TIED}"),
    ("timm's ViT by default", "llama", "`fix_init=True`: below"),
    (
        "T5",
        "t5",
        "it does not divide scores by sqrt(D); `S` in its file keeps the scores. In T5 1.0 the output layer is the embedding, "
        "N(0, 1), and logits are divided by sqrt(C): with `model.tied_embedding=true` both start at 1 / sqrt(C) here",
    ),
    (
        "nanochat, 1 January to 8 March 2026",
        "zero_out",
        "later its embedding has std 0.8 and W_up is half as large, from 14 March 0.4 times",
    ),
    (
        "modded-nanogpt, to January 2026",
        "zero_out",
        "its zeros alone: in 2025 W_Q, W_K and W_V have gain 0.5 and the output layer is 0; from February 2026 on W_O is not 0",
    ),
]
SETTINGS = [  # what the tables are measured at
    ("d_model 128, 4 heads, 4 layers", ["model.d_model=128", "model.n_heads=4", "model.n_layers=4"]),
    ("d_model 768, 12 heads, 12 layers", ["model.d_model=768", "model.n_heads=12", "model.n_layers=12"]),
]
PLAIN = ["attention=fused", "model.bias=false", "model.head_dim=null", "model.d_ff=null", "init_seed=0"]

HEAD = """# Which start is yours?

<!-- Written by scripts/gen_docs: change scripts/starts_page.py or configs/init, and run it. -->

If your code uses `nn.Linear` as it comes, yours is `init=torch`; the first table has other libraries and model families.
The start matters here because it sets how large the attention branch is, and so what removing `fc_out` changes: without W_O the
branch starts 1.7 times larger under PyTorch's start, 12.5 times under GPT-2's at this size, and as large as before in flax.

`init=NAME` sets where every tensor starts: W_Q, W_K, W_V, W_O, the MLP's two maps, the embeddings, the output layer, the biases.
`mha-ablate list init model.d_model=768 model.n_heads=12 model.n_layers=12` measures the tables below at your own sizes.

## Libraries and model families

| code | `init=` | note |
|---|---|---|
"""
COLUMNS = """
## What attention starts with

W_Q, W_K, W_V and W_O are drawn as a model draws them, and N(0, 1) input goes through.

- **gain**: rms(out) / rms(in) of a map. A map of n inputs with standard deviation s has s sqrt(n).
- **V O**: the gain of the branch for one token: values, then the output projection.
- **sd of scores**: the standard deviation of q k / sqrt(D), which is what the softmax gets.
- **attended**: exp(entropy) of the attention weights over 64 tokens. 64 is flat; fewer is more peaked.
- **without O**: how many times larger the branch starts once W_O is gone: 1 / gain of O. Below 1 the branch becomes smaller.

A fixed 0.02 has a gain that grows with width. Starts by fan-in (`torch`, `xavier`, `flax`, `t5`) do not move with it.
"""
TABLE = """
| `init=` | gain of V | gain of O | V O | sd of scores | attended | without O |
|---|---|---|---|---|---|---|
"""
TAIL = """
Under `init=zero_out` W_O starts at 0, and so do the learned maps that take its place. `attention.branch_scale=matched` is refused
there, since a constant 0 never trains; `attention.branch_scale=learned` starts at 0 and leaves it.

## A start of your own

Write a file of rules into a folder, `mine/init/depth_scaled.yaml`, beginning from one of ours:

```yaml
# x-transformers with depth_scale_residual=True: the last maps shrink with the layer
defaults: [torch]
out: normal(std=1 / sqrt(2 K l))
```

Then `mha-ablate compare --config-dir mine init=depth_scaled` uses it, and `mha-ablate list init --config-dir mine` measures it.

A rule is a kind of distribution and a formula of sizes:

- `normal(std=...)`; `uniform(bound=...)`, whose standard deviation is bound / sqrt(3); `truncated(scale=...)`, a normal cut at two
  scales, whose standard deviation is 0.8796 of the scale; `zeros()`. Each but the last takes `std=` and `gain=` as well;
  gain is std sqrt(n_in).
- Sizes: `n_in` and `n_out` of the map, `C` d_model, `H` n_heads, `D` head_dim, `K` = H D, `L` n_layers, `F` d_ff, `S` what scores
  are divided by; in `out`, `up` and `down` also `l`, the layer, from 1. Words side by side multiply; `sqrt`, `log2`, `^`.
- timm's `fix_init=True` is `defaults: [llama]` with `out` and `down` as `normal(std=0.02 / sqrt(2 l))`.

## What an init does not set

- **`model.block=skipless`**: without a skip around attention a small W_O would leave nothing of the stream. W_O has gain 1 there,
  and is N(0, 1 / K), whatever the init.
- **A tied embedding** is the output layer, and starts as `output` says, since that sets the scale of the logits.
- **Norms** start with gain 1 and bias 0.
- **Variants of `fc_out`** start with dense's gain under the same init, and in its kind of distribution; gains by channel or head
  (`diagonal`, `head_scale`, `hadamard`) are that number, and `orthogonal_init` is a rotation times it. The start of `zero_init`,
  `identity_init`, `skip_gain` and `orthogonal` is [what they are about](variants.md). The gates of
  `gate` are N(0, 0.02) with bias 0, so that they begin half open and W_O as large as dense's in effect.
- **`attention.value=rotation_init`** starts W_V as a random rotation, **`attention.scores=shaped`** W_Q at 0 and its three numbers
  a head at 1, as the paper does. `attention.branch_scale=learned` starts where the branch is as large as with `fc_out=dense`.
- **muP** is not among the inits because it is a parametrisation and not a start: rates for each matrix, a multiplier of the output
  and scores divided by D belong to it.
"""


def page() -> str:
    """The whole page, the same on any number of cores."""
    torch.set_num_threads(1)
    rows = "".join(f"| {code} | [`{init}`](../configs/init/{init}.yaml) | {note} |\n" for code, init, note in FAMILIES)
    return HEAD + rows + COLUMNS + "".join(measured(*setting) for setting in SETTINGS) + TAIL


def measured(title: str, sizes: list[str]) -> str:
    """A table at some sizes."""
    _, starts = measured_starts(choices("init"), [*PLAIN, *sizes])
    return f"\n### At {title}\n{TABLE}" + "".join(row(name, start) for name, start in starts.items())


def row(name: str, start: Start) -> str:
    """A line of it. No more digits than a draw of matrices repeats."""
    louder = start.louder_without
    numbers = [start.gain_value, start.gain_out[0], start.gain_branch, start.scores_sd, start.attended]
    cells = [short(n) for n in numbers] + ["-" if louder is None else short(louder)]
    return f"| {name} | {' | '.join(cells)} |\n"


def short(number: float) -> str:
    """Two digits, or whole numbers and one decimal from 10 on."""
    return f"{number:.1f}" if number >= 10 else f"{number:#.2g}" if number else "0"
