"""One simulated node: the composition of a real process, over simulated ports.

`boot` opens a real `Log` over the node's disk and calls `node.assembly.assemble`; turns run when
something arrived, became durable or is due, after a small delay. Nothing of the product is replaced
but the ports: clock, transport, replies, and the filesystem and driver under the log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cluster.sim.disk import PowerCut, SimDisk
from cluster.sim.driver import HeapDriver, HeapOperations
from cluster.sim.heap import EventHeap
from cluster.sim.network import Network
from cluster.sim.plan import MS, Plan
from cluster.sim.rng import Stream
from node import identity
from node.assembly import Member, Ports, assemble
from node.client_wire import WriteRequest, decode_request
from node.codec import Sender, WireError, decode_peer_frame, encode_append, encode_control
from node.exits import StartError
from node.identity import IDENTITY_FILE, Identity, encode_identity
from node.limits import DISK_FULL_RETRY_NS, FORGET_JITTER_NS
from node.multiraft import MultiRaft
from node.ports import FrozenState, Outcome, Outcomes, StateMachine, StoredGroup
from node.raft.messages import Append, Message
from node.raft.types import BatchMeta, Buffer, GroupId, NodeId
from node.snapshots import SnapshotStore
from node.store import WalStore, stored_groups
from wal import (
    AppendHandle,
    JobRunner,
    Log,
    LogIdentity,
    OpenOptions,
    Recovered,
    SegmentIO,
)
from wal.driver import OnComplete
from wal.errors import CorruptLogError, IdentityMismatchError, WalError

__all__ = [
    "CLUSTER_ID",
    "LOG_DIRECTORY",
    "SNAPSHOT_DIRECTORY",
    "Assemble",
    "NodeWorld",
    "SimClock",
    "SimNode",
    "client_identity",
]

CLUSTER_ID = b"raftdeck-sim-01!"
LOG_DIRECTORY = "wal"
SNAPSHOT_DIRECTORY = "snap"
_COUNTED = "INCARNATION"
_CLIENT_BYTES = 4

Assemble = Callable[[Member, Mapping[GroupId, StoredGroup], Ports], MultiRaft]


class NodeWorld(Protocol):
    """What a node needs of the world around it."""

    heap: EventHeap
    network: Network
    plan: Plan

    def submitted(self, node: NodeId, handle: AppendHandle) -> None:
        """Take the news that a handle's records were queued in a node's log."""

    def synced(self, node: NodeId, count: int) -> None:
        """Take the news that a node's oldest queued records are durable."""

    def stopped(self, node: SimNode) -> None:
        """Look at a node whose process ends now."""

    def started(self, node: SimNode) -> None:
        """Look at a node that has just been assembled."""

    def turned(self, node: SimNode, messages: Sequence[Message], requests: int) -> None:
        """Look at a node after its turn over these messages, and so many client requests."""

    def sending(self, message: Message) -> None:
        """Look at a message that leaves now."""

    def applied(
        self,
        place: tuple[NodeId, GroupId],
        meta: BatchMeta,
        body: Buffer,
        outcome: Sequence[Outcome],
    ) -> None:
        """Look at what one batch did to one replica."""

    def died(self, node: SimNode, reason: str) -> None:
        """Take the news that a node's process has ended by itself."""

    def refused(self, node: SimNode, error: Exception) -> None:
        """Take the news that a node refuses what it finds on its disk; without a cause it is a bug."""

    def found_damage(self, node: SimNode, error: Exception) -> None:
        """Take the news that a running node met damage on its disk, and ends."""


class SimClock:
    """A node's own monotonic clock: from an origin of its own, at a rate that a fault may change."""

    __slots__ = ("_heap", "_rate", "_since", "_start")

    def __init__(self, heap: EventHeap, offset: int) -> None:
        """Run at the rate of virtual time."""
        self._heap = heap
        self._since = heap.now
        self._start = heap.now + offset
        self._rate = 1000

    def now_ns(self) -> int:
        """See `node.ports.Clock`."""
        return self._start + (self._heap.now - self._since) * self._rate // 1000

    def due_at(self, local_ns: int) -> int:
        """Return the virtual time at which this clock shows `local_ns`, or more."""
        return self._since - (self._start - local_ns) * 1000 // self._rate

    def run_at(self, rate: int) -> None:
        """Go on at `rate` permille of virtual time."""
        self._start, self._since, self._rate = self.now_ns(), self._heap.now, rate

    def jump(self, by_ns: int) -> None:
        """Show `by_ns` more from now on, as after a machine's sleep."""
        self._start += by_ns


