"""Every metric of a node, declared once, and the snapshot that carries their values.

`CATALOGUE` is the one table: a metric's name (unit last), kind, help and labels, which snapshot
section and field holds its value, and etcd's own name where the meaning is equal. The snapshots
are what `status` on the admin lane answers (ARCHITECTURE §10): plain maps of field name to value
on the wire, frozen dataclasses on both sides of it. A test holds the two to each other.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter
from typing import Any, Final, Literal, TypeVar

__all__ = [
    "BY_NAME",
    "CATALOGUE",
    "GROUPS_MAX",
    "PEERS_MAX",
    "CompressionSnapshot",
    "Counters",
    "GroupSnapshot",
    "LaneSnapshot",
    "LinkSnapshot",
    "MetricKind",
    "MetricSpec",
    "NodeSnapshot",
    "PeerSnapshot",
    "QuantileWindow",
    "Sample",
    "Section",
    "SnapshotError",
    "TrafficSnapshot",
    "WalSnapshot",
    "metric",
    "plain",
    "samples",
]

MetricKind = Literal["counter", "gauge"]
Section = Literal["node", "group", "peer", "link", "wal", "lane", "traffic", "compression"]

GROUPS_MAX: Final = 1024
PEERS_MAX: Final = 15
LANES_MAX: Final = 8
TEXT_MAX: Final = 64


class SnapshotError(ValueError):
    """A snapshot from the wire is malformed: dropped and counted by whoever received it."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. Counters only grow within an incarnation and restart at 0 with the next."""

    name: str
    kind: MetricKind
    help: str
    section: Section
    field: str
    labels: tuple[str, ...] = ("node",)
    etcd_name: str | None = None


_GROUP: Final = ("node", "group")
_PEER: Final = ("node", "group", "peer")
_LINK: Final = ("node", "peer")
_LANE: Final = ("node", "lane")

