"""Frames by script: the same cluster in every state that a screen must show."""

from __future__ import annotations

from dataclasses import replace

from cluster.frames import ClusterFrame, Event, NodeFrame, NodeRates, ProcessState, ProcessTruth
from dashboard.presenter.history import History
from dashboard.presenter.view import Mode, Picture, View
from node.metrics import (
    GroupSnapshot,
    LaneSnapshot,
    LinkSnapshot,
    NodeSnapshot,
    PeerSnapshot,
    TrafficSnapshot,
    WalSnapshot,
)

START_MS = 1_795_000_000_000
RATE = 6_120
ENTRIES_HISTOGRAM = (0, 3, 5, 9, 22, 61, 140, 260, 92, 11)
LATENCY_HISTOGRAM = (0,) * 9 + (12, 80, 310, 150, 44, 13, 4, 1)


def commit_at(ms: int) -> int:
    """What the leader has committed, `ms` after the beginning: a steady rate."""
    return 150_000 + RATE * ms // 1000


def snapshot_of(node: int, nodes: int, ms: int, *, role="follower", leader=1, **changes):
    """One node's own words. `behind` holds it back by so many entries."""
    behind = changes.pop("behind", 0 if role == "leader" else 42)
    term = changes.pop("term", 7)
    groups = changes.pop("groups", 1)
    silent = changes.pop("silent", frozenset())
    commit = max(0, commit_at(ms) - behind)
    last = commit + (45 if role == "leader" else 3)
    peers: tuple[PeerSnapshot, ...] = ()
    if role == "leader":
        peers = tuple(
            PeerSnapshot(peer, commit - 39, commit + 46, "replicate")
            for peer in range(1, nodes + 1)
            if peer != node
        )
    values = {
        "vote": leader, "leader": leader, "last": last, "commit": commit, "applied": commit,
        "durable": last, "elections": 1, "timer_ns": 90_000_000,
        "log": (1, 5, 151_000, 6, 160_000, 7),
    } | changes  # fmt: skip
    parts = tuple(
        GroupSnapshot(group, role, term, peers=peers, resting=group > 0, **values)
        for group in range(groups)
    )
    links = tuple(
        LinkSnapshot(
            peer,
            4_200_000_000 if peer in silent else 11_000_000,
            -1 if peer in silent else 180_000 + 20_000 * peer,
        )
        for peer in range(1, nodes + 1)
        if peer != node
    )
    wal = WalSnapshot(
        fsyncs=2_150, entries=182_000, bytes_written=96 << 20, fsync_p50_ns=1_200_000,
        fsync_p99_ns=9_800_000 if node == 2 else 4_000_000, queued_bytes=8_192, segments=3, spares=2,
        recycled=4, head_position=(3 << 32) + 4_096_000, durable_position=(3 << 32) + 4_087_808,
        sync_entries=ENTRIES_HISTOGRAM, sync_latency_us=LATENCY_HISTOGRAM,
    )  # fmt: skip
    lanes = (
        LaneSnapshot("fast", 9 << 20, 19 << 20, 8_000, 16_000),
        LaneSnapshot("admin", 4096, 9000, 40, 40),
    )
    traffic = TrafficSnapshot(lanes, 0, 0, 0, 183_000, 182_904)
    return NodeSnapshot(
        node, 1, 4000 + node, 252 * 10**9, parts, wal, traffic, 3_000_000, 150_000_000, 2,
        12_000_000, links,
    )  # fmt: skip


def node_of(node: int, nodes: int, ms: int, state="running", **changes) -> NodeFrame:
    """One node's part of a frame."""
    state = ProcessState(state)
    age = changes.pop("age_ms", 4)
    cause = changes.pop("cause", "user")
    since = START_MS - 120_000
    if not state.alive:
        end = {"signal": 9} if state is ProcessState.KILLED else {"exit_code": 3}
        words = ("n: segment 00000003.wal: bad CRC at byte 8192",)
        log = words if state is ProcessState.CRASHED else ()
        return NodeFrame(node, ProcessTruth(state, cause, START_MS + 9_000, 1, last_log=log, **end))
    truth = ProcessTruth(
        state,
        cause,
        since,
        1,
        pid=4000 + node,
        cpu_percent=20.0 + node,
        rss_bytes=(50 + node) << 20,
    )
    if changes.pop("starting", False):
        return NodeFrame(node, replace(truth, starts=2))
    snapshot = snapshot_of(node, nodes, ms, **changes)
    rates = None
    if state is ProcessState.RUNNING:
        sent = 19.2e6 if changes.get("role") == "leader" else 0.1e6
        rates = NodeRates(72.0, 85.0, 9.6e6, float(RATE), 6_000.0, 9.6e6, sent)
    return NodeFrame(node, truth, snapshot, age, rates)


