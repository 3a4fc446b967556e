"""Who counts as alive: append progress in CheckQuorum, and the leader's own stalled disk (DESIGN §4)."""

from __future__ import annotations

import pytest

from node.raft.progress import Progress
from node.raft.types import Index, Role
from tests.node.raft.kit import MS, Cluster
from tests.node.raft.letters import ack, heartbeat_reply, refusal
from tests.node.raft.lone import Lone


def make(match: int, sends: tuple[int, ...] = ()) -> Progress:
    """A replicating follower that acknowledged `match`; the check before now is done."""
    progress = Progress(Index(match + 1))
    progress.acknowledged(Index(match))
    for last in sends:
        progress.sent(Index(last), 10)
    progress.active = True
    progress.is_alive()
    return progress


def look(progress: Progress, received: int = 0, *, answered: bool = False) -> bool:
    """Judge a period in which heartbeats were answered and entries up to `received` had arrived."""
    progress.active = True
    progress.answered = answered
    progress.received = max(progress.received, Index(received))
    return progress.is_alive()


def test_who_says_nothing_is_not_alive():
    progress = make(4)
    assert not progress.is_alive()
    assert look(progress)


def test_heartbeats_alone_keep_an_idle_follower_alive():
    progress = make(4)
    assert all(look(progress) for _ in range(5))


def test_heartbeats_alone_do_not_while_appends_do_not_arrive():
    progress = make(4, sends=(6,))
    assert not look(progress)
    assert look(progress, 6)


def test_what_was_sent_since_the_last_check_is_not_expected_yet():
    progress = make(4)
    progress.sent(Index(6), 10)
    assert look(progress), "it had no time to arrive"
    assert not look(progress)


def test_an_entry_that_arrived_counts_though_it_is_not_durable():
    progress = make(4, sends=(6,))
    assert look(progress, 6)
    assert progress.match == 4
    assert all(look(progress, 6) for _ in range(5)), "a disk may take long"


def test_a_full_window_that_moves_slowly_is_alive():
    progress = make(4, sends=tuple(range(5, 69)))
    assert not progress.may_send(64, 1 << 20)
    assert all(look(progress, received) for received in range(5, 12))
    assert not look(progress, 11), "now it stands"


def test_an_answer_to_an_append_counts_either_way():
    progress = make(4, sends=(6,))
    assert look(progress, answered=True)
    assert not look(progress)


def test_an_old_answer_does_not_count_twice():
    progress = make(4, sends=(6, 7, 8))
    assert look(progress, 5)
    assert not look(progress, 5)


def test_a_probe_is_expected_to_be_answered():
    progress = Progress(Index(5))
    assert look(progress), "nothing was sent"
    progress.sent(Index(9), 10)
    assert look(progress)
    assert not look(progress), "it was sent before the last check"
    assert look(progress, answered=True)
    progress.paused = False
    assert not look(progress), "expected was an answer"
    assert look(progress), "and now none is"


def test_a_follower_that_needs_a_snapshot_is_alive_by_its_heartbeats():
    progress = make(4, sends=(6,))
    progress.compacted()
    look(progress)
    assert all(look(progress) for _ in range(3))
    assert not progress.is_alive()


# ---- whole leaders -------------------------------------------------------------------------------


def make_leader(voters: int = 3) -> Lone:
    """A leader of term 1; all have its only entry."""
    lone = Lone(voters)
    lone.lead()
    lone.sync()
    for peer in lone.config.voters[1:]:
        lone.step(ack((peer, 1), 1, 1))
    return lone


def leads(lone: Lone) -> bool:
    return lone.core.role is Role.LEADER


def pass_check(lone: Lone, *peers: int, received: int = 1) -> bool:
    """Let a check go by in which `peers` answer heartbeats; tell whether it still leads."""
    for peer in peers:
        lone.step(heartbeat_reply((peer, 1), 1, 0, 1, received=received))
    lone.now = lone.core._quorum_check_at
    lone.core.tick(lone.now)
    lone.turn()
    return leads(lone)


def test_a_leader_whose_appends_do_not_arrive_steps_down_though_heartbeats_are_answered():
    """Votes and heartbeats have a lane of their own: it would lead for ever and commit nothing."""
    lone = make_leader()
    assert pass_check(lone, 2, 3)
    lone.propose()
    lone.sync()
    checks = 1
    while pass_check(lone, 2, 3):
        checks += 1
        assert checks < 5
    assert checks >= 2, "they had time"


def test_a_leader_whose_followers_have_slow_disks_leads_on():
    lone = make_leader()
    lone.propose()
    lone.sync()
    assert all(pass_check(lone, 2, 3, received=2) for _ in range(10))
    assert lone.core.commit == 1


def test_one_follower_with_entries_arriving_is_a_quorum_of_three():
    lone = make_leader()
    lone.propose()
    lone.sync()
    for _ in range(6):
        lone.step(heartbeat_reply((2, 1), 1, 0, 1, received=2))
        assert pass_check(lone, 3)


