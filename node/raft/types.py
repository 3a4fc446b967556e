"""Values of the Raft core: identifiers, batches, configuration, and the `Ready` contract.

All times are integer nanoseconds of one monotonic clock that the caller owns; the core only
compares and adds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from node.raft.messages import Message

__all__ = [
    "NO_INDEX",
    "NO_NODE",
    "NO_TERM",
    "Batch",
    "BatchMeta",
    "Buffer",
    "CoreConfig",
    "GroupId",
    "HardState",
    "Index",
    "LogStart",
    "NodeId",
    "NoopBuilder",
    "PersistToken",
    "ReadContext",
    "ReadGrant",
    "Ready",
    "Role",
    "Term",
]

Term = NewType("Term", int)
Index = NewType("Index", int)
NodeId = NewType("NodeId", int)
GroupId = NewType("GroupId", int)
ReadContext = NewType("ReadContext", int)

NO_NODE = NodeId(0)
NO_TERM = Term(0)
NO_INDEX = Index(0)

Buffer = bytes | bytearray | memoryview


class Role(Enum):
    """What a node is in one group (Raft §5.1; PRE_CANDIDATE: thesis §9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class BatchMeta:
    """What the core knows of a batch: identity and size, never its bytes.

    (term, base_index) identifies a batch in a group: a leader creates one batch per base index.
    `size` is header plus body in bytes and is what windows and limits count.
    """

    term: Term
    base_index: Index
    count: int
    size: int

    @property
    def last_index(self) -> Index:
        """Index of the batch's last entry: a batch end."""
        return Index(self.base_index + self.count - 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """An encoded batch: the same bytes on the wire, in every WAL and in memory.

    The core passes `header`, `body` and `leader_time_ms` (replicated time) on unread.
    """

    meta: BatchMeta
    leader_time_ms: int
    header: bytes
    body: Buffer


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be durable before any reply that depends on it (Raft figure 2)."""

    term: Term = NO_TERM
    vote: NodeId = NO_NODE


@dataclass(frozen=True, slots=True)
class LogStart:
    """The compaction point: everything up to `index` is in a snapshot (0, 0 = nothing)."""

    index: Index = NO_INDEX
    term: Term = NO_TERM


NoopBuilder = Callable[[Term, Index], Batch]
"""Encodes the empty batch that a new leader appends (Raft §5.4.2 and §8)."""


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """Fixed facts of one group on one node. Times in ns; windows in bytes and messages."""

    group: GroupId
    node: NodeId
    voters: tuple[NodeId, ...]
    seed: int
    """Seed of the counter-hashed election timeouts: same seed, same draws."""
    rank: int = 0
    ranks: int = 1
    """Timeouts come from the `rank`-th of `ranks` equal parts of their range: of many groups each
    can prefer another node as its leader (rank 0)."""
    preferred: NodeId = NO_NODE
    """Who should lead when all is quiet; NO_NODE: whoever does."""
    transfer_ns: int = 5_000_000_000
    """A lead is offered to the preferred node at most this often."""
    heartbeat_ns: int = 50_000_000
    election_ns_min: int = 150_000_000
    election_ns_max: int = 300_000_000
    message_bytes_max: int = 1 << 20
    """Batches are packed into one Append up to this size; a single larger batch travels alone."""
    window_bytes_max: int = 8 << 20
    window_messages_max: int = 64
    uncommitted_bytes_max: int = 64 << 20
    hold_bytes_max: int = 256 << 20
    """For a voter that lags, the leader keeps all logs from compacting more than this away."""

    def __post_init__(self) -> None:
        """Refuse configurations in which the timers contradict each other."""
        assert self.node in self.voters
        assert len(set(self.voters)) == len(self.voters)
        assert 0 < self.heartbeat_ns < self.election_ns_min <= self.election_ns_max
        assert 0 <= self.rank < self.ranks
        assert self.message_bytes_max <= self.window_bytes_max


@dataclass(frozen=True, slots=True)
class PersistToken:
    """Names one storage request; handed back to `Core.persisted` once it is durable.

    `epoch` counts truncations: an index acknowledged under an older epoch may have been
    overwritten since, even by an entry of the same term (the ABA race), and is not believed.
    """

    epoch: int
    term: Term
    vote: NodeId
    last_index: Index
    last_term: Term


@dataclass(frozen=True, slots=True)
class ReadGrant:
    """A ReadIndex outcome (thesis §6.4): serve at `index` once applied, or refuse (`ok` False)."""

    context: ReadContext
    index: Index
    ok: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything the core wants done, taken once per turn.

    Order of duties:

    1. `send_now` may leave at once, before or while the disk writes.
    2. One storage request: record `hard_state`, cut the log from `truncate_from` (if set), append
       `append`, in this order, durable as a unit prefix (FIFO with earlier requests).
    3. `send_after_sync` leaves only when that request *and all earlier ones* are durable; with
       nothing to store it still waits for earlier requests that are in flight.
    4. When durable, call `Core.persisted(token)`.
    5. Apply entries up to `commit`; answer `reads`.
    """

    hard_state: HardState | None
    truncate_from: Index | None
    append: tuple[Batch, ...]
    token: PersistToken | None
    send_now: tuple[Message, ...]
    send_after_sync: tuple[Message, ...]
    commit: Index
    reads: tuple[ReadGrant, ...]
