"""The admin lane: how a supervisor asks a node what it is, and asks it to stop.

    request   msgpack [1, request_id, verb, args]        request_id: u64, verb: str, args: map
    reply     msgpack [1, request_id, ok, payload]       ok: bool; not ok: payload is a text

Node side: `AdminLane` around a ROUTER that `node/main` bound and polls. Supervisor side:
`AdminPool`, one DEALER per node, which never blocks: a request to a dead node is refused at once
(IMMEDIATE), one to a frozen node waits in a bounded queue and its late reply is told apart by
its request id. The control socket of the supervisor speaks the same two layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import zmq

__all__ = [
    "MESSAGE_BYTES_MAX",
    "AdminError",
    "AdminLane",
    "AdminPool",
    "Malformed",
    "NodeReply",
    "Reply",
    "Request",
    "Verb",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]

VERSION: Final = 1
MESSAGE_BYTES_MAX: Final = 4 << 20
"""A frame of 15 nodes × 1,024 groups × about 200 bytes is 3 MiB."""
VERB_LENGTH_MAX: Final = 64
REQUESTS_PER_TURN: Final = 16
"""Status requests come at 10 Hz from one supervisor: 16 a turn drains any real backlog."""
HIGH_WATER_MARK: Final = 16

REQUEST_ITEMS_MAX: Final = 64
REPLY_ITEMS_MAX: Final = 16_384
"""Items of one array. Nested array headers of 3 bytes each allocate that many pointers, and are
read up to 1,024 deep: what strangers send is bounded by the smaller number."""

_LIMITS: Final[dict[str, int]] = {
    "max_buffer_size": MESSAGE_BYTES_MAX,
    "max_map_len": 1_024,
    "max_str_len": 1 << 20,
    "max_bin_len": 1 << 20,
    "max_ext_len": 0,
}


class Malformed(ValueError):
    """A frame that is not of this lane: dropped and counted."""


class AdminError(Exception):
    """Raised by a verb: the reply is `ok` False with this text."""


@dataclass(frozen=True, slots=True)
class Request:
    """One decoded request."""

    number: int
    verb: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """One decoded reply; `payload` is the verb's answer, or a text if not `ok`."""

    number: int
    ok: bool
    payload: Any


def encode_request(number: int, verb: str, args: Mapping[str, Any] | None = None) -> bytes:
    """Encode a request frame."""
    return _packed([VERSION, number, verb, dict(args or {})])


def encode_reply(reply: Reply) -> bytes:
    """Encode a reply frame."""
    return _packed([VERSION, reply.number, reply.ok, reply.payload])


def decode_request(frame: bytes) -> Request:
    """Decode a request frame; `Malformed` for anything else."""
    number, verb, args = _parts(frame, REQUEST_ITEMS_MAX)
    if not isinstance(verb, str) or len(verb) > VERB_LENGTH_MAX or not isinstance(args, dict):
        raise Malformed("a request is [1, id, verb, args]")
    if not all(isinstance(name, str) for name in args):
        raise Malformed("argument names are strings")
    return Request(number, verb, args)


def decode_reply(frame: bytes) -> Reply:
    """Decode a reply frame; `Malformed` for anything else."""
    number, ok, payload = _parts(frame, REPLY_ITEMS_MAX)
    if not isinstance(ok, bool):
        raise Malformed("a reply is [1, id, ok, payload]")
    return Reply(number, ok, payload)


def _packed(document: list[Any]) -> bytes:
    frame: bytes = msgpack.packb(document)
    return frame


def _parts(frame: bytes, items_max: int) -> tuple[int, Any, Any]:
    if len(frame) > MESSAGE_BYTES_MAX:
        raise Malformed(f"{len(frame)} bytes")
    try:
        unpacker = msgpack.Unpacker(strict_map_key=False, max_array_len=items_max, **_LIMITS)
        unpacker.feed(frame)
        document = unpacker.unpack()
        rest = len(frame) - unpacker.tell()
    except (msgpack.UnpackException, ValueError, TypeError, RecursionError) as error:
        raise Malformed(f"not msgpack: {error}") from None
    if rest or not isinstance(document, list) or len(document) != 4 or document[0] != VERSION:
        raise Malformed("an array of four, beginning with 1, is needed")
    number = document[1]
    if type(number) is not int or not 0 <= number < 1 << 64:
        raise Malformed("the request id is no u64")
    return number, document[2], document[3]


