"""The log store over the real log: memory and disk hold the same, and failures are said aloud."""

from __future__ import annotations

import errno
import gc
import os

import pytest

import node.store
from node.ports import GroupWrite
from node.raft.types import Batch, GroupId, HardState, Index, NodeId, PersistToken, Term
from node.store import SLOT_BYTES, WalStore
from tests.node.rig import batch_of, open_store
from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import DIRECTORY, SMALL, StepDriver
from wal import ClosedLogError, CorruptLogError, PoisonedLogError, SyncPolicy

GROUP = GroupId(0)
TOKEN = PersistToken(0, Term(1), NodeId(0), Index(0), Term(0))


class Desk:
    """A store over a disk by hand."""

    def __init__(self, policy: SyncPolicy = SMALL) -> None:
        self.disk = CrashFilesystem()
        self.policy = policy
        self.open()

    def open(self) -> None:
        self.store, self.driver, self.recovered = open_store(self.disk, policy=self.policy)

    def reopen(self) -> None:
        self.disk.kill()
        self.open()

    def append(self, *batches: Batch, cut: int | None = None, term: int = 0) -> int:
        from_index = None if cut is None else Index(cut)
        hard_state = HardState(Term(term), NodeId(1)) if term else None
        return self.store.append([GroupWrite(GROUP, from_index, batches, hard_state, TOKEN)])

    def sync(self) -> list[int]:
        while self.driver.pump():
            pass
        return [done.number for done in self.store.completions()]

    def body(self, base: int) -> bytes:
        return bytes(self.store.read(GROUP, Index(base)).body)

    def metas(self) -> list[tuple[int, int, int]]:
        """(term, base, count) of what recovery found."""
        found = self.recovered.get(GROUP)
        return [(m.term, m.base_index, m.count) for m in found.batches] if found else []


@pytest.fixture
def desk() -> Desk:
    return Desk()


def full(desk: Desk) -> None:
    desk.disk.capacity = sum(len(inode.seen) for inode in desk.disk.names.values())


def batches_alive() -> int:
    gc.collect()
    return sum(type(thing) is Batch for thing in gc.get_objects())


def in_memory(store: WalStore, base: int) -> bool:
    return store._groups[GROUP].by_base[base].batch is not None


# --- the ordinary life of a batch -----------------------------------------------------


def test_a_batch_can_be_read_at_once_and_counts_as_stored_only_when_the_disk_says_so(desk):
    batch = batch_of(1, 1, b"one", b"two")
    assert desk.append(batch) == 1
    assert desk.store.read(GROUP, Index(1)) is batch
    assert desk.store.completions() == []
    assert desk.store.queued_bytes > 0
    assert desk.sync() == [1]
    assert desk.store.completions() == [], "a completion is told once"
    assert desk.store.queued_bytes == 0


def test_requests_complete_in_the_order_of_their_numbers(desk):
    numbers = [desk.append(batch_of(1, index, b"x")) for index in range(1, 600)]
    assert numbers == list(range(1, 600))
    assert desk.sync() == numbers


def test_a_restart_finds_the_same_bytes_term_vote_and_metadata(desk):
    batches = [batch_of(1, 1, b"a" * 30), batch_of(2, 2, b"b", b"c"), batch_of(2, 4, b"d" * 9_000)]
    for batch in batches:
        desk.append(batch, term=batch.meta.term)
    desk.sync()
    desk.reopen()
    assert desk.metas() == [(1, 1, 1), (2, 2, 2), (2, 4, 1)]
    assert desk.recovered[GROUP].hard_state == HardState(Term(2), NodeId(1))
    for batch in batches:
        found = desk.store.read(GROUP, batch.meta.base_index)
        assert (found.meta, found.header, bytes(found.body)) == (
            batch.meta,
            batch.header,
            bytes(batch.body),
        )


def test_one_request_stores_the_parts_of_several_groups(desk):
    writes = [
        GroupWrite(
            GroupId(g), None, (batch_of(1, 1, b"%d" % g, group=g),), HardState(Term(1)), TOKEN
        )
        for g in range(5)
    ]
    desk.store.append(writes)
    syncs = desk.disk.syncs
    assert desk.sync() == [1]
    assert desk.disk.syncs == syncs + 1, "one sync for all groups"
    desk.reopen()
    for g in range(5):
        assert bytes(desk.store.read(GroupId(g), Index(1)).body).endswith(b"%d" % g)


# --- cuts -----------------------------------------------------------------------------


