"""The client lane over a real ipc socket, in front of a real group."""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

import msgpack
import pytest
import zmq

from node.client_wire import (
    ReadReply,
    Refusal,
    Reply,
    Status,
    WriteReply,
    decode_reply,
    encode_read_request,
    encode_write_request,
)
from node.clients import ClientLane
from node.limits import (
    DRAIN_FRAMES_MAX,
    PEER_FRAME_BYTES_MAX,
    PEER_HIGH_WATER_MARK,
    REQUEST_BYTES_MAX,
    REQUESTS_BYTES_PER_TURN_MAX,
)
from node.outcomes import Outcome
from node.raft.types import GroupId
from node.transport import bind_router
from tests.node.mutants import mutants
from tests.node.rig import (
    CLUSTER,
    SESSION,
    Node,
    body_of,
    lengths_of,
    put_entry,
    read_of,
    write_of,
)

DEADLINE_S = 10


class Desk:
    """A lone leader whose replies leave through a client lane."""

    def __init__(self, directory: str) -> None:
        self.endpoint = f"ipc://{directory}/n1.client"
        self.context: zmq.Context = zmq.Context()
        self.router = bind_router(self.context, self.endpoint, PEER_FRAME_BYTES_MAX)
        self.lane = ClientLane(self.router, CLUSTER)
        self.node = Node()
        self.node.lead_alone()
        for group in self.node.multi.groups.values():
            group._replies = self.lane
        self.sockets = [self.router]
        self.client = self.connect()

    def connect(self, name: bytes = b"") -> zmq.Socket:
        socket: zmq.Socket = self.context.socket(zmq.DEALER)
        self.sockets.append(socket)
        socket.linger = 0
        socket.rcvtimeo = int(DEADLINE_S * 1000)
        if name:
            socket.setsockopt(zmq.IDENTITY, name)
        socket.connect(self.endpoint)
        assert socket.poll(DEADLINE_S * 1000, zmq.POLLOUT)
        return socket

    @property
    def taken(self) -> int:
        return self.lane.requests + self.lane.malformed

    def serve(self, count: int = 1) -> None:
        """Take so many frames in, and let the node come to rest."""
        wanted = self.taken + count
        deadline = time.monotonic() + DEADLINE_S
        while self.taken < wanted:
            assert time.monotonic() < deadline, "the requests did not arrive"
            if self.router.poll(5):
                self.lane.receive(self.node.multi)
        self.node.rest()

    def ask(self, parts) -> Reply:
        self.client.send_multipart([bytes(part) for part in parts])
        self.serve()
        return decode_reply(self.client.recv_multipart())

    def close(self) -> None:
        for socket in self.sockets:
            socket.close(0)
        self.context.term()


@pytest.fixture
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="rd-") as directory:
        desk = Desk(directory)
        yield desk
        desk.close()


def header(*, version=2, kind=1, number=5, cluster=CLUSTER, group=0, extra=1) -> bytes:
    packed: bytes = msgpack.packb([version, kind, number, cluster, group, extra])
    return packed


def test_a_put_and_a_get_over_the_socket(desk):
    opened = desk.ask(encode_write_request(write_of(SESSION)))
    assert isinstance(opened, WriteReply)
    session = int.from_bytes(opened.outcomes[0].detail, "little")
    done = desk.ask(encode_write_request(write_of(put_entry(session, 1, b"k", b"v" * 100_000))))
    assert isinstance(done, WriteReply)
    assert done.outcomes == [Outcome(0, 1)]
    found = desk.ask(encode_read_request(read_of([1, b"k"])))
    assert isinstance(found, ReadReply)
    assert found.results[0][1] == [b"k", b"v" * 100_000, 1, 1, 1]
    assert (desk.lane.requests, desk.lane.frames_out) == (3, 3)
    assert desk.lane.bytes_in > 100_000 < desk.lane.bytes_out


# --- definite refusals ----------------------------------------------------------------

