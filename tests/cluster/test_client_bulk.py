"""Bulks: many writes under one ticket, each with a number and an outcome of its own."""

from __future__ import annotations

import struct

import pytest

from cluster.client_bulk import BULK_OPERATIONS_MAX, BulkResult, OperationList, PutList, Writes
from cluster.client_core import group_of
from cluster.client_types import (
    Completion,
    DefiniteError,
    IndefiniteError,
    NoQuorumDefiniteError,
)
from node import commands
from node.client_wire import Status, encode_write_reply
from node.commands import EncodeError, OutcomeCode
from node.limits import KEY_BYTES_MAX, REPLIES_PER_SESSION_MAX, VALUE_BYTES_MAX
from node.outcomes import Outcome, Outcomes
from tests.cluster.client_script import MS, SECOND, Script, opened, script


def puts(count: int, first: int = 0, size: int = 1) -> PutList:
    return PutList([(b"k%05d" % n, b"v" * size) for n in range(first, first + count)])


def submit(s: Script, writes: Writes, timeout_ns: int = 10 * SECOND):
    return s.core.submit_bulk(writes, s.now, s.now + timeout_ns)


def result_of(completion: Completion) -> BulkResult:
    assert completion.error is None
    assert isinstance(completion.result, BulkResult)
    return completion.result


def entries_in(body: bytes, count: int) -> list[bytes]:
    lengths = struct.unpack_from(f"<{count}I", body)
    entries, start = [], 4 * count
    for length in lengths:
        entries.append(body[start : start + length])
        start += length
    return entries


def test_a_bulk_is_one_request_one_completion_and_an_outcome_each():
    s = opened()
    ticket = submit(s, puts(1_000))
    assert s.core.pending == 1_000
    sent = s.poll_one()
    assert sent.request.count == 1_000
    (completion,) = s.ok(sent)
    assert completion.ticket == ticket
    assert list(result_of(completion).check()) == [Outcome(0, n) for n in range(2, 1_002)]
    assert s.core.pending == 0
    assert s.version(b"k00999") == 1


def test_its_entries_are_those_of_single_puts():
    """Numbers and all: the node cannot tell how an operation was submitted."""
    single, many, mixed = opened(), opened(), opened()
    operations = [commands.put(b"key", b"value"), commands.put(b"k" * 300, b"")]
    for operation in operations:
        single.write(operation)
    submit(many, PutList([(b"key", b"value"), (b"k" * 300, b"")]))
    submit(mixed, OperationList(operations))
    bodies = [bytes(s.poll_one().request.body) for s in (single, many, mixed)]
    assert bodies[0] == bodies[1] == bodies[2]


def test_each_bulk_has_a_request_to_itself_while_the_window_has_room():
    s = opened(requests_in_flight=3)
    for first in (0, 10, 20, 30):
        submit(s, puts(10, first))
    assert [sent.request.count for sent in s.poll()] == [10, 10, 20]


def test_a_bulk_is_cut_where_a_request_is_full_and_completes_once():
    s = opened(request_operations=100, requests_in_flight=4)
    submit(s, puts(250))
    sent = s.poll()
    assert [each.request.count for each in sent] == [100, 100, 50]
    assert s.ok(sent[2]) == []
    assert s.ok(sent[0]) == []
    (completion,) = s.ok(sent[1])
    revisions = [outcome.revision for outcome in result_of(completion)]
    assert revisions == [*range(52, 152), *range(152, 252), *range(2, 52)]


def test_a_bulk_is_cut_by_bytes_and_a_large_operation_travels_alone():
    s = opened(request_bytes=10_000, requests_in_flight=4)
    writes = PutList(
        [(b"a", bytes(4_000)), (b"b", bytes(4_000)), (b"c", bytes(50_000)), (b"d", b"")]
    )
    submit(s, writes)
    assert [each.request.count for each in s.poll()] == [2, 1, 1]


