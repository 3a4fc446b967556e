"""When a group is snapshotted, and what becomes of a tail that nobody adds to."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from node.assembly import Member, Ports, assemble
from node.compaction import CompactionPolicy, Compactor
from node.config import NodeConfig
from node.raft.messages import Append, AppendReply, Heartbeat, Vote, VoteReply
from node.raft.types import Batch, GroupId, HardState, Index, NodeId, Role, Term
from node.snapshots import SnapshotStore
from node.status import wal_snapshot
from tests.node.rig import CLUSTER, MS, SESSION, Node, batch_of, open_store, put_entry
from tests.wal.support import SMALL
from wal import LogIdentity, SegmentIO, hard_state_record

LEADER = NodeId(2)
ME = NodeId(1)
BUSY = GroupId(0)
SEGMENT = SMALL.segment_bytes
SNAPSHOTS = "/snap"
NEVER = 1 << 40
EAGER = CompactionPolicy(log_bytes_min=SEGMENT, trailing_bytes=SEGMENT, look_ns=0)

ANY_CONFIG = cast(NodeConfig, None)  # the log's part of a status does not look at it


class Inline:
    """A snapshot's thread that is done at once."""

    def __init__(self, io: SegmentIO) -> None:
        self.io = io

    def run(self, operations, done) -> None:
        for operation in operations:
            self.io.perform(operation)
        if done is not None:
            done(None)

    def close(self) -> None:
        self.io.close()


class Follower(Node):
    """Node 1 of three, by hand: the others are this test. It has snapshots."""

    def __init__(self, groups: int, policy: CompactionPolicy) -> None:
        self.compaction = policy
        self.last: dict[GroupId, tuple[int, int]] = {}
        """Group → (last index, its term), as the leader knows."""
        super().__init__(1, voters=3, groups=groups)

    def boot(self) -> None:
        super().boot()
        self.disk.kill()
        self.store, self.driver, stored = open_store(self.disk, self.number, self.policy)
        snapshots = SnapshotStore(
            self.disk,
            SNAPSHOTS,
            LogIdentity(CLUSTER, self.number),
            Inline(SegmentIO(self.disk, SNAPSHOTS)),
            lambda: None,
        )
        member = Member(self.number, self.voters, 1, self.group_count, compaction=self.compaction)
        ports = Ports(self.clock, self.wire, self.store, self.replies, snapshots)
        self.multi = assemble(member, stored, ports)

    @property
    def compactor(self) -> Compactor:
        assert self.multi.compactor is not None
        return self.multi.compactor

    def vote(self, group: GroupId, term: int) -> None:
        last, last_term = self.last.get(group, (0, 0))
        vote = Vote(group, LEADER, ME, Term(term), Index(last), Term(last_term))
        sent = self.turn(vote)
        self.sync()
        sent += self.turn()
        assert [m.granted for m in sent if isinstance(m, VoteReply)] == [True]

    def append(self, group: GroupId, term: int, *entries: bytes, release: bool = True) -> Batch:
        """Store and commit one batch from the leader; every voter has it then."""
        last, last_term = self.last.get(group, (0, 0))
        batch = batch_of(term, last + 1, *entries, group=group)
        end = batch.meta.last_index
        self.last[group] = (end, term)
        self.turn(
            Append(
                group, LEADER, ME, Term(term), Index(last), Term(last_term), Index(last), (batch,)
            )
        )
        self.sync()
        released = Index(end if release else 0)
        self.turn(Heartbeat(group, LEADER, ME, Term(term), Index(end), 0, released))
        self.rest()
        return batch

    def keep_busy(self, segments: int, size: int = 4_000) -> None:
        """Let group 0 write until so many segments have begun."""
        until = self.store.log.head_number + segments
        while self.store.log.head_number < until:
            self.clock.now += MS
            self.append(BUSY, 1, put_entry(1, 1, b"k", b"x" * size))


@pytest.fixture
def follower() -> Follower:
    node = Follower(2, EAGER)
    node.append(BUSY, 1, SESSION)
    return node


QUIET = GroupId(1)


def headers(node: Follower, group: GroupId) -> list[bytes]:
    log = node.multi.groups[group].core.log
    return [node.store.read(group, meta.base_index).header for meta in log.batches]


