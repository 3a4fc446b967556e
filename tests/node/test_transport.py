"""Peer lanes over real ipc sockets: delivery, lanes, drops, strangers, older lives, disconnects."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from node.codec import Sender, decode_peer_frame, encode_append, encode_control
from node.limits import (
    DRAIN_CONTROL_BYTES_MAX,
    DRAIN_FRAMES_MAX,
    MESSAGES_PER_FRAME_MAX,
    PEER_FRAME_BYTES_MAX,
    PEER_HIGH_WATER_MARK,
)
from node.raft.messages import Append, Heartbeat, Message
from node.raft.types import Batch, Buffer, GroupId, Index, NodeId, Term
from node.transport import PeerTransport, _shared, bind_router
from tests.node.mutants import DEEP, SEAL_BYTES, peer_mutants
from tests.node.rig import CLUSTER, batch_of

ME, PEER, OTHER = NodeId(1), NodeId(2), NodeId(3)
DEADLINE_S = 10


class Desk:
    """Node 1's transport, and sockets that say what they like to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.context: zmq.Context = zmq.Context()
        self.context.linger = 0
        self.routers = {
            lane: bind_router(self.context, self.endpoint(1, lane), PEER_FRAME_BYTES_MAX)
            for lane in ("control", "data")
        }
        self.transport = PeerTransport(self.context, Sender(CLUSTER, ME, 4), self.routers)
        for peer in (PEER, OTHER):
            self.transport.connect(
                peer, self.endpoint(peer, "control"), self.endpoint(peer, "data")
            )
        self.counters = self.transport.counters
        self.sockets = [*self.routers.values()]

    def endpoint(self, node: int, lane: str) -> str:
        return f"ipc://{self.directory}/n{node}.{lane}"

    def dealer(self, lane: str, name: bytes = b"") -> zmq.Socket:
        """A connection to one of node 1's lanes."""
        socket: zmq.Socket = self.context.socket(zmq.DEALER)
        self.sockets.append(socket)
        if name:
            socket.setsockopt(zmq.IDENTITY, name)
        socket.connect(self.endpoint(1, lane))
        assert socket.poll(DEADLINE_S * 1000, zmq.POLLOUT)
        return socket

    def bind_peer(self, node: int, lane: str) -> zmq.Socket:
        """Where node 1 sends to; reads time out."""
        socket = bind_router(self.context, self.endpoint(node, lane), PEER_FRAME_BYTES_MAX)
        socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        self.sockets.append(socket)
        return socket

    def receive(self, count: int = 1) -> list[Message]:
        """Receive until so many frames have come over the lanes in all."""
        counters, found = self.counters, []
        deadline = time.monotonic() + DEADLINE_S
        while counters.control_frames_in + counters.data_frames_in < count:
            assert time.monotonic() < deadline, "the frames did not arrive"
            if not any(router.poll(5) for router in self.routers.values()):
                continue
            found += self.transport.receive()
        return found

    def send_until(self, reached, *messages: Message) -> None:
        """Send again and again until something is so: connections are made in ZeroMQ's own time."""
        deadline = time.monotonic() + DEADLINE_S
        while not reached():
            assert time.monotonic() < deadline
            self.transport.send(messages)

    def close(self) -> None:
        self.transport.close()
        for socket in self.sockets:
            socket.close(0)
        self.context.term()


@pytest.fixture
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="rd-") as directory:
        desk = Desk(Path(directory))
        yield desk
        desk.close()


def beat(to: NodeId = ME, sender: NodeId = PEER, term: int = 3) -> Heartbeat:
    return Heartbeat(GroupId(0), sender, to, Term(term), Index(0), 0)


def append_to(to: NodeId, *batches: Batch, sender: NodeId = PEER) -> Append:
    return Append(GroupId(0), sender, to, Term(3), Index(4), Term(2), Index(4), batches)


def frame_of(
    *messages: Message,
    node: int = PEER,
    incarnation: int = 1,
    cluster: bytes = CLUSTER,
    number: int = 0,
) -> bytes:
    return encode_control(Sender(cluster, NodeId(node), incarnation), messages, number)


