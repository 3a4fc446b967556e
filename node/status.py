"""What a node says of itself: gathers a `NodeSnapshot` from the parts that count. Main thread."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from node.admin import AdminLane
from node.clients import ClientLane
from node.compression import BatchCompression
from node.config import NodeConfig
from node.faults import DiskState
from node.metrics import (
    CompressionSnapshot,
    GroupSnapshot,
    LaneSnapshot,
    LinkSnapshot,
    NodeSnapshot,
    PeerSnapshot,
    TrafficSnapshot,
    WalSnapshot,
)
from node.multiraft import MultiRaft
from node.pulse import Pulse
from node.raft.types import Role
from node.runtime import GroupRuntime
from node.store import WalStore
from node.transport import PeerTransport
from wal import Recovered

__all__ = ["RUNS_MAX", "StatusSource", "group_row", "links", "row_key", "snapshot", "wal_snapshot"]

RUNS_MAX: Final = 16
"""Runs of terms that a snapshot tells: 16 elections back."""


@dataclass(frozen=True, slots=True)
class StatusSource:
    """Facts that no part counts itself."""

    config: NodeConfig
    incarnation: int
    uptime_ns: int
    recovered: Recovered
    recovery_ns: int = 0
    started_ns: int = 0
    disk: DiskState = field(default_factory=DiskState)


def snapshot(
    source: StatusSource,
    node: MultiRaft,
    store: WalStore,
    lanes: tuple[PeerTransport, ClientLane, AdminLane],
    *,
    now: int,
) -> NodeSnapshot:
    """Return the node's state at `now`, but for its groups: those are `group_row`'s."""
    pulse = node.pulse
    return NodeSnapshot(
        node=source.config.node,
        incarnation=source.incarnation,
        pid=os.getpid(),
        uptime_ns=source.uptime_ns,
        wal=wal_snapshot(store, source),
        traffic=_traffic(node, *lanes),
        loop_lag_p99_ns=pulse.stalls.lag_p99_ns,
        election_timeout_ns=pulse.timeouts.low,
        stalls=pulse.stalls.count,
        stall_longest_ns=pulse.stalls.longest_ns,
        links=links(pulse, now),
        compression=_compression(node.compression),
    )


def links(pulse: Pulse, now: int) -> tuple[LinkSnapshot, ...]:
    """Return what is known of the connection to each peer."""
    return tuple(
        LinkSnapshot(
            peer,
            max(0, now - pulse.contacts[peer]) if peer in pulse.contacts else -1,
            pulse.round_trips.get(peer, -1),
        )
        for peer in pulse.peers
    )


def row_key(group: GroupRuntime) -> tuple[int, ...] | None:
    """Return what tells that a resting group is as it was; None for one that is awake."""
    core = group.core
    if not core.resting:
        return None
    log = core.log
    return (core.term, core.leader, log.last_index, core.commit, group.applied, log.start.index)


def group_row(group: GroupRuntime, now: int, started_ns: int = 0) -> GroupSnapshot:
    """Return one group's state at `now`, of a process that started at `started_ns`."""
    core = group.core
    leads = core.role is Role.LEADER
    return GroupSnapshot(
        group=core.config.group,
        role=core.role.value,
        term=core.term,
        vote=core.vote,
        leader=core.leader,
        last=core.log.last_index,
        commit=core.commit,
        applied=group.applied,
        durable=core.durable_index,
        elections=core.elections_started,
        resting=core.resting,
        shared_stalls=core.shared_stalls,
        start=core.log.start.index,
        timer_ns=-1 if core.resting else max(0, core.next_deadline - now),
        votes=core.votes,
        log=core.log.newest_runs(RUNS_MAX),
        led_at_ns=core.led_since - started_ns if leads else -1,
        peers=tuple(
            PeerSnapshot(peer, progress.match, progress.next, progress.state.value)
            for peer, progress in core.progress.items()
        ),
    )


def wal_snapshot(store: WalStore, source: StatusSource | None = None) -> WalSnapshot:
    """Return the state of a log, and what its recovery found, if that is known."""
    stats = store.log.stats()
    recovered = source.recovered if source is not None else None
    torn = recovered.torn if recovered is not None else None
    disk = source.disk if source is not None else DiskState()
    started_ns = source.started_ns if source is not None else 0
    return WalSnapshot(
        fsyncs=stats.syncs,
        entries=stats.entries,
        bytes_written=stats.bytes_written,
        fsync_p50_ns=stats.sync_p50_ns,
        fsync_p99_ns=stats.sync_p99_ns,
        queued_bytes=stats.queued_bytes,
        segments=stats.segments,
        spares=stats.spares,
        disk_full=store.disk_full,
        torn_tail_bytes=torn.bytes if torn else 0,
        recycled=stats.segments_recycled,
        released=stats.segments_released,
        bytes_copied=stats.bytes_copied,
        head_position=stats.head,
        durable_position=stats.durable,
        sync_entries=stats.sync_entries,
        sync_latency_us=stats.sync_latency_us,
        recovered_frames=recovered.frames if recovered is not None else 0,
        recovery_ns=source.recovery_ns if source is not None else 0,
        faults=disk.standing,
        fault_bites=disk.bites,
        fault_bit_ns=-1 if disk.bit_ns < 0 else disk.bit_ns - started_ns,
        unsynced_bytes=disk.unsynced,
    )


def _compression(part: BatchCompression) -> CompressionSnapshot:
    return CompressionSnapshot(
        codec=part.codec.name.lower(),
        batches=part.batches,
        skipped=part.skipped,
        bytes_in=part.bytes_in,
        bytes_out=part.bytes_out,
        compress_ns=part.compress_ns,
        decompress_ns=part.decompress_ns,
    )


def _traffic(
    node: MultiRaft, peers: PeerTransport, clients: ClientLane, admin: AdminLane
) -> TrafficSnapshot:
    counters = peers.counters
    control, data = counters.control_rejected, counters.data_rejected
    lanes = (
        LaneSnapshot(
            "control",
            counters.control_bytes_in,
            counters.control_bytes_out,
            counters.control_frames_in,
            counters.control_frames_out,
            malformed=control.malformed,
            foreign=control.foreign,
            stale=control.stale + control.replayed,
        ),
        LaneSnapshot(
            "data",
            counters.data_bytes_in,
            counters.data_bytes_out,
            counters.data_frames_in,
            counters.data_frames_out,
            malformed=data.malformed,
            foreign=data.foreign,
            stale=data.stale + data.replayed,
        ),
        LaneSnapshot(
            "client",
            clients.bytes_in,
            clients.bytes_out,
            clients.frames_in,
            clients.frames_out,
            malformed=clients.malformed,
            foreign=clients.foreign,
            refused=clients.refused,
        ),
        LaneSnapshot(
            "admin",
            admin.bytes_in,
            admin.bytes_out,
            admin.frames_in,
            admin.frames_out,
            malformed=admin.malformed,
            refused=admin.refused,
        ),
    )
    return TrafficSnapshot(
        lanes=lanes,
        dropped=counters.dropped + clients.dropped + admin.dropped + node.dropped,
        malformed=counters.malformed + clients.malformed + admin.malformed,
        foreign=counters.foreign + counters.stale + clients.foreign,
        client_requests=clients.requests,
        acks=sum(group.entries_acked for group in node.groups.values()),
    )
