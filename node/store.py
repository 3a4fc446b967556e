"""`LogStore` over `wal`: the logs of all groups of a node, with the recent batches in memory.

The main thread calls everything here except `_on_complete`, which the WAL thread calls and which
only appends to a deque (atomic under the interpreter) and wakes the main thread.

A batch stays in memory until it is durable *and* older than CACHE_BYTES_MAX of newer ones; after
that it is read back from its segment, both CRCs verified. What is counted is its bytes and
SLOT_BYTES for the objects around them.

A batch that keeps old segments from being used again can be appended again (`append_again`): until
its copy is durable it is in memory as well, because the log may give the old place back on its own
thread before the main thread has heard of the new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from wal.segment import number_of_position

__all__ = ["SLOT_BYTES", "WalStore", "batch_of_record", "stored_groups"]

SLOT_BYTES: Final = 512
"""What a batch in memory takes beside its own bytes: batch, metadata, numbers, slot, table entry."""


@dataclass(slots=True)
class _Slot:
    """Where one batch is: in memory, on disk, or both. `ref` is None until it is durable."""

    batch: Batch | None
    ref: BatchRef | None
    size: int
    segment: int = 0
    """Number of the segment in which its group counts it; 0: not durable yet."""
    dropped: bool = False
    """Whether it was cut or released; its group counts it no more."""


@dataclass(slots=True)
class _GroupSlots:
    """The batches of one group by base index, and how many of the durable ones lie where."""

    by_base: dict[int, _Slot] = field(default_factory=dict)
    segments: dict[int, int] = field(default_factory=dict)
    """Segment number → batches; none with 0."""

    def put(self, slot: _Slot, number: int) -> None:
        """Count a batch in a segment, and no more where it lay before."""
        self._uncount(slot)
        slot.segment = number
        self.segments[number] = self.segments.get(number, 0) + 1

    def drop(self, slot: _Slot) -> None:
        """Count a batch no more: it was cut or released."""
        self._uncount(slot)
        slot.dropped = True

    def _uncount(self, slot: _Slot) -> None:
        if not slot.segment:
            return
        left = self.segments[slot.segment] - 1
        if left:
            self.segments[slot.segment] = left
        else:
            del self.segments[slot.segment]
        slot.segment = 0


@dataclass(frozen=True, slots=True)
class _Request:
    """One storage request: its number and, per record, the group and slot of a batch or None."""

    number: int
    slots: tuple[tuple[_GroupSlots, _Slot] | None, ...]


@dataclass(frozen=True, slots=True)
class _Copies:
    """Batches on their way to the head of the log."""

    group: _GroupSlots
    slots: tuple[_Slot, ...]
    borrowed: tuple[_Slot, ...]
    """Those that are in memory for this only."""


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
        self._groups: dict[GroupId, _GroupSlots] = {}
        for number, found in recovered.groups.items():
            group = self._groups[GroupId(number)] = _GroupSlots()
            for ref in found.batches:
                slot = group.by_base[ref.base_index] = _Slot(None, ref, 64 + ref.size)
                group.put(slot, number_of_position(ref.position))
        self._cached: deque[_Slot] = deque()
        self._cached_bytes = 0
        self._numbers = 0
        self._completed: deque[AppendHandle] = deque()
        self._copies: _Copies | None = None
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
        slots: list[tuple[_GroupSlots, _Slot] | None] = []
        for write in writes:
            group = self._groups.setdefault(write.group, _GroupSlots())
            by_base = group.by_base
            if write.hard_state is not None:
                state = write.hard_state
                records.append(hard_state_record(write.group, state.term, state.vote))
                slots.append(None)
            if write.truncate_from is not None:
                records.append(truncate_record(write.group, write.truncate_from))
                slots.append(None)
                while by_base and next(reversed(by_base)) >= write.truncate_from:
                    group.drop(by_base.popitem()[1])
            for batch in write.append:
                records.append(Record(batch.header, batch.body))
                slot = _Slot(batch, None, batch.meta.size)
                slots.append((group, slot))
                by_base[batch.meta.base_index] = slot
                self._remember(slot)
        self._numbers += 1
        self._log.append(records, context=_Request(self._numbers, tuple(slots)))
        return self._numbers

    def release(self, group: GroupId, index: Index, term: Term) -> None:
        """Give up a group's log up to a batch end; its segments are reused once that is durable."""
        slots = self._groups[group]
        for base in list(takewhile(lambda base: base <= index, slots.by_base)):
            slots.drop(slots.by_base.pop(base))
        self._log.release(group, index, term)

    # ---- pinned segments -----------------------------------------------------------------

    @property
    def segment_bytes(self) -> int:
        """About what a segment of the log holds."""
        return self._log.segment_bytes

    @property
    def copying(self) -> bool:
        """Whether copies of `append_again` are on their way to the disk."""
        return self._copies is not None

    def pinned_segments(self, group: GroupId) -> int:
        """Return how many segments, the one being written left out, a group keeps from reuse."""
        slots = self._groups.get(group)
        if slots is None or not slots.segments:
            return 0
        return self._log.head_number - min(slots.segments)

    def append_again(self, group: GroupId, bases: Sequence[Index]) -> None:
        """Queue a slice of a group's batches once more: those of `bases` that lie behind the head.

        Left out is what is not durable yet, or lies in the segment being written. One slice at a
        time (`copying`). It has no number, and nobody is told: nothing waits for it.
        """
        assert self._copies is None, "one slice at a time"
        slots, head = self._groups[group], self._log.head_number
        taken: list[_Slot] = []
        borrowed: list[_Slot] = []
        records: list[Record] = []
        for base in bases:
            slot = slots.by_base.get(base)
            if slot is None or slot.ref is None or slot.segment >= head:
                continue
            batch = self.read(group, base)
            if slot.batch is None:
                slot.batch = batch
                borrowed.append(slot)
            records.append(Record(batch.header, batch.body))
            taken.append(slot)
        if taken:
            self._copies = _Copies(slots, tuple(taken), tuple(borrowed))
            self._log.append_again(records, context=self._copies)
            for slot in taken:
                slot.ref = None

    # ---- what became durable -------------------------------------------------------------

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
            if isinstance(request, _Copies):
                self._settle_copies(request, handle.positions)
                continue
            assert isinstance(request, _Request)
            for place, position in zip(request.slots, handle.positions, strict=True):
                if place is not None:
                    self._settle(*place, position)
            done.append(WriteDone(request.number))
        self._forget()
        return done

    def _settle(self, group: _GroupSlots, slot: _Slot, position: int) -> None:
        """Note where a batch lies."""
        batch = slot.batch
        assert batch is not None, "a batch is in memory until it is durable"
        meta = batch.meta
        slot.ref = BatchRef(meta.term, meta.base_index, meta.count, meta.size - 64, position)
        if not slot.dropped:
            group.put(slot, number_of_position(position))

    def _settle_copies(self, copies: _Copies, positions: Sequence[int]) -> None:
        assert copies is self._copies
        self._copies = None
        for slot, position in zip(copies.slots, positions, strict=True):
            self._settle(copies.group, slot, position)
        for slot in copies.borrowed:
            slot.batch = None

    def read(self, group: GroupId, base_index: Index) -> Batch:
        """Return a batch by its base index; a corrupt frame raises `wal.CorruptLogError`."""
        slot = self._groups[group].by_base[base_index]
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