def test_no_bulk_takes_numbers_beyond_the_span():
    s = opened(requests_in_flight=4, request_operations=4_096)
    submit(s, puts(REPLIES_PER_SESSION_MAX + 10))
    sent = s.poll()
    assert sum(each.request.count for each in sent) == REPLIES_PER_SESSION_MAX
    s.ok(sent[1])
    assert s.poll() == [], "the oldest number is still unanswered"
    s.ok(sent[0])
    assert [each.request.count for each in s.poll()] == [10]


def test_a_retry_after_the_leader_was_lost_has_the_same_numbers_and_is_applied_once():
    s = opened()
    submit(s, puts(50))
    first = s.poll_one()
    s.apply(first)
    s.refuse(first, Status.LEAD_LOST)
    s.sleep()
    again = s.poll_one()
    assert bytes(again.request.body) == bytes(first.request.body)
    (completion,) = s.ok(again)
    assert [o.revision for o in result_of(completion)] == list(range(2, 52))
    assert {s.version(b"k%05d" % n) for n in range(50)} == {1}


def test_operations_fail_one_by_one_and_the_others_hold():
    s = opened()
    s.write(commands.put(b"taken", b"here"))
    s.ok(s.poll_one())
    submit(
        s,
        OperationList(
            [
                commands.put(b"a", b"1"),
                commands.cas(b"taken", None, b"x"),
                commands.delete(b"none"),
                commands.put(b"b", b"2"),
            ]
        ),
    )
    (completion,) = s.ok(s.poll_one())
    found = list(result_of(completion).check())
    codes = [OutcomeCode.OK, OutcomeCode.CONFLICT, OutcomeCode.ABSENT, OutcomeCode.OK]
    assert [outcome.code for outcome in found] == codes
    assert found[1].detail == b"here"


def test_an_operation_that_the_node_cannot_read_is_an_error_at_its_place():
    s = opened()
    submit(s, puts(3))
    sent = s.poll_one()
    outcomes = Outcomes([Outcome(0, 2), Outcome(OutcomeCode.BAD_OPERATION, 2), Outcome(0, 3)])
    s.core.receive(sent.node, encode_write_reply(s.origin(sent, 1, 1), outcomes), s.now)
    (completion,) = s.done()
    result = result_of(completion)
    assert (result[0], result[2]) == (Outcome(0, 2), Outcome(0, 3))
    assert list(result.errors) == [1]
    with pytest.raises(DefiniteError, match="cannot read"):
        result.check()
    with pytest.raises(DefiniteError, match="cannot read"):
        result[1]
    with pytest.raises(IndexError):
        result[3]
    assert s.core.pending == 0


def test_what_an_expired_session_refused_starts_anew_in_another_and_keeps_its_place():
    s = opened()
    submit(s, puts(4))
    sent = s.poll_one()
    expired = Outcome(OutcomeCode.SESSION_EXPIRED, 1)
    outcomes = Outcomes([Outcome(0, 2), expired, expired, Outcome(0, 3)])
    s.core.receive(sent.node, encode_write_reply(s.origin(sent, 1, 1), outcomes), s.now)
    assert s.done() == []
    assert s.core.pending == 2
    s.ok(s.poll_one())  # a session
    again = s.poll_one()
    keys = [entry[32:38] for entry in entries_in(bytes(again.request.body), again.request.count)]
    assert keys == [b"k00001", b"k00002"]
    (completion,) = s.ok(again)
    assert [outcome.revision for outcome in result_of(completion).check()] == [2, 2, 3, 3]


def test_an_expired_session_after_doubt_says_nothing_definite():
    s = opened()
    submit(s, puts(2))
    first = s.poll_one()
    s.refuse(first, Status.LEAD_LOST)
    s.sleep()
    again = s.poll_one()
    outcomes = Outcomes([Outcome(OutcomeCode.SESSION_EXPIRED, 1)] * 2)
    s.core.receive(again.node, encode_write_reply(s.origin(again, 1, 1), outcomes), s.now)
    (completion,) = s.done()
    assert {type(error) for error in result_of(completion).errors.values()} == {IndefiniteError}