Verb = Callable[[Mapping[str, Any]], Any]
"""Answers one request from its arguments; may raise `AdminError`. Runs on the main thread."""


class AdminLane:
    """Serves admin requests on a bound ROUTER. Main thread only; never blocks.

    The socket stays the caller's: it binds, polls and closes it. Give it LINGER ≥ 0 as it likes,
    but send the reply to `stop` before leaving (`handle_ready` has sent it when it returns).
    """

    def __init__(self, socket: zmq.Socket[bytes], verbs: Mapping[str, Verb]) -> None:
        self._socket = socket
        self._verbs = dict(verbs)
        self.requests = 0
        self.malformed = 0
        self.refused = 0
        """Requests whose answer was not `ok`."""
        self.dropped = 0
        self.frames_in = 0
        self.frames_out = 0
        self.bytes_in = 0
        self.bytes_out = 0

    def handle_ready(self) -> int:
        """Answer what waits, at most `REQUESTS_PER_TURN`; return how many frames were taken.

        As many as that were taken means that more may wait.
        """
        for taken in range(REQUESTS_PER_TURN):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return taken
            self.frames_in += 1
            self.bytes_in += sum(map(len, parts))
            if len(parts) != 2:
                self.malformed += 1
                continue
            self._answer(parts[0], parts[1])
        return REQUESTS_PER_TURN

    def _answer(self, client: bytes, frame: bytes) -> None:
        try:
            request = decode_request(frame)
        except Malformed:
            self.malformed += 1
            return
        self.requests += 1
        answer = self._reply_to(request)
        self.refused += not answer.ok
        reply = encode_reply(answer)
        try:
            self._socket.send_multipart([client, reply], zmq.NOBLOCK)
            self.frames_out += 1
            self.bytes_out += len(reply)
        except zmq.ZMQError:  # full, or the client went away
            self.dropped += 1

    def _reply_to(self, request: Request) -> Reply:
        verb = self._verbs.get(request.verb)
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            return Reply(request.number, False, f"no verb {request.verb!r}; known are: {known}")
        try:
            return Reply(request.number, True, verb(request.args))
        except AdminError as error:
            return Reply(request.number, False, str(error))


@dataclass(frozen=True, slots=True)
class NodeReply:
    """A reply, and which node sent it."""

    node: int
    reply: Reply


class AdminPool:
    """Asks the nodes of a cluster. One thread; no call blocks.

    `sockets()` go into the caller's poller; `receive` takes what arrived. A node that restarts is
    reconnected to by ZeroMQ within 10 ms; what was queued for its earlier life is dropped.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoints: Mapping[int, str]):
        self._sockets: dict[int, zmq.Socket[bytes]] = {}
        self._number = 0
        self.malformed = 0
        for node, endpoint in endpoints.items():
            socket = context.socket(zmq.DEALER)
            socket.set(zmq.IMMEDIATE, 1)
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.RECONNECT_IVL, 10)
            socket.set(zmq.SNDHWM, HIGH_WATER_MARK)
            socket.set(zmq.RCVHWM, HIGH_WATER_MARK)
            socket.set(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
            socket.connect(endpoint)
            self._sockets[node] = socket

    def sockets(self) -> Iterable[zmq.Socket[bytes]]:
        """Return the sockets to poll for reading."""
        return self._sockets.values()

    def request(self, node: int, verb: str, args: Mapping[str, Any] | None = None) -> int | None:
        """Send a request; return its number, or None if the node cannot be reached now."""
        self._number += 1
        frame = encode_request(self._number, verb, args)
        try:
            self._sockets[node].send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return None
        return self._number

    def receive(self, ready: Container[object] | None = None) -> Iterator[NodeReply]:
        """Yield the replies that have arrived; of those sockets only that are ready, if given."""
        for node, socket in self._sockets.items():
            while ready is None or socket in ready:
                try:
                    parts = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                try:
                    reply = decode_reply(parts[-1])
                except Malformed:
                    self.malformed += 1
                    continue
                yield NodeReply(node, reply)

    def close(self) -> None:
        """Close the sockets."""
        for socket in self._sockets.values():
            socket.close()
