"""The follower's half of replication: Raft §5.3, commit rules, and what waits for its disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.raft.messages import Append, AppendReply, HeartbeatReply
from node.raft.types import HardState, Index, NodeId, Role, Term
from tests.node.raft.kit import START, Cluster, Disk, Node, make_batch, make_config, make_log
from tests.node.raft.letters import (
    ack,
    append,
    head,
    heartbeat,
    heartbeat_reply,
    refusal,
    vote,
    vote_reply,
)
from tests.node.raft.lone import make_node

TO_ME = (2, 1)
TO_LEADER = (1, 2)


def make_follower(log: tuple[int, ...] = (), term: int = 0) -> Node:
    return make_node(term=term, log=log)


def terms_of(node: Node) -> list[int]:
    return [batch.meta.term for batch in node.memory.values()]


def test_a_matching_append_is_stored_and_acknowledged_once_durable():
    """Raft §5.3 and figure 2; scenarios 30 and 58."""
    node = make_follower((1,))
    node.core.step(append(TO_ME, 1, (1, 1), [1, 1]), START)
    assert node.take(START) == []
    assert node.ready.append == (make_batch(1, 2), make_batch(1, 3))
    assert node.core.log.last_index == 3
    assert node.core.durable_index == 1
    assert node.persist(START) == [ack(TO_LEADER, 1, 3)]
    assert node.core.durable_index == 3


@pytest.mark.parametrize(
    ("prev", "hint"),
    [
        ((9, 3), (4, 2)),  # too short: from our end
        ((4, 3), (3, 2)),  # conflicting term: below it
        ((4, 1), (2, 1)),  # skip the whole of our term 2, which the leader does not have
        ((3, 1), (2, 1)),
    ],
)
def test_a_mismatch_is_refused_with_a_hint(prev, hint):
    """Raft §5.3 (fast back-up); scenarios 30 and 33. Nothing is stored or cut."""
    node = make_follower((1, 1, 2, 2))
    node.core.step(append(TO_ME, 3, prev, [3]), START)
    node.take(START)
    assert node.ready.append == ()
    assert node.ready.truncate_from is None
    assert node.persist(START) == [refusal(TO_LEADER, 3, prev[0], hint)]
    assert node.core.log.last_index == 4


def test_only_a_conflict_cuts_the_log():
    """Raft §5.3, figure 2 (AppendEntries, rule 3); scenario 31."""
    node = make_follower((1, 1, 2, 2))
    node.core.step(append(TO_ME, 3, (2, 1), [3]), START)
    node.take(START)
    assert node.ready.truncate_from == 3
    assert node.ready.append == (make_batch(3, 3),)
    assert node.persist(START) == [ack(TO_LEADER, 3, 3)]
    assert terms_of(node) == [1, 1, 3]


def test_a_shorter_append_does_not_cut_what_was_acknowledged():
    """Raft §5.3; scenario 31: an old Append comes late, or twice."""
    node = make_follower((1, 1, 1, 1))
    for message in (append(TO_ME, 1, (0, 0), [1, 1]), append(TO_ME, 1, (2, 1))):
        node.core.step(message, START)
    assert node.take(START) == [ack(TO_LEADER, 1, 2)]
    assert node.ready.token is None
    assert node.core.log.last_index == 4


def test_an_append_may_reach_below_what_is_there_and_beyond():
    node = make_follower((1, 1))
    node.core.step(append(TO_ME, 1, (0, 0), [1, 1, 1]), START)
    node.take(START)
    assert node.ready.append == (make_batch(1, 3),)
    assert node.ready.truncate_from is None


@pytest.mark.parametrize(("leader_commit", "commit"), [(0, 0), (1, 1), (2, 2), (3, 2), (9, 2)])
def test_a_follower_commits_only_what_this_leader_has_verified(leader_commit, commit):
    """Raft figure 2 (AppendEntries, rule 5); scenario 32: not up to its own last index."""
    node = make_follower((1, 1, 1, 1))
    node.core.step(append(TO_ME, 2, (2, 1), commit=leader_commit), START)
    assert node.core.commit == commit
    node.core.step(heartbeat(TO_ME, 2, commit=9), START)
    assert node.core.commit == 2, "a heartbeat's commit is not capped by the leader: we must"


def test_a_heartbeat_commits_nothing_before_the_first_append_of_the_term():
    """Scenario 32; research §7.4 (uncapped commit): a new leader's log may differ from ours."""
    node = make_follower((1, 1))
    node.core.step(append(TO_ME, 1, (2, 1), commit=1), START)
    assert node.core.commit == 1
    node.core.step(heartbeat((3, 1), 2, commit=2), START)
    assert node.core.commit == 1
    node.core.step(append((3, 1), 2, (2, 1)), START)
    node.core.step(heartbeat((3, 1), 2, commit=2), START)
    assert node.core.commit == 2