def honest_on(lane: str) -> list[bytes]:
    """A frame of the kind that this lane carries."""
    if lane == "control":
        return [frame_of(beat())]
    return [bytes(part) for part in encode_append(Sender(CLUSTER, PEER, 1), append_to(ME))]


def unnumbered(parts: Sequence[Buffer]) -> list[bytes]:
    """A frame without its seal."""
    return [bytes(parts[0])[SEAL_BYTES:], *(bytes(part) for part in parts[1:])]


# --- delivery -------------------------------------------------------------------------


def test_messages_travel_on_the_lane_of_their_kind(desk):
    control, data = desk.bind_peer(PEER, "control"), desk.bind_peer(PEER, "data")
    append = append_to(PEER, batch_of(3, 5, b"x" * 200_000), sender=ME)
    desk.send_until(lambda: desk.counters.data_frames_out, append)
    desk.send_until(lambda: desk.counters.control_frames_out, beat(PEER, ME))
    assert len(control.recv_multipart()) == 2
    _, *parts = data.recv_multipart()
    assert unnumbered(parts) == unnumbered(encode_append(Sender(CLUSTER, ME, 4), append))
    assert desk.counters.data_bytes_out == sum(map(len, parts))


def test_the_messages_of_a_turn_to_one_peer_are_one_frame(desk):
    control = desk.bind_peer(PEER, "control")
    messages = [beat(PEER, ME, term) for term in range(1, 6)]
    desk.send_until(lambda: desk.counters.control_frames_out, *messages)
    _, frame = control.recv_multipart()
    assert unnumbered([frame]) == unnumbered([encode_control(Sender(CLUSTER, ME, 4), messages)])