BAD = [
    pytest.param([header(extra=2), body_of(b"x")], id="count"),
    pytest.param([header(extra=0), b""], id="no entries"),
    pytest.param([header(), struct.pack("<I", 5) + b"x"], id="lengths"),
    pytest.param([header(), struct.pack("<I", 0xFFFF_FFFF) + b"x"], id="a length of 4 GiB"),
    pytest.param([header(), b"\1\0\0"], id="lengths cut"),
    pytest.param([header(extra=(1 << 64) - 1), body_of(b"x")], id="more entries than there are"),
    pytest.param([header(kind=3), b""], id="kind"),
    pytest.param([header(kind=2, extra=0), b"", b""], id="a read in three parts"),
    pytest.param([header(kind=1), lengths_of(b"x"), b"x"], id="a write in three parts"),
    pytest.param([header(kind=2, extra=2), msgpack.packb([])], id="consistency"),
    pytest.param([header(kind=2, extra=0), b"\xc1"], id="queries are no msgpack"),
    pytest.param([header(kind=2, extra=0), msgpack.packb({})], id="queries are no list"),
    pytest.param([header(kind=2, extra=0), msgpack.packb([[3, b"k"]])], id="a query of no kind"),
    pytest.param([header(group=9), body_of(b"x")], id="a group that is not here"),
    pytest.param(
        [header(), body_of(bytes(REQUEST_BYTES_MAX + 1))],
        id="too large",
    ),
]


@pytest.mark.parametrize("parts", BAD)
def test_a_request_that_is_wrong_is_refused_with_its_number_and_a_reason(desk, parts):
    reply = desk.ask(parts)
    assert isinstance(reply, Refusal)
    assert (reply.status, reply.origin.request_id) == (Status.BAD_REQUEST, 5)
    assert reply.text


def test_a_request_for_another_cluster_is_refused_and_told_whose_this_is(desk):
    reply = desk.ask([header(cluster=bytes(16)), body_of(SESSION)])
    assert isinstance(reply, Refusal)
    assert reply.status is Status.FOREIGN_CLUSTER
    assert CLUSTER.hex() in reply.text
    assert desk.lane.foreign == 1
    assert desk.node.core.log.last_index == 1, "nothing was appended"


# --- what is not answered -------------------------------------------------------------

NOISE = [
    [b""],
    [b"", b""],
    [b"", header(), body_of(SESSION)],  # a REQ socket's empty delimiter
    [b"x"] * 50,
    [b""] * 5_000,
    [header(extra=True), body_of(SESSION)],  # once a struct.error: True is no count
    [header(number=True), body_of(SESSION)],
    [header(kind=True), body_of(SESSION)],
    [header(group=True), body_of(SESSION)],
    [header(version=1), body_of(SESSION)],
    [header(number=0), body_of(SESSION)],
    [header(number=-1), body_of(SESSION)],
    [header(cluster=b"short"), body_of(SESSION)],
    [header(group=1 << 32), body_of(SESSION)],
    [header() + b"\0", body_of(SESSION)],
    [b"\x91" * 100, body_of(SESSION)],
]


@pytest.mark.parametrize("parts", NOISE, ids=range(len(NOISE)))
def test_noise_is_counted_and_not_answered_and_the_next_request_is_served(desk, parts):
    desk.client.send_multipart(parts)
    desk.serve()
    reply = desk.ask(encode_write_request(write_of(SESSION, request_id=77)))
    assert reply.origin.request_id == 77
    assert isinstance(reply, WriteReply)
    assert desk.lane.malformed == 1
    assert not desk.client.poll(0)


def test_seeded_garbage_leaves_the_lane_in_order(desk):
    honest = [
        [bytes(p) for p in encode_write_request(write_of(b"one", b"two"))],
        [bytes(p) for p in encode_read_request(read_of([1, b"k"], local=True))],
    ]
    for number, frame in enumerate(mutants(21, honest, 2_000), 1):
        desk.client.send_multipart(frame)
        if number % 100 == 0:
            desk.serve(100)
            while desk.client.poll(0):
                decode_reply(desk.client.recv_multipart())
    assert desk.lane.malformed > 1_000
    reply = desk.ask(encode_write_request(write_of(SESSION, request_id=10**9)))
    while reply.origin.request_id != 10**9:  # late answers to garbage
        reply = decode_reply(desk.client.recv_multipart())
    assert isinstance(reply, WriteReply)