@pytest.mark.parametrize("answer", [refusal((2, 1), 1, 1), ack((2, 1), 1, 1)])
def test_followers_that_answer_appends_keep_the_lead_while_they_catch_up(answer):
    lone = make_leader()
    lone.propose()
    lone.sync()
    for _ in range(6):
        lone.step(answer)
        assert pass_check(lone, 2, 3)


# ---- the leader's own disk -----------------------------------------------------------------------


def stall(voters: int, *synced: int, ns: int = 300 * MS) -> Lone:
    """The leader's disk hangs with an entry that these peers have synced; time passes."""
    lone = make_leader(voters)
    lone.propose()
    started = lone.now
    for peer in synced:
        lone.step(ack((peer, 1), 1, 2))
    run(lone, started + ns)
    return lone


def run(lone: Lone, until: int) -> None:
    """Let heartbeats go by, all answered; the clock ends there."""
    core = lone.core
    while core.role is Role.LEADER and core.next_deadline <= until:
        lone.now = core.next_deadline
        for peer in core._peers:
            core.step(heartbeat_reply((peer, 1), 1, 0, 1, received=core.log.last_index), lone.now)
        core.tick(lone.now)
        lone.turn()
    lone.now = until


@pytest.mark.parametrize(
    ("voters", "synced", "leads"),
    [
        (3, (2, 3), False),
        (3, (2,), True),
        (5, (2, 3, 4), False),
        (5, (2, 3), True),
        (5, (), True),
    ],
)
def test_a_leader_whose_disk_hangs_steps_down_for_a_quorum_of_better_disks(voters, synced, leads):
    """They could commit without it; fewer could not, and share the stall."""
    lone = stall(voters, *synced, ns=400 * MS)
    assert (lone.core.role is Role.LEADER) == leads
    assert lone.core.shared_stalls == (1 if leads else 0)
    assert lone.core.term == 1


def test_a_stall_shorter_than_the_longest_timeout_is_ignored():
    lone = stall(3, 2, 3, ns=299 * MS)
    assert (lone.core.role, lone.core.shared_stalls) == (Role.LEADER, 0)
    lone.sync()
    run(lone, lone.now + 1000 * MS)
    assert (lone.core.role, lone.core.shared_stalls) == (Role.LEADER, 0)


def test_a_stretched_timeout_gives_a_disk_more_time():
    lone = make_leader()
    lone.core.timeouts = type(lone.core.timeouts)(500 * MS, 1000 * MS)
    lone.propose()
    started = lone.now
    for peer in (2, 3):
        lone.step(ack((peer, 1), 1, 2))
    run(lone, started + 999 * MS)
    assert leads(lone)
    run(lone, started + 1100 * MS)
    assert not leads(lone)


def test_a_shared_stall_is_counted_once_however_long_it_lasts():
    lone = stall(3, ns=3000 * MS)
    assert (lone.core.role, lone.core.shared_stalls) == (Role.LEADER, 1)
    lone.sync()
    lone.propose()
    run(lone, lone.now + 1000 * MS)
    assert lone.core.shared_stalls == 2, "another one"


def test_a_shared_stall_that_the_others_overcome_ends_the_lead():
    lone = stall(3, ns=1000 * MS)
    assert leads(lone)
    for peer in (2, 3):
        lone.step(ack((peer, 1), 1, 2))
    run(lone, lone.now + 100 * MS)
    assert not leads(lone)


def test_later_entries_that_nobody_has_synced_yet_do_not_excuse_the_oldest():
    lone = make_leader()
    lone.propose()
    lone.propose()
    for peer in (2, 3):
        lone.step(ack((peer, 1), 1, 2))
    run(lone, lone.now + 400 * MS)
    assert (lone.core.role, lone.core.shared_stalls) == (Role.FOLLOWER, 0)


def test_the_oldest_entry_that_waits_is_what_counts():
    """A disk that is always behind, but works, is no stall."""
    lone = make_leader()
    for number in range(2, 30):
        lone.propose()
        for peer in (2, 3):
            lone.step(ack((peer, 1), 1, number))
        run(lone, lone.now + 100 * MS)
        if len(lone.in_flight) > 2:
            lone.persist(lone.now)
    assert (lone.core.role, lone.core.shared_stalls) == (Role.LEADER, 0)
    run(lone, lone.now + 400 * MS)
    assert lone.core.role is Role.FOLLOWER, "now it hangs"


def test_a_group_goes_on_without_a_leader_whose_disk_hangs():
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1)
    until = cluster.now + 2000 * MS
    while cluster.now < until and cluster.leader() in (None, 1):
        number = min(cluster.nodes, key=lambda n: cluster.nodes[n].next_deadline)
        cluster.at_deadline(number)
        for _ in range(6):
            for other in cluster.nodes:
                if waiting := cluster.between(to=other):
                    cluster.deliver(*waiting)
                if other != 1:
                    cluster.persist(other)
    assert cluster.leader() in (2, 3)
    assert cluster.core(1).role is not Role.LEADER
