"""The logs of a cluster against each other; replicas; sessions."""

import json

import pytest

from cluster.check.fsck import check_directory, node_directories
from cluster.check.history import Status
from cluster.check.replicas import Replica, check_replicas
from cluster.check.sessions import Attempt, Effect, check_exactly_once
from cluster.check.verdict import Verdict, worst
from cluster.cli import main
from cluster.exits import Exit
from tests.wal.support import SMALL, batch, fill_segments, open_log
from wal import LogIdentity
from wal.frame import release_record, truncate_record

CLUSTER = bytes(range(16))


@pytest.fixture
def nodes(tmp_path):
    """Write the logs of nodes 1, 2, 3 …, one list of records each, and stop them cleanly."""

    def write(*logs, clusters=None, numbers=None):
        for place, records in enumerate(logs, 1):
            directory = tmp_path / f"n{place}" / "wal"
            directory.mkdir(parents=True)
            identity = LogIdentity(
                (clusters or {}).get(place, CLUSTER), (numbers or {}).get(place, place)
            )
            log, _ = open_log(directory=directory, identity=identity)
            for record in records:
                log.append([record])
            log.seal_and_close()
        return tmp_path

    return write


def verdicts(directory):
    return {finding.judge: finding.verdict.value for finding in check_directory(directory)}


def reasons(directory):
    return "\n".join(line for finding in check_directory(directory) for line in finding.lines)


COMMON = [batch(1, 2), batch(3), batch(4, 3, term=2)]


def test_logs_that_agree_pass_however_long_each_is(nodes):
    directory = nodes(COMMON, COMMON[:2], COMMON)
    assert set(verdicts(directory).values()) == {"pass"}
    assert [path.name for path in node_directories(directory)] == ["n1", "n2", "n3"]
    assert [path.name for path in node_directories(directory / "n2")] == ["n2"]
    assert verdicts(directory / "n2") == {"log of n2": "pass"}


def test_logs_that_differ_in_term_are_what_raft_repairs_and_no_failure(nodes):
    assert worst(check_directory(nodes(COMMON, [*COMMON[:2], batch(4, term=3)]))) is Verdict.PASS


def test_one_name_for_two_batches_is_found(nodes):
    directory = nodes(COMMON, [batch(1, 2), batch(3, size=101), batch(4, 3, term=2)])
    assert verdicts(directory)["log matching"] == "fail"
    assert "index 3 of term 1 differs between n1 and n2" in reasons(directory)


def test_one_name_behind_two_predecessors_is_found(nodes):
    directory = nodes(COMMON, [batch(1, 2, term=2), batch(3, term=2), batch(4, 3, term=2)])
    assert verdicts(directory)["log matching"] == "fail"
    assert "follows index 3 of term 1 on n1, and index 3 of term 2 on n2" in reasons(directory)


def test_a_term_that_falls_along_a_log_is_found(nodes):
    directory = nodes(COMMON, [batch(1, term=5), batch(2, term=4)])
    assert verdicts(directory)["log of n2"] == "fail"
    assert "term 4 at index 2 stands behind term 5" in reasons(directory)


def test_a_term_below_that_of_what_was_released_is_found(nodes):
    directory = nodes([batch(1, term=5), release_record(0, 1, 5), batch(2, term=4)])
    assert verdicts(directory) == {"log of n1": "fail"}


def test_what_was_cut_is_not_compared(nodes):
    cut = [*COMMON[:1], batch(3, size=150), truncate_record(0, 3), *COMMON[1:]]
    assert worst(check_directory(nodes(COMMON, cut))) is Verdict.PASS


def test_a_release_that_no_majority_holds_is_found(nodes):
    directory = nodes([*COMMON, release_record(0, 6, 2)], COMMON[:2], COMMON[:2])
    assert verdicts(directory)["released is held"] == "fail"
    assert "n1 released index 6 of term 2, which only n1 of 3" in reasons(directory)


def test_a_release_that_a_majority_holds_is_right(nodes):
    directory = nodes([*COMMON, release_record(0, 6, 2)], COMMON, COMMON[:2])
    assert verdicts(directory)["released is held"] == "pass"


def test_the_same_index_in_another_term_is_not_held(nodes):
    other = [*COMMON[:2], batch(4, 3, term=3)]
    directory = nodes([*COMMON, release_record(0, 6, 2)], other, COMMON[:1])
    assert verdicts(directory)["released is held"] == "fail"


