"""A run's model as a checkpoint that other libraries load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mha_ablate.config.schema import RunConfig
from mha_ablate.errors import RequestError, nearest
from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from mha_ablate.run.gpt2 import Gpt2Folder, write_gpt2
from mha_ablate.study.folding import refuse_filled
from mha_ablate.study.trained import Trained, Which, load
from mha_ablate.surgery.gpt2 import as_gpt2
from mha_ablate.surgery.swap import attentions

KINDS = ("hf",)
GPT2 = (
    ("attention.qkv", "fused"),
    ("attention.value", "learned", "rotation_init"),
    ("attention.scores", "softmax"),
    ("attention.divide_by", "sqrt_head_dim"),
    ("model.block", "pre"),
    ("model.norm", "layernorm"),
    ("model.positions", "learned"),
    ("model.output_bias", False),
)
ACTIVATIONS = {"gelu": "the exact GELU", "relu": "ReLU"}  # by the name that both libraries have for it


def export(folder: RunFolder, to: str, out: Path, which: Which = "last") -> dict[str, Any]:
    """Write config.json, model.safetensors and a note that `transformers` reads as a GPT-2; returns what was written.

    Raises RequestError for settings that GPT-2 does not have, naming each and what to train with instead.
    """
    if to not in KINDS:
        raise RequestError(f"--to {to}: there is no such format{nearest(to, KINDS)}; there is {', '.join(KINDS)}")
    refuse_filled(out, folder)
    trained = load(folder, which)
    if wrong := misfits(trained):
        raise RequestError(f"{folder.path} is no GPT-2: {'; '.join(wrong)}")
    target = Gpt2Folder(out)
    state = checkpoint.load_tokenizer(folder, trained.about)
    definition = state.pop("definition", None)
    write_gpt2(target, _config(trained), as_gpt2(trained.model), _note(trained, state, definition), definition)
    parameters = sum(p.numel() for p in trained.model.parameters())
    return {"folder": str(out), "from": str(folder.path), "format": "gpt2", "parameters": parameters}


def misfits(trained: Trained) -> list[str]:
    """What GPT-2 cannot express, each with the setting that it could."""
    config = trained.config
    wrong = [
        f"{key} is {_word(_value(config, key))}, set {key}={_word(fitting[0])}"
        for key, *fitting in GPT2
        if _value(config, key) not in fitting
    ]
    m = config.model
    if m.dropout and m.dropout_at != "branch":
        wrong.append(f"model.dropout_at is {m.dropout_at}, set model.dropout_at=branch")
    if m.n_heads * m.width_of_head != m.d_model:
        wrong.append(
            f"n_heads x head_dim is {m.n_heads * m.width_of_head}, set model.head_dim=null for d_model = {m.d_model}"
        )
    else:
        wrong += _no_projection(trained)
    return wrong


def _no_projection(trained: Trained) -> list[str]:
    """Whether fc_out is a square matrix, whatever it is called."""
    own = attentions(trained.model)[0]
    affine = own.fc_out.as_affine(own.qkv.map.weight.detach())
    if affine is not None and affine[0].shape[0] == affine[0].shape[1]:
        return []
    usual = "a variant that is one square matrix, such as the standard one"
    return [f"fc_out is {trained.config.fc_out['_target_'].rpartition('.')[2]}, set fc_out to {usual}"]


def _value(config: RunConfig, key: str) -> str | bool:
    group, _, name = key.partition(".")
    return getattr(getattr(config, group), name)


def _word(value: str | bool) -> str:
    """As it is typed."""
    return str(value).lower() if isinstance(value, bool) else value


def _config(trained: Trained) -> dict[str, Any]:
    m = trained.config.model
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": trained.vocab_size,
        "n_positions": m.context,
        "n_embd": m.d_model,
        "n_layer": m.n_layers,
        "n_head": m.n_heads,
        "n_inner": m.width_of_mlp,
        "activation_function": m.mlp,
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": m.dropout,
        "embd_pdrop": m.dropout,
        "attn_pdrop": m.dropout,
        "scale_attn_weights": True,
        "tie_word_embeddings": m.tied_embedding,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
    }


def _note(trained: Trained, state: dict[str, str], definition: str | None) -> str:
    """README.md: where the weights come from, how to load them, and how text becomes tokens."""
    kind = state.get("kind", "bpe")
    words = {
        "char": "One token a character: the id of a character is its place, from 0, in this string (JSON):\n\n"
        f"```json\n{json.dumps(state.get('characters', ''), ensure_ascii=True)}\n```",
        "byte": "One token a byte of UTF-8: the id of a byte is its value.",
        "bpe": "Byte pairs: `tokenizers.Tokenizer.from_file('tokenizer.json')`.",
    }
    told = words["bpe"] if definition is not None else words.get(kind, kind)
    run, activation = trained.run, ACTIVATIONS[trained.config.model.mlp]
    return f"""# {run["arm"]}, seed {run["seed"]}

A run of mha_ablate, after step {trained.about.get("step")}, in the shape of a GPT-2. Its activation is {activation}.

```python
from transformers import GPT2LMHeadModel

model = GPT2LMHeadModel.from_pretrained(".")
```

## Tokens

{told}
"""