def test_more_messages_than_a_frame_may_hold_take_several(desk):
    """After a long stall of the disk, very many may have waited for it."""
    control = desk.bind_peer(PEER, "control")
    desk.send_until(lambda: desk.counters.control_frames_out, beat(PEER, ME))
    control.recv_multipart()
    desk.transport.send([beat(PEER, ME)] * (2 * MESSAGES_PER_FRAME_MAX + 1))
    sizes = [len(control.recv_multipart()[1]) for _ in range(3)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(encode_control(Sender(CLUSTER, ME, 4), [beat(PEER, ME)])) == sizes[-1]


def test_what_arrives_is_decoded_and_counted(desk):
    control, data = desk.dealer("control"), desk.dealer("data")
    append = append_to(ME, batch_of(3, 5, b"small"), batch_of(3, 6, b"x" * 100_000))
    control.send(frame_of(beat()))
    data.send_multipart([bytes(p) for p in encode_append(Sender(CLUSTER, PEER, 1), append)])
    found = desk.receive(2)
    assert beat() in found
    [received] = [message for message in found if isinstance(message, Append)]
    assert [bytes(b.body) for b in received.batches] == [bytes(b.body) for b in append.batches]  # type: ignore[union-attr]  # full batches
    assert (desk.counters.control_frames_in, desk.counters.data_frames_in) == (1, 1)
    assert desk.counters.malformed == desk.counters.foreign == desk.counters.stale == 0


def test_nobody_waits_for_a_dead_peer_and_nothing_is_kept_for_its_next_life(desk):
    began = time.monotonic()
    desk.transport.send([beat(PEER, ME), append_to(PEER, batch_of(3, 5, b"x"), sender=ME)])
    assert time.monotonic() - began < 1
    assert desk.counters.dropped == 2
    assert desk.counters.control_frames_out == desk.counters.data_frames_out == 0
    control = desk.bind_peer(PEER, "control")
    desk.send_until(lambda: desk.counters.control_frames_out, beat(PEER, ME, term=77))
    honest = frame_of(beat(PEER, ME, term=77), node=ME, incarnation=4)
    assert unnumbered(control.recv_multipart()[1:]) == unnumbered([honest])


def test_a_peer_that_does_not_read_costs_drops_and_no_time(desk):
    peer = desk.bind_peer(PEER, "data")
    append = append_to(PEER, batch_of(3, 5, b"x" * 50_000), sender=ME)
    sent = 0

    def one_more():
        nonlocal sent
        sent += 1
        return desk.counters.data_frames_out > 0 and desk.counters.dropped > 100

    desk.send_until(one_more, append)
    assert desk.counters.data_frames_out + desk.counters.dropped == sent - 1
    assert desk.counters.data_frames_out <= 2 * PEER_HIGH_WATER_MARK + 64, "the queue is bounded"
    peer.close()


# --- what is dropped ------------------------------------------------------------------

ODD_FRAMES = [
    [b""],
    [b"", b""],
    [b"\x95"],
    [b"", frame_of(beat())],
    [frame_of(beat()), b""],
    [frame_of(beat()), b"", b""],
    [frame_of(beat()), b"x" * 64, b"y"],
    [b"x"] * 100,
    [b""] * 40_000,
    [DEEP[1]],
]


@pytest.mark.parametrize("lane", ["control", "data"])
@pytest.mark.parametrize("parts", ODD_FRAMES, ids=range(len(ODD_FRAMES)))
def test_an_odd_frame_is_dropped_and_counted_and_the_next_one_is_read(desk, lane, parts):
    dealer = desk.dealer(lane)
    dealer.send_multipart(parts)
    dealer.send_multipart(honest_on(lane))
    assert len(desk.receive(2)) == 1
    assert desk.counters.malformed == 1


@pytest.mark.parametrize("lane", ["control", "data"])
@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(frame_of(beat(), cluster=bytes(16)), id="another cluster"),
        pytest.param(frame_of(beat(), node=9), id="nobody we know"),
        pytest.param(frame_of(beat(), node=1), id="ourselves"),
        pytest.param(frame_of(beat(), node=0), id="node 0"),
    ],
)
def test_a_stranger_is_dropped_and_counted(desk, lane, frame):
    dealer = desk.dealer(lane)
    dealer.send(frame)
    dealer.send_multipart(honest_on(lane))
    assert len(desk.receive(2)) == 1
    assert (desk.counters.foreign, desk.counters.malformed) == (1, 0)


def test_frames_of_an_earlier_life_are_dropped_on_every_lane(desk):
    control, data = desk.dealer("control"), desk.dealer("data")
    control.send(frame_of(beat(term=5), incarnation=7))
    assert desk.receive(1) == [beat(term=5)]
    old = append_to(ME, batch_of(3, 5, b"x"))
    data.send_multipart([bytes(p) for p in encode_append(Sender(CLUSTER, PEER, 6), old)])
    control.send(frame_of(beat(term=6), incarnation=6))
    control.send(frame_of(beat(term=7), incarnation=7))
    assert desk.receive(4) == [beat(term=7)], "the same life goes on"
    assert (desk.counters.stale, desk.counters.foreign) == (2, 0)


def test_a_frame_of_no_life_is_stale_also_from_a_peer_that_was_never_heard(desk):
    control = desk.dealer("control")
    control.send(frame_of(beat(term=1), incarnation=0))
    control.send(frame_of(beat(term=2), incarnation=1))
    assert desk.receive(2) == [beat(term=2)]
    assert desk.counters.control_rejected.stale == 1


def test_a_frame_that_comes_again_is_dropped_and_counted_on_its_lane(desk):
    control, data = desk.dealer("control"), desk.dealer("data")
    for number in (1, 2, 1, 2, 3):
        control.send(frame_of(beat(term=number), number=number))
    assert desk.receive(5) == [beat(term=1), beat(term=2), beat(term=3)]
    append = append_to(ME)
    for _ in range(3):
        parts = encode_append(Sender(CLUSTER, PEER, 1), append, 2)
        data.send_multipart([bytes(part) for part in parts])
    assert desk.receive(8) == [append], "a lane of its own"
    assert desk.counters.control_rejected.replayed == desk.counters.data_rejected.replayed == 2
    control.send(frame_of(beat(), incarnation=2, number=1))
    control.send(frame_of(beat(), node=OTHER, number=1))
    assert desk.receive(10) == [beat(), replace(beat(), sender=OTHER)], "a life, a node of its own"


