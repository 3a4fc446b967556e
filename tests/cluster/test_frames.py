import json
from dataclasses import replace

import msgpack
import pytest

from cluster.conditions import parse_conditions
from cluster.exits import CommandError, Exit
from cluster.frames import FRESH_MS, ClusterFrame, FrameError
from cluster.tables import headline, status_table


def test_a_frame_survives_msgpack_and_json(healthy_frame, make_frame, make_node):
    dead = make_frame(make_node(1, "crashed"), make_node(2, "frozen", age_ms=9_000))
    for frame in (healthy_frame, dead):
        assert ClusterFrame.decode(msgpack.unpackb(msgpack.packb(frame.encode()))) == frame
        assert ClusterFrame.decode(json.loads(json.dumps(frame.encode()))) == frame
    assert healthy_frame.encode()["schema"] == "raftdeck.frame/1"


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(schema="raftdeck.frame/2"),
        lambda d: d.pop("schema"),
        lambda d: d.pop("nodes"),
        lambda d: d.update(nodes=7),
        lambda d: d.update(nodes=d["nodes"] * 4),
        lambda d: d["nodes"][0]["process"].update(state="dancing"),
        lambda d: d["nodes"][0].pop("process"),
        lambda d: d["nodes"][0]["snapshot"].update(pid="x"),
        lambda d: d["nodes"][0].update(rates={"fsyncs_per_s": 1}),
        lambda d: d.update(events=[{}]),
    ],
)
def test_a_malformed_frame_is_refused(healthy_frame, edit):
    document = msgpack.unpackb(msgpack.packb(healthy_frame.encode()))
    edit(document)
    with pytest.raises(FrameError):
        ClusterFrame.decode(document)


def test_a_frame_of_tomorrow_is_read_as_far_as_it_is_known(healthy_frame):
    document = healthy_frame.encode() | {"weather": "fine"}
    document["nodes"][0]["mood"] = 1
    assert ClusterFrame.decode(document) == healthy_frame


def test_the_leader_is_the_fresh_claim_of_the_highest_term(make_frame, make_node):
    """Raft §5.2: a cut-off leader of an older term does not know yet that it leads no more."""
    old = make_node(1, role="leader", leader=1, term=3)
    new = make_node(2, role="leader", leader=2, term=4)
    third = make_node(3, leader=2, term=4)
    frame = make_frame(old, new, third)
    assert frame.leader() == 2
    assert frame.healthy() == (2, 3)


@pytest.mark.parametrize(
    "change", [{"state": "frozen"}, {"age_ms": FRESH_MS + 1}, {"state": "killed"}]
)
def test_a_leader_that_does_not_answer_is_not_believed(make_frame, make_node, change):
    frame = make_frame(make_node(1, role="leader", **change), make_node(2), make_node(3))
    assert frame.leader() is None
    assert frame.healthy() == ()
    assert frame.caught_up() == ()


def test_caught_up_means_applied_as_far_as_the_leader_committed(make_frame, make_node):
    behind = make_node(3, applied=19)
    frame = make_frame(make_node(1, role="leader"), make_node(2), behind)
    assert frame.healthy() == (1, 2, 3)
    assert frame.caught_up() == (1, 2)


def test_conditions_hold_and_say_what_is_missing(healthy_frame, make_frame, make_node):
    for text in ("leader=1", "healthy=5", "healthy=all", "caughtup>=3,up=5", "down=0, frozen=0"):
        assert parse_conditions(text)(healthy_frame), text
    for text in ("leader=0", "healthy=4", "up>=6", "healthy=all,down=1"):
        assert not parse_conditions(text)(healthy_frame), text
    broken = make_frame(make_node(1, "killed"), make_node(2, leader=0), make_node(3, leader=0))
    wanted = parse_conditions("leader=1,healthy>=2,down=1")
    assert wanted.missing(broken) == "leader is 0, wanted =1; healthy is 0, wanted >=2"


@pytest.mark.parametrize("text", ["", "leader", "leader==1", "mood=1", "leader=-1", "up=x", "up<3"])
def test_a_condition_that_cannot_be_read_names_the_valid_ones(text):
    with pytest.raises(CommandError, match="leader, healthy, caughtup, up") as caught:
        parse_conditions(text)
    assert caught.value.exit_code is Exit.USAGE


def test_the_table_shows_what_is_known_and_a_dash_for_the_rest(make_frame, make_node):
    silent = make_node(3, age_ms=9_000)
    crashed = make_node(5, "crashed")
    crashed = replace(crashed, process=replace(crashed.process, exit_code=65))
    frame = make_frame(
        make_node(1, role="leader"),
        make_node(2, applied=15),
        silent,
        make_node(4, "killed"),
        crashed,
    )
    lines = status_table(frame).splitlines()
    cells = [line.split() for line in lines]
    assert cells[0][:6] == ["NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG"]
    assert cells[1][:12] == [
        "n1",
        "◆",
        "leader",
        "3",
        "20",
        "20",
        "0",
        "100",
        "10.0",
        "2.0",
        "–",
        "–",
    ]
    assert cells[2][3:7] == ["3", "20", "15", "5"]
    assert cells[3][1:3] == ["●", "follower?"]
    assert "running, silent for 9 s" in lines[3]
    assert cells[4] == ["n4", *["–"] * 11, "✗", "killed"]
    assert lines[5].endswith("! crashed (exit 65)")
    assert headline(frame) == "cluster deck: 2 of 5 nodes healthy, n1 leads in term 3"


def test_columns_stay_under_their_headers(healthy_frame):
    lines = status_table(healthy_frame).splitlines()
    assert {line.index("running") for line in lines[1:]} == {lines[0].index("PROCESS")}


def test_a_slimmed_frame_keeps_the_first_group_and_those_that_are_active(make_frame, make_node):
    def many(node, active):
        part = make_node(node)
        groups = tuple(
            replace(part.snapshot.groups[0], group=number, resting=number not in active)
            for number in range(20)
        )
        return replace(part, snapshot=replace(part.snapshot, groups=groups))

    dead = make_node(3, "killed")
    frame = make_frame(many(1, {7}), many(2, {9, 7}), dead, groups=20)
    slim = frame.slimmed(5)
    for node in (1, 2):
        assert [group.group for group in slim.node(node).snapshot.groups] == [0, 1, 2, 7, 9]
    assert slim.node(3) == dead
    assert slim.groups == 20
    assert frame.slimmed(20) is frame


def test_a_frame_is_encoded_as_its_dataclasses_are(healthy_frame):
    from dataclasses import asdict

    document = json.loads(json.dumps(healthy_frame.encode()))
    wanted = asdict(healthy_frame)
    for part in wanted["nodes"]:
        part["process"]["state"] = part["process"]["state"].value
    assert document == {"schema": "raftdeck.frame/1"} | json.loads(json.dumps(wanted))
