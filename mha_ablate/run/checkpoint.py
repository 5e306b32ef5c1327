"""Final weights: fp32, in safetensors, with a JSON beside them that says what they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mha_ablate.run.folder import RunFolder, read_json, write_atomic, write_json

FORMAT = 1


def save_weights(folder: RunFolder, model: nn.Module, info: dict[str, Any], tokenizer: dict[str, str]) -> None:
    """Write the weights atomically, and the state of the tokenizer that they belong to.

    Tensors that share memory (tied ones) are stored once, under their first name. A tokenizer that has a `definition`
    gets a file of its own, for the `tokenizers` library to read.
    """
    from safetensors.torch import save_file

    names: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    tied: dict[str, str] = {}
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = names.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        if first != name:
            tied[name] = first
        else:
            kept[name] = tensor.detach().float().cpu().contiguous().clone()
    file = folder.weights_file
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.tmp")
    save_file(kept, scratch)
    scratch.replace(file)
    state = dict(tokenizer)
    if definition := state.pop("definition", None):
        write_atomic(folder.tokenizer_file, definition)
    write_json(folder.weights_info_file, {"format": FORMAT, "tied": tied, **info, "tokenizer": state})


def load_weights(folder: RunFolder, model: nn.Module) -> dict[str, Any]:
    """Load the weights into a model of the same shape; returns what `save_weights` was told, with the tokenizer's state.

    Raises ValueError where the file is missing, of another format, or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    info = read_json(folder.weights_info_file)
    if not isinstance(info, dict):
        raise ValueError(
            f"{folder.path}: no checkpoint that can be read ({folder.weights_info_file.name} is missing or broken)"
        )
    if info.get("format") != FORMAT:
        raise ValueError(f"{folder.path}: its checkpoint has format {info.get('format')}, this version reads {FORMAT}")
    try:
        tensors = load_file(folder.weights_file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder.path}: no checkpoint that can be read ({error})") from error
    tensors |= {name: tensors[first] for name, first in info.get("tied", {}).items()}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{folder.path}: its checkpoint is of another model: {' '.join(str(error).split())}"
        ) from error
    if folder.tokenizer_file.exists():
        info["tokenizer"]["definition"] = folder.tokenizer_file.read_text(encoding="utf-8")
    return info
