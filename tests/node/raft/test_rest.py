"""Groups at rest: who may rest, who wakes whom, and that rest decides nothing (`node.raft.rest`)."""

from __future__ import annotations

import pytest

from node.raft.messages import Heartbeat, HeartbeatReply, Message, PreVoteReply, VoteReply
from node.raft.state import FOREVER
from node.raft.types import NodeId, ReadContext, Role
from tests.node.raft.kit import MS, Cluster, make_log
from tests.node.raft.letters import (
    ack,
    append,
    heartbeat,
    heartbeat_reply,
    pre_vote,
    pre_vote_reply,
    refusal,
    vote,
)
from tests.node.raft.lone import Lone

QUIET = 3
"""Heartbeats without anything to do before the leader offers rest."""


def hear(lone: Lone, *peers: int) -> None:
    """Note a contact with the nodes of some peers (all by default)."""
    for peer in peers or lone.config.voters[1:]:
        lone.contacts[NodeId(peer)] = lone.now


def make_leader(voters: int = 3, **config: int) -> Lone:
    """A leader of term 1 whose peers have its only entry; the test speaks for them."""
    lone = Lone(voters, (), rests=True, **config)
    lone.lead()
    lone.sync()
    hear(lone)
    for peer in lone.config.voters[1:]:
        lone.step(ack((peer, 1), 1, 1))
    return lone


def beat(lone: Lone, *heard: int) -> list[Heartbeat]:
    """Let the next heartbeat be due; return those that leave (to all, or none)."""
    sent: list[Message] = []
    while not sent and not lone.core.resting:  # a quorum check may be due before
        lone.now = max(lone.now, lone.core.next_deadline)
        hear(lone, *heard)
        sent = lone.tick(lone.now) + lone.turn()
    return [message for message in sent if isinstance(message, Heartbeat)]


def offer(lone: Lone) -> int:
    """Beat until rest is offered; return the round of the offer."""
    for _ in range(QUIET):
        beat(lone)
    offered = beat(lone)[0]
    assert offered.rest
    return offered.round


def agree(lone: Lone, *peers: int, number: int, rest: bool = True, term: int = 1) -> None:
    for peer in peers:
        lone.step(heartbeat_reply((peer, 1), term, number, 1, received=1, rest=rest))


def make_resting_leader(voters: int = 3) -> Lone:
    lone = make_leader(voters)
    agree(lone, *range(2, voters + 1), number=offer(lone))
    assert beat(lone) == []
    assert lone.core.resting
    return lone


def make_follower(entries: int = 1, commit: int = 1, term: int = 1) -> Lone:
    """Node 1 follows 2; so many entries are durable, and committed up to `commit`."""
    lone = Lone(3, rests=True)
    hear(lone)
    lone.step(append((2, 1), term, (0, 0), [term] * entries, commit))
    lone.sync()
    return lone


def make_resting_follower(term: int = 1) -> Lone:
    lone = make_follower(term=term)
    lone.step(heartbeat((2, 1), term, 1, rest=True))
    assert lone.core.resting
    return lone


def make_resting_cluster(voters: int = 3) -> Cluster:
    cluster = Cluster(voters, rests=True)
    cluster.elect(1)
    cluster.run(600 * MS)
    assert all_rest(cluster)
    return cluster


def all_rest(cluster: Cluster) -> bool:
    return all(core.resting for _, core in cluster.cores())


# ---- the leader's offer ------------------------------------------------------------------------


def test_rest_is_offered_after_some_quiet_heartbeats_in_a_round_of_its_own():
    lone = make_leader()
    beats = [beat(lone)[0] for _ in range(QUIET + 2)]
    assert [message.rest for message in beats] == [False] * QUIET + [True] * 2
    assert [message.round for message in beats] == [0] * QUIET + [1] * 2


def test_a_leader_rests_once_every_peer_that_is_heard_has_agreed():
    lone = make_leader(5)
    number = offer(lone)
    agree(lone, 2, 3, 4, number=number)
    assert [message.rest for message in beat(lone)] == [True] * 4, "n5 has not agreed"
    assert not lone.core.resting
    agree(lone, 5, number=number)
    assert beat(lone) == []
    assert lone.core.resting


def test_a_peer_that_is_not_heard_holds_up_nobody_but_a_quorum_is_needed():
    for silent, rests in (((5,), True), ((4, 5), True), ((3, 4, 5), False)):
        lone = make_leader(5)
        alive = [peer for peer in range(2, 6) if peer not in silent]
        agree(lone, *alive, number=offer(lone))
        for peer in silent:
            lone.contacts[NodeId(peer)] = lone.now - 400 * MS
        beat(lone, *alive)
        assert (lone.core.resting, lone.core.role) == (rests, Role.LEADER), silent


