"""The bytes of event files against TensorBoard's own writer."""

from __future__ import annotations

import io
import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from mha_ablate.run import records


def by_tensorboard(messages: list[bytes]) -> bytes:
    out = io.BytesIO()
    writer = RecordWriter(out)
    for message in messages:
        writer.write(message)
    return out.getvalue()


def event(tag: str, value: float, step: int, wall_time: float) -> bytes:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    return Event(wall_time=wall_time, step=step, summary=summary).SerializeToString()


POINTS = st.tuples(
    st.sampled_from(["a", "loss/val", "loss/val_by_train_ms"]) | st.text(min_size=1, max_size=200),
    st.floats(allow_nan=False) | st.integers(-(10**9), 10**9),
    st.integers(0, 2**63 - 1) | st.integers(0, 300),
    st.floats(0, 1e12),
)


def test_the_checksum_is_castagnolis() -> None:
    assert records.checksum(b"123456789") == 0xE3069283 != zlib.crc32(b"123456789")


@given(st.binary(max_size=400))
def test_a_record_is_framed_as_tensorboard_frames_it(message: bytes) -> None:
    assert records.framed(message) == by_tensorboard([message])


@given(st.lists(POINTS, max_size=12))
def test_scalars_have_the_bytes_that_tensorboard_writes(points: list[records.Point]) -> None:
    assert records.scalars(points) == by_tensorboard([event(*point) for point in points])


@pytest.mark.parametrize(("value", "seen"), [(1e300, math.inf), (-1e300, -math.inf), (0.0, 0.0)])
def test_what_single_precision_cannot_hold_is_infinite(value: float, seen: float) -> None:
    record = records.scalars([("a", value, 1, 1.0)])
    assert Event.FromString(record[12:-4]).summary.value[0].simple_value == seen