CATALOGUE: Final[tuple[MetricSpec, ...]] = (
    MetricSpec(
        "process_uptime_ns", "gauge", "Time since the process started.", "node", "uptime_ns"
    ),
    MetricSpec(
        "node_incarnation", "gauge", "Draws apart two lives of a node.", "node", "incarnation"
    ),
    MetricSpec(
        "loop_lag_p99_ns", "gauge", "Lateness of the turn loop, recent turns.", "node",
        "loop_lag_p99_ns",
    ),
    MetricSpec(
        "election_timeout_effective_ns", "gauge",
        "Shortest election timeout in force: as configured, or 10 × p99 loop lag.", "node",
        "election_timeout_ns",
    ),
    MetricSpec(
        "loop_stalls_total", "counter", "Turns late, or long, by over half an election timeout.",
        "node", "stalls",
    ),
    MetricSpec("loop_stall_longest_ns", "gauge", "The longest of them.", "node", "stall_longest_ns"),
    MetricSpec("raft_term", "gauge", "Current term.", "group", "term", _GROUP, "etcd_debugging_server_raft_term"),
    MetricSpec("raft_vote_node", "gauge", "Node voted for in this term, 0 = none.", "group", "vote", _GROUP),
    MetricSpec("raft_leader_node", "gauge", "Leader known to the node, 0 = none.", "group", "leader", _GROUP),
    MetricSpec("raft_last_index", "gauge", "Last index in the log, durable or not.", "group", "last", _GROUP),
    MetricSpec(
        "raft_commit_index", "gauge", "Commit index.", "group", "commit", _GROUP,
        "etcd_server_proposals_committed_total",
    ),
    MetricSpec(
        "raft_applied_index", "gauge", "Last index applied to the state machine.", "group",
        "applied", _GROUP, "etcd_server_proposals_applied_total",
    ),
    MetricSpec("raft_durable_index", "gauge", "Last index durable on this node.", "group", "durable", _GROUP),
    MetricSpec("raft_elections_total", "counter", "Elections this node started.", "group", "elections", _GROUP),
    MetricSpec("raft_resting_bool", "gauge", "1 while the group has nothing to do and rests.", "group", "resting", _GROUP),
    MetricSpec("raft_shared_stalls_total", "counter", "Stalls of this leader's disk that the others shared.", "group", "shared_stalls", _GROUP),
    MetricSpec("raft_log_start_index", "gauge", "Index up to which a snapshot stands for the log.", "group", "start", _GROUP),
    MetricSpec("raft_timer_left_ns", "gauge", "Time until an election, or a leader's heartbeat; -1 at rest.", "group", "timer_ns", _GROUP),
    MetricSpec("raft_led_at_ns", "gauge", "Uptime at which the node took the lead; -1 if it does not lead.", "group", "led_at_ns", _GROUP),
    MetricSpec("link_silence_ns", "gauge", "Time since anything was heard of the peer; -1 never.", "link", "heard_ago_ns", _LINK),
    MetricSpec("link_round_trip_ns", "gauge", "Newest round trip to the peer, its turn included; -1 unknown.", "link", "rtt_ns", _LINK),
    MetricSpec("raft_peer_match_index", "gauge", "Last index known durable on the peer (leader only).", "peer", "match", _PEER),
    MetricSpec("raft_peer_next_index", "gauge", "Next index to send to the peer (leader only).", "peer", "next", _PEER),
    MetricSpec("wal_fsyncs_total", "counter", "Data syncs of the log.", "wal", "fsyncs"),
    MetricSpec("wal_entries_total", "counter", "Entries made durable.", "wal", "entries"),
    MetricSpec("wal_written_bytes_total", "counter", "Bytes written to the log.", "wal", "bytes_written"),
    MetricSpec("wal_fsync_latency_p50_ns", "gauge", "Median time of a recent write and sync.", "wal", "fsync_p50_ns"),
    MetricSpec("wal_fsync_latency_p99_ns", "gauge", "99th percentile of the same.", "wal", "fsync_p99_ns"),
    MetricSpec("wal_queued_bytes", "gauge", "Bytes submitted and not yet durable.", "wal", "queued_bytes"),
    MetricSpec("wal_segments_count", "gauge", "Segments in use.", "wal", "segments"),
    MetricSpec("wal_spare_segments_count", "gauge", "Recycled files that wait for use.", "wal", "spares"),
    MetricSpec("wal_disk_full_bool", "gauge", "1 while the disk refuses new space.", "wal", "disk_full"),
    MetricSpec("wal_recycled_segments_total", "counter", "Segments that overwrote a file that an earlier one had left.", "wal", "recycled"),
    MetricSpec("wal_head_index", "gauge", "Where the next frame goes: segment << 32 | offset.", "wal", "head_position"),
    MetricSpec("wal_durable_index", "gauge", "Up to where the log is durable, likewise.", "wal", "durable_position"),
    MetricSpec("wal_released_segments_total", "counter", "Segments that no group needed any more.", "wal", "released"),
    MetricSpec("wal_copied_bytes_total", "counter", "Bytes of live batches appended again, to free old segments.", "wal", "bytes_copied"),
    MetricSpec("wal_recovered_frames_count", "gauge", "Frames that recovery read at this start.", "wal", "recovered_frames"),
    MetricSpec("wal_recovery_ns", "gauge", "Time that recovery took at this start.", "wal", "recovery_ns"),
    MetricSpec("wal_torn_tail_bytes", "gauge", "Bytes of torn tail that recovery cut at this start.", "wal", "torn_tail_bytes"),
    MetricSpec("compression_batches_total", "counter", "Batches that this leader compressed.", "compression", "batches"),
    MetricSpec("compression_skipped_batches_total", "counter", "Batches that it stored plain: they would not shrink.", "compression", "skipped"),
    MetricSpec("compression_plain_bytes_total", "counter", "Bytes of the compressed batches before.", "compression", "bytes_in"),
    MetricSpec("compression_stored_bytes_total", "counter", "Bytes of the same batches as stored.", "compression", "bytes_out"),
    MetricSpec("compression_shrink_ns_total", "counter", "Time spent on compressing, in vain included.", "compression", "compress_ns"),
    MetricSpec("compression_restore_ns_total", "counter", "Time spent on decompressing what is applied.", "compression", "decompress_ns"),
    MetricSpec("wal_faults_count", "gauge", "Disk faults that stand on purpose.", "wal", "faults"),
    MetricSpec("wal_fault_bites_total", "counter", "Operations that a disk fault of ours hit.", "wal", "fault_bites"),
    MetricSpec("wal_fault_bit_at_ns", "gauge", "Uptime at which one last did; -1 never.", "wal", "fault_bit_ns"),
    MetricSpec("wal_unsynced_bytes", "gauge", "Bytes that a power cut would take; 0 outside power-loss mode.", "wal", "unsynced_bytes"),
    MetricSpec("lane_received_bytes_total", "counter", "Bytes received on a lane.", "lane", "bytes_in", _LANE),
    MetricSpec("lane_sent_bytes_total", "counter", "Bytes sent on a lane.", "lane", "bytes_out", _LANE),
    MetricSpec("lane_received_frames_total", "counter", "Frames received on a lane.", "lane", "frames_in", _LANE),
    MetricSpec("lane_sent_frames_total", "counter", "Frames sent on a lane.", "lane", "frames_out", _LANE),
    MetricSpec("lane_malformed_frames_total", "counter", "Frames received on a lane and not understood.", "lane", "malformed", _LANE),
    MetricSpec("lane_foreign_frames_total", "counter", "Frames of another cluster, or of no voter, on a lane.", "lane", "foreign", _LANE),
    MetricSpec("lane_stale_frames_total", "counter", "Frames of an earlier incarnation, and those received before.", "lane", "stale", _LANE),
    MetricSpec("lane_refused_frames_total", "counter", "Requests for a group or a verb that there is not; answered so.", "lane", "refused", _LANE),
    MetricSpec("frames_dropped_total", "counter", "Frames not sent: a queue was full.", "traffic", "dropped"),
    MetricSpec("frames_malformed_total", "counter", "Frames received and not understood.", "traffic", "malformed"),
    MetricSpec("frames_foreign_total", "counter", "Frames of another cluster or an earlier incarnation, or received before.", "traffic", "foreign"),
    MetricSpec("client_requests_total", "counter", "Requests received from clients.", "traffic", "client_requests"),
    MetricSpec("client_operations_acked_total", "counter", "Client operations acknowledged.", "traffic", "acks"),
)  # fmt: skip

