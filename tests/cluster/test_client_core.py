"""The client without I/O, line by line: sessions, batching, retries, leader discovery, bounds."""

from __future__ import annotations

import struct

import pytest

from cluster import client_lane
from cluster.client_types import (
    ClientConfig,
    DefiniteError,
    Get,
    NoQuorumDefiniteError,
    Range,
)
from node import commands
from node.client_wire import (
    Status,
)
from node.commands import OutcomeCode
from node.kv.machine import KeyValueMachine
from node.kv.sessions import SessionBounds
from node.limits import KEY_BYTES_MAX, REPLIES_PER_SESSION_MAX
from node.ports import Outcome
from node.raft.types import GroupId, NodeId
from tests.cluster.client_script import (
    MS,
    SECOND,
    Script,
    Sent,
    opened,
    script,
)

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
    s = opened(requests_in_flight=2)
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
    s = opened(request_operations=1, requests_in_flight=2)
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
