"""64 groups on three nodes: at rest they cost one beat per peer; each wakes by itself, and in need.

Whole nodes over real logs and codecs (`rig`), one virtual clock. See `node.multiraft`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from node.raft.messages import Message, NodeBeat
from node.raft.types import GroupId, NodeId, Role, Term
from tests.node.rig import MS, SESSION, Cluster, Node, read_of, write_of

GROUPS = 64
BEAT = 75 * MS
NODES = (1, 2, 3)


class Town:
    """A cluster whose clock moves from event to event; counts what is sent."""

    def __init__(self, groups: int = GROUPS) -> None:
        self.cluster = Cluster(3, groups)
        self.down: set[int] = set()
        self.sent: list[Message] = []

    def nodes(self) -> list[Node]:
        return [node for number, node in self.cluster.nodes.items() if number not in self.down]

    @property
    def now(self) -> int:
        return max(node.clock.now for node in self.cluster.nodes.values())

    def run(self, ns: int) -> None:
        """Let time pass; messages and disks take none of it."""
        end = self.now + ns
        while True:
            self._settle()
            due = min(node.multi.next_deadline for node in self.nodes())
            if due > end:
                break
            now = max(due, self.now)
            for node in self.cluster.nodes.values():
                node.clock.now = now
            for node in self.nodes():
                if node.multi.next_deadline <= now:
                    node.turn()
        for node in self.cluster.nodes.values():
            node.clock.now = end

    def _settle(self) -> None:
        for _ in range(400):
            worked = [node for node in self.nodes() if node.driver.pump()]
            inboxes: dict[int, list[Message]] = {number: [] for number in NODES}
            for number, node in self.cluster.nodes.items():
                leaving = node.wire.take()
                if number in self.down | self.cluster.cut:
                    continue
                self.sent += leaving
                for message in leaving:
                    if message.to not in self.down | self.cluster.cut:
                        inboxes[message.to].append(message)
            busy = [
                node
                for node in self.nodes()
                if inboxes[node.number] or node.is_busy or node in worked
            ]
            if not busy:
                return
            for node in busy:
                node.turn(*inboxes[node.number])
        raise AssertionError("the cluster does not come to rest")

    def take_sent(self) -> list[Message]:
        taken, self.sent = self.sent, []
        return taken

    # ---- what is seen ---

    def leader(self, group: int) -> int:
        """Who leads a group, of those that are up: 0 if it is nobody, or not clear."""
        cores = {n.number: n.multi.groups[GroupId(group)].core for n in self.nodes()}
        leads = [number for number, core in cores.items() if core.role is Role.LEADER]
        return leads[0] if len(leads) == 1 else 0

    def leaders(self) -> Counter[int]:
        return Counter(self.leader(group) for group in self.groups)

    def terms(self) -> dict[int, int]:
        node = self.nodes()[0]
        return {group: node.multi.groups[GroupId(group)].core.term for group in self.groups}

    @property
    def groups(self) -> range:
        return range(len(self.cluster[1].multi.groups))

    def rests(self, group: int) -> bool:
        return all(node.multi.groups[GroupId(group)].core.resting for node in self.nodes())

    def all_rest(self) -> bool:
        return all(self.rests(group) for group in self.groups)

    def kill(self, number: int, *, noticed: bool) -> None:
        """End a node's process; its peers may see its connection break."""
        self.down.add(number)
        for node in self.nodes():
            if noticed:
                node.multi.peer_lost(NodeId(number), self.now, 30 * MS)

    def start(self, number: int) -> None:
        self.down.discard(number)
        self.cluster[number].boot()


@pytest.fixture
def town() -> Town:
    """All groups rest, spread over the nodes."""
    made = Town()
    made.run(3000 * MS)
    assert made.all_rest()
    made.take_sent()
    return made


def of_groups(sent: Sequence[Message]) -> set[int]:
    return {message.group for message in sent if not isinstance(message, NodeBeat)}


def write(town: Town, group: int) -> int:
    """Write to a group at its leader; return how many answers there are."""
    leader = town.cluster[town.leader(group)]
    leader.replies.take()
    request = replace(write_of(SESSION), group=GroupId(group))
    leader.multi.groups[GroupId(group)].write(request)
    leader.turn()
    town.run(0)
    return len(leader.replies.take())


def test_all_groups_come_to_rest_each_at_the_node_that_should_lead_it(town):
    assert [town.leader(group) for group in town.groups] == [g % 3 + 1 for g in town.groups]
    assert all(node.multi.next_deadline > town.now for node in town.nodes())
    assert not any(node.multi._awake for node in town.nodes())


def test_an_idle_cluster_sends_one_beat_per_peer_and_interval_and_nothing_else(town):
    town.run(20 * BEAT)
    sent = town.take_sent()
    assert of_groups(sent) == set()
    routes = Counter((message.sender, message.to) for message in sent)
    assert set(routes) == {(a, b) for a in NODES for b in NODES if a != b}
    assert all(19 <= count <= 21 for count in routes.values()), routes


