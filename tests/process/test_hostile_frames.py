"""Malformed, foreign, replayed and mutated frames on every lane: no crash, no growth, each counted.

Attacked are a leader and a follower (control, data, client and admin lane), their supervisor's
control socket, and a client's own side (replies), under a light load that must lose nothing. Every
frame is judged beforehand; afterwards the victims' counters must say exactly the same.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import zmq

from cluster.client import Client, Endpoints
from cluster.control import Control
from cluster.demo.verify import verify
from cluster.demo.writer import Acknowledged
from cluster.local import LocalCluster
from cluster.paths import control_path
from cluster.spec import ClusterSpec
from node.codec import Sender, decode_peer_frame
from node.config import LANES, Lane, lane_path
from node.raft.types import NodeId
from tests.node.mutants import Frame
from tests.process.hand import SMALL
from tests.process.hostile import (
    Connection,
    LyingRelay,
    PeerJudge,
    Tap,
    Verdict,
    admin_stream,
    client_stream,
    control_stream,
    judge_admin,
    judge_request,
    peer_stream,
    shake_hands_badly,
)

SHARES = {"control": 25, "data": 25, "client": 20, "admin": 10, "supervisor": 10, "replies": 10}
"""Percent of all frames; those of a node's lanes go to the leader and the follower in turn."""
ROUND = 1_000
"""Frames between two looks at the load."""
PUTS_PER_ROUND = 4
WARM_UP = 0.3
"""Part of all frames after which memory is measured for the first time."""
RSS_GROWTH_MAX = 8 << 20
RECORDED_MIN = 40
BAD_HANDSHAKES = 20
TIMEOUT_S = 60.0


@pytest.fixture
def cluster(desk: Path) -> Iterator[LocalCluster]:
    """Three nodes with a leader; patient ones, so that no election comes from a busy machine."""
    spec = ClusterSpec(
        name="deck",
        data_dir=desk / "data",
        nodes=3,
        wal=SMALL,
        heartbeat_ms=50,
        election_ms_min=1_000,
        election_ms_max=1_500,
    )
    with LocalCluster.launch(spec) as running:
        running.wait_ready(TIMEOUT_S)
        yield running


@dataclass
class Load:
    """The honest client's part: fresh keys, one at a time, each remembered when acknowledged."""

    client: Client
    acknowledged: Acknowledged

    def put(self, count: int) -> None:
        for _ in range(count):
            number = len(self.acknowledged.digests)
            key, value = b"key %d" % number, b"value %d" % (number * number)
            assert self.client.put(key, value).code == 0
            self.acknowledged.digests[key] = hashlib.sha256(value).digest()


def record(cluster: LocalCluster, context: zmq.Context, node: int, load: Load) -> list[Frame]:
    """Restart a node behind a tap; return what its peers sent it."""
    cluster.kill(f"n{node}")
    tap = Tap(context, cluster.run_dir, node)
    try:
        tap.await_peers(2)
        cluster.start(f"n{node}")
        tap.connect()
        deadline = time.monotonic() + TIMEOUT_S
        while min(map(len, tap.frames.values())) < RECORDED_MIN:
            assert time.monotonic() < deadline, "too little was sent"
            load.put(1)
    finally:
        tap.close()
    load.put(1)
    cluster.wait_for(lambda frame: len(frame.caught_up()) == 3, TIMEOUT_S)
    return [*tap.frames["control"], *tap.frames["data"]]


Counts = dict[tuple[str, int], Counter[Verdict]]


def counted(cluster: LocalCluster) -> Counts:
    """What every victim has counted so far: (lane, node); the supervisor is node 0."""
    counts: Counts = {}
    for part in cluster.frame().nodes:
        assert part.snapshot is not None
        for lane in part.snapshot.traffic.lanes:
            counts[lane.lane, part.node] = Counter(
                {
                    Verdict.MALFORMED: lane.malformed,
                    Verdict.FOREIGN: lane.foreign,
                    Verdict.STALE: lane.stale,
                    Verdict.REFUSED: lane.refused,
                }
            )
    with Control(cluster.run_dir) as control:
        own = control.request("hello")["control"]
    assert own["unsent"] == 0
    counts["supervisor", 0] = Counter(
        {Verdict.MALFORMED: own["malformed"], Verdict.REFUSED: own["refused"]}
    )
    return counts


