"""The turn of a node: its order of duties, its bounds, its patience. See `node.multiraft`."""

from __future__ import annotations

import errno
import os

import pytest

import node.multiraft
from node.codec import WireError
from node.limits import FORGET_JITTER_NS, LATE_MESSAGES_MAX, LATE_TURN_NS
from node.raft.messages import Append, AppendReply, Heartbeat, PreVote, Vote
from node.raft.types import GroupId, Index, NodeId, Role, Term
from tests.node.rig import (
    GROUP,
    MS,
    SESSION,
    Cluster,
    Node,
    batch_of,
    over_the_wire,
    write_of,
)
from wal import PoisonedLogError


@pytest.fixture
def three() -> Cluster:
    """Three nodes; 1 leads, and everything is applied everywhere."""
    cluster = Cluster(3)
    cluster.elect(1)
    return cluster


@pytest.fixture
def follower() -> Node:
    """Node 2 of three; the test speaks for the others."""
    return Node(2, voters=3)


def append_to(
    to: int,
    *batches,
    term: int = 1,
    prev: tuple[int, int] = (0, 0),
    commit: int = 0,
    group: int = 0,
) -> Append:
    index, prev_term = prev
    return Append(
        GroupId(group), NodeId(1), NodeId(to), Term(term), Index(index), Term(prev_term),
        Index(commit), batches,
    )  # fmt: skip


def beat_to(to: int, term: int = 1, commit: int = 0) -> Heartbeat:
    return Heartbeat(GROUP, NodeId(1), NodeId(to), Term(term), Index(commit), 0)


def acks(messages) -> list[int]:
    return [m.index for m in messages if isinstance(m, AppendReply) and m.ok]


# --- storage and messages -------------------------------------------------------------


def test_an_append_leaves_before_the_leaders_own_disk_has_written(three):
    leader = three[1]
    leader.runtime.write(write_of(SESSION))
    sent = leader.turn()
    assert {m.to for m in sent if isinstance(m, Append)} == {2, 3}
    assert leader.store.queued_bytes > 0


def test_an_ack_waits_for_the_fsync_of_what_it_acknowledges(follower):
    sent = follower.turn(append_to(2, batch_of(1, 1, b"x")))
    assert acks(sent) == []
    assert follower.turn() == []
    follower.sync()
    assert acks(follower.turn()) == [1]


def test_an_ack_that_stores_nothing_waits_for_what_is_in_flight(follower):
    """A repeated Append is acknowledged behind the fsync of its first copy, not before."""
    batch = batch_of(1, 1, b"x")
    follower.turn(append_to(2, batch))
    assert acks(follower.turn(append_to(2, batch))) == []
    follower.sync()
    assert set(acks(follower.turn())) == {1}


def test_a_vote_leaves_behind_its_fsync(follower):
    vote = Vote(GROUP, NodeId(1), NodeId(2), Term(4), Index(0), Term(0))
    assert follower.turn(vote) == []
    follower.sync()
    [reply] = follower.turn()
    assert (reply.granted, reply.term) == (True, 4)  # type: ignore[union-attr]  # a vote reply


def test_all_groups_of_a_turn_are_one_request_to_the_log():
    node = Node(2, voters=3, groups=8)
    appends = [append_to(2, batch_of(1, 1, b"x", group=g), group=g) for g in range(8)]
    syncs = node.disk.syncs
    node.turn(*appends)
    node.sync()
    assert sorted(m.group for m in node.turn() if isinstance(m, AppendReply)) == list(range(8))
    assert node.disk.syncs == syncs + 1, "one for all of them, and the log's first record"


def test_a_put_reaches_every_log_byte_for_byte(three):
    leader = three[1]
    leader.runtime.write(write_of(SESSION, b"", b"any bytes"))
    three.settle()
    three.nodes[1].clock.now += 60 * MS
    three.settle()
    last = leader.core.log.batches[-1]
    copies = {
        (batch.header, bytes(batch.body))
        for node in three.nodes.values()
        for batch in [node.store.read(GROUP, last.base_index)]
    }
    assert len(copies) == 1
    assert {node.core.commit for node in three.nodes.values()} == {last.last_index}


def test_a_poisoned_log_ends_the_turn_before_anything_is_promised(follower):
    follower.turn(append_to(2, batch_of(1, 1, b"x")))

    def fail(operation, path):
        if operation == "datasync":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    follower.disk.before = fail
    follower.sync()
    assert acks(follower.turn()) == []
    assert isinstance(follower.store.failure, PoisonedLogError)
    with pytest.raises(PoisonedLogError):
        follower.turn(append_to(2, batch_of(1, 2, b"y"), prev=(1, 1)))
    assert acks(follower.wire.sent) == []


# --- what must not reach a log --------------------------------------------------------


