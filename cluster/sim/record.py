"""A simulated run as a recording: what the dashboard, `replay` and `export` show of a real cluster.

Frames are made of the same parts, every 50 virtual ms and at every event; the clock on the screen is
virtual time, from 1970-01-01 00:00 on. What a simulated node does not have (a process id, memory,
CPU time, lanes in bytes) stays unknown.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cluster.chunks import ChunkHeader
from cluster.frames import (
    Cause,
    ClusterFrame,
    Event,
    NodeFrame,
    ProcessState,
    ProcessTruth,
)
from cluster.rates import HISTORY_MAX, Seen, rates_of, remember
from cluster.recorder import Recorder
from cluster.sim.campaign import SeedFailure, outcome_of
from cluster.sim.coverage import Coverage
from cluster.sim.node import CLUSTER_ID, SimNode
from cluster.sim.plan import MS, Plan
from cluster.sim.schedule import Fault
from cluster.sim.world import World, WorldResult
from node.metrics import LinkSnapshot, NodeSnapshot
from node.raft.messages import Message
from node.raft.types import GroupId, NodeId, Role
from node.status import group_row, links, wal_snapshot

__all__ = ["RECORDING_BYTES", "record_run"]

RECORDING_BYTES: Final = 64 << 20
_FRAME_NS: Final = 50 * MS
_WAIT_S: Final = 0.001


@dataclass(slots=True)
class _Life:
    """What frames tell of a node's process."""

    since_ms: int = 0
    starts: int = 0
    history: deque[Seen] = field(default_factory=lambda: deque(maxlen=HISTORY_MAX))


@dataclass(slots=True)
class _Tale:
    """Frames and events on their way to the recorder."""

    recorder: Recorder
    sequence: int = 0
    events: list[Event] = field(default_factory=list)
    recorded: int = 0
    lives: dict[NodeId, _Life] = field(default_factory=dict)
    leaders: dict[GroupId, tuple[int, NodeId]] = field(default_factory=dict)


