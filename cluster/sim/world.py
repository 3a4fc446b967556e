"""One seed's world: a cluster, its clients, its faults, and everything that looks on.

Two phases. Safety: faults begin and end, clients work, every turn is checked. Then all faults end,
every node is started, and liveness is demanded: a leader, an acknowledged last operation of every
client, and replicas that have applied the same to the same effect. At last the history is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.sim.client import SimClient
from cluster.sim.coverage import Coverage, CoverageWatch, Mark
from cluster.sim.faults import FaultPlay
from cluster.sim.heap import EventHeap
from cluster.sim.judges import Applied, judge_sessions, judge_world
from cluster.sim.network import Network
from cluster.sim.node import Assemble, SimNode
from cluster.sim.oracle import Item, Op, OracleError, Replay, check_history, check_replica
from cluster.sim.plan import MS, Plan
from cluster.sim.schedule import Fault
from cluster.sim.trace import Trace
from node.assembly import assemble
from node.kv.machine import KeyValueMachine
from node.ports import Outcome
from node.raft.invariants import Change, GroupInvariants
from node.raft.messages import Message
from node.raft.types import (
    BatchMeta,
    Buffer,
    GroupId,
    HardState,
    Index,
    LogStart,
    NodeId,
    Role,
    Term,
)
from wal import AppendHandle, Kind, Record, RecordHeader
from wal.frame import body_of_hard_state

__all__ = ["LivenessError", "RefusalError", "World", "WorldResult"]

FIRST_GROUP = GroupId(0)
"""The group whose leader a fault means."""
_LOOK_NS = 20 * MS
_QUERY_ALL = [2, b"", b"", 0]


class RefusalError(AssertionError):
    """A node refuses, or finds corrupt, a disk that no fault has damaged."""

    name = "only damage is refused"


class LivenessError(AssertionError):
    """A healed cluster does not answer, or does not agree, in time."""


@dataclass(slots=True)
class WorldResult:
    """What happened in one world that held."""

    operations: int = 0
    acked: int = 0
    unknown: int = 0
    faults: int = 0
    turns: int = 0
    events: int = 0
    elections: int = 0
    copies: int = 0
    """Batches that were appended again."""
    virtual_ns: int = 0
    digests: list[str] = field(default_factory=list)


class World:
    """A cluster on one heap. `build` may assemble a planted bug instead of the product."""

    option = ""
    """What `raftdeck sim` needs besides the seed, to run a world of this class."""

    def __init__(
        self,
        plan: Plan,
        build: Assemble = assemble,
        *,
        tracing: bool = False,
        coverage: Coverage | None = None,
    ) -> None:
        """Set everything up at time 0; nothing has run yet. What it reaches goes into `coverage`."""
        self.plan = plan
        self.cover = None if coverage is None else CoverageWatch(coverage)
        self.heap = EventHeap()
        self.network = Network(self.heap, plan.seed, plan.links, self._deliver)
        self.floors = [0] * plan.groups
        self.trace = Trace() if tracing else None
        self.groups = [GroupId(number) for number in range(plan.groups)]
        voters = [NodeId(node) for node in plan.node_ids]
        self.watches = [GroupInvariants(voters) for _ in self.groups]
        self.nodes = {node: SimNode(self, node, build) for node in voters}
        self.clients = [SimClient(self, number) for number in range(1, plan.clients + 1)]
        self.play = FaultPlay(self)
        self.elections = 0
        self.copies = 0
        self._bodies: list[dict[int, Applied]] = [{} for _ in self.groups]
        self._headers: dict[tuple[int, int, int], bytes] = {}

    # ---- the two phases ------------------------------------------------------------------

    def run(self) -> WorldResult:
        """Run the seed to its end; whatever does not hold raises an AssertionError."""
        plan, heap = self.plan, self.heap
        for node in self.nodes.values():
            node.boot()
        for client in self.clients:
            client.start()
        self.play.schedule(plan.faults)
        heap.run_until(plan.safety_ns)
        self.play.heal()
        self.note("healed")
        for client in self.clients:
            client.finish()
        end = heap.now + plan.liveness_ns
        while heap.now < plan.virtual_ns_min or not self._agreed():
            if heap.now >= end:
                raise LivenessError(self._what_is_missing())
            heap.run_until(heap.now + _LOOK_NS)
        return self._judge()

    def _agreed(self) -> bool:
        if not all(client.done for client in self.clients):
            return False
        members = self.members()
        if not all(node.up for node in members):
            return False
        for group in self.groups:
            applied = {node.multi.groups[group].applied for node in members}
            if applied != {self.watches[group].committed_index}:
                return False
            if self.leader(group) is None:
                return False
        return True

    def members(self) -> list[SimNode]:
        """Return the nodes that have not lost their disk for good: a quorum at least."""
        members = [node for node in self.nodes.values() if not node.out]
        assert 2 * len(members) > len(self.nodes), "the atlas keeps a quorum of good copies"
        return members

    def _what_is_missing(self) -> str:
        waiting = [client.number for client in self.clients if not client.done]
        states = [
            f"node {node.node} group {number}: {group.core.role.value} of term {group.core.term},"
            f" last {group.core.log.last_index}, commit {group.core.commit},"
            f" applied {group.applied}"
            for node in self.nodes.values()
            if node.up
            for number, group in node.multi.groups.items()
        ]
        down = [node.node for node in self.nodes.values() if not node.up]
        return (
            f"{self.plan.liveness_ns / 1e9:.0f} s after healing: clients {waiting} wait,"
            f" nodes {down} are down; " + "; ".join(states)
        )

    def _judge(self) -> WorldResult:
        """Compare replicas, replay the committed log, and judge the history."""
        replays = []
        history = [op for client in self.clients for op in client.history]
        result = WorldResult(
            faults=len(self.plan.faults),
            turns=sum(node.turns for node in self.nodes.values()),
            events=self.heap.steps,
            elections=self.elections + sum(map(_elections, self.members())),
            copies=self.copies,
            virtual_ns=self.heap.now,
        )
        for group in self.groups:
            replay = Replay()
            batches = self._bodies[group]
            committed = [batches[meta.base_index] for meta in self.watches[group].committed]
            judge_sessions([op for op in history if op.group == group], committed)
            for meta, (count, body, _) in zip(
                self.watches[group].committed, committed, strict=True
            ):
                replay.apply(meta.base_index, count, body)
            replays.append(replay)
            digests = set()
            for node in self.members():
                machine = node.machine(group)
                assert isinstance(machine, KeyValueMachine)
                digests.add(machine.digest().hex())
                self._check_items(replay, machine)
            if len(digests) != 1:
                raise OracleError(f"group {group}: equal logs, and digests {sorted(digests)}")
            result.digests += digests
        if any(node.malformed for node in self.nodes.values()):
            self.sometimes(Mark.CORRUPT_DROPPED)
        if any(node.disk.shorts_mended for node in self.nodes.values()):
            self.sometimes(Mark.SHORT_MENDED)
        check_history(history, replays)
        judge_world(self)
        result.operations = len(history)
        result.acked = sum(op.status == "ok" for op in history)
        result.unknown = sum(op.status == "unknown" for op in history)
        return result

    @staticmethod
    def _check_items(replay: Replay, machine: KeyValueMachine) -> None:
        (answer,) = machine.query_all([_QUERY_ALL])
        assert isinstance(answer, list)
        revision, rows, more = answer
        assert not more, "the simulator's keys fit one reply"
        items: list[tuple[bytes, Item]] = [(row[0], tuple(row[1:])) for row in rows]
        check_replica(replay, revision, items)

    # ---- for the faults ------------------------------------------------------------------

    def leader(self, group: GroupId = FIRST_GROUP) -> NodeId | None:
        """Return the living leader of the highest term, if there is one."""
        best: tuple[Term, NodeId] | None = None
        for node in self.nodes.values():
            if node.up and not node.paused:
                core = node.multi.groups[group].core
                if core.role is Role.LEADER and (best is None or core.term > best[0]):
                    best = (core.term, node.node)
        return None if best is None else best[1]

    def connection_lost(self, node: NodeId) -> None:
        """Let everybody notice that a node's process has died."""
        if not self.plan.reports_death:
            return
        delay = self.plan.links.delay_min
        for peer in self.nodes.values():
            if peer.node != node and peer.up:
                self.heap.after(delay, peer.peer_lost, node, peer.incarnation)
        for client in self.clients:
            self.heap.after(delay, client.node_lost, node)

    def sometimes(self, mark: Mark) -> None:
        """Note that a named moment has come."""
        if self.cover is not None:
            self.cover.coverage.sometimes(mark)

    def fault_began(self, fault: Fault, victims: tuple[NodeId, ...]) -> None:
        """Look at a fault that begins now."""
        self.note(f"fault {fault} hits {list(victims)}")
        if self.cover is not None:
            self.cover.hit(fault.kind.value, self.nodes.values())

    def note(self, text: str) -> None:
        """Put a row into the trace, if there is one."""
        if self.trace is not None:
            self.trace.note(self.heap.now, text)

    # ---- what nodes and clients tell -----------------------------------------------------

    def is_up(self, node: NodeId) -> bool:
        """See `ClientWorld`."""
        return self.nodes[node].up

    def completed(self, op: Op) -> None:
        """See `ClientWorld`."""
        if op.status == "ok":
            self.floors[op.group] = max(self.floors[op.group], op.revision)
        if self.cover is not None:
            self.cover.completed(op.status)
        if self.trace is not None:
            answer = op.revision if op.status == "ok" else 0
            self.note(f"client {op.client} {op.kind} {op.key.decode()}: {op.status} {answer}")

    def submitted(self, node: NodeId, handle: AppendHandle) -> None:
        """See `NodeWorld`. A copy changes nothing; its bytes must be those of its batch."""
        for record in handle.records:
            group, change = self._change_of(record)
            if self.cover is not None:
                self.cover.stored(RecordHeader.unpack(record.header).kind, handle.again)
            if handle.again:
                change = None
                self.copies += 1
            for number, watch in enumerate(self.watches):
                watch.stored(node, change if number == group else None)

    def synced(self, node: NodeId, count: int) -> None:
        """See `NodeWorld`: every group's picture follows the one order of the node's log."""
        for watch in self.watches:
            watch.synced(node, count)

    def stopped(self, node: SimNode) -> None:
        """See `NodeWorld`."""
        if node.up:
            self.elections += _elections(node)
        if self.cover is not None:
            self.cover.stopped(node)
        for watch in self.watches:
            watch.stopped(node.node)

    def started(self, node: SimNode) -> None:
        """See `NodeWorld`."""
        self.note(f"node {node.node} starts, incarnation {node.incarnation}")
        self._check_disk(node)
        if self.cover is not None:
            self.cover.started(node)
        for number, group in node.multi.groups.items():
            self.watches[number].started(group.core)
            if self.trace is not None:
                self.trace.observe(self.heap.now, group.core, group.applied)

    def _check_disk(self, node: SimNode) -> None:
        """Raise if a node has started from a disk that it had to refuse."""
        atlas, name = self.play.atlas, f"node {node.node}"
        assert node.node not in atlas.wiped, f"{name} begins anew: what it promised is forgotten"
        assert node.node not in atlas.swapped, f"{name} starts from another node's directory"
        flip = atlas.unnoticed(node.node, node.disk)
        assert flip is None, f"{name} starts from what has rotted: {flip}"

    def turned(self, node: SimNode, messages: Sequence[Message], requests: int) -> None:
        """See `NodeWorld`."""
        if self.cover is not None:
            self.cover.turned(node, messages, requests)
        for number, group in node.multi.groups.items():
            self.watches[number].observe(group.core, group.applied)
            if self.trace is not None:
                self.trace.observe(self.heap.now, group.core, group.applied)

    def sending(self, message: Message) -> None:
        """See `NodeWorld`."""
        if self.cover is not None:
            self.cover.sending(message)
        self.watches[message.group].sent(message)

    def applied(
        self,
        place: tuple[NodeId, GroupId],
        meta: BatchMeta,
        body: Buffer,
        outcome: Sequence[Outcome],
    ) -> None:
        """See `NodeWorld`."""
        node, group = place
        self.watches[group].applied(node, meta, outcome)
        bodies = self._bodies[group]
        if meta.base_index not in bodies:
            bodies[meta.base_index] = (meta.count, bytes(body), outcome)

    def died(self, node: SimNode, reason: str) -> None:
        """See `NodeWorld`: a process that its log failed ends, and is started again later."""
        self.note(f"node {node.node} exits: {reason}")
        self.sometimes(Mark.EXITED)
        self.connection_lost(node.node)
        self.play.restart_later(node.node)

    def refused(self, node: SimNode, error: Exception) -> None:
        """See `NodeWorld`: only who was hurt may refuse, and stays out until it is put right."""
        atlas = self.play.atlas
        if not atlas.is_hurt(node.node):
            raise RefusalError(
                f"node {node.node} refuses a disk that nobody damaged: {error}"
            ) from error
        self.note(f"node {node.node} refuses to start: {error}")
        if node.node in atlas.swapped:
            self.sometimes(Mark.SWAP_REFUSED)
        elif node.node in atlas.wiped:
            self.sometimes(Mark.WIPE_REFUSED)
        else:
            self.sometimes(Mark.ROT_REFUSED)

    def found_damage(self, node: SimNode, error: Exception) -> None:
        """See `NodeWorld`."""
        if not self.play.atlas.is_hurt(node.node):
            raise RefusalError(f"node {node.node} finds its log corrupt: {error}") from error
        self.sometimes(Mark.ROT_READ)

    # ---- small parts ---------------------------------------------------------------------

    def _deliver(self, source: int, target: int, frame: object) -> None:
        if target < 0:
            self.clients[-target - 1].receive(source, frame)
        else:
            self.nodes[NodeId(target)].receive(source, frame)

    def _change_of(self, record: Record) -> tuple[GroupId | None, Change | None]:
        """Translate a record for the onlookers; a batch's bytes must be the same everywhere."""
        header = RecordHeader.unpack(record.header)
        group = GroupId(header.group)
        if header.kind is Kind.BATCH:
            name = (header.group, header.term, header.base_index)
            if self._headers.setdefault(name, record.header) != record.header:
                raise OracleError(f"batch {name} has different bytes on different nodes")
            base, term = Index(header.base_index), Term(header.term)
            return group, BatchMeta(term, base, header.count, 64 + header.payload_len)
        if header.kind is Kind.HARD_STATE:
            vote, _ = body_of_hard_state(record.body)
            return group, HardState(Term(header.term), NodeId(vote))
        if header.kind is Kind.TRUNCATE:
            return group, Index(header.base_index)
        if header.kind is Kind.RELEASE:
            return group, LogStart(Index(header.base_index), Term(header.term))
        return None, None


def _elections(node: SimNode) -> int:
    """How many a node has begun in the life that it has."""
    return sum(group.core.elections_started for group in node.multi.groups.values())
