"""The frames of the client lane (docs/ARCHITECTURE.md §8), from both ends."""

from __future__ import annotations

import contextlib
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.client_wire import (
    Consistency,
    ReadReply,
    ReadRequest,
    Refusal,
    ReplyOrigin,
    Status,
    WireError,
    WriteReply,
    WriteRequest,
    decode_reply,
    decode_request,
    encode_read_reply,
    encode_read_request,
    encode_refusal,
    encode_write_reply,
    encode_write_request,
)
from node.limits import (
    ENTRIES_PER_REQUEST_MAX,
    KEY_BYTES_MAX,
    QUERIES_PER_REQUEST_MAX,
    REQUEST_BYTES_MAX,
)
from node.outcomes import Outcome, Outcomes
from node.raft.types import GroupId, NodeId, Term

CLUSTER = bytes(range(16))
ORIGIN = ReplyOrigin(77, GroupId(3), NodeId(2), Term(9))


def write_request(*entries: bytes, request_id: int = 5) -> WriteRequest:
    body = struct.pack(f"<{len(entries)}I", *map(len, entries)) + b"".join(entries)
    return WriteRequest(request_id, CLUSTER, GroupId(1), len(entries), body, b"peer")


def read_request(*queries: list[object]) -> ReadRequest:
    return ReadRequest(6, CLUSTER, GroupId(1), Consistency.LOCAL, queries, b"peer")


def test_a_write_request_has_the_documented_layout():
    parts = encode_write_request(write_request(b"abc", b"de"))
    assert [bytes(part) for part in parts[1:]] == [struct.pack("<II", 3, 2) + b"abcde"]
    assert msgpack.unpackb(parts[0]) == [2, 1, 5, CLUSTER, 1, 2]


def test_a_read_request_has_the_documented_layout():
    parts = encode_read_request(read_request([1, b"k"], [2, b"a", b"", 10]))
    assert msgpack.unpackb(parts[0]) == [2, 2, 6, CLUSTER, 1, 1]
    assert msgpack.unpackb(parts[1]) == [[1, b"k"], [2, b"a", b"", 10]]


def test_requests_survive_the_wire():
    request = write_request(b"abc", b"de")
    assert decode_request(encode_write_request(request), b"peer") == request
    query = read_request([1, b"k"], [2, b"", b"", 0])
    assert decode_request(encode_read_request(query), b"peer") == query
    assert query.local


def test_bodies_of_two_requests_join_without_touching_an_entry():
    first, second = write_request(b"abc", b"de"), write_request(b"f")
    lengths = bytes(first.lengths) + bytes(second.lengths)
    assert struct.unpack("<3I", lengths) == (3, 2, 1)
    assert bytes(first.entries) + bytes(second.entries) == b"abcdef"


def test_replies_have_the_documented_layout():
    outcomes = Outcomes([Outcome(0, 4), Outcome(2, 4, b"now"), Outcome(0, 5)])
    parts = encode_write_reply(ORIGIN, outcomes)
    assert msgpack.unpackb(parts[0]) == [2, 77, 0, 3, 2, 9, ""]
    assert bytes(parts[1]) == b"\x00\x02\x00"
    assert struct.unpack("<3Q", parts[2]) == (4, 4, 5)
    assert msgpack.unpackb(parts[3], strict_map_key=False) == {1: b"now"}
    parts = encode_refusal(ORIGIN, Status.BUSY, "full")
    assert [msgpack.unpackb(part) for part in parts] == [[2, 77, 2, 3, 2, 9, "full"]]


def test_a_run_of_outcomes_is_two_numbers_on_the_wire():
    outcomes = Outcomes(Outcome(0, revision) for revision in range(7, 5_007))
    parts = encode_write_reply(ORIGIN, outcomes)
    assert [bytes(part) for part in parts[1:]] == [struct.pack("<Q", 7), struct.pack("<I", 5_000)]
    reply = decode_reply(parts)
    assert isinstance(reply, WriteReply)
    assert list(reply.outcomes) == list(outcomes)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.binary(max_size=2)), min_size=1))
def test_any_outcomes_survive_the_wire(drawn):
    outcomes = [Outcome(*each) for each in drawn]
    reply = decode_reply(encode_write_reply(ORIGIN, Outcomes(outcomes)))
    assert isinstance(reply, WriteReply)
    assert list(reply.outcomes) == outcomes