BY_NAME: Final[Mapping[str, MetricSpec]] = {spec.name: spec for spec in CATALOGUE}


def metric(name: str) -> MetricSpec:
    """Return a declared metric; an unknown name is a programming error (AssertionError)."""
    assert name in BY_NAME, f"metric {name!r} is not in node.metrics.CATALOGUE"
    return BY_NAME[name]


@dataclass(frozen=True, slots=True)
class PeerSnapshot:
    """What a leader knows of one peer; `state` is "probe", "replicate" or "snapshot"."""

    node: int
    match: int
    next: int
    state: str


@dataclass(frozen=True, slots=True)
class LinkSnapshot:
    """What a node knows of its connection to one peer; -1 is unknown.

    `heard_ago_ns`: since the last frame from it. `rtt_ns`: between the last message that wanted an
    answer and that answer, the peer's turn included.
    """

    node: int
    heard_ago_ns: int = -1
    rtt_ns: int = -1


@dataclass(frozen=True, slots=True)
class GroupSnapshot:
    """One Raft group on one node. `role` is a `node.raft.types.Role` value; 0 = none.

    `log` holds the newest runs of equal terms in the log, oldest first, as first index and term by
    turns; `start` is the compaction point. `timer_ns` is the time left until the group's next
    deadline (an election, or for a leader the next heartbeat), -1 at rest. `votes` are the nodes
    that have granted a candidate's request so far. `led_at_ns` is the uptime at which the
    node took the lead, -1 if it does not lead.
    """

    group: int
    role: str
    term: int
    vote: int
    leader: int
    last: int
    commit: int
    applied: int
    durable: int
    elections: int
    resting: bool = False
    shared_stalls: int = 0
    start: int = 0
    timer_ns: int = -1
    votes: tuple[int, ...] = ()
    log: tuple[int, ...] = ()
    led_at_ns: int = -1
    peers: tuple[PeerSnapshot, ...] = ()

    @classmethod
    def decode(cls, document: object) -> GroupSnapshot:
        """Decode one group's map. `SnapshotError` if malformed."""
        values = _values(cls, document)
        peers = _list(values.get("peers"), PEERS_MAX)
        values["peers"] = tuple(PeerSnapshot(**_values(PeerSnapshot, peer)) for peer in peers)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class WalSnapshot:
    """The log of a node: totals since its start, and latencies of recent syncs in ns."""

    fsyncs: int = 0
    entries: int = 0
    bytes_written: int = 0
    fsync_p50_ns: int = 0
    fsync_p99_ns: int = 0
    queued_bytes: int = 0
    segments: int = 0
    spares: int = 0
    disk_full: bool = False
    torn_tail_bytes: int = 0
    recycled: int = 0
    head_position: int = 0
    """Where the next frame goes (`segment << 32 | offset`)."""
    durable_position: int = 0
    """Up to where the log is durable."""
    sync_entries: tuple[int, ...] = ()
    """Syncs by how many entries each made durable: bucket n counts those below 2^n, from 0."""
    sync_latency_us: tuple[int, ...] = ()
    """Write and sync times in µs, in the same buckets."""
    released: int = 0
    bytes_copied: int = 0
    recovered_frames: int = 0
    """Frames that recovery read when this life began."""
    recovery_ns: int = 0
    faults: int = 0
    """Disk faults that stand (`node.faults`)."""
    fault_bites: int = 0
    fault_bit_ns: int = -1
    """Uptime at which a fault last bit; -1: never."""
    unsynced_bytes: int = 0

    @property
    def entries_per_fsync(self) -> float | None:
        """Entries per data sync since the start; None before the first sync."""
        return self.entries / self.fsyncs if self.fsyncs else None


