"""The main thread of a node process: sockets, the poll loop, turns, and a clean stop.

One `Waiter` waits for the four lanes, the peers' monitors, the WAL thread's wake-up and the
lifeline. After any wake-up every inbox that has something is drained before a timer is judged.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import zmq

from node.admin import AdminError, AdminLane, Reply, encode_reply
from node.assembly import Member, Ports, assemble
from node.clients import ClientLane
from node.codec import Sender
from node.compaction import CompactionPolicy
from node.config import LANES, Lane, NodeConfig, lane_path
from node.console import say
from node.exits import NodeExit, StartError
from node.faults import DiskFaults, FaultError
from node.limits import (
    APPLY_SLICE_NS,
    DISK_FULL_RETRY_NS,
    FORGET_JITTER_NS,
    PEER_FRAME_BYTES_MAX,
)
from node.page import PageWriter
from node.raft.state import FOREVER
from node.raft.types import NodeId
from node.snapshots import OperationThread, SnapshotStore
from node.status import StatusSource, group_row, row_key, snapshot
from node.status_wire import RowTable, encode_status
from node.store import WalStore, stored_groups
from node.transport import PEER_LANES, PeerTransport, bind_router
from node.waiter import Waiter
from wal import Log, LogIdentity, Recovered, SegmentIO
from wal.compression import CODECS

if TYPE_CHECKING:
    Socket = zmq.Socket[bytes]
else:
    Socket = zmq.Socket

__all__ = ["MonotonicClock", "NodeProcess", "Wake"]

_NS_PER_MS: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000
SNAPSHOT_DIRECTORY: Final = "snap"
SNAPSHOT_SEGMENTS: Final = 3
"""Segments of log between two snapshots: one of a 64 MiB state then adds a third to what is written,
and not as much again."""
_WAIT_S_MAX: Final = 1.0
_TELL_NS: Final = 1_000_000_000
_LANE_NAMES: Final = frozenset(LANES)
_STOP_REPLY_MS: Final = 100
"""How long the answer to `stop` may take to leave."""


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """See `node.ports.Clock`."""
        return time.monotonic_ns()


class Wake:
    """A pipe by which the WAL thread and signal handlers wake the poll loop."""

    def __init__(self) -> None:
        """Open a non-blocking pipe."""
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)

    def __call__(self) -> None:
        """Wake the loop; a full pipe is awake already."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write_fd, b"\0")

    def drain(self) -> None:
        """Forget the wake-ups so far."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self.fd, 4096)) == 4096:
                pass

    def close(self) -> None:
        """Close both ends."""
        os.close(self.fd)
        os.close(self._write_fd)


@dataclass(frozen=True, slots=True)
class Start:
    """What a node process is started with, beside its configuration."""

    incarnation: int
    lifeline_fd: int | None
    parent_pid: int | None
    disk: DiskFaults
    recovery_ns: int = 0
    page: PageWriter | None = None


class NodeProcess:
    """One node: everything that lives as long as the process does."""

    def __init__(
        self, config: NodeConfig, start: Start, opened: tuple[Log, Recovered], wake: Wake
    ) -> None:
        """Bind the lanes and assemble the groups over an opened log."""
        self._config = config
        self._start = start
        self._clock = MonotonicClock()
        self._started_ns = self._clock.now_ns()
        self._wake = wake
        self._stopping = False
        log, recovered = opened
        self._recovered = recovered
        self._store = WalStore(log, recovered, wake)
        self._retry_at = 0
        self._tell_at = 0
        self._stalls_told = 0
        self._status_rows = RowTable(row_key, partial(group_row, started_ns=self._started_ns))
        self._context: zmq.Context[Any] = zmq.Context()
        self._lanes: dict[Lane, Socket] = {}
        with contextlib.ExitStack() as opening:  # what fails half-way leaves nothing open
            opening.callback(self._context.term)
            for lane in LANES:
                self._lanes[lane] = self._bind(lane)
                opening.callback(self._unbind, lane)
            self._transport = self._make_transport()
            opening.callback(self._transport.close)
            self._connect_peers()
            self._clients = ClientLane(self._lanes["client"], config.cluster_id_bytes)
            verbs = {"status": self._status, "stop": self._stop, "fault": self._fault}
            self._admin = AdminLane(self._lanes["admin"], verbs)
            snapshots = self._open_snapshots(opening)
            self._node = assemble(
                _member(config),
                stored_groups(recovered),
                Ports(self._clock, self._transport, self._store, self._clients, snapshots),
            )
            self._waiter = self._make_waiter()
            opening.callback(self._waiter.close)
            self._open = opening.pop_all()

    def request_stop(self) -> None:
        """Ask for a clean stop; safe in a signal handler."""
        self._stopping = True
        self._wake()

    def run(self) -> NodeExit:
        """Run turns until a stop is asked for or the log fails; return the exit code."""
        while not self._stopping:
            ready = self._wait()
            now = self._clock.now_ns()
            if now >= self._node.next_deadline:
                ready |= _LANE_NAMES  # what has come meanwhile is seen before a timer is judged
            messages = self._transport.receive(ready & PEER_LANES)
            replied = self._clients.sends
            if "client" in ready:
                self._clients.receive(self._node)
            if "admin" in ready:
                self._admin.handle_ready()
            self._node.turn(self._clock.now_ns(), messages, APPLY_SLICE_NS)
            self._waiter.touched(ready & _LANE_NAMES)
            if self._clients.sends != replied:
                self._waiter.touched(("client",))
            self._tell_stalls(now)
            if now >= self._page_due():
                self._write_page()
            if self._store.failure is not None:
                raise self._store.failure
            if self._store.disk_full and now >= self._retry_at:
                self._retry_at = now + DISK_FULL_RETRY_NS
                self._store.log.retry()
        return NodeExit.CLEAN

    def close(self) -> None:
        """Close every socket and remove the lanes' files; the log stays the caller's."""
        self._open.close()

    def log_failure(self) -> Exception | None:
        """Return what the log failed with, also if it was while it was being closed."""
        self._store.completions()
        return self._store.failure

    # ---- the loop --------------------------------------------------------------------------

    def _wait(self) -> set[str]:
        """Wait until something arrives or is due; return which lanes may have something.

        Monitors, wake-ups and the lifeline are read here.
        """
        timeout_s = 0.0
        if not self._node.has_backlog:
            due = min(self._node.next_deadline, self._page_due())
            left = due - self._clock.now_ns()
            timeout_s = min(_WAIT_S_MAX, max(0.0, left / 1e9))
        ready = self._waiter.wait(timeout_s)
        if "wake" in ready:
            self._wake.drain()
        if "lifeline" in ready:
            # Nobody writes to the lifeline: readable means end of file.
            self._stopping = True
        for monitor, peer in self._transport.monitors.items():
            if _monitor_name(peer) in ready and self._transport.lost_peer(monitor) is not None:
                self._node.peer_lost(peer, self._clock.now_ns(), FORGET_JITTER_NS)
        return ready

    def _tell_stalls(self, now: int) -> None:
        """Write a line about turns that were late or long, at most one a second."""
        stalls = self._node.pulse.stalls
        if stalls.count == self._stalls_told or now < self._tell_at:
            return
        self._tell_at = now + _TELL_NS
        timeout_ms = self._node.pulse.timeouts.low / 1e6
        say(
            f"stalled for {stalls.last_ns / 1e6:.0f} ms: a turn was late, or long (stall"
            f" {stalls.count} of this life; the election timeout begins at {timeout_ms:.0f} ms)"
        )
        self._stalls_told = stalls.count

    def _make_waiter(self) -> Waiter:
        waiter = Waiter()
        for lane, socket in self._lanes.items():
            waiter.add_socket(lane, socket)
        for monitor, peer in self._transport.monitors.items():
            waiter.add_socket(_monitor_name(peer), monitor)
        waiter.add_file("wake", self._wake.fd)
        if self._start.lifeline_fd is not None:
            waiter.add_file("lifeline", self._start.lifeline_fd)
        return waiter

    def _bind(self, lane: Lane) -> Socket:
        path = lane_path(self._config.run_dir, self._config.node, lane)
        try:
            # A socket file that a killed predecessor left would refuse the bind on some systems.
            path.unlink(missing_ok=True)
            return bind_router(self._context, f"ipc://{path}", PEER_FRAME_BYTES_MAX)
        except (OSError, zmq.ZMQError) as error:
            raise StartError(
                NodeExit.DATA_DIR_UNUSABLE,
                f"{path}: cannot bind the {lane} lane ({error.strerror}); check the run directory",
            ) from None

    def _unbind(self, lane: Lane) -> None:
        self._lanes[lane].close(_STOP_REPLY_MS if lane == "admin" else 0)
        with contextlib.suppress(OSError):  # gone already, or left: the next bind replaces it
            lane_path(self._config.run_dir, self._config.node, lane).unlink()

    def _make_transport(self) -> PeerTransport:
        config = self._config
        me = Sender(config.cluster_id_bytes, NodeId(config.node), self._start.incarnation)
        routers = {"control": self._lanes["control"], "data": self._lanes["data"]}
        return PeerTransport(self._context, me, routers)

    def _connect_peers(self) -> None:
        config = self._config
        try:
            for voter in config.voters:
                if voter != config.node:
                    control = config.endpoint("control", voter)
                    self._transport.connect(NodeId(voter), control, config.endpoint("data", voter))
        except zmq.ZMQError as error:
            raise StartError(
                NodeExit.DATA_DIR_UNUSABLE,
                f"{config.run_dir}: cannot connect to a peer's socket there ({error.strerror});"
                " check the run directory",
            ) from None

    def _open_snapshots(self, opening: contextlib.ExitStack) -> SnapshotStore:
        config, filesystem = self._config, self._start.disk.filesystem
        directory = str(config.data_dir / SNAPSHOT_DIRECTORY)
        filesystem.mkdirs(directory)
        thread = OperationThread(SegmentIO(filesystem, directory))
        opening.callback(thread.close)
        identity = LogIdentity(config.cluster_id_bytes, config.node)
        return SnapshotStore(filesystem, directory, identity, thread, self._wake)

    # ---- admin verbs -----------------------------------------------------------------------

    def _status(self, args: Mapping[str, Any]) -> dict[str, Any]:
        source = StatusSource(
            config=self._config,
            incarnation=self._start.incarnation,
            uptime_ns=self._clock.now_ns() - self._started_ns,
            recovered=self._recovered,
            recovery_ns=self._start.recovery_ns,
            started_ns=self._started_ns,
            disk=self._start.disk.state(),
        )
        lanes = (self._transport, self._clients, self._admin)
        now = self._clock.now_ns()
        own = snapshot(source, self._node, self._store, lanes, now=now)
        groups = self._node.groups.values()
        if "since" not in args:
            rows = tuple(group_row(group, now, self._started_ns) for group in groups)
            return replace(own, groups=rows).encode()
        self._status_rows.look(groups, now)
        return encode_status(own, self._status_rows, args["since"])

    def _fault(self, args: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._start.disk.apply(args, self._store.log)
        except FaultError as error:
            raise AdminError(str(error)) from None

    def _page_due(self) -> int:
        return FOREVER if self._start.page is None else self._start.page.next_ns

    def _write_page(self) -> None:
        assert self._start.page is not None

        def make(since: int) -> bytes:
            return encode_reply(Reply(0, True, self._status({"since": since})))

        self._start.page.write(make, self._clock.now_ns())

    def _stop(self, _: object) -> str:
        self._stopping = True
        return "stopping"


def _monitor_name(peer: NodeId) -> str:
    return f"monitor {peer}"


def _member(config: NodeConfig) -> Member:
    return Member(
        node=NodeId(config.node),
        voters=tuple(NodeId(voter) for voter in config.voters),
        seed=config.seed,
        groups=config.groups,
        heartbeat_ms=config.heartbeat_ms,
        election_ms_min=config.election_ms_min,
        election_ms_max=config.election_ms_max,
        compaction=CompactionPolicy(
            SNAPSHOT_SEGMENTS * config.wal.segment_bytes,
            config.retain_bytes or config.wal.segment_bytes,
            retain_ns=config.retain_s * _NS_PER_S,
        ),
        compression=CODECS[config.compression],
    )
