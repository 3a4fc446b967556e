"""Which failures of a client are definite, and which are not (docs/ARCHITECTURE.md §8)."""

from __future__ import annotations

import pytest

from cluster.client_types import (
    DefiniteError,
    Get,
    IndefiniteError,
    NoQuorumDefiniteError,
    NoQuorumError,
    NoQuorumIndefiniteError,
)
from node.client_wire import (
    Status,
    encode_write_reply,
)
from node.commands import OutcomeCode
from node.kv.machine import KeyValueMachine
from node.outcomes import Outcome, Outcomes
from tests.cluster.client_script import (
    MS,
    SECOND,
    expired,
    opened,
    script,
)


def test_a_write_that_was_never_sent_fails_definitely():
    s = script()
    s.put(timeout_ns=100 * MS)
    (error,) = expired(s)
    assert type(error) is NoQuorumDefiniteError


def test_a_write_whose_last_attempt_is_unanswered_fails_indefinitely():
    s = opened()
    s.put(timeout_ns=100 * MS)
    s.poll_one()
    (error,) = expired(s)
    assert type(error) is NoQuorumIndefiniteError


def test_a_write_whose_every_attempt_was_refused_fails_definitely_and_is_never_sent_again():
    s = opened()
    s.put(b"short", timeout_ns=30 * MS)
    s.put(b"long", timeout_ns=10 * SECOND)
    for _ in range(10):
        for sent in s.poll(wait_ns=5 * MS):
            s.refuse(sent, Status.BUSY)
        if s.core.pending == 1:
            break
    (completion,) = s.done()
    assert type(completion.error) is DefiniteError  # the leader was heard: no NoQuorumError
    sent = s.poll_one(wait_ns=50 * MS)
    assert b"short" not in bytes(sent.request.entries)
    (completion,) = s.ok(sent)
    assert completion.error is None
    assert (s.version(b"short"), s.version(b"long")) == (0, 1)


def test_one_unanswered_attempt_among_refused_ones_makes_a_failure_indefinite():
    s = opened()
    s.put(timeout_ns=SECOND)
    s.poll_one()
    s.poll(wait_ns=500 * MS)
    s.refuse(s.poll_one(wait_ns=50 * MS), Status.NOT_LEADER)
    (error,) = expired(s)
    assert isinstance(error, IndefiniteError)


def test_lead_lost_makes_a_later_failure_indefinite():
    s = opened()
    s.put(timeout_ns=100 * MS)
    s.refuse(s.poll_one(), Status.LEAD_LOST)
    s.refuse(s.poll_one(wait_ns=50 * MS), Status.NOT_LEADER)
    (error,) = expired(s)
    assert isinstance(error, IndefiniteError)


def test_a_late_refusal_takes_the_doubt_away():
    s = opened()
    s.put(timeout_ns=560 * MS)
    first = s.poll_one()
    s.poll(wait_ns=500 * MS)
    second = s.poll_one(wait_ns=50 * MS)
    s.refuse(first, Status.NOT_LEADER)
    s.refuse(second, Status.NOT_LEADER)
    (error,) = expired(s)
    assert isinstance(error, DefiniteError)


def test_a_late_answer_after_others_expired_finds_its_positions():
    s = opened()
    gone = s.put(b"a", timeout_ns=510 * MS)
    kept = s.put(b"b")
    first = s.poll_one()
    s.poll(wait_ns=500 * MS)
    second = s.poll_one(wait_ns=12 * MS)
    (completion,) = s.done()
    assert (completion.ticket, type(completion.error)) == (gone, NoQuorumIndefiniteError)
    assert second.request.count == 2  # in doubt: the same bytes again
    (completion,) = s.ok(first)
    assert (completion.ticket, completion.error) == (kept, None)


@pytest.mark.parametrize("status", [Status.DISK_FULL, Status.BAD_REQUEST, Status.FOREIGN_CLUSTER])
def test_a_final_refusal_fails_at_once_and_definitely(status):
    s = opened()
    s.put()
    (completion,) = s.refuse(s.poll_one(), status, text="the reason")
    assert type(completion.error) is DefiniteError
    assert f"{status.name} the reason" in str(completion.error)