def test_a_cut_of_batches_that_are_still_on_their_way_to_the_disk(desk):
    desk.append(batch_of(1, 1, b"kept"))
    desk.append(batch_of(1, 2, b"lost"), batch_of(1, 3, b"lost too"))
    desk.append(batch_of(2, 2, b"new"), cut=2, term=2)
    assert desk.body(2).endswith(b"new")
    with pytest.raises(KeyError):
        desk.body(3)
    assert desk.sync() == [1, 2, 3]
    assert desk.body(2).endswith(b"new")
    desk.reopen()
    assert desk.metas() == [(1, 1, 1), (2, 2, 1)]
    assert desk.body(2).endswith(b"new")


def test_a_cut_while_the_disk_holds_half_of_it(desk):
    desk.append(batch_of(1, 1, b"kept"), batch_of(1, 2, b"old"))
    desk.sync()
    desk.append(batch_of(1, 3, b"old in flight"))
    desk.append(cut=2, term=2)
    desk.append(batch_of(2, 2, b"new"), batch_of(2, 3, b"newer"))
    desk.sync()
    assert [desk.body(base)[-5:] for base in (1, 2, 3)] == [b"\0kept", b"\0\0new", b"newer"]
    desk.reopen()
    assert desk.metas() == [(1, 1, 1), (2, 2, 1), (2, 3, 1)]


def test_a_cut_in_the_middle_of_a_long_log_leaves_what_is_before_it(desk):
    for base in range(1, 200):
        desk.append(batch_of(1, base, b"%d" % base))
    desk.append(cut=150)
    desk.sync()
    assert max(desk.store._groups[GROUP].by_base) == 149
    desk.append(batch_of(2, 150, b"new"))
    desk.sync()
    assert desk.body(149).endswith(b"149")
    assert desk.body(150).endswith(b"new")


# --- memory ---------------------------------------------------------------------------


def test_durable_batches_leave_memory_oldest_first_and_are_read_from_the_disk(desk, monkeypatch):
    monkeypatch.setattr(node.store, "CACHE_BYTES_MAX", 8 * (1_000 + SLOT_BYTES))
    for base in range(1, 21):
        desk.append(batch_of(1, base, b"%03d" % base * 300))
    assert all(in_memory(desk.store, base) for base in range(1, 21)), "not durable: not forgotten"
    desk.sync()
    kept = [base for base in range(1, 21) if in_memory(desk.store, base)]
    assert kept == list(range(14, 21)) or kept == list(range(13, 21))
    for base in range(1, 21):
        assert desk.body(base).endswith(b"%03d" % base * 300)


def test_the_memory_of_many_small_batches_is_counted_with_what_surrounds_them(desk, monkeypatch):
    """A one-byte put is a batch of 100 bytes and half a KiB of Python objects."""
    budget = 200 * (SLOT_BYTES + 69)
    monkeypatch.setattr(node.store, "CACHE_BYTES_MAX", budget)
    others = batches_alive()
    for base in range(1, 2_001):
        desk.append(batch_of(1, base, b"x"))
        if base % 100 == 0:
            desk.sync()
    assert sum(in_memory(desk.store, base) for base in range(1, 2_001)) <= 200
    assert batches_alive() - others < 320


def test_cut_batches_leave_memory_too(desk, monkeypatch):
    monkeypatch.setattr(node.store, "CACHE_BYTES_MAX", 3_000)
    others = batches_alive()
    for term in range(1, 400):
        desk.append(batch_of(term, 1, b"x" * 500), cut=1 if term > 1 else None)
        desk.sync()
    assert batches_alive() - others < 10
    assert len(desk.store._cached) < 10


# --- failures -------------------------------------------------------------------------


def fail_sync(operation: str, path: str) -> None:
    if operation == "datasync":
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def test_a_failed_fsync_is_a_failure_that_says_what_and_where(desk):
    desk.append(batch_of(1, 1, b"safe"))
    desk.sync()
    desk.disk.before = fail_sync
    desk.append(batch_of(1, 2, b"lost"))
    assert desk.sync() == []
    assert isinstance(desk.store.failure, PoisonedLogError)
    assert "00000001.wal" in str(desk.store.failure)
    with pytest.raises(PoisonedLogError):
        desk.append(batch_of(1, 3, b"refused"))


def test_completions_before_the_failure_are_told_and_none_behind_it(desk):
    desk.append(batch_of(1, 1, b"a"))
    assert desk.driver.pump()
    desk.disk.before = fail_sync
    desk.append(batch_of(1, 2, b"b"))
    desk.append(batch_of(1, 3, b"c"))
    assert desk.sync() == [1]
    assert desk.store.failure is not None