def test_a_frame_replayed_on_the_other_lane_is_malformed_there_and_moves_no_number(desk):
    control, data = desk.dealer("control"), desk.dealer("data")
    control.send(frame_of(beat(term=1), number=5))
    assert desk.receive(1) == [beat(term=1)]
    data.send(frame_of(beat(term=1), number=5))
    data.send(frame_of(number=6))
    append = append_to(ME)
    parts = [bytes(p) for p in encode_append(Sender(CLUSTER, PEER, 1), append, 4)]
    control.send_multipart(parts)
    data.send_multipart(parts)
    control.send(frame_of(beat(term=2), number=6))
    assert desk.receive(6) == [beat(term=2), append]
    assert desk.counters.control_rejected.malformed == 1
    assert desk.counters.data_rejected.malformed == 2


def test_frames_are_numbered_in_the_order_in_which_they_leave(desk):
    control = desk.bind_peer(PEER, "control")
    desk.send_until(lambda: desk.counters.control_frames_out, beat(PEER, ME))
    for _ in range(3):
        desk.transport.send([beat(PEER, ME)])
    frames = [control.recv_multipart()[-1] for _ in range(4)]
    numbers = [decode_peer_frame(PEER, [frame])[0].number for frame in frames]
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0


def test_a_restarted_peer_is_heard_at_once_and_others_are_not_touched_by_it(desk):
    control = desk.dealer("control")
    control.send(frame_of(beat(), incarnation=1))
    control.send(frame_of(beat(), incarnation=2))
    control.send(frame_of(beat(sender=OTHER), node=OTHER, incarnation=1))
    assert desk.receive(3) == [beat(), beat(), beat(sender=OTHER)]


@pytest.mark.parametrize(
    "forged",
    [
        frame_of(beat(), incarnation=(1 << 63) - 1, cluster=bytes(16)),
        frame_of(beat(), incarnation=(1 << 63) - 1, node=9),
        frame_of(beat(), incarnation=(1 << 63) - 1)[:-1],
        frame_of(beat(), incarnation=(1 << 63) - 1) + b"\0",
    ],
)
def test_a_frame_that_is_dropped_teaches_nothing_about_lives(desk, forged):
    control = desk.dealer("control")
    control.send(forged)
    control.send(frame_of(beat(), incarnation=1))
    assert desk.receive(2) == [beat()]
    assert desk.counters.stale == 0


def test_seeded_garbage_on_both_lanes_leaves_the_transport_in_order(desk):
    dealers = {lane: desk.dealer(lane) for lane in ("control", "data")}
    append = append_to(ME, batch_of(3, 5, b"one", b"two"))
    stale = Sender(CLUSTER, PEER, 0)
    honest = [[encode_control(stale, [beat()])], [bytes(p) for p in encode_append(stale, append)]]
    for peer in (PEER, OTHER):
        dealers["control"].send(frame_of(beat(), node=peer, incarnation=1 << 62))
    desk.receive(2)
    counters, accepted = desk.counters, 0
    for number, frame in enumerate(peer_mutants(11, honest, 2_000, ME), 1):
        dealers["control" if number % 2 else "data"].send_multipart(frame)
        if number % 100 == 0:
            accepted += len(desk.receive(2 + number))
    assert accepted < 10, "a mutant may draw a later life, and nothing else may get through"
    assert counters.malformed + counters.foreign + counters.stale >= 1_990
    assert min(counters.malformed, counters.foreign, counters.stale) > 20


# --- bounds ---------------------------------------------------------------------------