def test_replies_survive_the_wire():
    outcomes = Outcomes([Outcome(0, 4), Outcome(2, 4, b"now")])
    reply = decode_reply(encode_write_reply(ORIGIN, outcomes))
    assert reply == WriteReply(ORIGIN, outcomes)
    results = [[9, None], [9, (b"k", b"v", 1, 2, 3)], [9, [(b"k", b"v", 1, 2, 3)], True]]
    read = decode_reply(encode_read_reply(ORIGIN, results))
    item = [b"k", b"v", 1, 2, 3]
    assert read == ReadReply(ORIGIN, ([9, None], [9, item], [9, [item], True]))
    refusal = decode_reply(encode_refusal(ORIGIN, Status.NOT_LEADER, "ask 2"))
    assert refusal == Refusal(ORIGIN, Status.NOT_LEADER, "ask 2")


def test_a_long_refusal_text_is_cut_on_a_character():
    reply = decode_reply(encode_refusal(ORIGIN, Status.BUSY, "x" + "é" * 5_000))
    assert isinstance(reply, Refusal)
    assert reply.text == "x" + "é" * 511


def header(*fields: object) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


GOOD = header(2, 1, 5, CLUSTER, 1, 1)
READ = header(2, 2, 5, CLUSTER, 1, 0)
LENGTH_3 = struct.pack("<I", 3)
ABC = LENGTH_3 + b"abc"


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([], id="no parts"),
        pytest.param([GOOD], id="no entries"),
        pytest.param([GOOD, ABC, b""], id="a part too many"),
        pytest.param([GOOD + b"\x00", ABC], id="a tail behind the header"),
        pytest.param([b"", ABC], id="an empty header"),
        pytest.param([b"\xc1", ABC], id="not msgpack"),
        pytest.param([b"\x91" * 100, ABC], id="deep nesting"),
        pytest.param([b"\xdd\xff\xff\xff\xff", ABC], id="an array of 4 G"),
        pytest.param([header(1, 1, 5, CLUSTER, 1, 1), ABC], id="version 1"),
        pytest.param([header(3, 1, 5, CLUSTER, 1, 1), ABC], id="version 3"),
        pytest.param([header(2, 3, 5, CLUSTER, 1, 1), ABC], id="kind 3"),
        pytest.param([header(2, 1, 0, CLUSTER, 1, 1), ABC], id="request id 0"),
        pytest.param([header(2, 1, -1, CLUSTER, 1, 1), ABC], id="request id -1"),
        pytest.param([header(2, 1, 5, b"short", 1, 1), ABC], id="cluster id"),
        pytest.param([header(2, 1, 5, "x" * 16, 1, 1), ABC], id="a text id"),
        pytest.param([header(2, 1, 5, CLUSTER, -1, 1), ABC], id="group -1"),
        pytest.param([header(2, 1, 5, CLUSTER, 1 << 32, 1), ABC], id="group 2^32"),
        pytest.param([header(2, 1, 5, CLUSTER, 1, 0), b""], id="no entry"),
        pytest.param([header(2, 1, 5, CLUSTER, 1, 2), ABC], id="a length short"),
        pytest.param([GOOD, ABC + b"d"], id="bytes over"),
        pytest.param([GOOD, LENGTH_3 + b"ab"], id="bytes missing"),
        pytest.param([READ, b"\x90", b""], id="a read in three parts"),
        pytest.param([GOOD, b"abc"], id="lengths cut"),
        pytest.param([header(2, 2, 5, CLUSTER, 1, 2), b"\x90"], id="consistency 2"),
        pytest.param([READ, b"\x80"], id="queries as a map"),
        pytest.param([READ, header([1, b""])], id="an empty key"),
        pytest.param([READ, header([1, "text"])], id="a text key"),
        pytest.param([READ, header([3, b"k"])], id="query 3"),
        pytest.param([READ, header([2, b"", b"", -1])], id="a negative limit"),
        pytest.param([READ, header([1, b"k" * (KEY_BYTES_MAX + 1)])], id="a long key"),
        pytest.param([READ, header(*[[1, b"k"]] * (QUERIES_PER_REQUEST_MAX + 1))], id="many"),
        pytest.param([READ, b"\xd6\xff\xff\xff\xff\xff"], id="an extension"),
    ],
)
def test_a_malformed_request_is_a_wire_error(parts):
    with pytest.raises(WireError):
        decode_request(parts)