def dropped(cluster: LocalCluster) -> int:
    snapshots = [part.snapshot for part in cluster.frame().nodes]
    return sum(snapshot.traffic.dropped for snapshot in snapshots if snapshot is not None)


@dataclass
class Siege:
    """All connections of the attacker, and what the victims were before it came."""

    cluster: LocalCluster
    connections: dict[tuple[str, int], Connection]
    before: Counts

    def differences(self) -> dict[tuple[str, int], str]:
        """Where counters and books differ still."""
        now = counted(self.cluster)
        found = {}
        for place, connection in self.connections.items():
            connection.drain()
            grown, sent = now[place] - self.before[place], connection.verdicts
            served = sent[Verdict.SERVED]
            if place[0] in ("admin", "supervisor"):
                # Each is answered; how many of them are refused is the victim's to say.
                held = grown[Verdict.MALFORMED] == sent[Verdict.MALFORMED]
                held = held and connection.replies == served >= grown[Verdict.REFUSED] > 0
            else:
                held = all(grown[v] == sent[v] for v in Verdict if v is not Verdict.SERVED)
                # A request may be malformed behind a sound header: answered as well.
                answered = served + sent[Verdict.FOREIGN] + sent[Verdict.REFUSED]
                if place[0] == "client":
                    held = held and answered <= connection.replies <= connection.sent
            if not held:
                found[place] = (
                    f"counted {_named(grown)}, sent {_named(sent)}, {connection.replies} replies"
                )
        return found


def _named(counts: Counter[Verdict]) -> dict[str, int]:
    return {verdict.value: counts[verdict] for verdict in Verdict if counts[verdict]}


def besiege(
    cluster: LocalCluster, context: zmq.Context, targets: tuple[int, int], recorded: list[Frame]
) -> Siege:
    """Connect to every lane of the two targets and to their supervisor."""
    leader, follower = targets
    cluster_id = bytes.fromhex(cluster.spec.cluster_id)
    newest = max(decode_peer_frame(NodeId(follower), frame)[0].number for frame in recorded)
    connections: dict[tuple[str, int], Connection] = {}
    for node in targets:
        me, peer = NodeId(node), NodeId(leader if node == follower else follower)
        ghost = Sender(cluster_id, peer, 0)
        for seed, lane in enumerate(LANES, 100 * node):
            judge: Callable[[Frame], Verdict]
            if lane in ("control", "data"):
                stream = peer_stream(seed, me, ghost, recorded)
                judge = PeerJudge(me, cluster_id, cluster.spec.node_ids, newest, lane)
            elif lane == "client":
                stream, judge = client_stream(seed, cluster_id), judge_request(cluster_id)
            else:
                stream, judge = admin_stream(seed), judge_admin
            endpoint = cluster.spec.node_config(node, cluster.run_dir).endpoint(lane)
            connections[lane, node] = Connection(context, endpoint, stream, judge)
    endpoint = f"ipc://{control_path(cluster.run_dir)}"
    connections["supervisor", 0] = Connection(context, endpoint, control_stream(7), judge_admin)
    return Siege(cluster, connections, counted(cluster))


def processes(cluster: LocalCluster) -> dict[str, psutil.Process]:
    pids = {f"n{part.node}": part.process.pid for part in cluster.frame().nodes}
    return {
        name: psutil.Process(pid)
        for name, pid in (pids | {"supervisor": cluster.supervisor_pid}).items()
    }


def lives(cluster: LocalCluster) -> list[tuple[int | None, int, int]]:
    """Who runs: pid, incarnation and term of every node."""
    frame = cluster.frame()
    found = []
    for part in frame.nodes:
        group = part.group(0)
        assert part.snapshot is not None
        assert group is not None
        assert part.process.state.alive
        found.append((part.process.pid, part.snapshot.incarnation, group.term))
    return found