def test_a_turn_takes_a_bounded_number_of_frames_however_small(desk):
    """Tiny frames once counted their bytes only: over a million of them fitted one turn."""
    for lane in ("control", "data"):
        dealers = [desk.dealer(lane) for _ in range(8)]
        count = 8 * PEER_HIGH_WATER_MARK
        for number in range(count):
            dealers[number % 8].send(b"")
        wanted = desk.counters.control_frames_in + desk.counters.data_frames_in + count
        takes, taken = [], 0
        while taken < count:
            assert desk.routers[lane].poll(DEADLINE_S * 1000)
            before = desk.counters.malformed
            desk.transport.receive()
            takes.append(desk.counters.malformed - before)
            taken += takes[-1]
        assert max(takes) <= DRAIN_FRAMES_MAX
        assert desk.counters.control_frames_in + desk.counters.data_frames_in == wanted


def test_a_turn_takes_a_bounded_number_of_control_bytes(desk):
    dealer = desk.dealer("control")
    frame = frame_of(*[beat()] * MESSAGES_PER_FRAME_MAX)
    for _ in range(10):
        dealer.send(frame)
    seen: list[int] = []
    while sum(seen) < 10:
        assert desk.routers["control"].poll(DEADLINE_S * 1000)
        before = desk.counters.control_frames_in
        desk.transport.receive()
        seen.append(desk.counters.control_frames_in - before)
    assert max(seen) <= DRAIN_CONTROL_BYTES_MAX // len(frame) + 1


def test_a_part_over_the_limit_ends_its_connection_and_no_other(desk):
    hostile, honest = desk.dealer("data"), desk.dealer("data")
    hostile.send(bytes(PEER_FRAME_BYTES_MAX + 1))
    honest.send_multipart(honest_on("data"))
    assert desk.receive(1) == [append_to(ME)]
    assert desk.counters.data_bytes_in < 1_000


# --- disconnects ----------------------------------------------------------------------


def wait_for_loss(desk: Desk) -> NodeId | None:
    poller = zmq.Poller()
    for monitor in desk.transport.monitors:
        poller.register(monitor, zmq.POLLIN)
    ready = poller.poll(DEADLINE_S * 1000)
    assert ready, "no monitor said anything"
    return desk.transport.lost_peer(ready[0][0])


def test_a_peer_whose_process_ends_is_reported_by_name(desk):
    control = desk.bind_peer(PEER, "control")
    desk.send_until(lambda: desk.counters.control_frames_out, beat(PEER, ME))
    assert control.recv_multipart()
    for monitor in desk.transport.monitors:
        assert desk.transport.lost_peer(monitor) is None, "a living peer is not lost"
    control.close()
    assert wait_for_loss(desk) == PEER


def test_a_peer_that_never_was_is_not_lost(desk):
    desk.transport.send([beat(PEER, ME)])
    assert not any(monitor.poll(0) for monitor in desk.transport.monitors)


# --- binding --------------------------------------------------------------------------


def test_a_reply_to_somebody_who_is_gone_is_refused_by_the_router(desk):
    """ROUTER_MANDATORY: without it such a reply counted as sent."""
    with pytest.raises(zmq.ZMQError, match=r"[Hh]ost unreachable"):
        desk.routers["control"].send_multipart([b"gone", b"reply"], zmq.NOBLOCK)


def test_a_path_too_long_for_a_socket_is_an_error_that_names_it(desk):
    path = "/tmp/" + "x" * 120
    with pytest.raises(zmq.ZMQError, match="longer than"):
        bind_router(desk.context, f"ipc://{path}", 1 << 20)


def test_two_clients_of_one_name_leave_the_router_working(desk):
    """ROUTER_HANDOVER: the newer connection takes the name over."""
    for count in (1, 2):
        desk.dealer("control", b"same").send(frame_of(beat()))
        assert desk.receive(count) == [beat()]


def test_only_a_view_of_a_whole_frame_is_sent_as_that_frame():
    frame = zmq.Frame(bytes(range(256)) * 512)
    whole = frame.buffer
    assert _shared(whole) is frame
    for part in (whole[1:], whole[:-1], bytes(whole), memoryview(bytes(whole)), b""):
        assert _shared(part) is part