def test_requests_over_a_limit_name_the_request_so_that_it_can_be_refused():
    count = ENTRIES_PER_REQUEST_MAX + 1
    many = [header(2, 1, 5, CLUSTER, 7, count), struct.pack("<I", 1) * count + b"x" * count]
    with pytest.raises(WireError, match="a request holds 1 to 8192") as caught:
        decode_request(many)
    assert (caught.value.request_id, caught.value.group) == (5, 7)
    large = bytes(REQUEST_BYTES_MAX + 1)
    with pytest.raises(WireError, match="a request holds at most"):
        decode_request([GOOD, struct.pack("<I", len(large)) + large])
    allowed = bytes(REQUEST_BYTES_MAX)
    decode_request([GOOD, struct.pack("<I", len(allowed)) + allowed])


OK = header(2, 77, 0, 3, 2, 9, "")


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([], id="no parts"),
        pytest.param([OK], id="OK without an answer"),
        pytest.param([OK, b"", b""], id="an empty run"),
        pytest.param([OK, struct.pack("<Q", 1), struct.pack("<I", 0)], id="a run of no entries"),
        pytest.param([OK, struct.pack("<Q", 1), struct.pack("<I", 8_193)], id="a long run"),
        pytest.param([OK, b"\xff" * 8, struct.pack("<I", 2)], id="a run past the last revision"),
        pytest.param([OK, bytes(7), struct.pack("<I", 1)], id="a short revision"),
        pytest.param([OK, bytes(8), bytes(3)], id="a short count"),
        pytest.param([header(2, 77, 1, 3, 2, 9, ""), b"\x90"], id="a refusal with an answer"),
        pytest.param([header(2, 77, 99, 3, 2, 9, "")], id="status 99"),
        pytest.param([header(2, 77, 1, 3, 2, 9, "x" * 2_000)], id="a long text"),
        pytest.param([header(2, -1, 1, 3, 2, 9, "")], id="request id -1"),
        pytest.param([OK, b"\x00", struct.pack("<2Q", 1, 2), b"\x80"], id="revisions over"),
        pytest.param([OK, b"\x00", struct.pack("<Q", 1), b"\x90"], id="details as a list"),
        pytest.param([OK, b"\x00", struct.pack("<Q", 1), b"\x81\x01\xc4\x00"], id="position 1"),
        pytest.param([OK, b"\x00", struct.pack("<Q", 1), b"\x81\x00\x00"], id="detail 0"),
        pytest.param([OK, b"\x00", struct.pack("<Q", 1), b"\x81\x90\x00"], id="a list as key"),
        pytest.param([OK, header([1])], id="a short result"),
        pytest.param([OK, header([1, [[b"k", b"v", 1, 2]], False])], id="a short item"),
        pytest.param([OK, header([1, b"k"])], id="an item of bytes"),
    ],
)
def test_a_malformed_reply_is_a_wire_error(parts):
    with pytest.raises(WireError):
        decode_reply(parts)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_raises_nothing_but_a_wire_error(parts):
    for decode in (decode_request, decode_reply):
        with contextlib.suppress(WireError):
            decode(parts)


FRAMES = [
    encode_write_request(write_request(b"abc", b"de")),
    encode_read_request(read_request([1, b"k"], [2, b"a", b"", 10])),
    encode_write_reply(ORIGIN, Outcomes([Outcome(0, 4), Outcome(2, 4, b"now")])),
    encode_write_reply(ORIGIN, Outcomes([Outcome(0, 4), Outcome(0, 5)])),
    encode_read_reply(ORIGIN, [[9, [(b"k", b"v", 1, 2, 3)], True]]),
    encode_refusal(ORIGIN, Status.BUSY, "full"),
]


@given(st.sampled_from(FRAMES), st.data())
def test_a_flipped_byte_raises_nothing_but_a_wire_error(frame, data):
    parts = [bytearray(part) for part in frame]
    part = data.draw(st.sampled_from([part for part in parts if part]))
    part[data.draw(st.integers(0, len(part) - 1))] ^= data.draw(st.integers(1, 255))
    for decode in (decode_request, decode_reply):
        with contextlib.suppress(WireError):
            decode(parts)
