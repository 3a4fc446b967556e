"""Puts the groups of one node together over given ports: the same in a process and a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from node.codec import noop_builder
from node.compaction import CompactionPolicy, CompactionPorts, Compactor
from node.compression import BatchCompression
from node.kv.machine import KeyValueMachine
from node.multiraft import MultiRaft
from node.ports import Clock, LogStore, ReplySink, StoredGroup, Transport
from node.raft.core import Core
from node.raft.log_view import LogView
from node.raft.types import NO_NODE, CoreConfig, GroupId, HardState, Index, LogStart, NodeId
from node.runtime import GroupRuntime
from node.snapshots import SnapshotError, SnapshotStore
from wal.compression import Codec

__all__ = ["Member", "Ports", "assemble"]

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """Which node of which voters this is, and its timers (ms). Groups are 0 to `groups` - 1."""

    node: NodeId
    voters: tuple[NodeId, ...]
    seed: int
    groups: int = 1
    heartbeat_ms: int = 50
    election_ms_min: int = 150
    election_ms_max: int = 300
    compaction: CompactionPolicy = field(default_factory=CompactionPolicy)
    compression: Codec = Codec.NONE

    def core_config(self, group: GroupId) -> CoreConfig:
        """Return the configuration of one group's core.

        Of several groups each prefers another node, by turns: that spreads the leaders.
        """
        voters = sorted(self.voters)
        ranks = len(voters) if self.groups > 1 else 1
        return CoreConfig(
            group=group,
            node=self.node,
            voters=self.voters,
            seed=self.seed + group,
            rank=(voters.index(self.node) - group) % ranks,
            ranks=ranks,
            preferred=voters[group % ranks] if ranks > 1 else NO_NODE,
            heartbeat_ns=self.heartbeat_ms * _NS_PER_MS,
            election_ns_min=self.election_ms_min * _NS_PER_MS,
            election_ns_max=self.election_ms_max * _NS_PER_MS,
        )


@dataclass(frozen=True, slots=True)
class Ports:
    """The world as the node sees it."""

    clock: Clock
    transport: Transport
    store: LogStore
    replies: ReplySink
    snapshots: SnapshotStore | None = None
    """None: the logs are never released."""


def assemble(member: Member, stored: Mapping[GroupId, StoredGroup], ports: Ports) -> MultiRaft:
    """Build every group from what recovery found; nothing is applied and no message sent yet."""
    now = ports.clock.now_ns()
    contacts: dict[NodeId, int] = {}
    groups: dict[GroupId, GroupRuntime] = {}
    compression = BatchCompression(member.compression, ports.clock.now_ns)
    for number in range(member.groups):
        group = GroupId(number)
        found = stored.get(group, StoredGroup(group, HardState(), LogStart(), ()))
        log = LogView(found.start, found.batches)
        noop = noop_builder(group)
        config = member.core_config(group)
        core = Core(config, found.hard_state, log, noop, now, contacts=contacts)
        place, machine = _restored(group, found.start, ports.snapshots)
        groups[group] = GroupRuntime(core, machine, ports.store, ports.replies)
        groups[group].compression = compression
        if place > found.start.index:
            groups[group].restored(place)
    node = MultiRaft(groups, ports.store, ports.transport, ports.clock, contacts)
    node.compression = compression
    if ports.snapshots is not None:
        needs = CompactionPorts(ports.store, ports.snapshots, ports.clock)
        node.compactor = Compactor(node.groups, needs, member.compaction)
    return node


def _restored(
    group: GroupId, start: LogStart, snapshots: SnapshotStore | None
) -> tuple[Index, KeyValueMachine]:
    """Return the state of the newest snapshot and its index; an empty machine without one.

    Raises SnapshotError where the log relies on a snapshot that is missing or damaged.
    """
    loaded = None if snapshots is None else snapshots.newest(group, start.index)
    if loaded is None:
        return start.index, KeyValueMachine()
    try:
        return loaded.place.index, KeyValueMachine.restore(loaded.chunks)
    except ValueError as error:
        raise SnapshotError(loaded.path, str(error)) from None
