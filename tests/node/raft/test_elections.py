"""Elections: Raft §5.2 and §5.4.1, PreVote (thesis §9.6), CheckQuorum and stickiness (§6.2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.raft.messages import AppendReply, Message, PreVote, PreVoteReply, Vote, VoteReply
from node.raft.types import GroupId, HardState, NodeId, Role, Term
from tests.node.raft.kit import MS, START, Cluster
from tests.node.raft.letters import (
    ack,
    append,
    heartbeat,
    heartbeat_reply,
    pre_vote,
    pre_vote_reply,
    vote,
    vote_reply,
)
from tests.node.raft.lone import make_candidate, make_node

# ---- terms (Raft §5.1) -----------------------------------------------------------------------


def test_every_node_starts_as_a_follower_in_its_persisted_term():
    """Raft §5.2; scenario 1."""
    core = make_node(term=7, vote_for=3, log=(1, 5)).core
    assert (core.role, core.term, core.vote, core.leader) == (Role.FOLLOWER, 7, 3, 0)
    assert (core.commit, core.durable_index) == (0, 2)


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER])
def test_a_higher_term_makes_a_follower_and_clears_the_vote(role):
    """Raft §5.1; scenario 2."""
    node = make_candidate(3)
    if role is Role.FOLLOWER:
        node.core.step(append((2, 1), 1), START)
    elif role is Role.PRE_CANDIDATE:
        node.persist(START)
        node.core.tick(node.core.next_deadline)
    elif role is Role.LEADER:
        node.persist(START)
        node.core.step(vote_reply((2, 1), 1, granted=True), START)
    assert node.core.role is role
    node.core.step(ack((2, 1), 9, 0), START)
    assert (node.core.role, node.core.term, node.core.vote) == (Role.FOLLOWER, 9, 0)
    assert node.core.leader == 0
    node.take(START)
    assert node.ready.hard_state == HardState(Term(9))


def test_a_message_of_an_older_term_changes_nothing_and_is_answered_with_our_term():
    """Raft §5.1; scenario 3. The answer frees a leader or candidate that was left behind."""
    node = make_node(term=5, log=(1,))
    before = (node.core.term, node.core.vote, node.core.leader, node.core.next_deadline)
    stale: list[Message] = [
        append((2, 1), 4, (0, 0), [4]),
        heartbeat((2, 1), 4),
        vote((2, 1), 4, (9, 4)),
    ]
    for message in stale:
        node.core.step(message, START)
    replies = node.take(START)
    assert [(type(reply), reply.term) for reply in replies] == [
        (AppendReply, 5),
        (AppendReply, 5),
        (VoteReply, 5),
    ]
    replies = [
        ack((2, 1), 4, 1),
        heartbeat_reply((2, 1), 4),
        vote_reply((2, 1), 4, granted=True),
    ]
    for message in replies:
        node.core.step(message, START)
    assert not node.core.has_ready()
    core = node.core
    assert before == (core.term, core.vote, core.leader, core.next_deadline)
    assert core.log.last_index == 1


def test_strangers_and_other_groups_are_ignored():
    node = make_node()
    node.core.step(append((9, 1), 5), START)
    node.core.step(append((2, 3), 5), START)
    node.core.step(replace(append((2, 1), 5), group=GroupId(8)), START)
    assert node.core.term == 0
    assert not node.core.has_ready()


# ---- votes (Raft §5.2, §5.4.1) -----------------------------------------------------------------


def test_a_voter_grants_one_vote_per_term():
    """Raft §5.2; scenario 4: first come, first served; the same candidate again is granted."""
    node = make_node()
    for candidate in (2, 3, 2):
        node.core.step(vote((candidate, 1), 1), START)
    node.take(START)
    replies = node.persist(START)
    assert replies == [
        vote_reply((1, 2), 1, granted=True),
        vote_reply((1, 3), 1, granted=False),
        vote_reply((1, 2), 1, granted=True),
    ]


def test_a_voter_remembers_its_vote_over_a_restart():
    """Raft figure 2 (votedFor is persistent); scenario 4."""
    node = make_node()
    node.core.step(vote((2, 1), 1), START)
    node.take(START)
    node.persist(START)
    node.boot(START)
    node.core.step(vote((3, 1), 1, (9, 1)), START)
    node.core.step(vote((2, 1), 1), START)
    assert node.take(START) == [
        vote_reply((1, 3), 1, granted=False),
        vote_reply((1, 2), 1, granted=True),
    ]


def test_a_vote_leaves_only_after_it_is_durable():
    """Raft figure 2; scenario 58. A vote lost in a crash was never sent."""
    node = make_node()
    node.core.step(vote((2, 1), 1), START)
    assert node.take(START) == []
    assert node.ready.send_after_sync == (vote_reply((1, 2), 1, granted=True),)
    assert node.ready.hard_state == HardState(Term(1), NodeId(2))
    node.boot(START)
    node.core.step(vote((3, 1), 1), START)
    node.take(START)
    assert node.persist(START) == [vote_reply((1, 3), 1, granted=True)]


@pytest.mark.parametrize(
    ("last", "granted"),
    [
        ((2, 3), True),  # equal
        ((3, 3), True),  # longer
        ((1, 4), True),  # shorter, but of a later term
        ((1, 3), False),  # shorter
        ((9, 2), False),  # longer, but of an earlier term: never by index alone
        ((0, 0), False),
    ],
)
def test_a_vote_needs_an_up_to_date_log(last, granted):
    """Raft §5.4.1; scenario 5: (last term, last index) compared as a pair."""
    node = make_node(term=3, log=(1, 3))
    node.core.step(pre_vote((2, 1), 5, last), START)
    assert node.take(START) == [pre_vote_reply((1, 2), 5 if granted else 3, granted=granted)]
    node.core.step(vote((2, 1), 5, last), START)
    node.take(START)
    assert node.persist(START) == [vote_reply((1, 2), 5, granted=granted)]
    assert node.core.vote == (2 if granted else 0)


def test_a_granted_vote_restarts_the_timer_and_a_refused_one_of_the_same_term_does_not():
    """Raft §5.2, figure 2 (followers)."""
    node = make_node(term=1, vote_for=2)
    before = node.core.next_deadline
    node.core.step(vote((3, 1), 1), START + 100 * MS)
    assert node.core.next_deadline == before
    node.core.step(vote((2, 1), 1), START + 100 * MS)
    assert node.core.next_deadline >= START + 250 * MS


def test_an_election_is_announced_by_pre_votes_for_the_next_term():
    """Thesis §9.6: nothing is stored, and the term does not move."""
    node = make_node(term=4, log=(1, 4))
    node.core.tick(node.core.next_deadline - 1)
    assert not node.core.has_ready()
    node.core.tick(node.core.next_deadline)
    assert node.take(START) == [pre_vote((1, 2), 5, (2, 4)), pre_vote((1, 3), 5, (2, 4))]
    assert (node.core.role, node.core.term) == (Role.PRE_CANDIDATE, 4)
    assert node.ready.token is None


def test_a_candidate_asks_for_votes_only_once_its_own_vote_is_durable():
    """Raft §5.2 and figure 2."""
    node = make_candidate(3)
    assert node.ready.hard_state == HardState(Term(1), NodeId(1))
    assert node.ready.send_now == ()
    assert node.persist(START) == [vote((1, 2), 1), vote((1, 3), 1)]


def test_a_candidate_leads_only_once_its_own_vote_is_durable():
    """Thesis §10.2.1's counterpart for votes; scenario 22. Replies may be handled first."""
    node = make_candidate(3)
    for peer in (2, 3):
        node.core.step(vote_reply((peer, 1), 1, granted=True), START)
        assert node.core.role is Role.CANDIDATE
    node.persist(START)
    assert node.core.role is Role.LEADER


