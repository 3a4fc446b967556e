"""What runs have reached: what met whom in which state, and the moments that must come at times.

Tuples: (role before, what came, role after) per turn and group, and (kind of fault, phase of the
cluster when it began). Marks are named moments (`MARKS`), each of which a campaign of some length
must have seen: a simulator that never cuts a conflicting tail proves nothing about cutting one.
A seed that reaches a new tuple is worth keeping; `Coverage.merge` says how many were new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from node.raft.messages import AppendReply, Message, PreVoteReply, TimeoutNow, VoteReply
from node.raft.types import GroupId, NodeId, Role
from wal import Kind

if TYPE_CHECKING:
    from cluster.sim.node import SimNode

__all__ = ["MARKS", "Coverage", "CoverageWatch", "Mark"]


class Mark(Enum):
    """Moments that a campaign must have seen."""

    TAIL_CUT = "a follower cuts a conflicting tail"
    RELEASED = "a log's prefix is released"
    COPIED = "a quiet tail is appended again"
    TORN_TAIL = "a start cuts a torn tail"
    FROM_SNAPSHOT = "a node starts from a snapshot"
    POWER_IN_RECOVERY = "power fails during a recovery"
    EXITED = "a process ends by itself"
    TWO_LEADERS = "two nodes believe that they lead"
    DEPOSED = "a leader becomes a follower in its own life"
    CANDIDACY_LOST = "a candidate becomes a follower"
    RESTED = "a group rests"
    HANDED_OVER = "a leader hands the lead over"
    VOTE_REFUSED = "a vote is refused"
    APPEND_REFUSED = "an Append is refused"
    CORRUPT_DROPPED = "a frame with a flipped bit is dropped"
    UNKNOWN = "a client does not know what became of an operation"
    REFUSED = "an operation is refused for certain"
    NO_LEADER = "a fault begins while nobody leads"
    SHORT_MENDED = "a write that was cut short is made again"
    ROT_REFUSED = "a start refuses bits that turned over"
    ROT_READ = "a running node reads bits that turned over, and ends"
    WIPE_REFUSED = "a wiped node stays out"
    SWAP_REFUSED = "a start refuses another node's directory"


MARKS: Final = tuple(Mark)


@dataclass(slots=True)
class Coverage:
    """The sum over any number of worlds."""

    turns: set[tuple[str, str, str]] = field(default_factory=set)
    faults: set[tuple[str, str]] = field(default_factory=set)
    marks: Counter[Mark] = field(default_factory=Counter)

    @property
    def tuples(self) -> int:
        """How many different ones."""
        return len(self.turns) + len(self.faults)

    @property
    def size(self) -> int:
        """How many different tuples and marks."""
        return self.tuples + len(+self.marks)

    def sometimes(self, mark: Mark) -> None:
        """Note that a moment has come."""
        self.marks[mark] += 1

    def missing(self) -> list[Mark]:
        """Return the moments that have not come."""
        return [mark for mark in MARKS if not self.marks[mark]]

    def turned(self, before: str, came: Iterable[str], after: str) -> None:
        """Note a turn of a group."""
        self.turns.update((before, what, after) for what in came)

    def merge(self, other: Coverage) -> int:
        """Add another one; return how many of its tuples and marks were new."""
        known = self.size
        self.turns |= other.turns
        self.faults |= other.faults
        self.marks += other.marks
        return self.size - known

    def beyond(self, known: Coverage) -> Coverage:
        """Return what is here and not in `known`; a mark that is new counts once."""
        return Coverage(
            self.turns - known.turns,
            self.faults - known.faults,
            Counter(mark for mark in +self.marks if not known.marks[mark]),
        )

    def encode(self) -> dict[str, Any]:
        """Return what stands in a file, in an order that does not change."""
        return {
            "turns": sorted(self.turns),
            "faults": sorted(self.faults),
            "marks": {mark.name: self.marks[mark] for mark in MARKS if self.marks[mark]},
        }

    @staticmethod
    def decode(document: Mapping[str, Any]) -> Coverage:
        """Read what `encode` returned. Raises ValueError, TypeError, KeyError, AttributeError."""
        return Coverage(
            {(before, came, after) for before, came, after in document["turns"]},
            {(kind, phase) for kind, phase in document["faults"]},
            Counter({Mark[name]: int(count) for name, count in document["marks"].items()}),
        )


class CoverageWatch:
    """Looks at one world as it runs, and fills a `Coverage`."""

    def __init__(self, coverage: Coverage) -> None:
        """Fill `coverage`."""
        self.coverage = coverage
        self._roles: dict[tuple[NodeId, GroupId], Role] = {}

    def started(self, node: SimNode) -> None:
        """Look at a node that has just been assembled."""
        if node.tore:
            self.coverage.sometimes(Mark.TORN_TAIL)
        for number, group in node.multi.groups.items():
            self._roles[node.node, number] = group.core.role
            if group.snapshot_index > 0:
                self.coverage.sometimes(Mark.FROM_SNAPSHOT)

    def turned(self, node: SimNode, messages: Sequence[Message], requests: int) -> None:
        """Look at a node after its turn over some messages and client requests."""
        coverage = self.coverage
        for number, group in node.multi.groups.items():
            core, place = group.core, (node.node, number)
            before, after = self._roles.get(place, core.role), core.role
            came = {type(message).__name__ for message in messages if message.group == number}
            if requests:
                came.add("request")
            coverage.turned(before.value, came or ("timer",), after.value)
            if core.resting:
                coverage.sometimes(Mark.RESTED)
            if before is not after:
                self._roles[place] = after
                if before is Role.LEADER:
                    coverage.sometimes(Mark.DEPOSED)
                elif before in (Role.CANDIDATE, Role.PRE_CANDIDATE) and after is Role.FOLLOWER:
                    coverage.sometimes(Mark.CANDIDACY_LOST)
                if after is Role.LEADER and self._others_lead(place):
                    coverage.sometimes(Mark.TWO_LEADERS)

    def _others_lead(self, place: tuple[NodeId, GroupId]) -> bool:
        return any(
            role is Role.LEADER
            for (node, group), role in self._roles.items()
            if group == place[1] and node != place[0]
        )

    def stopped(self, node: SimNode) -> None:
        """Forget what a node was: its process ends."""
        for place in [place for place in self._roles if place[0] == node.node]:
            del self._roles[place]

    def sending(self, message: Message) -> None:
        """Look at a message that leaves."""
        if isinstance(message, TimeoutNow):
            self.coverage.sometimes(Mark.HANDED_OVER)
        elif isinstance(message, VoteReply | PreVoteReply) and not message.granted:
            self.coverage.sometimes(Mark.VOTE_REFUSED)
        elif isinstance(message, AppendReply) and not message.ok:
            self.coverage.sometimes(Mark.APPEND_REFUSED)

    def stored(self, kind: Kind, again: bool) -> None:
        """Look at a record that a log is given."""
        if again:
            self.coverage.sometimes(Mark.COPIED)
        elif kind is Kind.TRUNCATE:
            self.coverage.sometimes(Mark.TAIL_CUT)
        elif kind is Kind.RELEASE:
            self.coverage.sometimes(Mark.RELEASED)

    def completed(self, status: str) -> None:
        """Look at an operation that has ended."""
        if status == "unknown":
            self.coverage.sometimes(Mark.UNKNOWN)
        elif status == "refused":
            self.coverage.sometimes(Mark.REFUSED)

    def hit(self, kind: str, nodes: Collection[SimNode]) -> None:
        """Look at a fault that begins: in which phase it meets the first group."""
        phase = _phase(nodes)
        self.coverage.faults.add((kind, phase))
        if phase == "election":
            self.coverage.sometimes(Mark.NO_LEADER)


def _phase(nodes: Collection[SimNode]) -> str:
    """Name what the cluster is doing: its least settled part counts."""
    up = [node for node in nodes if node.up]
    if len(up) < len(nodes):
        return "recovery"
    cores = [next(iter(node.multi.groups.values())).core for node in up]
    leaders = [core for core in cores if core.role is Role.LEADER]
    if not leaders:
        return "election"
    if any(node.snapshotting for node in up):
        return "snapshot"
    newest = max(leaders, key=lambda core: core.term)
    if newest.log.last_index > newest.commit:
        return "replication"
    return "rest" if newest.resting else "idle"
