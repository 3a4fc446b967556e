"""Handing the lead of a quiet group to the node that should have it (thesis §3.10)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from node.raft.messages import (
    Heartbeat,
    Message,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from node.raft.types import Role
from tests.node.raft.kit import MS, Cluster
from tests.node.raft.letters import (
    ack,
    append,
    heartbeat,
    heartbeat_reply,
    pre_vote,
    timeout_now,
    vote,
)
from tests.node.raft.lone import Lone

PREFERRED = {"preferred": 2, "transfer_ns": 1000 * MS}


def make_cluster(**config: int) -> Cluster:
    cluster = Cluster(3, rests=True, **(PREFERRED | config))
    cluster.elect(1)
    return cluster


def watch(cluster: Cluster, ns: int) -> list[tuple[int, Message]]:
    """Let time pass; return what was sent meanwhile, with its time."""
    sent: list[tuple[int, Message]] = []
    send = cluster._send

    def noted(messages: list[Message]) -> list[Message]:
        sent.extend((cluster.now, message) for message in messages)
        return send(messages)

    cluster._send = noted  # type: ignore[method-assign]  # an onlooker
    cluster.run(ns)
    cluster._send = send  # type: ignore[method-assign]  # gone again
    return sent


def offers(sent: list[tuple[int, Message]]) -> list[int]:
    return [at for at, message in sent if isinstance(message, TimeoutNow)]


def make_follower(term: int = 1) -> Lone:
    """Node 1 follows 2 and has its only entry."""
    lone = Lone(3, rests=True)
    lone.contacts |= dict.fromkeys(lone.config.voters[1:], lone.now)
    lone.step(append((2, 1), term, (0, 0), [term], 1))
    lone.sync()
    return lone


# ---- the leader ----------------------------------------------------------------------------------


def test_a_quiet_group_moves_to_its_preferred_node_and_rests_there():
    cluster = make_cluster()
    sent = watch(cluster, 1500 * MS)
    assert len(offers(sent)) == 1
    assert {(core.leader, core.term, core.resting) for _, core in cluster.cores()} == {(2, 2, True)}
    assert not any(isinstance(message, PreVote) for _, message in sent), "nobody missed a leader"
    assert len(offers(watch(cluster, 5000 * MS))) == 0, "it is where it should be"


def test_a_group_without_a_preference_stays_where_it_is():
    cluster = make_cluster(preferred=0)
    assert offers(watch(cluster, 3000 * MS)) == []
    assert cluster.leader() == 1


def test_a_group_that_works_is_not_moved():
    cluster = make_cluster()
    for _ in range(60):
        cluster.propose(1)
        cluster.settle()
        assert offers(watch(cluster, 50 * MS)) == []
    assert cluster.leader() == 1


def test_the_lead_is_not_offered_to_a_node_that_is_not_heard():
    cluster = make_cluster()
    cluster.isolate(2)
    assert offers(watch(cluster, 3000 * MS)) == []
    assert (cluster.leader(), cluster.core(1).resting) == (1, True)
    cluster.heal()
    cluster.run(1500 * MS)
    assert cluster.leader() == 2, "it returned"


def test_the_lead_is_offered_again_only_after_a_while_and_the_group_rests_meanwhile():
    cluster = make_cluster()
    send = cluster._send
    offered: list[int] = []

    def deaf(messages: list[Message]) -> list[Message]:
        offered.extend(cluster.now for message in messages if isinstance(message, TimeoutNow))
        send([message for message in messages if not isinstance(message, TimeoutNow)])
        return messages

    cluster._send = deaf  # type: ignore[method-assign]  # every offer is lost
    cluster.run(900 * MS)
    assert len(offered) == 1
    assert cluster.core(1).resting
    for _ in range(8):
        cluster.propose(1)
        cluster.settle()
        cluster.run(500 * MS)
    gaps = [later - before for before, later in pairwise(offered)]
    assert len(gaps) >= 2
    assert min(gaps) >= PREFERRED["transfer_ns"]
    assert (cluster.leader(), cluster.core(1).term) == (1, 1)


def test_the_old_leader_beats_on_until_somebody_else_leads():
    """The target may be gone by now."""
    cluster = make_cluster()
    while not cluster.between(1, 2, TimeoutNow):
        cluster.settle()
        cluster.at_deadline(1)
    assert len(cluster.between(1, None, Heartbeat)) == 2
    assert not cluster.core(1).resting


# ---- the target, and the others ------------------------------------------------------------------


def test_the_target_campaigns_without_asking_first_behind_its_fsync():
    lone = make_follower()
    lone.step(heartbeat((2, 1), 1, 1, rest=True))
    lone.step(timeout_now((2, 1), 1))
    assert (lone.core.role, lone.core.term, lone.core.resting) == (Role.CANDIDATE, 2, False)
    assert lone.ready.send_now == ()
    votes = [message for message in lone.sync() if isinstance(message, Vote)]
    assert [(message.to, message.term, message.transfer) for message in votes] == [
        (2, 2, True),
        (3, 2, True),
    ]


@pytest.mark.parametrize("term", [1, 2])
def test_an_offer_of_another_term_or_of_somebody_else_is_ignored(term):
    lone = make_follower(term=2)
    lone.step(timeout_now((2 if term == 1 else 3, 1), term))
    assert (lone.core.role, lone.core.term, lone.core.leader) == (Role.FOLLOWER, 2, 2)
    assert lone.sync() == []


def test_an_offer_of_a_later_term_is_none_to_who_does_not_follow_its_leader():
    lone = make_follower()
    lone.step(timeout_now((3, 1), 5))
    assert (lone.core.role, lone.core.term, lone.core.leader) == (Role.FOLLOWER, 5, 0)


def test_an_offer_that_comes_twice_is_taken_once():
    lone = make_follower()
    lone.step(timeout_now((2, 1), 1), timeout_now((2, 1), 1))
    assert lone.core.term == 2


def test_who_misses_its_leader_already_takes_no_offer():
    lone = make_follower()
    lone.core.tick(lone.core.next_deadline)
    assert lone.core.role is Role.PRE_CANDIDATE
    lone.step(timeout_now((2, 1), 1))
    assert (lone.core.role, lone.core.term) == (Role.PRE_CANDIDATE, 1)


def test_a_leader_takes_no_offer():
    lone = Lone(3, rests=True)
    lone.lead()
    lone.step(timeout_now((2, 1), 1))
    assert (lone.core.role, lone.core.term) == (Role.LEADER, 1)


@pytest.mark.parametrize("resting", [False, True])
def test_those_who_hear_their_leader_vote_for_whom_it_chose_and_for_nobody_else(resting):
    """Thesis §4.2.3: the flag says that the leader itself asked for it."""
    lone = make_follower()
    lone.step(heartbeat((2, 1), 1, 1, rest=resting))
    assert lone.core.resting == resting
    request = vote((3, 1), 2, (1, 1))
    lone.step(request)
    assert [m for m in lone.sync() if isinstance(m, VoteReply)] == []
    lone.step(replace(request, transfer=True))
    replies = [m for m in lone.sync() if isinstance(m, VoteReply)]
    assert [(reply.granted, reply.term) for reply in replies] == [(True, 2)]


def test_a_leader_votes_for_whom_it_chose():
    lone = Lone(3, rests=True)
    lone.lead()
    lone.sync()
    lone.step(replace(vote((2, 1), 2, (1, 1)), transfer=True))
    assert [m.granted for m in lone.sync() if isinstance(m, VoteReply)] == [True]
    assert (lone.core.role, lone.core.term) == (Role.FOLLOWER, 2)


def test_the_chosen_one_still_needs_a_good_log():
    lone = make_follower()
    lone.step(replace(vote((3, 1), 2, (0, 0)), transfer=True))
    assert [m.granted for m in lone.sync() if isinstance(m, VoteReply)] == [False]


def test_pre_votes_know_no_such_exception():
    lone = make_follower()
    answers = lone.step(pre_vote((3, 1), 2, (1, 1)))
    assert [m.granted for m in answers if isinstance(m, PreVoteReply)] == [False]


def test_a_target_that_lacks_an_entry_is_offered_nothing():
    """It has not agreed to rest, and it is heard."""
    lone = Lone(3, (), rests=True, **PREFERRED)
    lone.lead()
    lone.sync()
    lone.contacts |= dict.fromkeys(lone.config.voters[1:], lone.now + 10_000 * MS)
    lone.step(ack((3, 1), 1, 1))
    core = lone.core
    assert core.commit == 1
    for _ in range(12):
        lone.now = core.next_deadline
        sent = lone.tick(lone.now) + lone.turn()
        assert not any(isinstance(message, TimeoutNow) for message in sent)
        lone.step(heartbeat_reply((3, 1), 1, 9, 1, received=1, rest=True))
        lone.step(heartbeat_reply((2, 1), 1, 9, 0, received=0, rest=False))
