"""Reading a log back: what was durable, where it ends, and whether it is damaged.

Theory of operation
-------------------
Frames are read from offset 0 of the oldest segment. A frame is valid if both CRCs hold, its uid
is its segment's, its sequence is the next one and its padding is zero. The first invalid frame
stands at a position x. It is **corruption** if something durable stood there, which is proved by

* a later frame, in any segment, that is CRC-valid, of its segment's own uid, and says
  `durable_pos` > x; or by
* the `SEALED` file of a clean stop, whose end lies behind x.

Otherwise nothing from x on was ever acknowledged: the log ends there, and what follows is a torn
tail (one unsynced write holds many frames; a power cut may keep a later one and lose an earlier
one). `cut` removes it, in an order in which a crash at any point recovers to the same log:
truncate, sync the file, unlink later segments (newest first), sync the directory.

Positions only grow, so stale frames in a recycled file carry a `durable_pos` below x and prove
nothing. What this cannot see: newest segments that vanished whole, with their names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from wal.checksum import crc32c
from wal.errors import (
    CorruptLogError,
    FrameError,
    IdentityMismatchError,
    NewerFormatError,
)
from wal.filesystem import File, Filesystem
from wal.frame import (
    FRAME_BYTES_MIN,
    MAGIC,
    PREFIX_BYTES,
    FramePrefix,
    Kind,
    RecordHeader,
    body_of_hard_state,
    decode_prefix,
    frame_size,
)
from wal.segment import (
    SEALED_NAME,
    LogIdentity,
    SegmentCheckpoint,
    decode_checkpoint,
    position_at,
    segment_name,
    segment_number,
)

__all__ = [
    "BatchRef",
    "Frame",
    "GroupLog",
    "Recovered",
    "TornTail",
    "cut",
    "read_frames",
    "recover",
    "segment_numbers",
]

CHUNK_BYTES: Final = 4 << 20
_SEALED: Final = Struct("<8sQ")
_SEALED_MAGIC: Final = b"RDSEAL01"
_CRC: Final = Struct("<I")
_MAGIC_BYTES: Final = Struct("<I").pack(MAGIC)


@dataclass(frozen=True, slots=True)
class BatchRef:
    """Where a batch lies. `size` is the body's length in bytes."""

    term: int
    base_index: int
    count: int
    size: int
    position: int

    @property
    def last_index(self) -> int:
        """Index of the batch's last entry."""
        return self.base_index + self.count - 1