def test_a_final_refusal_after_an_unanswered_attempt_is_indefinite():
    s = opened()
    s.put()
    s.poll_one()
    s.poll(wait_ns=500 * MS)
    (completion,) = s.refuse(s.poll_one(wait_ns=50 * MS), Status.DISK_FULL)
    assert type(completion.error) is IndefiniteError


def test_a_full_disk_while_opening_a_session_fails_the_waiting_writes():
    s = script()
    s.put(b"a")
    s.put(b"b")
    errors = [c.error for c in s.refuse(s.poll_one(), Status.DISK_FULL)]
    assert [type(error) for error in errors] == [DefiniteError] * 2
    assert s.core.next_deadline() is None


def test_bad_operation_is_definite():
    s = opened()
    s.put()
    sent = s.poll_one()
    parts = encode_write_reply(
        s.origin(sent, 1, 1), Outcomes([Outcome(OutcomeCode.BAD_OPERATION, 0)])
    )
    s.core.receive(sent.node, parts, s.now)
    (completion,) = s.done()
    assert type(completion.error) is DefiniteError


def test_an_expired_session_is_replaced_and_what_was_not_applied_starts_anew():
    s = opened()
    s.machine = KeyValueMachine()  # a cluster that has forgotten the session
    tickets = [s.put(b"a"), s.put(b"b")]
    assert s.ok(s.poll_one()) == []
    s.ok(s.poll_one())
    completions = s.ok(s.poll_one())
    assert [c.ticket for c in completions] == tickets
    assert [c.error for c in completions] == [None, None]


def test_an_expired_session_after_an_unanswered_attempt_is_indefinite():
    s = opened()
    s.put(b"a")
    s.poll_one()
    s.poll(wait_ns=500 * MS)
    s.machine = KeyValueMachine()
    (completion,) = s.ok(s.poll_one(wait_ns=50 * MS))
    assert type(completion.error) is IndefiniteError
    assert "SESSION_EXPIRED" in str(completion.error)
    s.put(b"b")
    s.ok(s.poll_one())
    (completion,) = s.ok(s.poll_one())
    assert completion.error is None


def test_stale_is_indefinite():
    s = opened()
    s.put()
    sent = s.poll_one()
    parts = encode_write_reply(s.origin(sent, 1, 1), Outcomes([Outcome(OutcomeCode.STALE, 0)]))
    s.core.receive(sent.node, parts, s.now)
    (completion,) = s.done()
    assert type(completion.error) is IndefiniteError


def test_an_answer_that_does_not_fit_is_indefinite():
    s = opened()
    s.put()
    sent = s.poll_one()
    parts = encode_write_reply(s.origin(sent, 1, 1), Outcomes([Outcome(0, 1), Outcome(0, 2)]))
    s.core.receive(sent.node, parts, s.now)
    (completion,) = s.done()
    assert type(completion.error) is IndefiniteError


def test_abandon_is_definite_only_for_what_was_never_sent():
    s = opened(requests_in_flight=1)
    sent_ticket = s.put(b"a")
    s.poll_one()
    queued_ticket = s.put(b"b")
    read_ticket = s.read(Get(b"a"))
    s.core.abandon("the client was closed")
    errors = {c.ticket: type(c.error) for c in s.done()}
    assert errors == {
        sent_ticket: IndefiniteError,
        queued_ticket: DefiniteError,
        read_ticket: DefiniteError,
    }
    assert s.core.pending == 0


def test_nothing_keeps_running_after_the_last_deadline():
    s = script()
    s.put(timeout_ns=10 * MS)
    s.poll_one()
    s.poll(wait_ns=20 * MS)
    assert s.core.pending == 0
    assert s.core.next_deadline() is None
    assert s.poll(wait_ns=10 * SECOND) == []


def test_no_quorum_errors_are_of_both_kinds():
    for kind, other in ((DefiniteError, IndefiniteError), (IndefiniteError, DefiniteError)):
        mixed = NoQuorumDefiniteError if kind is DefiniteError else NoQuorumIndefiniteError
        assert issubclass(mixed, NoQuorumError)
        assert issubclass(mixed, kind)
        assert not issubclass(mixed, other)
