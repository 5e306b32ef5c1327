"""Records of TensorBoard's event files: the frame with its checksums, and many scalars at once.

TensorBoard's own writer makes a message object, queues it and computes its checksum in Python, for one scalar at a time.
A report over a thousand runs writes more than a million.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Point = tuple[str, float, int, float]  # tag, value, step, wall time

# Where the parts of a scalar's record lie in a row of `scalars`: the frame's header, then the message up to its summary.
HEADER, TIME, STEP, SUMMARY = slice(0, 12), slice(12, 21), slice(21, 32), 32
TIME_KEY, STEP_KEY = 0x09, 0x10


def _crc_table() -> np.ndarray:
    """CRC-32C of every byte (Castagnoli's polynomial, bits reversed)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


TABLE = _crc_table()
ENTRIES: list[int] = TABLE.tolist()


@lru_cache(maxsize=1024)
def checksum(data: bytes) -> int:
    """CRC-32C."""
    register = 0xFFFFFFFF
    for byte in data:
        register = ENTRIES[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ 0xFFFFFFFF


def _masked(crc: np.ndarray) -> np.ndarray:
    """A checksum as records hold it, turned and shifted, as four bytes each: `[n] -> [n, 4]`."""
    turned = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
    return turned.astype("<u4")[:, None].view(np.uint8)


def _as_record_holds(data: bytes) -> bytes:
    return _masked(np.array([checksum(data)], dtype=np.uint32)).tobytes()


@lru_cache(maxsize=1024)
def _header(length: int) -> bytes:
    """The length of a record and its checksum."""
    header = struct.pack("<Q", length)
    return header + _as_record_holds(header)


def framed(message: bytes) -> bytes:
    """A message as one record of an event file."""
    return _header(len(message)) + message + _as_record_holds(message)


def varint(value: int) -> bytes:
    """A whole number that is not negative, as protocol buffers write it."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


@lru_cache(maxsize=256)
def _summary_of(tag: str) -> bytes:
    """The fields around a scalar, up to its four bytes."""
    name = tag.encode()
    value = b"\x0a" + varint(len(name)) + name + b"\x15"
    summary = b"\x0a" + varint(len(value) + 4) + value
    return b"\x2a" + varint(len(summary) + 4) + summary


def scalars(points: Sequence[Point]) -> bytes:
    """The records of many points of curves, in order: `Event(wall_time, step, Summary(Value(tag, simple_value)))` each.

    Every record is a row whose parts stand at fixed places; what a shorter part leaves free is not `used`, and drops out
    when the rows are laid end to end.
    """
    if not points:
        return b""
    tags, values, steps, times = zip(*points, strict=True)
    number = {name: i for i, name in enumerate(dict.fromkeys(tags))}
    summaries = [_summary_of(name) for name in number]
    tag = np.array([number[t] for t in tags], dtype=np.intp)
    end = SUMMARY + max(map(len, summaries))
    rows = np.zeros((len(points), end + 8), dtype=np.uint8)
    used = np.ones(rows.shape, dtype=bool)

    _put_times(rows[:, TIME], used[:, TIME], np.array(times, dtype="<f8"))
    _put_steps(rows[:, STEP], used[:, STEP], np.array(steps, dtype=np.int64))
    for i, summary in enumerate(summaries):
        mine = tag == i
        rows[mine, SUMMARY : SUMMARY + len(summary)] = np.frombuffer(summary, dtype=np.uint8)
        used[mine, SUMMARY + len(summary) : end] = False
    with np.errstate(over="ignore"):  # beyond single precision is infinite
        rows[:, end : end + 4] = np.array(values, dtype=np.float64).astype("<f4")[:, None].view(np.uint8)

    message = slice(SUMMARY - 20, end + 4)
    lengths = used[:, message].sum(1)
    for length in np.unique(lengths):
        rows[lengths == length, HEADER] = np.frombuffer(_header(int(length)), dtype=np.uint8)
    rows[:, end + 4 :] = _masked(_checksums(rows[:, message], used[:, message]))
    return rows[used].tobytes()


def _put_times(rows: np.ndarray, used: np.ndarray, times: np.ndarray) -> None:
    """The field of wall times; a field of zero is left out, as everywhere in protocol buffers."""
    rows[:, 0] = TIME_KEY
    rows[:, 1:] = times[:, None].view(np.uint8)
    used[:] = (times != 0)[:, None]


def _put_steps(rows: np.ndarray, used: np.ndarray, steps: np.ndarray) -> None:
    """The field of steps, seven bits a byte, the lowest first."""
    rows[:, 0] = STEP_KEY
    used[:] = False
    used[:, 0] = steps != 0
    for i in range(1, 1 + -(-int(steps.max()).bit_length() // 7)):
        more = steps >> 7
        rows[:, i] = (steps & 0x7F) | np.where(more != 0, 0x80, 0)
        used[:, i] = steps != 0
        steps = more


def _checksums(rows: np.ndarray, used: np.ndarray) -> np.ndarray:
    """CRC-32C of the used bytes of every row, a column at a time: `[n]`."""
    register = np.full(len(rows), 0xFFFFFFFF, dtype=np.uint32)
    columns, times_used = np.ascontiguousarray(rows.T), used.sum(0)
    for i in np.flatnonzero(times_used):
        after = TABLE.take(register.astype(np.uint8) ^ columns[i]) ^ (register >> np.uint32(8))
        register = after if times_used[i] == len(rows) else np.where(used[:, i], after, register)
    return register ^ np.uint32(0xFFFFFFFF)
