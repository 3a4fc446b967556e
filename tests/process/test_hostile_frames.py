"""Garbage, strangers and ghosts on all four lanes of a living leader: it serves as if nothing were.

Not sent are frames that are well formed in every way and come, by their own word, from a living
peer: Raft trusts its voters, and the sockets are closed to other users by the file system.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import msgpack
import psutil
import pytest
import zmq

from cluster.client import Client
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from node.admin import encode_request
from node.client_wire import encode_read_request, encode_write_request
from node.codec import Sender, WireError, decode_peer_frame, encode_append, encode_control
from node.raft.messages import Append, AppendReply, Heartbeat, Message, Vote
from node.raft.types import GroupId, Index, NodeId, Term
from tests.node.mutants import DEEP, Frame, mutants
from tests.node.rig import batch_of, read_of, write_of
from tests.process.hand import SMALL
from wal.checksum import crc32c

FRAMES_PER_LANE = 4_000
BURST = 100
RSS_GROWTH_MAX = 40 << 20


@pytest.fixture
def cluster(desk: Path) -> Iterator[LocalCluster]:
    """Three nodes with a leader."""
    spec = ClusterSpec(name="deck", data_dir=desk / "data", nodes=3, wal=SMALL)
    with LocalCluster.launch(spec) as running:
        running.wait_ready()
        yield running


def honest_peer_frames(me: NodeId, ghost: Sender) -> list[Frame]:
    """What a voter might send, in a far later term, from a life before its first."""
    head = (GroupId(0), ghost.node, me, Term(1 << 40))
    control: list[Message] = [
        Heartbeat(*head, Index(5), 1),
        Vote(*head, Index(1 << 30), Term(1 << 39)),
        AppendReply(*head, True, Index(1 << 30), Index(0), Term(0)),
    ]
    batches = (batch_of(7, 1, b"one"), batch_of(7, 2, b"two", b"three"))
    append = Append(*head, Index(0), Term(0), Index(3), batches)
    frames = [[encode_control(ghost, [message])] for message in control]
    return [
        *frames,
        [encode_control(ghost, control)],
        [bytes(part) for part in encode_append(ghost, append)],
    ]


def honest_requests(cluster_id: bytes) -> list[Frame]:
    write, read = write_of(b"one", b"two"), read_of([1, b"k"], [2, b"a", b"b", 3])
    frames = [encode_write_request(write), encode_read_request(read)]
    mine = [[bytes(part) for part in frame] for frame in frames]
    foreign = bytes(range(16))
    return mine + [[part.replace(foreign, cluster_id) for part in frame] for frame in mine]


def killers(me: NodeId, ghost: Sender) -> list[tuple[str, Frame]]:
    """Frames that have ended a node, each by an exception that nobody expected."""
    newer = bytearray(batch_of(7, 1, b"one").header)
    newer[4] = 9
    newer[60:] = struct.pack("<I", crc32c(bytes(newer[:60])))
    append = honest_peer_frames(me, ghost)[-1]
    count_is_true = msgpack.packb([1, 1, 5, ghost.cluster_id, 0, True])
    return [
        ("data", [append[0], bytes(newer), *append[2:]]),
        ("client", [count_is_true, b"\1\0\0\0", b"x"]),
        *[(lane, [DEEP[1]]) for lane in ("control", "data", "client", "admin")],
    ]


def is_trusted(me: NodeId, cluster_id: bytes, frame: Frame) -> bool:
    """Whether a node would believe this frame: its mutation made it an honest voter's."""
    try:
        sender, messages = decode_peer_frame(me, frame)
    except WireError:
        return False
    return bool(messages) and sender.cluster_id == cluster_id and sender.incarnation >= 1


class Attacker:
    """One connection to each lane of a node."""

    def __init__(self, context: zmq.Context, cluster: LocalCluster, node: int) -> None:
        config = cluster.spec.node_config(node, cluster.run_dir)
        self.sent = 0
        self.lanes: dict[str, zmq.Socket] = {}
        for lane in ("control", "data", "client", "admin"):
            socket: zmq.Socket = context.socket(zmq.DEALER)
            socket.linger = 0
            socket.sndtimeo = 20_000
            socket.connect(config.endpoint(lane))
            self.lanes[lane] = socket

    def send(self, lane: str, frame: Frame) -> None:
        self.lanes[lane].send_multipart(frame)
        self.sent += 1
        while self.lanes[lane].poll(0):
            self.lanes[lane].recv_multipart()

    def close(self) -> None:
        for socket in self.lanes.values():
            socket.close(0)


def counted(cluster: LocalCluster, node: int) -> int:
    """Frames that the node has thrown away, by its own count."""
    part = cluster.frame().nodes[node - 1]
    assert part.snapshot is not None
    traffic = part.snapshot.traffic
    return traffic.malformed + traffic.foreign + traffic.dropped


@pytest.mark.timeout(120)
def test_a_leader_under_garbage_on_every_lane_serves_and_keeps_its_memory(
    cluster: LocalCluster,
) -> None:
    frame = cluster.frame()
    leader = frame.leader()
    assert leader is not None
    me, cluster_id = NodeId(leader), bytes.fromhex(cluster.spec.cluster_id)
    ghost = Sender(cluster_id, NodeId(leader % 3 + 1), 0)
    process = psutil.Process(frame.nodes[leader - 1].process.pid)
    peers = honest_peer_frames(me, ghost)
    honest = {
        "control": peers,
        "data": peers,
        "client": honest_requests(cluster_id),
        "admin": [[encode_request(1, "status")], [encode_request(2, "stop_not")]],
    }
    before, rss = counted(cluster, leader), 0
    with zmq.Context() as context, Client(cluster.endpoints(), 20.0) as client:
        client.put(b"k", b"before")
        attacker = Attacker(context, cluster, leader)
        streams = {
            lane: mutants(seed, frames, FRAMES_PER_LANE)
            for seed, (lane, frames) in enumerate(honest.items(), 31)
        }
        for number in range(FRAMES_PER_LANE):
            for lane, stream in streams.items():
                garbage = next(stream)
                if not is_trusted(me, cluster_id, garbage):
                    attacker.send(lane, garbage)
            if number % BURST == 0:
                for lane, frame_ in killers(me, ghost):
                    attacker.send(lane, frame_)
                assert client.put(b"k", b"%d" % number).code == 0
            if number == FRAMES_PER_LANE // 4:
                rss = process.memory_info().rss
        found = client.get(b"k").item
        assert found is not None
        assert found.value == b"%d" % (FRAMES_PER_LANE - BURST)
        attacker.close()
    after = cluster.frame().nodes[leader - 1]
    assert after.process.pid == process.pid, "the same process"
    assert after.process.state.alive
    assert attacker.sent > 4 * FRAMES_PER_LANE * 0.9
    assert counted(cluster, leader) - before > attacker.sent // 2
    assert process.memory_info().rss - rss < RSS_GROWTH_MAX
    group = after.group(0)
    assert group is not None
    assert group.term < 1 << 39, "no ghost's term was believed"
