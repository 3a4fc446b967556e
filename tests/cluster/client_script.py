"""Drives a client core by hand: nodes, clock and network are the test itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cluster.client_core import ClientCore
from cluster.client_types import (
    ClientConfig,
    Outgoing,
)
from node import commands
from node.client_wire import (
    ReplyOrigin,
    Status,
    WriteRequest,
    decode_request,
    encode_read_reply,
    encode_refusal,
    encode_write_reply,
)
from node.kv.machine import KeyValueMachine
from node.outcomes import Outcomes
from node.raft.types import BatchMeta, Index, NodeId, Term

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

    def apply(self, sent: Sent) -> Outcomes:
        request = sent.request
        assert isinstance(request, WriteRequest)
        body = bytes(request.body)
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


def expired(s: Script):
    """Let time run to the deadlines of everything, unanswered; return the errors."""
    while s.core.pending:
        s.poll(wait_ns=50 * MS)
    return [completion.error for completion in s.done()]
