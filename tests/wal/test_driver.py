"""Group commit by a thread, by the caller, and the files of the real disk."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import DIRECTORY, IDENTITY, SMALL, batch, open_log, spans
from wal import (
    AppendHandle,
    LockedError,
    Log,
    OpenOptions,
    OsFilesystem,
    PoisonedLogError,
    SyncPolicy,
    thread_driver,
)
from wal.driver import SyncTimes

PATIENCE_S = 20


class Gate(CrashFilesystem):
    """A disk whose syncs wait until they are let through, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.open_wide = threading.Event()
        self.open_wide.set()
        self.waiting = threading.Semaphore(0)
        self.passes = threading.Semaphore(0)
        self.before = self._wait

    def close_gate(self) -> None:
        self.open_wide.clear()

    def open_gate(self) -> None:
        self.open_wide.set()
        self.passes.release()

    def let_one_pass(self) -> None:
        self.passes.release()

    def await_one(self) -> None:
        """Wait until a sync stands at the gate."""
        assert self.waiting.acquire(timeout=PATIENCE_S)

    def _wait(self, operation: str, path: str) -> None:
        if operation == "datasync" and not self.open_wide.is_set():
            self.waiting.release()
            assert self.passes.acquire(timeout=PATIENCE_S)


@contextmanager
def threaded(fs: CrashFilesystem, policy: SyncPolicy = SMALL) -> Iterator[Log]:
    log, _ = Log.open(fs, DIRECTORY, IDENTITY, OpenOptions(policy, thread_driver))
    log.append([batch(1)]).wait(PATIENCE_S)
    yield log
    log.abort()


def test_what_gathers_while_the_disk_syncs_shares_the_next_sync() -> None:
    fs = Gate()
    with threaded(fs) as log:
        fs.close_gate()
        before = fs.syncs
        first = log.append([batch(2)])
        fs.await_one()
        others = [log.append([batch(index)]) for index in range(3, 203)]
        assert not first.durable
        fs.let_one_pass()
        first.wait(PATIENCE_S)
        fs.await_one()
        assert not any(handle.durable for handle in others)
        fs.open_gate()
        for handle in others:
            handle.wait(PATIENCE_S)
        assert fs.syncs - before == 2, "200 appends, one sync"
        stats = log.stats()
        assert stats.entries == 202
        assert stats.durable == stats.head


def test_handles_complete_in_the_order_of_their_appends_and_on_the_logs_thread() -> None:
    with threaded(Gate(), SyncPolicy(65536, 4096, job_records_max=3)) as log:
        told: list[object] = []
        threads: set[str] = set()
        done = threading.Event()

        def on_complete(handles: Sequence[AppendHandle]) -> None:
            threads.add(threading.current_thread().name)
            told.extend(handle.context for handle in handles)
            if told[-1] == 99:
                done.set()

        log.on_complete = on_complete
        for index in range(2, 100):
            log.append([batch(index)], context=index)
        assert done.wait(PATIENCE_S)
        assert told == list(range(2, 100))
        assert threads == {"wal"}


def test_an_append_of_many_records_completes_once_when_the_last_is_durable() -> None:
    with threaded(Gate(), SyncPolicy(65536, 4096, job_records_max=4)) as log:
        handle = log.append([batch(index) for index in range(2, 32)])
        handle.wait(PATIENCE_S)
        assert len(handle.positions) == 30
        assert handle.positions == sorted(handle.positions)
        assert log.stats().syncs >= 8


def test_handles_without_a_context_are_waited_for_and_not_told() -> None:
    with threaded(CrashFilesystem()) as log:
        told: list[AppendHandle] = []
        log.on_complete = told.extend
        log.append([batch(2)]).wait(PATIENCE_S)
        last = log.append([batch(3)], context="mine")
        log.append([batch(4)]).wait(PATIENCE_S)
        assert told == [last]


def test_waiting_gives_up_in_time_and_can_go_on() -> None:
    fs = Gate()
    with threaded(fs) as log:
        fs.close_gate()
        handle = log.append([batch(2)])
        fs.await_one()
        with pytest.raises(TimeoutError, match=r"not durable after 0\.01 s"):
            handle.wait(0.01)
        fs.open_gate()
        handle.wait(PATIENCE_S)


def test_closing_finishes_what_is_queued() -> None:
    fs = Gate()
    with threaded(fs) as log:
        fs.close_gate()
        handles = [log.append([batch(2)])]
        fs.await_one()
        handles += [log.append([batch(index)]) for index in range(3, 30)]
        fs.open_gate()
        assert log.seal_and_close()
        assert all(handle.durable for handle in handles)
    fs.kill()
    _, found = open_log(fs)
    assert found.sealed
    assert spans(found)[-1] == (1, 29, 29)


def test_one_failed_sync_fails_everybody_who_waits() -> None:
    fs = Gate()
    with threaded(fs) as log:
        fs.close_gate()
        handles = [log.append([batch(2)])]
        fs.await_one()
        handles += [log.append([batch(index)]) for index in range(3, 6)]

        def fail(operation: str, path: str) -> None:
            raise OSError(errno.EIO, "injected")

        fs.before = fail
        fs.syncs = 0
        # The sync at the gate passes; the next job fails.
        fs.open_gate()
        handles[0].wait(PATIENCE_S)
        for handle in handles[1:]:
            with pytest.raises(PoisonedLogError):
                handle.wait(PATIENCE_S)
        assert fs.syncs == 1
        with pytest.raises(PoisonedLogError):
            log.append([batch(9)])


