"""Records of TensorBoard's event files: the frame with its checksums, and the bytes of a scalar, many at once.

TensorBoard's own writer makes a message object, queues it and computes its checksum in Python, for one scalar at a time.
A report over a thousand runs writes more than a million.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache

import numpy as np

SHORT = 128  # bytes up to which checksums are computed side by side; scalars have about fifty
_FLOAT = struct.Struct("<f")


def _crc_table() -> np.ndarray:
    """CRC-32C of every byte (Castagnoli's polynomial, bits reversed)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


TABLE = _crc_table()
ENTRIES: list[int] = TABLE.tolist()


def _advance(register: int, data: bytes) -> int:
    """The register of the checksum after some more bytes."""
    for byte in data:
        register = ENTRIES[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register


# The register after n zero bytes: what the start value alone contributes to the checksum of n bytes.
STARTS = np.array([_advance(0xFFFFFFFF, bytes(n)) for n in range(SHORT + 1)], dtype=np.uint32)


def checksums(messages: list[bytes]) -> bytes:
    """The masked CRC-32C of each message, four bytes a message, in order."""
    crcs = np.zeros(len(messages), dtype=np.uint32)
    short = [i for i, message in enumerate(messages) if len(message) <= SHORT]
    crcs[short] = _side_by_side([messages[i] for i in short])
    for i, message in enumerate(messages):
        if len(message) > SHORT:
            crcs[i] = _advance(0xFFFFFFFF, message) ^ 0xFFFFFFFF
    masked = ((crcs >> np.uint32(15)) | (crcs << np.uint32(17))) + np.uint32(0xA282EAD8)
    return masked.astype("<u4").tobytes()


def _side_by_side(messages: list[bytes]) -> np.ndarray:
    """CRC-32C of short messages, a column of bytes at a time.

    The checksum is linear: with a register of zero, zeros in front change nothing, so that messages of all lengths can be
    aligned at their ends. The start value is put in afterwards, by length.
    """
    if not messages:
        return np.zeros(0, dtype=np.uint32)
    lengths = np.fromiter(map(len, messages), dtype=np.intp, count=len(messages))
    widest = int(lengths.max())
    aligned = b"".join([message.rjust(widest, b"\0") for message in messages])
    columns = np.ascontiguousarray(np.frombuffer(aligned, dtype=np.uint8).reshape(len(messages), widest).T)
    register = np.zeros(len(messages), dtype=np.uint32)
    for column in columns:
        register = TABLE[(register ^ column) & np.uint32(0xFF)] ^ (register >> np.uint32(8))
    return register ^ STARTS[lengths] ^ np.uint32(0xFFFFFFFF)


@lru_cache(maxsize=1024)
def _header(length: int) -> bytes:
    """The length of a record and its checksum."""
    header = struct.pack("<Q", length)
    return header + checksums([header])


def framed(messages: list[bytes]) -> bytes:
    """Messages as the records of an event file."""
    ends = checksums(messages)
    return b"".join(
        [
            part
            for i, message in enumerate(messages)
            for part in (_header(len(message)), message, ends[4 * i : 4 * i + 4])
        ]
    )


def varint(value: int) -> bytes:
    """A whole number that is not negative, as protocol buffers write it."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


@lru_cache(maxsize=64)
def moment(step: int, wall_time: float) -> bytes:
    """The fields of an event that say when it was; a field of zero is left out, as everywhere in protocol buffers."""
    at = b"\x09" + struct.pack("<d", wall_time) if wall_time else b""
    return at + b"\x10" + varint(int(step)) if step else at


@lru_cache(maxsize=256)
def _summary_of(tag: str) -> bytes:
    """The fields around a scalar, up to its four bytes."""
    name = tag.encode()
    value = b"\x0a" + varint(len(name)) + name + b"\x15"
    summary = b"\x0a" + varint(len(value) + 4) + value
    return b"\x2a" + varint(len(summary) + 4) + summary


def scalar(tag: str, value: float, step: int, wall_time: float) -> bytes:
    """An event that holds one point of one curve: `Event(wall_time, step, Summary(Value(tag, simple_value)))`."""
    try:
        single = _FLOAT.pack(value)
    except OverflowError:  # beyond single precision
        single = _FLOAT.pack(math.copysign(math.inf, value))
    return moment(step, wall_time) + _summary_of(tag) + single
