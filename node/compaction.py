"""When a group is snapshotted, and how far its log may be released. One snapshot at a time.

Theory of operation
-------------------
A group is due when the log has grown by `log_bytes_min`, or by the size of its state if that is more:
so a snapshot at most doubles what is written. The machine is frozen at `applied`, which is a batch
end and must be durable here (after a crash the log must reach the snapshot); its chunks are read
out in slices between turns, and the file is written and synced in the background. Only then the
log releases its prefix, and never beyond

* what the leader says that some voter still needs (`Core.release_limit`, bounded by
  `CoreConfig.hold_bytes_max`), nor
* `trailing_bytes` before the snapshot, so that a voter that blinks finds its entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from node.ports import Clock, FrozenState, LogStore, Snapshots, SnapshotSink
from node.raft.types import GroupId, Index, LogStart
from node.runtime import GroupRuntime

__all__ = ["CompactionPolicy", "CompactionPorts", "Compactor"]

CHUNK_BYTES: Final = 256 << 10
"""About 250 entries of 1 KiB, 0.3 ms: well within a slice."""
QUEUED_BYTES_MAX: Final = 8 << 20
"""What may wait for the snapshot's file: beyond it the reading waits, not the memory."""
LOOK_NS: Final = 200_000_000
"""How often groups are looked at: a segment at 1 GB/s takes 64 ms, a few may pass."""


@dataclass(frozen=True, slots=True)
class CompactionPolicy:
    """Bytes: `log_bytes_min` between two snapshots of a group, `trailing_bytes` kept before one."""

    log_bytes_min: int = 64 << 20
    trailing_bytes: int = 64 << 20


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
        self._look_at = 0

    @property
    def busy(self) -> bool:
        """Whether another slice could be read out at once."""
        active = self._active
        return (
            active is not None
            and not active.read
            and active.writer.queued_bytes <= QUEUED_BYTES_MAX
        )

    def step(self, now: int, slice_ns: int) -> None:
        """Do one slice of at most about `slice_ns`."""
        self._take_completions()
        if self._active is None and now >= self._look_at:
            self._look_at = now + LOOK_NS
            self._look()
        if self.busy:
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
        """Start the snapshot that is due, and release what became free."""
        for group in self._groups.values():
            self._release(group)
            if self._active is None and self._due(group):
                self._freeze(group)

    def _due(self, group: GroupRuntime) -> bool:
        grown = group.bytes_applied - group.bytes_at_snapshot
        if grown < max(self._policy.log_bytes_min, group.machine.state_bytes):
            return False
        return group.core.durable_index >= group.applied > group.snapshot_index

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
        index = core.log.end_with_bytes_behind(limit, self._policy.trailing_bytes)
        if index > core.log.start.index:
            term = core.log.term_at(index)
            assert term is not None
            core.compact(index)
            self._store.release(core.config.group, index, term)