def test_a_message_for_a_group_that_is_not_here_is_dropped_and_counted(follower):
    follower.turn(append_to(2, batch_of(1, 1, b"x", group=5), group=5))
    assert follower.multi.dropped == 1
    assert follower.core.log.last_index == 0


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([batch_of(1, 2, b"x")], id="a gap behind prev"),
        pytest.param([batch_of(1, 1, b"x"), batch_of(1, 3, b"y")], id="a gap between batches"),
        pytest.param([batch_of(1, 1, b"x", b"y"), batch_of(1, 2, b"z")], id="an overlap"),
        pytest.param([batch_of(1, 1, b"x"), batch_of(1, 1, b"x")], id="the same one twice"),
        pytest.param([batch_of(2, 1, b"x"), batch_of(1, 2, b"y")], id="a term that falls"),
        pytest.param([batch_of(9, 1, b"x")], id="a term above the leader's"),
        pytest.param([batch_of(1, 1, b"x"), batch_of(9, 2, b"y")], id="one above, behind"),
    ],
)
def test_batches_that_are_no_piece_of_a_log_change_nothing(follower, batches):
    follower.turn(append_to(2, *batches, term=3, commit=9))
    follower.rest()
    assert (follower.core.log.last_index, follower.core.commit) == (0, 0)
    assert acks(follower.wire.sent) == []
    follower.turn(append_to(2, batch_of(3, 1, b"good"), term=3))
    follower.rest()
    assert acks(follower.wire.sent) == [1], "and the node goes on"


def test_a_damaged_batch_is_stopped_at_the_edge(three):
    leader = three[1]
    leader.runtime.write(write_of(SESSION))
    [append, _] = [m for m in leader.turn() if isinstance(m, Append)]
    [batch] = append.batches
    damaged = type(batch)(batch.meta, 0, batch.header, bytes(batch.body)[:-1] + b"?")  # type: ignore[union-attr]  # a full batch
    broken = Append(*[getattr(append, n) for n in append.__slots__[:-1]], (damaged,))  # type: ignore[attr-defined]  # a slotted dataclass
    with pytest.raises(WireError, match="CRC"):
        over_the_wire(broken)


def test_a_log_with_too_much_queued_takes_no_batches_but_hears_its_leader(follower, monkeypatch):
    """The log itself would refuse at twice as much, and the node would end."""
    monkeypatch.setattr(node.multiraft, "QUEUED_BYTES_MAX", 50_000)
    body = b"x" * 60_000
    follower.turn(append_to(2, batch_of(1, 1, body)))
    deadline = follower.multi.next_deadline
    follower.clock.now += 1 * MS
    follower.turn(append_to(2, batch_of(1, 2, body), prev=(1, 1)), beat_to(2))
    assert follower.core.log.last_index == 1
    assert follower.multi.dropped == 1
    assert follower.multi.next_deadline != deadline, "the heartbeat counts"
    follower.sync()
    follower.turn()
    follower.turn(append_to(2, batch_of(1, 2, body), prev=(1, 1)))
    assert follower.core.log.last_index == 2


def test_what_waits_for_a_stalled_disk_is_bounded_and_the_newest_is_kept(follower, monkeypatch):
    """One answer per heartbeat, for hours: they once all waited in memory."""
    batch = batch_of(1, 1, b"x")
    follower.turn(append_to(2, batch))
    for _ in range(LATE_MESSAGES_MAX + 50):
        follower.turn(append_to(2, prev=(1, 1)))
    waiting = sum(len(stored.messages) for stored in follower.multi._in_flight)
    assert waiting == LATE_MESSAGES_MAX
    assert follower.multi.dropped == 51
    follower.sync()
    assert len(acks(follower.turn())) == LATE_MESSAGES_MAX


# --- applying -------------------------------------------------------------------------


def loaded(groups: int, batches: int) -> Node:
    """A node whose groups all have so many committed batches to apply, and have applied none."""
    node = Node(2, voters=3, groups=groups)
    for group in node.multi.groups.values():
        group.held, group.apply_next = group.apply_next, lambda: False  # type: ignore[attr-defined, method-assign]  # until all is committed
    for g in range(groups):
        pieces = [batch_of(1, base, b"x", group=g) for base in range(1, batches + 1)]
        node.turn(append_to(2, *pieces, group=g, commit=batches))
    node.sync()
    node.turn()
    for group in node.multi.groups.values():
        group.apply_next = group.held  # type: ignore[attr-defined, method-assign]  # as it was
        assert (group.applied, group.core.commit) == (0, batches)
    return node


def applied(node: Node) -> list[int]:
    return [group.applied for group in node.multi.groups.values()]


def test_a_slice_ends_when_its_time_is_over_however_many_groups_wait():
    """Every group once got its batch in every turn: 1,024 of them, late or not."""
    node = loaded(groups=50, batches=3)
    node.clock.step = 1 * MS
    node.turn(apply_ns=5 * MS)
    assert 1 <= sum(applied(node)) <= 6
    assert node.multi.has_backlog


def test_groups_take_turns_within_a_slice_and_across_slices():
    node = loaded(groups=7, batches=4)
    node.clock.step = 1 * MS
    turns = 0
    while node.multi.has_backlog:
        node.turn(apply_ns=3 * MS)
        turns += 1
        counts = applied(node)
        assert max(counts) - min(counts) <= 1, "no group is ahead of another by more than a batch"
    assert applied(node) == [4] * 7
    assert turns >= 7


