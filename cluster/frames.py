"""The one picture of a cluster: `ClusterFrame`, what everybody looks at.

A supervisor merges what nodes say of themselves (protocol truth: `NodeSnapshot`) with what the
kernel says of them (process truth) into an immutable frame. Dashboard, `status`, recorder, JSON
and checkers consume frames and nothing else. What is not known is None, never an invented 0: a
dead node has no snapshot, a node that has not answered lately has an old one and its age.

On the wire a frame is a map of plain values (msgpack, JSON alike) with `schema`
"raftdeck.frame/1". New fields may appear within a schema version; readers ignore unknown ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Final, Literal, TypeVar

from node.config import NODES_MAX
from node.metrics import GroupSnapshot, NodeSnapshot, SnapshotError, plain

__all__ = [
    "FRAME_SCHEMA",
    "FRESH_MS",
    "Cause",
    "ClusterFrame",
    "Event",
    "FrameError",
    "NodeFrame",
    "NodeRates",
    "ProcessState",
    "ProcessTruth",
]

FRAME_SCHEMA: Final = "raftdeck.frame/1"
FRESH_MS: Final = 2_000
"""A snapshot older than this proves nothing: twice the slowest polling interval, which is 1 s."""
EVENTS_MAX: Final = 64
"""Events that a frame carries; the rest is asked for by number."""
LOG_LINES_MAX: Final = 20

Cause = Literal["user", "system"]
"""Who brought it about: a person (or script) through the supervisor, or anything else."""


class FrameError(ValueError):
    """Bytes that are no frame, or of a schema this version does not read."""


class ProcessState(Enum):
    """What the kernel and the supervisor know of a node's process."""

    RUNNING = "running"
    FROZEN = "frozen"
    KILLED = "killed"
    STOPPED = "stopped"
    CRASHED = "crashed"

    @property
    def alive(self) -> bool:
        """Whether a process exists."""
        return self in (ProcessState.RUNNING, ProcessState.FROZEN)