def test_a_failure_of_the_logs_own_records_is_a_failure(desk):
    desk.sync()
    desk.reopen()
    desk.disk.before = fail_sync  # the OPEN record of this start is not written yet
    assert desk.sync() == []
    assert isinstance(desk.store.failure, PoisonedLogError)


def test_damage_on_the_disk_is_found_when_a_batch_is_read(desk, monkeypatch):
    monkeypatch.setattr(node.store, "CACHE_BYTES_MAX", 0)
    desk.append(batch_of(1, 1, b"precious"))
    desk.sync()
    segment = f"{DIRECTORY}/00000001.wal"
    desk.disk.flip(segment, desk.disk.read(segment).index(b"precious"))
    with pytest.raises(CorruptLogError, match=r"00000001\.wal, byte"):
        desk.body(1)


def test_what_waits_when_the_log_is_closed_is_told_as_a_failure(desk):
    desk.append(batch_of(1, 1, b"a"))
    desk.driver.close = lambda: None  # the thread takes nothing any more
    desk.store.log.abort()
    assert desk.store.completions() == []
    assert isinstance(desk.store.failure, ClosedLogError)


# --- a full disk ----------------------------------------------------------------------


def test_a_full_disk_is_not_a_failure_and_everything_queued_is_stored_when_space_returns(desk):
    desk.append(batch_of(1, 1, b"a" * 5_000))
    desk.sync()
    full(desk)
    for base in range(2, 6):
        desk.append(batch_of(1, base, b"b" * 9_000))
    desk.sync()
    assert desk.store.disk_full
    assert desk.store.failure is None
    assert desk.body(1).endswith(b"a" * 5_000), "reads go on"
    assert desk.body(5).endswith(b"b" * 9_000)
    desk.disk.capacity = None
    desk.store.log.retry()
    assert desk.sync()
    assert not desk.store.disk_full
    desk.reopen()
    assert [base for _, base, _ in desk.metas()] == [1, 2, 3, 4, 5]


def test_a_disk_stays_full_until_something_was_stored_and_not_just_tried(desk):
    """A retry takes milliseconds to fail: a write taken in meanwhile would wait without an end."""
    desk.append(batch_of(1, 1, b"a" * 5_000))
    desk.sync()
    full(desk)
    desk.append(batch_of(1, 2, b"b" * 60_000))
    desk.sync()
    assert desk.store.disk_full
    desk.store.log.retry()
    assert desk.store.disk_full, "tried, but nothing is stored yet"
    desk.sync()
    desk.disk.capacity = None
    desk.store.log.retry()
    assert desk.store.disk_full
    assert desk.sync() == [2]
    assert not desk.store.disk_full


def test_a_disk_that_was_full_for_the_logs_own_work_only_is_not_full_for_ever(desk):
    """Nothing of ours waits, so no completion will come: the log's own word counts."""
    desk.append(batch_of(1, 1, b"a"))
    desk.sync()
    desk.store.log._committer.state = type(desk.store.log._committer.state).FULL
    assert desk.store.disk_full
    desk.store.log.retry()
    assert not desk.store.disk_full


def test_the_driver_of_this_file_is_the_one_by_hand(desk):
    assert isinstance(desk.driver, StepDriver)


# --- what pins segments, and moves ----------------------------------------------------

QUIET = GroupId(7)
FIRST = range(1, 4)


