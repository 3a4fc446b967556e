"""Reading one segment: frame after frame from its start, or whatever valid frames it holds.

Neither judges: where `read_frames` stops, `wal.recovery` decides what that means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from wal import checksum
from wal.errors import FrameError
from wal.filesystem import ReadFile
from wal.frame import (
    FRAME_BYTES_MIN,
    MAGIC,
    PREFIX_BYTES,
    Fields,
    FramePrefix,
    RecordHeader,
    decode_head,
    decode_prefix,
    frame_size,
)
from wal.segment import position_at

__all__ = ["CHUNK_BYTES", "Frame", "Rest", "Stop", "read_frames", "scan_frames"]

CHUNK_BYTES: Final = 1 << 20
"""Fits the caches. Much larger chunks are fresh memory each time, whose page faults take as long as
the reading."""
_MAGIC_BYTES: Final = Struct("<I").pack(MAGIC)


class Frame(NamedTuple):
    """One valid frame as read; `position` is its start. It keeps its chunk alive."""

    position: int
    uid: int
    sequence: int
    durable_pos: int
    fields: Fields
    head: memoryview
    """Prefix and record header, 96 bytes."""
    body: memoryview

    @property
    def header(self) -> RecordHeader:
        """The record header, in full."""
        return RecordHeader.unpack(self.head[PREFIX_BYTES:])

    @property
    def prefix(self) -> FramePrefix:
        """The frame prefix."""
        return decode_prefix(self.head)


@dataclass(slots=True)
class Stop:
    """Where and why reading a segment ended; complete once it did."""

    offset: int = 0
    cause: FrameError | None = None
    """None at the end of the file."""
    ours: bool = False
    """Whether the bytes there begin like a frame of this very use of the file."""

    @property
    def reason(self) -> str:
        """Why, as a text."""
        return str(self.cause) if self.cause else "end of file"


@dataclass(slots=True)
class Rest:
    """What a scan met, complete once it ended: whether any byte was not zero."""

    blank: bool = True


def read_frames(
    file: ReadFile,
    number: int,
    stop: Stop,
    *,
    start: int = 0,
    uid: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[Frame]:
    """Yield the valid frames of segment `number` from `start`; `stop` says where and why it ended.

    Checks CRCs, lengths, uid and sequence within the segment, and padding; the first frame's uid
    only if `uid` is given. Reads so much at a time. Raises OtherFormatError at a record of a newer
    format.
    """
    size = file.size()
    chunk, base = memoryview(b""), 0
    offset, first = start, position_at(number, 0)
    stop.offset, stop.cause, stop.ours = start, None, False
    sequence: int | None = None
    room = 8
    crc = checksum.function()
    while offset + FRAME_BYTES_MIN <= size:
        if offset + FRAME_BYTES_MIN > base + len(chunk):
            # Whole frames, if they are as long as the last one: what a chunk cuts is read again.
            wanted = max(chunk_bytes // room * room, FRAME_BYTES_MIN)
            chunk, base = memoryview(file.pread(wanted, offset)), offset
        place = offset - base
        try:
            own, number_of, durable, length, payload_crc, fields = decode_head(chunk, place, crc)
            room = frame_size(fields[5])
            if length != FRAME_BYTES_MIN + fields[5] or offset + room > size:
                raise FrameError(f"frame length {length} does not fit")
            if uid is not None and own != uid:
                raise FrameError("a frame of an earlier use of this file")
            if sequence is not None and number_of != sequence:
                raise FrameError(f"sequence {number_of}, not {sequence}")
            if place + room > len(chunk):
                wanted = max(chunk_bytes // room, 1) * room
                chunk = memoryview(file.pread(wanted, offset))
                base, place = offset, 0
            body = chunk[place + FRAME_BYTES_MIN : place + length]
            computed = crc(body, 0)
            if computed != payload_crc:
                raise FrameError("body CRC", payload_crc, computed)
            if room != length and any(chunk[place + length : place + room]):
                raise FrameError("padding is not zero")
        except FrameError as error:
            stop.cause = error
            stop.ours = int.from_bytes(chunk[place : place + 8], "little") == uid
            break
        uid, sequence = own, number_of + 1
        head = chunk[place : place + FRAME_BYTES_MIN]
        yield Frame(first + offset, own, number_of, durable, fields, head, body)
        offset += room
        stop.offset = offset


def scan_frames(
    file: ReadFile, start: int, rest: Rest | None = None
) -> Iterator[tuple[int, FramePrefix]]:
    """Yield (offset, prefix) of every frame at or behind `start` whose frame CRC holds.

    Frames are found by their magic, at multiples of 8, whatever stands between them; a record of a
    newer format counts. `rest`, once the scan ended, says what the bytes were like.
    """
    size = file.size()
    offset = start
    while True:
        chunk = file.pread(CHUNK_BYTES, offset)
        if rest is not None and rest.blank:
            rest.blank = chunk.count(0) == len(chunk)
        place = chunk.find(_MAGIC_BYTES, PREFIX_BYTES)
        while place >= 0:
            begin = place - PREFIX_BYTES
            if (offset + begin) % 8 == 0 and begin + FRAME_BYTES_MIN <= len(chunk):
                prefix = _prefix_or_none(memoryview(chunk)[begin : begin + FRAME_BYTES_MIN])
                if prefix is not None:
                    yield offset + begin, prefix
            place = chunk.find(_MAGIC_BYTES, place + 1)
        # A head that the chunk cuts begins within its last 95 bytes; start there, aligned.
        step = (len(chunk) - FRAME_BYTES_MIN + 8) & ~7
        if step <= 0 or offset + len(chunk) >= size:
            return
        offset += step


def _prefix_or_none(head: memoryview) -> FramePrefix | None:
    try:
        return decode_prefix(head)
    except FrameError:
        return None