class RecordedWorld(World):
    """A world that is filmed."""

    def __init__(self, plan: Plan, recorder: Recorder) -> None:
        """Write to `recorder`, which the caller closes."""
        self._tale = _Tale(recorder)
        super().__init__(plan, coverage=Coverage())
        self._tale.lives = {node: _Life() for node in self.nodes}
        self.heap.at(0, self._film)

    # ---- events --------------------------------------------------------------------------

    def happened(
        self, kind: str, text: str, node: int | None = None, effect: str = "", fault: str = ""
    ) -> None:
        """Keep an event, and make a frame of its moment."""
        tale = self._tale
        number = len(tale.events) + 1
        cause: Cause = "user" if fault else "system"
        tale.events.append(
            Event(number, self._now_ms(), cause, kind, node, text, effect, step=fault)
        )
        self._frame()

    def fault_began(self, fault: Fault, victims: tuple[NodeId, ...]) -> None:
        """See `World`."""
        super().fault_began(fault, victims)
        names = ", ".join(f"n{node}" for node in victims)
        where = "" if len(victims) == len(self.nodes) else f" {names}"
        amount = f" {fault.amount}" if fault.amount else ""
        text = f"{fault.kind.value}{amount}{where}"
        node = victims[0] if len(victims) == 1 else None
        effect = f"for {fault.duration_ns / 1e6:.0f} ms"
        self.happened("fault", text, node, effect, fault=f"fault {fault.number}")

    def started(self, node: SimNode) -> None:
        """See `NodeWorld`."""
        super().started(node)
        life = self._tale.lives.get(node.node)
        if life is not None:
            life.since_ms, life.starts = self._now_ms(), life.starts + 1
            life.history.clear()
        if node.incarnation > 1:
            self.happened("started", f"n{node.node} started", node.node)

    def stopped(self, node: SimNode) -> None:
        """See `NodeWorld`."""
        super().stopped(node)
        self._tale.lives[node.node].since_ms = self._now_ms()

    def died(self, node: SimNode, reason: str) -> None:
        """See `NodeWorld`."""
        super().died(node, reason)
        self.happened("crashed", f"n{node.node} ended by itself: {reason}", node.node)

    def refused(self, node: SimNode, error: Exception) -> None:
        """See `NodeWorld`."""
        super().refused(node, error)
        self.happened("crashed", f"n{node.node} refuses to start: {error}", node.node)

    def turned(self, node: SimNode, messages: Sequence[Message], requests: int) -> None:
        """See `NodeWorld`."""
        super().turned(node, messages, requests)
        for number, group in node.multi.groups.items():
            core = group.core
            led = self._tale.leaders.get(number, (0, NodeId(0)))
            if core.role is Role.LEADER and core.term > led[0]:
                self._tale.leaders[number] = (core.term, node.node)
                where = f" of group {number}" if self.plan.groups > 1 else ""
                text = f"n{node.node} elected leader{where} in term {core.term}"
                self.happened("leader", text, node.node)

    # ---- frames --------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self.heap.now // MS

    def _film(self) -> None:
        self._frame()
        self.heap.after(_FRAME_NS, self._film)

    def _frame(self) -> None:
        tale = self._tale
        tale.sequence += 1
        frame = ClusterFrame(
            sequence=tale.sequence,
            unix_ms=self._now_ms(),
            cluster_id=CLUSTER_ID.hex(),
            name=f"{self.plan.profile or 'schedule'}-{self.plan.seed}",
            supervisor_pid=0,
            groups=self.plan.groups,
            nodes=tuple(self._node(node) for node in self.nodes.values()),
            events=tuple(tale.events[-64:]),
        )
        document = frame.encode()
        while not tale.recorder.record(document, tale.events[tale.recorded :]):
            time.sleep(_WAIT_S)  # the simulator is faster than the disk
        tale.recorded = len(tale.events)

    def _node(self, node: SimNode) -> NodeFrame:
        life = self._tale.lives[node.node]
        state = ProcessState.RUNNING if node.up else ProcessState.KILLED
        if node.up and node.paused:
            state = ProcessState.FROZEN
        if node.out:
            state = ProcessState.CRASHED
        last_log = (node.out,) if node.out else ()
        truth = ProcessTruth(state, "system", life.since_ms, life.starts, last_log=last_log)
        if not node.up:
            return NodeFrame(node.node, truth)
        now = node.clock.now_ns()
        snapshot = NodeSnapshot(
            node=node.node,
            incarnation=node.incarnation,
            pid=0,
            uptime_ns=(self._now_ms() - life.since_ms) * MS,
            groups=tuple(group_row(group, now) for group in node.multi.groups.values()),
            wal=wal_snapshot(node.store),
            links=self._links(node, now),
        )
        remember(life.history, Seen(self.heap.now / 1e9, snapshot))
        return NodeFrame(node.node, truth, snapshot, 0, rates_of(life.history))

    @staticmethod
    def _links(node: SimNode, now: int) -> tuple[LinkSnapshot, ...]:
        return links(node.multi.pulse, now)


def record_run(plan: Plan, directory: Path) -> WorldResult | SeedFailure:
    """Run a plan and record it in a directory, as a supervisor does. OSError if it cannot begin."""
    directory.mkdir(parents=True, exist_ok=True)
    header = ChunkHeader(
        run=f"sim-{plan.seed}",
        cluster_id=CLUSTER_ID.hex(),
        name=f"{plan.profile or 'schedule'}-{plan.seed}",
        groups=plan.groups,
        supervisor_pid=0,
        started_unix_ms=0,
    )
    recorder = Recorder(directory, header, RECORDING_BYTES)
    try:
        world = RecordedWorld(plan, recorder)
        outcome = outcome_of(world)
        verdict = "failed" if isinstance(outcome, SeedFailure) else "held"
        text = outcome.text if isinstance(outcome, SeedFailure) else "every check held"
        world.happened("verdict", f"{verdict}: {text}")
    finally:
        recorder.close()
    return outcome
