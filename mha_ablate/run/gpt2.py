"""Checkpoint folders as the `transformers` library has them for GPT-2: config.json and model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mha_ablate.run.folder import read_json, write_atomic, write_json
from mha_ablate.run.shape import is_natural, parsed, read_text

SIZES = ("n_layer", "n_head", "n_embd")


@dataclass(frozen=True)
class Gpt2Folder:
    """The names of its files."""

    path: Path

    @property
    def config_file(self) -> Path:
        """Sizes and settings."""
        return self.path / "config.json"

    @property
    def weights_file(self) -> Path:
        """All tensors."""
        return self.path / "model.safetensors"

    @property
    def tokenizer_file(self) -> Path:
        """A learnt tokenizer, as the `tokenizers` library writes it."""
        return self.path / "tokenizer.json"

    @property
    def note_file(self) -> Path:
        """Where the weights come from, and how text becomes tokens."""
        return self.path / "README.md"

    def is_one(self) -> bool:
        """Whether it looks like such a folder, its weights missing or not."""
        if not self.config_file.is_file():
            return False
        config = read_json(self.config_file)
        return self.weights_file.is_file() or (isinstance(config, dict) and "model_type" in config)


def read_gpt2(folder: Gpt2Folder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the tensors in fp32. Raises ValueError, in one line, for another model's or for files that cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = parsed(read_text(folder.config_file))
        if not isinstance(config, dict) or config.get("model_type") != "gpt2":
            raise ValueError("config.json is not of a gpt2 model")
        if not folder.weights_file.is_file():
            raise ValueError(
                "it has no model.safetensors, and other forms, pytorch_model.bin or several files, are not read: "
                "save_pretrained(DIR, max_shard_size='100GB') of the transformers library writes it"
            )
        sizes = [config.get(key) for key in SIZES]
        if not all(is_natural(size) and size for size in sizes) or config["n_embd"] % config["n_head"]:
            raise ValueError(f"config.json has no {', '.join(SIZES)} that go together")
        tensors = load_file(folder.weights_file)
        if whole := [
            name for name, tensor in tensors.items() if name.endswith(".weight") and not tensor.is_floating_point()
        ]:
            raise ValueError(f"{whole[0]} has integers, which a quantised model has in place of weights")
        return config, {name: tensor.float() for name, tensor in tensors.items()}
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ValueError(
            f"{folder.path}: no GPT-2 checkpoint that can be read ({' '.join(str(error).split())})"
        ) from error


def write_gpt2(
    folder: Gpt2Folder, config: Mapping[str, Any], tensors: Mapping[str, Tensor], note: str, tokenizer: str | None
) -> None:
    """Write such a folder; the weights, without which it is none, last."""
    from safetensors.torch import save

    kept = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    write_json(folder.config_file, json.loads(json.dumps(dict(config))))
    write_atomic(folder.note_file, note)
    if tokenizer is not None:
        write_atomic(folder.tokenizer_file, tokenizer)
    write_atomic(folder.weights_file, save(kept, {"format": "pt"}))
