"""The client without I/O: operations in, request frames out; replies in, completions out.

There is no socket, thread, clock or randomness here: the real client (`cluster/client.py`) and
the simulator drive the same core. All times are integer ns of one monotonic clock of the caller.

The driver's duty, after anything has happened: `poll(now)`, send what it returns (`not_sent` for
what the transport refuses), hand out `take_completions()`, and come back by `next_deadline()`.

A key lives in group CRC-32C(key) mod G. Each group has its own session, window and leader (see
`client_lane`). Operations that are pending together are concurrent: no order among them is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from cluster.client_bulk import Bulk, BulkPart, Writes
from cluster.client_gather import Gather
from cluster.client_lane import NEVER, Lane, Shared
from cluster.client_request import Pending, Waiting, WriteFlight
from cluster.client_types import (
    ClientConfig,
    Completion,
    DefiniteError,
    Get,
    Outgoing,
    Query,
    Ticket,
)
from node.client_wire import WireError, decode_reply
from node.commands import Operation
from node.limits import CLUSTER_ID_BYTES, KEY_BYTES_MAX
from node.raft.types import NO_NODE, Buffer, GroupId, NodeId
from wal.checksum import crc32c

__all__ = ["ClientCore", "group_of"]

_EXPIRY_GRAIN_NS: Final = 5_000_000
"""Deadlines are kept to within 5 ms: looking for late operations costs a pass over all pending."""


def group_of(key: bytes, groups: int) -> GroupId:
    """Return the group that a key lives in."""
    return GroupId(crc32c(key) % groups if groups > 1 else 0)


class ClientCore:
    """All groups of one cluster, as one client sees them. Not thread-safe."""

    def __init__(
        self,
        cluster_id: bytes,
        nodes: Sequence[NodeId],
        groups: int,
        config: ClientConfig | None = None,
    ) -> None:
        assert len(cluster_id) == CLUSTER_ID_BYTES
        assert groups > 0
        assert nodes
        self._config = ClientConfig() if config is None else config
        self._groups = groups
        self._shared = Shared(cluster_id, sorted(nodes), self._config)
        self._lanes: dict[tuple[GroupId, NodeId], Lane] = {}
        self._active: dict[Lane, None] = {}
        self._next_ticket = 1
        self._expire_at = NEVER
        self.malformed = 0
        """Replies that were dropped because they did not decode."""
        self.unexpected = 0
        """Replies that answer no attempt that is still awaited."""

    @property
    def pending(self) -> int:
        """Operations submitted and not completed."""
        return self._shared.pending

    # --- operations in ----------------------------------------------------------------

    def submit_write(self, operation: Operation, now: int, deadline: int) -> Ticket:
        """Queue a write; DefiniteError if it spans groups or the client is full."""
        group = self._group_of_all(operation.keys)
        self._admit(1, deadline)
        pending = Pending(self._take_ticket(), operation, now, deadline)
        self._submit(self._lane(group, NO_NODE), pending)
        return pending.ticket

    def submit_bulk(self, writes: Writes, now: int, deadline: int) -> Ticket:
        """Queue many writes under one ticket, all or (DefiniteError) none."""
        places: dict[GroupId, list[int]] = {}
        if self._groups > 1:
            for place in range(len(writes)):
                group = self._group_of_all(writes.keys(place))
                places.setdefault(group, []).append(place)
        self._admit(len(writes), deadline)
        bulk = Bulk(self._take_ticket(), writes, now, deadline)
        if self._groups == 1:
            self._submit(self._lane(GroupId(0), NO_NODE), BulkPart(bulk, range(len(writes))))
        for group, own in places.items():
            self._submit(self._lane(group, NO_NODE), BulkPart(bulk, own))
        return bulk.ticket

    def submit_read(
        self, query: Query, now: int, deadline: int, node: NodeId | None = None
    ) -> Ticket:
        """Queue a read: linearizable, or what `node` has applied. DefiniteError as for writes."""
        pinned = NO_NODE if node is None else node
        if node is not None and node not in self._shared.nodes:
            nodes = ", ".join(map(str, self._shared.nodes))
            raise DefiniteError(f"there is no node {node}; nodes are {nodes}")
        _check_query(query)
        self._admit(1, deadline)
        pending = Pending(self._take_ticket(), query, now, deadline)
        if isinstance(query, Get):
            group = group_of(query.key, self._groups)
            self._submit(self._lane(group, pinned), pending)
        elif self._groups == 1:
            self._submit(self._lane(GroupId(0), pinned), pending)
        else:
            gather = Gather(pending.ticket, query, self._groups)
            for number in range(self._groups):
                part = Pending(pending.ticket, query, now, deadline)
                part.gather = gather
                self._submit(self._lane(GroupId(number), pinned), part)
        return pending.ticket

    def _group_of_all(self, keys: Sequence[bytes]) -> GroupId:
        """Return the group of the keys of one operation; DefiniteError if it spans several."""
        group = group_of(keys[0], self._groups)
        for key in keys[1:]:
            if group_of(key, self._groups) != group:
                raise DefiniteError(
                    f"keys {keys[0]!r} and {key!r} live in different groups; "
                    "an atomic operation cannot span groups"
                )
        return group

    def _admit(self, count: int, deadline: int) -> None:
        """Take note of `count` more operations; DefiniteError if too much is pending."""
        shared = self._shared
        config = self._config
        if (
            shared.pending + count > config.pending_operations_max
            or shared.pending_bytes >= config.pending_bytes_max
        ):
            raise DefiniteError(
                f"{shared.pending} operations of {shared.pending_bytes} bytes are pending; the "
                f"client holds {config.pending_operations_max} or {config.pending_bytes_max} bytes"
            )
        self._expire_at = min(self._expire_at, deadline)

    def _take_ticket(self) -> Ticket:
        ticket = Ticket(self._next_ticket)
        self._next_ticket += 1
        return ticket

    def _lane(self, group: GroupId, pinned: NodeId) -> Lane:
        lane = self._lanes.get((group, pinned))
        if lane is None:
            lane = self._lanes[group, pinned] = Lane(self._shared, group, pinned)
        return lane

    def _submit(self, lane: Lane, waiting: Waiting) -> None:
        self._active[lane] = None
        lane.submit(waiting)

    # --- the driver -------------------------------------------------------------------

    def poll(self, now: int) -> list[Outgoing]:
        """Return the requests that are to be sent now, in order."""
        if now >= self._expire_at:
            earliest = min((lane.expire(now) for lane in self._active), default=NEVER)
            self._expire_at = max(earliest, now + _EXPIRY_GRAIN_NS)
        for lane in list(self._active):
            lane.poll(now)
            if lane.idle:
                del self._active[lane]
        outgoing = self._shared.outgoing
        self._shared.outgoing = []
        return outgoing

    def receive(self, node: NodeId, parts: Sequence[Buffer], now: int) -> None:
        """Take a reply frame from `node`; anything malformed or unexpected is counted, dropped."""
        try:
            reply = decode_reply(parts)
        except WireError:
            self.malformed += 1
            return
        request_id = reply.origin.request_id
        found = self._shared.requests.get(request_id)
        if found is None or found[1].attempts[request_id].node != node:
            self.unexpected += 1
            return
        lane, flight = found
        lane.answered(flight, request_id, reply, now)

    def not_sent(self, outgoing: Outgoing, now: int) -> None:
        """The transport refused a request of the last poll: it has not left, for certain."""
        found = self._shared.requests.get(outgoing.request_id)
        if found is not None:
            lane, flight = found
            lane.not_sent(flight, outgoing.request_id, now)

    def stamps(self, outgoing: Outgoing) -> Iterator[tuple[Ticket, int, int]]:
        """Yield (ticket, session, sequence number) of the single writes in a request of the last poll."""
        found = self._shared.requests.get(outgoing.request_id)
        if found is not None and isinstance(found[1], WriteFlight):
            yield from found[1].stamps()

    def peer_lost(self, node: NodeId, now: int) -> None:
        """The connection to a node broke: requests that it holds are unanswered, not refused."""
        for lane in self._lanes.values():
            lane.peer_lost(node, now)

    def take_completions(self) -> list[Completion]:
        """Take what has been completed since the last call, each ticket once."""
        completions = self._shared.completions
        self._shared.completions = []
        return completions

    def next_deadline(self) -> int | None:
        """When to poll next if nothing happens before; asked right after a poll. None: never."""
        event = min((lane.next_event() for lane in self._active), default=NEVER)
        if self._shared.pending:
            event = min(event, self._expire_at)
        return None if event == NEVER else event

    def abandon(self, reason: str) -> None:
        """Fail everything that is pending: definite where that is certain."""
        for lane in list(self._active):
            lane.abandon(reason)
        self._active.clear()


def _check_query(query: Query) -> None:
    if isinstance(query, Get):
        if not 0 < len(query.key) <= KEY_BYTES_MAX:
            raise DefiniteError(f"a key of {len(query.key)} bytes; a key has 1 to {KEY_BYTES_MAX}")
    elif max(len(query.start), len(query.end)) > KEY_BYTES_MAX or query.limit < 0:
        raise DefiniteError(f"range bounds have up to {KEY_BYTES_MAX} bytes, and limit is ≥ 0")
