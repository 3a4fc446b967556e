"""Requests of one client lane and their lives, attempt after attempt; without I/O.

A request keeps its operations and bytes for as long as it lives; a retry sends the same bytes
under a new request id. It is *in doubt* while an attempt is unanswered, or once one was answered
LEAD_LOST: then its operations may have been applied.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

from cluster.client_bulk import BulkPart
from cluster.client_gather import Gather
from cluster.client_types import (
    Get,
    GetResult,
    KeyValue,
    Query,
    Range,
    RangeResult,
    Ticket,
)
from node.client_wire import (
    Consistency,
    ReadRequest,
    WriteRequest,
    encode_read_request,
    encode_write_request,
)
from node.commands import Operation, encode_open_session, unpack_stamp
from node.raft.types import Buffer, GroupId, NodeId

__all__ = [
    "Attempt",
    "Flight",
    "OpenFlight",
    "Pending",
    "ReadFlight",
    "Waiting",
    "WriteFlight",
    "decode_result",
    "subject_of",
]


_QUERY_BYTES: Final = 64
"""What a query counts against the bound of pending bytes."""


class Pending:
    """One submitted operation, until it is completed. `gather`: part of a fanned-out range."""

    __slots__ = ("deadline", "gather", "size", "subject", "submitted", "ticket")

    count: ClassVar[int] = 1

    def __init__(
        self, ticket: Ticket, subject: Operation | Query, submitted: int, deadline: int
    ) -> None:
        self.ticket = ticket
        self.subject = subject
        self.submitted = submitted
        self.deadline = deadline
        self.gather: Gather | None = None
        self.size = subject.size if isinstance(subject, Operation) else _QUERY_BYTES


Waiting = Pending | BulkPart
"""What stands in a queue or in a request: one operation, or several of one bulk."""


class Attempt:
    """One sending of a request: where it went, and since when its answer has been due next."""

    __slots__ = ("node", "since")

    def __init__(self, node: NodeId, since: int) -> None:
        self.node = node
        self.since = since


class Flight(ABC):
    """What all kinds of request share: attempts, and the silence of the current one."""

    __slots__ = ("attempts", "current", "lost", "operations", "silences", "timeout_at")

    is_read: ClassVar[bool] = False

    def __init__(self, operations: Sequence[Waiting]) -> None:
        self.operations: list[Waiting | None] = list(operations)
        """In the order of the request; None = completed early, by its deadline."""
        self.attempts: dict[int, Attempt] = {}
        """Those that are not answered yet, by request id."""
        self.current = 0
        """The attempt that is awaited; 0 = none, the request waits to be sent."""
        self.timeout_at = 0
        self.silences = 0
        self.lost = False
        """Whether an attempt was answered LEAD_LOST."""

    @property
    def in_doubt(self) -> bool:
        """Whether some attempt may have been applied."""
        return self.lost or bool(self.attempts)

    def live(self) -> Iterator[Waiting]:
        """Yield the operations that are not completed."""
        return (pending for pending in self.operations if pending is not None)

    @abstractmethod
    def compact(self) -> None:
        """Cut completed operations out of the request, which must not be sent again."""

    @abstractmethod
    def parts(self, request_id: int, cluster_id: bytes, group: GroupId) -> list[Buffer]:
        """Encode the request under a new id."""


class WriteFlight(Flight):
    """Operations of one session, stamped with their sequence numbers, the first being given."""

    __slots__ = ("body", "count", "first_seq", "session", "spans")

    def __init__(
        self, operations: Sequence[Waiting], stamp: tuple[int, int], count: int, body: bytes
    ) -> None:
        super().__init__(operations)
        self.session, self.first_seq = stamp
        self.count = count
        self.body = body
        """`count` lengths, then the entries."""
        self.spans = [waiting.count for waiting in operations]
        """How many entries each of `operations` has, also if it is None by now."""

    def compact(self) -> None:
        """Keep the entries, sequence numbers included, of the operations that are left."""
        if None not in self.operations:
            return
        lengths = struct.unpack_from(f"<{self.count}I", self.body)
        kept: list[int] = []
        pieces: list[bytes] = []
        start, first = 4 * self.count, 0
        for span, waiting in zip(self.spans, self.operations, strict=True):
            own = lengths[first : first + span]
            end = start + sum(own)
            if waiting is not None:
                kept += own
                pieces.append(self.body[start:end])
            first, start = first + span, end
        self.operations = list(self.live())
        self.spans = [waiting.count for waiting in self.live()]
        self.count = len(kept)
        self.body = b"".join([struct.pack(f"<{len(kept)}I", *kept), *pieces])

    def stamps(self) -> Iterator[tuple[Ticket, int, int]]:
        """Yield (ticket, session, sequence number) of each live operation that is no bulk."""
        start, lengths = 4 * self.count, struct.unpack_from(f"<{self.count}I", self.body)
        first = 0
        for span, waiting in zip(self.spans, self.operations, strict=True):
            if isinstance(waiting, Pending):
                _, seq, _ = unpack_stamp(self.body, start)
                yield waiting.ticket, self.session, seq
            start += sum(lengths[first : first + span])
            first += span

    def parts(self, request_id: int, cluster_id: bytes, group: GroupId) -> list[Buffer]:
        """Encode as a WRITE."""
        request = WriteRequest(request_id, cluster_id, group, self.count, self.body)
        return encode_write_request(request)


class OpenFlight(WriteFlight):
    """The request that opens a session; it carries nobody's operation."""

    __slots__ = ()

    def __init__(self) -> None:
        entry = encode_open_session()
        super().__init__((), (0, 0), 1, struct.pack("<I", len(entry)) + entry)

    def compact(self) -> None:
        """Keep the one entry."""