def test_a_follower_of_everything_only_answers_now_and_then():
    """Beats come from leaders' nodes; an answer is asked for after two thirds of a timeout."""
    town = Town(1)
    town.run(1500 * MS)
    assert town.all_rest()
    leader = town.leader(0)
    town.take_sent()
    town.run(60 * BEAT)
    routes = Counter(message.sender == leader for message in town.take_sent())
    assert 118 <= routes[True] <= 122
    assert 30 <= routes[False] <= 60, "every second or third beat of each"


def test_one_group_works_while_the_others_stay_at_rest(town):
    assert write(town, 7) == 1
    assert not town.rests(7)
    for _ in range(10):
        town.run(BEAT)
        assert write(town, 7) == 1
    assert of_groups(town.take_sent()) == {7}
    assert all(town.rests(group) for group in town.groups if group != 7)
    town.run(1000 * MS)
    assert town.all_rest()


def test_a_linearizable_read_wakes_its_group_and_is_answered(town):
    leader = town.cluster[town.leader(9)]
    leader.multi.groups[GroupId(9)].read(replace(read_of([1, b"k"]), group=GroupId(9)))
    leader.turn()
    assert leader.replies.take() == [], "not without a round"
    town.run(0)
    assert len(leader.replies.take()) == 1
    assert of_groups(town.take_sent()) == {9}


def test_a_local_read_wakes_nobody(town):
    node = town.cluster[2]
    request = replace(read_of([1, b"k"], local=True), group=GroupId(0))
    node.multi.groups[GroupId(0)].read(request)
    node.turn()
    assert len(node.replies.take()) == 1
    town.run(0)
    assert of_groups(town.take_sent()) == set()
    assert town.all_rest()


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "silent"])
def test_all_groups_of_a_dead_node_get_leaders_and_no_others_are_disturbed(town, noticed):
    before = {group: town.leader(group) for group in town.groups}
    terms = town.terms()
    town.kill(1, noticed=noticed)
    orphans = {group for group in town.groups if before[group] == 1}
    for node in town.nodes():
        assert set(node.multi._awake) == (orphans if noticed else set())
    town.run((60 if noticed else 700) * MS)
    after = {group: town.leader(group) for group in town.groups}
    assert all(after[group] in (2, 3) for group in town.groups)
    kept = {group for group in town.groups if before[group] != 1}
    assert {after[group] for group in kept} == {2, 3}
    assert all(after[group] == before[group] for group in kept)
    assert of_groups(town.take_sent()) == set(town.groups) - kept
    now = town.cluster[2].multi.groups
    assert all(now[GroupId(group)].core.term == terms[group] for group in kept)
    assert write(town, 0) == 1


def test_a_peer_that_returns_wakes_the_groups_that_rest_under_this_node_and_no_others(town):
    """It may have missed anything, and nothing else would tell the leader."""
    node = town.cluster[1]
    led = {group for group in town.groups if town.leader(group) == 1}
    beat = NodeBeat(GroupId(0), NodeId(2), NodeId(1), Term(0), False)
    assert of_groups(node.turn(beat)) == set(), "it was never away"
    node.multi.pulse.contacts[NodeId(2)] -= 301 * MS
    assert of_groups(node.turn(beat)) == led


def test_a_node_that_returns_gets_its_groups_back(town):
    town.kill(1, noticed=True)
    town.run(2000 * MS)
    assert town.leaders()[1] == 0
    assert all(write(town, group) == 1 for group in (0, 1, 2))
    town.start(1)
    town.run(12_000 * MS)
    assert [town.leader(group) for group in town.groups] == [g % 3 + 1 for g in town.groups]
    assert town.all_rest()
    commits = {node.multi.groups[GroupId(0)].core.commit for node in town.nodes()}
    assert len(commits) == 1


def test_a_restart_that_nobody_notices_leaves_no_group_without_a_leader(town):
    """Its node is heard all the time: only its own campaign frees those that rest under it."""
    town.start(1)
    town.run(1500 * MS)
    assert town.leaders()[0] == 0
    assert all(write(town, group) == 1 for group in town.groups)


def test_a_leader_that_is_cut_off_steps_down_with_its_resting_groups_and_they_fail_over(town):
    town.cluster.cut = {1}
    town.run(1000 * MS)
    roles = {group.core.role for group in town.cluster[1].multi.groups.values()}
    assert Role.LEADER not in roles
    assert {town.leader(group) for group in town.groups} == {2, 3}
    town.cluster.cut = set()
    town.run(12_000 * MS)
    assert town.all_rest()
    assert [town.leader(group) for group in town.groups] == [g % 3 + 1 for g in town.groups]


def test_a_peer_that_missed_a_write_to_a_group_at_rest_learns_it_when_it_returns(town):
    group = next(g for g in town.groups if town.leader(g) == 2)
    town.cluster.cut = {3}
    assert write(town, group) == 1
    town.run(1000 * MS)
    town.cluster.cut = set()
    town.run(1000 * MS)
    states = [node.multi.groups[GroupId(group)] for node in town.nodes()]
    assert len({state.applied for state in states}) == 1
    assert town.leader(group) == 2