def test_answers_of_an_earlier_round_refusals_and_repetitions_are_no_agreement():
    lone = make_leader()
    number = offer(lone)
    agree(lone, 2, 2, 2, number=number)
    agree(lone, 3, number=number - 1)
    agree(lone, 3, number=number, rest=False)
    agree(lone, 3, number=number, term=0)
    agree(lone, 9, number=number)
    assert beat(lone)
    assert not lone.core.resting
    agree(lone, 3, number=number)
    assert beat(lone) == []


def test_an_agreement_to_an_earlier_offer_is_none_to_this_one():
    lone = make_leader()
    first = offer(lone)
    lone.propose()
    beat(lone)
    lone.sync()
    for peer in (2, 3):
        lone.step(ack((peer, 1), 1, 2))
    second = offer(lone)
    assert second > first
    agree(lone, 2, 3, number=first)
    assert beat(lone)
    assert not lone.core.resting


def test_a_write_between_two_heartbeats_takes_the_offer_back():
    """The followers agreed to less than there is now: one of them may lack it, and none knows that
    it is committed."""
    lone = make_leader()
    agree(lone, 2, 3, number=offer(lone))
    lone.propose()
    lone.sync()
    lone.step(ack((2, 1), 1, 2))
    assert lone.core.commit == 2
    assert [message.rest for message in beat(lone)] == [False] * 2
    assert not lone.core.resting


def test_a_read_between_two_heartbeats_takes_the_offer_back():
    """Its round woke the followers."""
    lone = make_leader()
    number = offer(lone)
    agree(lone, 2, 3, number=number)
    lone.core.read(ReadContext(1))
    assert [m.rest for m in lone.turn() if isinstance(m, Heartbeat)] == [False] * 2
    agree(lone, 2, 3, number=number + 1, rest=False)
    assert beat(lone)
    assert not lone.core.resting


def test_a_peer_that_agreed_and_then_declines_has_not_agreed():
    """It restarted meanwhile, for one."""
    lone = make_leader()
    number = offer(lone)
    agree(lone, 2, 3, number=number)
    agree(lone, 3, number=number, rest=False)
    assert beat(lone)


def test_who_waits_for_its_own_disk_offers_no_rest():
    """The others' quorum has committed; the own log is not at rest."""
    lone = make_leader()
    lone.propose()
    for peer in (2, 3):
        lone.step(ack((peer, 1), 1, 2))
    assert lone.core.commit == 2
    assert not any(message.rest for _ in range(QUIET + 1) for message in beat(lone))
    lone.sync()
    offer(lone)


def test_an_entry_that_nobody_has_stored_keeps_the_leader_awake():
    lone = make_leader()
    lone.propose()
    assert (lone.core.commit, lone.core.durable_index, lone.core.log.last_index) == (1, 1, 2)
    assert not any(message.rest for _ in range(QUIET + 1) for message in beat(lone))


def test_who_knows_no_contacts_never_rests():
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.run(2000 * MS)
    assert not any(core.resting for _, core in cluster.cores())


def test_a_group_at_rest_has_no_deadline_and_sends_nothing():
    cluster = make_resting_cluster()
    for number, core in cluster.cores():
        assert core.next_deadline == FOREVER
        assert not core.has_ready()
        core.tick(cluster.now + 10_000 * MS)
        assert cluster.nodes[number].take(cluster.now) == []


def test_a_group_of_one_node_rests_and_works():
    cluster = make_resting_cluster(1)
    cluster.propose(1)
    cluster.settle()
    assert cluster.core(1).commit == 2
    cluster.run(600 * MS)
    assert all_rest(cluster)


