"""Two threads for one log: one writes the next jobs while the other syncs (BookKeeper's marker).

Theory of operation
-------------------
The writer takes jobs as they come and writes them. The syncer takes the newest job that has been
written, the marker, syncs once, and completes everything up to the marker; what was written while it
synced waits for its next turn. So a write never waits for a sync, and a sync holds all that was
written before it began.

The committer lets so many jobs be under way (`wal.committer.JOBS_MAX`), and begins or gives back a
segment only when none is: the two threads never need two files.

Whether that is faster is a question to the file system: ext4 lets a write wait while the pages that
it touches are on their way to the disk (docs/wal.md has what was measured).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from wal.committer import AppendHandle, CommitterState, Job
from wal.driver import JobRunner, OnComplete
from wal.operations import Operation, Sync

__all__ = ["PipelineDriver", "split_sync"]


def split_sync(job: Job) -> tuple[tuple[Operation, ...], Sync | None]:
    """Split a job into what is written, and the sync that it ends with, if it does."""
    last = job.operations[-1]
    if isinstance(last, Sync):
        return job.operations[:-1], last
    return job.operations, None


class PipelineDriver:
    """A writing thread and a syncing thread. Completes handles on the latter."""

    def __init__(self, runner: JobRunner, on_complete: OnComplete) -> None:
        """Start both threads; `on_complete` is called on the syncing one, rarely on the other."""
        self._runner = runner
        self._on_complete = on_complete
        self._condition = threading.Condition(threading.Lock())
        self._written: deque[tuple[Job, Sync | None, int]] = deque()
        """Jobs that wait for a sync, and when each began (ns). At most `JOBS_MAX`."""
        self._closing = False
        self._ended = False
        """Whether the writer is gone."""
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for name, work in (("wal", self._write), ("wal-sync", self._sync))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, submit: Callable[[], AppendHandle]) -> AppendHandle:
        """See `wal.driver.Driver.submit`; returns at once."""
        with self._condition:
            handle = submit()
            self._condition.notify_all()
        return handle

    def retry(self) -> None:
        """See `wal.driver.Driver.retry`."""
        with self._condition:
            self._runner.committer.retry()
            self._condition.notify_all()

    def close(self) -> None:
        """See `wal.driver.Driver.close`; joins both threads."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()
        self._runner.io.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            # A bug, here or in `on_complete`. Nobody may wait for a thread that is gone.
            with self._condition:
                victims = self._runner.committer.poison(f"the log's thread failed: {error!r}")
                self._ended = True
                self._condition.notify_all()
            self._tell(victims)
            raise

    def _tell(self, handles: list[AppendHandle]) -> None:
        for handle in handles:
            handle.settle()
        if handles:
            self._on_complete(handles)

    # ---- the writing thread --------------------------------------------------------------

    def _write(self) -> None:
        runner = self._runner
        while (job := self._await_job()) is not None:
            started_ns = runner.clock()
            operations, sync = split_sync(job)
            failure = runner.perform_each(operations)
            victims: list[AppendHandle] = []
            with self._condition:
                if runner.committer.state is CommitterState.POISONED:
                    continue  # a sync failed meanwhile, and with it this job
                if failure is None:
                    self._written.append((job, sync, started_ns))
                else:
                    victims = runner.settle(job, failure)
                self._condition.notify_all()
            self._tell(victims)

    def _await_job(self) -> Job | None:
        runner = self._runner
        with self._condition:
            while True:
                now_ns = None if self._closing else runner.clock()
                job = runner.committer.next_job(now_ns)
                if job is not None:
                    return job
                if self._closing and runner.committer.is_idle:
                    self._ended = True
                    self._condition.notify_all()
                    return None
                self._condition.wait(runner.patience_s(now_ns))

    # ---- the syncing thread --------------------------------------------------------------

    def _sync(self) -> None:
        runner = self._runner
        while jobs := self._await_written():
            marker, _, _ = jobs[-1]
            sync = next((sync for _, sync, _ in reversed(jobs) if sync is not None), None)
            failure = runner.perform_each([] if sync is None else [sync])
            began_ns = jobs[0][2]
            with self._condition:
                if runner.committer.state is CommitterState.POISONED:
                    continue  # a write failed meanwhile: what it leaves behind is not acknowledged
                handles = runner.settle(marker, failure)
                if failure is None:
                    done = [job for job, _, _ in jobs]
                    spared = sum(each is not None for _, each, _ in jobs) - (sync is not None)
                    syncs = sum(job.syncs for job in done) - spared
                    runner.count(done, syncs, runner.clock() - began_ns)
                self._condition.notify_all()
            self._tell(handles)

    def _await_written(self) -> list[tuple[Job, Sync | None, int]]:
        """Return the jobs that wait for a sync, the marker last; none at the end."""
        with self._condition:
            while not self._written and not self._ended:
                self._condition.wait()
            jobs = list(self._written)
            self._written.clear()
            return jobs