def test_a_bulk_ends_at_its_deadline_in_doubt_or_not():
    s = opened()
    submit(s, puts(3), 100 * MS)
    s.poll_one()
    s.poll(100 * MS)
    (completion,) = s.done()
    errors = result_of(completion).errors
    assert list(errors) == [0, 1, 2]
    assert all(isinstance(error, IndefiniteError) for error in errors.values())
    assert s.core.pending == 0

    s = script()
    submit(s, puts(3), 100 * MS)
    s.poll(100 * MS)
    (completion,) = s.done()
    assert all(isinstance(e, NoQuorumDefiniteError) for e in result_of(completion).errors.values())


def test_what_ran_out_of_time_is_cut_out_of_a_request_that_was_refused():
    s = opened()
    submit(s, puts(2), 100 * MS)
    submit(s, puts(3, 10))
    s.write(commands.put(b"single", b""))
    for sent in s.poll():
        s.refuse(sent, Status.BUSY)
    s.now += 100 * MS
    again = s.poll()
    keys = [
        entry[32:]
        for sent in again
        for entry in entries_in(bytes(sent.request.body), sent.request.count)
    ]
    assert keys == [b"k00010v", b"k00011v", b"k00012v", b"single"]
    for sent in again:
        s.ok(sent)
    assert s.core.pending == 0


def test_a_bulk_and_a_single_share_a_request_when_the_window_is_nearly_full():
    s = opened(requests_in_flight=1)
    submit(s, puts(2, size=50), 100 * MS)
    submit(s, puts(3, 10))
    s.put(b"single")
    sent = s.poll_one()
    assert sent.request.count == 6
    s.refuse(sent, Status.BUSY)
    s.now += 200 * MS
    again = s.poll_one()
    left = [e[32:] for e in entries_in(bytes(again.request.body), again.request.count)]
    assert left == [b"k00010v", b"k00011v", b"k00012v", b"singlev"], "the late are not sent again"
    ended = {c.ticket: c for c in s.done()}
    ended |= {c.ticket: c for c in s.ok(again)}
    assert len(ended) == 3


def test_a_bulk_over_groups_is_put_together_again():
    s = script(groups=3)
    ticket = submit(s, puts(30))
    completions: list[Completion] = []
    for _ in range(9):
        for sent in s.poll():
            completions += s.ok(sent)
    (completion,) = completions
    assert completion.ticket == ticket
    assert len(result_of(completion).check()) == 30
    assert len({group_of(b"k%05d" % n, 3) for n in range(30)}) == 3


def test_an_atomic_batch_over_groups_refuses_the_whole_bulk():
    s = script(groups=3)
    keys = {group_of(b"%d" % n, 3): b"%d" % n for n in range(20)}
    across = commands.batch([commands.put(key, b"") for key in keys.values()])
    with pytest.raises(DefiniteError, match="cannot span groups"):
        submit(s, OperationList([commands.put(b"a", b""), across]))
    assert s.core.pending == 0


def test_a_bulk_that_the_client_cannot_hold_is_refused_whole():
    s = opened(pending_operations_max=10)
    submit(s, puts(8))
    with pytest.raises(DefiniteError, match="8 operations of"):
        submit(s, puts(3))
    assert s.core.pending == 8
    submit(s, puts(2))


def test_abandoned_operations_are_in_doubt_only_if_they_were_sent():
    s = opened(request_operations=2, requests_in_flight=1)
    submit(s, puts(5))
    s.poll_one()
    s.core.abandon("closed")
    (completion,) = s.done()
    errors = result_of(completion).errors
    kinds = [type(errors[place]) for place in range(5)]
    assert kinds == [IndefiniteError] * 2 + [DefiniteError] * 3


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(b"", b"v")],
        [(b"k", b"v"), (b"k" * (KEY_BYTES_MAX + 1), b"v")],
        [(b"k", bytes(VALUE_BYTES_MAX + 1)), (b"k", b"")],
        [(b"k", b"")] * (BULK_OPERATIONS_MAX + 1),
    ],
    ids=["none", "no key", "long key", "long value", "too many"],
)
def test_what_no_entry_can_carry_is_refused_before_anything_is_sent(pairs):
    with pytest.raises(EncodeError):
        PutList(pairs)
