"""ReadIndex (thesis §6.4): which answers prove that a read at an index is linearizable."""

from __future__ import annotations

import pytest

from node.raft.messages import Heartbeat, Message
from node.raft.reads import PendingReads
from node.raft.types import Index, ReadContext, ReadGrant, Role
from tests.node.raft.kit import Cluster
from tests.node.raft.letters import ack, append, heartbeat_reply
from tests.node.raft.lone import Lone


def make_leader(voters: int = 3) -> Lone:
    """A leader of term 1 whose empty batch (index 1) is committed; the disk is idle."""
    lone = Lone(voters)
    lone.lead()
    lone.sync()
    for peer in lone.config.voters[1:]:
        lone.step(ack((peer, 1), 1, 1))
    lone.grants.clear()
    return lone


def ask(lone: Lone, *contexts: int) -> list[Message]:
    for context in contexts:
        lone.core.read(ReadContext(context))
    return lone.turn()


def granted(lone: Lone) -> list[tuple[int, int, bool]]:
    taken: list[tuple[int, int, bool]] = [
        (grant.context, grant.index, grant.ok) for grant in lone.grants
    ]
    lone.grants.clear()
    return taken


def rounds(messages: list[Message]) -> list[int]:
    return [message.round for message in messages if isinstance(message, Heartbeat)]


def test_a_read_is_granted_at_its_commit_index_once_a_quorum_confirms_the_lead():
    """Thesis §6.4, steps 2 and 3."""
    lone = make_leader(5)
    assert rounds(ask(lone, 70)) == [1, 1, 1, 1]
    lone.step(heartbeat_reply((2, 1), 1, 1))
    assert granted(lone) == []
    lone.step(heartbeat_reply((3, 1), 1, 1))
    assert granted(lone) == [(70, 1, True)]


def test_reads_of_one_turn_share_a_round():
    lone = make_leader()
    assert rounds(ask(lone, 1, 2, 3)) == [1, 1]
    lone.step(heartbeat_reply((2, 1), 1, 1))
    assert granted(lone) == [(1, 1, True), (2, 1, True), (3, 1, True)]


def test_an_answer_to_an_older_round_proves_nothing_for_a_newer_read():
    """Scenario 56 (etcd#20418): late, repeated and reordered answers."""
    lone = make_leader()
    ask(lone, 1)
    ask(lone, 2)
    for _ in range(3):
        lone.step(heartbeat_reply((2, 1), 1, 1), heartbeat_reply((3, 1), 1, 1))
    assert granted(lone) == [(1, 1, True)]
    lone.step(heartbeat_reply((2, 1), 1, 2))
    lone.step(heartbeat_reply((2, 1), 1, 1))
    assert granted(lone) == [(2, 1, True)]


def test_an_answer_to_a_newer_round_proves_the_older_reads_too():
    lone = make_leader()
    ask(lone, 1)
    ask(lone, 2)
    lone.step(heartbeat_reply((3, 1), 1, 2))
    assert granted(lone) == [(1, 1, True), (2, 1, True)]


def test_one_voters_answers_do_not_make_a_quorum():
    lone = make_leader(5)
    ask(lone, 1)
    for _ in range(4):
        lone.step(heartbeat_reply((2, 1), 1, 1))
    assert granted(lone) == []


def test_a_lost_round_is_repeated_by_the_next_heartbeat():
    lone = make_leader()
    ask(lone, 1)
    lone.now = lone.core.next_deadline
    lone.core.tick(lone.now)
    assert rounds(lone.turn()) == [1, 1]


def test_a_read_waits_for_the_first_commit_of_the_term():
    """Thesis §6.4, step 1; scenario 55 (etcd#7331): before it the commit index may lag."""
    lone = Lone(3)
    lone.lead()
    assert rounds(ask(lone, 1)) == []
    lone.step(heartbeat_reply((2, 1), 1), heartbeat_reply((3, 1), 1))
    assert granted(lone) == []
    lone.step(ack((2, 1), 1, 1))
    sent = lone.step(ack((3, 1), 1, 1))
    assert rounds(sent) == [1, 1]
    lone.step(heartbeat_reply((2, 1), 1, 1))
    assert granted(lone) == [(1, 1, True)]


def test_a_read_sees_what_was_committed_before_it_was_asked():
    lone = make_leader()
    lone.propose()
    lone.sync()
    lone.step(ack((2, 1), 1, 2))
    ask(lone, 1)
    lone.step(heartbeat_reply((2, 1), 1, 1))
    assert granted(lone) == [(1, 2, True)]


def test_reads_are_refused_when_the_lead_is_lost():
    """Scenario 57: those that wait for a round and those that wait for a commit."""
    lone = make_leader()
    ask(lone, 1)
    lone.core.read(ReadContext(2))
    lone.step(append((2, 1), 2, (1, 1)))
    assert granted(lone) == [(1, 0, False), (2, 0, False)]


def test_a_leader_that_steps_down_for_want_of_a_quorum_refuses_its_reads():
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(1)
    cluster.core(1).read(ReadContext(9))
    cluster.turn(1)
    cluster.run(700_000_000)
    assert cluster.core(1).role is not Role.LEADER
    assert cluster.nodes[1].grants == [ReadGrant(ReadContext(9), Index(0), False)]


def test_answers_of_an_earlier_leadership_do_not_count():
    """Rounds start anew with each term; messages carry the term."""
    lone = make_leader()
    ask(lone, 1)
    lone.step(append((2, 1), 2, (1, 1)))
    lone.sync()
    lone.lead()
    term = lone.core.term
    assert term == 3
    lone.sync()
    lone.step(ack((2, 1), term, 2))
    lone.grants.clear()
    assert rounds(ask(lone, 2)) == [1, 1]
    lone.step(heartbeat_reply((2, 1), 1, 1), heartbeat_reply((3, 1), 1, 1))
    assert granted(lone) == []
    lone.step(heartbeat_reply((3, 1), term, 1))
    assert granted(lone) == [(2, 2, True)]


def test_only_a_leader_grants_reads():
    lone = Lone(3)
    ask(lone, 5)
    assert granted(lone) == [(5, 0, False)]


def test_a_single_voter_grants_at_once():
    """Scenario 25."""
    lone = make_leader(1)
    assert ask(lone, 5) == []
    assert granted(lone) == [(5, 1, True)]


# ---- the queue itself --------------------------------------------------------------------------


def test_reads_pass_through_waiting_registered_and_confirmed():
    reads = PendingReads()
    assert not reads.register(Index(4)), "nothing waits: no round"
    for context in (1, 2):
        reads.add(ReadContext(context))
    assert (len(reads), reads.round) == (2, 0)
    assert reads.register(Index(4))
    reads.add(ReadContext(3))
    assert reads.register(Index(6))
    reads.add(ReadContext(4))
    assert (len(reads), reads.round) == (4, 2)
    assert reads.confirmed(0) == []
    assert [(grant.context, grant.index) for grant in reads.confirmed(1)] == [(1, 4), (2, 4)]
    assert [grant.context for grant in reads.abort()] == [3, 4]
    assert len(reads) == 0
    assert reads.abort() == []


@pytest.mark.parametrize("quorum_round", [2, 9])
def test_confirming_a_round_confirms_all_before_it_in_order(quorum_round):
    reads = PendingReads()
    for context in (1, 2):
        reads.add(ReadContext(context))
        reads.register(Index(context))
    assert [grant.context for grant in reads.confirmed(quorum_round)] == [1, 2]
