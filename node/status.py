"""What a node says of itself: gathers a `NodeSnapshot` from the parts that count."""

from __future__ import annotations

import os
from dataclasses import dataclass

from node.admin import AdminLane
from node.clients import ClientLane
from node.config import NodeConfig
from node.metrics import (
    GroupSnapshot,
    LaneSnapshot,
    NodeSnapshot,
    PeerSnapshot,
    TrafficSnapshot,
    WalSnapshot,
)
from node.multiraft import MultiRaft
from node.runtime import GroupRuntime
from node.store import WalStore
from node.transport import PeerTransport
from wal import Recovered

__all__ = ["StatusSource", "snapshot"]


@dataclass(frozen=True, slots=True)
class StatusSource:
    """Facts that no part counts itself."""

    config: NodeConfig
    incarnation: int
    uptime_ns: int
    recovered: Recovered


def snapshot(
    source: StatusSource,
    node: MultiRaft,
    store: WalStore,
    lanes: tuple[PeerTransport, ClientLane, AdminLane],
) -> NodeSnapshot:
    """Return the node's state at this moment; main thread."""
    return NodeSnapshot(
        node=source.config.node,
        incarnation=source.incarnation,
        pid=os.getpid(),
        uptime_ns=source.uptime_ns,
        groups=tuple(_group(group) for group in node.groups.values()),
        wal=_wal(store, source.recovered),
        traffic=_traffic(node, *lanes),
        loop_lag_p99_ns=node.pulse.stalls.lag_p99_ns,
        election_timeout_ns=node.pulse.timeouts.low,
        stalls=node.pulse.stalls.count,
        stall_longest_ns=node.pulse.stalls.longest_ns,
    )


def _group(group: GroupRuntime) -> GroupSnapshot:
    core = group.core
    peers = tuple(
        PeerSnapshot(peer, progress.match, progress.next, progress.state.value)
        for peer, progress in core.progress.items()
    )
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
        peers=peers,
    )


def _wal(store: WalStore, recovered: Recovered) -> WalSnapshot:
    stats = store.log.stats()
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
        torn_tail_bytes=recovered.torn.bytes if recovered.torn else 0,
        recycled=stats.segments_recycled,
        released=stats.segments_released,
        bytes_copied=stats.bytes_copied,
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
