"""Who performs the committer's jobs: a thread, the caller, two threads, or a simulator.

`wal.segment_io` performs one operation at a time over a `Filesystem`. A driver owns the calls to the
committer, and sees to it that what was submitted gets done. The driver with two threads is in
`wal.pipeline`, the simulator's in `cluster/sim`: it performs the same operations at times of its own
event heap, and crashes between them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from wal.committer import AppendHandle, Committer, Job
from wal.operations import BARRIERS, Operation
from wal.segment_io import SegmentIO

__all__ = ["Driver", "InlineDriver", "JobRunner", "SegmentIO", "SyncTimes", "ThreadDriver"]

BUCKETS: Final = 40
"""Of the histograms: the last one begins at 2^38 µs, three days."""

OnComplete = Callable[[Sequence[AppendHandle]], None]


class SyncTimes:
    """Times of recent jobs (operations to durable) in ns, the newest last; bounded."""

    __slots__ = ("recent",)

    def __init__(self, size: int = 256) -> None:
        """Keep the last `size` times."""
        self.recent: deque[int] = deque(maxlen=size)

    def add(self, elapsed_ns: int) -> None:
        """Note one job."""
        self.recent.append(elapsed_ns)

    def quantiles(self, *fractions: float) -> list[int]:
        """Return the nearest-rank quantiles of the kept times; 0 if there is none."""
        ordered = sorted(self.recent) or [0]
        return [ordered[min(len(ordered) - 1, int(each * len(ordered)))] for each in fractions]


def bucket_of(value: int) -> int:
    """Return the histogram bucket of a count or time: n if 2^(n-1) <= value < 2^n, 0 for 0."""
    bucket = value.bit_length()
    return bucket if bucket < BUCKETS else BUCKETS - 1


class Driver(Protocol):
    """Moves a committer along."""

    def submit(self, submit: Callable[[], AppendHandle]) -> AppendHandle:
        """Call `submit` under the driver's lock and see to it that the job gets done."""

    def retry(self) -> None:
        """Offer a job that found no space again."""

    def close(self) -> None:
        """Finish what is queued (unless poisoned or full) and stop."""


