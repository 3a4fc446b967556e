"""Reading a log back: what was durable, where it ends, and whether it is damaged.

Theory of operation
-------------------
Frames are read from offset 0 of the oldest segment. A frame is valid if both CRCs hold, its uid
is its segment's, its sequence is the next one and its padding is zero. The first invalid frame
stands at a position x. It is **corruption** if something durable stood there, which is proved by

* a later frame, in any segment, that is CRC-valid, of its segment's own uid, and says
  `durable_pos` > x; or by
* a later segment: its file is made only once the one before is durable, and its CHECKPOINT names
  where that one ended; or by
* the `SEALED` file of a clean stop, whose end lies behind x; or, for the start of a segment, by
* the absence of the segments before it: they are given back only once it is durable.

Otherwise nothing from x on was ever acknowledged: the log ends there, and what follows is a torn
tail (one unsynced write holds many frames; a power cut may keep a later one and lose an earlier
one). At most the newest segment is unstarted: created, and without a checkpoint of its own.

`cut` removes a torn tail in an order in which a crash at any point recovers to the same log. It
also writes the frames that nothing proves durable once more before it syncs them: after a process
died with a failed fsync, they may be in the page cache, marked clean, and not on the disk.

Positions only grow, so stale frames in a recycled file carry a `durable_pos` below x and prove
nothing. What this cannot see: damage within the last flush of a log that was not stopped cleanly,
and newest segments that vanished whole, with their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from wal.errors import (
    CorruptLogError,
    FrameError,
    IdentityMismatchError,
    LostLogError,
    TornTailError,
)
from wal.filesystem import Filesystem, ReadFilesystem
from wal.frame import Kind
from wal.reader import CHUNK_BYTES, Frame, Rest, Stop, read_frames, scan_frames
from wal.replay import BatchRef, GroupLog
from wal.sealed import read_sealed
from wal.segment import (
    LogIdentity,
    SegmentCheckpoint,
    decode_checkpoint,
    number_of_position,
    offset_of_position,
    position_at,
    segment_name,
    segment_number,
)

__all__ = [
    "RECOVERY_MODES",
    "BatchRef",
    "Frame",
    "GroupLog",
    "Recovered",
    "RecoveryMode",
    "TornTail",
    "cut",
    "read_frames",
    "recover",
    "refuse_lost",
    "refuse_torn",
    "segment_numbers",
]

RecoveryMode = Literal["default", "strict"]
"""What an open does about a torn tail. default: cuts it, and says so. strict: refuses the log and
changes nothing, for whoever wants to look before anything is cut. Corruption is refused by both;
what salvages more is a tool (`raftdeck wal repair`), never an open. docs/durability.md has the table."""
RECOVERY_MODES: Final[tuple[RecoveryMode, ...]] = get_args(RecoveryMode)

_OWN: Final = frozenset({int(Kind.SEAL), int(Kind.OPEN)})
"""Kinds of the log's own records, which belong to no group."""
_CHECKPOINT_BYTES: Final = 64 << 10
"""Holds the checkpoint of some hundred groups; a larger one is read once more, in full."""


@dataclass(frozen=True, slots=True)
class TornTail:
    """What was written at the end and never acknowledged.

    `position` is where the log ends, `bytes` what stands behind it in its files, zeros included.
    """

    position: int
    bytes: int
    reason: str


@dataclass(slots=True)
class Recovered:
    """The log as it stands. Positions are `segment << 32 | offset`."""

    directory: str
    groups: Mapping[int, GroupLog]
    identity: LogIdentity | None = None
    """Whose log it is; None if that is not known yet."""
    end: int = 0
    """Behind the last valid frame; 0 for a log without segments."""
    proved: int = 0
    """Up to here a frame says that the log was durable; from here to `end` nothing does."""
    uid: int = 0
    sequence: int = 0
    sealed: bool = False
    torn: TornTail | None = None
    segments: dict[int, int] = field(default_factory=dict)
    """Segment number → file size, oldest first, up to the one that holds the end."""
    unstarted: tuple[int, ...] = ()
    """Segments behind the end, to be unlinked: none or one."""
    frames: int = 0

    @property
    def number(self) -> int:
        """Number of the segment that holds the end; 0 for none."""
        return self.end >> 32