def test_an_older_append_does_not_take_back_the_commit_index():
    node = make_follower((1, 1, 1))
    node.core.step(append(TO_ME, 1, (3, 1), commit=3), START)
    node.core.step(append(TO_ME, 1, (1, 1), commit=1), START)
    node.core.step(heartbeat(TO_ME, 1), START)
    assert node.core.commit == 3


def test_what_is_committed_matches_by_definition():
    """Raft §5.4: an Append that starts below our commit index is never refused."""
    node = make_follower((1, 1, 1))
    node.core.step(append(TO_ME, 1, (3, 1), commit=3), START)
    node.take(START)
    node.core.step(append(TO_ME, 2, (1, 1), [1, 1, 2], commit=3), START)
    node.take(START)
    assert node.ready.append == (make_batch(2, 4),)
    assert node.persist(START) == [ack(TO_LEADER, 2, 4)]


@pytest.mark.parametrize(
    "batches",
    [
        [make_batch(1, 3)],  # a gap behind prev
        [make_batch(1, 2), make_batch(1, 4)],  # a gap within
        [make_batch(3, 2)],  # later than its leader's term
        [make_batch(2, 2), make_batch(1, 3)],  # terms fall along the log
    ],
)
def test_an_append_that_no_leader_can_have_sent_is_ignored(batches):
    node = make_follower((1,))
    message = append(TO_ME, 2, (1, 1))
    node.core.step(
        Append(*head(TO_ME, 2), message.prev_index, Term(1), message.commit, tuple(batches)), START
    )
    node.take(START)
    assert node.persist(START) == []
    assert node.core.log.last_index == 1


def test_appends_of_one_turn_share_one_fsync_and_one_ack():
    """Research §3.4: coalescing raises the index only towards the same leader and term."""
    node = make_follower()
    for index in range(1, 6):
        prev = (index - 1, 1 if index > 1 else 0)
        node.core.step(append(TO_ME, 1, prev, [1]), START)
    node.take(START)
    assert len(node.ready.append) == 5
    assert node.persist(START) == [ack(TO_LEADER, 1, 5)]


def test_a_shorter_append_does_not_lower_a_waiting_ack():
    node = make_follower()
    node.core.step(append(TO_ME, 1, (0, 0), [1, 1, 1]), START)
    node.core.step(append(TO_ME, 1, (0, 0), [1]), START)
    node.take(START)
    assert node.persist(START) == [ack(TO_LEADER, 1, 3)]


def test_an_ack_never_overtakes_the_refusal_before_it():
    """The leader would take the refusal for a newer one and start probing again."""
    node = make_follower()
    node.core.step(append(TO_ME, 1, (0, 0), [1]), START)
    node.core.step(append(TO_ME, 1, (2, 1), [1]), START)
    node.core.step(append(TO_ME, 1, (1, 1), [1]), START)
    node.take(START)
    assert node.persist(START) == [refusal(TO_LEADER, 1, 2, (1, 1)), ack(TO_LEADER, 1, 2)]


