"""A write-ahead log with nothing in it: bare loops of write and sync, as fast as Python makes them.

This is what `raftdeck bench wal` measures itself against, so it is frozen, and it is one file that
imports nothing of the project. Its records have CWal's layout (seed 4): u64 length, data, u32 CRC;
so they could be read back. There is no opening, recovery, segment, group, handle, thread or limit.

Each makes its file, prepares it, runs its loop and removes the file. The time is that of
the loop, which includes encoding the records where there are records.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from struct import Struct
from typing import NamedTuple

checksum: Callable[[bytes, int], int]
try:
    from crc32c import crc32c as checksum
except ImportError:  # then slower, but not another kind of work
    checksum = zlib.crc32

__all__ = ["Ring", "Timing", "grouped", "naive", "read_and_checksum"]

_LENGTH = Struct("<Q")
_CRC = Struct("<I")
_CHUNK_BYTES = 1 << 20
_ZEROS = bytes(1 << 20)


class Timing(NamedTuple):
    """What a loop took, and the system calls in it."""

    seconds: float
    writes: int
    syncs: int


def encode(data: bytes) -> bytes:
    """Return a record as CWal lays it out."""
    return b"".join((_LENGTH.pack(len(data)), data, _CRC.pack(checksum(data, 0))))


def naive(path: Path, records: Sequence[bytes]) -> Timing:
    """Append each record with a write and an fsync of its own (seed 3's naive log)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        started = time.perf_counter()
        for data in records:
            os.write(descriptor, encode(data))
            os.fsync(descriptor)
        seconds = time.perf_counter() - started
    finally:
        os.close(descriptor)
        os.unlink(path)
    return Timing(seconds, len(records), len(records))


def grouped(path: Path, records: Sequence[bytes], group: int) -> Timing:
    """Write each group of records at once, into zeros, with one fdatasync."""
    room = sum(map(len, records)) + 12 * len(records)
    descriptor = _zeroed(path, room)
    try:
        offset = groups = 0
        started = time.perf_counter()
        for start in range(0, len(records), group):
            block = b"".join([encode(data) for data in records[start : start + group]])
            os.pwrite(descriptor, block, offset)
            os.fdatasync(descriptor)
            offset += len(block)
            groups += 1
        seconds = time.perf_counter() - started
    finally:
        os.close(descriptor)
        os.unlink(path)
    return Timing(seconds, groups, groups)


class Ring:
    """Blocks written one by one, each with fdatasync, round and round in a file of zeros."""

    def __init__(self, path: Path, span: int) -> None:
        """Make the file, `span` bytes that are on the disk."""
        self._path = path
        self._span = span
        self._offset = 0
        self._descriptor = _zeroed(path, span)

    def write(self, buffers: Sequence[bytes], count: int) -> float:
        """Write the same buffers `count` times, each time with fdatasync; return the seconds."""
        size = sum(map(len, buffers))
        descriptor, offset, span = self._descriptor, self._offset, self._span
        started = time.perf_counter()
        for _ in range(count):
            if offset + size > span:
                offset = 0
            os.pwritev(descriptor, buffers, offset)
            os.fdatasync(descriptor)
            offset += size
        seconds = time.perf_counter() - started
        self._offset = offset
        return seconds

    def close(self) -> None:
        """Remove the file."""
        os.close(self._descriptor)
        os.unlink(self._path)


def read_and_checksum(paths: Sequence[Path]) -> tuple[float, int]:
    """Read files and compute a CRC of all their bytes; return seconds and bytes."""
    total = 0
    started = time.perf_counter()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            offset = value = 0
            while chunk := os.pread(descriptor, _CHUNK_BYTES, offset):
                value = checksum(chunk, value)
                offset += len(chunk)
            total += offset
        finally:
            os.close(descriptor)
    return time.perf_counter() - started, total


def _zeroed(path: Path, room: int) -> int:
    """Return a descriptor of a new file of zeros that are on the disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    for offset in range(0, room, len(_ZEROS)):
        os.pwrite(descriptor, _ZEROS, offset)
    os.fsync(descriptor)
    return descriptor
