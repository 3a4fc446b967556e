"""What the runtime needs of the world, as protocols. Only `runtime` and `multiraft` call them.

Two sets of implementations exist: a real process (`node/main.py`) and the simulator
(`cluster/sim`). No port blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from node.outcomes import Outcome, Outcomes
from node.raft.messages import Message
from node.raft.types import (
    Batch,
    BatchMeta,
    Buffer,
    GroupId,
    HardState,
    Index,
    LogStart,
    PersistToken,
    Term,
)

__all__ = [
    "Clock",
    "FrozenState",
    "GroupWrite",
    "LogStore",
    "Outcome",
    "Outcomes",
    "ReplySink",
    "SnapshotDone",
    "SnapshotSink",
    "Snapshots",
    "StateMachine",
    "StoredGroup",
    "Transport",
    "WriteDone",
]


class Clock(Protocol):
    """A monotonic clock in ns. Never the wall clock."""

    def now_ns(self) -> int:
        """Return the current time; never falls."""


class Transport(Protocol):
    """Sends to peers. Never blocks: a full queue drops the message and counts it.

    Append messages passed in carry full `Batch` values.
    """

    def send(self, messages: Sequence[Message]) -> None:
        """Send each message on the lane of its kind; order per peer and lane is kept."""


@dataclass(frozen=True, slots=True)
class GroupWrite:
    """One group's part of a turn's storage request, in the order: hard state, cut, append."""

    group: GroupId
    truncate_from: Index | None
    append: tuple[Batch, ...]
    hard_state: HardState | None
    token: PersistToken


@dataclass(frozen=True, slots=True)
class WriteDone:
    """A storage request is durable. Requests complete in the order of submission."""

    number: int


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """What recovery found of one group."""

    group: GroupId
    hard_state: HardState
    start: LogStart
    batches: tuple[BatchMeta, ...]


class LogStore(Protocol):
    """The log of all groups of a node (over `wal`)."""

    def append(self, writes: Sequence[GroupWrite]) -> int:
        """Queue one storage request for all groups of a turn; return its number (from 1)."""

    def completions(self) -> Sequence[WriteDone]:
        """Take the completions that arrived since the last call."""

    def read(self, group: GroupId, base_index: Index) -> Batch:
        """Return a batch of the current log by its base index, from memory or disk (verified)."""

    def release(self, group: GroupId, index: Index, term: Term) -> None:
        """Give up a group's log up to a batch end; a durable snapshot covers it."""

    def pinned_segments(self, group: GroupId) -> int:
        """Return how many segments, the one being written left out, a group keeps from reuse."""

    def append_again(self, group: GroupId, bases: Sequence[Index]) -> None:
        """Queue batches once more, so that the segments where they lie are needed no longer."""

    @property
    def copying(self) -> bool:
        """Whether something that was appended again is not durable yet."""

    @property
    def segment_bytes(self) -> int:
        """About what a segment of the log holds."""

    @property
    def disk_full(self) -> bool:
        """Whether the disk refuses new space at present."""

    @property
    def queued_bytes(self) -> int:
        """Bytes submitted and not yet durable."""


class StateMachine(Protocol):
    """A deterministic, total function of the committed entries."""

    def apply(self, meta: BatchMeta, leader_time_ms: int, body: Buffer) -> Outcomes:
        """Apply a whole batch; one outcome per entry. Never raises for any input bytes."""

    def query_all(self, queries: Sequence[object]) -> list[object]:
        """Answer read queries (ARCHITECTURE §8) from the current state; ValueError if malformed.

        May answer only the first of them when the reply would grow too large.
        """

    @property
    def leader_time_ms(self) -> int:
        """Replicated time: the highest `leader_time_ms` applied."""

    @property
    def state_bytes(self) -> int:
        """About what a snapshot of the state takes."""

    def freeze(self) -> FrozenState:
        """Return the state of this moment; at most one at a time."""


class FrozenState(Protocol):
    """A state machine's state at one moment, read out while it goes on."""

    def next_chunk(self, bytes_target: int) -> bytes | None:
        """Return the next chunk, None at the end."""

    def close(self) -> None:
        """End it."""


class SnapshotSink(Protocol):
    """A snapshot being written in the background."""

    @property
    def queued_bytes(self) -> int:
        """Bytes given and not yet written."""

    def write(self, chunk: bytes) -> None:
        """Queue one chunk."""

    def finish(self) -> None:
        """Queue the end; its completion follows in `Snapshots.completions`."""


@dataclass(frozen=True, slots=True)
class SnapshotDone:
    """A snapshot that became durable, or failed (`error`)."""

    group: GroupId
    place: LogStart
    error: OSError | None


class Snapshots(Protocol):
    """Where snapshots go."""

    def begin(self, group: GroupId, place: LogStart) -> SnapshotSink:
        """Start writing a snapshot of `group` as of `place` (a batch end)."""

    def completions(self) -> Sequence[SnapshotDone]:
        """Take what ended since the last call."""


class ReplySink(Protocol):
    """Takes the frames that answer clients."""

    def reply(self, client: bytes, parts: Sequence[Buffer]) -> None:
        """Send one reply frame to a client identity; never blocks, a full queue drops it."""