def test_a_quiet_tail_moves_and_the_segments_behind_it_are_used_again(follower: Follower) -> None:
    follower.vote(QUIET, 5)
    said = [follower.append(QUIET, 5, SESSION).header for _ in range(3)]
    pinned = 0
    for _ in range(12):
        follower.keep_busy(1)
        pinned = max(pinned, follower.store.pinned_segments(QUIET))
    stats = follower.store.log.stats()
    assert pinned == EAGER.pinned_segments_max, "then it moves"
    assert stats.segments <= EAGER.pinned_segments_max + 1
    assert stats.segments_recycled >= 5
    assert 0 < stats.bytes_copied <= 3 * 3 * 200, "once per five segments"
    assert follower.multi.groups[QUIET].snapshot_index == 0, "nothing was to be snapshotted"
    assert headers(follower, QUIET) == said


def test_the_metrics_tell_what_was_released_recycled_and_copied(follower: Follower) -> None:
    follower.append(QUIET, 1, SESSION)
    follower.keep_busy(8)
    stats = follower.store.log.stats()
    told = wal_snapshot(follower.store)
    assert (told.released, told.recycled, told.bytes_copied) == (
        stats.segments_released,
        stats.segments_recycled,
        stats.bytes_copied,
    )
    assert min(told.released, told.recycled, told.bytes_copied) > 0


