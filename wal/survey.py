"""Looking at a log that may be damaged, foreign, or being written meanwhile. Changes nothing.

`Snapshot` makes a log that is being written look still. Older segments never change; of the newest
one the pages are read once, the last page first: whatever a page says was written before, the
pages in front of it are read after it, and show it. So a frame that is not there yet is never
mistaken for one that is damaged.

`walk` lists what frames there are, across damage; `recovered` judges, as an open would.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from wal.errors import CorruptLogError, FrameError
from wal.filesystem import ReadFile, ReadFilesystem
from wal.frame import FRAME_BYTES_MIN, PREFIX_BYTES, Kind, RecordHeader, decode_prefix, frame_size
from wal.reader import Stop, read_frames, scan_frames
from wal.recovery import Recovered, recover, segment_numbers
from wal.segment import SEALED_NAME, number_of_position, position_at, segment_name

__all__ = ["Sight", "Snapshot", "recovered", "walk"]

_PAGE_BYTES: Final = 4096
_ATTEMPTS_MAX: Final = 5
"""A log may roll and give segments back while it is read; each attempt starts afresh."""


class _Content:
    """`ReadFile` over bytes in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def pread(self, length: int, offset: int) -> bytes:
        """See `ReadFile.pread`."""
        return self._content[offset : offset + length]

    def size(self) -> int:
        """See `ReadFile.size`."""
        return len(self._content)

    def close(self) -> None:
        """See `ReadFile.close`."""


class Snapshot:
    """`ReadFilesystem` over one log directory as it was at one moment.

    Memory: the newest segment. An older one may be given back meanwhile: FileNotFoundError.
    """

    def __init__(self, fs: ReadFilesystem, directory: str) -> None:
        """Take the snapshot: SEALED, then the names, then the newest segment."""
        self._fs = fs
        self._directory = directory
        self._contents: dict[str, bytes] = {}
        sealed = f"{directory}/{SEALED_NAME}"
        if fs.exists(sealed):
            with closing(fs.open_read(sealed)) as file:
                self._contents[sealed] = file.pread(_PAGE_BYTES, 0)
        self._names = [name for name in fs.listdir(directory) if name != SEALED_NAME]
        if sealed in self._contents:
            self._names.append(SEALED_NAME)
        numbers = segment_numbers(self, directory)
        if numbers:
            newest = f"{directory}/{segment_name(numbers[-1])}"
            with closing(fs.open_read(newest)) as file:
                self._contents[newest] = _read_backwards(file)

    def open_read(self, path: str) -> ReadFile:
        """See `ReadFilesystem.open_read`."""
        if path in self._contents:
            return _Content(self._contents[path])
        return self._fs.open_read(path)

    def exists(self, path: str) -> bool:
        """See `ReadFilesystem.exists`."""
        return path in self._contents if path.endswith(SEALED_NAME) else self._fs.exists(path)

    def listdir(self, path: str) -> list[str]:
        """See `ReadFilesystem.listdir`; only of the log's directory."""
        assert path == self._directory
        return list(self._names)


def _read_backwards(file: ReadFile) -> bytes:
    size = file.size()
    content = bytearray(size)
    for offset in reversed(range(0, size, _PAGE_BYTES)):
        page = file.pread(min(_PAGE_BYTES, size - offset), offset)
        content[offset : offset + len(page)] = page
    return bytes(content)


def recovered(fs: ReadFilesystem, directory: str) -> Recovered:
    """Judge a log as an open would, though it may be written meanwhile.

    What looks damaged is looked at again: damage stays where it is. Raises what `recover` raises.
    """
    last: CorruptLogError | FileNotFoundError | None = None
    for _ in range(_ATTEMPTS_MAX):
        try:
            return recover(Snapshot(fs, directory), directory)
        except (CorruptLogError, FileNotFoundError) as error:
            if last is not None and str(error) == str(last):
                raise
            last = error
    raise OSError(errno.EBUSY, "the log changes faster than it can be read; stop its node first")


@dataclass(frozen=True, slots=True)
class Sight:
    """One frame, or one place where a frame should be. `header` is None if nothing can be told."""

    position: int
    header: RecordHeader | None
    sequence: int | None
    damage: FrameError | None
    proved: bool
    """For damage: whether a later frame or a clean stop says that something durable stood there."""

    @property
    def size(self) -> int | None:
        """Bytes in the segment, padding included."""
        return None if self.header is None else frame_size(self.header.payload_len)


def walk(
    fs: ReadFilesystem, directory: str, start: int = 0, sealed_end: int = 0
) -> Iterator[Sight]:
    """List the frames of a log from position `start` on, damage included.

    Behind damage, the frames of the same use of the file go on. What an earlier use left in a
    recycled file is not listed. Raises OtherFormatError, OSError.
    """
    numbers = [n for n in segment_numbers(fs, directory) if n >= number_of_position(start)]
    for place, number in enumerate(numbers):
        more = numbers[place + 1 :]
        proof = position_at(more[0], 0) if more else sealed_end
        try:
            file = fs.open_read(f"{directory}/{segment_name(number)}")
        except FileNotFoundError:
            continue  # given back meanwhile
        with closing(file):
            for sight in _walk_segment(file, number, proof):
                if sight.position >= start:
                    yield sight


def _walk_segment(file: ReadFile, number: int, proof: int) -> Iterator[Sight]:
    """List the frames of one segment; everything in front of `proof` was durable."""
    uid = _own_uid(file, number)
    offset: int | None = 0 if uid is not None else None
    while offset is not None:
        stop = Stop()
        for frame in read_frames(file, number, stop, start=offset, uid=uid):
            yield Sight(frame.position, frame.header, frame.sequence, None, False)
        rest = [
            (later, prefix.durable_pos)
            for later, prefix in scan_frames(file, stop.offset + 8)
            if prefix.segment_uid == uid
        ]
        if stop.cause is None or not (rest or stop.ours):
            return
        position = position_at(number, stop.offset)
        durable = max([durable for _, durable in rest], default=0)
        header, sequence = _header_at(file, stop.offset)
        yield Sight(position, header, sequence, stop.cause, max(durable, proof) > position)
        offset = rest[0][0] if rest else None
        if offset is not None and header is not None:
            offset = min(offset, stop.offset + frame_size(header.payload_len))


def _own_uid(file: ReadFile, number: int) -> int | None:
    """Return the uid of this use of the file; None if it has not begun.

    Without a checkpoint of its own to say it: frames of this use were written when the segment
    before was durable, frames of an earlier use long before that.
    """
    frame = next(read_frames(file, number, Stop()), None)
    if frame is not None and (frame.fields[0], frame.fields[4]) == (Kind.CHECKPOINT, number):
        return frame.uid
    for _, prefix in scan_frames(file, 0):
        if number_of_position(prefix.durable_pos) in (number - 1, number):
            return prefix.segment_uid
    return None


def _header_at(file: ReadFile, offset: int) -> tuple[RecordHeader | None, int | None]:
    """Return header and sequence of a damaged frame as far as they hold."""
    head = file.pread(FRAME_BYTES_MIN, offset)
    try:
        prefix = decode_prefix(head)
        return RecordHeader.unpack(head[PREFIX_BYTES:]), prefix.sequence
    except FrameError:
        return None, None
