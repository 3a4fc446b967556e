"""Group commit as a state machine: what to write next, and what a finished job means. No I/O.

Theory of operation
-------------------
`submit` queues records. `next_job` takes what has queued up, gives every frame its sequence
number, its `durable_pos` and its place, and returns the operations that make it durable; at most
one job is outstanding. `done` completes the handles of a job. While one job syncs, the next one
gathers: natural batching, no timer.

Who performs the operations is not this file's business: a thread in a process, the caller, or
the event heap of the simulator, which may crash between any two of them (`wal.driver`).

A job never crosses a segment. A job that finds no room rolls: its first frame is the CHECKPOINT
of a new segment, so everything before is durable when a segment begins.

Not thread-safe: drivers hold a lock around every call.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from threading import Event

from wal.errors import DiskFullError, PoisonedLogError, RecordTooLargeError, WalError
from wal.frame import (
    FRAME_BYTES_MIN,
    Buffer,
    FramePrefix,
    Kind,
    Record,
    RecordHeader,
    body_of_hard_state,
    encode_prefix,
    frame_size,
    padding_for,
)
from wal.operations import Allocate, Create, Operation, Rename, Sync, SyncDir, Write, ZeroFill
from wal.policy import SyncPolicy
from wal.pool import SparePool
from wal.segment import (
    GroupCheckpoint,
    LogIdentity,
    SegmentCheckpoint,
    number_of_position,
    position_at,
    segment_name,
)

__all__ = ["AppendHandle", "Committer", "CommitterState", "GroupTail", "Head", "Job"]

RECORD_BYTES_MAX = 1 << 30
"""Keeps every offset of a segment of at most 2 GiB, plus one oversized record, within 32 bits."""


# ---- values ----------------------------------------------------------------------------------


class AppendHandle:
    """Says when the records of one `append` are durable, and where they lie."""

    __slots__ = ("_event", "context", "error", "positions", "records", "remaining", "size")

    def __init__(self, records: Sequence[Record], context: object) -> None:
        """Made by `Committer.submit` only."""
        self.records = tuple(records)
        self.size = sum(frame_size(len(record.body)) for record in self.records)
        self.remaining = len(self.records)
        self.positions: list[int] = []
        self.context = context
        self.error: WalError | None = None
        self._event: Event | None = Event() if context is None else None

    @property
    def durable(self) -> bool:
        """Whether every record is durable."""
        return self.remaining == 0 and self.error is None

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until durable (thread driver only, handles without a context only).

        Raises the log's error, or TimeoutError.
        """
        assert self._event is not None, "handles with a context complete through on_complete"
        if not self._event.wait(timeout_s):
            raise TimeoutError(f"not durable after {timeout_s} s")
        if self.error is not None:
            raise self.error

    def settle(self) -> None:
        """Wake a waiter; called by the driver once `durable` or `error` is set."""
        if self._event is not None:
            self._event.set()


@dataclass(frozen=True, slots=True)
class Job:
    """Operations to perform in order, and what they make durable."""

    operations: tuple[Operation, ...]
    handles: tuple[AppendHandle, ...]
    """One per record, in order."""
    end: int
    """Position behind the last frame."""
    frames: int
    entries: int
    bytes_written: int
    number: int


@dataclass(slots=True)
class GroupTail:
    """What the log must remember of one group, in the order of submission."""

    term: int = 0
    vote: int = 0
    config: bytes = b""
    released_index: int = 0
    released_term: int = 0
    live: deque[tuple[int, int, int]] = field(default_factory=deque)
    """(base index, last index, position) of the batches that are neither cut nor released."""

    def checkpoint(self, group: int) -> GroupCheckpoint:
        """Return the group's part of a segment checkpoint."""
        first = self.live[0][2] if self.live else 0
        return GroupCheckpoint(
            group, self.term, self.vote, self.released_index, self.released_term, first, self.config
        )


@dataclass(slots=True)
class Head:
    """Where the log ends. `number` 0 means that no segment exists yet."""

    number: int = 0
    uid: int = 0
    offset: int = 0
    filled_to: int = 0
    """Bytes of the file that hold zeros or old data: no metadata changes when they are written."""
    sequence: int = 0
    durable: int = 0
    oldest: int = 1
    """Number of the oldest segment in use."""

    @property
    def position(self) -> int:
        """Position behind the last frame."""
        return position_at(self.number, self.offset)


class CommitterState(Enum):
    """RUNNING; FULL: a job waits for space; POISONED: nothing will ever be durable again."""

    RUNNING = "running"
    FULL = "full"
    POISONED = "poisoned"