def test_a_candidate_that_waits_for_its_own_disk_does_not_start_over():
    """Else an fsync slower than the timeout lets nobody ever be elected."""
    node = make_candidate(3)
    core = node.core
    core.tick(core.next_deadline)
    assert (core.role, core.term) == (Role.CANDIDATE, 1)
    late = core.next_deadline - 1
    node.persist(late)
    assert core.next_deadline >= late + core.config.election_ns_min, "the round starts now"
    core.tick(core.next_deadline)
    assert (core.role, core.term) == (Role.PRE_CANDIDATE, 1)


def _outcomes() -> list[tuple[int, int, int, Role]]:
    """(voters, granting peers, refusing peers, role) by the definition of a majority."""
    table = []
    for voters in range(2, 10):
        for yes in range(voters):
            for no in range(voters - yes):
                if 2 * (yes + 1) > voters:
                    role = Role.LEADER
                elif 2 * (voters - no) <= voters:
                    role = Role.FOLLOWER
                else:
                    role = Role.CANDIDATE
                table.append((voters, yes, no, role))
    return table


def test_a_round_of_votes_is_won_lost_or_open():
    """Raft §5.2; scenario 7: every count of answers for 2 to 9 voters, even sizes too."""
    for voters, yes, no, role in _outcomes():
        node = make_candidate(voters)
        node.persist(START)
        for peer in range(2, yes + 2):
            node.core.step(vote_reply((peer, 1), 1, granted=True), START)
        for peer in range(yes + 2, yes + no + 2):
            node.core.step(vote_reply((peer, 1), 1, granted=False), START)
        assert node.core.role is role, (voters, yes, no)