@dataclass(frozen=True, slots=True)
class LaneSnapshot:
    """Bytes and frames of one lane (`node.config.LANES`), both directions.

    `frames_in` counts every frame that arrived; the last four say which of them came to nothing.
    """

    lane: str
    bytes_in: int = 0
    bytes_out: int = 0
    frames_in: int = 0
    frames_out: int = 0
    malformed: int = 0
    foreign: int = 0
    stale: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class TrafficSnapshot:
    """What came and went, and what was thrown away, since the start."""

    lanes: tuple[LaneSnapshot, ...] = ()
    dropped: int = 0
    malformed: int = 0
    foreign: int = 0
    client_requests: int = 0
    acks: int = 0


@dataclass(frozen=True, slots=True)
class CompressionSnapshot:
    """What compressing batches saved and cost since the start; times in ns."""

    codec: str = "none"
    batches: int = 0
    skipped: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    compress_ns: int = 0
    decompress_ns: int = 0


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """All that a node says of itself at one moment."""

    node: int
    incarnation: int
    pid: int
    uptime_ns: int
    groups: tuple[GroupSnapshot, ...] = ()
    wal: WalSnapshot = WalSnapshot()
    traffic: TrafficSnapshot = TrafficSnapshot()
    loop_lag_p99_ns: int = 0
    election_timeout_ns: int = 0
    stalls: int = 0
    stall_longest_ns: int = 0
    links: tuple[LinkSnapshot, ...] = ()
    compression: CompressionSnapshot = CompressionSnapshot()

    def group(self, group: int) -> GroupSnapshot | None:
        """Return one group's part, or None if the node does not run it."""
        return next((part for part in self.groups if part.group == group), None)

    def encode(self) -> dict[str, Any]:
        """Return nested maps and lists of plain values, ready for msgpack or JSON."""
        document = plain(self)
        document["groups"] = [_encoded_group(group) for group in self.groups]
        document["wal"] = plain(self.wal)
        document["traffic"] = traffic = plain(self.traffic)
        traffic["lanes"] = [plain(lane) for lane in self.traffic.lanes]
        document["links"] = [plain(link) for link in self.links]
        document["compression"] = plain(self.compression)
        return document

    @classmethod
    def decode(cls, document: object) -> NodeSnapshot:
        """Decode what `encode` made. `SnapshotError` if malformed.

        Unknown keys are ignored and missing ones take the default where there is one, so that
        a supervisor and a node of neighbouring versions understand each other.
        """
        values = _values(cls, document)
        groups = _list(values.get("groups"), GROUPS_MAX)
        values["groups"] = tuple(GroupSnapshot.decode(part) for part in groups)
        values["wal"] = WalSnapshot(**_values(WalSnapshot, values.get("wal", {})))
        traffic = _values(TrafficSnapshot, values.get("traffic", {}))
        lanes = _list(traffic.get("lanes"), LANES_MAX)
        traffic["lanes"] = tuple(LaneSnapshot(**_values(LaneSnapshot, lane)) for lane in lanes)
        values["traffic"] = TrafficSnapshot(**traffic)
        links = _list(values.get("links"), PEERS_MAX)
        compression = values.get("compression", {})
        values["compression"] = CompressionSnapshot(**_values(CompressionSnapshot, compression))
        values["links"] = tuple(LinkSnapshot(**_values(LinkSnapshot, link)) for link in links)
        return cls(**values)


