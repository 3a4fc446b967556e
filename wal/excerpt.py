"""What a log holds, record by record, read without opening it: for the tools that rewrite logs.

`records_of` is a log's live state as the shortest list of records that makes it: what `recover`
found, and nothing of how it came to be. Written to an empty log, it makes an equal one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Final

from wal.checksum import crc32c
from wal.errors import CorruptLogError, FrameError
from wal.filesystem import Filesystem, ReadFilesystem
from wal.frame import (
    FRAME_BYTES_MIN,
    PREFIX_BYTES,
    Record,
    RecordHeader,
    decode_prefix,
    hard_state_record,
    release_record,
)
from wal.log import Log, OpenOptions, inline_driver
from wal.recovery import GroupLog, Recovered
from wal.replay import BatchRef
from wal.segment import LogIdentity, number_of_position, offset_of_position, segment_name

__all__ = ["record_at", "records_of", "state_of", "write_log"]

APPEND_BYTES: Final = 4 << 20
"""Bytes of one append when a log is written anew: one write, one sync."""
APPEND_RECORDS_MAX: Final = 1_000


def record_at(fs: ReadFilesystem, directory: str, position: int) -> Record:
    """Read the record at a position, both CRCs checked.

    Raises FrameError, OtherFormatError, OSError. The caller knows that a frame is there.
    """
    path = f"{directory}/{segment_name(number_of_position(position))}"
    offset = offset_of_position(position)
    with closing(fs.open_read(path)) as file:
        head = file.pread(FRAME_BYTES_MIN, offset)
        length = decode_prefix(head).frame_len
        header = RecordHeader.unpack(head[PREFIX_BYTES:])
        if length != FRAME_BYTES_MIN + header.payload_len:
            raise FrameError(f"frame length {length} does not fit")
        body = file.pread(header.payload_len, offset + FRAME_BYTES_MIN)
    computed = crc32c(body)
    if computed != header.payload_crc:
        raise FrameError("body CRC", header.payload_crc, computed)
    return Record(head[PREFIX_BYTES:], body)


def records_of(
    fs: ReadFilesystem, directory: str, groups: Mapping[int, GroupLog]
) -> Iterator[Record]:
    """Yield the records that make the live state of every group, batches verbatim.

    Raises CorruptLogError if a batch is damaged, FileNotFoundError if one was given back meanwhile.
    """
    for number, log in sorted(groups.items()):
        if log.released_index:
            yield release_record(number, log.released_index, log.released_term)
        for ref in log.batches:
            yield _batch(fs, directory, ref)
        if log.term or log.vote or log.config:
            yield hard_state_record(number, log.term, log.vote, log.config)


def _batch(fs: ReadFilesystem, directory: str, ref: BatchRef) -> Record:
    try:
        return record_at(fs, directory, ref.position)
    except FrameError as error:
        raise CorruptLogError(directory, ref.position, str(error), cause=error) from None


def write_log(
    fs: Filesystem,
    directory: str,
    identity: LogIdentity,
    records: Iterable[Record],
    options: OpenOptions | None = None,
) -> int:
    """Write records to a new log and stop it cleanly; return how many they were.

    Raises what `Log.open` and `Log.append` raise; OSError if the disk does not take all of it.
    """
    log, found = Log.open(
        fs, directory, identity, options or OpenOptions(make_driver=inline_driver)
    )
    assert not found.frames, "the directory is a new one"
    count = size = 0
    part: list[Record] = []
    try:
        for record in records:
            part.append(record)
            size += len(record.body)
            if size >= APPEND_BYTES or len(part) == APPEND_RECORDS_MAX:
                _append(log, part)
                count, size, part = count + len(part), 0, []
        if part:
            _append(log, part)
            count += len(part)
        if not log.seal_and_close():
            raise OSError(errno.ENOSPC, "the log could not be finished: no space", directory)
    finally:
        log.abort()
    return count


def _append(log: Log, part: Sequence[Record]) -> None:
    handle = log.append(part)
    if log.disk_full:
        raise OSError(errno.ENOSPC, "no space for the log", log.directory)
    handle.wait()


State = dict[int, tuple[int, int, bytes, int, int, tuple[tuple[int, int, int, int], ...]]]


def state_of(found: Recovered) -> State:
    """Return what is live in a log as a value, wherever it lies; quiet groups are left out."""
    state: State = {}
    for number, log in sorted(found.groups.items()):
        batches = tuple((ref.term, ref.base_index, ref.count, ref.size) for ref in log.batches)
        facts = (log.term, log.vote, log.config, log.released_index, log.released_term, batches)
        if facts != (0, 0, b"", 0, 0, ()):
            state[number] = facts
    return state