def quiet_and_busy(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group 7 says three things; then group 0 fills several segments. Nothing stays in memory."""
    monkeypatch.setattr(node.store, "CACHE_BYTES_MAX", 0)
    batches = tuple(batch_of(1, base, b"quiet %d" % base, group=QUIET) for base in FIRST)
    desk.store.append([GroupWrite(QUIET, None, batches, HardState(Term(1)), TOKEN)])
    keep_busy(desk, 1)


def keep_busy(desk: Desk, first: int) -> None:
    for base in range(first, first + 30):
        desk.append(batch_of(1, base, b"x" * 9_000))
    desk.sync()


def move(desk: Desk, *bases: int) -> None:
    desk.store.append_again(QUIET, [Index(base) for base in bases])


def quiet_bodies(desk: Desk) -> list[bytes]:
    return [bytes(desk.store.read(QUIET, Index(base)).body)[-1:] for base in FIRST]


def test_a_group_pins_the_segments_behind_its_oldest_batch_until_that_moves(desk, monkeypatch):
    assert desk.store.pinned_segments(QUIET) == 0
    quiet_and_busy(desk, monkeypatch)
    head = desk.store.log.head_number
    assert head > 4
    assert desk.store.pinned_segments(QUIET) == head - 1
    move(desk, 1, 2)
    assert desk.store.copying
    desk.sync()
    assert not desk.store.copying
    assert desk.store.pinned_segments(QUIET) == head - 1, "one batch is still there"
    move(desk, 3)
    desk.sync()
    assert desk.store.pinned_segments(QUIET) == 0
    assert quiet_bodies(desk) == [b"1", b"2", b"3"]
    desk.reopen()
    assert desk.store.pinned_segments(QUIET) == 0
    assert quiet_bodies(desk) == [b"1", b"2", b"3"]


def test_a_batch_is_readable_while_the_log_gives_back_where_it_lay(desk, monkeypatch):
    """The log's own thread may be done with the old segment before the main thread knows."""
    quiet_and_busy(desk, monkeypatch)
    desk.store.release(GROUP, Index(30), Term(1))
    desk.sync()
    assert desk.store.log.stats().segments > 4
    move(desk, 1, 2, 3)
    while desk.driver.pump():
        pass
    assert desk.store.log.stats().segments == 1
    assert desk.store.copying, "not told yet"
    assert quiet_bodies(desk) == [b"1", b"2", b"3"]
    assert desk.store.completions() == [], "a copy has no number"
    assert quiet_bodies(desk) == [b"1", b"2", b"3"]
    assert all(slot.batch is None for slot in desk.store._groups[QUIET].by_base.values())


def test_what_is_in_the_head_or_not_durable_is_not_copied(desk, monkeypatch):
    quiet_and_busy(desk, monkeypatch)
    move(desk, 1, 2, 3)
    desk.sync()
    copied = desk.store.log.stats().bytes_copied
    assert copied > 0
    fresh = batch_of(1, 4, b"fresh", group=QUIET)
    desk.store.append([GroupWrite(QUIET, None, (fresh,), None, TOKEN)])
    move(desk, 1, 2, 3, 4, 5)
    assert not desk.store.copying
    desk.sync()
    assert desk.store.log.stats().bytes_copied == copied


def test_a_cut_and_a_release_overtake_a_copy(desk, monkeypatch):
    quiet_and_busy(desk, monkeypatch)
    move(desk, 1, 2, 3)
    desk.store.append([GroupWrite(QUIET, Index(3), (), None, TOKEN)])
    desk.store.release(QUIET, Index(1), Term(1))
    desk.sync()
    assert desk.store.pinned_segments(QUIET) == 0
    keep_busy(desk, 31)
    pinned = desk.store.pinned_segments(QUIET)
    assert pinned > 0, "batch 2 lives"
    new = batch_of(2, 3, b"new", group=QUIET)
    desk.store.append(
        [GroupWrite(QUIET, Index(2), (batch_of(2, 2, b"n", group=QUIET), new), None, TOKEN)]
    )
    desk.sync()
    assert desk.store.pinned_segments(QUIET) == 0
    desk.reopen()
    assert [meta.term for meta in desk.recovered[QUIET].batches] == [2, 2]


def test_a_copy_keeps_what_was_in_memory_there(desk):
    batches = tuple(batch_of(1, base, b"quiet %d" % base, group=QUIET) for base in FIRST)
    desk.store.append([GroupWrite(QUIET, None, batches, None, TOKEN)])
    keep_busy(desk, 1)
    move(desk, 1, 2, 3)
    desk.sync()
    assert desk.store.read(QUIET, Index(2)) is batches[1]
    assert desk.store.pinned_segments(QUIET) == 0


def test_a_batch_that_moves_is_not_forgotten_half_way(desk, monkeypatch):
    batches = tuple(batch_of(1, base, b"quiet %d" % base, group=QUIET) for base in FIRST)
    desk.store.append([GroupWrite(QUIET, None, batches, None, TOKEN)])
    keep_busy(desk, 1)
    desk.store.release(GROUP, Index(30), Term(1))
    move(desk, 1, 2, 3)
    monkeypatch.setattr(node.store, "CACHE_BYTES_MAX", 0)
    assert desk.store.completions() == []
    while desk.driver.pump():
        pass
    assert quiet_bodies(desk) == [b"1", b"2", b"3"]
    desk.store.completions()
    assert all(slot.batch is None for slot in desk.store._groups[QUIET].by_base.values())
    assert quiet_bodies(desk) == [b"1", b"2", b"3"]


def test_damage_is_found_by_moving(desk, monkeypatch):
    quiet_and_busy(desk, monkeypatch)
    segment = f"{DIRECTORY}/00000001.wal"
    desk.disk.flip(segment, desk.disk.read(segment).index(b"quiet 2"))
    with pytest.raises(CorruptLogError, match=r"00000001\.wal, byte"):
        move(desk, 1, 2, 3)
    assert not desk.store.copying
