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

A live batch may be queued once more (`submit_again`): the copy only moves its place towards the
head, so that older segments are needed no more. As nothing is given back before all that was
written is durable, a crash finds the batch at its old place or at the new one.

Not thread-safe: drivers hold a lock around every call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from threading import Event
from typing import Final

from wal.errors import (
    ClosedLogError,
    DiskFullError,
    PoisonedLogError,
    RecordTooLargeError,
    WalError,
    is_no_space,
)
from wal.frame import (
    FRAME_BYTES_MIN,
    Buffer,
    Fields,
    Kind,
    Record,
    RecordHeader,
    fields_of,
    frame_head,
    frame_size,
    padding_for,
    record_of,
)
from wal.operations import Allocate, Create, Operation, Rename, Sync, SyncDir, Write, ZeroFill
from wal.policy import SyncPolicy
from wal.pool import SparePool
from wal.segment import LogIdentity, SegmentCheckpoint, position_at, segment_name
from wal.tail import GroupTail

__all__ = ["AppendHandle", "Committer", "CommitterState", "Head", "Job"]

RECORD_BYTES_MAX = 1 << 30
"""Keeps every offset of a segment of at most 2 GiB, plus one oversized record, within 32 bits."""

_BATCH: Final = int(Kind.BATCH)
_TRUNCATE: Final = int(Kind.TRUNCATE)
_RELEASE: Final = int(Kind.RELEASE)
_OWN: Final = frozenset({int(Kind.SEAL), int(Kind.OPEN)})
"""Kinds of the log's own records, which belong to no group."""
_FREEING: Final = frozenset({_TRUNCATE, _RELEASE})
"""Kinds after which the oldest segment may be needed no more."""
_INDEXED: Final = _FREEING | {_BATCH}
"""Kinds that move the first or the last index of a group."""
_Bounds = Callable[[Fields, int, int], tuple[int, int]]
"""(released index, next index) of a group behind a record, from those before it."""


# ---- values ----------------------------------------------------------------------------------


