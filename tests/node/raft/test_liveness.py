"""Who keeps the lead, who loses it, and when: stickiness and CheckQuorum (thesis §6.2, §4.2.3),
timers of nodes that slept, leaders known to be dead, and when heartbeats leave.
"""

from __future__ import annotations

import pytest

from node.raft.messages import Heartbeat, HeartbeatReply, PreVoteReply
from node.raft.types import Role
from tests.node.raft.kit import MS, START, Cluster
from tests.node.raft.letters import (
    ack,
    heartbeat,
    heartbeat_reply,
    pre_vote,
    pre_vote_reply,
    vote,
)
from tests.node.raft.lone import Lone, make_candidate, make_node

# ---- stickiness and CheckQuorum (thesis §6.2, §4.2.3) -------------------------------------------


def test_a_follower_that_hears_its_leader_refuses_to_help_others():
    """Thesis §4.2.3; scenario 12: refused within the shortest timeout, granted after it."""
    node = make_node(term=1)
    node.core.step(heartbeat((2, 1), 1), START)
    silence = node.core.config.election_ns_min
    node.take(START)
    node.core.step(pre_vote((3, 1), 2, (9, 1)), START + silence - 1)
    node.core.step(vote((3, 1), 2, (9, 1)), START + silence - 1)
    assert node.take(START) == [pre_vote_reply((1, 3), 1, granted=False)]
    assert node.core.term == 1, "a higher term in a vote request does not even count"
    node.core.step(pre_vote((3, 1), 2, (9, 1)), START + silence)
    assert node.take(START) == [pre_vote_reply((1, 3), 2, granted=True)]
    node.core.step(vote((3, 1), 2, (9, 1)), START + silence)
    assert (node.core.term, node.core.vote) == (2, 3)


def test_a_leader_helps_nobody_to_its_place():
    """Thesis §4.2.3."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.now += 10_000 * MS
    replies = cluster.step(pre_vote((3, 1), 2, (9, 9)), vote((3, 1), 2, (9, 9)))
    assert replies == [pre_vote_reply((1, 3), 1, granted=False)]
    assert cluster.leader() == 1


def test_a_quorum_of_pre_candidates_may_replace_a_leader_that_they_do_not_hear():
    """Scenario 12. The old leader can send nothing but hears everybody."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut_links |= {(1, 2), (1, 3)}
    cluster.run(600 * MS)
    assert cluster.leader() in (2, 3)
    assert cluster.core(1).role is Role.FOLLOWER


def test_a_follower_behind_a_slow_link_does_not_depose_the_leader():
    """Scenario 16: with PreVote the term stays."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut_links.add((1, 3))
    cluster.run(3000 * MS)
    assert (cluster.leader(), cluster.core(1).term) == (1, 1)
    assert cluster.core(3).role is Role.PRE_CANDIDATE


def test_a_leader_without_a_quorum_steps_down():
    """Thesis §6.2; scenario 18: within two checks, keeping its term and vote."""
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.isolate(2, 3, 4)
    core = cluster.core(1)
    cluster.run(2 * core.config.election_ns_max)
    assert (core.role, core.term, core.vote) != (Role.LEADER, 1, 1)
    assert core.vote == 1
    assert core.progress == {}
    assert core.uncommitted_bytes == 0


def test_a_leader_with_a_quorum_stays_however_long():
    """Scenario 18: two of four silent peers are not enough to depose it."""
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.isolate(4, 5)
    cluster.run(5000 * MS)
    assert (cluster.leader(), cluster.core(1).term) == (1, 1)


@pytest.mark.parametrize("answer", [heartbeat_reply((2, 1), 1), ack((2, 1), 1, 0)])
def test_any_answer_of_the_term_proves_that_a_peer_lives(answer):
    cluster = Cluster(3)
    cluster.elect(1)
    core = cluster.core(1)
    for _ in range(5):
        cluster.now += core.config.election_ns_max
        cluster.network.clear()
        cluster.step(answer)
        core.tick(cluster.now)
        assert core.role is Role.LEADER
    cluster.now += core.config.election_ns_max
    core.tick(cluster.now)
    assert core.role is Role.FOLLOWER


def test_an_isolated_leader_is_replaced_and_follows_when_it_returns():
    """Raft §5.2 and thesis §6.2; scenario 9."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(1)
    cluster.propose(1, "lost")
    cluster.run(1000 * MS)
    leader = cluster.leader()
    assert leader in (2, 3)
    assert cluster.core(1).role is not Role.LEADER
    cluster.heal()
    cluster.run(500 * MS)
    assert cluster.leader() == leader, "its return disturbs nobody"
    assert len({core.log.batches for _, core in cluster.cores()}) == 1


# ---- timers ------------------------------------------------------------------------------------


def test_a_node_that_slept_gives_the_leader_time_to_be_heard():
    """DESIGN §4: a late turn extends the timer by its lateness, at most one shortest timeout."""
    node = make_node()
    core = node.core
    woke = core.next_deadline + 80 * MS
    core.extend_election_timer(woke, 80 * MS)
    core.tick(woke)
    assert (core.role, core.next_deadline) == (Role.FOLLOWER, woke + 80 * MS)
    core.step(heartbeat((2, 1), 1), woke)
    woke += 3_600_000 * MS
    core.extend_election_timer(woke, 3_600_000 * MS)
    assert core.next_deadline == woke + core.config.election_ns_min


