"""TensorBoard event files, written without torch. They hold nothing that metrics.jsonl and run.json do not.

Tags are grouped in the order in which TensorBoard shows them: `cost/` (the paired difference), `loss/`, `optim/`,
`perf/`, `result/`, `zz_band/`, which the means of arms alone have and the Custom Scalars tab draws.
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
LOSS = "loss/val"
BANDS = {DELTA: "zz_band/delta", LOSS: "zz_band/loss"}  # of a mean: its 95% interval is in tags that begin so
SEEDS = "zz_band/seeds"  # how many a mean is over
HPARAMS = ("arm", "fc_out", "seed", "n_heads", "lr")  # of every run; those of a screen have its factors too
RESULTS = {
    "result/val_loss": "validation loss",
    DELTA: "delta to baseline",
    "result/step_ms": "step, ms",
    "result/params_M": "parameters, M",
    "result/train_TFLOP": "training, TFLOP",
}


CHARTS = {  # of the Custom Scalars tab: what is drawn with its band, under which heading, and the title
    DELTA: ("paired difference to the baseline, mean over seeds and 95% interval", "nats per token, above 0: worse"),
    LOSS: ("validation loss, mean over seeds and 95% interval", "nats per token"),
}
FILES = "events.out.tfevents*"
FORMAT = 2  # of rebuilt files: to be raised when the same lines and results are to give other events


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

        self._add(_experiment(tuple(values)), 0, started)
        self._add(summary_v2.hparams_pb(values, trial_id=session, start_time_secs=started), 0, started)

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
    """The event file of a run that has ended, or of a mean, written in one go: whole or not at all."""

    def _open(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        self.folder = folder
        # The second record has a TensorBoard that is running forget what it read of the run in older files.
        start = SessionLog(status=SessionLog.START)
        self.parts = [
            records.framed(event.SerializeToString())
            for event in (Event(file_version="brain.Event:2"), Event(session_log=start))
        ]
        self.points: list[records.Point] = []

    def scalar(self, tag: str, value: float, step: int, wall_time: float) -> None:
        """One point of one curve."""
        self.points.append((tag, value, step, wall_time))

    def layout(self, started: float) -> None:
        """What the Custom Scalars tab opens with. Every mean carries the same."""
        self._add(_layout(), 0, started)

    def _add(self, summary: Any, step: int, wall_time: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self._lay_down_points()
        self.parts.append(records.framed(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString()))

    def _lay_down_points(self) -> None:
        self.parts.append(records.scalars(self.points))
        self.points = []

    def save(self, mark: str, *, watched: bool) -> None:
        """Put the file in the place of the older ones. Its name ends with `mark` and its size.

        With `watched` the last of the older ones stays until the next time: where TensorBoard has no fast loader, one that is
        running goes on from a file to the next, but not from a file that is gone.
        """
        self._lay_down_points()
        content = b"".join(self.parts)
        scratch = self.folder / f".events.{os.getpid()}.tmp"  # a name that TensorBoard does not read
        older = sorted(self.folder.glob(FILES))
        scratch.unlink(missing_ok=True)  # what stands there may be a link to somewhere else
        try:
            with scratch.open("xb") as stream:
                stream.write(content)
        except BaseException:  # as on a full disk: what is there stays as it was
            scratch.unlink(missing_ok=True)
            raise
        for old in older[: -1 if watched else None]:
            old.unlink(missing_ok=True)  # another process may be doing the same
        # TensorBoard reads the files of a folder by name: the time in front lets a running one find what is new.
        scratch.replace(self.folder / f"events.out.tfevents.{time.time():020.9f}.{mark}.{len(content)}")


@lru_cache(maxsize=8)
def _experiment(names: tuple[str, ...]) -> Any:
    """The description of the hparams table: arm first, then what else differs, then the results."""
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2, summary_v2

    described = summary_v2.hparams_config_pb(
        hparams=[summary_v2.HParam(name) for name in names],
        metrics=[summary_v2.Metric(tag, display_name=name) for tag, name in RESULTS.items()],
        time_created_secs=0.0,
    )
    data = plugin_data_pb2.HParamsPluginData.FromString(described.value[0].metadata.plugin_data.content)  # pyright: ignore
    for info in data.experiment.hparam_infos:
        info.differs = info.name == "arm"
    return summary_v2._summary_pb(metadata.EXPERIMENT_TAG, data)


@lru_cache(maxsize=1)
def _layout() -> Any:
    """Two charts of the Custom Scalars tab, in which every mean has a line with its band.

    Each has a heading of its own: charts below one are not shown in the order in which they are given.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.tensor_pb2 import TensorProto  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.types_pb2 import DT_STRING  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    layout = layout_pb2.Layout()  # pyright: ignore[reportAttributeAccessIssue]
    for tag, (heading, title) in CHARTS.items():
        value, lower, upper = band_tags(tag)
        chart = layout.category.add(title=heading).chart.add(title=title)
        chart.margin.series.add(value=value, lower=lower, upper=upper)
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()])
    tag, about = metadata.CONFIG_SUMMARY_TAG, metadata.create_summary_metadata()
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=tensor)])


