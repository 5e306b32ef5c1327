"""TensorBoard event files, written without torch. They hold nothing that metrics.jsonl and run.json do not.

Tags are grouped in the order in which TensorBoard shows them: `cost/` (the paired difference), `loss/`, `optim/`,
`perf/`, `result/`.
TensorBoard has no choice of x axis beyond steps and time, so `loss/val` has twins whose step is something else:
`loss/val_by_tokens`, `loss/val_by_gflop`, `loss/val_by_train_ms`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

AXES = {"tokens": ("tokens", 1.0), "gflop": ("gflop", 1.0), "train_ms": ("train_s", 1000.0)}
PLAIN = ("step", "tokens", "gflop", "wall_time", "train_s")
DELTA = "cost/delta_val_loss"
HPARAMS = ("arm", "fc_out", "seed", "n_heads", "lr")
RESULTS = {
    "result/val_loss": "validation loss",
    DELTA: "delta to baseline",
    "result/step_ms": "step, ms",
    "result/params_M": "parameters, M",
    "result/train_TFLOP": "training, TFLOP",
}


class EventWriter:
    """One run's event file."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(folder), max_queue_size=1000, flush_secs=5)

    def line(self, line: dict[str, Any]) -> None:
        """The values of one line of metrics.jsonl, and the twins of `loss/val`."""
        for tag, value in line.items():
            if tag not in PLAIN and value is not None:
                self.scalar(tag, value, line["step"], line["wall_time"])
        if line.get("loss/val") is not None:
            for axis, (key, factor) in AXES.items():
                if key in line:
                    at = round(line[key] * factor)
                    self.scalar(f"loss/val_by_{axis}", line["loss/val"], at, line["wall_time"])

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
    lines: Iterable[dict[str, Any]],
    *,
    hparams: dict[str, Any],
    session: str,
    results: dict[str, float],
    deltas: dict[int, float],
    ok: bool,
    times: tuple[float, float],
) -> None:
    """Replace a run's event file by one made from its lines, its results and its deltas to the baseline by step."""
    for old in folder.glob("events.out.tfevents*"):
        old.unlink()
    writer = EventWriter(folder)
    writer.hparams(hparams, session, times[0])
    last = 0
    for line in lines:
        writer.line(line)
        last = line["step"]
        if line.get("loss/val") is not None and last in deltas:
            writer.scalar(DELTA, deltas[last], last, line["wall_time"])
    for tag, value in results.items():
        writer.scalar(tag, value, last, times[1])
    writer.end(ok, times[1])
    writer.close()