def test_a_tail_that_a_voter_still_needs_moves_and_is_served_from_its_new_place(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.store.CACHE_BYTES_MAX", 0)
    said = [follower.append(QUIET, 1, b"?" * 500, release=False).header for _ in range(8)]
    follower.keep_busy(7)
    assert follower.store.log.stats().bytes_copied > 8 * 500
    assert headers(follower, QUIET) == said
    follower.boot()
    assert headers(follower, QUIET) == said
    assert follower.store.pinned_segments(QUIET) <= EAGER.pinned_segments_max


def test_a_group_whose_snapshot_frees_more_than_it_writes_is_snapshotted_early() -> None:
    """It would not be due: its log has not grown by `log_bytes_min`."""
    policy = replace(EAGER, log_bytes_min=3 * SEGMENT, trailing_bytes=1_000)
    node = Follower(2, policy)
    node.append(BUSY, 1, SESSION)
    node.append(QUIET, 1, SESSION)
    for _ in range(20):
        node.append(QUIET, 1, put_entry(1, 1, b"one key", b"x" * 1_000))
    assert node.multi.groups[QUIET].snapshot_index == 0
    node.keep_busy(6)
    quiet = node.multi.groups[QUIET]
    assert quiet.snapshot_index == 21
    assert quiet.core.log.bytes < 3_000, "the trailing bytes are left, and moved"
    assert node.store.log.stats().bytes_copied < 4_000


def test_a_tail_larger_than_what_a_group_may_pin_is_not_copied(follower: Follower) -> None:
    """It is held for a voter that lags, so no snapshot frees it: it waits."""
    follower.keep_busy(1)
    while follower.multi.groups[QUIET].core.log.bytes <= 4 * SEGMENT:
        follower.append(QUIET, 1, b"?" * 20_000, release=False)
    follower.keep_busy(10)
    assert follower.store.pinned_segments(QUIET) > 10
    assert follower.store.log.stats().bytes_copied == 0


def test_tails_that_fill_what_one_group_may_pin_do_not_chase_each_other(
    follower: Follower,
) -> None:
    """Four groups of three segments each: copying one pushes the others out, without an end."""
    node = Follower(5, replace(EAGER, trailing_bytes=NEVER))
    node.append(BUSY, 1, SESSION)
    for number in range(1, 5):
        group = GroupId(number)
        while node.multi.groups[group].core.log.bytes <= 3 * SEGMENT:
            node.append(group, 1, b"?" * 9_000)  # it comes to rest after each
    before = node.store.log.stats().bytes_copied
    for _ in range(100):
        node.turn()
        node.sync()
    assert node.store.log.stats().bytes_copied == before


def test_a_tail_moves_in_slices_one_per_sync(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.compaction.COPY_BYTES_MAX", 2_000)
    for _ in range(10):
        follower.append(QUIET, 1, b"?" * 900)
    compaction = replace(EAGER, pinned_segments_max=NEVER)
    follower.compactor._policy = compaction
    follower.keep_busy(6)
    follower.compactor._policy = EAGER
    sizes = []
    for _ in range(40):
        follower.turn()
        assert follower.compactor.busy is (
            bool(follower.compactor._copies) and not follower.store.copying
        )
        before = follower.store.log.stats().bytes_copied
        follower.sync()
        sizes.append(follower.store.log.stats().bytes_copied - before)
    sizes = [size for size in sizes if size]
    assert len(sizes) == 5
    assert max(sizes) <= 2_300
    assert follower.store.pinned_segments(QUIET) == 0


def test_a_tail_that_is_cut_or_released_while_it_moves_ends_the_move(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.compaction.COPY_BATCHES_MAX", 1)
    for index in range(6):
        follower.append(QUIET, 1, b"?" * 900, release=index < 3)
    uncommitted = batch_of(1, 7, b"a", b"b", group=QUIET)
    follower.turn(Append(QUIET, LEADER, ME, Term(1), Index(6), Term(1), Index(6), (uncommitted,)))
    follower.compactor._policy = replace(EAGER, pinned_segments_max=NEVER)
    follower.keep_busy(6)
    follower.compactor._policy = EAGER
    follower.turn()
    assert follower.store.copying
    quiet = follower.multi.groups[QUIET]
    follower.compactor._policy = replace(EAGER, trailing_bytes=0)
    while not quiet.core.log.start.index:
        follower.turn()
    assert quiet.core.log.start.index == 3
    assert follower.compactor._copies
    wider = batch_of(2, 7, b"c", b"d", b"e", b"f", group=QUIET)
    follower.turn(Append(QUIET, NodeId(3), ME, Term(2), Index(6), Term(1), Index(6), (wider,)))
    follower.rest()
    assert follower.store.pinned_segments(QUIET) == 0
    assert [meta.last_index for meta in quiet.core.log.batches] == [4, 5, 6, 10]


def test_nothing_is_copied_while_the_disk_is_full(follower: Follower) -> None:
    follower.append(QUIET, 1, SESSION)
    follower.compactor._policy = replace(EAGER, pinned_segments_max=NEVER)
    follower.keep_busy(6)
    follower.compactor._policy = EAGER
    follower.store._starved = True
    core = follower.multi.groups[BUSY].core
    waiting = hard_state_record(BUSY, core.term, core.vote)  # as long as it waits, the disk is full
    follower.store.log.append([waiting])
    follower.turn()
    assert follower.compactor._copies
    assert not follower.compactor.busy
    assert not follower.store.copying
    follower.rest()
    assert follower.store.pinned_segments(QUIET) == 0


def test_one_busy_group_and_63_idle_ones_over_20_segments() -> None:
    """Segments are released all the time; what the idle groups promised and hold survives."""
    node = Follower(64, EAGER)
    node.append(BUSY, 1, SESSION)
    idle = [GroupId(number) for number in range(1, 64)]
    held: dict[GroupId, list[bytes]] = {}
    for group in idle:
        node.vote(group, 10 + group)
        if group % 3:
            batches = [node.append(group, 10 + group, SESSION) for _ in range(group % 3)]
            held[group] = [batch.header for batch in batches]
    for _ in range(10):
        node.keep_busy(2)
        assert node.store.log.stats().segments <= EAGER.pinned_segments_max + 4
    stats = node.store.log.stats()
    assert stats.segments_released >= 20 - EAGER.pinned_segments_max
    assert stats.segments_recycled >= 8
    for _ in range(2):
        node.boot()
        for group in idle:
            core = node.multi.groups[group].core
            assert core.durable_hard_state == HardState(Term(10 + group), LEADER), group
            assert (core.term, core.vote, core.role) == (10 + group, LEADER, Role.FOLLOWER)
            assert headers(node, group) == held.get(group, []), group
        assert node.multi.groups[BUSY].applied > 100
        other = Vote(idle[0], NodeId(3), ME, Term(11), Index(99), Term(11))
        node.turn(other)
        node.sync()
        replies = [
            m for m in (*node.wire.take(VoteReply), *node.turn()) if isinstance(m, VoteReply)
        ]
        assert [m.granted for m in replies] == [False], "it voted in this term already"
        assert not node.wire.take(AppendReply)
