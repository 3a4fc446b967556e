"""When a group is snapshotted, how far its log is released, and what is moved to the log's head.

Theory of operation
-------------------
A group is due when the log has grown by `log_bytes_min`, or by the size of its state if that is more:
so a snapshot at most doubles what is written. The machine is frozen at `applied`, which is a batch
end and must be durable here (after a crash the log must reach the snapshot); its chunks are read
out in slices between turns, and the file is written and synced in the background. Only then the
log releases its prefix, and never beyond

* what the leader says that some voter still needs (`Core.release_limit`, bounded by
  `CoreConfig.hold_bytes_max`), nor
* `trailing_bytes` before the snapshot, so that a voter that blinks finds its entries, nor
* what was appended less than `retain_ns` ago, as long as all that is kept for its age alone takes at
  most `retain_bytes_max`. Age is told by marks of our own clock, taken while the log grows: after a
  start, what was recovered counts as new.

A segment is released when no group needs it and no group's policy keeps anything in it.

All groups share one log. A group that writes little has a small tail in an old segment, which keeps
every segment behind it from being used again. One that pins more than `pinned_segments_max` of them
is snapshotted early if that gives up at least as many bytes of log as it writes. Otherwise its tail
is appended again, in slices: one per turn, the next when that is durable. Two exceptions:

* A tail of more than `pinned_segments_max` segments is held for a voter, or its group writes enough
  to be snapshotted in its turn: it waits, and so does all that lies behind it.
* If the tails of all groups together take more than half a segment, twice their size may be pinned.
  Without that, copying them would itself push the first one out of bounds, for ever. With it, the
  copies add at most as much as the groups write.

One snapshot and one copy at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from node.limits import QUEUED_BYTES_MAX as LOG_QUEUED_BYTES_MAX
from node.ports import Clock, FrozenState, LogStore, Snapshots, SnapshotSink
from node.raft.types import GroupId, Index, LogStart
from node.runtime import GroupRuntime

__all__ = ["PINNED_SEGMENTS_MAX", "CompactionPolicy", "CompactionPorts", "Compactor"]

CHUNK_BYTES: Final = 256 << 10
"""About 250 entries of 1 KiB, 0.3 ms: well within a slice."""
QUEUED_BYTES_MAX: Final = 8 << 20
"""What may wait for the snapshot's file: beyond it the reading waits, not the memory."""
LOOK_NS: Final = 200_000_000
"""How often groups are looked at: a segment at 1 GB/s takes 64 ms, a few may pass."""
PINNED_SEGMENTS_MAX: Final = 4
"""Segments that one group may keep from reuse: 256 MiB, about what a voter may lag behind."""
RETAIN_BYTES_MAX: Final = 1 << 30
"""What one group keeps for its age alone: a busy hour must not fill the disk. 16 segments."""
AGE_MARKS_MAX: Final = 64
"""Marks per group: an age is told to a 64th of `retain_ns`. 1,024 groups: 6 MB."""
COPY_BYTES_MAX: Final = 1 << 20
"""A slice of a tail that is appended again: 1 ms to read, 1 ms to write."""
COPY_BATCHES_MAX: Final = 256
"""Batches in a slice: 15 µs each to read back, 4 ms."""


@dataclass(frozen=True, slots=True)
class CompactionPolicy:
    """Bytes: `log_bytes_min` between two snapshots of a group, `trailing_bytes` kept before one."""

    log_bytes_min: int = 64 << 20
    trailing_bytes: int = 64 << 20
    pinned_segments_max: int = PINNED_SEGMENTS_MAX
    """0: a tail moves whenever a segment begins (the simulator's hardest)."""
    look_ns: int = LOOK_NS
    retain_ns: int = 0
    retain_bytes_max: int = RETAIN_BYTES_MAX


@dataclass(frozen=True, slots=True)
class CompactionPorts:
    """What compaction needs of the world."""

    store: LogStore
    snapshots: Snapshots
    clock: Clock