def test_acks_to_two_leaders_are_never_merged():
    """Raft §5.3: an ack speaks of one leader's log. The first names what is still there."""
    node = make_follower()
    node.core.step(append(TO_ME, 1, (0, 0), [1]), START)
    node.core.step(append((3, 1), 2, (1, 1), [2, 2]), START)
    node.take(START)
    assert node.persist(START) == [ack(TO_LEADER, 1, 1), ack((1, 3), 2, 3)]


def test_an_ack_of_what_is_cut_in_the_same_turn_is_not_sent():
    """Thesis §10.2.1: an ack names durable entries; these will never have been on the disk."""
    node = make_follower()
    node.core.step(append(TO_ME, 1, (0, 0), [1, 1]), START)
    node.core.step(append((3, 1), 2, (1, 1), [2]), START)
    node.take(START)
    assert node.ready.truncate_from is None, "the disk has never heard of the cut entry"
    assert node.ready.append == (make_batch(1, 1), make_batch(2, 2))
    assert node.persist(START) == [ack((1, 3), 2, 2)]


def test_an_ack_in_flight_is_true_though_the_next_turn_cuts():
    """Requests are durable in order: when the ack leaves, its entries are on the disk."""
    node = make_follower()
    node.core.step(append(TO_ME, 1, (0, 0), [1, 1]), START)
    node.take(START)
    node.core.step(append((3, 1), 2, (1, 1), [2]), START)
    node.take(START)
    assert node.ready.truncate_from == 2
    assert node.persist(START) == [ack(TO_LEADER, 1, 2)]
    assert node.persist(START) == [ack((1, 3), 2, 2)]
    assert terms_of(node) == [1, 2]


def test_two_cuts_in_one_turn_are_one_cut_at_the_lower_place():
    node = make_follower((1, 1, 1, 1))
    node.core.step(append(TO_ME, 2, (3, 1), [2]), START)
    node.core.step(append((3, 1), 3, (1, 1), [3]), START)
    node.take(START)
    assert node.ready.truncate_from == 2
    assert node.ready.append == (make_batch(3, 2),)
    node.persist(START)
    assert terms_of(node) == [1, 3]


def test_a_second_cut_above_the_first_touches_only_what_is_not_stored():
    node = make_follower((1, 1, 1, 1))
    node.core.step(append(TO_ME, 2, (1, 1), [2, 2]), START)
    node.core.step(append((3, 1), 3, (2, 2), [3]), START)
    node.take(START)
    assert node.ready.truncate_from == 2
    assert node.ready.append == (make_batch(2, 2), make_batch(3, 3))
    node.persist(START)
    assert terms_of(node) == [1, 2, 3]


def test_a_late_completion_of_an_overwritten_append_is_not_believed():
    """Scenario 59 (etcd append ABA race): same index, same term again, but another write."""
    node = make_follower()
    core = node.core
    core.step(append(TO_ME, 1, (0, 0), [1]), START)
    core.step(append(TO_ME, 1, (1, 1), [1]), START)
    node.take(START)  # in flight: 1, 2 of term 1
    core.step(append((3, 1), 2, (1, 1), [2]), START)
    node.take(START)  # in flight: cut at 2, then 2 of term 2
    core.step(append((3, 1), 3, (1, 1), [1, 3]), START)
    node.take(START)  # in flight: cut at 2, then 2 of term 1 again, and 3
    assert core.log.term_at(2) == 1
    node.persist(START)
    assert core.durable_index == 0, "the write of the first 2 says nothing of the second"
    node.persist(START)
    assert core.durable_index == 0
    node.persist(START)
    assert core.durable_index == 3


def test_a_cut_lowers_the_durable_index():
    node = make_follower((1, 1, 1))
    node.core.step(append(TO_ME, 2, (1, 1), [2, 2, 2]), START)
    assert node.core.durable_index == 1
    node.take(START)
    node.persist(START)
    assert node.core.durable_index == 4