@dataclass(frozen=True, slots=True)
class _Observed:
    """A state machine that is watched: what it is given, and what comes out."""

    machine: StateMachine
    world: NodeWorld
    place: tuple[NodeId, GroupId]

    def apply(self, meta: BatchMeta, leader_time_ms: int, body: Buffer) -> Outcomes:
        outcomes = self.machine.apply(meta, leader_time_ms, body)
        self.world.applied(self.place, meta, body, outcomes)
        return outcomes

    def query_all(self, queries: Sequence[object]) -> list[object]:
        return self.machine.query_all(queries)

    def freeze(self) -> FrozenState:
        return self.machine.freeze()

    @property
    def state_bytes(self) -> int:
        return self.machine.state_bytes

    @property
    def leader_time_ms(self) -> int:
        return self.machine.leader_time_ms


class SimNode:
    """A node that can be killed, cut off from power, stopped, and started again."""

    def __init__(self, world: NodeWorld, number: int, build: Assemble = assemble) -> None:
        """Make a node that is down, and whose directory was prepared by a launcher."""
        self.node = NodeId(number)
        self.disk = SimDisk()
        self._identity = Identity(CLUSTER_ID.hex(), number)
        self._directory = Path(f"n{number}")
        self.disk.kept[IDENTITY_FILE] = encode_identity(self._identity)
        self.out = ""
        """Why the node refuses to start from what it found; empty if it does not."""
        self.times = replace(world.plan.disk)
        self.up = False
        self.paused = False
        self.incarnation = 0
        self.turns = 0
        self.malformed = 0
        """Frames that were not understood, over all lives."""
        self.tore = False
        """Whether the newest start cut a torn tail."""
        self.trap: Callable[[], None] | None = None
        """Called once, in the middle of the next write: between cache and disk."""
        self._world = world
        self._build = build
        self._heap = world.heap
        self._stream = Stream(world.plan.seed, "node", number)
        self._torn = Stream(world.plan.seed, "torn", number)
        self.clock = SimClock(world.heap, self._stream.below(10_000 * MS))
        self._messages: list[object] = []
        self._requests: list[tuple[bytes, Sequence[Buffer]]] = []
        self._turn_at: int | None = None
        self._turn_waits = False
        self._timer_at: int | None = None
        self._retry_at = 0
        self._multi: MultiRaft | None = None
        self._store: WalStore | None = None
        self._driver: HeapDriver | None = None
        self._operations: HeapOperations | None = None
        self._sender = Sender(CLUSTER_ID, self.node, 1)

    @property
    def multi(self) -> MultiRaft:
        """The node's groups; only while it is up."""
        assert self._multi is not None, "the node is down"
        return self._multi

    @property
    def store(self) -> WalStore:
        """The node's log store; only while it is up."""
        assert self._store is not None, "the node is down"
        return self._store

    @property
    def snapshotting(self) -> bool:
        """Whether a snapshot is being written or removed."""
        return self._operations is not None and self._operations.busy

    def machine(self, group: GroupId) -> StateMachine:
        """Return a group's state machine itself."""
        observed = self.multi.groups[group].machine
        assert isinstance(observed, _Observed)
        return observed.machine

    # ---- life ----------------------------------------------------------------------------

    def boot(self, fuse: int | None = None) -> bool:
        """Recover and start; False if the disk failed, power did after `fuse` operations, or `out`."""
        assert not self.up
        plan = self._world.plan
        self.incarnation += 1
        self._sender = Sender(CLUSTER_ID, self.node, self.incarnation)
        self.disk.fuse = fuse
        kept = self.disk.kept
        begun = _COUNTED in kept
        options = OpenOptions(plan.policy, self._make_driver, self._draw_uid, begun=begun)
        try:
            text = kept.get(IDENTITY_FILE)
            identity.recognise(
                self._directory, None if text is None else text.encode(), self._identity
            )
            log, found = Log.open(
                self.disk, LOG_DIRECTORY, LogIdentity(CLUSTER_ID, self.node), options
            )
            self._store = WalStore(log, found, self._wake)
            self._multi = self._assembled(found)
        except PowerCut:
            self._forget()
            self.power_loss()
            return False
        except OSError as error:
            self._exit(f"cannot open its log: {error}")
            return False
        except (CorruptLogError, IdentityMismatchError, StartError) as error:
            self.kill()
            self.out = str(error)
            self._world.refused(self, error)
            return False
        self.disk.fuse = None
        self.tore = found.torn is not None
        for number, group in self._multi.groups.items():
            group.machine = _Observed(group.machine, self._world, (self.node, number))
        self.up = True
        self._world.started(self)
        self._arm_timer()
        return True

    def _assembled(self, found: Recovered) -> MultiRaft:
        plan = self._world.plan
        member = Member(
            node=self.node,
            voters=tuple(NodeId(node) for node in plan.node_ids),
            seed=plan.seed,
            groups=plan.groups,
            heartbeat_ms=plan.heartbeat_ms,
            election_ms_min=plan.election_ms_min,
            election_ms_max=plan.election_ms_max,
            compaction=plan.compaction,
            compression=plan.compression,
        )
        ports = Ports(self.clock, self, self.store, self, self._open_snapshots())
        return self._build(member, stored_groups(found), ports)

    def _open_snapshots(self) -> SnapshotStore:
        """Open the snapshots on the same disk; their thread is events as well."""
        self.disk.mkdirs(SNAPSHOT_DIRECTORY)
        io = SegmentIO(self.disk, SNAPSHOT_DIRECTORY)
        self._operations = HeapOperations(io, self._heap, self.times, self._stream)
        owner = LogIdentity(CLUSTER_ID, self.node)
        return SnapshotStore(self.disk, SNAPSHOT_DIRECTORY, owner, self._operations, self._wake)

    def kill(self) -> None:
        """End the process at once; the disk's cache survives."""
        if self._driver is not None:
            with contextlib.suppress(OSError):
                self._driver.die()
        self._forget()
        self.disk.process_died()

    def power_loss(self) -> None:
        """Take the power away: the process, and what was not synced."""
        if self.up:
            self.kill()
        torn = self._world.plan.torn
        self.disk.power_loss(self._torn if torn else None)

    def pause(self) -> None:
        """Stop the process (SIGSTOP)."""
        self.paused = True
        if self._driver is not None:
            self._driver.pause()
        if self._operations is not None:
            self._operations.pause()

    def resume(self) -> None:
        """Let the process go on."""
        self.paused = False
        if self._driver is not None:
            self._driver.resume()
        if self._operations is not None:
            self._operations.resume()
        if self._turn_waits:
            self._turn_waits = False
            self._wake()

    # ---- what arrives --------------------------------------------------------------------

    def receive(self, source: int, frame: object) -> None:
        """Take a frame from a peer or a client; lost if the process is down."""
        if not self.up:
            return
        if source < 0:
            assert isinstance(frame, list)
            self._requests.append((client_identity(source), frame))
        else:
            self._messages.append(frame)
        if self._turn_at is None:
            self._wake()

    def peer_lost(self, peer: NodeId, incarnation: int) -> None:
        """Notice that the connection to a peer broke."""
        if self.up and not self.paused and self.incarnation == incarnation:
            self.multi.peer_lost(peer, self.clock.now_ns(), FORGET_JITTER_NS)
            self._wake()

    # ---- ports ---------------------------------------------------------------------------

    def send(self, messages: Sequence[Message]) -> None:
        """See `node.ports.Transport`."""
        world = self._world
        network = world.network
        codec = world.plan.codec
        for message in messages:
            world.sending(message)
            frame: object = message
            bulk = type(message) is Append
            if codec:
                frame = self._encoded(message)
            network.send(self.node, message.to, frame, bulk)

    def reply(self, client: bytes, parts: Sequence[Buffer]) -> None:
        """See `node.ports.ReplySink`."""
        number = -int.from_bytes(client, "little")
        self._world.network.send(self.node, number, [bytes(part) for part in parts])

    def submitted(self, handle: AppendHandle) -> None:
        """See `StorageObserver`."""
        self._world.submitted(self.node, handle)

    def synced(self, count: int) -> None:
        """See `StorageObserver`. From the first time on a start counts, and must find a log."""
        self.disk.kept.setdefault(_COUNTED, "1")
        self._world.synced(self.node, count)

    def wrote(self) -> None:
        """See `StorageObserver`: a fault may have waited for this moment."""
        trap, self.trap = self.trap, None
        if trap is not None:
            self._heap.after(self._stream.below(self.times.sync_min), trap)

    def _encoded(self, message: Message) -> list[bytes]:
        if isinstance(message, Append):
            return [bytes(part) for part in encode_append(self._sender, message)]
        return [encode_control(self._sender, [message])]

    # ---- turns ---------------------------------------------------------------------------

    def _wake(self) -> None:
        """See to it that a turn runs soon."""
        if self._turn_at is None and self.up:
            self._turn_at = self._heap.now + self._world.plan.turn_ns
            self._heap.at(self._turn_at, self._turn, self.incarnation)

    def _turn(self, incarnation: int) -> None:
        if incarnation != self.incarnation or not self.up:
            return
        self._turn_at = None
        if self.paused:
            self._turn_waits = True
            return
        self.turns += 1
        multi, store = self.multi, self.store
        frames, self._messages = self._messages, []
        requests, self._requests = self._requests, []
        for client, parts in requests:
            self._take_request(client, parts)
        messages: list[Message] = []
        for frame in frames:
            if isinstance(frame, list):
                try:
                    messages += decode_peer_frame(self.node, frame)[1]
                except WireError:
                    self.malformed += 1
            else:
                messages.append(frame)  # type: ignore[arg-type]  # a Message, by value
        try:
            multi.turn(self.clock.now_ns(), messages, self._world.plan.apply_ns)
        except CorruptLogError as error:
            self._world.found_damage(self, error)
            self._exit(str(error))
            return
        except WalError as error:
            self._exit(str(error))
            return
        if store.failure is not None:
            self._exit(str(store.failure))
            return
        self._world.turned(self, messages, len(requests))
        if store.disk_full and self._heap.now >= self._retry_at:
            self._retry_at = self._heap.now + DISK_FULL_RETRY_NS
            store.log.retry()
        if multi.has_backlog:
            self._wake()
        self._arm_timer()

    def _take_request(self, client: bytes, parts: Sequence[Buffer]) -> None:
        request = decode_request(parts, client)
        group = self.multi.groups[request.group]
        if isinstance(request, WriteRequest):
            group.write(request)
        else:
            group.read(request)

    def _arm_timer(self) -> None:
        """Keep one timer event out, at or before the deadline: deadlines mostly move away."""
        due = max(self._heap.now, self.clock.due_at(self.multi.next_deadline))
        if self._timer_at is None or due < self._timer_at:
            self._timer_at = due
            self._heap.at(due, self._timer, due, self.incarnation)

    def clock_changed(self) -> None:
        """Judge the deadline anew: the clock it is of runs differently."""
        if self.up:
            self._timer_at = None
            self._arm_timer()

    def _timer(self, armed: int, incarnation: int) -> None:
        if armed != self._timer_at or incarnation != self.incarnation or not self.up:
            return
        self._timer_at = None
        if self.clock.due_at(self.multi.next_deadline) <= self._heap.now:
            self._wake()
        else:
            self._arm_timer()

    # ---- small parts ---------------------------------------------------------------------

    def _make_driver(self, runner: JobRunner, on_complete: OnComplete) -> HeapDriver:
        self._driver = HeapDriver(
            runner,
            on_complete,
            heap=self._heap,
            times=self.times,
            stream=self._stream,
            observer=self,
        )
        return self._driver

    def _draw_uid(self) -> int:
        return self._stream.bits()

    def _exit(self, reason: str) -> None:
        self.kill()
        self._world.died(self, reason)

    def _forget(self) -> None:
        """Drop all that lived in the process's memory."""
        self._world.stopped(self)
        self.up = False
        self.paused = False
        self._multi = self._store = self._driver = None
        if self._operations is not None:
            self._operations.close()
            self._operations = None
        self._messages.clear()
        self._requests.clear()
        self._turn_at = self._timer_at = None
        self._turn_waits = False
        self._retry_at = 0


def client_identity(endpoint: int) -> bytes:
    """Return what a node's ROUTER calls the client at a (negative) endpoint."""
    return (-endpoint).to_bytes(_CLIENT_BYTES, "little")
