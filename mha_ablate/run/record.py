"""Writing what a run measured: metrics.jsonl is the truth, TensorBoard's events are derived from it line by line."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from typing import Any

from mha_ablate.run.events import EventWriter
from mha_ablate.run.folder import RunFolder


class Record:
    """Appends lines to a run's metrics.jsonl and mirrors them to TensorBoard, so that a run can be watched live."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        tokens_per_step: int,
        train_flops_per_step: float,
        factors: dict[str, tuple[str, float]],
    ) -> None:
        """`factors` adds derived values: `{"loss/val": ("loss/val_bits_per_byte", 1.44)}`.

        The lines that are there already, of a run that goes on, are mirrored first.
        """
        self.folder, self.factors = folder, factors
        self.tokens_per_step, self.train_flops_per_step = tokens_per_step, train_flops_per_step
        self.stream = folder.metrics_file.open("ab")
        self.written = hashlib.sha256(folder.metrics_file.read_bytes())
        self.events = EventWriter(folder.path)
        for line in folder.lines():
            self.events.line(line)

    def write(self, step: int, values: dict[str, float]) -> dict[str, Any]:
        """Record what was measured after `step` updates. A value that is not finite becomes null. Returns the line."""
        line: dict[str, Any] = {
            "step": step,
            "tokens": step * self.tokens_per_step,
            "gflop": step * self.train_flops_per_step / 1e9,
            "wall_time": time.time(),
        }
        for name, value in values.items():
            line[name] = value
            if name in self.factors:
                derived, factor = self.factors[name]
                line[derived] = value * factor
        line = {k: v if math.isfinite(v) else None for k, v in line.items()}
        self._append(f"{json.dumps(line)}\n".encode())
        self.events.line(line)
        return line

    def sync(self) -> dict[str, Any]:
        """Have all lines so far survive a power cut; returns how many bytes they are, and their SHA-256."""
        os.fsync(self.stream.fileno())
        return {"bytes": self.stream.tell(), "sha256": self.written.hexdigest()}

    def _append(self, line: bytes) -> None:
        try:
            self.stream.write(line)
            self.stream.flush()
        except OSError as error:  # the system does not name a file that is open
            error.filename = str(self.folder.metrics_file)
            raise
        self.written.update(line)

    def close(self) -> None:
        """Finish both files."""
        self.stream.close()
        self.events.close()
