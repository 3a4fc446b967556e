"""Frames in whole blocks: what O_DIRECT asks for, without a change to what lies on the disk.

Theory of operation
-------------------
Frames follow one another at multiples of 8 bytes; a device takes blocks of 4 KiB from memory that is
aligned to as much. So a write is widened to the blocks that it touches:

    block     |      n       |     n + 1    |     n + 2    |
    on disk   |aaaaaaaabbbb00|              |              |
    to write            ····ccccccccccccccccccc
    written   |aaaaaaaabbbbcc|cccccccccccccc|ccc00000000000|

The head of block n is what was there, byte for byte, kept in memory since the last write; what
follows the new frames is zeros. A reader notices nothing: zeros are no frame, in a recycled file as in
a new one.

Rewriting block n while it holds durable frames assumes what the page cache assumes as well, which
writes whole pages too: that a sector which is overwritten by bytes that it holds already keeps them,
whatever happens to the power (docs/wal.md). The alternative, padding every write to a block with a
frame of its own, costs half a block of disk per write, and every reader a kind of record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from mmap import mmap
from typing import Final

from wal.filesystem import Buffer, TunedFile

__all__ = ["BLOCK_BYTES", "BlockFile"]

BLOCK_BYTES: Final = 4096
"""Of every device we know, or a multiple of what it asks for (512)."""
_BUFFER_BYTES: Final = 1 << 20
"""Grows to the largest job (4 MiB by default) or record."""
_ZERO_BYTES: Final = 1 << 20


def _down(offset: int) -> int:
    return offset & -BLOCK_BYTES


def _up(offset: int) -> int:
    return -(-offset // BLOCK_BYTES) * BLOCK_BYTES


class BlockFile:
    """`wal.filesystem.TunedFile` over one that takes whole blocks only. For writing at the head."""

    __slots__ = ("_buffer", "_end", "_file", "_read", "_tail", "_zeros")

    def __init__(self, file: TunedFile, read: Callable[[int, int], bytes]) -> None:
        """Write to `file`; `read(length, offset)` reads the same file, aligned or not."""
        self._file = file
        self._read = read
        self._buffer = mmap(-1, _BUFFER_BYTES)
        """Anonymous memory begins at a page."""
        self._zeros: mmap | None = None
        self._end = -1
        """Where the last write ended; -1: not known."""
        self._tail = b""
        """The bytes of the block at `_end` that lie before it."""

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """See `File.pwritev`; the rest of the last block becomes zeros."""
        size = sum(map(len, buffers))
        start, end = _down(offset), offset + size
        room = _up(end) - start
        buffer = self._room_for(room)
        place = offset - start
        if place:
            buffer[:place] = self._tail if self._end == offset else self._head_of(start, place)
        for each in buffers:
            buffer[place : place + len(each)] = each
            place += len(each)
        buffer[place:room] = bytes(room - place)
        self._end = -1
        with memoryview(buffer) as whole, whole[:room] as part:
            self._file.pwritev([part], start)
        last = _down(end) - start
        self._end, self._tail = end, buffer[last : end - start]

    def zero_fill(self, offset: int, length: int) -> None:
        """See `File.zero_fill`; from the next block on, to the end of the last one.

        A block that is shared with what stands before `offset` is filled up by `pwritev`.
        """
        start, end = _up(offset), _up(offset + length)
        if self._zeros is None:
            self._zeros = mmap(-1, _ZERO_BYTES)
        with memoryview(self._zeros) as zeros:
            while start < end:
                step = min(end - start, _ZERO_BYTES)
                with zeros[:step] as part:
                    self._file.pwritev([part], start)
                start += step

    def pread(self, length: int, offset: int) -> bytes:
        """See `ReadFile.pread`."""
        return self._read(length, offset)

    def size(self) -> int:
        """See `ReadFile.size`; a multiple of the block once something was written."""
        return self._file.size()

    def allocate(self, offset: int, length: int) -> None:
        """See `File.allocate`."""
        self._file.allocate(offset, length)

    def datasync(self) -> None:
        """See `File.datasync`: O_DIRECT leaves the device's own cache to it, and the metadata."""
        self._file.datasync()

    def sync(self) -> None:
        """See `File.sync`."""
        self._file.sync()

    def truncate(self, length: int) -> None:
        """See `File.truncate`."""
        self._end = -1
        self._file.truncate(length)

    def drop_cache(self, offset: int, length: int) -> None:
        """See `TunedFile.drop_cache`."""
        self._file.drop_cache(offset, length)

    def start_writeback(self, offset: int, length: int) -> None:
        """See `TunedFile.start_writeback`."""
        self._file.start_writeback(offset, length)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _head_of(self, start: int, length: int) -> bytes:
        """Return what stands before the head in its block, after a restart."""
        found = self._read(length, start)
        return found + bytes(length - len(found))

    def _room_for(self, size: int) -> mmap:
        if size > len(self._buffer):
            self._buffer = mmap(-1, size)
        return self._buffer