def test_a_single_voter_elects_itself_and_commits_alone():
    """Scenario 25, pre-vote included; the own fsync is still waited for."""
    node = make_node(voters=1)
    core = node.core
    core.tick(core.next_deadline)
    assert (core.role, core.term) == (Role.CANDIDATE, 1)
    node.take(START)
    node.persist(START)
    assert (core.role, core.commit) == (Role.LEADER, 0)
    node.take(START)
    assert core.commit == 0
    node.persist(START)
    assert core.commit == 1
    core.tick(core.next_deadline + 10_000 * MS)
    assert core.role is Role.LEADER, "it is its own quorum"


def test_two_voters_need_each_other():
    """An even-sized cluster: half is no majority."""
    cluster = Cluster(2)
    cluster.elect(1)
    cluster.isolate(2)
    cluster.propose(1)
    cluster.settle()
    assert cluster.core(1).commit == 1
    cluster.run(700 * MS)
    assert cluster.leader() is None
    cluster.heal()
    cluster.run(1000 * MS)
    assert cluster.leader() is not None
    assert cluster.core(1).commit == cluster.core(2).commit == 3


def test_a_candidate_yields_to_the_leader_of_its_term():
    """Raft §5.2; scenario 6."""
    for message in (append((2, 1), 1), heartbeat((2, 1), 1)):
        node = make_candidate(3)
        node.core.step(message, START)
        assert (node.core.role, node.core.leader, node.core.vote) == (Role.FOLLOWER, 2, 1)


def test_votes_that_come_after_the_election_change_nothing():
    """Scenario 22."""
    node = make_candidate(3)
    node.core.step(append((2, 1), 1), START)
    node.persist(START)
    for peer in (2, 3):
        node.core.step(vote_reply((peer, 1), 1, granted=True), START)
    assert node.core.role is Role.FOLLOWER


def test_a_pre_vote_is_not_a_vote():
    """Scenario 22: answers to the campaign count neither for nor against the election."""
    node = make_candidate(5)
    node.persist(START)
    for peer in (2, 3, 4, 5):
        node.core.step(pre_vote_reply((peer, 1), 1, granted=True), START)
        node.core.step(pre_vote_reply((peer, 1), 1, granted=False), START)
    assert node.core.role is Role.CANDIDATE


def test_a_voters_first_answer_counts():
    node = make_candidate(5)
    node.persist(START)
    for granted in (True, False, True):
        node.core.step(vote_reply((2, 1), 1, granted=granted), START)
    assert node.core.role is Role.CANDIDATE


def test_a_split_vote_ends_with_the_next_round():
    """Raft §5.2; scenarios 9 and 14: two candidates in one term, then one leader."""
    cluster = Cluster(4)
    for number in (1, 2):
        cluster.at_deadline(number)
    for number in (1, 2):  # 3 and 4 grant both pre-votes
        cluster.deliver(*cluster.between(to=3, sender=number))
        cluster.deliver(*cluster.between(to=4, sender=number))
    for number in (1, 2):
        cluster.deliver(*cluster.between(to=number, kind=PreVoteReply))
        cluster.persist(number)
    assert [cluster.core(n).role for n in (1, 2)] == [Role.CANDIDATE] * 2
    cluster.deliver(*cluster.between(sender=1, to=3, kind=Vote))
    cluster.deliver(*cluster.between(sender=2, to=4, kind=Vote))
    cluster.settle()
    assert cluster.leader() is None
    cluster.run(1000 * MS)
    leader = cluster.leader()
    assert leader is not None
    assert len({core.log.batches for _, core in cluster.cores()}) == 1
    assert {core.leader for _, core in cluster.cores()} == {leader}