class JobRunner:
    """Performs whole jobs and counts; shared by the drivers of this file."""

    def __init__(self, committer: Committer, io: SegmentIO, clock: Callable[[], int]) -> None:
        """`clock` returns ns of any monotonic clock; used for latencies only."""
        self.committer = committer
        self.io = io
        self.clock = clock
        self.times = SyncTimes()
        self.syncs = 0
        self.bytes_written = 0
        self.entries = 0
        self.frames = 0
        self.jobs = 0
        self.sync_entries = [0] * BUCKETS
        """Syncs by entries made durable: bucket n counts those below 2^n, from 0."""
        self.sync_latency_us = [0] * BUCKETS
        """Syncs by time (µs), in the same buckets. Only the thread that performs jobs writes these;
        who reads them may be one sync behind."""

    def perform(self, job: Job) -> tuple[OSError, bool] | None:
        """Perform a job's operations; return (error, whether a sync failed) if one did."""
        started = self.clock()
        failure = self.perform_each(job.operations)
        if failure is None:
            self.count((job,), job.syncs, self.clock() - started)
        return failure

    def perform_each(self, operations: Sequence[Operation]) -> tuple[OSError, bool] | None:
        """Perform operations in order, up to one that fails; return as `perform` does."""
        for operation in operations:
            try:
                self.io.perform(operation)
            except OSError as error:
                return error, isinstance(operation, BARRIERS)
        return None

    def count(self, jobs: Sequence[Job], syncs: int, elapsed_ns: int) -> None:
        """Count jobs that are done; their records became durable by `syncs` syncs, together."""
        entries = 0
        for job in jobs:
            entries += job.entries
            self.frames += job.frames
            self.bytes_written += job.bytes_written
            self.jobs += 1
        self.entries += entries
        if syncs:
            self.syncs += syncs
            self.times.recent.append(elapsed_ns)
            self.sync_entries[bucket_of(entries)] += 1
            self.sync_latency_us[bucket_of(elapsed_ns // 1_000)] += 1

    def patience_s(self, now_ns: int | None) -> float | None:
        """Return how long a group gathers from now on; None: until something is submitted."""
        wake_at_ns = self.committer.wake_at_ns
        if wake_at_ns is None or now_ns is None:
            return None
        return max(0, wake_at_ns - now_ns) / 1e9

    def settle(self, job: Job, failure: tuple[OSError, bool] | None) -> list[AppendHandle]:
        """Tell the committer how a job ended; return the handles that completed or failed."""
        if failure is None:
            return self.committer.done(job)
        error, synced = failure
        return self.committer.failed(job, error, synced=synced)


class InlineDriver:
    """Performs every job in the caller, within `submit`. For comparison and for tests."""

    def __init__(self, runner: JobRunner, on_complete: OnComplete) -> None:
        """Call `on_complete` with what completed, in the caller."""
        self._runner = runner
        self._on_complete = on_complete

    def submit(self, submit: Callable[[], AppendHandle]) -> AppendHandle:
        """See `Driver.submit`; the handle is durable or failed on return, unless disk is full."""
        handle = submit()
        self._run()
        return handle

    def retry(self) -> None:
        """See `Driver.retry`."""
        self._runner.committer.retry()
        self._run()

    def close(self) -> None:
        """See `Driver.close`."""
        self._run()
        self._runner.io.close()

    def _run(self) -> None:
        runner = self._runner
        while (job := runner.committer.next_job()) is not None:  # no clock: nothing gathers here
            try:
                handles = runner.settle(job, runner.perform(job))
            except BaseException as error:
                # A bug. The job stays undone, so nothing behind it may be called durable.
                for handle in runner.committer.poison(f"a job failed: {error!r}"):
                    handle.settle()
                raise
            for handle in handles:
                handle.settle()
            if handles:
                self._on_complete(handles)


class ThreadDriver:
    """One WAL thread: while it syncs a job, the next one gathers."""

    def __init__(self, runner: JobRunner, on_complete: OnComplete) -> None:
        """Start the thread; `on_complete` is called on it."""
        self._runner = runner
        self._on_complete = on_complete
        self._condition = threading.Condition(threading.Lock())
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="wal", daemon=True)
        self._thread.start()

    def submit(self, submit: Callable[[], AppendHandle]) -> AppendHandle:
        """See `Driver.submit`; returns at once."""
        with self._condition:
            handle = submit()
            self._condition.notify()
        return handle

    def retry(self) -> None:
        """See `Driver.retry`."""
        with self._condition:
            self._runner.committer.retry()
            self._condition.notify()

    def close(self) -> None:
        """See `Driver.close`; joins the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()
        self._runner.io.close()

    def _work(self) -> None:
        try:
            self._drive()
        except BaseException as error:
            # A bug, here or in `on_complete`. Nobody may wait for a thread that is gone.
            with self._condition:
                victims = self._runner.committer.poison(f"the log's thread failed: {error!r}")
            for handle in victims:
                handle.settle()
            if victims:
                self._on_complete(victims)
            raise

    def _drive(self) -> None:
        runner = self._runner
        while (job := self._await_job()) is not None:
            failure = runner.perform(job)
            with self._condition:
                handles = runner.settle(job, failure)
            for handle in handles:
                handle.settle()
            if handles:
                self._on_complete(handles)

    def _await_job(self) -> Job | None:
        with self._condition:
            while True:
                now_ns = None if self._closing else self._runner.clock()
                job = self._runner.committer.next_job(now_ns)
                if job is not None:
                    return job
                if self._closing:
                    return None
                self._condition.wait(self._runner.patience_s(now_ns))