def test_a_slice_of_no_time_still_makes_progress():
    node = loaded(groups=2, batches=2)
    for done in range(1, 5):
        node.turn(apply_ns=0)
        assert sum(applied(node)) == done
    assert not node.multi.has_backlog


def test_a_node_with_nothing_to_apply_has_no_backlog_and_may_wait(three):
    for node in three.nodes.values():
        assert not node.multi.has_backlog
        assert node.multi.next_deadline > node.clock.now


def test_only_whole_batches_that_are_committed_are_applied(follower):
    follower.turn(append_to(2, batch_of(1, 1, b"a"), batch_of(1, 2, b"b", b"c"), commit=1))
    follower.rest()
    assert follower.runtime.applied == 1
    follower.turn(beat_to(2, commit=3))
    follower.rest()
    assert follower.runtime.applied == 3


# --- time -----------------------------------------------------------------------------


def test_a_follower_that_slept_with_a_heartbeat_in_its_inbox_does_not_campaign(three):
    follower = three[2]
    follower.turn(beat_to(2))
    follower.clock.now += 5_000 * MS
    sent = follower.turn(beat_to(2))
    assert follower.core.role is Role.FOLLOWER
    assert not [m for m in sent if isinstance(m, PreVote)]


def test_a_follower_that_slept_gives_its_leader_time_to_be_heard_and_then_campaigns(three):
    follower = three[2]
    follower.turn(beat_to(2))
    follower.clock.now += 5_000 * MS
    assert not [m for m in follower.turn() if isinstance(m, PreVote)]
    grace = follower.multi.next_deadline - follower.clock.now
    assert 0 < grace <= follower.core.config.election_ns_min
    follower.clock.now = follower.multi.next_deadline
    assert [m.to for m in follower.turn() if isinstance(m, PreVote)] == [1, 3]


def test_a_turn_that_is_not_late_forgives_nothing(three):
    follower = three[2]
    follower.turn(beat_to(2))
    follower.clock.now = follower.multi.next_deadline + LATE_TURN_NS
    assert [m for m in follower.turn() if isinstance(m, PreVote)]


def test_one_that_is_always_late_still_campaigns(three):
    """The sleeper's patience is granted once per timer, or a slow machine would never elect."""
    follower = three[2]
    follower.turn(beat_to(2))
    sent = []
    for _ in range(3):
        follower.clock.now = follower.multi.next_deadline + 100 * MS
        sent += follower.turn()
    assert [m for m in sent if isinstance(m, PreVote)]


def test_a_long_turn_before_is_not_lateness_of_ours(three):
    """What counts is when the turn was due, and it was not due before the last one ended."""
    follower = three[2]
    follower.turn(beat_to(2))
    deadline = follower.multi.next_deadline
    follower.clock.now = deadline - 1
    follower.turn()
    follower.clock.now = deadline + LATE_TURN_NS
    assert [m for m in follower.turn() if isinstance(m, PreVote)]


def test_a_leader_that_slept_does_not_depose_itself_before_it_has_listened(three):
    leader = three[1]
    leader.clock.now += 3_000 * MS
    leader.turn()
    assert leader.core.role is Role.LEADER
    leader.pass_time(2 * leader.core.config.election_ns_max)
    assert leader.core.role is Role.FOLLOWER, "nobody answered"


# --- a dead peer ----------------------------------------------------------------------


def test_followers_of_a_dead_process_campaign_within_the_jitter(three):
    follower = three[2]
    now = follower.clock.now
    follower.multi.peer_lost(NodeId(1), now, FORGET_JITTER_NS)
    assert follower.core.leader == 0
    assert now <= follower.multi.next_deadline <= now + FORGET_JITTER_NS
    follower.clock.now = follower.multi.next_deadline
    assert [m for m in follower.turn() if isinstance(m, PreVote)]


def test_the_loss_of_somebody_else_changes_nothing(three):
    follower, leader = three[2], three[1]
    before = follower.multi.next_deadline
    follower.multi.peer_lost(NodeId(3), follower.clock.now, FORGET_JITTER_NS)
    leader.multi.peer_lost(NodeId(2), leader.clock.now, FORGET_JITTER_NS)
    assert (follower.core.leader, follower.multi.next_deadline) == (1, before)
    assert leader.core.role is Role.LEADER


def test_the_others_elect_a_new_leader_when_told_of_the_old_ones_death(three):
    three.cut = {1}
    for n in (2, 3):
        three[n].multi.peer_lost(NodeId(1), three[n].clock.now, FORGET_JITTER_NS)
    first = min((2, 3), key=lambda n: three[n].multi.next_deadline)
    three[first].clock.now = three[first].multi.next_deadline
    three[first].turn()
    three.settle()
    assert three[first].core.role is Role.LEADER
    three[first].runtime.write(write_of(SESSION))
    three.settle()
    assert three[first].core.commit == three[first].core.log.last_index