def test_terms_are_durable_before_anything_that_depends_on_them():
    """Raft figure 2; scenario 62: a torn write may keep the entry and lose its term's record."""
    node = make_follower((1,), term=1)
    node.core.step(append(TO_ME, 4, (1, 1), [4]), START)
    node.take(START)
    node.disk.store(node.in_flight[0].ready, 1)
    node.boot(START)
    core = node.core
    assert node.disk.hard_state == HardState(Term(1))
    assert (core.term, core.vote, core.log.last_term) == (4, 0, 4)
    node.take(START)
    assert node.ready.hard_state == HardState(Term(4))
    core.step(heartbeat(TO_ME, 4), START)
    assert node.take(START) == [], "no reply of term 4 before it is stored"
    assert node.persist(START) == [heartbeat_reply(TO_LEADER, 4)]


def test_a_recovered_vote_is_kept_if_its_term_is_the_logs():
    disk = Disk(HardState(Term(4), NodeId(3)), make_log([1, 4]))
    core = Node(make_config(1), disk, START).core
    assert (core.term, core.vote) == (4, 3)
    assert not core.has_ready()


def test_a_follower_that_restarts_learns_nothing_from_heartbeats_alone():
    """Its reply says so: commit 0, though it acknowledged more (see HeartbeatReply)."""
    node = make_follower((1, 1))
    node.core.step(append(TO_ME, 1, (2, 1), commit=2), START)
    node.boot(START)
    node.core.step(heartbeat(TO_ME, 1, commit=2, number=3), START)
    assert node.take(START) == [heartbeat_reply(TO_LEADER, 1, number=3, commit=0)]


def test_a_heartbeat_reply_echoes_the_round_and_tells_commit_and_what_arrived():
    node = make_follower((1, 1))
    node.core.step(append(TO_ME, 1, (2, 1)), START)
    node.core.step(heartbeat(TO_ME, 1, commit=1, number=8), START)
    replies = [m for m in node.take(START) if isinstance(m, HeartbeatReply)]
    arrived = replace(heartbeat_reply(TO_LEADER, 1, number=8, commit=1), received=Index(2))
    assert replies == [arrived]


@pytest.mark.parametrize("message", [append(TO_ME, 1), heartbeat(TO_ME, 1)])
def test_hearing_the_leader_postpones_the_campaign(message):
    """Raft §5.2."""
    node = make_follower(term=1)
    for _ in range(20):
        now = node.core.next_deadline - 1
        node.core.step(message, now)
        node.core.tick(now + 1)
    assert node.core.role is Role.FOLLOWER
    assert node.core.leader == 2


def test_a_refusal_waits_for_the_disk_too_because_it_carries_the_term():
    node = make_follower((1,))
    node.core.step(append(TO_ME, 3, (5, 2)), START)
    assert node.take(START) == []
    assert [type(m) for m in node.persist(START)] == [AppendReply]


def test_replies_that_store_nothing_wait_for_the_writes_before_them():
    """types.Ready, duty 3: a duplicate Append must not be acknowledged ahead of the fsync."""
    node = make_follower()
    node.core.step(append(TO_ME, 1, (0, 0), [1]), START)
    node.take(START)
    node.core.step(append(TO_ME, 1, (0, 0), [1]), START)
    assert node.take(START) == []
    assert node.ready.token is None
    assert node.persist(START) == [ack(TO_LEADER, 1, 1)] * 2


def test_votes_of_two_terms_in_one_turn_leave_with_the_last_term_durable():
    """Raft figure 2: the vote of the older term is kept by the newer term's record."""
    node = make_follower()
    node.core.step(vote(TO_ME, 1), START)
    node.core.step(vote((3, 1), 2), START)
    node.take(START)
    assert node.ready.hard_state == HardState(Term(2), NodeId(3))
    assert node.persist(START) == [
        vote_reply(TO_LEADER, 1, granted=True),
        vote_reply((1, 3), 2, granted=True),
    ]


def test_two_leaders_of_one_term_are_a_bug_and_stop_the_node():
    """Raft figure 3 (election safety)."""
    cluster = Cluster(3)
    cluster.elect(1)
    with pytest.raises(AssertionError, match="two leaders"):
        cluster.core(1).step(append(TO_ME, 1), cluster.now)
