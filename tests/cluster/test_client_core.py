"""The client without I/O, against scripted nodes and against a small hostile cluster."""

from __future__ import annotations

import random
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster import client_lane
from cluster.client_core import ClientCore, group_of
from cluster.client_types import (
    ClientConfig,
    Completion,
    DefiniteError,
    Get,
    GetResult,
    IndefiniteError,
    KeyValue,
    NoQuorumDefiniteError,
    NoQuorumError,
    NoQuorumIndefiniteError,
    Outgoing,
    Range,
    RangeResult,
)
from node import commands
from node.client_wire import (
    ReadRequest,
    ReplyOrigin,
    Status,
    WriteRequest,
    decode_request,
    encode_read_reply,
    encode_refusal,
    encode_write_reply,
)
from node.commands import OutcomeCode
from node.kv import machine
from node.kv.machine import KeyValueMachine
from node.kv.sessions import SessionBounds
from node.limits import KEY_BYTES_MAX, REPLIES_PER_SESSION_MAX
from node.ports import Outcome
from node.raft.types import BatchMeta, GroupId, Index, NodeId, Term

CLUSTER = bytes(range(16))
NODES = [NodeId(1), NodeId(2), NodeId(3)]
MS = 1_000_000
SECOND = 1_000 * MS


@dataclass
class Sent:
    """A request on its way, decoded."""

    node: NodeId
    id: int
    request: Any
    """A WriteRequest or a ReadRequest; each test knows which."""
    outgoing: Outgoing


@dataclass
class Script:
    """Drives a core by hand: what it sends is collected, what it gets is said line by line."""

    core: ClientCore
    now: int = SECOND
    machine: KeyValueMachine = field(default_factory=KeyValueMachine)
    next_index: int = 1

    def poll(self, wait_ns: int = 0) -> list[Sent]:
        self.now += wait_ns
        sent = []
        for out in self.core.poll(self.now):
            sent.append(Sent(out.node, out.request_id, decode_request(out.parts), out))
        return sent

    def sleep(self) -> None:
        """Let the time pass until the core wants to be polled."""
        deadline = self.core.next_deadline()
        assert deadline is not None
        self.now = deadline

    def poll_one(self, wait_ns: int = 0) -> Sent:
        (sent,) = self.poll(wait_ns)
        return sent

    def put(self, key: bytes = b"k", value: bytes = b"v", timeout_ns: int = 10 * SECOND):
        return self.write(commands.put(key, value), timeout_ns)

    def write(self, operation: commands.Operation, timeout_ns: int = 10 * SECOND):
        return self.core.submit_write(operation, self.now, self.now + timeout_ns)

    def read(self, query, timeout_ns: int = 10 * SECOND, node=None):
        return self.core.submit_read(query, self.now, self.now + timeout_ns, node)

    def origin(self, sent: Sent, leader: int, term: int) -> ReplyOrigin:
        return ReplyOrigin(sent.id, sent.request.group, NodeId(leader), Term(term))

    def apply(self, sent: Sent) -> list[Outcome]:
        request = sent.request
        assert isinstance(request, WriteRequest)
        body = bytes(request.lengths) + bytes(request.entries)
        meta = BatchMeta(Term(1), Index(self.next_index), request.count, len(body))
        self.next_index += request.count
        return self.machine.apply(meta, 0, body)

    def ok(self, sent: Sent, term: int = 1):
        """Apply or answer the request for real, and deliver the reply."""
        origin = self.origin(sent, sent.node, term)
        if isinstance(sent.request, WriteRequest):
            parts = encode_write_reply(origin, self.apply(sent))
        else:
            parts = encode_read_reply(origin, self.machine.query_all(sent.request.queries))
        self.core.receive(sent.node, parts, self.now)
        return self.done()

    def refuse(self, sent: Sent, status: Status, leader: int = 0, term: int = 1, text: str = ""):
        parts = encode_refusal(self.origin(sent, leader, term), status, text)
        self.core.receive(sent.node, parts, self.now)
        return self.done()

    def done(self):
        return self.core.take_completions()

    def open(self) -> None:
        """Open the session of group 0 and learn its leader, by one put."""
        self.put(b"first")
        self.ok(self.poll_one())
        (completion,) = self.ok(self.poll_one())
        assert completion.error is None

    def version(self, key: bytes = b"k") -> int:
        result = self.machine.query([1, key])
        assert isinstance(result, list)
        return 0 if result[1] is None else result[1][4]


