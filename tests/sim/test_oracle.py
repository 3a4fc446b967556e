"""The judge of histories, on histories made by hand."""

import struct
from dataclasses import replace

import pytest

from cluster.client_types import GetResult, KeyValue
from cluster.sim.oracle import Op, OracleError, Replay, check_history, check_replica
from node.commands import OutcomeCode, cas, delete, encode, encode_open_session, put
from node.ports import Outcome

SESSION = 1


@pytest.fixture
def replay() -> Replay:
    """Session 1; revision 1: a = one, 2: a = two, 3: b = x, 4: a deleted; seq 2 came twice."""
    replay = Replay()
    entries = [
        encode_open_session(),
        encode(put(b"a", b"one"), SESSION, 1, 1),
        encode(put(b"a", b"two"), SESSION, 2, 1),
        encode(put(b"a", b"two"), SESSION, 2, 1),
        encode(cas(b"b", None, b"x"), SESSION, 3, 1),
        encode(cas(b"b", None, b"y"), SESSION, 4, 1),
        encode(delete(b"a"), SESSION, 5, 1),
    ]
    body = struct.pack(f"<{len(entries)}I", *map(len, entries)) + b"".join(entries)
    replay.apply(1, len(entries), body)
    return replay


def write(value: bytes | None, revision: int, *, key: bytes = b"a", floor: int = 0) -> Op:
    kind = "delete" if value is None else "put"
    result = Outcome(OutcomeCode.OK, revision)
    return Op(1, kind, 0, key, {key: value}, floor=floor, status="ok", result=result)


def read(key: bytes, item: tuple[bytes, int, int, int] | None, revision: int, floor: int) -> Op:
    found = None if item is None else KeyValue(key, *item)
    result = GetResult(revision, found)
    return Op(1, "get", 0, key, {}, floor=floor, status="ok", result=result)


def test_the_replay_applies_every_sequence_number_once(replay: Replay) -> None:
    assert replay.revision == 4
    assert replay.items == {b"b": (b"x", 3, 3, 1)}
    assert replay.at(b"a", 1) == (b"one", 1, 1, 1)
    assert replay.at(b"a", 3) == (b"two", 1, 2, 2)
    assert replay.at(b"a", 4) is None
    assert replay.at(b"b", 2) is None


def test_a_true_history_passes(replay: Replay) -> None:
    conflict = Op(1, "cas", 0, b"b", {b"b": b"y"}, None, status="ok")
    conflict.result = Outcome(OutcomeCode.CONFLICT, 3, b"x")
    history = [
        write(b"one", 1),
        write(b"two", 2, floor=1),
        read(b"a", (b"two", 1, 2, 2), 2, 2),
        read(b"a", (b"two", 1, 2, 2), 3, 2),
        write(None, 4, floor=3),
        read(b"a", None, 4, 4),
        conflict,
        replace(write(b"never", 0), status="refused", result=None),
        replace(write(b"two", 0), status="unknown", result=None),
    ]
    check_history(history, [replay])


@pytest.mark.parametrize(
    "lie",
    [
        write(b"never", 2),
        write(b"one", 2),
        write(b"two", 2, floor=2),
        write(b"two", 2, floor=3),
        write(b"two", 9),
        write(None, 2),
        read(b"a", (b"one", 1, 1, 1), 2, 0),
        read(b"a", (b"one", 1, 1, 1), 1, 2),
        read(b"a", (b"two", 1, 2, 1), 2, 0),
        read(b"a", None, 3, 0),
        replace(write(b"two", 0), status="refused", result=None),
        replace(write(b"two", 2), result=Outcome(OutcomeCode.CONFLICT, 2, b"one")),
        replace(write(None, 3), result=Outcome(OutcomeCode.ABSENT, 3)),
        Op(1, "cas", 0, b"b", {b"b": b"y"}, b"x", status="ok",
           result=Outcome(OutcomeCode.CONFLICT, 3, b"x")),
    ],
    ids=[
        "acked and lost",
        "acked at another revision",
        "acked at a revision that was there before",
        "acked below what was acked",
        "a revision of the future",
        "a delete that was a put",
        "a value of another revision",
        "a stale read",
        "a wrong version",
        "nothing where something was",
        "refused and applied",
        "a conflict that applied",
        "absent and there",
        "a conflict with what was expected",
    ],
)  # fmt: skip
def test_a_lie_is_found(replay: Replay, lie: Op) -> None:
    with pytest.raises(OracleError):
        check_history([lie], [replay])


def test_a_replica_that_applied_twice_is_found(replay: Replay) -> None:
    check_replica(replay, 4, [(b"b", (b"x", 3, 3, 1))])
    with pytest.raises(OracleError):
        check_replica(replay, 4, [(b"b", (b"x", 3, 3, 2))])
    with pytest.raises(OracleError):
        check_replica(replay, 5, [(b"b", (b"x", 3, 3, 1))])
