"""Full disks, failed syncs and early ends (ARCHITECTURE §5, "Failure")."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Sequence

import pytest

from tests.wal.crashfs import CrashFile, CrashFilesystem
from tests.wal.support import (
    DIRECTORY,
    IDENTITY,
    SMALL,
    StepDriver,
    batch,
    fill_segments,
    open_log,
    opened,
    spans,
    wal_names,
)
from wal import (
    AppendHandle,
    ClosedLogError,
    CommitterState,
    DiskFullError,
    JobRunner,
    Kind,
    Log,
    LogIdentity,
    OpenOptions,
    PoisonedLogError,
    Record,
    RecordHeader,
    RecordTooLargeError,
    SyncPolicy,
    hard_state_record,
    recover,
)
from wal.bounds import bounds_after
from wal.driver import OnComplete
from wal.frame import fields_of, record_of, release_record, truncate_record
from wal.recovery import cut


class Refusal:
    """Makes one kind of change fail, from the `nth` on, until it is lifted."""

    def __init__(self, operation: str, code: int, nth: int = 1) -> None:
        self.operation = operation
        self.code = code
        self.left = nth
        self.lifted = False
        self.refused = 0

    def __call__(self, operation: str, path: str) -> None:
        if operation != self.operation or self.lifted:
            return
        self.left -= 1
        if self.left <= 0:
            self.refused += 1
            raise OSError(self.code, f"injected at {operation}")


def step_log(fs: CrashFilesystem, policy: SyncPolicy = SMALL) -> tuple[Log, StepDriver]:
    drivers: list[StepDriver] = []

    def make_driver(runner: JobRunner, on_complete: OnComplete) -> StepDriver:
        drivers.append(StepDriver(runner, on_complete))
        return drivers[0]

    log, _ = Log.open(fs, DIRECTORY, IDENTITY, OpenOptions(policy, make_driver))
    while drivers[0].pump():
        pass
    return log, drivers[0]


def reopened(fs: CrashFilesystem) -> list[tuple[int, int, int]]:
    log, found = open_log(fs)
    log.abort()
    return spans(found)


# ---- no space ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "nth"),
    [("create", 1), ("zero_fill", 1), ("zero_fill", 2), ("pwritev", 1), ("pwritev", 3)],
)
def test_a_full_disk_delays_records_and_loses_none(operation: str, nth: int) -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    fill_segments(log, 1, 8)
    fs.before = refusal = Refusal(operation, errno.ENOSPC, nth)
    handles = [log.append([batch(index, size=8000)]) for index in range(9, 15)]
    assert log.disk_full
    assert log.stats().disk_full
    assert not handles[-1].durable
    assert all(handle.error is None for handle in handles)
    for _ in range(3):
        log.retry()
    assert log.disk_full, "space has not returned yet"
    assert refusal.refused == 4
    refusal.lifted = True
    log.retry()
    assert not log.disk_full
    assert all(handle.durable for handle in handles)
    log.abort()
    assert reopened(fs) == [(1, index, index) for index in range(1, 15)]


def test_a_disk_that_fills_up_really_is_survived_and_reading_goes_on() -> None:
    """Not an injected error but a capacity: partial writes, then no room at all."""
    fs = CrashFilesystem()
    log, found = open_log(fs)
    del found
    fs.capacity = 150_000
    handles = [log.append([batch(index, size=8000)]) for index in range(1, 30)]
    assert log.disk_full
    durable = [handle for handle in handles if handle.durable]
    assert 8 < len(durable) < 29
    fs.kill()
    log, recovered = open_log(fs)
    assert [(ref.base_index) for ref in recovered.groups[0].batches][: len(durable)] == list(
        range(1, len(durable) + 1)
    )
    for ref in recovered.groups[0].batches:
        assert log.read(0, ref).body[:4]
    fs.capacity = None
    log.retry()
    assert not log.disk_full
    log.append([batch(len(recovered.groups[0].batches) + 1)])
    assert log.seal_and_close()


def test_a_full_disk_at_a_sync_is_poison_because_the_pages_may_be_gone() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    fs.before = Refusal("datasync", errno.ENOSPC)
    handle = log.append([batch(1)])
    assert isinstance(handle.error, PoisonedLogError)
    assert not log.disk_full


def test_a_directory_sync_that_failed_is_never_repeated() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    fill_segments(log, 1, 8)
    fs.before = refusal = Refusal("sync_dir", errno.ENOSPC)
    handle = log.append([batch(9, size=8000)])
    assert isinstance(handle.error, PoisonedLogError)
    log.retry()
    assert refusal.refused == 1


def test_what_waits_for_the_disk_is_bounded() -> None:
    policy = SyncPolicy(segment_bytes=65536, fill_step_bytes=4096, queue_bytes_max=20_000)
    log, driver = step_log(CrashFilesystem(), policy)
    log.append([batch(1, size=18_000)], context="a")
    with pytest.raises(DiskFullError, match="wait for the disk"):
        log.append([batch(2, size=2_000)], context="b")
    assert log.queued_bytes == 18_000 + 100 + 4, "a frame, its header and one length, padded"
    assert driver.pump()
    assert log.queued_bytes == 0
    log.append([batch(2, size=50_000)], context="c")
    assert driver.pump(), "one append larger than the bound travels alone"


def test_a_record_that_no_segment_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wal.committer.RECORD_BYTES_MAX", 1000)
    log, _ = open_log(CrashFilesystem())
    with pytest.raises(RecordTooLargeError, match="limit is 1000"):
        log.append([batch(1), batch(2, size=1001)])
    assert log.append([batch(1)]).durable, "the refused append left nothing behind"
    several = [batch(index, size=400) for index in (2, 3, 4)]
    assert log.append(several).durable, "the limit is of one record, not of an append"


def test_a_log_can_be_opened_on_a_full_disk() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1)])
    fs.capacity = 0
    log, found = open_log(fs)
    assert spans(found) == [(1, 1, 1)]
    assert log.disk_full
    assert not log.seal_and_close()
    fs.capacity = None
    assert reopened(fs) == [(1, 1, 1)]


# ---- a failed sync -----------------------------------------------------------------------


def test_a_failed_sync_poisons_the_log_for_everybody() -> None:
    fs = CrashFilesystem()
    log, driver = step_log(fs, SyncPolicy(segment_bytes=65536, fill_step_bytes=4096))
    told: list[AppendHandle] = []
    log.on_complete = told.extend
    first, second = log.append([batch(1)], context="1"), log.append([batch(2)], context="2")
    job = driver.runner.committer.next_job()
    assert job is not None
    third = log.append([batch(3)], context="3")
    fs.before = refusal = Refusal("datasync", errno.EIO)
    failure = driver.runner.perform(job)
    for handle in driver.runner.settle(job, failure):
        handle.settle()
    for handle in (first, second, third):
        assert isinstance(handle.error, PoisonedLogError)
        assert not handle.durable
    assert driver.runner.committer.state is CommitterState.POISONED
    with pytest.raises(PoisonedLogError, match="injected at datasync"):
        log.append([batch(4)])
    log.retry()
    assert not driver.pump()
    assert not log.seal_and_close()
    assert refusal.refused == 1, "a failed sync is not tried again"
    assert "SEALED" not in wal_names(fs)


def test_waiters_of_a_poisoned_log_are_told() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    fs.before = Refusal("pwritev", errno.EIO)
    handle = log.append([batch(1)])
    with pytest.raises(PoisonedLogError, match="nothing in flight is acknowledged"):
        handle.wait(0)


def test_a_failure_of_the_logs_own_record_is_told_to_its_user() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    told: list[AppendHandle] = []
    log.on_complete = told.extend
    fs.before = Refusal("datasync", errno.EIO)
    log.release(0, 5, 1)
    assert [type(handle.error) for handle in told] == [PoisonedLogError]


def test_what_a_failed_sync_left_in_the_page_cache_is_made_durable_before_it_is_believed() -> None:
    """fsyncgate at the restart: the pages are clean and readable, and not on the disk."""
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    log.append([batch(1)])
    fs.before = Refusal("datasync", errno.EIO)
    log.append([hard_state_record(0, 9, 1), batch(2)])
    fs.kill()  # the node exits 74
    _, found = open_log(fs)
    assert spans(found) == [(1, 1, 1), (1, 2, 2)], "the page cache still shows the record"
    fs.kill()
    fs.power_cut(random.Random(1))
    _, found = open_log(fs)
    assert spans(found) == [(1, 1, 1), (1, 2, 2)], "a node answered by it"
    assert found.groups[0].term == 9


def test_an_open_writes_again_what_nothing_proves_durable_and_no_more() -> None:
    """The last flush: what was before it is proved by the frames of the flush itself."""
    rewritten: list[tuple[int, int]] = []

    class Watched(CrashFilesystem):
        def open(self, path: str, *, create: bool = False) -> CrashFile:
            file = super().open(path, create=create)
            write = file.pwritev

            def pwritev(buffers: Sequence[bytes], offset: int) -> None:
                rewritten.append((offset, offset + sum(map(len, buffers))))
                write(buffers, offset)

            file.pwritev = pwritev  # type: ignore[method-assign,assignment]  # one file's only
            return file

    fs = Watched()
    log, driver = step_log(fs)
    ends = []
    for index in (1, 2, 3):
        log.append([batch(index)], context=index)
        assert driver.pump()
        ends.append(log.stats().head & 0xFFFF_FFFF)
    fs.kill()
    rewritten.clear()
    found = recover(fs, DIRECTORY)
    assert (found.proved & 0xFFFF_FFFF, found.end & 0xFFFF_FFFF) == (ends[1], ends[2])
    cut(fs, found)
    assert rewritten == [(ends[1], ends[2])]

    log, _ = open_log(fs)
    for index in itertools.takewhile(lambda _: log.stats().head >> 32 == 1, itertools.count(4)):
        log.append([batch(index, size=9_000)])
    log.abort()
    found = recover(fs, DIRECTORY)
    assert (found.proved >> 32, found.number) == (1, 2), "the proof lies in the segment before"
    rewritten.clear()
    cut(fs, found)
    assert rewritten == [(0, found.end & 0xFFFF_FFFF)]


# ---- ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Log.seal_and_close, Log.abort])
def test_closing_a_log_that_waits_for_space_tells_whoever_waits(end: Callable[[Log], None]) -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    told: list[AppendHandle] = []
    log.on_complete = told.extend
    fs.before = Refusal("pwritev", errno.ENOSPC)
    kept = log.append([batch(1)])
    queued = log.append([batch(2)], context="queued")
    end(log)
    with pytest.raises(ClosedLogError):
        kept.wait(0)
    assert isinstance(queued.error, ClosedLogError)
    assert queued in told
    assert not fs.handles
    assert not fs.locked


def test_a_clean_stop_tries_once_more_whether_space_has_returned() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    fs.before = refusal = Refusal("pwritev", errno.ENOSPC)
    handle = log.append([batch(1)])
    refusal.lifted = True
    assert log.seal_and_close()
    assert handle.durable
    _, found = open_log(fs)
    assert found.sealed


@pytest.mark.parametrize("operation", ["create", "pwritev"])
def test_a_seal_that_finds_no_space_leaves_an_unsealed_log(operation: str) -> None:
    """SEALED is a file of its own: it may be what the disk has no room for."""
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    handle = log.append([batch(1)])
    # The SEAL record itself is written; only the file finds no room.
    fs.before = Refusal(operation, errno.ENOSPC, nth={"create": 1, "pwritev": 2}[operation])
    assert not log.seal_and_close()
    assert handle.durable
    assert not fs.locked
    fs.before = lambda operation, path: None
    log, found = open_log(fs)
    assert not found.sealed
    assert spans(found) == [(1, 1, 1)]
    assert log.seal_and_close(), "what the first attempt left behind is no obstacle"


def test_a_seal_that_fails_otherwise_is_an_error_and_still_closes_the_log() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    log.append([batch(1)])
    fs.before = Refusal("sync", errno.EIO)
    with pytest.raises(OSError, match="injected"):
        log.seal_and_close()
    assert not fs.handles
    assert not fs.locked


def test_a_clean_stop_has_room_behind_a_full_queue() -> None:
    policy = SyncPolicy(segment_bytes=65536, fill_step_bytes=4096, queue_bytes_max=10_000)
    fs = CrashFilesystem()
    log, _ = step_log(fs, policy)
    handle = log.append([batch(1, size=9_950)], context="waits")
    assert log.seal_and_close()
    assert handle.durable


def test_a_release_is_taken_behind_a_full_queue_because_it_frees_space() -> None:
    policy = SyncPolicy(segment_bytes=65536, fill_step_bytes=4096, queue_bytes_max=10_000)
    log, driver = step_log(CrashFilesystem(), policy)
    log.append([batch(1, size=9_950)], context="waits")
    with pytest.raises(DiskFullError):
        log.append([batch(2)], context="refused")
    release = log.release(0, 1, 1)
    assert driver.pump()
    assert release.durable


def test_a_bug_under_the_inline_driver_ends_the_log_instead_of_leaving_it_deaf() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)

    def fail(operation: str, path: str) -> None:
        raise ZeroDivisionError("planted")

    fs.before = fail
    with pytest.raises(ZeroDivisionError):
        log.append([batch(1)])
    fs.before = lambda operation, path: None
    with pytest.raises(PoisonedLogError, match="ZeroDivisionError"):
        log.append([batch(1)])
    assert not log.seal_and_close()


def test_an_open_that_fails_at_its_first_record_leaves_nothing_open_or_locked() -> None:
    fs = CrashFilesystem()

    def fail(operation: str, path: str) -> None:
        if operation == "datasync":
            raise ZeroDivisionError("planted")

    fs.before = fail
    with pytest.raises(ZeroDivisionError):
        open_log(fs)
    assert not fs.handles
    assert not fs.locked


def test_a_cluster_id_has_sixteen_bytes() -> None:
    """A longer one would be cut, and the log would be foreign to its own node."""
    for length in (0, 15, 17):
        with pytest.raises(ValueError, match="16 bytes"):
            LogIdentity(bytes(length), 1)


def test_a_closed_log_refuses_and_closing_it_again_does_nothing() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    log.append([batch(1)])
    assert log.seal_and_close()
    with pytest.raises(ClosedLogError):
        log.append([batch(2)])
    other, _ = open_log(fs)
    assert not log.seal_and_close()
    log.abort()
    assert fs.locked, "the lock of the one who holds it now is untouched"
    other.abort()


@pytest.mark.parametrize("operation", ["truncate", "sync", "sync_dir", "unlink"])
def test_an_open_that_fails_leaves_nothing_open_or_locked(operation: str) -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        fill_segments(log, 1, 9)
    fs.put(f"{DIRECTORY}/00000003.wal", b"\0" * 512)
    fs.before = Refusal(operation, errno.EIO)
    with pytest.raises(OSError, match="injected"):
        open_log(fs)
    assert not fs.handles
    assert not fs.locked
    fs.before = lambda operation, path: None
    assert len(reopened(fs)) == 9


def test_an_open_whose_driver_cannot_start_leaves_nothing_open_or_locked() -> None:
    def no_thread(runner: JobRunner, on_complete: OnComplete) -> StepDriver:
        raise RuntimeError("can't start new thread")

    fs = CrashFilesystem()
    with pytest.raises(RuntimeError):
        Log.open(fs, DIRECTORY, IDENTITY, OpenOptions(SMALL, no_thread))
    assert not fs.handles
    assert not fs.locked


def test_records_that_no_recovery_would_accept_are_refused_at_once() -> None:
    """Only a bug can submit them; better now than when the node cannot start any more."""
    log, _ = open_log(CrashFilesystem())
    log.append([batch(1, 3), batch(4)])

    header = batch(5).header
    wrong: Sequence[list[Record]] = [
        [batch(4)],
        [batch(6)],
        [batch(5, group=1)],
        [truncate_record(0, 6)],
        [truncate_record(0, 4), batch(5)],
        [record_of(RecordHeader(Kind.BATCH, 0, 0, 1, 5))],
        [Record(header, b"short")],
    ]
    for records in wrong:
        with pytest.raises(AssertionError):
            log.append(records)
    log.append([release_record(0, 3, 1)])
    with pytest.raises(AssertionError):
        log.append([truncate_record(0, 3)])
    assert log.append([truncate_record(0, 4), batch(4), batch(5)]).durable


@pytest.mark.parametrize(
    ("record", "behind"),
    [
        (batch(7, 3), (2, 10)),
        (truncate_record(0, 3), (2, 3)),
        (truncate_record(0, 7), (2, 7)),
        (release_record(0, 5, 1), (5, 7)),
        (release_record(0, 1, 1), (2, 7)),
        (release_record(0, 9, 1), (9, 10)),
        (hard_state_record(0, 4, 1), (2, 7)),
        (batch(6, 2), None),
        (batch(8), None),
        (truncate_record(0, 2), None),
        (truncate_record(0, 8), None),
    ],
)
def test_a_record_moves_the_bounds_that_the_next_one_must_keep(
    record: Record, behind: tuple[int, int] | None
) -> None:
    """Behind index 2 as released and 6 as the last. The committer has the batch's case inline."""
    fields = fields_of(record.header)
    if behind is None:
        with pytest.raises(AssertionError, match=r"group 0: a (batch|cut) at"):
            bounds_after(fields, 2, 7)
    else:
        assert bounds_after(fields, 2, 7) == behind
