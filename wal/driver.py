"""Who performs the committer's jobs: a thread, the caller, or (elsewhere) a simulator.

`SegmentIO` performs one operation at a time over a `Filesystem`. A driver owns the calls to the
committer, and sees to it that what was submitted gets done. The simulator's driver is in
`cluster/sim`: it performs the same operations at times of its own event heap, and crashes between
them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from wal.committer import AppendHandle, Committer, Job
from wal.filesystem import File, Filesystem
from wal.operations import (
    BARRIERS,
    Allocate,
    Create,
    Operation,
    Rename,
    Sync,
    SyncDir,
    Unlink,
    Write,
    ZeroFill,
)

__all__ = ["Driver", "InlineDriver", "JobRunner", "SegmentIO", "SyncTimes", "ThreadDriver"]

BUCKETS: Final = 40
"""Of the histograms: the last one begins at 2^38 µs, three days."""

OnComplete = Callable[[Sequence[AppendHandle]], None]


class SegmentIO:
    """Performs single operations in one directory; keeps the head's file open. One thread."""

    __slots__ = ("_directory", "_file", "_fs", "_name")

    def __init__(self, fs: Filesystem, directory: str) -> None:
        """Work in `directory`, which exists."""
        self._fs = fs
        self._directory = directory
        self._file: File | None = None
        self._name = ""

    def perform(self, operation: Operation) -> None:
        """Perform one operation; OSError as the disk says. See `wal.operations` on repeating."""
        match operation:
            case Write(name, offset, buffers):
                self._open(name).pwritev(buffers, offset)
            case Sync(name):
                self._open(name).datasync()
            case ZeroFill(name, offset, length):
                self._open(name).zero_fill(offset, length)
            case Create(name):
                self._create(name)
            case Allocate(name, length):
                self._open(name).allocate(0, length)
            case Rename(source, target):
                self._rename(source, target)
            case Unlink(name):
                if self._fs.exists(self._path(name)):
                    self._fs.unlink(self._path(name))
            case SyncDir():
                self._fs.sync_dir(self._directory)

    def close(self) -> None:
        """Close the open file."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._name = ""

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _open(self, name: str) -> File:
        if self._file is None or self._name != name:
            self.close()
            self._file = self._fs.open(self._path(name))
            self._name = name
        return self._file

    def _create(self, name: str) -> None:
        self.close()
        path = self._path(name)
        if self._fs.exists(path):
            self._open(name).truncate(0)
            return
        self._file = self._fs.open(path, create=True)
        self._name = name

    def _rename(self, source: str, target: str) -> None:
        if self._fs.exists(self._path(source)):
            self._fs.rename(self._path(source), self._path(target))


class SyncTimes:
    """Times of recent jobs (operations to durable) in ns, the newest last; bounded."""

    __slots__ = ("recent",)

    def __init__(self, size: int = 512) -> None:
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
    return min(value.bit_length(), BUCKETS - 1)


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
        for operation in job.operations:
            try:
                self.io.perform(operation)
            except OSError as error:
                return error, isinstance(operation, BARRIERS)
        self.count([job], int(bool(job.handles)), self.clock() - started)
        return None

    def count(self, jobs: Sequence[Job], syncs: int, elapsed_ns: int) -> None:
        """Count jobs that are done, and their syncs, which took so long."""
        if syncs:
            self.syncs += syncs
            self.times.add(elapsed_ns)
            self.sync_entries[bucket_of(sum(job.entries for job in jobs))] += 1
            self.sync_latency_us[bucket_of(elapsed_ns // 1_000)] += 1
        self.jobs += len(jobs)
        for job in jobs:
            self.bytes_written += job.bytes_written
            self.entries += job.entries
            self.frames += job.frames

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
        while (job := runner.committer.next_job()) is not None:
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
                job = self._runner.committer.next_job()
                if job is not None:
                    return job
                if self._closing:
                    return None
                self._condition.wait()