def frame_of(ms: int, parts, events=(), groups=1) -> ClusterFrame:
    return ClusterFrame(
        1 + ms // 100,
        START_MS + ms,
        "0" * 32,
        f"demo-{len(parts)}",
        99,
        groups,
        tuple(parts),
        tuple(events),
    )


EVENTS = (
    Event(1, START_MS - 120_000, "user", "started", 1, "n1 started (pid 4001)"),
    Event(2, START_MS - 119_000, "system", "leader", 1, "n1 elected leader in term 6 (observed)"),
    Event(3, START_MS + 5_112, "user", "killed", 1, "n1 killed (signal 9)"),
    Event(4, START_MS + 5_233, "system", "leader", 2, "n2 elected leader in term 7 (observed)"),
    Event(5, START_MS + 7_400, "user", "started", 1, "n1 started (pid 4001, life 2)"),
    Event(6, START_MS + 9_000, "user", "frozen", 3, "n3 frozen"),
)

SCENES = (
    "healthy", "election", "frozen", "minority", "partition", "noquorum", "recovering", "replay",
    "readonly", "stale",
)  # fmt: skip


def parts_of(scene: str, nodes: int, ms: int) -> list[NodeFrame]:
    """The nodes of a scene, `ms` after its beginning; the trouble begins at 10 s."""
    leader = 2
    roles = {leader: "leader"}
    normal = [
        node_of(n, nodes, ms, role=roles.get(n, "follower"), leader=leader)
        for n in range(1, nodes + 1)
    ]
    if ms < 10_000 or scene in ("healthy", "replay", "readonly"):
        return normal
    parts = list(normal)
    down = (nodes - 1) // 2
    if scene == "election":
        parts = [
            node_of(
                n,
                nodes,
                10_000,
                leader=0,
                term=8,
                role="pre_candidate" if n == 3 else "follower",
                vote=0,
            )
            for n in range(1, nodes + 1)
        ]
        parts[0] = node_of(1, nodes, 10_000, role="candidate", leader=0, term=8, vote=1, votes=(1,))
        parts[leader - 1] = node_of(leader, nodes, ms, "killed")
    elif scene == "frozen":
        parts[2] = node_of(3, nodes, 10_000, "frozen", leader=leader, age_ms=ms - 10_000)
    elif scene == "minority":
        for n in range(nodes - down + 1, nodes + 1):
            parts[n - 1] = node_of(
                n, nodes, ms, "killed" if n < nodes else "crashed", cause="system"
            )
    elif scene == "partition":
        cut = set(range(nodes - down + 1, nodes + 1))
        for n in range(1, nodes + 1):
            apart = n in cut
            silent = frozenset(cut if not apart else set(range(1, nodes + 1)) - cut)
            at = 10_000 if apart else ms
            role = "leader" if n == leader else ("pre_candidate" if apart else "follower")
            parts[n - 1] = node_of(
                n, nodes, at, role=role, leader=0 if apart else leader, silent=silent
            )
    elif scene == "noquorum":
        for n in range(1, nodes + 1):
            if n <= down + 1:
                parts[n - 1] = node_of(n, nodes, ms, "killed")
            else:
                parts[n - 1] = node_of(n, nodes, 10_000, leader=0, role="pre_candidate", vote=0)
    elif scene == "recovering":
        parts[0] = node_of(1, nodes, ms, starting=True)
        if nodes > 3:
            parts[3] = node_of(4, nodes, ms, leader=leader, behind=55_108)
    elif scene == "stale":
        parts[2] = node_of(3, nodes, 10_000, leader=leader, age_ms=ms - 10_000)
    return parts


def frames_of(
    scene: str, nodes: int, *, end_ms: int = 14_000, groups: int = 1
) -> list[ClusterFrame]:
    """Ten frames a second up to a moment."""
    frames = []
    for ms in range(0, end_ms + 1, 100):
        events = [event for event in EVENTS if event.unix_ms <= START_MS + ms]
        frames.append(frame_of(ms, parts_of(scene, nodes, ms), events, groups))
    return frames


def picture_of(frames: list[ClusterFrame]) -> Picture:
    """The picture as of the last frame."""
    history = History()
    for frame in frames:
        history.add(frame)
    last = frames[-1]
    return Picture(
        last, history, last.events, now_ms=last.unix_ms, newest_ms=last.unix_ms,
        oldest_ms=frames[0].unix_ms, epoch_ms=START_MS - 120_000, clock_ms=last.unix_ms,
    )  # fmt: skip


def view_of(scene: str, **changes) -> View:
    mode: Mode = "replay" if scene == "replay" else "live"
    return replace(View(mode=mode, readonly=scene == "readonly", selected=2), **changes)
