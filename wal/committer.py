"""Group commit as a state machine: what to write next, and what a finished job means. No I/O.

Theory of operation
-------------------
`submit` queues records. `next_job` takes what has queued up, gives every frame its sequence
number, its `durable_pos` and its place, and returns the operations that make it durable. `done`
completes the handles of a job, and of those before it. While one job syncs, the next one gathers:
natural batching, no timer. One job is outstanding at a time, or with the driver "pipeline" a few,
of which one sync completes all that were written before it.

A policy may let a group gather for a while although the disk is idle. Then `next_job` is told the
time, returns None until the group is due, and `wake_at_ns` says when to ask again; without a time a
group is always due. `flush` and `seal` end the waiting.

A buffered log completes what is written and not synced. Then `head.durable` stays behind, and with
it the `durable_pos` of the frames: recovery never takes for corruption what was never promised. It
syncs where the chain of segments relies on it: before a segment begins, before one is given back, at
a flush, at a clean stop.

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
from enum import Enum
from typing import Final

from wal.bounds import Bounds, bounds_after, bounds_of_copy
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
from wal.job import AppendHandle, Head, Job
from wal.operations import Create, Operation, Rename, Sync, SyncDir, Write
from wal.policy import SyncPolicy
from wal.pool import SparePool
from wal.segment import LogIdentity, SegmentCheckpoint, position_at, segment_name
from wal.surroundings import drop_behind, drop_rest, prepare_ahead, write_behind
from wal.tail import GroupTail

__all__ = ["AppendHandle", "Committer", "CommitterState", "Head", "Job"]

RECORD_BYTES_MAX = 1 << 30
"""Keeps every offset of a segment of at most 2 GiB, plus one oversized record, within 32 bits."""

_BATCH: Final = int(Kind.BATCH)
_TRUNCATE: Final = int(Kind.TRUNCATE)
_RELEASE: Final = int(Kind.RELEASE)
_SEAL: Final = int(Kind.SEAL)
_OWN: Final = frozenset({int(Kind.SEAL), int(Kind.OPEN)})
"""Kinds of the log's own records, which belong to no group."""
_FREEING: Final = frozenset({_TRUNCATE, _RELEASE})
"""Kinds after which the oldest segment may be needed no more."""
_INDEXED: Final = _FREEING | {_BATCH}
"""Kinds that move the first or the last index of a group."""
_FLUSH: Final = Record(b"")
"""Stands in the queue for a flush: no record, but a place in the order."""
_NO_FIELDS: Final = (0, 0, 0, 0, 0, 0)
JOBS_MAX: Final = 8
"""Jobs that a pipeline has under way: what is written while one sync runs. A 4 KiB write takes 10 µs
and a sync 100, and each of them holds whatever had gathered."""

# ---- the machine -----------------------------------------------------------------------------