def segment_numbers(fs: ReadFilesystem, directory: str) -> list[int]:
    """Return the numbers of the segments in a directory, oldest first."""
    numbers = (segment_number(name) for name in fs.listdir(directory))
    return sorted(number for number in numbers if number is not None)


def recover(fs: ReadFilesystem, directory: str, identity: LogIdentity | None = None) -> Recovered:
    """Read a whole log without changing anything.

    Raises CorruptLogError, IdentityMismatchError (the first segment's owner or `identity`, if it is
    given, owns all), OtherFormatError, OSError.
    Memory: one chunk of 4 MiB or the largest record, plus one `BatchRef` per live batch.
    """
    return _Recovery(fs, directory, identity).run()


def refuse_torn(found: Recovered) -> None:
    """Raise TornTailError if the log ends in a torn tail: strict recovery."""
    if found.torn is not None:
        torn = found.torn
        raise TornTailError(found.directory, torn.position, torn.bytes, torn.reason)


def refuse_lost(found: Recovered) -> None:
    """Raise LostLogError if no segment is left, for an owner who knows that the log had begun."""
    if not found.number:
        raise LostLogError(found.directory)


def cut(fs: Filesystem, found: Recovered) -> None:
    """Remove what stands behind the end and make the rest durable; see the module text."""
    directory = found.directory
    if found.number:
        with closing(fs.open(f"{directory}/{segment_name(found.number)}")) as file:
            end = offset_of_position(found.end)
            within = number_of_position(found.proved) == found.number
            start = offset_of_position(found.proved) if within else 0
            while start < end:
                chunk = file.pread(min(CHUNK_BYTES, end - start), start)
                assert chunk, "the file is as long as it was, under our lock"
                file.pwritev([chunk], start)
                start += len(chunk)
            file.truncate(end)
            file.sync()
    for number in found.unstarted:
        fs.unlink(f"{directory}/{segment_name(number)}")
    fs.sync_dir(directory)


@dataclass(slots=True)
class _Trace:
    """What stands behind the end in one file."""

    touched: bool = False
    """Whether anything of this use of the file does."""
    evidence: int | None = None
    """Position of a frame that says that more was durable."""