def test_a_foreign_or_swapped_disk_is_found(nodes, tmp_path):
    directory = nodes(COMMON, COMMON, clusters={2: bytes(16)})
    assert verdicts(directory)["one cluster"] == "fail"


def test_two_disks_of_one_node_are_found(nodes):
    directory = nodes(COMMON, COMMON, numbers={2: 1})
    assert verdicts(directory)["one cluster"] == "fail"
    assert "both the log of node 1" in reasons(directory)


def test_a_damaged_log_fails_and_leaves_the_comparison_unknown(nodes):
    directory = nodes(COMMON, COMMON, COMMON)
    path = directory / "n2" / "wal" / "00000001.wal"
    content = bytearray(path.read_bytes())
    content[content.index(b"0/1/3;")] ^= 1
    path.write_bytes(content)
    found = verdicts(directory)
    assert found["log of n2"] == "fail"
    assert found["log matching"] == "unknown"
    assert worst(check_directory(directory)) is Verdict.FAIL


def test_batches_in_many_segments_are_all_compared(nodes, tmp_path):
    for place in (1, 2):
        wal = tmp_path / f"n{place}" / "wal"
        wal.mkdir(parents=True)
        log, _ = open_log(directory=wal, policy=SMALL, identity=LogIdentity(CLUSTER, place))
        fill_segments(log, 1, 20)
        if place == 2:
            log.append([truncate_record(0, 3)])
            log.append([batch(3, size=7999)])
        log.seal_and_close()
    assert "index 3 of term 1 differs" in reasons(tmp_path)


def test_the_command_judges_a_directory(nodes, tmp_path, capfd):
    directory = nodes(COMMON, COMMON)
    assert main(["check", str(directory), "--json"]) == Exit.HELD
    document = json.loads(capfd.readouterr().out)
    assert (document["schema"], document["verdict"]) == ("raftdeck.check/1", "pass")
    assert main(["check", str(directory)]) == Exit.HELD
    assert "log matching: pass" in capfd.readouterr().out
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["check", str(empty)]) == Exit.USAGE
    assert "no node's log" in capfd.readouterr().err


# ---- replicas ------------------------------------------------------------------------------------


def replica(name: str, position: int, **items: object) -> Replica:
    return Replica(name, position, {key: str(item) for key, item in items.items()})


def test_replicas_at_one_position_must_be_equal():
    same = [replica(name, 5, a=1, b=2) for name in ("n1", "n2", "n3")]
    assert check_replicas(same).verdict is Verdict.PASS
    finding = check_replicas([*same, replica("n4", 5, a=1, b=3)])
    assert finding.verdict is Verdict.FAIL
    assert finding.reason == "'b' at 5: n1 '2', n4 '3'"
    assert check_replicas([*same, replica("n4", 5, a=1)]).verdict is Verdict.FAIL
    assert check_replicas([*same, replica("n4", 5, a=1, b=2, c=None)]).verdict is Verdict.FAIL


def test_replicas_at_different_positions_cannot_be_compared():
    assert check_replicas([replica("n1", 5, a=1), replica("n2", 6, a=1)]).verdict is Verdict.UNKNOWN
    assert check_replicas([replica("n1", 5, a=1)]).verdict is Verdict.UNKNOWN
    late = [replica("n1", 5, a=1), replica("n2", 6, a=2), replica("n3", 6, a=3)]
    assert check_replicas(late).verdict is Verdict.FAIL


# ---- sessions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "effects", "verdict"),
    [
        (Status.OK, 1, "pass"), (Status.OK, 0, "fail"), (Status.OK, 2, "fail"),
        (Status.FAIL, 0, "pass"), (Status.FAIL, 1, "fail"),
        (Status.INFO, 0, "pass"), (Status.INFO, 1, "pass"), (Status.INFO, 2, "fail"),
    ],
)  # fmt: skip
def test_exactly_once(status, effects, verdict):
    attempts = [Attempt(1, 1, Status.OK), Attempt(1, 2, status)]
    happened = [Effect(1, 1, 10), *(Effect(1, 2, 11 + n) for n in range(effects))]
    assert check_exactly_once(attempts, happened).verdict.value == verdict


def test_an_effect_that_nobody_asked_for_fails_and_no_attempt_is_unknown():
    assert check_exactly_once([Attempt(1, 1, Status.OK)], [Effect(1, 1, 1), Effect(2, 1, 2)]).facts[
        "wrong"
    ] == {"unasked": 1}
    assert check_exactly_once([], []).verdict is Verdict.UNKNOWN