class CommitterState(Enum):
    """RUNNING; FULL: a job waits for space; POISONED: nothing will ever be durable again."""

    RUNNING = "running"
    FULL = "full"
    POISONED = "poisoned"


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
        self._records_max, self._bytes_max = policy.records_per_job, policy.bytes_per_job
        self.state = CommitterState.RUNNING
        self.head = head
        self.groups = groups
        spares_max = policy.spare_segments_max if policy.prepare == "recycle" else 0
        self.pool = SparePool(spares_max, policy.segment_bytes)
        self.queued_bytes = 0
        """Bytes of frames that were submitted and are not complete."""
        self.wake_at_ns: int | None = None
        """When to call `next_job` again although nothing happened: a group gathers until then."""
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
        self._outstanding: deque[Job] = deque()
        self._jobs_max = JOBS_MAX if policy.driver == "pipeline" else 1
        self._kept: Job | None = None
        self._unbuilt_bytes = 0
        """Bytes of frames in the queue, those of records that are in a job not counted."""
        self._sealed = False
        """Whether a SEAL was framed: the job that holds it is the last, and makes all durable."""
        self._urgent = 0
        """Flushes and seals in the queue: nothing gathers any longer."""
        self._jobs = 0
        self._sync = Sync(segment_name(head.number))
        """Of the head's segment, so that it and the name are made once."""
        self._may_retire = True
        self._retired_last = False
        self._refusal: WalError | None = None

    def submit(self, records: Sequence[Record], context: object = None) -> AppendHandle:
        """Queue records to be written in order; the handle completes when all are durable.

        Raises RecordTooLargeError, DiskFullError (the queue is bounded), PoisonedLogError,
        ClosedLogError. Records that a recovery would refuse are a bug: AssertionError.
        """
        handle = AppendHandle(records, context)
        if self.queued_bytes:
            self._check_room(handle.size)
        return self._accept(handle, bounds_after)

    def submit_again(self, records: Sequence[Record], context: object = None) -> AppendHandle:
        """Queue live batches once more; each moves to where its copy lies. Raises as `submit` does.

        A batch that was cut or released by what is queued already is a bug, as is a torn one.
        """
        handle = AppendHandle(records, context, again=True)
        if self.queued_bytes:
            self._check_room(handle.size)
        return self._accept(handle, bounds_of_copy)

    def insist(self, records: Sequence[Record], context: object) -> AppendHandle:
        """Queue records however long the queue is: the log's own few, which end it or free space."""
        return self._accept(AppendHandle(records, context), bounds_after)

    def _check_room(self, size: int) -> None:
        if self.queued_bytes + size > self.policy.queue_bytes_max:
            raise self._refusal_now() or DiskFullError(
                f"{self.queued_bytes} bytes wait for the disk already; free space or wait"
            )

    def _accept(self, handle: AppendHandle, bounds_behind: Bounds) -> AppendHandle:
        if self._refusal is not None and (refusal := self._refusal_now()) is not None:
            raise refusal
        assert handle.records, "an append holds at least one record"
        if handle.size > RECORD_BYTES_MAX:  # one of them may be
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
        self._urgent += 1
        self._refusal = ClosedLogError("the log is being closed")
        return handle

    def flush(self, context: object = None) -> AppendHandle:
        """Return a handle that completes when everything submitted so far is durable.

        Nothing gathers any longer, and a buffered log syncs. Raises as `submit` does.
        """
        if (refusal := self._refusal_now()) is not None:
            raise refusal
        handle = AppendHandle((), context)
        self._queue.append((_FLUSH, _NO_FIELDS, handle))
        self._urgent += 1
        return handle

    def next_job(self, now_ns: int | None = None) -> Job | None:
        """Return the next job, or None: enough is outstanding, nothing is due, or no space."""
        under_way = self._outstanding
        if not self._queue and not self._may_retire and self._kept is None:
            return None  # as after most jobs of a caller that waits for each
        if self.state is not CommitterState.RUNNING:
            return None
        if under_way and (len(under_way) >= self._jobs_max or under_way[-1].alone):
            return None
        if self._kept is not None:
            job, self._kept = self._kept, None
            under_way.append(job)
            return job
        found: Job | None = None
        if self._may_retire and not under_way:
            # One segment at a time, and appends in between: freeing many must not delay them.
            found = None if self._retired_last and self._queue else self._retirement()
            self._retired_last = found is not None
        if found is None and self._queue and (not self.policy.gather_us or self._is_due(now_ns)):
            if under_way and self._rolls():
                return None  # a segment ends durable
            found = self._build()
        if found is not None:
            under_way.append(found)
        return found

    def done(self, job: Job) -> list[AppendHandle]:
        """Take in that all operations of an outstanding job succeeded, and so of those before it.

        Returns the handles that completed.
        """
        assert job in self._outstanding, "only an outstanding job is done"
        head = self.head
        finished = [self._outstanding.popleft()]
        while finished[-1] is not job:
            finished.append(self._outstanding.popleft())
        for each in finished:
            head.durable = max(head.durable, each.durable)
        completed = []
        for each in finished:
            synced = each.end <= head.durable
            for handle in each.handles:
                handle.remaining -= 1
                if handle.remaining == 0:
                    handle.synced = synced
                    completed.append(handle)
                    self.queued_bytes -= handle.size
        return completed

    def failed(self, job: Job, error: OSError, *, synced: bool) -> list[AppendHandle]:
        """Take in that an operation failed; return the handles that will never complete.

        No space, and what failed was no sync: the job is kept, state FULL, until `retry`. All
        else is poison. `synced`: whether the operation that failed is one of `BARRIERS`.
        """
        assert job in self._outstanding, "only an outstanding job fails"
        if is_no_space(error) and not synced:
            self._kept = self._outstanding.pop()
            assert self._kept is job, "jobs are written in order"
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

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued or under way that could still be done."""
        running = self.state is CommitterState.RUNNING
        return not self._outstanding and not (running and self._queue)

    def retry(self) -> None:
        """Offer the kept job again: space may have returned."""
        if self.state is CommitterState.FULL:
            self.state = CommitterState.RUNNING

    # ---- taking in and refusing ----------------------------------------------------------

    def _refusal_now(self) -> WalError | None:
        """Return why nothing is taken any more; a new error each time, for a traceback of its own."""
        return None if self._refusal is None else type(self._refusal)(str(self._refusal))

    def _enqueue(self, handle: AppendHandle, bounds_behind: Bounds) -> None:
        """Queue the records of a handle, all or (if one is wrong) none."""
        bounds: dict[int, tuple[int, int]] = {}
        taken = []
        again = handle.again
        for record in handle.records:
            fields = fields_of(record.header)
            assert fields[5] == len(record.body), "the header counts its body's bytes"
            if again or fields[0] in _INDEXED:
                group = fields[1]
                released, following = bounds.get(group) or self._bounds.get(group, (0, 1))
                if fields[0] == _BATCH and fields[4] == following and fields[2] and not again:
                    bounds[group] = released, following + fields[2]  # as `bounds_after` says
                else:
                    bounds[group] = bounds_behind(fields, released, following)
            taken.append((record, fields, handle))
        self._queue.extend(taken)
        self._bounds.update(bounds)
        self.queued_bytes += handle.size
        self._unbuilt_bytes += handle.size

    def _refuse(self, error: WalError) -> list[AppendHandle]:
        """Give up what waits, and refuse what comes."""
        self._refusal = error
        jobs = [*self._outstanding, *([self._kept] if self._kept is not None else [])]
        waiting = [handle for job in jobs for handle in job.handles]
        waiting += [*self._gathered, *(handle for _, _, handle in self._queue)]
        self._queue.clear()
        self._gathered.clear()
        self._outstanding.clear()
        self._kept = None
        victims = list(dict.fromkeys(waiting))
        for handle in victims:
            handle.error = error
        return victims

    # ---- building a job ------------------------------------------------------------------

    def _is_due(self, now_ns: int | None) -> bool:
        """Tell whether what is queued is to be written now; sets `wake_at_ns` if it is not."""
        policy = self.policy
        if now_ns is not None and not self._is_full():
            if self.wake_at_ns is None:
                self.wake_at_ns = now_ns + policy.gather_us * 1_000
            if now_ns < self.wake_at_ns:
                return False
        self.wake_at_ns = None
        return True

    def _is_full(self) -> bool:
        """Tell whether a group that gathers has enough, or somebody wants it now."""
        records, size = self.policy.gather_records, self.policy.gather_bytes
        return (
            self._urgent > 0 or 0 < records <= len(self._queue) or 0 < size <= self._unbuilt_bytes
        )

    def _rolls(self) -> bool:
        """Tell whether the next record begins a new segment."""
        record, _, _ = self._queue[0]
        if record is _FLUSH:
            return False
        head, wanted = self.head, frame_size(len(record.body))
        return not head.number or head.offset + wanted > self.policy.segment_bytes

    def _build(self) -> Job:
        policy, head = self.policy, self.head
        operations: list[Operation] = []
        buffers: list[Buffer] = []
        if policy.page_cache == "drop":
            operations += drop_behind(policy, head)
        begins = self._rolls()
        before = head.durable
        durable = self._begin_segment(operations, buffers) if begins else before
        syncs = int(0 < before < durable)  # of the segment before, which was buffered
        start = 0 if begins else head.offset
        entries = self._take(buffers, head.offset - start)
        flushes = self._take_flushes() if self._queue else 0
        assert self._gathered, "a job carries at least one record"
        size = head.offset - start
        if size:
            if head.offset > head.filled_to:
                operations += prepare_ahead(policy, head)
            operations.append(Write(self._sync.name, start, tuple(buffers), size))
        if policy.commit == "buffered" and not flushes and not self._sealed:
            operations += write_behind(policy, head, size)
            return self._job(operations, durable, entries, size, syncs)
        head.dirty = 0
        is_synced = policy.sync == "o_dsync" and size > 0
        if not is_synced:
            operations.append(self._sync)
        return self._job(operations, head.position, entries, size, syncs + 1, flushes=flushes)

    def _take(self, buffers: list[Buffer], size: int) -> int:
        """Frame what is queued at the head, up to a flush or a limit; return the entries in it.

        `size`: bytes of the write so far. This runs once per record: a function call less is 2 %.
        """
        policy, head, handles, queue = self.policy, self.head, self._gathered, self._queue
        records_max, bytes_max = self._records_max, self._bytes_max
        uid, durable, base = head.uid, head.durable, head.number << 32
        sequence, offset = head.sequence, head.offset
        before, entries = offset, 0
        while queue and queue[0][0] is not _FLUSH:
            record, fields, handle = queue[0]
            wanted = frame_size(fields[5])
            # The first record fits, or has a fresh segment to itself whatever its size.
            if handles and (
                len(handles) >= records_max
                or size + wanted > bytes_max
                or offset + wanted > policy.segment_bytes
            ):
                break
            queue.popleft()
            handles.append(handle)
            handle.positions.append(base + offset)
            if fields[0] not in _OWN:
                entries += self._follow(record, fields, handle, base + offset)
            elif fields[0] == _SEAL:
                self._sealed = True
                self._urgent -= 1
            length = FRAME_BYTES_MIN + fields[5]
            buffers.append(frame_head(uid, sequence, durable, length, record.header))
            if fields[5]:
                buffers.append(record.body)
            if wanted != length:
                buffers.append(padding_for(length))
            sequence += 1
            offset += wanted
            size += wanted
        head.sequence, head.offset = sequence, offset
        self._unbuilt_bytes -= offset - before
        return entries

    def _take_flushes(self) -> int:
        """Take the flushes that stand at the front of the queue; return how many."""
        flushes, queue = 0, self._queue
        while queue and queue[0][0] is _FLUSH:
            self._gathered.append(queue.popleft()[2])
            flushes += 1
        self._urgent -= flushes
        return flushes

    def _follow(self, record: Record, fields: Fields, handle: AppendHandle, position: int) -> int:
        """Let a group's tail follow a record that is about to be framed; return its new entries."""
        tail = self.groups.get(fields[1])
        if tail is None:
            tail = self.groups[fields[1]] = GroupTail()
        fresh = tail.take(record, fields, position)
        if handle.again:
            assert not fresh, "a copy is of a batch that lives"
            self.bytes_copied += frame_size(fields[5])
            self._may_retire = True
        elif fields[0] in _FREEING:
            self._may_retire = True
        return fresh

    def _job(
        self,
        operations: list[Operation],
        durable: int,
        entries: int = 0,
        size: int = 0,
        syncs: int = 0,
        *,
        flushes: int = 0,
        alone: bool = False,
    ) -> Job:
        """Make a job of what was gathered. By position: with names it takes twice as long."""
        self._jobs += 1
        handles, self._gathered = tuple(self._gathered), []
        end = self.head.position
        frames = len(handles) - flushes
        return Job(
            tuple(operations), handles, end, frames, entries, size, self._jobs, durable, syncs, alone
        )  # fmt: skip

    def _begin_segment(self, operations: list[Operation], buffers: list[Buffer]) -> int:
        """Begin a new segment; return up to where the log is durable once that is done."""
        head = self.head
        previous, previous_end = head.number, head.position
        if previous:
            if head.durable != previous_end:
                assert self.policy.commit == "buffered", "a segment ends durable"
                operations.append(self._sync)
            operations += drop_rest(self.policy, head)
            self.segment_sizes[previous] = head.filled_to
        number = head.number + 1
        spare = self.pool.take()
        name = segment_name(number)
        operations.append(Create(name) if spare is None else Rename(spare.name, name))
        operations.append(SyncDir())
        self._sync = Sync(name)
        head.number, head.offset, head.uid = number, 0, self._draw_uid()
        head.dropped_to = head.dirty = 0
        self._may_retire = True
        head.filled_to = spare.size if spare is not None else 0
        self.segments_recycled += spare is not None
        if previous == 0:
            previous_end = 0
            head.oldest = number
            head.durable = position_at(number, 0)
        groups = tuple(tail.checkpoint(group) for group, tail in sorted(self.groups.items()))
        checkpoint = SegmentCheckpoint(
            self._identity, number, previous, previous_end, spare is not None, groups
        )
        self._frame(checkpoint.record(), buffers)
        return max(head.durable, previous_end)

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

    # ---- releasing segments --------------------------------------------------------------

    def _retirement(self) -> Job | None:
        """Return a job that gives back the oldest segment if no group needs it.

        One at a time, each made durable before the next: whatever a crash keeps of the directory's
        changes, the segments that are left follow one another. What freed it is durable before.
        """
        head = self.head
        if head.oldest >= head.number:
            self._may_retire = False  # until a segment begins
            return None
        for tail in self.groups.values():
            if head.oldest in tail.segments:
                self._may_retire = False
                return None
        if head.durable != head.position:
            assert self.policy.commit == "buffered", "nothing is under way"
            head.dirty = 0
            sync: list[Operation] = [self._sync]
            return self._job(sync, durable=head.position, syncs=1, alone=True)
        size = self.segment_sizes.pop(head.oldest, 0)
        operations: list[Operation] = [self.pool.retire(head.oldest, size), SyncDir()]
        head.oldest += 1
        self.segments_released += 1
        return self._job(operations, durable=head.durable, alone=True)
