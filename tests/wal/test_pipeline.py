"""Two threads for one log: one writes while the other syncs, and nothing is acknowledged early."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from tests.wal.support import DIRECTORY, IDENTITY, SMALL, batch, spans
from tests.wal.test_driver import PATIENCE_S, Gate
from wal import AppendHandle, Log, OpenOptions, PoisonedLogError, SyncPolicy, recover
from wal.committer import JOBS_MAX

PIPELINE = replace(SMALL, driver="pipeline")


class Desk:
    """A pipelined log over a gate, and a count of its writes that can be waited for."""

    def __init__(self, fs: Gate, log: Log) -> None:
        self.fs = fs
        self.log = log
        self.index = 1
        self.writes = 0
        self._written = threading.Condition()
        wait = fs.before

        def count(operation: str, path: str) -> None:
            wait(operation, path)
            if operation == "pwritev":
                with self._written:
                    self.writes += 1
                    self._written.notify_all()

        fs.before = count

    def append(self, size: int = 100) -> AppendHandle:
        self.index += 1
        return self.log.append([batch(self.index, size=size)])

    def await_writes(self, writes: int) -> None:
        """Wait until so many writes have begun since the log was opened."""
        with self._written:
            assert self._written.wait_for(lambda: self.writes >= writes, PATIENCE_S)


@contextmanager
def pipelined(policy: SyncPolicy = PIPELINE) -> Iterator[Desk]:
    fs = Gate()
    log, _ = Log.open(fs, DIRECTORY, IDENTITY, OpenOptions(policy))
    log.append([batch(1)]).wait(PATIENCE_S)
    desk = Desk(fs, log)
    yield desk
    fs.open_gate()
    log.abort()


def test_the_next_job_is_written_while_one_syncs_and_completes_with_the_next_sync() -> None:
    with pipelined() as desk:
        desk.fs.close_gate()
        before = desk.fs.syncs
        first = desk.append()
        desk.fs.await_one()
        others = []
        for place in range(3):
            others.append(desk.append())
            desk.await_writes(2 + place)  # each is written on its own, and the sync still waits
        assert not first.durable
        desk.fs.let_one_pass()
        first.wait(PATIENCE_S)
        assert not any(handle.durable for handle in others), "behind the marker"
        desk.fs.open_gate()
        for handle in others:
            handle.wait(PATIENCE_S)
        assert desk.fs.syncs - before == 2, "three writes, one sync"
        stats = desk.log.stats()
        assert stats.durable == stats.head
        assert stats.syncs < stats.jobs


def test_what_is_written_ahead_of_a_sync_is_bounded() -> None:
    with pipelined() as desk:
        desk.fs.close_gate()
        first = desk.append()
        desk.fs.await_one()
        handles = [first]
        for place in range(JOBS_MAX - 1):
            handles.append(desk.append())
            desk.await_writes(2 + place)
        waiting = [desk.append() for _ in range(20)]
        assert desk.writes == JOBS_MAX
        desk.fs.open_gate()
        for handle in [*handles, *waiting]:
            handle.wait(PATIENCE_S)


def test_handles_complete_in_order_on_the_syncing_thread() -> None:
    with pipelined(replace(PIPELINE, job_records_max=3)) as desk:
        told: list[object] = []
        threads: set[str] = set()
        done = threading.Event()

        def on_complete(handles: Sequence[AppendHandle]) -> None:
            threads.add(threading.current_thread().name)
            told.extend(handle.context for handle in handles)
            if told[-1] == 200:
                done.set()

        desk.log.on_complete = on_complete
        for index in range(2, 201):
            desk.log.append([batch(index, size=900)], context=index)
        assert done.wait(PATIENCE_S)
        assert told == list(range(2, 201))
        assert threads == {"wal-sync"}


def test_a_failed_sync_fails_what_was_written_meanwhile_as_well() -> None:
    with pipelined() as desk:
        desk.fs.close_gate()
        failing = threading.Event()
        wait = desk.fs.before

        def fail(operation: str, path: str) -> None:
            wait(operation, path)
            if operation == "datasync" and failing.is_set():
                raise OSError(errno.EIO, "injected")

        desk.fs.before = fail
        failing.set()
        first = desk.append()
        desk.fs.await_one()
        second = desk.append()
        desk.await_writes(2)
        syncs = desk.fs.syncs
        desk.fs.open_gate()
        for handle in (first, second):
            with pytest.raises(PoisonedLogError):
                handle.wait(PATIENCE_S)
        assert desk.fs.syncs == syncs, "no sync after one that failed"
        with pytest.raises(PoisonedLogError):
            desk.append()


def test_a_failed_write_fails_what_waits_for_a_sync_as_well() -> None:
    """Nothing is acknowledged by a log that has met an error, though its sync would succeed."""
    with pipelined() as desk:
        desk.fs.close_gate()
        first = desk.append()
        desk.fs.await_one()
        wait = desk.fs.before

        def fail(operation: str, path: str) -> None:
            if operation == "pwritev":
                raise OSError(errno.EIO, "injected")
            wait(operation, path)

        desk.fs.before = fail
        second = desk.append()
        with pytest.raises(PoisonedLogError):
            second.wait(PATIENCE_S)
        desk.fs.open_gate()
        with pytest.raises(PoisonedLogError):
            first.wait(PATIENCE_S)
        assert not first.durable


def test_a_full_disk_lets_earlier_jobs_complete_and_later_ones_wait() -> None:
    with pipelined() as desk:
        desk.fs.close_gate()
        first = desk.append()
        desk.fs.await_one()
        wait, refused, full = desk.fs.before, threading.Event(), threading.Event()
        full.set()

        def no_space(operation: str, path: str) -> None:
            if operation == "pwritev" and full.is_set():
                refused.set()
                raise OSError(errno.ENOSPC, "injected")
            wait(operation, path)

        desk.fs.before = no_space
        second = desk.append()
        assert refused.wait(PATIENCE_S)
        desk.fs.open_gate()
        first.wait(PATIENCE_S)
        assert not second.durable
        full.clear()
        while not second.durable:
            desk.log.retry()
            with suppress(TimeoutError):
                second.wait(0.05)


def test_closing_finishes_what_is_queued_and_what_is_written() -> None:
    with pipelined() as desk:
        handles = [desk.append(size=3000) for _ in range(60)]
        assert desk.log.seal_and_close()
        assert all(handle.durable for handle in handles)
        desk.fs.kill()
        found = recover(desk.fs, DIRECTORY)
        assert found.sealed
        assert spans(found)[-1] == (1, 61, 61)


def test_a_bug_on_either_thread_lets_nobody_wait() -> None:
    for broken in ("pwritev", "datasync"):
        with pipelined() as desk, pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "excepthook", lambda arguments: None)

            def fail(operation: str, path: str, broken: str = broken) -> None:
                if operation == broken:
                    raise ZeroDivisionError

            desk.fs.before = fail
            with pytest.raises(PoisonedLogError, match="thread failed"):
                desk.append().wait(PATIENCE_S)


def test_the_pipeline_is_what_the_policy_names(tmp_path) -> None:
    from wal import OsFilesystem

    log, _ = Log.open(OsFilesystem(), str(tmp_path / "wal"), IDENTITY, OpenOptions(PIPELINE))
    names = {thread.name for thread in threading.enumerate()}
    assert {"wal", "wal-sync"} <= names
    log.abort()
    assert not {"wal", "wal-sync"} & {thread.name for thread in threading.enumerate()}
