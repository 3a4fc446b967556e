"""Simulated clients: the real `ClientCore` over the simulated network, and a small workload."""

from __future__ import annotations

from typing import Protocol

from cluster.client_core import ClientCore, group_of
from cluster.client_types import (
    ClientConfig,
    Completion,
    DefiniteError,
    Get,
    GetResult,
    Ticket,
)
from cluster.sim.heap import EventHeap
from cluster.sim.network import Network
from cluster.sim.node import CLUSTER_ID
from cluster.sim.oracle import Op
from cluster.sim.plan import MS, SECOND, Plan
from cluster.sim.rng import Stream
from node.commands import Operation, batch, cas, delete, put
from node.ports import Outcome
from node.raft.types import NodeId

__all__ = ["ClientWorld", "SimClient"]

_PATIENCE_NS = (150 * MS, 600 * MS, 2 * SECOND, 2 * SECOND)
_LAST_DEADLINE_NS = 10 * SECOND
_RETRY_NS = 100 * MS
_TIMEOUTS_NS = (60 * MS, 150 * MS, 300 * MS, 600 * MS)
"""Who gives up early has moved to a new leader while others still ask the old one."""


class ClientWorld(Protocol):
    """What a client needs of the world around it."""

    heap: EventHeap
    network: Network
    plan: Plan
    floors: list[int]
    """Per group, the highest revision that any client was told of."""

    def is_up(self, node: NodeId) -> bool:
        """Tell whether a node's process lives: a connection to it exists."""

    def completed(self, op: Op) -> None:
        """Look at an operation that has just ended."""


