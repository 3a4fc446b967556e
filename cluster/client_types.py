"""Values of the client: knobs, queries, results, and the two kinds of error.

A client error is *definite* (the operation was not applied and will not be) or *indefinite* (it
may have been applied, or may still be). The difference is what a checker, and a careful caller,
needs to know. A read changes nothing, so a failed read is definite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType

from node.limits import (
    ENTRIES_PER_REQUEST_MAX,
    QUERIES_PER_REQUEST_MAX,
    REPLIES_PER_SESSION_MAX,
    REQUEST_BYTES_MAX,
)
from node.ports import Outcome
from node.raft.types import Buffer, NodeId

__all__ = [
    "ClientConfig",
    "ClientError",
    "Completion",
    "DefiniteError",
    "Get",
    "GetResult",
    "IndefiniteError",
    "KeyValue",
    "NoQuorumDefiniteError",
    "NoQuorumError",
    "NoQuorumIndefiniteError",
    "Outgoing",
    "Query",
    "Range",
    "RangeResult",
    "Result",
    "Ticket",
]

Ticket = NewType("Ticket", int)
"""Names one submitted operation."""

_MS = 1_000_000


class ClientError(Exception):
    """An operation failed; always a DefiniteError or an IndefiniteError."""


class DefiniteError(ClientError):
    """The operation was not applied, and will not be."""


class IndefiniteError(ClientError):
    """The operation may have been applied, or may still be."""


class NoQuorumError(ClientError):
    """No leader answered between the operation's submission and its deadline.

    Always one of its two subclasses, which say whether the operation may have been applied.
    """


class NoQuorumDefiniteError(NoQuorumError, DefiniteError):
    """No leader in time, and the operation was not applied."""


class NoQuorumIndefiniteError(NoQuorumError, IndefiniteError):
    """No leader answered in time, and the operation may have been applied."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Knobs of a client core. Windows are per group."""

    requests_in_flight: int = 4
    """Write requests, and as many read requests: while one is on the disk, others are on their way,
    wait at the leader for the next write, or are being answered."""
    request_bytes: int = 1 << 20
    """A request is closed at this size; a single larger operation travels alone."""
    request_operations: int = 4_096
    request_queries: int = 256
    request_timeout_ns: int = 250 * _MS
    """Shortest silence after which a request is sent to another node: an election and a little.
    It grows to 4 × the usual time between answers, and doubles with every silence of the same
    request, so that a slow disk or a full machine does not drown in copies."""
    request_timeout_ns_max: int = 4_000 * _MS
    backoff_ns_min: int = 2 * _MS
    backoff_ns_max: int = 50 * _MS
    """Ceiling of the wait between two tries; a new leader is found at most this late."""
    pending_operations_max: int = 1 << 16
    pending_bytes_max: int = 256 << 20

    def __post_init__(self) -> None:
        """Refuse windows that the node's limits do not cover."""
        assert self.requests_in_flight > 0
        assert 0 < self.request_operations <= ENTRIES_PER_REQUEST_MAX
        assert self.requests_in_flight * self.request_operations <= REPLIES_PER_SESSION_MAX
        assert 0 < self.request_bytes <= REQUEST_BYTES_MAX
        assert 0 < self.request_queries <= QUERIES_PER_REQUEST_MAX
        assert 0 < self.request_timeout_ns <= self.request_timeout_ns_max
        assert 0 < self.backoff_ns_min <= self.backoff_ns_max


@dataclass(frozen=True, slots=True)
class Get:
    """Read one key."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Range:
    """Read start ≤ key < end in order; an empty end is no upper bound, limit 0 the server's."""

    start: bytes = b""
    end: bytes = b""
    limit: int = 0


Query = Get | Range


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it stood when it was read."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int


@dataclass(frozen=True, slots=True)
class GetResult:
    """The item, or None; and the revision of its group at the time of the read."""

    revision: int
    item: KeyValue | None


@dataclass(frozen=True, slots=True)
class RangeResult:
    """Items in key order; `more` if there are further ones: go on behind the last key.

    `revisions` holds one revision per group: each group's part is linearizable by itself; groups
    are not read at one instant.
    """

    revisions: tuple[int, ...]
    items: tuple[KeyValue, ...]
    more: bool


Result = Outcome | Sequence[Outcome] | GetResult | RangeResult
"""Writes end as an Outcome (OK, ABSENT, CONFLICT or BATCH_ABORTED), bulks as one of each of their
operations (`cluster.client_bulk.BulkResult`), reads as the other two."""


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of one operation: a result, or an error."""

    ticket: Ticket
    result: Result | None
    error: ClientError | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request frame for one node. If it cannot be sent, say `ClientCore.not_sent`."""

    node: NodeId
    request_id: int
    parts: Sequence[Buffer]
