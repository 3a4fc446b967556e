"""Asks the nodes what they are, looks at their processes, and makes the frame of it.

Runs in the supervisor's main thread and never blocks: `poll` sends a `status` request to every
node that could answer, `receive` takes what arrived, `glance` reads what the nodes wrote to their
pages (and asks those that did not), `frame` merges. A node that does not answer
keeps its last snapshot, whose age grows; a node that ended has none. Changes that a person wants
to read about (frozen, leader elected, …) become events here, when they are seen.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container, Mapping
from typing import Any, Final

from cluster.events import EventLog
from cluster.frames import EVENTS_MAX, ClusterFrame, NodeFrame, ProcessState
from cluster.processes import NodeProcess
from cluster.rates import HISTORY_MAX, Seen, rates_of, remember
from cluster.spec import ClusterSpec
from cluster.vacancies import Vacancies
from node.admin import AdminPool, Malformed, Reply, decode_reply
from node.metrics import NodeSnapshot, SnapshotError, WalSnapshot
from node.status_wire import StatusView

__all__ = ["Observer"]

MANY_NODES: Final = 6
"""Of more nodes, followers are looked at half as often: at most 80 looks a second at 15 nodes."""
PAGE_INTERVALS_MAX: Final = 3
"""A page that was not written for so many intervals: the node is asked, as if it had none."""
UNANSWERED_S: Final = 1.0
"""A request unanswered for so long is asked again: the node may have been frozen meanwhile."""


class Observer:
    """What is known of every node, protocol and process alike."""

    def __init__(
        self,
        spec: ClusterSpec,
        processes: Mapping[int, NodeProcess],
        pool: AdminPool,
        events: EventLog,
    ) -> None:
        self.malformed = 0
        self._spec = spec
        self._processes = processes
        self._pool = pool
        self._events = events
        self._history: dict[int, deque[Seen]] = {
            node: deque(maxlen=HISTORY_MAX) for node in processes
        }
        self._views = {node: StatusView() for node in processes}
        self._outstanding: dict[int, tuple[int, float]] = {}
        self._states = {node: process.state for node, process in processes.items()}
        self._vacancies = Vacancies()
        self._sequence = 0
        self.recording: bool | None = None
        self._awaited: dict[int, int] = {}
        """Requests of operations that are not answered yet: number → node."""
        self._answers: dict[int, Reply] = {}
        self._bites: dict[int, int] = {}
        """Bites of disk faults before those that stand now, by node."""

    def poll(self) -> None:
        """Look at every process, and ask every node that has no request outstanding."""
        self.look()
        for node in self._processes:
            self._ask(node)

    def _ask(self, node: int) -> None:
        now = time.monotonic()
        number, asked_at = self._outstanding.get(node, (0, 0.0))
        if not self._processes[node].alive or (number and now < asked_at + UNANSWERED_S):
            return
        args = {"since": self._views[node].token}
        if (sent := self._pool.request(node, "status", args)) is not None:
            self._outstanding[node] = (sent, now)

    def glance(self, interval_s: float) -> None:
        """Look at every process, and take what the nodes wrote; ask those who wrote nothing lately.

        From now on they write once per `interval_s`; of many nodes, those that lead nothing write half
        as often, so that being watched costs them no more than a few percent of their work.
        """
        self.look()
        many = len(self._processes) > MANY_NODES
        for node, process in self._processes.items():
            page, view = process.page, self._views[node]
            if page is None or not process.alive:
                self._ask(node)
                continue
            if (written := page.read()) is not None:
                self._take(node, _reply_of(written.payload), written.at_ns / 1e9)
            wanted_ns = round(interval_s * 1e9) * (2 if many and not self._leads(node) else 1)
            page.want(wanted_ns, view.token)
            if time.monotonic_ns() - page.at_ns > PAGE_INTERVALS_MAX * wanted_ns:
                self._ask(node)

    def _leads(self, node: int) -> bool:
        history = self._history[node]
        return bool(history) and any(g.role == "leader" for g in history[-1].snapshot.groups)

    def avert(self) -> None:
        """Let the nodes write no more."""
        for process in self._processes.values():
            if process.page is not None:
                process.page.want(0, 0)

    def ask(self, node: int, verb: str, args: Mapping[str, Any]) -> int | None:
        """Send a request for an operation; its number is for `answer`. None: not reachable now."""
        number = self._pool.request(node, verb, args)
        if number is not None:
            self._awaited[number] = node
        return number

    def answer(self, number: int) -> Reply | None:
        """Take the answer to `ask`; None: there is none yet, or never will be."""
        return self._answers.pop(number, None)

    def look(self) -> None:
        """Look at every process, and note who froze or thawed."""
        for node, process in self._processes.items():
            before, after = self._states[node], process.observe()
            self._states[node] = after
            if before is ProcessState.RUNNING and after is ProcessState.FROZEN:
                text, lost = f"n{node} frozen", self.lost(node)
                self._events.add("frozen", text, cause=process.cause, node=node, effect=lost)
            elif before is ProcessState.FROZEN and after is ProcessState.RUNNING:
                self._events.add("thawed", f"n{node} runs again", cause=process.cause, node=node)

    def lost(self, node: int) -> str:
        """Note that a node ended or froze; return what that did to the leads, for a person."""
        history = self._history[node]
        self._vacancies.lost(node, time.monotonic())
        groups = history[-1].snapshot.groups if history else ()
        leads = sum(group.role == "leader" for group in groups)
        if self._spec.groups > 1 and leads:
            return f"{leads} of {self._spec.groups} groups lost their leader"
        return "leader lost" if leads else ""

    def forget(self, node: int) -> None:
        """Drop what a node said: its process ended, or a new life began."""
        self._history[node].clear()
        self._views[node].forget()
        self._outstanding.pop(node, None)
        self._awaited = {number: of for number, of in self._awaited.items() if of != node}
        self._bites.pop(node, None)
        self._states[node] = self._processes[node].state

    def receive(self, ready: Container[object]) -> None:
        """Take the answers that have arrived on the sockets that are ready."""
        for answer in self._pool.receive(ready):
            if self._awaited.pop(answer.reply.number, None) is not None:
                self._answers[answer.reply.number] = answer.reply
                continue
            if self._outstanding.get(answer.node, (0, 0.0))[0] == answer.reply.number:
                del self._outstanding[answer.node]
            self._take(answer.node, answer.reply, time.monotonic())

    def _take(self, node: int, reply: Reply, at_s: float) -> None:
        """Keep an answer if it is a snapshot of the process that runs now."""
        process = self._processes[node]
        try:
            if not reply.ok:
                raise SnapshotError(str(reply.payload))
            snapshot = self._views[node].take(reply.payload)
            if snapshot is not None and snapshot.node != node:
                raise SnapshotError(f"node {snapshot.node} answered for {node}")
        except SnapshotError:
            self.malformed += 1
            self._views[node].forget()
            return
        if snapshot is None:
            return  # it builds on an answer that we do not have; the next one will be whole
        if snapshot.pid != process.pid:
            self._views[node].forget()
            return  # an answer of an earlier life, read after its end
        history = self._history[node]
        if history and history[-1].snapshot.incarnation != snapshot.incarnation:
            history.clear()
        if not history:
            self._note_recovery(snapshot)
        else:
            self._note_faults(history[-1].snapshot.wal, snapshot)
        remember(history, Seen(at_s, snapshot))
        if process.state is ProcessState.RUNNING:
            self._note_elections(snapshot, at_s)

    def _note_recovery(self, snapshot: NodeSnapshot) -> None:
        """Tell what the first answer of a life says of its recovery, if there was any."""
        wal, node = snapshot.wal, snapshot.node
        if wal.recovered_frames:
            effect = f"{wal.recovered_frames:,} frames in {wal.recovery_ns / 1e6:.0f} ms"
            if wal.torn_tail_bytes:
                effect += f" · torn tail of {wal.torn_tail_bytes:,} bytes cut"
            text = f"n{node} recovered its log"
            self._events.add("recovered", text, cause="system", node=node, effect=effect)

    def _note_faults(self, before: WalSnapshot, snapshot: NodeSnapshot) -> None:
        """Tell when a disk fault first bites, and what all did when the last one is over."""
        node, after = snapshot.node, snapshot.wal
        if after.faults or after.fault_bites > before.fault_bites:  # or it was over in between
            self._bites.setdefault(node, before.fault_bites)
        base = self._bites.get(node)
        if base is None:
            return
        hit = after.fault_bites - base
        if before.fault_bites <= base < after.fault_bites:
            text = f"n{node}'s disk fault takes effect"
            self._events.add("fault bites", text, cause="system", node=node)
        if not after.faults:
            del self._bites[node]
            operations = "operation" if hit == 1 else "operations"
            effect = f"{hit:,} {operations} hit" if hit else "it never took effect"
            text = f"n{node}'s disk is healthy again"
            self._events.add("healed", text, cause="system", node=node, effect=effect)

    def _note_elections(self, snapshot: NodeSnapshot, now: float) -> None:
        for taken in self._vacancies.seen(snapshot, now):
            where = f" of group {taken.group}" if self._spec.groups > 1 else ""
            self._events.add(
                "leader",
                f"n{taken.node} elected leader{where} in term {taken.term} (observed)",
                cause="system",
                node=taken.node,
                effect=taken.effect,
                group=taken.group,
            )

    def answered_since(self, node: int, moment_s: float) -> bool:
        """Say whether a snapshot of the present life arrived after a moment (monotonic)."""
        history = self._history[node]
        return bool(history) and history[-1].at_s >= moment_s

    def awaited(self, node: int) -> bool:
        """Say whether a node has been asked and has not answered."""
        return node in self._outstanding

    def frame(self, supervisor_pid: int) -> ClusterFrame:
        """Make the frame of this moment."""
        self._sequence += 1
        now = time.monotonic()
        return ClusterFrame(
            sequence=self._sequence,
            unix_ms=time.time_ns() // 1_000_000,
            cluster_id=self._spec.cluster_id,
            name=self._spec.name,
            supervisor_pid=supervisor_pid,
            groups=self._spec.groups,
            nodes=tuple(self._node(node, now) for node in sorted(self._processes)),
            events=self._events.since(0, EVENTS_MAX),
            recording=self.recording,
        )

    def _node(self, node: int, now: float) -> NodeFrame:
        process, history = self._processes[node], self._history[node]
        if not process.alive or not history:
            return NodeFrame(node, process.truth())
        newest = history[-1]
        age_ms = int((now - newest.at_s) * 1000)
        rates = rates_of(history) if process.state is ProcessState.RUNNING else None
        return NodeFrame(node, process.truth(), newest.snapshot, age_ms, rates)


def _reply_of(payload: bytes) -> Reply:
    """Decode what a node wrote to its page; what it cannot have written is refused as an answer."""
    try:
        return decode_reply(payload)
    except Malformed as error:
        return Reply(0, False, str(error))
