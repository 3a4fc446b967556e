"""ZeroMQ between nodes: one ROUTER per lane to receive, one DEALER per peer and lane to send.

    control lane   votes, heartbeats, acks: small frames, several messages each
    data lane      Appends: one per frame, batches as uncopied parts

Bulk data can never delay a vote: the lanes are separate connections. Sends never block: a full
queue drops the message and counts it, and Raft sends again. IMMEDIATE keeps a DEALER from
queueing for a dead peer and delivering to its next incarnation; frames of foreign clusters, of
older incarnations, and those that were received before, are dropped and counted as well (a lane is
one connection, which keeps order: what is not newer than the last frame came twice). A monitor on each control DEALER reports
DISCONNECTED: over ipc the kernel closes a dead process's sockets at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from node.codec import Sender, WireError, decode_peer_frame, encode_append, encode_control
from node.limits import (
    DRAIN_BYTES_MAX,
    DRAIN_CONTROL_BYTES_MAX,
    DRAIN_FRAMES_MAX,
    MESSAGES_PER_FRAME_MAX,
    PEER_HIGH_WATER_MARK,
)
from node.raft.messages import Append, Message
from node.raft.types import Buffer, NodeId
from node.waiter import has_message

if TYPE_CHECKING:
    Socket = zmq.Socket[bytes]
else:
    Socket = zmq.Socket

__all__ = ["PEER_LANES", "PeerTransport", "Rejected", "TransportCounters", "bind_router"]

_COPY_BELOW = 64 << 10
"""Parts below this are copied into ZeroMQ's own memory: cheaper than tracking a Python buffer."""
_RECONNECT_MS = 10
_FIRST_INCARNATION = 1
"""Lives are counted from it: a frame of an earlier one is nobody's."""
PEER_LANES: Final = frozenset({"control", "data"})


@dataclass(slots=True)
class Rejected:
    """Frames of one lane that were received and thrown away, each counted once."""

    malformed: int = 0
    foreign: int = 0
    """Of another cluster, or of no voter."""
    stale: int = 0
    """Of an earlier life of their sender."""
    replayed: int = 0
    """Received before."""


@dataclass(slots=True)
class TransportCounters:
    """What went over the peer lanes since the start of the process."""

    control_bytes_in: int = 0
    control_bytes_out: int = 0
    control_frames_in: int = 0
    control_frames_out: int = 0
    data_bytes_in: int = 0
    data_bytes_out: int = 0
    data_frames_in: int = 0
    data_frames_out: int = 0
    dropped: int = 0
    control_rejected: Rejected = field(default_factory=Rejected)
    data_rejected: Rejected = field(default_factory=Rejected)

    @property
    def malformed(self) -> int:
        """Frames that were not understood, on both lanes."""
        return self.control_rejected.malformed + self.data_rejected.malformed

    @property
    def foreign(self) -> int:
        """Frames of other clusters and of strangers, on both lanes."""
        return self.control_rejected.foreign + self.data_rejected.foreign

    @property
    def stale(self) -> int:
        """Frames of earlier lives, and those received before, on both lanes."""
        control, data = self.control_rejected, self.data_rejected
        return control.stale + control.replayed + data.stale + data.replayed


def bind_router(context: zmq.Context[Any], endpoint: str, frame_bytes_max: int) -> Socket:
    """Return a ROUTER bound to `endpoint`: bounded parts, identities handed over, no linger.

    A send to somebody who is gone or does not read raises instead of vanishing (MANDATORY), so
    that it can be counted. ZMQError if the endpoint cannot be bound; nothing is left open then.
    """
    socket: Socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, frame_bytes_max)
    socket.setsockopt(zmq.RCVHWM, PEER_HIGH_WATER_MARK)
    socket.setsockopt(zmq.SNDHWM, PEER_HIGH_WATER_MARK)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError:
        socket.close()
        raise
    return socket