class _Recovery:
    """One pass over a directory."""

    def __init__(self, fs: ReadFilesystem, directory: str, identity: LogIdentity | None) -> None:
        self._fs = fs
        self._directory = directory
        self._groups: dict[int, GroupLog] = {}
        self._found = Recovered(directory, self._groups, identity)
        self._stop = Stop()
        """Why the last segment that was read ended."""
        self._start = Stop()
        """Why the segment looked at last has no checkpoint of its own, if it has none."""
        self._recycled = False
        self._sealed_end: int | None = None

    def run(self) -> Recovered:
        numbers = segment_numbers(self._fs, self._directory)
        self._sealed_end = read_sealed(self._fs, self._directory)
        found = self._found
        for place, number in enumerate(numbers):
            checkpoint = self._checkpoint_of(number)
            if checkpoint is None:
                self._check_unstarted(number, numbers[place + 1 :])
                break
            self._check_chain(checkpoint)
            self._read_segment(checkpoint)
        self._judge_end()
        for group, log in sorted(self._groups.items()):
            if (missing := log.settle()) is not None:
                raise self._corrupt(
                    position_at(numbers[0], 0),
                    f"group {group}: entries {missing[0]} to {missing[1]} are missing: they lay in"
                    " segments before this one",
                )
        return found

    # ---- one segment ---------------------------------------------------------------------

    def _checkpoint_of(self, number: int) -> SegmentCheckpoint | None:
        """Return the checkpoint that a segment starts with; None if it is not its own."""
        self._start = Stop()
        with closing(self._fs.open_read(self._path(number))) as file:
            frames = read_frames(file, number, self._start, chunk_bytes=_CHECKPOINT_BYTES)
            frame = next(frames, None)
        if frame is None:
            return None
        if frame.fields[0] != Kind.CHECKPOINT or frame.fields[4] != number:
            self._start.cause = FrameError("the start of an earlier use of this file")
            return None
        try:
            checkpoint = decode_checkpoint(frame.body)
        except FrameError as error:
            raise self._corrupt(frame.position, str(error), cause=error) from None
        wanted, stored = self._found.identity, checkpoint.identity
        if wanted is not None and stored != wanted:
            raise IdentityMismatchError(
                f"{self._directory}: {segment_name(checkpoint.number)} belongs to node"
                f" n{stored.node} of cluster {stored.cluster_id.hex()}, not to n{wanted.node} of"
                f" {wanted.cluster_id.hex()}; put the directories back under their own names"
            )
        return checkpoint

    def _check_chain(self, checkpoint: SegmentCheckpoint) -> None:
        """Raise CorruptLogError unless the segment continues the log as read so far."""
        found, number = self._found, checkpoint.number
        if not found.end:
            return
        begin = position_at(number, 0)
        if number != found.number + 1:
            missing = segment_name(found.number + 1)
            raise self._corrupt(found.end, f"{missing} is missing", evidence=begin)
        if checkpoint.previous_end > found.end:
            stop = self._stop
            raise self._corrupt(found.end, stop.reason, evidence=begin, cause=stop.cause)
        if checkpoint.previous_end < found.end:
            raise self._corrupt(
                checkpoint.previous_end,
                f"{segment_name(number)} continues a log that ended here, and this one did not",
                evidence=begin,
            )

    def _read_segment(self, checkpoint: SegmentCheckpoint) -> None:
        found, number = self._found, checkpoint.number
        self._stop = Stop()
        self._recycled = checkpoint.recycled
        found.identity = checkpoint.identity
        groups, frame = self._groups, None
        with closing(self._fs.open_read(self._path(number))) as file:
            size = file.size()
            for frame in read_frames(file, number, self._stop):
                found.frames += 1
                kind, group, *_ = fields = frame.fields
                if kind == Kind.CHECKPOINT:
                    self._take_checkpoint(frame, checkpoint)
                elif kind not in _OWN:
                    log = groups.get(group)
                    if log is None:
                        log = groups[group] = GroupLog()
                    try:
                        log.take(fields, frame.body, frame.position)
                    except FrameError as error:
                        raise self._corrupt(frame.position, str(error), cause=error) from None
        if frame is None:
            reason = f"the checkpoint could be read once, and not again: {self._stop.reason}"
            raise self._corrupt(position_at(number, 0), reason, cause=self._stop.cause)
        found.uid, found.sequence = frame.uid, frame.sequence + 1
        found.proved = frame.durable_pos
        found.segments[number] = size
        found.end = position_at(number, self._stop.offset)

    def _take_checkpoint(self, frame: Frame, checkpoint: SegmentCheckpoint) -> None:
        found = self._found
        if offset_of_position(frame.position):
            raise self._corrupt(frame.position, "a checkpoint inside a segment")
        if not found.end:
            for group in checkpoint.groups:
                self._groups.setdefault(group.group, GroupLog()).begin(group)
            return
        if frame.sequence != found.sequence:
            raise self._corrupt(frame.position, "the sequence of frames does not continue")
        if len(checkpoint.groups) != len(self._groups):
            raise self._corrupt(frame.position, "the checkpoint names other groups than the log")
        for group in checkpoint.groups:
            log = self._groups.get(group.group)
            if log is None or not log.agrees_with(group):
                reason = f"group {group.group}: the checkpoint contradicts the log before it"
                raise self._corrupt(frame.position, reason)

    # ---- judging the end -----------------------------------------------------------------

    def _check_unstarted(self, number: int, later: list[int]) -> None:
        """Raise CorruptLogError if a segment without a checkpoint of its own once had one."""
        found, begin = self._found, position_at(number, 0)
        if found.end and number != found.number + 1:
            missing = segment_name(found.number + 1)
            raise self._corrupt(found.end, f"{missing} is missing", evidence=begin)
        found.unstarted = (number,)
        if later:
            raise self._shorter(position_at(later[0], 0))
        if not found.end and number != 1:
            raise self._corrupt(begin, f"{self._start.reason}; nothing is left of the log before")

    def _judge_end(self) -> None:
        """Raise CorruptLogError if something durable is proved to have stood behind the end."""
        found, sealed_end = self._found, self._sealed_end
        if sealed_end is not None:
            if sealed_end > found.end:
                raise self._shorter(None)
            if sealed_end < found.end or found.unstarted:
                raise self._corrupt(sealed_end, "something stands behind the end of a clean stop")
            found.sealed = True
            return
        head = self._trace_head()
        new = self._trace_unstarted() if found.unstarted else _Trace()
        for trace in (head, new):
            if trace.evidence is not None:
                raise self._shorter(trace.evidence)
        if head.touched and found.unstarted:
            raise self._shorter(position_at(found.unstarted[0], 0))
        if head.touched or new.touched:
            number = found.number or found.unstarted[0]
            size = -offset_of_position(found.end)
            for each in {number, *found.unstarted}:
                with closing(self._fs.open_read(self._path(each))) as file:
                    size += file.size()
            stop = self._stop if head.touched else self._start
            found.torn = TornTail(found.end or position_at(number, 0), size, stop.reason)

    def _trace_head(self) -> _Trace:
        """Look behind the end in the segment that holds it; only frames with its uid count."""
        found, trace, rest = self._found, _Trace(touched=self._stop.ours), Rest()
        if not found.end:
            return trace
        with closing(self._fs.open_read(self._path(found.number))) as file:
            for offset, prefix in scan_frames(file, offset_of_position(found.end), rest):
                if prefix.segment_uid == found.uid:
                    trace.touched = True
                    if prefix.durable_pos > found.end:
                        trace.evidence = position_at(found.number, offset)
                        return trace
        if not self._recycled and not rest.blank:
            trace.touched = True
        return trace

    def _trace_unstarted(self) -> _Trace:
        """Look into a segment without a checkpoint of its own.

        There is no uid to compare with: `durable_pos` alone tells this use from an older one.
        """
        found, trace = self._found, _Trace()
        (number,) = found.unstarted
        threshold = found.end or position_at(number, 0)
        with closing(self._fs.open_read(self._path(number))) as file:
            for offset, prefix in scan_frames(file, 0):
                trace.touched = trace.touched or prefix.durable_pos >= threshold
                if prefix.durable_pos > threshold:
                    trace.evidence = position_at(number, offset)
                    return trace
        return trace

    def _shorter(self, evidence: int | None) -> CorruptLogError:
        """Return the error for a log that ends too early, at the place that is damaged.

        That is the end, or the start of the segment behind it if the last one looks whole.
        """
        found, stop = self._found, self._stop
        sealed = "" if self._sealed_end is None else "; the log was stopped cleanly"
        behind = max(evidence or 0, self._sealed_end or 0) >> 32
        if behind > found.number and not self._trace_head().touched:
            if not found.unstarted:
                reason = f"{segment_name(found.number + 1)} is missing{sealed}"
                return self._corrupt(found.end, reason, evidence=evidence)
            begin = position_at(found.unstarted[0], 0)
            reason = f"{self._start.reason}{sealed}"
            return self._corrupt(begin, reason, evidence=evidence, cause=self._start.cause)
        reason = f"{stop.reason}{sealed}"
        return self._corrupt(found.end, reason, evidence=evidence, cause=stop.cause)

    # ---- words ---------------------------------------------------------------------------

    def _path(self, number: int) -> str:
        return f"{self._directory}/{segment_name(number)}"

    def _corrupt(
        self,
        position: int,
        reason: str,
        *,
        evidence: int | None = None,
        cause: FrameError | None = None,
    ) -> CorruptLogError:
        return CorruptLogError(self._directory, position, reason, evidence=evidence, cause=cause)
