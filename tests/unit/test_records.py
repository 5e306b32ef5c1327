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


def test_the_checksum_is_castagnolis() -> None:
    [crc] = records._side_by_side([b"123456789"]).tolist()
    assert crc == 0xE3069283 != zlib.crc32(b"123456789")


@given(st.lists(st.binary(max_size=3 * records.SHORT), max_size=12))
def test_records_are_framed_as_tensorboard_frames_them(messages: list[bytes]) -> None:
    assert records.framed(messages) == by_tensorboard(messages)


@pytest.mark.parametrize("length", [0, 1, records.SHORT - 1, records.SHORT, records.SHORT + 1])
def test_records_about_the_limit_of_short_ones_are_framed_alike(length: int) -> None:
    messages = [bytes(range(256))[i : i + length] for i in range(3)]
    assert records.framed(messages) == by_tensorboard(messages)


@given(
    tag=st.text(min_size=1, max_size=200),
    value=st.floats(allow_nan=False) | st.integers(-(10**9), 10**9),
    step=st.integers(0, 2**63 - 1),
    wall_time=st.floats(0, 1e12),
)
def test_a_scalar_has_the_bytes_of_the_message(tag: str, value: float, step: int, wall_time: float) -> None:
    expected = Event(
        wall_time=wall_time, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    )
    assert records.scalar(tag, value, step, wall_time) == expected.SerializeToString()


@pytest.mark.parametrize(("value", "seen"), [(1e300, math.inf), (-1e300, -math.inf), (0.0, 0.0)])
def test_what_single_precision_cannot_hold_is_infinite(value: float, seen: float) -> None:
    assert Event.FromString(records.scalar("a", value, 1, 1.0)).summary.value[0].simple_value == seen