_GETTERS: dict[type, tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]] = {}


def plain(part: object) -> dict[str, Any]:
    """Return a dataclass as a map of its fields; unlike `asdict` it stops there, and is 10 × faster."""
    kind = type(part)
    found = _GETTERS.get(kind)
    if found is None:
        names = tuple(spec.name for spec in fields(kind))  # type: ignore[arg-type]  # a dataclass
        found = _GETTERS[kind] = (names, attrgetter(*names))
    return dict(zip(found[0], found[1](part), strict=True))


def _encoded_group(group: GroupSnapshot) -> dict[str, Any]:
    document = plain(group)
    document["peers"] = [plain(peer) for peer in group.peers]
    return document


def _list(value: object, length_max: int) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list | tuple) or len(value) > length_max:
        raise SnapshotError(f"a list of at most {length_max} is needed")
    return list(value)


_Part = TypeVar(
    "_Part",
    NodeSnapshot,
    GroupSnapshot,
    PeerSnapshot,
    LinkSnapshot,
    WalSnapshot,
    LaneSnapshot,
    TrafficSnapshot,
    CompressionSnapshot,
)
_NESTED: Final = frozenset({"groups", "peers", "wal", "traffic", "lanes", "links", "compression"})
_NUMBERS_MAX: Final = 64
"""Numbers in one list of a snapshot: 32 runs of a log, or 40 buckets."""
_REQUIRED: Final = {
    NodeSnapshot: {"node", "incarnation", "pid", "uptime_ns"},
    GroupSnapshot: {spec.name for spec in fields(GroupSnapshot) if spec.default is MISSING},
    PeerSnapshot: {spec.name for spec in fields(PeerSnapshot)},
    WalSnapshot: set(),
    LinkSnapshot: {"node"},
    LaneSnapshot: {"lane"},
    TrafficSnapshot: set(),
    CompressionSnapshot: set(),
}


def _values(kind: type[_Part], document: object) -> dict[str, Any]:
    """Pick the fields of `kind` out of a map, checking the plain ones' types."""
    if not isinstance(document, Mapping):
        raise SnapshotError(f"{kind.__name__}: a map is needed")
    if missing := _REQUIRED[kind] - document.keys():
        raise SnapshotError(f"{kind.__name__}: {min(missing)!r} is missing")
    values: dict[str, Any] = {}
    for name, expected in _PLANS[kind]:
        if name not in document:
            continue
        value = document[name]
        if expected is tuple:
            value = _numbers(value, f"{kind.__name__}.{name}")
        elif expected is not object and (
            type(value) is not expected or (isinstance(value, str) and len(value) > TEXT_MAX)
        ):
            raise SnapshotError(f"{kind.__name__}.{name}: {value!r:.80}")
        values[name] = value
    return values


def _expected(name: str, annotation: str) -> type:
    """Return what a field must be: a plain type, tuple (of numbers), or object (decoded later)."""
    if name in _NESTED:
        return object
    return {"str": str, "bool": bool, "tuple[int, ...]": tuple}.get(annotation, int)


