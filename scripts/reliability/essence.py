"""What a folder of runs says, clocks and process numbers left aside, so that two folders can be compared."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from mha_ablate.run import checkpoint

# What a clock, a process or an interruption decides.
OWN = frozenset(
    (
        "wall_time", "train_s", "started", "ended", "written", "generated", "at", "owner", "resumed", "began_anew", "error",
        "step_ms", "tokens_per_s", "rounds", "notes", "timed", "folder", "path", "overrides", "provenance", "command",
        "perf/step_ms", "perf/tokens_per_s", "step_ms_range", "step_ms_rounds", "step_ratio", "step_ratio_range",
        "seconds", "request",
    )
)  # fmt: skip


def stripped(value: Any) -> Any:
    """The value without what is its own every time."""
    if isinstance(value, dict):
        return {k: stripped(v) for k, v in value.items() if k not in OWN}
    return [stripped(v) for v in value] if isinstance(value, list) else value


def essence(folder: Path) -> dict[str, Any]:
    """File by file: what it says. Files that should not be there are in it by their names."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_dir() or file.name == ".lock":
            continue
        if file.suffix == ".jsonl":
            found[name] = [stripped(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.suffix == ".json":
            found[name] = stripped(json.loads(file.read_text()))
        elif file.suffix == ".safetensors":
            tensors, about = checkpoint.load(file)
            found[name] = (about, {k: v.numpy().tobytes() for k, v in tensors.items()})
        elif "tfevents" in file.name:
            found[f"{Path(name).parent}/events"] = events(file)
        elif file.suffix == ".yaml":
            found[name] = [line for line in file.read_text().splitlines() if not line.startswith("outputs:")]
        else:
            found[name] = "there"
    return found


def events(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve of an event file, speeds left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    read = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
    tags = [
        tag
        for tag in read.Tags()["scalars"]
        if "step_ms" not in tag and not tag.startswith("perf/") and "train_ms" not in tag
    ]
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in sorted(tags)}


def finished(folder: Path) -> dict[str, Any]:
    """The runs that have ended, each with what may never change again: its record, metrics and weights, byte by byte."""
    found = {}
    for file in folder.rglob("run.json"):
        if json.loads(file.read_text()).get("state") == "ok":
            run = file.parent
            kept = (file, run / "metrics.jsonl", run / "checkpoint/last.safetensors")
            found[run.relative_to(folder).as_posix()] = tuple(f.read_bytes() for f in kept)
    return found