# ---- who wakes a leader ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        pre_vote((2, 1), 2, (1, 1)),
        vote((2, 1), 2, (1, 1)),
        refusal((2, 1), 1, 1),
        ack((2, 1), 1, 1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_whoever_wants_something_wakes_the_leader_which_beats_at_once(message):
    lone = make_resting_leader()
    lone.now += 700 * MS
    lone.step(message)
    assert not lone.core.resting
    assert [m.to for m in beat(lone)] == [2, 3]
    assert lone.core.role is Role.LEADER


def test_a_late_answer_to_a_heartbeat_wakes_nobody():
    lone = make_resting_leader()
    agree(lone, 2, 3, number=0, rest=False)
    agree(lone, 2, 3, number=9)
    assert lone.core.resting


def test_a_leader_that_wakes_gives_its_followers_time_to_answer():
    """Nobody answered while nobody was asked."""
    lone = make_leader()
    agree(lone, 2, 3, number=offer(lone))
    lone.core._quorum_check_at = lone.now
    lone.core.tick(lone.now)  # from here on nobody has answered
    assert beat(lone) == []
    lone.now += 5000 * MS
    hear(lone)
    lone.core.wake(lone.now)
    woke = lone.now
    assert beat(lone)
    agree(lone, 2, number=1, rest=False)
    lone.now = woke + lone.core.timeouts.high
    lone.core.tick(lone.now)
    assert lone.core.role is Role.LEADER


def test_a_resting_leader_answers_no_read_without_a_new_round():
    """Thesis §6.4: contact with the nodes proves that they live, not that they follow us."""
    lone = make_resting_leader()
    lone.now += 5000 * MS
    hear(lone)
    lone.core.read(ReadContext(70))
    lone.core.wake(lone.now)
    (asked, _) = [m.round for m in lone.turn() if isinstance(m, Heartbeat)]
    agree(lone, 2, 3, number=asked - 1)
    lone.turn()
    assert lone.grants == []
    agree(lone, 2, number=asked, rest=False)
    lone.turn()
    assert [(grant.context, grant.ok) for grant in lone.grants] == [(70, True)]


def test_a_resting_leader_that_hears_no_quorum_of_nodes_steps_down():
    lone = make_resting_leader(5)
    lone.now += 299 * MS
    lone.core.judge_rest(lone.now)
    assert lone.core.resting
    hear(lone, 2, 3)
    lone.now += 299 * MS
    lone.core.judge_rest(lone.now)
    assert (lone.core.role, lone.core.resting) == (Role.LEADER, True), "itself and two"
    lone.contacts[NodeId(3)] -= 2 * MS
    lone.core.judge_rest(lone.now)
    assert (lone.core.role, lone.core.leader, lone.core.term) == (Role.FOLLOWER, 0, 1)
    assert lone.core.next_deadline < FOREVER


# ---- what a follower agrees to, and what wakes it ------------------------------------------------


def rest_of(sent: list[Message]) -> list[bool]:
    return [message.rest for message in sent if isinstance(message, HeartbeatReply)]


def test_a_follower_that_has_everything_agrees_and_rests_at_once():
    lone = make_follower(entries=2, commit=2)
    assert rest_of(lone.step(heartbeat((2, 1), 1, 2, rest=True))) == [True]
    assert (lone.core.resting, lone.core.next_deadline) == (True, FOREVER)


def test_a_follower_that_learns_of_the_last_commit_by_the_offer_agrees():
    lone = make_follower(entries=2, commit=1)
    assert rest_of(lone.step(heartbeat((2, 1), 1, 2, rest=True))) == [True]


def test_a_follower_that_is_not_asked_does_not_rest():
    lone = make_follower()
    assert rest_of(lone.step(heartbeat((2, 1), 1, 1))) == [False]
    assert not lone.core.resting


@pytest.mark.parametrize(
    ("entries", "commit", "offered"),
    [(1, 1, 2), (2, 1, 1), (2, 2, 1)],
    ids=["it lacks an entry", "it has one that is not committed", "the offer is an old one"],
)
def test_a_follower_that_has_something_else_than_the_leader_declines(entries, commit, offered):
    lone = make_follower(entries, commit)
    assert rest_of(lone.step(heartbeat((2, 1), 1, offered, rest=True))) == [False]
    assert not lone.core.resting


def test_a_follower_whose_disk_is_behind_declines():
    lone = Lone(3, rests=True)
    hear(lone)
    lone.step(append((2, 1), 1, (0, 0), [1], 1))
    lone.step(heartbeat((2, 1), 1, 1, rest=True))
    assert rest_of(lone.sync()) == [False]
    lone = make_follower()
    lone.step(append((2, 1), 1, (1, 1), [1], 2))
    assert rest_of(lone.step(heartbeat((2, 1), 1, 2, rest=True))) == [False]
    lone.sync()
    assert rest_of(lone.step(heartbeat((2, 1), 1, 2, rest=True))) == [True]


def test_a_follower_declines_what_it_has_not_verified_since_its_restart():
    lone = Lone(3, make_log([1]), rests=True)
    hear(lone)
    lone.step(heartbeat((2, 1), 1, 1, rest=True))
    assert rest_of(lone.sync()) == [False]
    assert not lone.core.resting


def test_a_follower_declines_until_its_term_is_durable():
    lone = make_follower()
    lone.step(append((3, 1), 2, (1, 1), [], 1), heartbeat((3, 1), 2, 1, rest=True))
    assert not lone.core.resting
    assert rest_of(lone.sync()) == [False]


def test_a_follower_declines_until_the_leader_of_the_term_has_seen_its_log():
    lone = make_follower()
    lone.step(heartbeat((3, 1), 2, 1))
    lone.sync()
    assert rest_of(lone.step(heartbeat((3, 1), 2, 1, rest=True))) == [False]
    lone.step(append((3, 1), 2, (1, 1), [], 1))
    assert rest_of(lone.step(heartbeat((3, 1), 2, 1, rest=True))) == [True]


def test_a_follower_with_a_tail_of_an_older_term_declines():
    lone = Lone(3, make_log([1, 1]), rests=True)
    hear(lone)
    lone.step(append((2, 1), 2, (1, 1), [], 1))
    lone.sync()
    assert rest_of(lone.step(heartbeat((2, 1), 2, 1, rest=True))) == [False]


@pytest.mark.parametrize(
    "message",
    [append((2, 1), 1, (1, 1), [], 1), heartbeat((2, 1), 1, 1), heartbeat((3, 1), 2, 1)],
    ids=["append", "heartbeat", "another leader's heartbeat"],
)
def test_what_a_leader_sends_wakes_its_follower(message):
    lone = make_resting_follower()
    lone.now += 700 * MS
    lone.step(message)
    assert not lone.core.resting
    low, high = lone.core.timeouts.low, lone.core.timeouts.high
    assert lone.now + low <= lone.core.next_deadline <= lone.now + high


def test_an_offer_that_is_repeated_leaves_the_follower_at_rest():
    lone = make_resting_follower()
    assert rest_of(lone.step(heartbeat((2, 1), 1, 1, rest=True))) == [True]
    assert lone.core.resting


def test_a_follower_rests_as_long_as_it_hears_its_leaders_node():
    lone = make_resting_follower()
    for _ in range(20):
        lone.now += 149 * MS
        lone.core.judge_rest(lone.now)
        assert lone.core.resting
        hear(lone, 2)


def test_silence_of_the_leaders_node_wakes_a_follower_whose_timer_counts_from_the_last_contact():
    lone = make_resting_follower()
    last = lone.now = lone.now + 5000 * MS
    hear(lone, 2)
    low, high = lone.core.timeouts.low, lone.core.timeouts.high
    lone.now = last + low
    hear(lone, 3)
    lone.core.judge_rest(lone.now)
    assert not lone.core.resting
    assert last + low <= lone.core.next_deadline <= last + high
    assert lone.core.leader == 2, "it is only late, perhaps"


def test_who_looks_late_campaigns_at_once():
    lone = make_resting_follower()
    lone.now += 5000 * MS
    lone.core.judge_rest(lone.now)
    assert lone.core.next_deadline == lone.now
    lone.core.tick(lone.now)
    assert lone.core.role is Role.PRE_CANDIDATE


def test_a_resting_follower_stays_with_its_leader_while_it_hears_the_node():
    """Thesis §6.2 by contact: the last heartbeat was long ago."""
    lone = make_resting_follower()
    lone.now += 5000 * MS
    hear(lone, 2)
    low = lone.core.timeouts.low
    lone.now += low - 1
    assert lone.step(pre_vote((3, 1), 2, (9, 1))) == [pre_vote_reply((1, 3), 1, granted=False)]
    lone.step(vote((3, 1), 2, (9, 1)))
    assert (lone.core.term, lone.core.resting) == (1, True)
    lone.now += 1
    assert lone.step(pre_vote((3, 1), 2, (9, 1))) == [pre_vote_reply((1, 3), 2, granted=True)]
    lone.step(vote((3, 1), 2, (9, 1)))
    assert (lone.core.term, lone.core.vote, lone.core.resting) == (2, 3, False)


def test_a_leader_that_campaigns_for_a_later_term_frees_those_that_rest_under_it():
    """It restarted, or stepped down; its node is heard all the time, so nothing else would."""
    lone = make_resting_follower(term=3)
    assert lone.step(pre_vote((2, 1), 4, (1, 3))) == [pre_vote_reply((1, 2), 4, granted=True)]
    assert not lone.core.resting
    assert lone.core.leader == 0
    assert lone.core.next_deadline <= lone.now + lone.core.timeouts.high
    lone = make_resting_follower(term=3)
    lone.step(vote((2, 1), 4, (1, 3)))
    granted = [message.granted for message in lone.sync() if isinstance(message, VoteReply)]
    assert (granted, lone.core.term, lone.core.vote) == ([True], 4, 2)


def test_a_campaign_of_our_leader_with_a_worse_log_frees_us_too():
    lone = make_resting_follower(term=3)
    answers = lone.step(pre_vote((2, 1), 4, (0, 0)))
    assert [m.granted for m in answers if isinstance(m, PreVoteReply)] == [False]
    assert not lone.core.resting


@pytest.mark.parametrize(
    "message",
    [
        pre_vote((2, 1), 3),
        vote((2, 1), 3),
        pre_vote((2, 1), 2),
        vote((2, 1), 2),
        pre_vote((3, 1), 4),
    ],
)
def test_an_old_campaign_of_the_leader_or_anybody_elses_frees_nobody(message):
    lone = make_resting_follower(term=3)
    lone.step(message)
    lone.sync()
    assert (lone.core.resting, lone.core.leader, lone.core.term) == (True, 2, 3)


def test_a_follower_that_wakes_counts_from_the_last_contact():
    lone = make_resting_follower()
    hear(lone, 2)
    heard_at = lone.now
    lone.now += 10 * MS
    lone.core.wake(lone.now)
    assert not lone.core.resting
    config = lone.config
    assert heard_at + config.election_ns_min <= lone.core.next_deadline
    assert lone.core.next_deadline <= heard_at + config.election_ns_max


def test_forgetting_a_dead_leader_wakes_a_resting_follower():
    lone = make_resting_follower()
    lone.now += 5000 * MS
    lone.core.forget_leader(lone.now, 30 * MS)
    assert (lone.core.resting, lone.core.leader) == (False, 0)
    assert lone.now <= lone.core.next_deadline <= lone.now + 30 * MS
    leader = make_resting_leader()
    leader.core.forget_leader(leader.now, 30 * MS)
    assert leader.core.resting, "a leader forgets nobody"


# ---- whole groups --------------------------------------------------------------------------------


def test_a_resting_group_keeps_its_leader_however_long():
    cluster = make_resting_cluster()
    cluster.run(60_000 * MS)
    assert all_rest(cluster)
    assert {(core.leader, core.term) for _, core in cluster.cores()} == {(1, 1)}


def test_a_write_wakes_everybody_and_all_rest_again():
    cluster = make_resting_cluster()
    cluster.propose(1)
    cluster.settle()
    assert cluster.core(1).commit == 2
    cluster.run(600 * MS)
    assert all_rest(cluster)
    assert {(core.commit, core.term) for _, core in cluster.cores()} == {(2, 1)}


@pytest.mark.parametrize("number", [1, 3], ids=["leader", "follower"])
def test_a_node_of_a_resting_group_restarts_and_finds_its_place(number):
    cluster = make_resting_cluster()
    cluster.crash(number)
    cluster.run(1500 * MS)
    assert all_rest(cluster)
    leaders = {core.leader for _, core in cluster.cores()}
    assert len(leaders) == 1
    if number != 1:
        assert (leaders, cluster.core(1).term) == ({1}, 1), "it disturbed nobody"


def test_a_resting_leader_that_is_cut_off_is_replaced_and_steps_down():
    cluster = make_resting_cluster()
    cluster.isolate(1)
    cluster.run(700 * MS)
    assert cluster.leader() in (2, 3)
    assert cluster.core(1).role is not Role.LEADER
    cluster.heal()
    cluster.run(1500 * MS)
    assert all_rest(cluster)
    assert len({core.leader for _, core in cluster.cores()}) == 1


def test_a_follower_that_is_cut_off_returns_to_a_group_that_went_on():
    cluster = make_resting_cluster()
    cluster.isolate(3)
    cluster.run(500 * MS)
    cluster.propose(1)
    cluster.settle()
    cluster.run(1000 * MS)
    assert cluster.core(1).resting, "without the third"
    cluster.heal()
    cluster.run(1500 * MS)
    assert all_rest(cluster)
    assert {(core.commit, core.leader, core.term) for _, core in cluster.cores()} == {(2, 1, 1)}


def test_a_peer_that_is_heard_but_hears_nothing_keeps_the_group_awake():
    cluster = Cluster(3, rests=True)
    cluster.elect(1)
    cluster.cut_links.add((1, 3))
    cluster.run(2000 * MS)
    assert (cluster.leader(), cluster.core(1).resting, cluster.core(1).term) == (1, False, 1)
    cluster.heal()
    cluster.run(1500 * MS)
    assert all_rest(cluster)