def test_lateness_never_shortens_a_timer():
    core = make_node().core
    before = core.next_deadline
    core.extend_election_timer(START, 1)
    assert core.next_deadline == before


def test_a_node_that_is_always_late_campaigns_all_the_same():
    """One extension per armed timer; else an overloaded machine would elect nobody, ever."""
    core = make_node().core
    for _ in range(2):
        woke = core.next_deadline + 30 * MS
        core.extend_election_timer(woke, 30 * MS)
        core.tick(woke)
    assert core.role is Role.PRE_CANDIDATE


def test_a_leader_that_slept_gives_its_followers_time_to_answer():
    """They answered nothing because they were asked nothing."""
    cluster = Cluster(3)
    cluster.elect(1)
    core = cluster.core(1)
    cluster.now += core.config.election_ns_max
    core.tick(cluster.now)  # a quorum check; from here on nobody has answered
    core.ready(cluster.now)
    cluster.now += 10 * core.config.election_ns_max
    core.extend_election_timer(cluster.now, 9 * core.config.election_ns_max)
    cluster.tick(1)
    assert core.role is Role.LEADER
    cluster.settle()
    cluster.now += core.config.election_ns_min
    core.tick(cluster.now)
    assert core.role is Role.LEADER
    for _ in range(2):
        cluster.now += core.config.election_ns_max
        core.extend_election_timer(cluster.now, 30 * MS)
        core.tick(cluster.now)
        cluster.now += 30 * MS
        core.extend_election_timer(cluster.now, 30 * MS)
        core.tick(cluster.now)
    assert core.role is not Role.LEADER, "always late, and no quorum"


def test_forgetting_the_leader_leads_to_an_early_campaign_in_the_same_term():
    """Scenario 21 (etcd ForgetLeader): term and vote stay, pre-votes pass for good logs only."""
    node = make_node(term=1, log=(1, 1))
    core = node.core
    core.step(heartbeat((2, 1), 1), START)
    node.take(START)
    core.forget_leader(START, 30 * MS)
    assert (core.leader, core.term, core.role) == (0, 1, Role.FOLLOWER)
    assert START <= core.next_deadline <= START + 30 * MS
    core.step(pre_vote((3, 1), 2, (1, 1)), START)
    core.step(pre_vote((3, 1), 2, (2, 1)), START)
    granted = [m.granted for m in node.take(START) if isinstance(m, PreVoteReply)]
    assert granted == [False, True]


def test_forgetting_never_delays_a_campaign_and_its_jitter_is_bounded():
    node = make_node(term=1)
    core = node.core
    for _ in range(50):
        core.step(heartbeat((2, 1), 1), START)
        before = core.next_deadline
        core.forget_leader(before - 1, 30 * MS)
        assert before - 1 <= core.next_deadline <= before


def test_only_a_follower_of_a_leader_forgets_it():
    """Scenario 21: no-op on leaders, candidates and nodes without a leader."""
    node = make_candidate(3)
    before = node.core.next_deadline
    node.core.forget_leader(START, 0)
    assert (node.core.role, node.core.next_deadline) == (Role.CANDIDATE, before)
    follower = make_node().core
    before = follower.next_deadline
    follower.forget_leader(START, 0)
    assert follower.next_deadline == before
    cluster = Cluster(1)
    cluster.elect(1)
    cluster.core(1).forget_leader(cluster.now, 0)
    assert cluster.leader() == 1


def test_forgetting_a_dead_leader_shortens_the_fail_over():
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1)
    cluster.settle()
    cluster.isolate(1)
    for number in (2, 3):
        cluster.core(number).forget_leader(cluster.now, 30 * MS)
    cluster.run(60 * MS)
    assert cluster.leader() in (2, 3)


def test_a_follower_answers_heartbeats_at_once_only_in_a_durable_term():
    """Raft figure 2: a reply of a term that a crash could take back must wait."""
    node = make_node(term=1)
    node.core.step(heartbeat((2, 1), 2), START)
    assert node.take(START) == []
    assert node.persist(START) == [heartbeat_reply((1, 2), 2)]
    node.core.step(heartbeat((2, 1), 2), START)
    assert [type(message) for message in node.take(START)] == [HeartbeatReply]
    assert node.ready.send_after_sync == ()


# ---- when heartbeats leave ---------------------------------------------------------------------


def made_leader() -> Lone:
    lone = Lone(3)
    lone.lead()
    lone.sync()
    lone.step(*(ack((peer, 1), 1, 1) for peer in (2, 3)))
    return lone


def test_a_new_leader_beats_once_the_next_beat_is_due():
    """Its first Append has told everybody already."""
    lone = made_leader()
    lone.core.tick(lone.now)
    assert lone.turn() == []
    assert lone.now < lone.core.next_deadline <= lone.now + lone.config.heartbeat_ns


def test_a_quorum_check_that_holds_keeps_no_heartbeat_back():
    lone = made_leader()
    lone.now = lone.core._quorum_check_at
    lone.core.tick(lone.now)
    sent = lone.turn()
    assert [message.to for message in sent if isinstance(message, Heartbeat)] == [2, 3]


@pytest.mark.parametrize("leads", [True, False])
def test_waking_who_is_awake_changes_nothing(leads: bool):
    lone = made_leader() if leads else Lone(3)
    if not leads:
        lone.step(heartbeat((2, 1), 1))
    before = lone.core.next_deadline
    lone.now += 1 * MS
    lone.core.wake(lone.now)
    assert lone.turn() == []
    assert lone.core.next_deadline == before