def test_a_full_disk_stops_nobody_from_waiting_for_space() -> None:
    fs = CrashFilesystem()
    refused = threading.Event()

    def no_space(operation: str, path: str) -> None:
        if operation == "pwritev":
            refused.set()
            raise OSError(errno.ENOSPC, "injected")

    with threaded(fs) as log:
        fs.before = no_space
        handle = log.append([batch(2)])
        assert refused.wait(PATIENCE_S)
        fs.before = lambda operation, path: None
        # The job may not be put aside yet: `retry` is repeated, as a node does.
        while not handle.durable:
            log.retry()
            with suppress(TimeoutError):
                handle.wait(0.01)
        assert not log.disk_full


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("where", ["in a job", "in the callback"])
def test_nobody_waits_for_a_thread_that_is_gone(where: str) -> None:
    fs = Gate()
    with threaded(fs) as log:

        def fail(*_: object) -> None:
            raise ZeroDivisionError("planted")

        fs.close_gate()
        first = log.append([batch(2)], context="first")
        fs.await_one()
        second = log.append([batch(3)])
        if where == "in a job":
            fs.before = fail
        else:
            log.on_complete = fail
        fs.open_gate()
        with pytest.raises(PoisonedLogError, match="ZeroDivisionError"):
            second.wait(PATIENCE_S)
        assert first.durable
        with pytest.raises(PoisonedLogError):
            log.append([batch(4)])


def test_many_threads_may_submit_at_once() -> None:
    """One by one under the driver's lock; each group's order is its own thread's."""
    with threaded(CrashFilesystem()) as log:
        handles: list[AppendHandle] = []

        def append(group: int) -> None:
            for index in range(1, 40):
                handles.append(log.append([batch(index, group=group)]))

        threads = [threading.Thread(target=append, args=(group,)) for group in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        for handle in handles:
            handle.wait(PATIENCE_S)
        assert log.stats().entries == 4 * 39 + 1


def test_quantiles_are_of_the_recent_past() -> None:
    times = SyncTimes(4)
    assert times.quantiles(0.5) == [0]
    for value in (1000, 1, 2, 3, 4):
        times.add(value)
    assert times.quantiles(0.0, 0.5, 0.99) == [1, 3, 4]


def test_latencies_are_measured_with_the_given_clock() -> None:
    ticks = iter(range(0, 10_000, 7))
    options = OpenOptions(SMALL, thread_driver, clock=lambda: next(ticks))
    log, _ = Log.open(CrashFilesystem(), DIRECTORY, IDENTITY, options)
    log.append([batch(1)]).wait(PATIENCE_S)
    log.abort()
    assert log.stats().sync_p50_ns == 7


# ---- policies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"segment_bytes": 4096},
        {"segment_bytes": 1 << 32},
        {"segment_bytes": 65537},
        {"fill_step_bytes": 100},
        {"fill_step_bytes": 0},
        {"segment_bytes": 65536, "fill_step_bytes": 131072},
        {"prepare": "hope"},
        {"job_records_max": 1},
        {"job_bytes_max": 100},
        {"queue_bytes_max": 0},
        {"spare_segments_max": -1},
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(reversed(wrong)).split("_")[0]):
        SyncPolicy(**wrong)


# ---- the real file system ----------------------------------------------------------------


def test_more_buffers_than_one_call_takes_are_written_in_order(tmp_path: Path) -> None:
    fs = OsFilesystem()
    file = fs.open(str(tmp_path / "f"), create=True)
    pieces = [bytes([index % 251]) * (index % 7) for index in range(2500)]
    file.pwritev(pieces, 5)
    assert file.pread(1 << 20, 5) == b"".join(pieces)
    assert file.size() == 5 + sum(map(len, pieces))
    file.truncate(3)
    file.zero_fill(3, 3 << 20)
    assert file.size() == 3 + (3 << 20)
    assert not file.pread(4 << 20, 0).strip(b"\0")
    file.sync()
    file.close()


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev

    def short(fd: int, buffers: list, offset: int) -> int:
        return real(fd, [b"".join(buffers)[:3]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    file = OsFilesystem().open(str(tmp_path / "f"), create=True)
    file.pwritev([b"abc", b"defg", b"hi"], 2)
    assert file.pread(20, 0) == b"\0\0abcdefghi"
    file.close()


def test_a_write_that_makes_no_progress_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: 0)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 0)
    file = OsFilesystem().open(str(tmp_path / "f"), create=True)
    with pytest.raises(OSError, match="no progress"):
        file.pwritev([b"abc"], 0)
    file.close()


def test_names_are_handled_as_the_protocol_says(tmp_path: Path) -> None:
    fs = OsFilesystem()
    deep = str(tmp_path / "a" / "b")
    fs.mkdirs(deep)
    fs.mkdirs(deep)
    assert os.stat(deep).st_mode & 0o777 == 0o700
    fs.open(f"{deep}/x", create=True).close()
    with pytest.raises(FileExistsError):
        fs.open(f"{deep}/x", create=True)
    fs.open(f"{deep}/w", create=True).close()
    fs.rename(f"{deep}/x", f"{deep}/w")
    assert fs.listdir(deep) == ["w"]
    fs.unlink(f"{deep}/w")
    assert not fs.exists(f"{deep}/w")
    fs.sync_dir(deep)


def test_a_lock_that_cannot_name_its_owner_is_still_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "injected")

    monkeypatch.setattr(os, "pwrite", full)
    lock = OsFilesystem().lock(str(tmp_path / "LOCK"))
    with pytest.raises(LockedError, match="in use by process unknown"):
        OsFilesystem().lock(str(tmp_path / "LOCK"))
    lock.release()


def test_a_lock_that_fails_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "injected")

    monkeypatch.setattr("fcntl.flock", broken)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="injected"):
        OsFilesystem().lock(str(tmp_path / "LOCK"))
    assert len(os.listdir("/proc/self/fd")) == before