def script(groups: int = 1, **knobs: int) -> Script:
    knobs = {"request_timeout_ns": 500 * MS} | knobs
    return Script(ClientCore(CLUSTER, NODES, groups, ClientConfig(**knobs)))


def opened(**knobs: int) -> Script:
    s = script(**knobs)
    s.open()
    return s


# --- sessions and batching ----------------------------------------------------------------


def test_the_first_write_opens_a_session_then_goes_out():
    s = script()
    ticket = s.put()
    opening = s.poll_one()
    assert bytes(opening.request.entries) == commands.encode_open_session()
    assert s.ok(opening) == []
    (completion,) = s.ok(s.poll_one())
    assert (completion.ticket, completion.result) == (ticket, Outcome(OutcomeCode.OK, 1))
    assert s.core.next_deadline() is None


def test_what_waits_while_the_window_is_full_goes_out_as_one_request():
    s = opened()
    sent: list[Sent] = []
    for i in range(10):
        s.put(b"a%d" % i)
        s.put(b"b%d" % i)
        sent += s.poll()
    assert [x.request.count for x in sent] == [2, 2]
    assert len(s.ok(sent[0])) == 2
    assert [x.request.count for x in s.poll()] == [16]


def test_requests_are_cut_at_their_bounds_and_a_large_operation_travels_alone():
    s = opened(request_operations=3, request_bytes=1_000)
    for size in (1, 1, 1, 1, 600, 600, 5_000, 1):
        s.put(value=bytes(size))
    counts = []
    while s.core.pending:
        for sent in s.poll():
            counts.append(sent.request.count)
            s.ok(sent)
    assert counts == [3, 2, 1, 1, 1]


def test_acked_below_follows_the_oldest_unanswered_request():
    s = opened()

    def stamps(sent):
        body = bytes(sent.request.entries)
        return struct.unpack_from("<QQQ", body, 8)

    s.put()
    a = s.poll_one()
    s.put()
    b = s.poll_one()
    session, seq, acked = stamps(a)
    assert stamps(b) == (session, seq + 1, seq)
    s.ok(b)
    s.put()
    c = s.poll_one()
    assert stamps(c) == (session, seq + 2, seq)
    s.ok(a)
    s.put()
    assert stamps(s.poll_one()) == (session, seq + 3, seq + 2)
    assert acked == seq


def test_a_stuck_request_holds_back_others_before_the_replicas_forget_it(monkeypatch):
    monkeypatch.setattr(client_lane, "REPLIES_PER_SESSION_MAX", 8)
    s = script(request_operations=2)
    s.machine = KeyValueMachine(SessionBounds(replies_per_session=8))
    s.open()
    s.put(b"stuck")
    s.put(b"stuck too")
    stuck = s.poll_one()
    s.apply(stuck)  # applied, but its answer is not delivered yet
    passed = 0
    for i in range(20):
        s.put(b"k%d" % i)
        for sent in s.poll():
            passed += len(s.ok(sent))
    assert passed == 6
    late = s.ok(stuck)
    assert [c.error for c in late] == [None, None]
    assert s.version(b"stuck") == 1
    rest = 0
    while s.core.pending:
        for sent in s.poll():
            rest += len(s.ok(sent))
    assert rest == 14


def test_the_default_span_fits_what_replicas_keep():
    config = ClientConfig()
    assert config.requests_in_flight * config.request_operations <= REPLIES_PER_SESSION_MAX