@dataclass(slots=True)
class GroupLog:
    """What recovery found of one group; `batches` are contiguous behind `released_index`."""

    term: int = 0
    vote: int = 0
    config: bytes = b""
    released_index: int = 0
    released_term: int = 0
    batches: deque[BatchRef] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class TornTail:
    """Bytes behind the end that were written and never acknowledged."""

    position: int
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One valid frame as read; `body` is a view into a buffer that the reader reuses."""

    position: int
    prefix: FramePrefix
    header: RecordHeader
    body: memoryview


@dataclass(slots=True)
class Recovered:
    """The log as it stands. Positions are `segment << 32 | offset`."""

    directory: str
    groups: Mapping[int, GroupLog]
    end: int = 0
    """Behind the last valid frame; 0 for a log without segments."""
    uid: int = 0
    sequence: int = 0
    sealed: bool = False
    torn: TornTail | None = None
    segments: dict[int, int] = field(default_factory=dict)
    """Segment number → file size, oldest first, up to the one that holds the end."""
    unstarted: tuple[int, ...] = ()
    """Segments behind the end, to be unlinked."""
    frames: int = 0

    @property
    def number(self) -> int:
        """Number of the segment that holds the end; 0 for none."""
        return self.end >> 32


@dataclass(slots=True)
class _Stop:
    """Why reading a segment ended."""

    offset: int = 0
    reason: str = "end of file"
    ours: bool = False
    """Whether the bytes there look like a frame of this very segment use."""


def segment_numbers(fs: Filesystem, directory: str) -> list[int]:
    """Return the numbers of the segments in a directory, oldest first."""
    numbers = (segment_number(name) for name in fs.listdir(directory))
    return sorted(number for number in numbers if number is not None)


def recover(fs: Filesystem, directory: str, identity: LogIdentity | None = None) -> Recovered:
    """Read a whole log without changing anything.

    Raises CorruptLogError, IdentityMismatchError (with `identity`), NewerFormatError, OSError.
    Memory: one chunk of 4 MiB or the largest record, plus one `BatchRef` per live batch.
    """
    return _Recovery(fs, directory, identity).run()


def cut(fs: Filesystem, found: Recovered) -> None:
    """Remove what stands behind the end, durably; see the module text for the order."""
    directory = found.directory
    if found.number:
        file = fs.open(f"{directory}/{segment_name(found.number)}")
        try:
            file.truncate(found.end & 0xFFFF_FFFF)
            file.sync()
        finally:
            file.close()
    for number in reversed(found.unstarted):
        fs.unlink(f"{directory}/{segment_name(number)}")
    fs.sync_dir(directory)


def write_sealed(fs: Filesystem, directory: str, end: int) -> None:
    """Record a clean stop at `end`, durably."""
    path = f"{directory}/{SEALED_NAME}"
    temporary = f"{path}.tmp"
    if fs.exists(temporary):
        fs.unlink(temporary)
    file = fs.open(temporary, create=True)
    body = _SEALED.pack(_SEALED_MAGIC, end)
    try:
        file.pwritev([body, _CRC.pack(crc32c(body))], 0)
        file.sync()
    finally:
        file.close()
    fs.rename(temporary, path)
    fs.sync_dir(directory)


def read_sealed(fs: Filesystem, directory: str) -> int | None:
    """Return the end position of a clean stop, None without one; CorruptLogError if damaged."""
    path = f"{directory}/{SEALED_NAME}"
    if not fs.exists(path):
        return None
    file = fs.open_read(path)
    try:
        data = file.pread(_SEALED.size + _CRC.size + 1, 0)
    finally:
        file.close()
    if len(data) == _SEALED.size + _CRC.size:
        magic, end = _SEALED.unpack_from(data)
        (stored,) = _CRC.unpack_from(data, _SEALED.size)
        if magic == _SEALED_MAGIC and stored == crc32c(data[: _SEALED.size]):
            return int(end)
    raise CorruptLogError(directory, 0, f"the file {SEALED_NAME} of the clean stop is damaged")


def read_frames(file: File, number: int, stop: _Stop) -> Iterator[Frame]:
    """Yield the valid frames of one segment from offset 0; `stop` says where and why it ended.

    Checks CRCs, uid, sequence continuity within the segment, and padding. A newer record format
    raises NewerFormatError. A frame's body is valid until the next one is asked for.
    """
    size = file.size()
    chunk, base = memoryview(b""), 0
    offset = 0
    uid: int | None = None
    sequence: int | None = None
    while True:
        stop.offset, stop.ours = offset, False
        if offset + FRAME_BYTES_MIN > size:
            stop.reason = "end of file"
            return
        if offset + FRAME_BYTES_MIN > base + len(chunk):
            chunk, base = memoryview(file.pread(CHUNK_BYTES, offset)), offset
        head = chunk[offset - base : offset - base + FRAME_BYTES_MIN]
        stop.ours = uid is not None and int.from_bytes(head[:8], "little") == uid
        try:
            prefix = decode_prefix(head)
            header = RecordHeader.unpack(head[PREFIX_BYTES:])
        except FrameError as error:
            stop.reason = str(error)
            return
        end = offset + frame_size(header.payload_len)
        if prefix.frame_len != FRAME_BYTES_MIN + header.payload_len or end > size:
            stop.reason = f"frame length {prefix.frame_len} does not fit"
            return
        if uid is not None and (prefix.segment_uid != uid or prefix.sequence != sequence):
            stop.reason = "a frame of an earlier use of this file"
            return
        if end > base + len(chunk):
            chunk = memoryview(file.pread(max(CHUNK_BYTES, end - offset), offset))
            base = offset
        body = chunk[offset - base + FRAME_BYTES_MIN : offset - base + prefix.frame_len]
        computed = crc32c(body)
        if computed != header.payload_crc:
            stop.reason = f"body CRC (stored {header.payload_crc:08x}, computed {computed:08x})"
            return
        if any(chunk[offset - base + prefix.frame_len : end - base]):
            stop.reason = "padding is not zero"
            return
        uid, sequence = prefix.segment_uid, prefix.sequence + 1
        yield Frame(position_at(number, offset), prefix, header, body)
        offset = end


class _Recovery:
    """One pass over a directory."""

    def __init__(self, fs: Filesystem, directory: str, identity: LogIdentity | None) -> None:
        self._fs = fs
        self._directory = directory
        self._identity = identity
        self._groups: dict[int, GroupLog] = {}
        self._found = Recovered(directory, self._groups)

    def run(self) -> Recovered:
        numbers = segment_numbers(self._fs, self._directory)
        sealed_end = read_sealed(self._fs, self._directory)
        found = self._found
        for place, number in enumerate(numbers):
            stop = self._read_segment(number)
            position = position_at(number, stop.offset)
            later = numbers[place + 1 :]
            if stop.offset == 0:
                self._judge(position, stop, numbers[place:], sealed_end)
                found.unstarted = tuple(numbers[place:])
                self._note_torn(found.end or position, stop, numbers[place:])
                break
            found.end = position
            if not later:
                self._judge(position, stop, [number], sealed_end)
                self._note_torn(position, stop, [])
            elif not self._continues(later[0], position):
                self._judge(position, stop, [number, *later], sealed_end)
                found.unstarted = tuple(later)
                self._note_torn(position, stop, later)
                break
        if sealed_end is not None and sealed_end > found.end:
            raise self._corrupt(found.end, "the log of a clean stop is shorter than it was")
        found.sealed = sealed_end is not None and sealed_end == found.end
        self._check_contiguous()
        return found

    # ---- one segment ---------------------------------------------------------------------

    def _read_segment(self, number: int) -> _Stop:
        found = self._found
        file = self._fs.open_read(f"{self._directory}/{segment_name(number)}")
        stop = _Stop()
        try:
            for frame in read_frames(file, number, stop):
                if frame.position == position_at(number, 0):
                    if not self._begins(frame, number):
                        stop.offset, stop.reason = 0, "not the checkpoint of this segment"
                        break
                    found.uid = frame.prefix.segment_uid
                elif frame.header.kind is Kind.CHECKPOINT:
                    raise self._corrupt(frame.position, "a checkpoint inside a segment")
                else:
                    self._take(frame)
                found.sequence = frame.prefix.sequence + 1
                found.frames += 1
            if stop.offset:
                found.segments[number] = file.size()
        finally:
            file.close()
        return stop

    def _begins(self, frame: Frame, number: int) -> bool:
        """Take in a segment's first frame; False if it is the start of an earlier use."""
        if frame.header.kind is not Kind.CHECKPOINT or frame.header.base_index != number:
            return False
        found = self._found
        checkpoint = decode_checkpoint(frame.body)
        self._check_identity(checkpoint)
        if found.end and checkpoint.previous_end != found.end:
            raise self._corrupt(
                min(found.end, checkpoint.previous_end),
                f"{segment_name(number)} continues a log that ended elsewhere"
                f" (previous segment {checkpoint.previous})",
                frame.position,
            )
        if found.end and frame.prefix.sequence != found.sequence:
            raise self._corrupt(frame.position, "a segment's sequence does not continue")
        if not found.end:
            for group in checkpoint.groups:
                log = self._groups.setdefault(group.group, GroupLog())
                log.term, log.vote, log.config = group.term, group.vote, group.config
                log.released_index, log.released_term = group.released_index, group.released_term
        return True

    def _check_identity(self, checkpoint: SegmentCheckpoint) -> None:
        wanted, stored = self._identity, checkpoint.identity
        if wanted is not None and stored != wanted:
            raise IdentityMismatchError(
                f"{self._directory}: {segment_name(checkpoint.number)} belongs to node"
                f" n{stored.node} of cluster {stored.cluster_id.hex()}, not to n{wanted.node} of"
                f" {wanted.cluster_id.hex()}; put the directories back under their own names"
            )

    def _take(self, frame: Frame) -> None:
        """Follow one record into its group's log."""
        header = frame.header
        if header.kind in (Kind.SEAL, Kind.OPEN):
            return
        log = self._groups.setdefault(header.group, GroupLog())
        match header.kind:
            case Kind.BATCH:
                self._take_batch(log, frame)
            case Kind.HARD_STATE:
                log.term = header.term
                log.vote, log.config = body_of_hard_state(frame.body)
            case Kind.TRUNCATE:
                while log.batches and log.batches[-1].base_index >= header.base_index:
                    log.batches.pop()
            case Kind.RELEASE:
                log.released_index, log.released_term = header.base_index, header.term
                while log.batches and log.batches[0].last_index <= header.base_index:
                    log.batches.popleft()

    def _take_batch(self, log: GroupLog, frame: Frame) -> None:
        header = frame.header
        ref = BatchRef(
            header.term, header.base_index, header.count, header.payload_len, frame.position
        )
        if header.count == 0 or header.base_index == 0:
            raise self._corrupt(frame.position, "a batch without entries")
        if log.batches and ref.base_index != log.batches[-1].last_index + 1:
            if ref.base_index <= log.batches[-1].last_index:
                raise self._corrupt(frame.position, f"batch {ref.base_index} overwrites the log")
            # A gap is legal only below a release that follows: checked at the end.
            log.batches.clear()
        log.batches.append(ref)

    # ---- judging the end -----------------------------------------------------------------

    def _continues(self, number: int, end: int) -> bool:
        """Tell whether the next segment begins with its own checkpoint right behind `end`."""
        file = self._fs.open_read(f"{self._directory}/{segment_name(number)}")
        try:
            frame = next(read_frames(file, number, _Stop()), None)
            if frame is None or frame.header.kind is not Kind.CHECKPOINT:
                return False
            if frame.header.base_index != number:
                return False
            return decode_checkpoint(frame.body).previous_end == end
        finally:
            file.close()

    def _judge(
        self, position: int, stop: _Stop, numbers: list[int], sealed_end: int | None
    ) -> None:
        """Raise CorruptLogError if something durable is proved to have stood at `position`."""
        if sealed_end is not None and sealed_end > position:
            raise self._corrupt(position, f"{stop.reason}; the log was stopped cleanly")
        for number in numbers:
            start = position & 0xFFFF_FFFF if number == position >> 32 else 0
            evidence = self._evidence(number, start, position)
            if evidence is not None:
                raise self._corrupt(position, stop.reason, evidence)

    def _evidence(self, number: int, start: int, position: int) -> int | None:
        """Find a valid frame from `start` on that says it was written after `position` synced."""
        file = self._fs.open_read(f"{self._directory}/{segment_name(number)}")
        uid = self._found.uid if number == self._found.number and start else None
        try:
            for offset, prefix in _scan(file, start):
                if uid is None and offset == 0:
                    uid = prefix.segment_uid
                if prefix.durable_pos > position and uid in (None, prefix.segment_uid):
                    return position_at(number, offset)
        finally:
            file.close()
        return None

    def _note_torn(self, position: int, stop: _Stop, later: list[int]) -> None:
        """Describe the torn tail, if there is one: unacknowledged bytes of ours behind the end."""
        size = 0
        number = position >> 32
        if stop.ours:
            size += self._found.segments.get(number, 0) - (position & 0xFFFF_FFFF)
        for name in map(segment_name, later):
            file = self._fs.open_read(f"{self._directory}/{name}")
            size += file.size()
            file.close()
        if stop.ours or later:
            self._found.torn = TornTail(position, size, stop.reason)

    def _check_contiguous(self) -> None:
        for group, log in sorted(self._groups.items()):
            if log.batches and log.batches[0].base_index > log.released_index + 1:
                first = log.batches[0]
                raise self._corrupt(
                    first.position,
                    f"group {group}: entries {log.released_index + 1} to"
                    f" {first.base_index - 1} are missing",
                )

    def _corrupt(self, position: int, reason: str, evidence: int | None = None) -> CorruptLogError:
        return CorruptLogError(self._directory, position, reason, evidence)


def _scan(file: File, start: int) -> Iterator[tuple[int, FramePrefix]]:
    """Yield (offset, prefix) of every CRC-valid frame prefix at or behind `start`, by magic."""
    size = file.size()
    offset = start
    while offset + FRAME_BYTES_MIN <= size:
        chunk = file.pread(CHUNK_BYTES, offset)
        place = chunk.find(_MAGIC_BYTES, PREFIX_BYTES)
        while place >= 0:
            begin = place - PREFIX_BYTES
            whole = begin + FRAME_BYTES_MIN <= len(chunk)
            if (offset + begin) % 8 == 0 and whole:
                prefix = _prefix_or_none(memoryview(chunk)[begin : begin + FRAME_BYTES_MIN])
                if prefix is not None:
                    yield offset + begin, prefix
            place = chunk.find(_MAGIC_BYTES, place + 1)
        if offset + len(chunk) >= size:
            return
        offset += len(chunk) - FRAME_BYTES_MIN


def _prefix_or_none(head: memoryview) -> FramePrefix | None:
    try:
        prefix = decode_prefix(head)
        RecordHeader.unpack(head[PREFIX_BYTES:])
    except (FrameError, NewerFormatError):
        return None
    return prefix
