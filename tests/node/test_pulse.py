"""Contacts, beats for groups at rest, and the loop's own lag. See `node.pulse`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from node.pulse import Pulse
from node.raft.messages import NodeBeat
from node.raft.state import FOREVER
from node.raft.types import GroupId, NodeId, Role, Term
from tests.node.rig import MS, Node

LOW, HIGH, INTERVAL = 150 * MS, 300 * MS, 75 * MS
LOOK = 250 * MS


class Desk:
    """Node 1 of three with two groups, whose pulse the test feels by hand."""

    def __init__(self, voters: int = 3) -> None:
        self.node = Node(1, voters=voters, groups=2)
        self.pulse: Pulse = self.node.multi.pulse
        self.now = self.node.clock.now

    def hear(self, *peers: int) -> list[bool]:
        return [self.pulse.heard(NodeId(peer), self.now) for peer in peers]

    def rest(self, *groups: int, leader: int) -> None:
        """Let groups rest under a leader."""
        for number in groups:
            core = self.node.multi.groups[GroupId(number)].core
            core.leader, core.resting = NodeId(leader), True
            core.role = Role.LEADER if leader == 1 else Role.FOLLOWER
        self.settle(*groups)

    def wake(self, *groups: int) -> None:
        for number in groups:
            self.node.multi.groups[GroupId(number)].core.resting = False
        self.settle(*groups)

    def settle(self, *groups: int) -> list[GroupId]:
        touched = {GroupId(number): self.node.multi.groups[GroupId(number)] for number in groups}
        return self.pulse.settle(touched, self.now)

    def beats(self) -> list[tuple[int, bool]]:
        """Return who is sent a beat now, and whether it is asked for one."""
        return [(beat.to, beat.ack) for beat in self.pulse.beats(self.now)]

    def judge(self) -> list[int]:
        woken = self.pulse.judge(self.now)
        return [group.core.config.group for group in woken]

    def turn(self, lags: Iterable[int]) -> list[tuple[int, int]]:
        """Let turns of these lags pass; return the timeouts that came of it."""
        changes = [self.pulse.turned(lag, self.now) for lag in lags]
        return [(found.low, found.high) for found in changes if found is not None]


@pytest.fixture
def desk() -> Desk:
    """Both peers have just been heard."""
    made = Desk()
    made.hear(2, 3)
    return made


# ---- beats ---------------------------------------------------------------------------------------


def test_a_node_beats_as_long_as_it_leads_a_group_at_rest(desk):
    assert desk.beats() == []
    desk.rest(0, leader=1)
    assert desk.beats() == [(2, False), (3, False)]
    desk.wake(0)
    desk.now += INTERVAL
    assert desk.beats() == []


def test_a_node_whose_groups_rest_under_others_sends_no_beats(desk):
    desk.rest(0, leader=2)
    desk.rest(1, leader=3)
    desk.now += 10 * INTERVAL
    assert desk.beats() == []


def test_there_is_one_beat_per_peer_and_interval_for_all_groups(desk):
    desk.rest(0, 1, leader=1)
    sent = 0
    for _ in range(100):
        desk.hear(2, 3)
        sent += len(desk.beats())
        desk.now += INTERVAL // 10
    assert sent == 2 * 10


def test_a_group_that_joins_those_at_rest_moves_no_beat(desk):
    desk.rest(0, leader=1)
    desk.beats()
    desk.now += INTERVAL // 2
    desk.rest(1, leader=1)
    assert desk.beats() == []
    assert desk.pulse.next_deadline == desk.now + INTERVAL // 2


def test_a_beat_asks_for_an_answer_only_after_a_silence(desk):
    desk.rest(0, leader=1)
    desk.beats()
    desk.now += LOW * 2 // 3
    desk.hear(3)
    assert desk.beats() == [(2, False), (3, False)]
    desk.now += INTERVAL
    assert desk.beats() == [(2, True), (3, False)]


def test_a_beat_that_asks_is_answered_once_and_one_that_does_not_is_not(desk):
    for ack in (True, False):
        desk.pulse.asked(NodeBeat(GroupId(0), NodeId(3), NodeId(1), Term(0), ack))
        assert desk.beats() == ([(3, False)] if ack else [])
        assert desk.beats() == []


def test_a_node_alone_has_nobody_to_beat_for():
    desk = Desk(1)
    desk.rest(0, 1, leader=1)
    assert desk.beats() == []
    assert desk.pulse.next_deadline == FOREVER


# ---- contacts ------------------------------------------------------------------------------------


def test_a_peer_returns_when_it_was_silent_for_longer_than_the_longest_timeout():
    desk = Desk()
    assert desk.hear(2) == [True], "the first time"
    desk.now += HIGH
    assert desk.hear(2) == [False]
    desk.now += HIGH + 1
    assert desk.hear(2) == [True]


def test_the_groups_of_a_silent_leader_wake_and_no_others(desk):
    desk.rest(0, leader=2)
    desk.rest(1, leader=3)
    desk.now += LOW - 1
    desk.hear(3)
    assert desk.judge() == []
    desk.now += 1
    assert desk.pulse.next_deadline <= desk.now
    assert desk.judge() == [0]
    assert list(desk.pulse.resting) == [1]
    assert desk.pulse.next_deadline == desk.now - 1 + LOW


def test_every_frame_of_the_leaders_node_puts_the_judgement_off(desk):
    desk.rest(0, leader=2)
    for _ in range(10):
        desk.now += LOW - 1
        assert desk.judge() == []
        desk.hear(2)
        assert desk.pulse.next_deadline == desk.now + LOW


def test_a_node_that_leads_looks_for_its_quorum_once_per_timeout(desk):
    desk.rest(0, leader=1)
    desk.beats()
    looks: list[int] = []
    desk.node.multi.groups[GroupId(0)].core.judge_rest = looks.append
    for _ in range(60):
        desk.now += 10 * MS
        desk.hear(2, 3)
        desk.judge()
    assert len(looks) == 4


def test_a_leader_that_hears_nobody_steps_down_with_all_its_groups_at_rest(desk):
    desk.rest(0, 1, leader=1)
    desk.now += HIGH + 1
    assert desk.judge() == [0, 1]
    roles = {group.core.role for group in desk.node.multi.groups.values()}
    assert roles == {Role.FOLLOWER}
    assert desk.pulse.next_deadline == FOREVER


def test_a_group_that_rests_and_has_nothing_to_apply_needs_no_turns(desk):
    desk.rest(0, leader=2)
    assert desk.settle(0, 1) == [0]


def test_a_node_that_slept_gives_its_peers_that_time_but_no_more_than_a_timeout(desk):
    desk.rest(0, leader=2)
    desk.now += 400 * MS
    desk.pulse.forgive(300 * MS, desk.now)
    assert desk.pulse.contacts[NodeId(2)] == desk.now - 250 * MS
    desk.hear(3)
    desk.pulse.forgive(300 * MS, desk.now)
    assert desk.pulse.contacts[NodeId(3)] == desk.now, "never ahead of the clock"


def test_a_node_that_is_always_late_notices_a_silent_leader_all_the_same(desk):
    """The lateness of one silence is forgiven once; else an overloaded node would wait for ever."""
    desk.rest(0, leader=2)
    woken: list[int] = []
    for _ in range(20):
        desk.now += 30 * MS
        desk.pulse.forgive(30 * MS, desk.now)
        woken += desk.judge()
    assert woken == [0]


def test_lateness_is_forgiven_anew_after_every_contact(desk):
    for _ in range(3):
        desk.hear(2)
        desk.now += 100 * MS
        desk.pulse.forgive(40 * MS, desk.now)
        assert desk.pulse.contacts[NodeId(2)] == desk.now - 60 * MS


# ---- lag -----------------------------------------------------------------------------------------


def test_one_sleep_does_not_stretch_the_timeouts(desk):
    """Of fewer samples than 128 the 99th percentile is the maximum."""
    assert desk.turn([0] * 126 + [500 * MS]) == []
    desk.now += LOOK
    assert desk.turn([0] * 200) == []


def test_a_loop_that_lags_stretches_the_timeouts_and_a_quiet_one_restores_them(desk):
    changes = []
    for lag in (30 * MS, 0):
        for _ in range(12):
            desk.now += LOOK
            changes += desk.turn([lag] * 64)
    assert changes == [(LOW * 2, HIGH * 2), (LOW, HIGH)]
    assert (desk.pulse.timeouts.low, desk.pulse.stalls.lag_p99_ns) == (LOW, 0)


def test_the_timeouts_follow_at_most_four_times_a_second(desk):
    desk.now += LOOK
    assert desk.turn([20 * MS] * 127) == []
    desk.now += LOOK - 1
    assert desk.turn([20 * MS] * 50) == []
    desk.now += 1
    assert desk.turn([20 * MS]) == [(200 * MS, 400 * MS)]


def test_turns_beyond_half_a_timeout_are_counted_as_stalls(desk):
    desk.turn([LOW // 2, LOW // 2 + 1, 900 * MS, 80 * MS, 1])
    stalls = desk.pulse.stalls
    assert (stalls.count, stalls.longest_ns, stalls.last_ns) == (3, 900 * MS, 80 * MS)