# --- bounds and vanished clients ------------------------------------------------------


def test_a_reply_to_a_client_that_is_gone_is_dropped_and_counted(desk):
    gone = desk.connect(b"gone")
    gone.send_multipart([bytes(p) for p in encode_write_request(write_of(SESSION))])
    wanted, deadline = desk.taken + 1, time.monotonic() + DEADLINE_S
    while desk.taken < wanted:
        assert time.monotonic() < deadline
        desk.lane.receive(desk.node.multi)
    gone.close(0)
    while desk.lane.dropped == 0:  # its end of the connection closes in ZeroMQ's own time
        assert time.monotonic() < deadline
        desk.lane.reply(b"gone", [b"a reply"])
    sent = desk.lane.frames_out
    desk.node.rest()
    assert desk.lane.dropped >= 2
    assert desk.lane.frames_out == sent
    assert isinstance(desk.ask(encode_write_request(write_of(SESSION))), WriteReply)


def test_a_client_that_reads_nothing_loses_replies_and_costs_no_time_and_bounded_memory(desk):
    lazy = desk.connect(b"lazy")
    lazy.send_multipart([bytes(p) for p in encode_read_request(read_of([1, b"k"], local=True))])
    desk.serve()
    began = time.monotonic()
    count = 0
    while desk.lane.dropped == 0:
        desk.lane.reply(b"lazy", [b"x" * 50_000])
        count += 1
        assert count < 20 * PEER_HIGH_WATER_MARK
    assert time.monotonic() - began < DEADLINE_S
    assert isinstance(desk.ask(encode_write_request(write_of(SESSION))), WriteReply)


def test_a_turn_takes_a_bounded_number_of_requests_however_small(desk):
    clients = [desk.connect() for _ in range(8)]
    count = 8 * PEER_HIGH_WATER_MARK
    for number in range(count):
        clients[number % 8].send(b"")
    takes: list[int] = []
    while sum(takes) < count:
        assert desk.router.poll(DEADLINE_S * 1000)
        before = desk.lane.malformed
        desk.lane.receive(desk.node.multi)
        takes.append(desk.lane.malformed - before)
    assert max(takes) <= DRAIN_FRAMES_MAX


def test_a_turn_takes_a_bounded_number_of_bytes(desk):
    entry = b"x" * (2 << 20)
    for number in range(1, 11):
        desk.client.send_multipart(
            [bytes(p) for p in encode_write_request(write_of(entry, request_id=number))]
        )
    takes: list[int] = []
    while sum(takes) < 10:
        assert desk.router.poll(DEADLINE_S * 1000)
        before = desk.lane.requests
        desk.lane.receive(desk.node.multi)
        takes.append(desk.lane.requests - before)
    assert max(takes) <= REQUESTS_BYTES_PER_TURN_MAX // len(entry)


def test_a_large_request_that_is_a_batch_of_its_own_is_not_copied(desk):
    """Its frame holds the body and nothing else; a small one would hold a block of others'."""
    for entry, kept in ((b"x" * 100_000, memoryview), (b"x" * 1_000, bytes)):
        request = write_of(SESSION, entry)
        desk.ask(encode_write_request(request))
        last = desk.node.core.log.batches[-1]
        batch = desk.node.store.read(GroupId(0), last.base_index)
        assert type(batch.body) is kept
        assert bytes(batch.body) == request.body
    assert desk.node.runtime._gathered == []


def test_requests_that_are_joined_give_their_memory_back(desk):
    runtime = desk.node.runtime
    for number in (8, 9):
        request = write_of(b"x" * 70_000, request_id=number)
        runtime.write(replace(request, body=memoryview(request.body)))
    desk.node.rest()
    last = desk.node.core.log.batches[-1]
    assert last.count == 2
    assert type(desk.node.store.read(GroupId(0), last.base_index).body) is bytes