# ---- PreVote (thesis §9.6) ---------------------------------------------------------------------


def test_the_loser_of_a_pre_vote_never_raised_its_term():
    """Thesis §9.6; scenarios 10 and 11: a node with a shorter log cannot disturb."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.propose(1)
    cluster.settle()
    cluster.run(2000 * MS)
    assert cluster.core(3).elections_started > 4
    assert cluster.core(3).term == 1
    cluster.heal()
    cluster.run(500 * MS)
    assert (cluster.leader(), cluster.core(1).term) == (1, 1)
    assert cluster.core(3).leader == 1


def test_a_refused_pre_vote_majority_ends_the_campaign():
    node = make_node(term=2, log=(1, 2))
    node.core.tick(node.core.next_deadline)
    for peer in (2, 3):
        node.core.step(pre_vote_reply((peer, 1), 2, granted=False), START)
    assert (node.core.role, node.core.term, node.core.leader) == (Role.FOLLOWER, 2, 0)
    node.core.step(pre_vote_reply((2, 1), 3, granted=True), START)
    assert node.core.role is Role.FOLLOWER, "too late"


def test_a_pre_vote_grant_for_another_term_does_not_count():
    node = make_node(term=2)
    node.core.tick(node.core.next_deadline)
    node.core.step(pre_vote_reply((2, 1), 2, granted=True), START)
    node.core.step(pre_vote_reply((3, 1), 4, granted=True), START)
    assert (node.core.role, node.core.term) == (Role.PRE_CANDIDATE, 2)


def test_granting_a_pre_vote_promises_nothing():
    """Thesis §9.6: neither term, vote nor timer move; several may be granted."""
    node = make_node(term=2)
    deadline = node.core.next_deadline
    for peer in (2, 3):
        node.core.step(pre_vote((peer, 1), 3), START + 10 * MS)
    assert node.take(START) == [
        pre_vote_reply((1, 2), 3, granted=True),
        pre_vote_reply((1, 3), 3, granted=True),
    ]
    assert node.ready.token is None
    core = node.core
    assert (core.term, core.vote, core.next_deadline) == (2, 0, deadline)


def test_a_refused_pre_vote_teaches_the_higher_term():
    """Scenario 13: a node that comes back with a lower term is not shut out for good."""
    node = make_node(term=2)
    node.core.tick(node.core.next_deadline)
    node.core.step(pre_vote_reply((2, 1), 6, granted=False), START)
    assert (node.core.role, node.core.term) == (Role.FOLLOWER, 6)


def test_a_rejoining_node_with_a_lower_term_can_still_be_elected():
    """Scenario 13: the leader vanishes; the two others differ in term and agree in the end."""
    cluster = Cluster(3)
    cluster.preload(1, [1, 1], term=1)
    cluster.preload(2, [1, 1], term=4)
    cluster.isolate(3)
    cluster.run(3000 * MS)
    assert cluster.leader() in (1, 2)
    assert cluster.core(1).commit == cluster.core(2).commit == 3


@pytest.mark.parametrize("behind", [True, False])
def test_a_stuck_node_with_a_higher_term_is_freed(behind):
    """Scenarios 15 and 17: its answer to the leader's heartbeat moves the cluster to its term."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.preload(3, [] if behind else [1], term=6)
    cluster.now = cluster.core(3).next_deadline
    cluster.isolate(3)
    cluster.heartbeat(1)
    cluster.heal()
    cluster.tick(3)  # a pre-candidate of a higher term; the two others stay with 1
    cluster.settle()
    assert (cluster.leader(), cluster.core(3).role) == (1, Role.PRE_CANDIDATE)
    cluster.run(2000 * MS)
    leader = cluster.leader()
    assert leader is not None
    assert cluster.core(leader).term > 6
    assert {core.leader for _, core in cluster.cores()} == {leader}
    if behind:
        assert leader != 3


def test_a_pre_candidate_may_vote_for_another_in_its_own_term():
    """Raft §5.2: it has not voted in this term; its campaign is for the next one."""
    node = make_node(term=2)
    node.core.tick(node.core.next_deadline)
    assert [type(message) for message in node.take(START)] == [PreVote, PreVote]
    node.core.step(vote((2, 1), 2), START)
    node.take(START)
    assert node.persist(START) == [vote_reply((1, 2), 2, granted=True)]