class PeerTransport:
    """The node's end of all peer lanes. Main thread only."""

    def __init__(
        self, context: zmq.Context[Any], me: Sender, routers: Mapping[str, Socket]
    ) -> None:
        """Take the bound ROUTERs of the lanes `control` and `data`; peers follow by `connect`."""
        self.counters = TransportCounters()
        self._context = context
        self._me = me
        self._control_in = routers["control"]
        self._data_in = routers["data"]
        self._control_out: dict[NodeId, Socket] = {}
        self._data_out: dict[NodeId, Socket] = {}
        self.monitors: dict[Socket, NodeId] = {}
        self._incarnations: dict[NodeId, int] = {}
        self._numbers = count(1)
        self._control_seen: dict[NodeId, int] = {}
        self._data_seen: dict[NodeId, int] = {}

    def connect(self, peer: NodeId, control: str, data: str) -> None:
        """Open the sending side to a peer; works before the peer is up."""
        self._control_out[peer] = self._dealer(control)
        self._data_out[peer] = self._dealer(data)  # a ZMQError leaves what is open to `close`
        self._incarnations[peer] = _FIRST_INCARNATION
        self._control_seen[peer] = self._data_seen[peer] = 0
        monitor = self._control_out[peer].get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.monitors[monitor] = peer

    def send(self, messages: Sequence[Message]) -> None:
        """Send each message to its peer; see the module text for the lanes."""
        counters = self.counters
        control: dict[NodeId, list[Message]] = {}
        for message in messages:
            if isinstance(message, Append):
                parts = encode_append(self._me, message, next(self._numbers))
                size = self._sent(self._data_out[message.to], parts)
                counters.data_frames_out += size > 0
                counters.data_bytes_out += size
            else:
                control.setdefault(message.to, []).append(message)
        for peer, queued in control.items():
            for start in range(0, len(queued), MESSAGES_PER_FRAME_MAX):
                some = queued[start : start + MESSAGES_PER_FRAME_MAX]
                frame = encode_control(self._me, some, next(self._numbers))
                size = self._sent(self._control_out[peer], [frame])
                counters.control_frames_out += size > 0
                counters.control_bytes_out += size

    def receive(self, lanes: Collection[str] = PEER_LANES) -> list[Message]:
        """Drain the lanes named, control first, each within its bounds of frames and bytes."""
        messages: list[Message] = []
        if "control" in lanes:
            self._receive_control(messages)
        if "data" in lanes:
            self._receive_data(messages)
        return messages

    def _receive_control(self, messages: list[Message]) -> None:
        counters = self.counters
        budget = DRAIN_CONTROL_BYTES_MAX
        socket = self._control_in
        for _ in range(DRAIN_FRAMES_MAX):
            if not has_message(socket):
                return
            parts: list[Any] = socket.recv_multipart(zmq.NOBLOCK)
            size = sum(len(part) for part in parts)
            counters.control_frames_in += 1
            counters.control_bytes_in += size
            messages += self._decode(parts[1:], counters.control_rejected, self._control_seen)
            budget -= size
            if budget <= 0:
                return

    def _receive_data(self, messages: list[Message]) -> None:
        counters = self.counters
        budget = DRAIN_BYTES_MAX
        socket = self._data_in
        for _ in range(DRAIN_FRAMES_MAX):
            if not has_message(socket):
                return
            parts: list[Any] = socket.recv_multipart(zmq.NOBLOCK, copy=False)
            size = sum(len(part) for part in parts)
            counters.data_frames_in += 1
            counters.data_bytes_in += size
            buffers = [part.buffer for part in parts[1:]]
            messages += self._decode(buffers, counters.data_rejected, self._data_seen)
            budget -= size
            if budget <= 0:
                return

    def lost_peer(self, monitor: Socket) -> NodeId | None:
        """Read all events of a peer's monitor; return the peer if its connection broke."""
        lost = None
        while True:
            try:
                event = recv_monitor_message(monitor, zmq.NOBLOCK)
            except zmq.Again:
                return lost
            if event["event"] == zmq.EVENT_DISCONNECTED:
                lost = self.monitors[monitor]

    def close(self) -> None:
        """Close all sending sockets and monitors; unsent messages are dropped."""
        for socket in self._control_out.values():
            socket.disable_monitor()
        for socket in (*self.monitors, *self._control_out.values(), *self._data_out.values()):
            socket.close(0)

    def _decode(
        self, parts: Sequence[Buffer], rejected: Rejected, seen: dict[NodeId, int]
    ) -> list[Message]:
        """Decode a frame of one lane; what is not to be believed is counted and gives nothing."""
        try:
            sender, messages = decode_peer_frame(self._me.node, parts)
        except WireError:
            rejected.malformed += 1
            return []
        node, number = sender.node, sender.number
        if sender.cluster_id != self._me.cluster_id or node not in self._control_out:
            rejected.foreign += 1
            return []
        if not (_for_data(messages) if seen is self._data_seen else _for_control(messages)):
            rejected.malformed += 1  # of the other lane, where its number may have been seen
            return []
        newest = self._incarnations[node]
        if sender.incarnation < newest:
            rejected.stale += 1
            return []
        if sender.incarnation > newest:
            self._incarnations[node] = sender.incarnation
            self._control_seen[node] = self._data_seen[node] = 0
        if number:
            if number <= seen[node]:
                rejected.replayed += 1
                return []
            seen[node] = number
        return messages

    def _sent(self, socket: Socket, parts: Sequence[Any]) -> int:
        """Send one frame; return its bytes, 0 if it was dropped."""
        size = sum(len(part) for part in parts)
        if size >= _COPY_BELOW:
            parts = [_shared(part) for part in parts]
        try:
            socket.send_multipart(parts, zmq.NOBLOCK, copy=size < _COPY_BELOW)
        except zmq.Again:
            self.counters.dropped += 1
            return 0
        return size

    def _dealer(self, endpoint: str) -> Socket:
        socket: Socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, PEER_HIGH_WATER_MARK)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError:
            socket.close()
            raise
        return socket


def _for_data(messages: Sequence[Message]) -> bool:
    return len(messages) == 1 and type(messages[0]) is Append


def _for_control(messages: Sequence[Message]) -> bool:
    return all(type(message) is not Append for message in messages)


def _shared(part: Any) -> Any:
    """Return the received frame that a whole view is of, for ZeroMQ to share.

    For any other buffer, each send wakes a thread of Python's to give it back.
    """
    frame: Any = part.obj if type(part) is memoryview else None
    whole = isinstance(frame, zmq.Frame) and len(frame) == len(part)
    return frame if whole else part
