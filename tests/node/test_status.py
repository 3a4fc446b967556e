"""What a node says of itself (`node.status`), and how little of it travels (`node.status_wire`)."""

import time
from dataclasses import replace

import msgpack
import pytest

from node.metrics import GroupSnapshot, NodeSnapshot, PeerSnapshot, SnapshotError
from node.raft.messages import Heartbeat, HeartbeatReply, NodeBeat
from node.raft.types import GroupId, Index, NodeId, Role, Term
from node.status import group_row, links, row_key
from node.status_wire import RowTable, StatusView, encode_status
from tests.node.rig import GROUP, MS, Cluster, Node

OWN = NodeSnapshot(1, 7, 4711, 10**9)
ANSWER_MS_MAX = 50
"""A whole answer of 1,024 groups takes 6 ms here, one that follows another 1 ms."""


def over_the_wire(document):
    return msgpack.unpackb(msgpack.packb(document))


def rows_of(node):
    return [group_row(group, node.clock.now) for group in node.multi.groups.values()]


def table_of(node):
    table = RowTable(row_key, group_row)
    table.look(node.multi.groups.values(), node.clock.now)
    return table


def look_again(node, table, view):
    table.look(node.multi.groups.values(), node.clock.now)
    document = over_the_wire(encode_status(OWN, table, view.token))
    return document, view.take(document)


@pytest.fixture
def three():
    cluster = Cluster(3)
    cluster.elect(1)
    return cluster


# --- what it says ---------------------------------------------------------------------


def test_a_leader_and_its_followers_tell_timer_lead_and_runs_of_the_log(three):
    [leader], [follower] = rows_of(three.nodes[1]), rows_of(three.nodes[2])
    assert (leader.role, follower.role) == ("leader", "follower")
    assert leader.led_at_ns == three.nodes[1].multi.groups[GROUP].core.led_since > 0
    assert follower.led_at_ns == -1
    assert 0 <= leader.timer_ns <= 100 * MS
    assert 0 < follower.timer_ns <= 400 * MS
    assert leader.log == (1, leader.term)
    assert leader.votes == ()


def test_a_candidate_tells_who_has_granted(three):
    node = Node(2, voters=3)
    core = node.multi.groups[GROUP].core
    node.clock.now = core.next_deadline + 1
    node.turn()
    [row] = rows_of(node)
    assert core.role is Role.PRE_CANDIDATE
    assert row.votes == (2,)


# --- links ----------------------------------------------------------------------------


def test_a_round_trip_is_measured_from_the_question_to_its_answer(three):
    pulse = three.nodes[1].multi.pulse
    head = (GROUP, NodeId(1), NodeId(2), Term(1))
    back = (GROUP, NodeId(2), NodeId(1), Term(1))
    now = three.nodes[1].clock.now + 10_000 * MS
    pulse.heard(NodeId(2), now)
    pulse.asks([Heartbeat(*head, Index(0), 0)], now)
    pulse.answered(NodeBeat(GroupId(0), NodeId(2), NodeId(1), Term(0), True), now + MS)
    assert pulse.round_trips.get(NodeId(2)) != MS, "a question is no answer"
    pulse.answered(HeartbeatReply(*back, 0, Index(0)), now + 3 * MS)
    assert pulse.round_trips[NodeId(2)] == 3 * MS
    pulse.answered(HeartbeatReply(*back, 0, Index(0)), now + 9 * MS)
    assert pulse.round_trips[NodeId(2)] == 3 * MS, "nothing was asked since"
    pulse.asks([NodeBeat(GroupId(0), NodeId(1), NodeId(2), Term(0), True)], now + 10 * MS)
    pulse.answered(NodeBeat(GroupId(0), NodeId(2), NodeId(1), Term(0), False), now + 12 * MS)
    assert pulse.round_trips[NodeId(2)] == 2 * MS


def test_a_peer_that_was_dead_does_not_answer_late(three):
    """What was asked while it was dead never reached it."""
    pulse = three.nodes[1].multi.pulse
    head = (GROUP, NodeId(1), NodeId(2), Term(1))
    now = three.nodes[1].clock.now + 10_000 * MS
    pulse.round_trips.clear()
    pulse.heard(NodeId(2), now)
    pulse.asks([Heartbeat(*head, Index(0), 0)], now)
    later = now + 60_000 * MS
    assert pulse.heard(NodeId(2), later)
    pulse.answered(HeartbeatReply(GROUP, NodeId(2), NodeId(1), Term(1), 0, Index(0)), later)
    assert pulse.round_trips == {}


def test_links_tell_silence_and_what_is_unknown_is_minus_one():
    node = Node(1, voters=3)
    now = node.clock.now
    node.multi.pulse.heard(NodeId(3), now)
    two, third = links(node.multi.pulse, now + 5)
    assert (two.node, two.heard_ago_ns, two.rtt_ns) == (2, -1, -1)
    assert (third.node, third.heard_ago_ns, third.rtt_ns) == (3, 5, -1)


def test_a_cluster_measures_its_links_by_itself(three):
    for _ in range(20):
        for node in three.nodes.values():
            node.clock.now += 10 * MS
        three.settle()
    assert set(three.nodes[1].multi.pulse.round_trips) == {2, 3}