_PLANS: Final[dict[type, tuple[tuple[str, type], ...]]] = {
    kind: tuple((spec.name, _expected(spec.name, str(spec.type))) for spec in fields(kind))
    for kind in _REQUIRED
}
"""Worked out once: a supervisor decodes a hundred snapshots a second."""


def _numbers(value: object, name: str) -> tuple[int, ...]:
    numbers = _list(value, _NUMBERS_MAX)
    if not all(type(number) is int for number in numbers):
        raise SnapshotError(f"{name}: whole numbers are needed")
    return tuple(numbers)  # type: ignore[arg-type]  # checked above


Sample = tuple[MetricSpec, dict[str, str], int | float]
"""A metric, its labels' values, and its value."""


def samples(snapshot: NodeSnapshot) -> Iterator[Sample]:
    """Yield every metric of a snapshot: what an exporter prints and a recorder keeps."""
    for spec in CATALOGUE:
        for labels, part in _parts(snapshot, spec.section):
            yield spec, {"node": f"n{snapshot.node}"} | labels, getattr(part, spec.field)


def _parts(snapshot: NodeSnapshot, section: Section) -> Iterator[tuple[dict[str, str], object]]:
    if section == "node":
        yield {}, snapshot
    elif section == "wal":
        yield {}, snapshot.wal
    elif section == "traffic":
        yield {}, snapshot.traffic
    elif section == "compression":
        yield {}, snapshot.compression
    elif section == "link":
        for link in snapshot.links:
            yield {"peer": f"n{link.node}"}, link
    elif section == "lane":
        for lane in snapshot.traffic.lanes:
            yield {"lane": lane.lane}, lane
    else:
        for group in snapshot.groups:
            labels = {"group": str(group.group)}
            if section == "group":
                yield labels, group
                continue
            for peer in group.peers:
                yield labels | {"peer": f"n{peer.node}"}, peer


class Counters:
    """Counts of one process by declared name; used by the main thread only.

    `lane` belongs to the metrics labelled with it and to no others; the wrong use of either is a
    programming error.
    """

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], int] = {}

    def add(self, name: str, amount: int = 1, *, lane: str = "") -> None:
        """Add to a counter."""
        key = (name, lane)
        if key not in self._values:
            spec = metric(name)
            assert spec.kind == "counter", f"{name} is a {spec.kind}"
            assert ("lane" in spec.labels) == bool(lane), f"{name}: lane {lane!r}"
            self._values[key] = 0
        self._values[key] += amount

    def value(self, name: str, *, lane: str = "") -> int:
        """Return a counter's value; 0 if it never counted."""
        assert metric(name)
        return self._values.get((name, lane), 0)

    def traffic(self, lanes: tuple[str, ...]) -> TrafficSnapshot:
        """Return the traffic section of a snapshot."""
        own = {s.field: self.value(s.name) for s in CATALOGUE if s.section == "traffic"}
        specs = [spec for spec in CATALOGUE if spec.section == "lane"]
        parts = tuple(
            LaneSnapshot(lane, **{s.field: self.value(s.name, lane=lane) for s in specs})
            for lane in lanes
        )
        return TrafficSnapshot(lanes=parts, **own)


class QuantileWindow:
    """Exact quantiles of the last `size` values: a ring and its sorted twin.

    An insertion costs a binary search and a shift of at most `size` pointers (about 1 µs at the
    default), so that it may be called once per turn or per fsync.
    """

    __slots__ = ("_ring", "_sorted")

    def __init__(self, size: int = 512) -> None:
        assert size > 0
        self._ring: deque[int] = deque(maxlen=size)
        self._sorted: list[int] = []

    def __len__(self) -> int:
        """Return how many values the window holds."""
        return len(self._ring)

    def add(self, value: int) -> None:
        """Add a value; the oldest leaves when the window is full."""
        if len(self._ring) == self._ring.maxlen:
            oldest = self._ring[0]
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._ring.append(value)
        insort(self._sorted, value)

    def quantile(self, fraction: float) -> int:
        """Return the value at `fraction` (0 to 1) of the window, nearest rank; 0 if it is empty."""
        if not self._sorted:
            return 0
        return self._sorted[min(len(self._sorted) - 1, int(fraction * len(self._sorted)))]
