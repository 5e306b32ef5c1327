"""The state of an unfinished run: saved on the way, and found again by the process that goes on with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mha_ablate.errors import RequestError, disk_trouble
from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from mha_ablate.run.shape import is_natural, is_number


@dataclass(frozen=True)
class State:
    """What a run was at a step, and how much of its metrics had been written by then."""

    step: int
    tensors: dict[str, Tensor]
    about: dict[str, Any]

    def rewind(self, folder: RunFolder) -> None:
        """Cut off what the run wrote after this state: it will be measured once more."""
        with folder.metrics_file.open("r+b") as stream:
            stream.truncate(self.about["metrics"]["bytes"])
        folder.clear_events()
        folder.clear_scratch()


def save_state(
    folder: RunFolder, *, config_hash: str, step: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Replace the state. `about["metrics"]` says how long metrics.jsonl is, and its SHA-256 (`Record.sync`)."""
    checkpoint.save(folder.state_file, tensors, {"config_hash": config_hash, "step": step, **about})


def find_state(folder: RunFolder, config_hash: str) -> tuple[State | None, str | None]:
    """The state that a run can go on from, if there is one; otherwise why what there is cannot be used, if there is any.

    Raises RequestError for one of another version's format, and OSError where the disk fails or forbids to read it: that may pass,
    and to begin anew would lose the run for it.
    """
    if not folder.state_file.is_file():
        return None, None
    try:
        tensors, about = checkpoint.load(folder.state_file)
        if about["config_hash"] != config_hash:
            return None, "its state is that of another configuration"
        if not _holds(folder, about["metrics"]):
            return None, "metrics.jsonl is not what it was when the state was saved"
        if not _makes_sense(about):
            return None, "its state says what no run can have been"
        return State(int(about["step"]), tensors, about), None
    except checkpoint.OtherFormat as error:
        raise RequestError(
            f"{error}: go on with the version that wrote it, or give name=NEW_NAME to begin anew"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if trouble := disk_trouble(error):
            raise trouble from None
        return None, str(error)


def saved_step(folder: RunFolder) -> int:
    """The step of a run's state, by its header alone; 0 where there is none that can be read."""
    try:
        return int(checkpoint.describe(folder.state_file)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return 0


def _holds(folder: RunFolder, metrics: Mapping[str, Any]) -> bool:
    """Whether metrics.jsonl begins with what was there when the state was saved."""
    if not folder.metrics_file.is_file() or not 0 <= metrics["bytes"] <= folder.metrics_file.stat().st_size:
        return False
    with folder.metrics_file.open("rb") as stream:
        found = stream.read(metrics["bytes"])
    return len(found) == metrics["bytes"] and hashlib.sha256(found).hexdigest() == metrics["sha256"]


def _makes_sense(about: Mapping[str, Any]) -> bool:
    """Whether the numbers of a state are numbers: its checksum says that it was not altered, not who made it."""
    best = about["best"]
    times = all(is_number(about[key]) for key in ("train_s", "last_read"))
    good = best is None or (type(best) is dict and is_natural(best.get("step")) and is_number(best.get("val_loss")))
    return is_natural(about["step"]) and about["step"] > 0 and times and good
