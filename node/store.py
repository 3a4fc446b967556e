"""`LogStore` over `wal`: the logs of all groups of a node, with the recent batches in memory.

The main thread calls everything here except `_on_complete`, which the WAL thread calls and which
only appends to a deque (atomic under the interpreter) and wakes the main thread.

A batch stays in memory until it is durable *and* older than CACHE_BYTES_MAX of newer ones; after
that it is read back from its segment, both CRCs verified. What is counted is its bytes and
SLOT_BYTES for the objects around them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from node.limits import CACHE_BYTES_MAX
from node.ports import GroupWrite, StoredGroup, WriteDone
from node.raft.types import (
    Batch,
    BatchMeta,
    GroupId,
    HardState,
    Index,
    LogStart,
    NodeId,
    Term,
)
from wal import AppendHandle, BatchRef, Log, Record, Recovered
from wal.frame import RecordHeader, hard_state_record, truncate_record

__all__ = ["SLOT_BYTES", "WalStore", "batch_of_record", "stored_groups"]

SLOT_BYTES: Final = 512
"""What a batch in memory takes beside its own bytes: batch, metadata, numbers, slot, table entry."""


@dataclass(slots=True)
class _Slot:
    """Where one batch is: in memory, on disk, or both. `ref` is None until it is durable."""

    batch: Batch | None
    ref: BatchRef | None
    size: int


@dataclass(frozen=True, slots=True)
class _Request:
    """One storage request: its number and, per record, the slot of a batch or None."""

    number: int
    slots: tuple[_Slot | None, ...]


def batch_of_record(record: Record) -> Batch:
    """Wrap a record that the WAL has verified; nothing is copied."""
    header = RecordHeader.unpack(record.header)
    meta = BatchMeta(
        Term(header.term), Index(header.base_index), header.count, 64 + header.payload_len
    )
    return Batch(meta, header.leader_time_ms, record.header, record.body)


def stored_groups(recovered: Recovered) -> dict[GroupId, StoredGroup]:
    """Translate what recovery found into the core's terms."""
    groups: dict[GroupId, StoredGroup] = {}
    for number, found in sorted(recovered.groups.items()):
        group = GroupId(number)
        metas = tuple(
            BatchMeta(Term(ref.term), Index(ref.base_index), ref.count, 64 + ref.size)
            for ref in found.batches
        )
        start = LogStart(Index(found.released_index), Term(found.released_term))
        hard_state = HardState(Term(found.term), NodeId(found.vote))
        groups[group] = StoredGroup(group, hard_state, start, metas)
    return groups


class WalStore:
    """The log of a node's groups. `wake` is called from the WAL thread after completions."""

    def __init__(self, log: Log, recovered: Recovered, wake: Callable[[], None]) -> None:
        """Take over an opened log and install the completion callback."""
        self._log = log
        self._wake = wake
        self._slots: dict[GroupId, dict[int, _Slot]] = {
            GroupId(number): {
                ref.base_index: _Slot(None, ref, 64 + ref.size) for ref in found.batches
            }
            for number, found in recovered.groups.items()
        }
        self._cached: deque[_Slot] = deque()
        self._cached_bytes = 0
        self._numbers = 0
        self._completed: deque[AppendHandle] = deque()
        self._starved = False
        self.failure: Exception | None = None
        log.on_complete = self._on_complete

    @property
    def log(self) -> Log:
        """The write-ahead log underneath (statistics, inspection)."""
        return self._log

    @property
    def disk_full(self) -> bool:
        """Whether the log waits for space: from its first failure until something is stored.

        While it tries again, for some milliseconds every now and then, it is still full: a write
        taken in then would most likely wait without an end.
        """
        if self._log.disk_full:
            self._starved = True
        elif not self._log.queued_bytes:
            self._starved = False
        return self._starved

    @property
    def queued_bytes(self) -> int:
        """Bytes submitted to the log and not yet durable."""
        return self._log.queued_bytes

    def append(self, writes: Sequence[GroupWrite]) -> int:
        """Queue one request: per group the hard state, the cut, then the batches.

        The term's record stands before any entry of that term: a torn write cannot keep the entry
        and lose the term.
        """
        records: list[Record] = []
        slots: list[_Slot | None] = []
        for write in writes:
            index = self._slots.setdefault(write.group, {})
            if write.hard_state is not None:
                state = write.hard_state
                records.append(hard_state_record(write.group, state.term, state.vote))
                slots.append(None)
            if write.truncate_from is not None:
                records.append(truncate_record(write.group, write.truncate_from))
                slots.append(None)
                while index and next(reversed(index)) >= write.truncate_from:
                    index.popitem()
            for batch in write.append:
                records.append(Record(batch.header, batch.body))
                slot = _Slot(batch, None, batch.meta.size)
                slots.append(slot)
                index[batch.meta.base_index] = slot
                self._remember(slot)
        self._numbers += 1
        self._log.append(records, context=_Request(self._numbers, tuple(slots)))
        return self._numbers

    def release(self, group: GroupId, index: Index, term: Term) -> None:
        """Give up a group's log up to a batch end; its segments are reused once that is durable."""
        slots = self._slots[group]
        for base in list(takewhile(lambda base: base <= index, slots)):
            del slots[base]
        self._log.release(group, index, term)

    def completions(self) -> Sequence[WriteDone]:
        """Take what became durable; remembers where the batches lie. Sets `failure` on error."""
        done: list[WriteDone] = []
        while self._completed:
            handle = self._completed.popleft()
            if handle.error is not None:
                self.failure = handle.error
                break
            self._starved = False
            request = handle.context
            assert isinstance(request, _Request)
            for slot, position in zip(request.slots, handle.positions, strict=True):
                if slot is not None and slot.batch is not None:
                    batch = slot.batch
                    slot.ref = BatchRef(
                        batch.meta.term,
                        batch.meta.base_index,
                        batch.meta.count,
                        batch.meta.size - 64,
                        position,
                    )
            done.append(WriteDone(request.number))
        self._forget()
        return done

    def read(self, group: GroupId, base_index: Index) -> Batch:
        """Return a batch by its base index; a corrupt frame raises `wal.CorruptLogError`."""
        slot = self._slots[group][base_index]
        if slot.batch is not None:
            return slot.batch
        assert slot.ref is not None, "a batch is in memory until it is durable"
        return batch_of_record(self._log.read(group, slot.ref))

    def _remember(self, slot: _Slot) -> None:
        self._cached.append(slot)
        self._cached_bytes += SLOT_BYTES + slot.size

    def _forget(self) -> None:
        """Drop the oldest batches from memory once they are durable and the cache is over."""
        while self._cached_bytes > CACHE_BYTES_MAX and self._cached[0].ref is not None:
            slot = self._cached.popleft()
            slot.batch = None
            self._cached_bytes -= SLOT_BYTES + slot.size

    def _on_complete(self, handles: Sequence[AppendHandle]) -> None:
        """Called on the WAL thread (or by the simulator's event): hand over and wake."""
        self._completed.extend(handles)
        self._wake()
