"""A `wal` driver on the event heap: one operation at a time, a crash possible between any two.

It stands for the WAL thread. A job is taken a little after something was submitted, its first
operation is performed there, every other one after its own latency; what completed is handed over
with the last one, and the node takes it in at its next turn. So completions race with messages
here as they do in a process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.sim.disk import PowerCut
from cluster.sim.heap import EventHeap
from cluster.sim.rng import Stream
from node.snapshots import Done
from wal import AppendHandle, Job, JobRunner, SegmentIO
from wal.driver import OnComplete
from wal.operations import BARRIERS, Operation, Sync, SyncDir, Write

__all__ = ["DiskTimes", "HeapDriver", "HeapOperations", "StorageObserver"]


class StorageObserver(Protocol):
    """Learns what a log was asked to store, and what of it has truly been synced."""

    def submitted(self, handle: AppendHandle) -> None:
        """The records of a handle were queued behind all earlier ones."""

    def synced(self, count: int) -> None:
        """The oldest `count` queued records are durable: the disk has done it."""

    def wrote(self) -> None:
        """A write has reached the cache, and nothing of it is synced yet."""


@dataclass(slots=True)
class DiskTimes:
    """Latencies in ns: waking the thread, an operation, a sync (least, spread); `slow` is added."""

    wake: int = 10_000
    operation: int = 15_000
    sync_min: int = 200_000
    sync_spread: int = 600_000
    slow: int = 0


class HeapOperations:
    """Performs a snapshot's operations on the heap, one by one: its thread, as events."""

    def __init__(self, io: SegmentIO, heap: EventHeap, times: DiskTimes, stream: Stream) -> None:
        """Perform over `io`; made anew with every start of a node."""
        self._io = io
        self._heap = heap
        self._times = times
        self._stream = stream
        self._queue: deque[tuple[Operation | None, Done | None]] = deque()
        self._failure: OSError | None = None
        self._busy = False
        self._paused = False
        self._dead = False

    def run(self, operations: Sequence[Operation], done: Done | None) -> None:
        """See `node.snapshots.OperationRunner.run`."""
        self._queue.extend((operation, None) for operation in operations)
        self._queue.append((None, done))
        self._wake()

    @property
    def busy(self) -> bool:
        """Whether operations wait or are under way."""
        return self._busy or bool(self._queue)

    def close(self) -> None:
        """End with the process; what is queued stays undone."""
        self._dead = True

    def pause(self) -> None:
        """Stop with the process."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False
        self._wake()

    def _wake(self) -> None:
        if not self._busy and self._queue and not self._paused:
            self._busy = True
            delay = self._times.operation
            if isinstance(self._queue[0][0], Sync | SyncDir):
                times = self._times
                delay += times.sync_min + self._stream.below(times.sync_spread) + times.slow
            self._heap.after(delay, self._perform)

    def _perform(self) -> None:
        self._busy = False
        if self._dead or self._paused:
            return
        operation, done = self._queue.popleft()
        if operation is not None and self._failure is None:
            try:
                self._io.perform(operation)
            except OSError as error:
                self._failure = error
            except PowerCut:
                return  # the node has ended in the middle of this operation
        if operation is None:
            failure, self._failure = self._failure, None
            if done is not None:
                done(failure)
        self._wake()


class HeapDriver:
    """Moves one committer along on the heap. Made anew with every start of a node."""

    def __init__(
        self,
        runner: JobRunner,
        on_complete: OnComplete,
        *,
        heap: EventHeap,
        times: DiskTimes,
        stream: Stream,
        observer: StorageObserver,
    ) -> None:
        """Take over a committer; nothing happens before the first submit."""
        self._runner = runner
        self._on_complete = on_complete
        self._heap = heap
        self._times = times
        self._stream = stream
        self._observer = observer
        self._job: Job | None = None
        self._place = 0
        self._began = 0
        self._busy = False
        self._paused = False
        self._stalled = False
        self._dead = False

    def submit(self, submit: Callable[[], AppendHandle]) -> AppendHandle:
        """See `wal.driver.Driver.submit`."""
        handle = submit()
        self._observer.submitted(handle)
        self._wake()
        return handle

    def retry(self) -> None:
        """See `wal.driver.Driver.retry`."""
        self._runner.committer.retry()
        self._wake()

    def close(self) -> None:
        """See `wal.driver.Driver.close`; what is queued stays undone: a simulated node crashes."""
        self._dead = True

    # ---- faults --------------------------------------------------------------------------

    def die(self) -> None:
        """End with the process. A write under way reaches the cache up to a drawn byte."""
        self._dead = True
        job = self._job
        if job is None or not job.operations:
            return
        operation = job.operations[self._place]
        if isinstance(operation, Write):
            block = b"".join(operation.buffers)[: self._stream.below(operation.size + 1)]
            self._runner.io.perform(Write(operation.name, operation.offset, (block,), len(block)))

    def pause(self) -> None:
        """Stop with the process (SIGSTOP): no further operation is performed."""
        self._paused = True

    def resume(self) -> None:
        """Go on where it stopped."""
        self._paused = False
        if self._stalled:
            self._stalled = False
            self._heap.after(self._times.wake, self._perform)

    # ---- the thread ----------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            self._heap.after(self._times.wake, self._perform)

    def _perform(self) -> None:
        """Perform the next operation, of the job under way or of the next one."""
        if self._dead:
            return
        if self._paused:
            self._stalled = True
            return
        if self._job is None:
            self._job = self._runner.committer.next_job()
            self._place = 0
            self._began = self._heap.now
            if self._job is None:
                self._busy = False
                return
        operations = self._job.operations
        try:
            self._runner.io.perform(operations[self._place])
        except OSError as error:
            synced = isinstance(operations[self._place], BARRIERS)
            self._finish(self._job, (error, synced))
            return
        except PowerCut:
            return  # the node has ended in the middle of this operation
        if isinstance(operations[self._place], Write):
            self._observer.wrote()
        self._place += 1
        if self._place == len(operations):
            self._finish(self._job, None)
            return
        self._heap.after(self._latency(operations[self._place]), self._perform)

    def _latency(self, operation: object) -> int:
        times = self._times
        if isinstance(operation, Sync | SyncDir):
            return times.sync_min + self._stream.below(times.sync_spread + 1) + times.slow
        return times.operation

    def _finish(self, job: Job, failure: tuple[OSError, bool] | None) -> None:
        self._job = None
        runner = self._runner
        if failure is None:
            runner.count([job], job.syncs, self._heap.now - self._began)
            self._observer.synced(len(job.handles))
        handles = runner.settle(job, failure)
        for handle in handles:
            handle.settle()
        self._heap.after(self._times.wake, self._perform)
        if handles:
            self._on_complete(handles)