class AppendHandle:
    """Says when the records of one `append` are durable, and where they lie."""

    __slots__ = ("_event", "again", "context", "error", "positions", "records", "remaining", "size")

    def __init__(self, records: Sequence[Record], context: object, *, again: bool = False) -> None:
        """Made by `Committer.submit` and its like only."""
        self.records = tuple(records)
        self.again = again
        """Whether the records are copies, which only move what is in the log already."""
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
        """Block until durable (handles without a context only).

        Raises the log's error, or TimeoutError. A log that waits for space lets its callers wait.
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
        spares_max = policy.spare_segments_max if policy.prepare == "recycle" else 0
        self.pool = SparePool(spares_max, policy.segment_bytes)
        self.queued_bytes = 0
        """Segments begun in a file that an earlier one had left."""
        self._identity = identity
        self.segment_sizes: dict[int, int] = {}
        """Bytes of each older segment that can be overwritten in place once it is a spare."""
        self._draw_uid = draw_uid
        self._queue: deque[tuple[Record, Fields, AppendHandle]] = deque()
        self._bounds = {
            group: (tail.released_index, tail.last_index + 1) for group, tail in groups.items()
        }
        """Group → (released index, next index), in the order of submission: ahead of `groups`."""
        self.segments_released = 0
        self.segments_recycled = 0
        """Segments that began in a file that had been one before."""
        self.bytes_copied = 0
        """Bytes of frames that only moved a batch."""
        self._gathered: list[AppendHandle] = []
        """One per record of the job that is being built."""
        self._outstanding: Job | None = None
        self._kept: Job | None = None
        self._jobs = 0
        self._may_retire = True
        self._retired_last = False
        self._refusal: WalError | None = None

    def submit(self, records: Sequence[Record], context: object = None) -> AppendHandle:
        """Queue records to be written in order; the handle completes when all are durable.

        Raises RecordTooLargeError, DiskFullError (the queue is bounded), PoisonedLogError,
        ClosedLogError. Records that a recovery would refuse are a bug: AssertionError.
        """
        self._check_room(records)
        return self._accept(AppendHandle(records, context), _bounds_after)

    def submit_again(self, records: Sequence[Record], context: object = None) -> AppendHandle:
        """Queue live batches once more; each moves to where its copy lies. Raises as `submit` does.

        A batch that was cut or released by what is queued already is a bug, as is a torn one.
        """
        self._check_room(records)
        return self._accept(AppendHandle(records, context, again=True), _bounds_of_copy)

    def insist(self, records: Sequence[Record], context: object) -> AppendHandle:
        """Queue records however long the queue is: the log's own few, which end it or free space."""
        return self._accept(AppendHandle(records, context), _bounds_after)

    def _check_room(self, records: Sequence[Record]) -> None:
        size = sum(frame_size(len(record.body)) for record in records)
        if self.queued_bytes and self.queued_bytes + size > self.policy.queue_bytes_max:
            raise self._refusal_now() or DiskFullError(
                f"{self.queued_bytes} bytes wait for the disk already; free space or wait"
            )

    def _accept(self, handle: AppendHandle, bounds_behind: _Bounds) -> AppendHandle:
        if (refusal := self._refusal_now()) is not None:
            raise refusal
        assert handle.records, "an append holds at least one record"
        longest = max(len(record.body) for record in handle.records)
        if longest > RECORD_BYTES_MAX:
            raise RecordTooLargeError(
                f"a record of {longest} bytes; the limit is {RECORD_BYTES_MAX}"
            )
        self._enqueue(handle, bounds_behind)
        return handle

    def seal(self, context: object) -> AppendHandle:
        """Queue a SEAL; nothing is taken behind it."""
        handle = self.insist([record_of(RecordHeader(Kind.SEAL))], context)
        self._refusal = ClosedLogError("the log is being closed")
        return handle

    def next_job(self) -> Job | None:
        """Return the next job, or None: one is outstanding, nothing is queued, or no space."""
        if self._outstanding is not None or self.state is not CommitterState.RUNNING:
            return None
        if self._kept is not None:
            self._outstanding, self._kept = self._kept, None
            return self._outstanding
        # One segment at a time, and appends in between: freeing many must not delay them.
        job = None if self._retired_last and self._queue else self._retirement()
        self._retired_last = job is not None
        if job is None and self._queue:
            job = self._build()
        self._outstanding = job
        return job

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

        No space, and what failed was no sync: the job is kept, state FULL, until `retry`. All
        else is poison. `synced`: whether the operation that failed is one of `BARRIERS`.
        """
        assert job is self._outstanding, "jobs finish one at a time"
        if is_no_space(error) and not synced:
            self._outstanding, self._kept = None, job
            self.state = CommitterState.FULL
            return []
        return self.poison(error.strerror or str(error))

    def poison(self, reason: str) -> list[AppendHandle]:
        """End the log, whatever it does; return the handles that will never complete."""
        self.state = CommitterState.POISONED
        return self._refuse(
            PoisonedLogError(
                f"{segment_name(self.head.number)}: {reason}; nothing in flight is acknowledged;"
                " check the disk, then start the node again"
            )
        )

    def close(self) -> list[AppendHandle]:
        """End the log once no driver drives it; return the handles that will never complete."""
        if self.state is CommitterState.POISONED and self._refusal is not None:
            return self._refuse(self._refusal)
        return self._refuse(ClosedLogError("the log was closed before this was durable"))

    def retry(self) -> None:
        """Offer the kept job again: space may have returned."""
        if self.state is CommitterState.FULL:
            self.state = CommitterState.RUNNING

    # ---- taking in and refusing ----------------------------------------------------------

    def _refusal_now(self) -> WalError | None:
        """Return why nothing is taken any more; a new error each time, for a traceback of its own."""
        return None if self._refusal is None else type(self._refusal)(str(self._refusal))

    def _enqueue(self, handle: AppendHandle, bounds_behind: _Bounds) -> None:
        """Queue the records of a handle, all or (if one is wrong) none."""
        bounds: dict[int, tuple[int, int]] = {}
        taken = []
        for record in handle.records:
            fields = fields_of(record.header)
            assert fields[5] == len(record.body), "the header counts its body's bytes"
            if handle.again or fields[0] in _INDEXED:
                group = fields[1]
                before = bounds.get(group) or self._bounds.get(group, (0, 1))
                bounds[group] = bounds_behind(fields, *before)
            taken.append((record, fields, handle))
        self._queue.extend(taken)
        self._bounds.update(bounds)
        self.queued_bytes += handle.size

    def _refuse(self, error: WalError) -> list[AppendHandle]:
        """Give up what waits, and refuse what comes."""
        self._refusal = error
        waiting = [*self._gathered, *(handle for _, _, handle in self._queue)]
        for job in (self._outstanding, self._kept):
            if job is not None:
                waiting = [*job.handles, *waiting]
        self._queue.clear()
        self._gathered.clear()
        self._outstanding = self._kept = None
        victims = list(dict.fromkeys(waiting))
        for handle in victims:
            handle.error = error
        return victims

    # ---- building a job ------------------------------------------------------------------

    def _build(self) -> Job:
        operations: list[Operation] = []
        buffers: list[Buffer] = []
        handles = self._gathered
        entries = 0
        start = self._roll(operations, buffers)
        size = sum(len(buffer) for buffer in buffers)
        policy, head = self.policy, self.head
        while self._queue and len(handles) < policy.job_records_max:
            record, fields, handle = self._queue[0]
            wanted = frame_size(fields[5])
            if handles and size + wanted > policy.job_bytes_max:
                break
            # The first record fits, or has a fresh segment to itself whatever its size.
            if handles and head.offset + wanted > policy.segment_bytes:
                break
            self._queue.popleft()
            handles.append(handle)
            position = head.position
            handle.positions.append(position)
            if fields[0] not in _OWN:
                tail = self.groups.get(fields[1])
                if tail is None:
                    tail = self.groups[fields[1]] = GroupTail()
                fresh = tail.take(record, fields, position)
                entries += fresh
                if handle.again:
                    assert not fresh, "a copy is of a batch that lives"
                    self.bytes_copied += wanted
                self._may_retire = self._may_retire or handle.again or fields[0] in _FREEING
            self._frame(record, buffers)
            size += wanted
        assert handles, "a job carries at least one record"
        name = segment_name(head.number)
        self._prepare_ahead(name, operations)
        operations.append(Write(name, start, tuple(buffers), size))
        operations.append(Sync(name))
        return self._job(operations, entries, size)

    def _job(self, operations: list[Operation], entries: int, size: int) -> Job:
        self._jobs += 1
        handles, self._gathered = tuple(self._gathered), []
        end, frames = self.head.position, len(handles)
        return Job(tuple(operations), handles, end, frames, entries, size, self._jobs)

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
        self._may_retire = True
        head.filled_to = spare.size if spare is not None else 0
        self.segments_recycled += spare is not None
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
        head, body = self.head, record.body
        length = FRAME_BYTES_MIN + len(body)
        buffers.append(frame_head(head.uid, head.sequence, head.durable, length, record.header))
        if body:
            buffers.append(body)
        if padding := padding_for(length):
            buffers.append(padding)
            length += len(padding)
        head.sequence += 1
        head.offset += length

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

    # ---- releasing segments --------------------------------------------------------------

    def _retirement(self) -> Job | None:
        """Return a job that gives back the oldest segment if no group needs it.

        One at a time, each made durable before the next: whatever a crash keeps of the directory's
        changes, the segments that are left follow one another.
        """
        head = self.head
        if not self._may_retire or head.oldest >= head.number or head.durable != head.position:
            return None
        for tail in self.groups.values():
            if head.oldest in tail.segments:
                self._may_retire = False
                return None
        size = self.segment_sizes.pop(head.oldest, 0)
        operations: list[Operation] = [self.pool.retire(head.oldest, size), SyncDir()]
        head.oldest += 1
        self.segments_released += 1
        return self._job(operations, 0, 0)


def _bounds_after(fields: Fields, released: int, following: int) -> tuple[int, int]:
    """Return (released index, next index) of a group behind a record; AssertionError for a bug."""
    kind, group, count, _, index, _ = fields
    if kind == _BATCH:
        assert count, f"group {group}: a batch without entries"
        assert index == following, f"group {group}: a batch at {index}, not at {following}"
        return released, index + count
    if kind == _TRUNCATE:
        expected = f"between {released + 1} and {following}"
        assert released < index <= following, f"group {group}: a cut at {index}, not {expected}"
        return released, index
    return max(released, index), max(following, index + 1)


def _bounds_of_copy(fields: Fields, released: int, following: int) -> tuple[int, int]:
    """Check that a record can be the copy of a live batch: it moves no bound."""
    kind, group, count, _, index, _ = fields
    assert kind == _BATCH, "only batches are appended again"
    assert released < index < index + count <= following, f"group {group}: no copy of {index}"
    return released, following
