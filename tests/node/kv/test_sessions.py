"""Sessions (docs/ARCHITECTURE.md §7, thesis §6.3): never twice, bounded, the same everywhere."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import commands
from node.commands import OutcomeCode, encode
from node.kv.machine import KeyValueMachine
from node.kv.sessions import SessionBounds
from node.limits import ENTRIES_PER_REQUEST_MAX, REPLIES_PER_SESSION_MAX
from node.outcomes import Outcome, Outcomes
from node.raft.types import BatchMeta, Index, Term

OK, ABSENT, CONFLICT = OutcomeCode.OK, OutcomeCode.ABSENT, OutcomeCode.CONFLICT
EXPIRED, STALE = OutcomeCode.SESSION_EXPIRED, OutcomeCode.STALE
ABORTED = OutcomeCode.BATCH_ABORTED


class Log:
    """Applies entries one batch at a time to a machine with given session bounds."""

    def __init__(self, bounds: SessionBounds | None = None) -> None:
        self.machine = KeyValueMachine(bounds)
        self.next_index = 1

    def entries(self, *entries: bytes) -> Outcomes:
        body = struct.pack(f"<{len(entries)}I", *map(len, entries)) + b"".join(entries)
        meta = BatchMeta(Term(1), Index(self.next_index), len(entries), len(body))
        self.next_index += len(entries)
        return self.machine.apply(meta, 0, body)

    def open(self) -> int:
        (outcome,) = self.entries(commands.encode_open_session())
        return int.from_bytes(outcome.detail, "little")

    def put(self, session: int, seq: int, acked_below: int = 1, value: bytes = b"v") -> Outcome:
        (outcome,) = self.entries(encode(commands.put(b"k", value), session, seq, acked_below))
        return outcome

    def version(self) -> int:
        result = self.machine.query([1, b"k"])
        assert isinstance(result, list)
        return 0 if result[1] is None else result[1][4]


def test_a_retry_is_answered_not_applied():
    log = Log()
    session = log.open()
    first = log.put(session, 1)
    log.put(session, 2)
    assert log.put(session, 1) == first == Outcome(OK, 1)
    assert log.version() == 2


def test_a_retry_within_one_batch_is_answered_not_applied():
    log = Log()
    entry = encode(commands.put(b"k", b"v"), log.open(), 1, 1)
    assert log.entries(entry, entry) == [Outcome(OK, 1)] * 2
    assert log.version() == 1


def test_sequence_numbers_may_arrive_out_of_order():
    log = Log()
    session = log.open()
    assert [log.put(session, seq).revision for seq in (3, 1, 2)] == [1, 2, 3]
    assert [log.put(session, seq).revision for seq in (1, 2, 3)] == [2, 3, 1]
    assert log.version() == 3


def test_every_kind_of_answer_is_remembered():
    log = Log()
    session = log.open()
    operations = [
        commands.delete(b"none"),
        commands.cas(b"none", b"x", b"y"),
        commands.put(b"k", b"v"),
        commands.cas(b"k", None, b"y"),
        commands.batch([commands.cas(b"k", None, b"y")]),
        commands.delete(b"k"),
    ]
    entries = [encode(op, session, seq, 1) for seq, op in enumerate(operations, 1)]
    first = log.entries(*entries)
    assert [o.code for o in first] == [ABSENT, ABSENT, OK, CONFLICT, ABORTED, OK]
    assert log.entries(*entries) == first


def test_a_delayed_copy_below_the_acknowledged_is_stale():
    log = Log()
    session = log.open()
    log.put(session, 1)
    log.put(session, 3, acked_below=3)
    assert [log.put(session, seq).code for seq in (1, 2)] == [STALE, STALE]
    assert log.version() == 2


def test_the_acknowledged_floor_never_falls():
    log = Log()
    session = log.open()
    log.put(session, 9, acked_below=9)
    assert log.put(session, 8, acked_below=1).code == STALE
    assert log.put(session, 9, acked_below=1) == Outcome(OK, 1)


def test_a_jump_to_the_last_sequence_number_costs_nothing_and_loses_nothing():
    log = Log()
    session = log.open()
    last = (1 << 64) - 1
    for seq in range(1, 5):
        log.put(session, seq)
    assert log.put(session, last, acked_below=last) == Outcome(OK, 5)
    assert log.put(session, last, acked_below=last) == Outcome(OK, 5)
    assert log.put(session, 4).code == STALE


@pytest.mark.parametrize("session", [2, 99, (1 << 64) - 1])
def test_an_unknown_session_is_expired_and_nothing_is_applied(session):
    log = Log()
    log.open()
    assert log.put(session, 1).code == EXPIRED
    assert log.version() == 0


def test_the_least_recently_used_session_makes_room():
    log = Log(SessionBounds(sessions=2))
    first, second = log.open(), log.open()
    log.put(first, 1)
    third = log.open()
    assert log.put(second, 1).code == EXPIRED
    assert [log.put(s, 2).code for s in (first, third)] == [OK, OK]
    assert log.machine.sessions == 2


def test_a_retry_keeps_its_session_alive():
    log = Log(SessionBounds(sessions=2))
    first, second = log.open(), log.open()
    log.put(first, 1)
    log.put(second, 1)
    log.put(first, 1)
    log.open()
    assert (log.put(first, 2).code, log.put(second, 2).code) == (OK, EXPIRED)


def test_a_session_with_too_many_replies_drops_its_lowest_and_never_applies_them_again():
    log = Log(SessionBounds(replies_per_session=16))
    session = log.open()
    for seq in range(1, 17):
        log.put(session, seq)
    assert log.put(session, 1) == Outcome(OK, 1)
    log.put(session, 17)
    version = log.version()
    codes = [log.put(session, seq).code for seq in range(1, 18)]
    dropped = codes.count(STALE)
    assert 0 < dropped <= 4
    assert codes == [STALE] * dropped + [OK] * (17 - dropped)
    assert log.version() == version == 17


def test_too_many_replies_in_all_evict_the_least_recently_used_session():
    log = Log(SessionBounds(replies_per_session=8, replies_total=8))
    first, second = log.open(), log.open()
    for seq in range(1, 5):
        log.put(first, seq)
        log.put(second, seq)
    assert log.put(second, 5).code == OK
    assert log.put(first, 1).code == EXPIRED
    assert log.put(second, 1) == Outcome(OK, 2)


def test_the_table_counts_its_replies():
    log = Log()
    table = log.machine._sessions
    first, second = log.open(), log.open()
    for seq in range(1, 11):
        log.put(first, seq)
        log.put(second, seq)
    assert table.replies == 20
    log.put(first, 11, acked_below=8)
    assert table.replies == 14
    assert table.replies == sum(len(s) for s in table._sessions.values())


def test_a_client_at_the_full_span_never_meets_the_bound():
    log = Log()
    session = log.open()
    span = REPLIES_PER_SESSION_MAX
    assert span >= 2 * ENTRIES_PER_REQUEST_MAX
    entries = [encode(commands.put(b"k", b""), session, seq, 1) for seq in range(1, span + 1)]
    log.entries(*entries)
    log.entries(*entries)
    assert log.version() == span


# --- against a naive model ----------------------------------------------------------------


class Model:
    """The rules of §7 with whole copies of everything, and no cleverness."""

    def __init__(self, sessions: int) -> None:
        self.bound = sessions
        self.items: dict[bytes, tuple[bytes, int, int, int]] = {}
        self.revision = 0
        self.sessions: list[list] = []  # [id, floor, {seq: outcome}], least recent first

    def entry(self, index, stamp, operation):
        if operation is None:
            self.sessions.append([index, 1, {}])
            self.sessions = self.sessions[-self.bound :]
            return (OK, self.revision, struct.pack("<Q", index))
        session_id, seq, acked_below = stamp
        found = [s for s in self.sessions if s[0] == session_id]
        if not found:
            return (EXPIRED, self.revision, b"")
        (session,) = found
        self.sessions = [s for s in self.sessions if s is not session] + [session]
        session[1] = max(session[1], acked_below)
        session[2] = {n: o for n, o in session[2].items() if n >= session[1]}
        if seq < session[1]:
            return (STALE, self.revision, b"")
        if seq not in session[2]:
            session[2][seq] = self.operation(operation)
        return session[2][seq]

    def operation(self, operation):
        name, *arguments = operation
        before = dict(self.items)
        nested = arguments[0] if name == "batch" else [operation]
        changed = False
        for position, (kind, key, *rest) in enumerate(nested):
            current = self.items.get(key)
            if kind == "delete":
                code = OK if current else ABSENT
                self.items.pop(key, None)
                changed |= code == OK
                detail = b""
            else:
                expect = rest[0] if kind == "cas" else (current and current[0])
                matches = (current[0] if current else None) == expect
                code = OK if matches else CONFLICT if current else ABSENT
                detail = b"" if matches or not current else current[0]
                if matches:
                    revision = self.revision + 1
                    created = current[1] if current else revision
                    version = current[3] + 1 if current else 1
                    self.items[key] = (rest[-1], created, revision, version)
                    changed = True
            if name != "batch":
                self.revision += changed
                return (code, self.revision, detail)
            if kind == "cas" and code != OK:
                self.items = before
                return (ABORTED, self.revision, struct.pack("<IB", position, code) + detail)
        self.revision += changed
        return (OK, self.revision, b"")


KEY = st.sampled_from([b"a", b"b", b"c"])
VALUE = st.sampled_from([b"", b"1", b"2"])
SIMPLE = st.one_of(
    st.tuples(st.just("put"), KEY, VALUE),
    st.tuples(st.just("delete"), KEY),
    st.tuples(st.just("cas"), KEY, st.none() | VALUE, VALUE),
)
OPERATION = SIMPLE | st.tuples(st.just("batch"), st.lists(SIMPLE, min_size=1, max_size=4))
STAMP = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)).map(
    lambda s: (s[0], max(s[1:]), min(s[1:]))
)
ENTRY = st.tuples(STAMP, st.none() | OPERATION)


def build(operation):
    """The real Operation for the model's tuple."""
    name, *arguments = operation
    if name == "batch":
        return commands.batch([build(inner) for inner in arguments[0]])
    return getattr(commands, name)(*arguments)