def band_tags(tag: str) -> tuple[str, str, str]:
    """The tags of a mean and the ends of its interval."""
    return f"{BANDS[tag]}_mean", f"{BANDS[tag]}_lo", f"{BANDS[tag]}_hi"


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
    watched: bool = False,
) -> bool:
    """Replace a run's event file by one made from its lines, its results and its deltas to the baseline by step.

    A file that was made from just these is left as it is, and `lines` is not called; returns whether one was made. `watched`
    while the study goes on: then the file before stays too.
    """
    about = [lines_digest, hparams, session, results, list(deltas.items()), ok, times]

    def fill(file: EventFile) -> None:
        file.hparams(hparams, session, times[0])
        last = 0
        for line in lines():
            file.line(line)
            last = line["step"]
            if line.get(LOSS) is not None and last in deltas:
                file.scalar(DELTA, deltas[last], last, line.get("wall_time", 0.0))
        for tag, value in results.items():
            file.scalar(tag, value, last, times[1])
        file.end(ok, times[1])

    return _make(folder, about, fill, watched)


def rebuild_mean(
    folder: Path,
    points: Callable[[], list[records.Point]],
    *,
    digests: list[Any],
    hparams: dict[str, Any],
    session: str,
    results: dict[str, float],
    ok: bool | None,
    times: tuple[float, float],
    watched: bool = False,
) -> bool:
    """Replace the event file of an arm's mean over seeds by one of these points, results and row in the hparams table.

    `digests` tells all that the points are made from. `ok` is None while a seed runs. Otherwise as `rebuild`.
    """
    about = ["mean", digests, hparams, session, results, ok, times]

    def fill(file: EventFile) -> None:
        file.hparams(hparams, session, times[0])
        file.layout(times[0])
        file.points += points()
        last = max((step for tag, _, step, _ in file.points if tag == LOSS), default=0)
        for tag, value in results.items():
            file.scalar(tag, value, last, times[1])
        if ok is not None:
            file.end(ok, times[1])

    return _make(folder, about, fill, watched)


def _make(folder: Path, about: list[Any], fill: Callable[[EventFile], None], watched: bool) -> bool:
    """Have a folder's event file be the one that `about` tells; returns whether it had to be filled anew."""
    mark = hashlib.sha256(json.dumps([FORMAT, *about]).encode()).hexdigest()[:16]
    if _is_made(folder, mark, watched):
        return False
    folder.mkdir(exist_ok=True)
    file = EventFile(folder)
    fill(file)
    file.save(mark, watched=watched)
    return True


def _is_made(folder: Path, mark: str, watched: bool) -> bool:
    """Whether the last event file of a folder bears this mark, and is as long as it was when it was written.

    It is to be the only one, unless the folder is being watched.
    """
    found = sorted(folder.glob(FILES))
    alone = len(found) == 1 or (watched and len(found) > 1)
    return alone and found[-1].name.endswith(f".{mark}.{found[-1].stat().st_size}")
