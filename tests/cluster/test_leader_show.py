"""`raftdeck leader show --all`: a line per group, what is unknown as –, and exit code 6."""

import json
from dataclasses import dataclass, replace

import pytest

import cluster.cli_nodes
from cluster.cli import main
from cluster.frames import ClusterFrame
from cluster.tables import leaders, leaders_table
from node.metrics import GroupSnapshot
from tests.cluster.conftest import frame_of, node_frame


@dataclass
class Shown:
    """A cluster that only shows one frame."""

    picture: ClusterFrame

    def frame(self) -> ClusterFrame:
        return self.picture


def with_groups(part, *states):
    """The same node with these (role, term, commit, resting) in place of its groups."""
    groups = tuple(
        GroupSnapshot(number, role, term, 0, 0, commit, commit, commit, commit, 0, resting)
        for number, (role, term, commit, resting) in enumerate(states)
    )
    return replace(part, snapshot=replace(part.snapshot, groups=groups))


@pytest.fixture
def frame():
    """Three groups: n1 leads 0 and rests, n2 leads 1 (an older n1 says so too), 2 has no leader."""
    follower = ("follower", 5, 9, False)
    return frame_of(
        with_groups(node_frame(1), ("leader", 4, 120, True), ("leader", 2, 7, False), follower),
        with_groups(node_frame(2), follower, ("leader", 3, 8, False), follower),
        node_frame(3, state="killed"),
        groups=3,
    )


@pytest.fixture
def led(frame):
    """The same without the group that has no leader."""
    return replace(frame, groups=2)


@pytest.fixture
def call(monkeypatch, capsys):
    def run(frame, *arguments):
        monkeypatch.setattr(cluster.cli_nodes, "attach", lambda _: Shown(frame))
        code = main(["leader", "show", "--all", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_each_group_is_as_its_leader_of_the_highest_term_says(frame):
    assert leaders(frame) == [
        {"group": 0, "leader": 1, "term": 4, "commit": 120, "resting": True},
        {"group": 1, "leader": 2, "term": 3, "commit": 8, "resting": False},
        {"group": 2, "leader": None, "term": None, "commit": None, "resting": None},
    ]


def test_the_table_has_a_line_per_group_and_a_dash_for_what_is_unknown(frame):
    lines = [line.split() for line in leaders_table(frame).splitlines()]
    assert lines == [
        ["GROUP", "LEADER", "TERM", "COMMIT", "STATE"],
        ["0", "n1", "4", "120", "resting"],
        ["1", "n2", "3", "8", "active"],
        ["2", "–", "–", "–", "–"],
    ]


def test_all_groups_led_is_success_and_the_counts_go_to_stderr(call, led):
    code, out, err = call(led)
    assert code == 0
    assert out == leaders_table(led) + "\n"
    assert "leads: n1 1, n2 1, n3 0" in err


def test_groups_without_a_leader_end_with_exit_code_6_after_everything_was_printed(call, frame):
    code, out, err = call(frame)
    assert code == 6
    assert out == leaders_table(frame) + "\n"
    assert "1 of 3 groups have no leader" in err


def test_json_is_one_document_with_a_schema(call, led):
    code, out, _ = call(led, "--json")
    assert code == 0
    assert json.loads(out) == {
        "schema": "raftdeck.leaders/1",
        "groups": leaders(led),
        "counts": {"n1": 1, "n2": 1, "n3": 0},
    }


def test_json_too_exits_with_6_and_names_the_group_that_has_none(call, frame):
    code, out, _ = call(frame, "--json")
    assert code == 6
    assert [row["group"] for row in json.loads(out)["groups"] if row["leader"] is None] == [2]