# --- how it travels -------------------------------------------------------------------


def test_an_answer_is_whole_at_first_and_then_only_what_changed():
    node = Node(1, voters=3, groups=64)
    table, view = table_of(node), StatusView()
    document, snapshot = look_again(node, table, view)
    assert snapshot is not None
    assert snapshot.groups == tuple(rows_of(node))
    assert len(document["rows"]) == 64
    for group in node.multi.groups.values():
        group.core.resting = group.core.config.group != 5
    look_again(node, table, view)
    node.clock.now += MS
    document, snapshot = look_again(node, table, view)
    assert [row[0] for row in document["rows"]] == [5]
    assert snapshot is not None
    assert snapshot.groups == tuple(rows_of(node))
    assert len(msgpack.packb(document)) < 1_500


def test_who_has_not_got_the_last_answer_gets_what_it_lacks(three):
    node = three.nodes[1]
    table, view = table_of(node), StatusView()
    look_again(node, table, view)
    node.clock.now += MS
    table.look(node.multi.groups.values(), node.clock.now)
    encode_status(OWN, table, view.token)  # lost on the way
    table.look(node.multi.groups.values(), node.clock.now)
    snapshot = view.take(over_the_wire(encode_status(OWN, table, view.token)))
    assert snapshot is not None
    assert snapshot.groups == tuple(rows_of(node))


def test_an_answer_for_somebody_else_or_of_another_life_is_not_mixed_in(three):
    node = three.nodes[1]
    table, view = table_of(node), StatusView()
    for _ in range(3):
        look_again(node, table, view)
    behind = StatusView()
    assert behind.take(over_the_wire(encode_status(OWN, table, 2))) is None
    other_life = replace(OWN, incarnation=8)
    assert view.take(over_the_wire(encode_status(other_life, table, 2))) is None
    assert view.take(over_the_wire(encode_status(other_life, table, 0))) is not None
    assert view.take(over_the_wire(encode_status(other_life, table, 0))) is None, "a late one"


def test_a_node_that_answers_in_maps_is_understood():
    group = GroupSnapshot(0, "leader", 3, 1, 1, 20, 19, 18, 20, 2)
    old = replace(OWN, groups=(group,))
    assert StatusView().take(over_the_wire(old.encode())) == old


def test_rows_of_a_neighbouring_version_are_read_by_their_names(three):
    table = table_of(three.nodes[1])
    document = over_the_wire(encode_status(OWN, table, 0))
    document["names"] = [*document["names"], "of_tomorrow"]
    document["rows"] = [[*row, 7] for row in document["rows"]]
    snapshot = StatusView().take(document)
    assert snapshot is not None
    assert snapshot.groups == tuple(rows_of(three.nodes[1]))
    assert all(isinstance(peer, PeerSnapshot) for peer in snapshot.groups[0].peers)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(token=-1),
        lambda d: d.update(since="1"),
        lambda d: d.update(rows={}),
        lambda d: d.update(rows=[[]] * 1025),
        lambda d: d.update(rows=[7]),
        lambda d: d.update(names=[[]] * 5),
        lambda d: d.update(names=["a"] * 65),
        lambda d: d["rows"][0].pop(),
        lambda d: d["rows"][0].__setitem__(0, "x"),
        lambda d: d["rows"][0].__setitem__(1, "x" * 65),
        lambda d: d["rows"][0].__setitem__(2, True),
        lambda d: d["rows"][0].__setitem__(-1, [[1]]),
        lambda d: d["rows"][0].__setitem__(-1, [["a", 1, 1, "probe"]]),
        lambda d: d["rows"][0].__setitem__(-1, [[1, 1, 1, "probe"]] * 16),
        lambda d: d["rows"][0].__setitem__(-2, "x"),
        lambda d: d["rows"][0].__setitem__(-3, [1.5]),
    ],
)
def test_a_malformed_answer_is_refused_and_changes_nothing(three, edit):
    table, view = table_of(three.nodes[2]), StatusView()
    look_again(three.nodes[2], table, view)
    before = view.token
    table.look(three.nodes[2].multi.groups.values(), three.nodes[2].clock.now)
    document = over_the_wire(encode_status(OWN, table, 0))
    edit(document)
    with pytest.raises(SnapshotError):
        view.take(document)
    assert view.token == before


def test_the_status_of_1024_resting_groups_is_bounded_in_time_and_size():
    """It is asked ten times a second, within a turn that heartbeats wait for."""
    node = Node(1, voters=3, groups=1024)
    for group in node.multi.groups.values():
        group.core.resting = True
    looked = []

    def counted(group, now):
        looked.append(group)
        return group_row(group, now)

    table, view = RowTable(row_key, counted), StatusView()
    times, sizes = [], []
    for _ in range(5):
        began = time.perf_counter()
        table.look(node.multi.groups.values(), node.clock.now)
        body = msgpack.packb(encode_status(OWN, table, view.token))
        times.append((time.perf_counter() - began) * 1000)
        sizes.append(len(body))
        view.take(msgpack.unpackb(body))
    assert len(looked) == 1024, "a group that rests as it rested is not looked at"
    assert sizes[0] < 100_000
    assert max(sizes[1:]) < 1_500
    assert min(times[1:]) < ANSWER_MS_MAX