class ReadFlight(Flight):
    """Queries; `consistency` is the same for all."""

    __slots__ = ("consistency", "queries")

    is_read = True

    def __init__(self, operations: Sequence[Waiting], consistency: Consistency) -> None:
        super().__init__(operations)
        self.consistency = consistency
        self.queries = tuple(_query_fields(subject_of(pending)) for pending in operations)

    def compact(self) -> None:
        """Keep the queries that are left."""
        self.operations = list(self.live())
        self.queries = tuple(_query_fields(subject_of(pending)) for pending in self.live())

    def parts(self, request_id: int, cluster_id: bytes, group: GroupId) -> list[Buffer]:
        """Encode as a READ."""
        request = ReadRequest(request_id, cluster_id, group, self.consistency, self.queries)
        return encode_read_request(request)


def subject_of(waiting: Waiting) -> Operation | Query:
    """Return what one operation asks for; a bulk asks for nothing but writes."""
    assert isinstance(waiting, Pending)
    return waiting.subject


def _query_fields(subject: Operation | Query) -> list[object]:
    if isinstance(subject, Get):
        return [1, subject.key]
    assert isinstance(subject, Range)
    return [2, subject.start, subject.end, subject.limit]


def decode_result(subject: Operation | Query, fields: list[object]) -> GetResult | RangeResult:
    """Turn one result of §8 into a value; ValueError if it does not answer the query."""
    match fields:
        case [int(revision), None] if isinstance(subject, Get):
            return GetResult(revision, None)
        case [int(revision), [*item]] if isinstance(subject, Get):
            return GetResult(revision, _item(item))
        case [int(revision), [*items], bool(more)] if isinstance(subject, Range):
            return RangeResult((revision,), tuple(map(_item, items)), more)
    raise ValueError("an answer to another kind of query")


def _item(fields: object) -> KeyValue:
    match fields:
        case [bytes(key), bytes(value), int(create), int(mod), int(version)]:
            return KeyValue(key, value, create, mod, version)
    raise ValueError("a malformed item")