@dataclass(slots=True)
class _Active:
    """The snapshot under way."""

    group: GroupId
    place: LogStart
    frozen: FrozenState
    writer: SnapshotSink
    read: bool = False


class _Ages:
    """When the log of one group reached which index: marks of (time, last index), oldest first."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int]] = deque()

    def mark(self, now: int, last_index: int, span_ns: int) -> None:
        """Note where the log ends, if the last mark is a while ago."""
        marks = self._marks
        if not marks or now - marks[-1][0] >= -(-span_ns // AGE_MARKS_MAX):
            marks.append((now, last_index))
            while len(marks) > AGE_MARKS_MAX + 2:
                marks.popleft()

    def older_than(self, moment: int) -> int:
        """Return the index that the log had reached by `moment`; 0 if nobody knows."""
        index = 0
        for at, last_index in self._marks:
            if at > moment:
                break
            index = last_index
        return index


@dataclass(slots=True)
class _Copy:
    """A tail that is being appended again: from `following` up to `last`, which never moves."""

    group: GroupId
    following: Index
    last: Index


class Compactor:
    """Snapshots and releases the groups of one node. Called once per turn, on the main thread."""

    def __init__(
        self,
        groups: Mapping[GroupId, GroupRuntime],
        ports: CompactionPorts,
        policy: CompactionPolicy,
    ) -> None:
        """Compact `groups` over the store and into the snapshots of `ports`."""
        self.snapshots_taken = 0
        self._groups = groups
        self._store = ports.store
        self._snapshots = ports.snapshots
        self._clock = ports.clock
        self._policy = policy
        self._active: _Active | None = None
        self._copies: deque[_Copy] = deque()
        """The first one is under way."""
        self._look_at = 0
        self._ages = {number: _Ages() for number in groups}

    @property
    def busy(self) -> bool:
        """Whether another slice could be worked on at once."""
        return self._can_read_out or self._can_copy

    @property
    def _can_copy(self) -> bool:
        store = self._store
        return (
            bool(self._copies)
            and not store.copying
            and not store.disk_full
            and store.queued_bytes <= LOG_QUEUED_BYTES_MAX
        )

    @property
    def _can_read_out(self) -> bool:
        active = self._active
        return (
            active is not None
            and not active.read
            and active.writer.queued_bytes <= QUEUED_BYTES_MAX
        )

    def step(self, now: int, slice_ns: int) -> None:
        """Do one slice of at most about `slice_ns`."""
        self._take_completions()
        if now >= self._look_at:
            self._look_at = now + self._policy.look_ns
            self._look()
        if self._can_copy:
            self._copy_slice()
        if self._can_read_out:
            self._read_out(self._clock.now_ns() + slice_ns)

    def _take_completions(self) -> None:
        for done in self._snapshots.completions():
            active = self._active
            assert active is not None
            assert (active.group, active.place) == (done.group, done.place)
            self._active = None
            if done.error is not None:
                # The disk refused the file: the log keeps everything, and it is tried again.
                continue
            group = self._groups[done.group]
            group.snapshot_index = done.place.index
            self.snapshots_taken += 1
            self._release(group)

    def _look(self) -> None:
        """Release what became free, start the snapshot that is due, and see who pins the log."""
        if self._policy.retain_ns:
            now = self._clock.now_ns()
            for number, group in self._groups.items():
                self._ages[number].mark(now, group.core.log.last_index, self._policy.retain_ns)
        for group in self._groups.values():
            self._release(group)
        limit = self._pinned_max()
        copied_max = max(1, self._policy.pinned_segments_max) * self._store.segment_bytes
        pinning: list[tuple[int, GroupId]] = []
        stuck = limit
        for number, group in self._groups.items():
            pinned = self._store.pinned_segments(number)
            if self._due(group, pinning=pinned > limit):
                if self._active is None:
                    self._freeze(group)
            elif pinned > limit:
                if group.core.log.bytes > copied_max:
                    stuck = max(stuck, pinned)
                else:
                    pinning.append((pinned, number))
        busy = {copy.group for copy in self._copies}
        if self._active is not None:
            busy.add(self._active.group)
        for pinned, number in pinning:
            if pinned > stuck and number not in busy:
                log = self._groups[number].core.log
                self._copies.append(_Copy(number, Index(log.start.index + 1), log.last_index))

    def _pinned_max(self) -> int:
        """Return how many segments a group may pin now; see the module text."""
        live = sum(group.core.log.bytes for group in self._groups.values())
        segment = self._store.segment_bytes
        needed = 0 if 2 * live < segment else 2 * -(-live // segment)
        return max(self._policy.pinned_segments_max, needed)

    def _due(self, group: GroupRuntime, *, pinning: bool) -> bool:
        """Tell whether a snapshot is worth its bytes now."""
        core, policy = group.core, self._policy
        if not core.durable_index >= group.applied > group.snapshot_index:
            return False
        grown = group.bytes_applied - group.bytes_at_snapshot
        if pinning and core.release_limit > group.snapshot_index:
            given_up = min(grown, core.log.bytes - policy.trailing_bytes)
            if given_up >= max(1, group.machine.state_bytes):
                return True
        return grown >= max(policy.log_bytes_min, group.machine.state_bytes)

    def _copy_slice(self) -> None:
        """Append a slice of the first tail again, from where the last one ended."""
        copy = self._copies[0]
        log = self._groups[copy.group].core.log
        # The log may have been released or cut meanwhile, and grown again: not at the same bounds.
        batch = log.batch_of(max(copy.following, log.start.index + 1))
        if batch is None or batch.base_index > copy.last:
            self._copies.popleft()
            return
        batches = log.batches_from(batch.base_index, COPY_BYTES_MAX)[:COPY_BATCHES_MAX]
        self._store.append_again(copy.group, [batch.base_index for batch in batches])
        copy.following = Index(batches[-1].last_index + 1)

    def _freeze(self, group: GroupRuntime) -> None:
        term = group.core.log.term_at(group.applied)
        assert term is not None
        place = LogStart(Index(group.applied), term)
        group_id = group.core.config.group
        writer = self._snapshots.begin(group_id, place)
        group.bytes_at_snapshot = group.bytes_applied
        self._active = _Active(group_id, place, group.machine.freeze(), writer)

    def _read_out(self, stop_at: int) -> None:
        active = self._active
        assert active is not None
        while active.writer.queued_bytes <= QUEUED_BYTES_MAX:
            chunk = active.frozen.next_chunk(CHUNK_BYTES)
            if chunk is None:
                active.frozen.close()
                active.read = True
                active.writer.finish()
                return
            active.writer.write(chunk)
            if self._clock.now_ns() >= stop_at:
                return

    def _release(self, group: GroupRuntime) -> None:
        """Release the log up to a batch end that neither we nor, as known, any voter needs."""
        core = group.core
        limit = min(group.snapshot_index, core.release_limit)
        if limit <= core.log.start.index:
            return
        policy = self._policy
        index = core.log.end_with_bytes_behind(limit, policy.trailing_bytes)
        if policy.retain_ns:
            index = min(index, self._old_enough(group, limit))
        if index > core.log.start.index:
            term = core.log.term_at(index)
            assert term is not None
            core.compact(index)
            self._store.release(core.config.group, index, term)

    def _old_enough(self, group: GroupRuntime, limit: Index) -> Index:
        """Return the batch end up to which the group's log is old, or too much for its age."""
        log, policy = group.core.log, self._policy
        kept_max = max(policy.retain_bytes_max, policy.trailing_bytes)
        floor = log.end_with_bytes_behind(limit, kept_max)
        moment = self._clock.now_ns() - policy.retain_ns
        index = self._ages[group.core.config.group].older_than(moment)
        if index >= log.last_index:
            return limit
        young = log.batch_of(index + 1)
        aged = log.start.index if young is None else Index(young.base_index - 1)
        return max(floor, aged)