@dataclass(frozen=True, slots=True)
class ProcessTruth:
    """One node's process. Of a dead one: how it ended, and the last lines it wrote if it crashed."""

    state: ProcessState
    cause: Cause
    since_unix_ms: int
    starts: int
    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    cpu_percent: float | None = None
    rss_bytes: int | None = None
    last_log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeRates:
    """Rates over the last second or so, from two snapshots of one incarnation."""

    fsyncs_per_s: float
    entries_per_fsync: float | None
    wal_bytes_per_s: float
    applied_per_s: float
    acks_per_s: float
    received_bytes_per_s: float = 0.0
    sent_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeFrame:
    """One node: its process, and the newest that it said of itself."""

    node: int
    process: ProcessTruth
    snapshot: NodeSnapshot | None = None
    snapshot_age_ms: int | None = None
    rates: NodeRates | None = None

    @property
    def fresh(self) -> bool:
        """Whether the node runs and has answered lately."""
        return (
            self.process.state is ProcessState.RUNNING
            and self.snapshot_age_ms is not None
            and self.snapshot_age_ms <= FRESH_MS
        )

    def group(self, group: int = 0) -> GroupSnapshot | None:
        """Return the newest known state of a group on this node, however old."""
        return None if self.snapshot is None else self.snapshot.group(group)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, numbered from 1 over the supervisor's life.

    Its cause is a person (or script) through a verb (`cause` "user"), the named `step` of a scenario
    if that is not empty, or the system. `effect` is what was measured of it; empty if nothing was.
    """

    sequence: int
    unix_ms: int
    cause: Cause
    kind: str
    node: int | None
    text: str
    effect: str = ""
    step: str = ""
    group: int | None = None

    @property
    def by(self) -> str:
        """Who or what brought it about, for a person to read."""
        if self.step:
            return f"step {self.step}"
        return "you" if self.cause == "user" else "the system"


@dataclass(frozen=True, slots=True)
class ClusterFrame:
    """A whole cluster at one moment. `sequence` grows by one per frame of a supervisor's life."""

    sequence: int
    unix_ms: int
    cluster_id: str
    name: str
    supervisor_pid: int
    groups: int
    nodes: tuple[NodeFrame, ...]
    events: tuple[Event, ...] = ()
    recording: bool | None = None
    """Whether the supervisor writes its frames down; None if it did not say."""

    def node(self, node: int) -> NodeFrame:
        """Return one node's part; KeyError if there is no such node."""
        for part in self.nodes:
            if part.node == node:
                return part
        raise KeyError(node)

    def leader(self, group: int = 0) -> int | None:
        """Return the node that leads a group: of the fresh ones that say so, the highest term's.

        A frozen or cut-off leader of an older term may still say so; it is not believed.
        """
        claims = [
            (state.term, part.node)
            for part in self.nodes
            if part.fresh and (state := part.group(group)) is not None and state.role == "leader"
        ]
        return max(claims)[1] if claims else None

    def healthy(self, group: int = 0) -> tuple[int, ...]:
        """Return the nodes that run, answer, and follow (or are) the leader in its term."""
        leader = self.leader(group)
        if leader is None:
            return ()
        leading = self.node(leader).group(group)
        assert leading is not None
        return tuple(
            part.node
            for part in self.nodes
            if part.fresh
            and (state := part.group(group)) is not None
            and (state.leader, state.term) == (leader, leading.term)
        )

    def caught_up(self, group: int = 0) -> tuple[int, ...]:
        """Return the healthy nodes that have applied all that the leader has committed."""
        leader = self.leader(group)
        if leader is None:
            return ()
        leading = self.node(leader).group(group)
        assert leading is not None
        return tuple(
            node
            for node in self.healthy(group)
            if (state := self.node(node).group(group)) and state.applied >= leading.commit
        )

    def with_events(self, events: tuple[Event, ...]) -> ClusterFrame:
        """Return the same frame with other events."""
        return replace(self, events=events)

    def slimmed(self, groups_max: int) -> ClusterFrame:
        """Return the frame with at most so many groups: 0, those that are active, then the first.

        A group is kept, or left out, on all nodes alike; `groups` still says how many there are.
        """
        if self.groups <= groups_max:
            return self
        active = {
            group.group
            for part in self.nodes
            if part.snapshot is not None
            for group in part.snapshot.groups
            if not group.resting
        }
        order = sorted(range(self.groups), key=lambda group: (group != 0, group not in active))
        kept = frozenset(order[:groups_max])
        return replace(self, nodes=tuple(_slimmed(part, kept) for part in self.nodes))

    def encode(self) -> dict[str, Any]:
        """Return nested maps and lists of plain values, ready for msgpack or JSON."""
        document: dict[str, Any] = {"schema": FRAME_SCHEMA} | plain(self)
        document["nodes"] = [_encoded_node(part) for part in self.nodes]
        document["events"] = [plain(event) for event in self.events]
        return document

    @classmethod
    def decode(cls, document: object) -> ClusterFrame:
        """Decode what `encode` made; `FrameError` if malformed or of another schema."""
        if not isinstance(document, Mapping) or document.get("schema") != FRAME_SCHEMA:
            raise FrameError(f"not a frame of schema {FRAME_SCHEMA}")
        try:
            values = _known(cls, document)
            nodes, events = values["nodes"], values["events"]
            if len(nodes) > NODES_MAX or len(events) > EVENTS_MAX:
                raise FrameError("too many nodes or events")
            values["nodes"] = tuple(_node(part) for part in nodes)
            values["events"] = tuple(Event(**_known(Event, part)) for part in events)
            return cls(**values)
        except SnapshotError as error:
            raise FrameError(str(error)) from None
        except (KeyError, TypeError, ValueError) as error:
            raise FrameError(f"malformed frame: {error!r}") from None


_Part = TypeVar("_Part")


def _known(kind: type[_Part], document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: document[name] for name in _NAMES[kind] if name in document}


_NAMES: Final[dict[type, tuple[str, ...]]] = {
    kind: tuple(spec.name for spec in fields(kind))
    for kind in (ClusterFrame, NodeFrame, NodeRates, ProcessTruth, Event)
}


def _slimmed(part: NodeFrame, kept: frozenset[int]) -> NodeFrame:
    if part.snapshot is None:
        return part
    groups = tuple(group for group in part.snapshot.groups if group.group in kept)
    return replace(part, snapshot=replace(part.snapshot, groups=groups))


def _encoded_node(part: NodeFrame) -> dict[str, Any]:
    document = plain(part)
    document["process"] = process = plain(part.process)
    process["state"] = part.process.state.value
    document["snapshot"] = None if part.snapshot is None else part.snapshot.encode()
    document["rates"] = None if part.rates is None else plain(part.rates)
    return document


def _node(document: Mapping[str, Any]) -> NodeFrame:
    values = _known(NodeFrame, document)
    process = _known(ProcessTruth, values["process"])
    process["state"] = ProcessState(process["state"])
    process["last_log"] = tuple(str(line) for line in process["last_log"][:LOG_LINES_MAX])
    values["process"] = ProcessTruth(**process)
    if values.get("snapshot") is not None:
        values["snapshot"] = NodeSnapshot.decode(values["snapshot"])
    if values.get("rates") is not None:
        values["rates"] = NodeRates(**_known(NodeRates, values["rates"]))
    return NodeFrame(**values)
