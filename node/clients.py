"""The client lane: a ROUTER that takes requests in and sends replies out. Main thread only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import zmq

from node.client_wire import (
    ReplyOrigin,
    Status,
    WireError,
    WriteRequest,
    decode_request,
    encode_refusal,
)
from node.limits import DRAIN_FRAMES_MAX, REQUESTS_BYTES_PER_TURN_MAX
from node.multiraft import MultiRaft
from node.raft.types import Buffer, GroupId

if TYPE_CHECKING:
    Socket = zmq.Socket[bytes]
else:
    Socket = zmq.Socket

__all__ = ["ClientLane"]

_COPY_BELOW = 64 << 10


class ClientLane:
    """Serves clients over one bound ROUTER, which stays the caller's to poll and close."""

    def __init__(self, socket: Socket, cluster_id: bytes) -> None:
        """Answer only requests that carry `cluster_id`."""
        self._socket = socket
        self._cluster_id = cluster_id
        self.requests = 0
        self.malformed = 0
        self.foreign = 0
        self.refused = 0
        """Requests for groups that there are not."""
        self.dropped = 0
        self.frames_in = 0
        self.frames_out = 0
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def sends(self) -> int:
        """How often the socket was used to send, in vain too: see `node.waiter`."""
        return self.frames_out + self.dropped

    def receive(self, node: MultiRaft) -> None:
        """Take what waits, within bounds of bytes and requests, and hand it to the groups."""
        budget = REQUESTS_BYTES_PER_TURN_MAX
        for _ in range(DRAIN_FRAMES_MAX):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            size = sum(len(frame) for frame in frames)
            self.frames_in += 1
            self.bytes_in += size
            client, *parts = frames
            self._take(node, client.bytes, [part.buffer for part in parts])
            budget -= size
            if budget <= 0:
                return

    def reply(self, client: bytes, parts: Sequence[Buffer]) -> None:
        """Send one reply; a client that is gone or too slow loses it and asks again.

        The ROUTER is one of `node.transport.bind_router`: it says so when it cannot send.
        """
        size = sum(len(part) for part in parts)
        try:
            self._socket.send_multipart([client, *parts], zmq.NOBLOCK, copy=size < _COPY_BELOW)
        except zmq.ZMQError:
            self.dropped += 1
            return
        self.frames_out += 1
        self.bytes_out += size

    def _take(self, node: MultiRaft, client: bytes, parts: Sequence[Buffer]) -> None:
        try:
            request = decode_request(parts, client)
        except WireError as error:
            self.malformed += 1
            if error.request_id:
                self._refuse(
                    client, (error.request_id, error.group), Status.BAD_REQUEST, str(error)
                )
            return
        self.requests += 1
        place = (request.request_id, request.group)
        if request.cluster_id != self._cluster_id:
            self.foreign += 1
            text = f"this node belongs to cluster {self._cluster_id.hex()}"
            self._refuse(client, place, Status.FOREIGN_CLUSTER, text)
            return
        group = node.groups.get(request.group)
        if group is None:
            self.refused += 1
            text = f"no group {request.group}; there are {len(node.groups)}"
            self._refuse(client, place, Status.BAD_REQUEST, text)
        elif isinstance(request, WriteRequest):
            group.write(request)
        else:
            group.read(request)

    def _refuse(self, client: bytes, place: tuple[int, GroupId], status: Status, text: str) -> None:
        self.reply(client, encode_refusal(ReplyOrigin(*place), status, text))
