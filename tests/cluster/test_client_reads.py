"""Reads of the client, and keys in several groups."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.client_core import group_of
from cluster.client_types import (
    DefiniteError,
    Get,
    GetResult,
    KeyValue,
    NoQuorumDefiniteError,
    Range,
    RangeResult,
)
from node import commands
from node.client_wire import (
    Status,
    encode_read_reply,
    encode_write_reply,
)
from node.kv import machine
from node.kv.machine import KeyValueMachine
from node.outcomes import Outcome, Outcomes
from node.raft.types import BatchMeta, Index, NodeId, Term
from tests.cluster.client_script import (
    MS,
    expired,
    opened,
    script,
)


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
    parts = encode_write_reply(s.origin(sent, 1, 1), Outcomes([Outcome(0, 1)]))
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