# --- retries ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.NOT_LEADER, Status.BUSY, Status.LEAD_LOST])
def test_a_refused_write_is_sent_again_with_the_same_session_and_number(status):
    s = opened()
    s.put()
    first = s.poll_one()
    assert s.refuse(first, status) == []
    again = s.poll_one(wait_ns=SECOND // 10)
    assert again.id != first.id
    assert bytes(again.request.entries) == bytes(first.request.entries)
    (completion,) = s.ok(again)
    assert completion.error is None
    assert s.version() == 1


def test_an_unanswered_write_that_was_applied_is_answered_on_retry_not_applied():
    s = opened()
    s.put()
    first = s.poll_one()
    s.apply(first)
    assert s.poll(wait_ns=499 * MS) == []
    assert s.poll(wait_ns=MS) == []  # silent: backs off
    again = s.poll_one(wait_ns=100 * MS)
    assert again.node != first.node
    s.refuse(again, Status.NOT_LEADER, leader=first.node)
    again = s.poll_one()
    assert again.node == first.node
    (completion,) = s.ok(again)
    assert completion.result == Outcome(OutcomeCode.OK, 2)
    assert s.version() == 1


def test_a_late_answer_to_an_attempt_that_was_given_up_counts():
    s = opened()
    ticket = s.put()
    first = s.poll_one()
    s.poll(wait_ns=SECOND)
    second = s.poll_one(wait_ns=SECOND // 10)
    (completion,) = s.ok(first)
    assert (completion.ticket, completion.error) == (ticket, None)
    assert s.ok(second) == []
    assert s.core.unexpected == 1
    assert s.version() == 1


@pytest.mark.parametrize("status", [Status.BUSY, Status.NOT_LEADER, Status.DISK_FULL])
def test_a_late_refusal_does_not_disturb_the_attempt_that_is_out(status):
    s = opened()
    s.put()
    first = s.poll_one()
    s.poll(wait_ns=500 * MS)
    second = s.poll_one(wait_ns=50 * MS)
    assert s.refuse(first, status) == []
    assert s.poll(wait_ns=100 * MS) == []
    (completion,) = s.ok(second)
    assert completion.error is None


def test_trouble_with_the_old_leader_does_not_unseat_the_new_one():
    s = opened(request_operations=1)
    s.put(b"a")
    s.put(b"b")
    a, b = s.poll()
    s.refuse(a, Status.NOT_LEADER, leader=3, term=2)
    s.refuse(b, Status.NOT_LEADER, leader=0, term=2)
    s.core.peer_lost(a.node, s.now)
    assert s.poll_one().node == 3


def test_a_request_that_stays_silent_is_repeated_ever_more_slowly():
    s = opened(request_timeout_ns=100 * MS, request_timeout_ns_max=400 * MS)
    s.put(timeout_ns=60 * SECOND)
    s.poll_one()
    gaps: list[int] = []
    sent_at = s.now
    while len(gaps) < 5:
        s.sleep()
        if s.poll():
            gaps.append(round((s.now - sent_at) / (100 * MS)))
            sent_at = s.now
    assert gaps == [1, 2, 4, 4, 4]


def test_silence_is_the_nodes_not_the_requests():
    s = opened()
    s.put(b"a")
    s.poll_one()
    s.now += 400 * MS
    s.put(b"b")
    s.poll_one()
    assert s.poll(wait_ns=100 * MS) == []
    assert [sent.node for sent in s.poll(wait_ns=100 * MS)] == [2]


def copies_sent_to_a_steady_leader(s: Script, service_ns: int, writes: int) -> int:
    """Keep the window full of one-put requests at a leader that takes `service_ns` for each."""
    working: list[tuple[int, Sent]] = []
    free_at = s.now
    seen: list[bytes] = []
    for i in range(writes):
        s.put(b"k%d" % i, timeout_ns=3_600 * SECOND)
    while s.core.pending:
        for sent in s.poll():
            if sent.node == 1:
                free_at = max(free_at, s.now) + service_ns
                working.append((free_at, sent))
                seen.append(bytes(sent.request.entries))
            else:
                s.refuse(sent, Status.NOT_LEADER, leader=1)
        deadline = s.core.next_deadline()
        if working and (deadline is None or working[0][0] <= deadline):
            s.now, sent = working.pop(0)
            s.ok(sent)
        else:
            s.sleep()
    return len(seen) - len(set(seen))


def test_a_leader_that_is_slow_but_steady_is_sent_no_copies_once_its_pace_is_known():
    s = opened(requests_in_flight=1, request_operations=1, request_timeout_ns=250 * MS)
    assert copies_sent_to_a_steady_leader(s, service_ns=600 * MS, writes=30) <= 2


def test_a_request_is_due_only_when_the_one_before_it_is_answered():
    # Four requests wait at once: the last is answered after 800 ms, 200 ms after the one before.
    s = opened(requests_in_flight=4, request_operations=1, request_timeout_ns=250 * MS)
    s.core._lanes[GroupId(0), NodeId(0)]._service_ns[False] = MS
    assert copies_sent_to_a_steady_leader(s, service_ns=200 * MS, writes=4) == 0


def test_reads_do_not_teach_how_long_writes_take():
    s = opened(request_timeout_ns=100 * MS)
    for _ in range(9):
        s.put(b"k")
        (write,) = s.poll()
        for _ in range(3):
            s.now += 25 * MS
            s.read(Get(b"k"))
            s.ok(s.poll_one())
        s.now += 24 * MS
        assert s.poll() == []
        assert len(s.ok(write)) == 1
    lane = s.core._lanes[GroupId(0), NodeId(0)]
    assert lane._service_ns[False] > 90 * MS
    assert lane._service_ns[True] < 10 * MS


def test_after_a_lost_connection_the_next_node_is_asked_at_once():
    s = opened()
    s.put()
    first = s.poll_one()
    s.core.peer_lost(first.node, s.now)
    again = s.poll_one(wait_ns=2 * MS)
    assert again.node != first.node
    assert len(s.ok(again)) == 1


def test_a_frame_that_could_not_be_sent_moves_on_and_leaves_no_doubt():
    s = opened()
    s.put(timeout_ns=30 * MS)
    sent = s.poll_one()
    s.core.not_sent(sent.outgoing, s.now)
    while s.core.pending:
        for sent in s.poll(wait_ns=5 * MS):
            s.core.not_sent(sent.outgoing, s.now)
    (completion,) = s.done()
    assert type(completion.error) is NoQuorumDefiniteError
    assert "not connected" in str(completion.error)


# --- leader discovery ---------------------------------------------------------------------


def test_a_hint_is_followed_at_once():
    s = script()
    s.put()
    s.refuse(s.poll_one(), Status.NOT_LEADER, leader=3)
    assert s.poll_one().node == 3


def test_without_hints_the_nodes_are_tried_in_turn_ever_more_slowly():
    s = script()
    s.put(timeout_ns=60 * SECOND)
    nodes, waits = [], []
    for _ in range(9):
        sent = s.poll_one()
        nodes.append(sent.node)
        s.refuse(sent, Status.NOT_LEADER)
        before = s.now
        assert s.poll() == []
        s.sleep()
        waits.append((s.now - before) // MS)
    assert nodes == [1, 2, 3] * 3
    assert waits == [2, 4, 8, 16, 32, 50, 50, 50, 50]


def test_two_nodes_that_name_each_other_make_no_busy_loop():
    s = script()
    s.put(timeout_ns=60 * SECOND)
    started = s.now
    for _ in range(30):
        sent = s.poll_one()
        s.refuse(sent, Status.NOT_LEADER, leader=3 - sent.node)
        if not (s.core._lanes[GroupId(0), NodeId(0)].route.resume_at <= s.now):
            assert s.poll() == []
            s.sleep()
    assert s.now - started > SECOND


def test_an_old_hint_does_not_lead_back():
    s = script()
    s.put()
    s.refuse(s.poll_one(), Status.NOT_LEADER, leader=3, term=5)
    s.refuse(s.poll_one(), Status.NOT_LEADER, leader=0, term=6)
    sent = s.poll_one(wait_ns=50 * MS)
    assert sent.node == 1
    s.refuse(sent, Status.NOT_LEADER, leader=3, term=5)
    assert s.poll_one(wait_ns=50 * MS).node == 2


def test_a_hint_at_an_unknown_node_is_not_followed():
    s = script()
    s.put()
    s.refuse(s.poll_one(), Status.NOT_LEADER, leader=9)
    assert s.poll_one(wait_ns=50 * MS).node == 2


def test_while_the_leader_is_unknown_one_request_searches_for_it():
    s = opened(request_operations=1)
    for i in range(4):
        s.put(b"k%d" % i)
    a, b = s.poll()
    s.refuse(a, Status.NOT_LEADER, term=2)
    s.refuse(b, Status.NOT_LEADER, term=2)
    searching = s.poll_one(wait_ns=50 * MS)
    assert s.poll(wait_ns=50 * MS) == []
    s.ok(searching, term=2)
    assert len(s.poll()) == 2


def test_a_busy_leader_is_left_alone_for_a_while_and_stays_the_leader():
    s = opened()
    s.put()
    first = s.poll_one()
    s.refuse(first, Status.BUSY)
    assert s.poll() == []
    assert s.poll_one(wait_ns=2 * MS).node == first.node


# --- definite and indefinite --------------------------------------------------------------


def expired(s: Script):
    """Let time run to the deadlines of everything, unanswered; return the errors."""
    while s.core.pending:
        s.poll(wait_ns=50 * MS)
    return [completion.error for completion in s.done()]


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
    parts = encode_write_reply(s.origin(sent, 1, 1), [Outcome(OutcomeCode.BAD_OPERATION, 0)])
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
    parts = encode_write_reply(s.origin(sent, 1, 1), [Outcome(OutcomeCode.STALE, 0)])
    s.core.receive(sent.node, parts, s.now)
    (completion,) = s.done()
    assert type(completion.error) is IndefiniteError


def test_an_answer_that_does_not_fit_is_indefinite():
    s = opened()
    s.put()
    sent = s.poll_one()
    parts = encode_write_reply(s.origin(sent, 1, 1), [Outcome(0, 1), Outcome(0, 2)])
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


# --- reads --------------------------------------------------------------------------------


def test_reads_travel_together_and_come_back_as_values():
    s = opened()
    tickets = [s.read(Get(b"first")), s.read(Get(b"none")), s.read(Range())]
    sent = s.poll_one()
    assert len(sent.request.queries) == 3
    assert not sent.request.local
    completions = s.ok(sent)
    item = KeyValue(b"first", b"v", 1, 1, 1)
    assert [c.ticket for c in completions] == tickets
    assert [c.result for c in completions] == [
        GetResult(1, item),
        GetResult(1, None),
        RangeResult((1,), (item,), False),
    ]


def test_a_local_read_goes_to_its_node_and_stays_there():
    s = opened()
    s.read(Get(b"first"), node=NodeId(3))
    sent = s.poll_one()
    assert (sent.node, sent.request.local) == (3, True)
    s.core.not_sent(sent.outgoing, s.now)
    sent = s.poll_one(wait_ns=50 * MS)
    assert sent.node == 3
    (completion,) = s.ok(sent)
    assert completion.error is None


def test_a_read_is_tried_elsewhere_after_read_aborted_or_silence():
    s = opened()
    s.read(Get(b"first"))
    s.refuse(s.poll_one(), Status.READ_ABORTED)
    s.poll_one(wait_ns=50 * MS)
    s.poll(wait_ns=500 * MS)
    (completion,) = s.ok(s.poll_one(wait_ns=50 * MS))
    assert completion.error is None


def test_a_read_without_an_answer_is_a_definite_failure():
    s = opened()
    s.read(Get(b"first"), timeout_ns=200 * MS)
    s.poll_one()
    (error,) = expired(s)
    assert type(error) is NoQuorumDefiniteError


def test_a_short_answer_to_a_read_is_asked_for_the_rest():
    s = opened()
    tickets = [s.read(Get(b"first")) for _ in range(5)]
    answered = []
    while s.core.pending:
        sent = s.poll_one()
        origin = s.origin(sent, 1, 1)
        results = s.machine.query_all(sent.request.queries[:2])
        s.core.receive(sent.node, encode_read_reply(origin, results), s.now)
        answered += [c.ticket for c in s.done()]
    assert answered == tickets


@pytest.mark.parametrize("results", [[], [[1, None]] * 3, [[1, [], False]]])
def test_a_read_answer_that_does_not_fit_is_definite(results):
    s = opened()
    s.read(Get(b"first"))
    sent = s.poll_one()
    s.core.receive(sent.node, encode_read_reply(s.origin(sent, 1, 1), results), s.now)
    (completion,) = s.done()
    assert type(completion.error) is DefiniteError


def test_malformed_and_unexpected_frames_are_counted_and_dropped():
    s = opened()
    s.put()
    sent = s.poll_one()
    s.core.receive(sent.node, [b"\xc1"], s.now)
    s.core.receive(sent.node, [], s.now)
    parts = encode_write_reply(s.origin(sent, 1, 1), [Outcome(0, 1)])
    s.core.receive(NodeId(3), parts, s.now)
    assert (s.core.malformed, s.core.unexpected) == (2, 1)
    assert s.done() == []
    assert len(s.ok(sent)) == 1


# --- groups -------------------------------------------------------------------------------


def test_keys_are_routed_by_crc32c():
    assert group_of(b"123456789", 7) == 0xE3069283 % 7
    assert group_of(b"anything", 1) == 0
    s = script(groups=4)
    key = next(b"k%d" % i for i in range(99) if group_of(b"k%d" % i, 4) == 2)
    s.put(key)
    assert s.poll_one().request.group == 2


def test_an_atomic_operation_across_groups_is_refused():
    s = script(groups=4)
    keys = {int(group_of(b"k%d" % i, 4)): b"k%d" % i for i in range(99)}
    same = commands.batch([commands.put(keys[1], b""), commands.delete(keys[1])])
    s.write(same)
    across = commands.batch([commands.put(keys[1], b""), commands.put(keys[2], b"")])
    with pytest.raises(DefiniteError, match="different groups"):
        s.write(across)
    assert s.core.pending == 1


class Groups:
    """One machine per group behind a script, for range fan-out."""

    def __init__(self, groups: int, keys: list[bytes]) -> None:
        self.s = script(groups=groups)
        self.machines = [KeyValueMachine() for _ in range(groups)]
        for group, own in enumerate(self.machines):
            mine = [key for key in keys if group_of(key, groups) == group]
            entries = [commands.encode_open_session()]
            entries += [
                commands.encode(commands.put(key, b"v"), 1, seq, 1)
                for seq, key in enumerate(mine, 1)
            ]
            body = struct.pack(f"<{len(entries)}I", *map(len, entries)) + b"".join(entries)
            own.apply(BatchMeta(Term(1), Index(1), len(entries), 0), 0, body)

    def read(self, query: Range) -> RangeResult:
        self.s.read(query)
        (result,) = [c.result for c in self.answer(self.s.poll())]
        assert isinstance(result, RangeResult)
        return result

    def answer(self, requests):
        for sent in requests:
            self.s.machine = self.machines[sent.request.group]
            yield from self.s.ok(sent)


@example(keys=[b"\x01", b"\x1f", b"O"], groups=2, limits=(0, 1), start=b"", end=b"")
@given(
    st.sets(st.binary(min_size=1, max_size=2), max_size=40).map(sorted),
    st.integers(2, 5),
    st.tuples(st.integers(0, 12), st.integers(1, 12)),
    st.binary(max_size=1),
    st.binary(max_size=1),
)
def test_a_range_over_groups_reads_like_one_over_a_single_group(keys, groups, limits, start, end):
    limit, servers_own = limits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "RANGE_ITEMS_MAX", servers_own)
        check_range_over_groups(keys, groups, limit, start, end)


def check_range_over_groups(keys, groups, limit, start, end):
    cluster = Groups(groups, keys)
    wanted = [k for k in keys if k >= start and (not end or k < end)]
    got: list[bytes] = []
    query = Range(start, end, limit)
    while True:
        result = cluster.read(query)
        assert len(result.revisions) == groups
        assert not limit or len(result.items) <= limit
        got += [item.key for item in result.items]
        if not result.more:
            break
        assert result.items
        query = Range(got[-1] + b"\0", end, limit)
    assert got == wanted


def test_a_range_fails_with_the_first_group_that_fails():
    cluster = Groups(3, [b"a", b"b", b"c"])
    ticket = cluster.s.read(Range())
    first, *others = cluster.s.poll()
    (completion,) = cluster.s.refuse(first, Status.BAD_REQUEST)
    assert (completion.ticket, type(completion.error)) == (ticket, DefiniteError)
    second, third = others
    assert cluster.s.refuse(second, Status.BAD_REQUEST) == []
    assert list(cluster.answer([third])) == []
    assert cluster.s.core.pending == 0


# --- bounds -------------------------------------------------------------------------------


def test_a_full_client_refuses_definitely():
    s = script(pending_operations_max=2)
    s.put()
    s.put()
    with pytest.raises(DefiniteError, match="2 operations"):
        s.put()
    s = script(pending_bytes_max=1_000)
    s.put(value=bytes(1_000))
    with pytest.raises(DefiniteError, match="are pending"):
        s.read(Get(b"k"))


@pytest.mark.parametrize(
    "query",
    [Get(b""), Get(b"k" * (KEY_BYTES_MAX + 1)), Range(b"k" * (KEY_BYTES_MAX + 1)), Range(limit=-1)],
)
def test_a_query_out_of_bounds_is_refused_before_it_is_sent(query):
    with pytest.raises(DefiniteError):
        script().read(query)


def test_a_local_read_from_an_unknown_node_names_the_nodes():
    with pytest.raises(DefiniteError, match="nodes are 1, 2, 3"):
        script().read(Get(b"k"), node=NodeId(9))


def test_a_deadline_is_kept_to_within_the_grain():
    s = script()
    s.put(timeout_ns=20 * MS)
    s.put(timeout_ns=21 * MS)
    s.poll()
    times = []
    while s.core.pending:
        s.sleep()
        s.poll()
        times += [s.now - SECOND] * len(s.done())
    assert times[0] == 20 * MS
    assert times[1] <= 26 * MS


# --- exactly once, in a hostile world -----------------------------------------------------


class Hostile:
    """Nodes with one log, a moving leader, and every fault that §8 allows, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        knobs = ClientConfig(request_operations=3, request_queries=2, request_timeout_ns=20 * MS)
        self.s = Script(ClientCore(CLUSTER, NODES, 1, knobs))
        self.s.machine = KeyValueMachine(SessionBounds(sessions=2))
        self.leader = NodeId(1)
        self.term = 1
        self.requests: list[Sent] = []
        self.replies: list[tuple[NodeId, list]] = []
        self.uncommitted: list[Sent] = []
        self.completions: dict[int, Completion] = {}

    def reply(self, sent: Sent, parts: list) -> None:
        self.replies.append((sent.node, parts))

    def origin(self, sent: Sent, leader: int) -> ReplyOrigin:
        return self.s.origin(sent, leader, self.term)

    def serve(self, sent: Sent, fate: str) -> None:
        """One node handles one request, well or badly."""
        if sent.node != self.leader:
            hint = self.rng.randrange(4)
            self.reply(sent, encode_refusal(self.origin(sent, hint), Status.NOT_LEADER, ""))
        elif isinstance(sent.request, ReadRequest):
            results = self.s.machine.query_all(sent.request.queries)
            self.reply(sent, encode_read_reply(self.origin(sent, sent.node), results))
        elif fate == "busy":
            self.reply(sent, encode_refusal(self.origin(sent, sent.node), Status.BUSY, ""))
        elif fate == "lost":
            self.reply(sent, encode_refusal(self.origin(sent, 0), Status.LEAD_LOST, ""))
            self.uncommitted.append(sent)
        elif fate == "mute":
            self.uncommitted.append(sent)
        else:
            outcomes = self.s.apply(sent)
            self.reply(sent, encode_write_reply(self.origin(sent, sent.node), outcomes))

    def take(self, queue: list):
        return queue.pop(self.rng.randrange(len(queue)))

    def step(self, fault: str) -> None:
        """Let one thing happen."""
        if fault == "elect":
            self.term += 1
            self.leader = self.rng.choice(NODES)
        elif fault == "evict":
            entry = commands.encode_open_session()
            body = struct.pack("<I", len(entry)) + entry
            meta = BatchMeta(Term(1), Index(self.s.next_index), 1, len(body))
            self.s.next_index += 1
            self.s.machine.apply(meta, 0, body)
        elif fault == "disconnect":
            node = self.rng.choice(NODES)
            self.requests = [r for r in self.requests if r.node != node]
            self.s.core.peer_lost(node, self.s.now)
        elif fault == "commit late" and self.uncommitted:
            self.s.apply(self.take(self.uncommitted))
        elif fault == "repeat a reply" and self.replies:
            self.replies.append(self.replies[0])
        elif fault == "drop a reply" and self.replies:
            self.take(self.replies)
        elif fault in ("serve", "busy", "lost", "mute") and self.requests:
            self.serve(self.take(self.requests), fault)
        elif fault == "deliver" and self.replies:
            node, parts = self.take(self.replies)
            self.s.core.receive(node, parts, self.s.now)
        elif fault == "wait":
            self.s.now += self.rng.choice([1, 5, 30]) * MS
        self.pump()

    def pump(self) -> None:
        for sent in self.s.poll():
            if self.rng.randrange(10) == 0:
                self.s.core.not_sent(sent.outgoing, self.s.now)
            else:
                self.requests.append(sent)
        for completion in self.s.done():
            assert completion.ticket not in self.completions, "completed twice"
            self.completions[completion.ticket] = completion

    def heal(self) -> None:
        """No more faults: everything ends by its deadline, and every late copy arrives."""
        for _ in range(10_000):
            if not self.s.core.pending:
                break
            self.s.now += MS
            for sent in self.s.poll():
                self.requests.append(sent)
            while self.requests:
                self.serve(self.requests.pop(0), "serve")
            while self.replies:
                node, parts = self.replies.pop(0)
                self.s.core.receive(node, parts, self.s.now)
            self.pump()
        for sent in self.uncommitted + [r for r in self.requests if r.node == self.leader]:
            if isinstance(sent.request, WriteRequest):
                self.s.apply(sent)


FAULTS = (
    ["serve"] * 8
    + ["deliver"] * 8
    + ["put"] * 4
    + ["wait"] * 2
    + ["busy", "lost", "mute", "elect", "disconnect", "commit late", "read"]
    + ["repeat a reply", "drop a reply"]
)


def run_hostile(seed: int, steps: int) -> Counter[str]:
    """Run one hostile world to its end and check every operation; count the kinds of ends."""
    world = Hostile(seed)
    keys: dict[int, bytes] = {}
    reads = 0
    for _ in range(steps):
        fault = "evict" if world.rng.randrange(60) == 0 else world.rng.choice(FAULTS)
        if fault == "put":
            key = b"k%d" % len(keys)
            timeout = world.rng.choice([10, 60, 2_000]) * MS
            keys[world.s.put(key, timeout_ns=timeout)] = key
        elif fault == "read":
            reads += 1
            world.s.read(Get(b"k0"), timeout_ns=2 * SECOND)
        world.step(fault)
    world.heal()
    assert world.s.core.pending == 0
    assert world.s.core.next_deadline() is None
    assert len(world.completions) == len(keys) + reads
    assert world.s.core.malformed == 0
    assert not world.s.core._shared.requests
    assert world.s.core._shared.pending_bytes == 0
    ends: Counter[str] = Counter()
    for ticket, key in keys.items():
        error = world.completions[ticket].error
        version = world.s.version(key)
        if error is None:
            assert version == 1, f"{key!r} was acknowledged"
            ends["acknowledged"] += 1
        elif isinstance(error, DefiniteError):
            assert version == 0, f"{key!r}: {error!r}"
            ends["definite"] += 1
        else:
            assert isinstance(error, IndefiniteError)
            assert version <= 1
            ends[f"indefinite, applied {version}"] += 1
    return ends


def test_acknowledged_is_once_definite_is_never_and_indefinite_is_at_most_once():
    ends: Counter[str] = Counter()
    for seed in range(150):
        try:
            ends += run_hostile(seed, steps=250)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
    # The world is hostile enough: every kind of end is common.
    kinds = ["acknowledged", "definite", "indefinite, applied 0", "indefinite, applied 1"]
    assert all(ends[kind] >= 50 for kind in kinds), ends


def test_no_quorum_errors_are_of_both_kinds():
    for kind, other in ((DefiniteError, IndefiniteError), (IndefiniteError, DefiniteError)):
        mixed = NoQuorumDefiniteError if kind is DefiniteError else NoQuorumIndefiniteError
        assert issubclass(mixed, NoQuorumError)
        assert issubclass(mixed, kind)
        assert not issubclass(mixed, other)
