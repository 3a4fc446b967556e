"""Puts the groups of one node together over given ports: the same in a process and a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from node.codec import noop_builder
from node.kv.machine import KeyValueMachine
from node.multiraft import MultiRaft
from node.ports import Clock, LogStore, ReplySink, StoredGroup, Transport
from node.raft.core import Core
from node.raft.log_view import LogView
from node.raft.types import CoreConfig, GroupId, HardState, LogStart, NodeId
from node.runtime import GroupRuntime

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

    def core_config(self, group: GroupId) -> CoreConfig:
        """Return the configuration of one group's core."""
        return CoreConfig(
            group=group,
            node=self.node,
            voters=self.voters,
            seed=self.seed + group,
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


def assemble(member: Member, stored: Mapping[GroupId, StoredGroup], ports: Ports) -> MultiRaft:
    """Build every group from what recovery found; nothing is applied and no message sent yet."""
    now = ports.clock.now_ns()
    groups: dict[GroupId, GroupRuntime] = {}
    for number in range(member.groups):
        group = GroupId(number)
        found = stored.get(group, StoredGroup(group, HardState(), LogStart(), ()))
        log = LogView(found.start, found.batches)
        core = Core(member.core_config(group), found.hard_state, log, noop_builder(group), now)
        groups[group] = GroupRuntime(core, KeyValueMachine(), ports.store, ports.replies)
    return MultiRaft(groups, ports.store, ports.transport, ports.clock)
