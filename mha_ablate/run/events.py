"""TensorBoard event files, written without torch. They hold nothing that metrics.jsonl and run.json do not.

Tags are grouped in the order in which TensorBoard shows them: `cost/` (the paired difference), `loss/`, `optim/`,
`perf/`, `result/`.
TensorBoard has no choice of x axis beyond steps and time, so `loss/val` has twins whose step is something else:
`loss/val_by_tokens`, `loss/val_by_gflop`, `loss/val_by_train_ms`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from mha_ablate.run import records

TWINS = (  # of loss/val: the tag, the key that is its step, the factor to whole numbers
    ("loss/val_by_tokens", "tokens", 1.0),
    ("loss/val_by_gflop", "gflop", 1.0),
    ("loss/val_by_train_ms", "train_s", 1000.0),
)
PLAIN = frozenset(("step", "tokens", "gflop", "wall_time", "train_s"))
DELTA = "cost/delta_val_loss"
HPARAMS = ("arm", "fc_out", "seed", "n_heads", "lr")
RESULTS = {
    "result/val_loss": "validation loss",
    DELTA: "delta to baseline",
    "result/step_ms": "step, ms",
    "result/params_M": "parameters, M",
    "result/train_TFLOP": "training, TFLOP",
}


FILES = "events.out.tfevents*"
FORMAT = 1  # of rebuilt files: to be raised when the same lines and results are to give other events


class EventWriter:
    """One run's event file, written while the run goes on."""

    def __init__(self, folder: Path) -> None:
        self._open(folder)

    def _open(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(folder), max_queue_size=1000, flush_secs=5)

    def line(self, line: dict[str, Any]) -> None:
        """The values of one line of metrics.jsonl, and the twins of `loss/val`."""
        step, wall_time, loss = line["step"], line.get("wall_time", 0.0), line.get("loss/val")
        for tag, value in line.items():
            if value is not None and tag not in PLAIN:
                self.scalar(tag, value, step, wall_time)
        if loss is not None:
            for twin, key, factor in TWINS:
                if key in line:
                    self.scalar(twin, loss, round(line[key] * factor), wall_time)

    def scalar(self, tag: str, value: float, step: int, wall_time: float) -> None:
        """One point of one curve."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        self._add(Summary(value=[Summary.Value(tag=tag, simple_value=float(value))]), step, wall_time)

    def hparams(self, values: dict[str, Any], session: str, started: float) -> None:
        """Open the run's row in the hparams table. Every run carries the same description of the table."""
        from tensorboard.plugins.hparams import summary_v2

        self._add(_experiment(), 0, started)
        self._add(
            summary_v2.hparams_pb({k: values[k] for k in HPARAMS}, trial_id=session, start_time_secs=started),
            0,
            started,
        )

    def end(self, ok: bool, ended: float) -> None:
        """Close the run's row as a success or a failure."""
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2

        status = api_pb2.STATUS_SUCCESS if ok else api_pb2.STATUS_FAILURE  # pyright: ignore
        info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=ended)  # pyright: ignore
        data = plugin_data_pb2.HParamsPluginData(session_end_info=info)  # pyright: ignore
        self._add(summary_v2._summary_pb(metadata.SESSION_END_INFO_TAG, data), 0, ended)

    def close(self) -> None:
        """Write out what is queued."""
        self.writer.close()

    def _add(self, summary: Any, step: int, wall_time: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self.writer.add_event(Event(wall_time=wall_time, step=int(step), summary=summary))


class EventFile(EventWriter):
    """The event file of a run that has ended, written in one go: whole or not at all."""

    def _open(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self.folder = folder
        self.parts = [records.framed(Event(file_version="brain.Event:2").SerializeToString())]
        self.points: list[records.Point] = []

    def scalar(self, tag: str, value: float, step: int, wall_time: float) -> None:
        """One point of one curve."""
        self.points.append((tag, value, step, wall_time))

    def _add(self, summary: Any, step: int, wall_time: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self._lay_down_points()
        self.parts.append(records.framed(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString()))

    def _lay_down_points(self) -> None:
        self.parts.append(records.scalars(self.points))
        self.points = []

    def save(self, mark: str) -> None:
        """Put the file in the place of the older ones. Its name ends with `mark` and its size."""
        self._lay_down_points()
        content = b"".join(self.parts)
        scratch = self.folder / f".events.{os.getpid()}.tmp"  # a name that TensorBoard does not read
        older = list(self.folder.glob(FILES))
        scratch.unlink(missing_ok=True)  # what stands there may be a link to somewhere else
        try:
            with scratch.open("xb") as stream:
                stream.write(content)
        except BaseException:  # as on a full disk: what is there stays as it was
            scratch.unlink(missing_ok=True)
            raise
        for old in older:
            old.unlink()
        # TensorBoard reads the files of a folder by name: the time in front lets a running one find what is new.
        scratch.replace(self.folder / f"events.out.tfevents.{time.time():020.9f}.{mark}.{len(content)}")


@lru_cache(maxsize=1)
def _experiment() -> Any:
    """The description of the hparams table: arm first, then what else differs, then the results."""
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2, summary_v2

    described = summary_v2.hparams_config_pb(
        hparams=[summary_v2.HParam(name) for name in HPARAMS],
        metrics=[summary_v2.Metric(tag, display_name=name) for tag, name in RESULTS.items()],
        time_created_secs=0.0,
    )
    data = plugin_data_pb2.HParamsPluginData.FromString(described.value[0].metadata.plugin_data.content)  # pyright: ignore
    for info in data.experiment.hparam_infos:
        info.differs = info.name == "arm"
    return summary_v2._summary_pb(metadata.EXPERIMENT_TAG, data)


def rebuild(
    folder: Path,
    lines: Callable[[], Iterable[dict[str, Any]]],
    *,
    lines_digest: str,
    hparams: dict[str, Any],
    session: str,
    results: dict[str, float],
    deltas: dict[int, float],
    ok: bool,
    times: tuple[float, float],
) -> bool:
    """Replace a run's event file by one made from its lines, its results and its deltas to the baseline by step.

    A file that was made from just these is left as it is, and `lines` is not called; returns whether one was made.
    """
    about = [FORMAT, lines_digest, {k: hparams[k] for k in HPARAMS}, session, results, list(deltas.items()), ok, times]
    mark = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    if _is_made(folder, mark):
        return False
    writer = EventFile(folder)
    writer.hparams(hparams, session, times[0])
    last = 0
    for line in lines():
        writer.line(line)
        last = line["step"]
        if line.get("loss/val") is not None and last in deltas:
            writer.scalar(DELTA, deltas[last], last, line.get("wall_time", 0.0))
    for tag, value in results.items():
        writer.scalar(tag, value, last, times[1])
    writer.end(ok, times[1])
    writer.save(mark)
    return True


def _is_made(folder: Path, mark: str) -> bool:
    """Whether the one event file of a folder bears this mark, and is as long as it was when it was written."""
    found = list(folder.glob(FILES))
    return len(found) == 1 and found[0].name.endswith(f".{mark}.{found[0].stat().st_size}")
