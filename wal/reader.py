"""Reading one segment: frame after frame from its start, or whatever valid frames it holds.

Neither judges: where `read_frames` stops, `wal.recovery` decides what that means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from wal.checksum import crc32c
from wal.errors import FrameError
from wal.filesystem import ReadFile
from wal.frame import (
    FRAME_BYTES_MIN,
    MAGIC,
    PREFIX_BYTES,
    FramePrefix,
    RecordHeader,
    decode_prefix,
    frame_size,
)
from wal.segment import position_at

__all__ = ["CHUNK_BYTES", "Frame", "Rest", "Stop", "read_frames", "scan_frames"]

CHUNK_BYTES: Final = 4 << 20
_MAGIC_BYTES: Final = Struct("<I").pack(MAGIC)


@dataclass(frozen=True, slots=True)
class Frame:
    """One valid frame as read; `position` is its start, `body` keeps its chunk alive."""

    position: int
    prefix: FramePrefix
    header: RecordHeader
    body: memoryview


@dataclass(slots=True)
class Stop:
    """Where and why reading a segment ended."""

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
    file: ReadFile, number: int, stop: Stop, *, start: int = 0, uid: int | None = None
) -> Iterator[Frame]:
    """Yield the valid frames of segment `number` from `start`; `stop` says where and why it ended.

    Checks CRCs, lengths, uid and sequence within the segment, and padding; the first frame's uid
    only if `uid` is given. Raises NewerFormatError at a record of a newer format.
    """
    size = file.size()
    chunk, base = memoryview(b""), 0
    offset = start
    sequence: int | None = None
    while True:
        stop.offset, stop.ours, stop.cause = offset, False, None
        if offset + FRAME_BYTES_MIN > size:
            return
        if offset + FRAME_BYTES_MIN > base + len(chunk):
            chunk, base = memoryview(file.pread(CHUNK_BYTES, offset)), offset
        place = offset - base
        head = chunk[place : place + FRAME_BYTES_MIN]
        stop.ours = uid is not None and int.from_bytes(head[:8], "little") == uid
        try:
            prefix = decode_prefix(head)
            header = RecordHeader.unpack(head[PREFIX_BYTES:])
            end = offset + _checked_size(prefix, header, size - offset)
            if uid is not None and prefix.segment_uid != uid:
                raise FrameError("a frame of an earlier use of this file")
            if sequence is not None and prefix.sequence != sequence:
                raise FrameError(f"sequence {prefix.sequence}, not {sequence}")
            if end > base + len(chunk):
                chunk = memoryview(file.pread(max(CHUNK_BYTES, end - offset), offset))
                base, place = offset, 0
            body = chunk[place + FRAME_BYTES_MIN : place + prefix.frame_len]
            _check_body(header, body, chunk[place + prefix.frame_len : end - base])
        except FrameError as error:
            stop.cause = error
            return
        uid, sequence = prefix.segment_uid, prefix.sequence + 1
        yield Frame(position_at(number, offset), prefix, header, body)
        offset = end


def _checked_size(prefix: FramePrefix, header: RecordHeader, room: int) -> int:
    """Return what the frame takes in the file; FrameError if its lengths cannot be."""
    size = frame_size(header.payload_len)
    if prefix.frame_len != FRAME_BYTES_MIN + header.payload_len or size > room:
        raise FrameError(f"frame length {prefix.frame_len} does not fit")
    return size


def _check_body(header: RecordHeader, body: memoryview, padding: memoryview) -> None:
    computed = crc32c(body)
    if computed != header.payload_crc:
        raise FrameError("body CRC", header.payload_crc, computed)
    if any(padding):
        raise FrameError("padding is not zero")


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
