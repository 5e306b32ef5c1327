"""Checkpoints: one safetensors file each, whose header holds a JSON that says what it is and a checksum over everything.

One file, because one file can be replaced in one go. Nothing in it is code, and reading it runs none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mha_ablate.run.folder import RunFolder, write_atomic
from mha_ablate.run.shape import read_text

FORMAT = 2
ENTRY = "mha_ablate"  # of a safetensors header's metadata


def save(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and what is to be known about them, whole or not at all."""
    from safetensors.torch import save as to_bytes

    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = {"format": FORMAT, **about}
    # One entry: the library writes several in an order that changes from process to process.
    write_atomic(path, to_bytes(kept, {ENTRY: _as_json({"sha256": _digest(kept, told), "about": told})}))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save` was given. Raises ValueError, in one line, for a file that is missing, broken, altered or of another format."""
    with _opened(path) as (file, about):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if json.loads(file.metadata()[ENTRY]).get("sha256") != _digest(tensors, about):
            raise ValueError("its checksum is not that of its content")
    return tensors, about


def describe(path: Path) -> dict[str, Any]:
    """What the header says, nothing else being read or checked. Raises ValueError as `load` does."""
    with _opened(path) as (_, about):
        return about


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The file and what it says of itself. Whatever is wrong with it inside becomes one line."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():  # a pipe would never end, and not even a signal ends the wait for one in there
            raise FileNotFoundError(path)
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {}).get(ENTRY, "null"))
            about = told.get("about") if isinstance(told, dict) else None
            if not isinstance(about, dict):
                raise ValueError("nothing in it says what it is")
            if about.get("format") != FORMAT:
                raise OtherFormat(f"has format {about.get('format')}, this version reads {FORMAT}")
            yield file, about
    except OtherFormat as error:
        raise OtherFormat(f"{path.parent.parent}: {path.name} {error}") from None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:  # RecursionError too
        reason = "it is missing" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise ValueError(f"{path.parent.parent}: no checkpoint that can be read ({path.name}: {reason})") from error


class OtherFormat(ValueError):
    """A checkpoint of another version of this package."""


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """SHA-256 over the JSON and over name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(_as_json(about).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_weights(path: Path, model: nn.Module, about: Mapping[str, Any]) -> None:
    """Write a model's weights in fp32. Tensors that share memory (tied ones) are stored once, under their first name."""
    names: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    same: dict[str, str] = {}
    kept: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first = names.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        if first != name:
            same[name] = first
        else:
            kept[name] = tensor.detach().float()
    save(path, kept, {"same": same, **about})


def load_weights(folder: RunFolder, model: nn.Module, which: Literal["last", "best"] = "last") -> dict[str, Any]:
    """Load a run's weights into a model of the same shape; returns what `save_weights` was told of them.

    The best are the last unless an earlier evaluation was lower. Raises ValueError where there are none that can be read,
    and for a model of another shape.
    """
    best = which == "best" and folder.best_file.exists()
    tensors, about = load(folder.best_file if best else folder.last_file)
    try:
        tensors |= {name: tensors[first] for name, first in about.get("same", {}).items()}
        model.load_state_dict(tensors)
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f"{folder.path}: its checkpoint is of another model: {' '.join(str(error).split())}"
        ) from error
    return about


def save_tokenizer(folder: RunFolder, state: Mapping[str, str]) -> dict[str, str]:
    """What a checkpoint has to say of the tokenizer that its tokens come from.

    One that has a `definition` gets a file of its own, for the `tokenizers` library to read.
    """
    kept = dict(state)
    if definition := kept.pop("definition", None):
        write_atomic(folder.tokenizer_file, definition)
    return kept


def load_tokenizer(folder: RunFolder, about: Mapping[str, Any]) -> dict[str, str]:
    """The state that `save_tokenizer` was given, from what a checkpoint says and the file beside it."""
    kept = dict(about["tokenizer"])
    if folder.tokenizer_file.exists():
        kept["definition"] = read_text(folder.tokenizer_file)
    return kept