def run(entries, cuts):
    """Apply entries to a machine, in batches that end after the given positions."""
    log = Log(SessionBounds(sessions=3))
    encoded = [
        commands.encode_open_session() if op is None else encode(build(op), *stamp)
        for stamp, op in entries
    ]
    outcomes: list[Outcome] = []
    start = 0
    for end in [*sorted(cuts), len(encoded)]:
        outcomes += log.entries(*encoded[start:end])
        start = end
    return log.machine, outcomes


@given(st.lists(ENTRY, max_size=40), st.data())
def test_the_machine_agrees_with_a_naive_model(entries, data):
    # Two sessions are open from the start, so that most stamps name a live one.
    entries = [((1, 1, 1), None)] * 2 + entries
    cuts = data.draw(st.sets(st.integers(0, len(entries)), max_size=5))
    machine, outcomes = run(entries, cuts)
    model = Model(sessions=3)
    for index, ((stamp, operation), outcome) in enumerate(zip(entries, outcomes, strict=True), 1):
        expected = model.entry(index, stamp, operation)
        assert (outcome.code, outcome.revision, outcome.detail) == expected, (index, operation)
    expected_items = [(key, *model.items[key]) for key in sorted(model.items)]
    assert machine.query([2, b"", b"", 0]) == [model.revision, expected_items, False]
    assert machine.sessions == len(model.sessions)
    # However the log is cut into batches, the state is the same.
    assert run(entries, ())[0].digest() == machine.digest()


def test_replicas_evict_alike_however_the_log_is_cut():
    stamps = [(1 + i * 7 % 9, 1 + i // 9, 1) for i in range(80)]
    entries = [(s, None if i % 11 == 0 else ("put", b"a", b"1")) for i, s in enumerate(stamps)]
    digests = {run(entries, cuts)[0].digest() for cuts in ((), (1, 40), range(80), (13, 14, 77))}
    assert len(digests) == 1