class SimClient:
    """One client with one to three operations under way; ends with one that must be acknowledged."""

    def __init__(self, world: ClientWorld, number: int) -> None:
        """Make client `number` (from 1); it stands at the network's endpoint -number."""
        plan = world.plan
        self.number = number
        self.history: list[Op] = []
        self.acked = 0
        self._world = world
        self._heap = world.heap
        self._stream = Stream(plan.seed, "client", number)
        nodes = [NodeId(node) for node in plan.node_ids]
        config = ClientConfig(
            request_timeout_ns=self._stream.pick(_TIMEOUTS_NS), request_timeout_ns_max=1200 * MS
        )
        self._core = ClientCore(CLUSTER_ID, nodes, plan.groups, config)
        self._open: dict[Ticket, Op] = {}
        self._width = 1 + self._stream.below(3)
        self._think_ns = plan.pace_ns * self._width
        self._begun = 0
        self._limit = plan.operations
        self._skipped = {at for client, at in plan.skipped if client == number}
        self._patience = self._stream.pick(_PATIENCE_NS)
        self._timer_at: int | None = None
        self._known: dict[bytes, bytes | None] = {}
        self._last: Op | None = None
        self._finishing = False

    @property
    def done(self) -> bool:
        """Whether the last operation has been acknowledged."""
        return self._last is not None and self._last.status == "ok" and not self._open

    def start(self) -> None:
        """Begin the workload."""
        for _ in range(self._width):
            self._heap.after(self._stream.below(self._think_ns + 1), self._next)

    def finish(self) -> None:
        """Let the workload end: at once, or when the client has had its least number of operations."""
        self._limit = max(self._begun, self._world.plan.operations_min)
        self._think_ns = 0
        self._finishing = True
        if self._begun == self._limit:
            self._invoke_last()

    def _invoke_last(self) -> None:
        """Invoke the last operation, a put that has to be acknowledged.

        If the first try was refused for certain (a disk was full a moment ago), there is another.
        """
        key = self._key()
        op = Op(self.number, "put", 0, key, {key: self._value()})
        self._last = op
        self._invoke(op, put(key, op.writes[key] or b""), _LAST_DEADLINE_NS)

    def receive(self, source: int, frame: object) -> None:
        """Take a reply frame from a node."""
        assert isinstance(frame, list)
        self._core.receive(NodeId(source), frame, self._heap.now)
        self._drive()

    def node_lost(self, node: NodeId) -> None:
        """Notice that the connection to a node broke."""
        self._core.peer_lost(node, self._heap.now)
        self._drive()

    # ---- workload ------------------------------------------------------------------------

    def _next(self) -> None:
        """Invoke the next operation. Each draws from a stream of its own: one left out changes no other."""
        if self._begun >= self._limit:
            if self._finishing and self._last is None:
                self._invoke_last()
            return
        self._begun += 1
        self._stream = Stream(self._world.plan.seed, "op", self.number, self._begun)
        if self._begun in self._skipped:
            self._heap.after(self._stream.below(self._think_ns + 1), self._next)
            return
        roll = self._stream.below(100)
        key = self._key()
        if roll < 36:
            self._invoke(Op(self.number, "get", 0, key, {}), Get(key))
        elif roll < 70:
            value = self._value()
            self._invoke(Op(self.number, "put", 0, key, {key: value}), put(key, value))
        elif roll < 80:
            self._invoke(Op(self.number, "delete", 0, key, {key: None}), delete(key))
        elif roll < 92 or self._world.plan.groups > 1:
            value, expect = self._value(), self._known.get(key)
            op = Op(self.number, "cas", 0, key, {key: value}, expect)
            self._invoke(op, cas(key, expect, value))
        else:
            writes: dict[bytes, bytes | None] = {self._key(): self._value() for _ in range(2)}
            op = Op(self.number, "batch", 0, key, writes)
            self._invoke(op, batch([put(name, value or b"") for name, value in writes.items()]))

    def _key(self) -> bytes:
        return b"k%d" % self._stream.below(self._world.plan.keys)

    def _value(self) -> bytes:
        size = self._stream.pick(self._world.plan.value_bytes)
        return (b"c%d-%d-" % (self.number, len(self.history))).ljust(size, b".") + b"%d" % (
            self._stream.below(1 << 30)
        )

    def _invoke(self, op: Op, subject: Operation | Get, patience: int = 0) -> None:
        now = self._heap.now
        patience = patience or self._patience
        op.group = group_of(op.key, self._world.plan.groups)
        op.invoked = now
        op.floor = self._world.floors[op.group]
        self.history.append(op)
        if isinstance(subject, Get):
            ticket = self._core.submit_read(subject, now, now + patience)
        else:
            ticket = self._core.submit_write(subject, now, now + patience)
        self._open[ticket] = op
        self._drive()

    # ---- driving the core ----------------------------------------------------------------

    def _drive(self) -> None:
        now = self._heap.now
        while outgoing := self._core.poll(now):
            refused = False
            for request in outgoing:
                for ticket, session, seq in self._core.stamps(request):
                    self._open[ticket].names[session, seq] = None
                if self._world.is_up(request.node):
                    parts = [bytes(part) for part in request.parts]
                    self._world.network.send(-self.number, request.node, parts)
                else:
                    self._core.not_sent(request, now)
                    refused = True
            if not refused:
                break
        for completion in self._core.take_completions():
            self._complete(completion)
        due = self._core.next_deadline()
        if due is not None and (self._timer_at is None or due < self._timer_at):
            self._timer_at = max(due, now)
            self._heap.at(self._timer_at, self._timer, self._timer_at)

    def _timer(self, armed: int) -> None:
        if armed == self._timer_at:
            self._timer_at = None
            self._drive()

    def _complete(self, completion: Completion) -> None:
        op = self._open.pop(completion.ticket)
        op.completed = self._heap.now
        result = completion.result
        if completion.error is not None:
            definite = isinstance(completion.error, DefiniteError)
            op.status = "refused" if definite else "unknown"
        else:
            assert isinstance(result, Outcome | GetResult)
            op.status = "ok"
            op.result = result
            self.acked += 1
            self._learn(op)
        self._world.completed(op)
        if op is self._last:
            if op.status != "ok":
                self._heap.after(_RETRY_NS, self._invoke_last)
        else:
            pause = Stream(self._world.plan.seed, "pause", self.number, self._begun)
            self._heap.after(pause.below(self._think_ns + 1), self._next)

    def _learn(self, op: Op) -> None:
        """Remember what a key holds, so that some of the CASes succeed."""
        if isinstance(op.result, GetResult):
            self._known[op.key] = op.result.item.value if op.result.item else None
        else:
            self._known.update(op.writes)