def attack(siege: Siege, load: Load, frames: int) -> dict[str, int]:
    """Send `frames` over all lanes but the client's own; return by how much memory grew."""
    turns: Counter[str] = Counter()
    rss: dict[str, int] = {}
    living = processes(siege.cluster)
    for number in range(frames // ROUND):
        for lane, share in SHARES.items():
            if lane == "replies":
                continue
            nodes = [node for name, node in siege.connections if name == lane]
            node = nodes[turns[lane] % len(nodes)]
            turns[lane] += 1
            siege.connections[lane, node].send(ROUND * share // 100)
        load.put(PUTS_PER_ROUND)
        if not rss and number >= frames // ROUND * WARM_UP:
            rss = {name: process.memory_info().rss for name, process in living.items()}
    deadline = time.monotonic() + TIMEOUT_S
    while different := siege.differences():
        assert time.monotonic() < deadline, "\n".join(map(str, different.items()))
    return {name: process.memory_info().rss - rss[name] for name, process in living.items()}


def lie_to_a_client(cluster: LocalCluster, context: zmq.Context, desk: Path, frames: int) -> None:
    """Mutate the replies on their way to a client; it counts each, and its answers are right."""
    endpoints = cluster.endpoints()
    lies = 100
    addresses = {node: f"ipc://{desk}/liar{node}" for node in endpoints.nodes}
    relays = [
        LyingRelay(context, (addresses[node], endpoints.nodes[node]), 40 + node, lies)
        for node in endpoints.nodes
    ]
    lied = Endpoints(endpoints.cluster_id, addresses, endpoints.groups)
    try:
        with Client(lied, TIMEOUT_S) as client:
            core = client._engine._core
            while sum(relay.told for relay in relays) < frames:
                value = b"%d" % core.malformed
                assert client.put(b"lied to", value).code == 0
                item = client.get(b"lied to").item
                assert item is not None
                assert item.value == value
            told = sum(relay.told for relay in relays)
            deadline = time.monotonic() + TIMEOUT_S
            while core.malformed + core.unexpected < told:
                assert time.monotonic() < deadline, (core.malformed, core.unexpected, told)
                client.get(b"lied to")
                told = sum(relay.told for relay in relays)
            assert min(core.malformed, core.unexpected) > frames // 100
            assert client.delete(b"lied to").code == 0
    finally:
        for relay in relays:
            relay.close()


def run_siege(cluster: LocalCluster, desk: Path, frames: int) -> None:
    """Send `frames` in all."""
    began = time.monotonic()
    with ExitStack() as stack:
        context: zmq.Context = stack.enter_context(zmq.Context())
        client = stack.enter_context(Client(cluster.endpoints(), TIMEOUT_S))
        load = Load(client, Acknowledged())
        leader = cluster.frame().leader()
        assert leader is not None
        follower = leader % 3 + 1
        recorded = record(cluster, context, follower, load)
        lives_before, dropped_before = lives(cluster), dropped(cluster)
        siege = besiege(cluster, context, (leader, follower), recorded)
        for connection in siege.connections.values():
            stack.callback(connection.socket.close, 0)
        grown = attack(siege, load, frames)
        places: list[tuple[int, Lane]] = [(n, lane) for n in (leader, follower) for lane in LANES]
        for node, lane in places:
            shake_hands_badly(lane_path(cluster.run_dir, node, lane), node, BAD_HANDSHAKES)
        shake_hands_badly(control_path(cluster.run_dir), 0, BAD_HANDSHAKES)
        lie_to_a_client(cluster, context, desk, frames * SHARES["replies"] // 100)
        assert lives(cluster) == lives_before, "the same processes, lives and term"
        assert dropped(cluster) == dropped_before
        assert max(grown.values()) < RSS_GROWTH_MAX, grown
        cluster.wait_for(lambda frame: len(frame.caught_up()) == 3, TIMEOUT_S)
        findings = verify(client, cluster.spec.node_ids, load.acknowledged, lambda _: None)
    assert not findings.lost
    assert not findings.duplicated
    assert not findings.phantoms
    assert findings.replicas_equal
    total = sum(connection.sent for connection in siege.connections.values())
    assert total >= frames * (100 - SHARES["replies"]) // 100
    for (name, node), connection in siege.connections.items():
        where = f"{name:>10} {f'n{node}' if node else '':3}"
        print(f"{where} {connection.sent:>7} {_named(connection.verdicts)}")
    print(f"memory grew by {grown} bytes; {time.monotonic() - began:.1f} s")


@pytest.mark.timeout(240)
def test_hostile_frames_on_every_lane_crash_nothing_grow_nothing_and_are_counted(
    cluster: LocalCluster, desk: Path
) -> None:
    """100,000 frames."""
    run_siege(cluster, desk, 100_000)


@pytest.mark.long("hostile")
@pytest.mark.timeout(2400)
def test_a_million_hostile_frames(cluster: LocalCluster, desk: Path) -> None:
    """1,000,000 frames."""
    run_siege(cluster, desk, 1_000_000)