# ---- the machine -----------------------------------------------------------------------------


class Committer:
    """The write path of one log. See the module text."""

    def __init__(
        self,
        policy: SyncPolicy,
        identity: LogIdentity,
        head: Head,
        groups: dict[int, GroupTail],
        draw_uid: Callable[[], int],
    ) -> None:
        """Continue at `head`; `draw_uid` returns a fresh random u64 per segment use."""
        self.policy = policy
        self.state = CommitterState.RUNNING
        self.head = head
        self.groups = groups
        self.pool = SparePool(policy.spare_segments_max if policy.prepare == "recycle" else 0)
        self.queued_bytes = 0
        self._identity = identity
        self.segment_sizes: dict[int, int] = {}
        """Bytes of each older segment that can be overwritten in place once it is a spare."""
        self._draw_uid = draw_uid
        self._queue: deque[tuple[Record, AppendHandle]] = deque()
        self._outstanding: Job | None = None
        self._kept: Job | None = None
        self._jobs = 0
        self._poison: WalError | None = None

    def submit(self, records: Sequence[Record], context: object = None) -> AppendHandle:
        """Queue records to be written in order; the handle completes when all are durable.

        Raises RecordTooLargeError, DiskFullError (the queue is bounded), PoisonedLogError.
        """
        if self._poison is not None:
            raise PoisonedLogError(str(self._poison))
        handle = AppendHandle(records, context)
        assert handle.records, "an append holds at least one record"
        longest = max(len(record.body) for record in handle.records)
        if longest > RECORD_BYTES_MAX:
            raise RecordTooLargeError(
                f"a record of {longest} bytes; the limit is {RECORD_BYTES_MAX}"
            )
        if self.queued_bytes and self.queued_bytes + handle.size > self.policy.queue_bytes_max:
            raise DiskFullError(
                f"{self.queued_bytes} bytes wait for the disk already; free space or wait"
            )
        self.queued_bytes += handle.size
        for record in handle.records:
            self._queue.append((record, handle))
        return handle

    def next_job(self) -> Job | None:
        """Return the next job, or None: one is outstanding, nothing is queued, or no space."""
        if self._outstanding is not None or self.state is not CommitterState.RUNNING:
            return None
        if self._kept is not None:
            self._outstanding, self._kept = self._kept, None
            return self._outstanding
        self._outstanding = self._retirement() or (self._build() if self._queue else None)
        return self._outstanding

    def done(self, job: Job) -> list[AppendHandle]:
        """Take in that all operations of the outstanding job succeeded; return what completed."""
        assert job is self._outstanding, "jobs finish one at a time"
        self._outstanding = None
        if job.handles:
            self.head.durable = job.end
        completed = []
        for handle in job.handles:
            handle.remaining -= 1
            if handle.remaining == 0:
                completed.append(handle)
                self.queued_bytes -= handle.size
        return completed

    def failed(self, job: Job, error: OSError, *, synced: bool) -> list[AppendHandle]:
        """Take in that an operation failed; return the handles that will never complete.

        No space before any sync: the job is kept, state FULL, until `retry`. All else is poison.
        """
        assert job is self._outstanding, "jobs finish one at a time"
        self._outstanding = None
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and not synced:
            self._kept = job
            self.state = CommitterState.FULL
            return []
        self.state = CommitterState.POISONED
        self._poison = PoisonedLogError(
            f"{segment_name(self.head.number)}: {error.strerror or error}; nothing in flight is"
            " acknowledged; check the disk, then start the node again"
        )
        victims = dict.fromkeys((*job.handles, *(handle for _, handle in self._queue)))
        self._queue.clear()
        for handle in victims:
            handle.error = self._poison
        return list(victims)

    def retry(self) -> None:
        """Offer the kept job again: space may have returned."""
        if self.state is CommitterState.FULL:
            self.state = CommitterState.RUNNING

    # ---- building a job ------------------------------------------------------------------

    def _build(self) -> Job:
        operations: list[Operation] = []
        buffers: list[Buffer] = []
        handles: list[AppendHandle] = []
        entries = 0
        start = self._roll(operations, buffers)
        size = sum(len(buffer) for buffer in buffers)
        policy = self.policy
        while self._queue and len(handles) < policy.job_records_max:
            record, handle = self._queue[0]
            wanted = frame_size(len(record.body))
            if handles and size + wanted > policy.job_bytes_max:
                break
            # The first record fits, or has a fresh segment to itself whatever its size.
            if handles and self.head.offset + wanted > policy.segment_bytes:
                break
            self._queue.popleft()
            handle.positions.append(self.head.position)
            entries += self._remember(record)
            self._frame(record, buffers)
            handles.append(handle)
            size += wanted
        assert handles, "a job carries at least one record"
        name = segment_name(self.head.number)
        self._prepare_ahead(name, operations)
        operations.append(Write(name, start, tuple(buffers), size))
        operations.append(Sync(name))
        self._jobs += 1
        return Job(
            tuple(operations),
            tuple(handles),
            self.head.position,
            len(handles),
            entries,
            size,
            self._jobs,
        )

    def _roll(self, operations: list[Operation], buffers: list[Buffer]) -> int:
        """Begin a new segment if the next record does not fit; return where the write starts."""
        head = self.head
        wanted = frame_size(len(self._queue[0][0].body))
        if head.number and head.offset + wanted <= self.policy.segment_bytes:
            return head.offset
        previous, previous_end = head.number, head.position
        if not previous:
            previous_end = 0
        assert not previous or head.durable == previous_end, "a segment ends durable"
        if previous:
            self.segment_sizes[previous] = head.filled_to
        number = head.number + 1
        spare = self.pool.take()
        name = segment_name(number)
        if spare is not None:
            operations.append(Rename(spare.name, name))
        else:
            operations.append(Create(name))
            if self.policy.prepare == "fallocate":
                operations.append(Allocate(name, self.policy.segment_bytes))
        operations.append(SyncDir())
        head.number, head.offset, head.uid = number, 0, self._draw_uid()
        head.filled_to = spare.size if spare is not None else 0
        if previous == 0:
            head.oldest = number
            head.durable = position_at(number, 0)
        groups = tuple(tail.checkpoint(group) for group, tail in sorted(self.groups.items()))
        checkpoint = SegmentCheckpoint(
            self._identity, number, previous, previous_end, spare is not None, groups
        )
        self._frame(checkpoint.record(), buffers)
        return 0

    def _frame(self, record: Record, buffers: list[Buffer]) -> None:
        """Add one frame at the head."""
        head = self.head
        length = FRAME_BYTES_MIN + len(record.body)
        prefix = FramePrefix(head.uid, head.sequence, head.durable, length)
        buffers.append(encode_prefix(prefix, record.header))
        if record.body:
            buffers.append(record.body)
        if padding := padding_for(length):
            buffers.append(padding)
        head.sequence += 1
        head.offset += frame_size(len(record.body))

    def _prepare_ahead(self, name: str, operations: list[Operation]) -> None:
        """Write zeros in steps so that the head never meets an unwritten block."""
        head, policy = self.head, self.policy
        if policy.prepare not in ("recycle", "zero_fill") or head.offset <= head.filled_to:
            return
        target = max(
            head.offset, min(head.filled_to + policy.fill_step_bytes, policy.segment_bytes)
        )
        operations.append(ZeroFill(name, head.filled_to, target - head.filled_to))
        head.filled_to = target

    def _remember(self, record: Record) -> int:
        """Follow the record's meaning for checkpoints and release; return its entries."""
        header = RecordHeader.unpack(record.header)
        if header.kind in (Kind.SEAL, Kind.OPEN):
            return 0
        tail = self.groups.setdefault(header.group, GroupTail())
        match header.kind:
            case Kind.BATCH:
                last = header.base_index + header.count - 1
                tail.live.append((header.base_index, last, self.head.position))
                return header.count
            case Kind.HARD_STATE:
                tail.term = header.term
                tail.vote, tail.config = body_of_hard_state(record.body)
            case Kind.TRUNCATE:
                while tail.live and tail.live[-1][0] >= header.base_index:
                    tail.live.pop()
            case Kind.RELEASE:
                tail.released_index, tail.released_term = header.base_index, header.term
                while tail.live and tail.live[0][1] <= header.base_index:
                    tail.live.popleft()
        return 0

    # ---- releasing segments --------------------------------------------------------------

    def _retirement(self) -> Job | None:
        """Return a job that gives the segments back that no group needs, if there are any."""
        head = self.head
        if not head.number or self.head.durable != head.position:
            return None
        firsts = [tail.live[0][2] for tail in self.groups.values() if tail.live]
        needed = min((number_of_position(first) for first in firsts), default=head.number)
        if needed <= head.oldest:
            return None
        operations: list[Operation] = []
        for number in range(head.oldest, needed):
            size = self.segment_sizes.pop(number, 0)
            operations.append(self.pool.retire(number, size))
        operations.append(SyncDir())
        head.oldest = needed
        self._jobs += 1
        return Job(tuple(operations), (), head.position, 0, 0, 0, self._jobs)
