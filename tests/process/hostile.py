"""What an attacker sends, over real sockets, and what each frame of it must be counted as.

Every frame is judged beforehand (`Verdict`), by the decoders that the unit tests hold to their
word: the counters of a victim must then grow by exactly that. Not sent is what a victim would
rightly believe: Raft trusts its voters, and a mutation may by chance make a voter's true word.
"""

from __future__ import annotations

import os
import random
import socket as sockets
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgpack
import zmq
from zmq.utils.monitor import recv_monitor_message

from node.admin import Malformed, decode_request, encode_request
from node.client_wire import WireError as RequestError
from node.client_wire import decode_reply as decode_client_reply
from node.client_wire import decode_request as decode_client_request
from node.client_wire import encode_read_request, encode_write_request
from node.codec import Sender, WireError, decode_peer_frame, encode_append, encode_control
from node.config import Lane, lane_endpoint, lane_path
from node.raft.messages import Append, AppendReply, Heartbeat, Message, PreVote, Vote, VoteReply
from node.raft.types import GroupId, Index, NodeId, Term
from tests.node.mutants import DEEP, Frame, mutants, peer_mutants
from tests.node.rig import SESSION, batch_of, put_entry, read_of, write_of
from wal.checksum import crc32c

SEND_TIMEOUT_MS = 30_000
NOBODYS_SESSION = 1 << 60
MANY_PARTS = 65


class Verdict(Enum):
    """What a frame must be counted as; `TRUSTED` is not sent."""

    MALFORMED = "malformed"
    FOREIGN = "foreign"
    STALE = "stale"
    REFUSED = "refused"
    SERVED = "served"
    TRUSTED = "trusted"


# --- frames ---------------------------------------------------------------------------


def honest_peer_frames(to: NodeId, sender: Sender) -> list[Frame]:
    """What a voter might send, in a far later term."""
    head = (GroupId(0), sender.node, to, Term(1 << 40))
    control: list[Message] = [
        Heartbeat(*head, Index(5), 1),
        PreVote(*head, Index(1 << 30), Term(1 << 39)),
        Vote(*head, Index(1 << 30), Term(1 << 39)),
        VoteReply(*head, True),
        AppendReply(*head, True, Index(1 << 30), Index(0), Term(0)),
    ]
    batches = (batch_of(7, 1, b"one"), batch_of(7, 2, b"two", b"three"))
    append = Append(*head, Index(0), Term(0), Index(3), batches)
    return [
        *[[encode_control(sender, [message], 1 << 50)] for message in control],
        [encode_control(sender, control, 1 << 50)],
        [bytes(part) for part in encode_append(sender, append, 1 << 50)],
    ]


def newer_batch(to: NodeId, sender: Sender) -> Frame:
    """A batch of a format that nobody knows, once the end of a node."""
    batch = batch_of(7, 1, b"one")
    header = bytearray(batch.header)
    header[4] = 9
    header[60:] = struct.pack("<I", crc32c(bytes(header[:60])))
    head = (GroupId(0), sender.node, to, Term(7))
    forged = type(batch)(batch.meta, 0, bytes(header), batch.body)
    append = Append(*head, Index(0), Term(0), Index(3), (forged,))
    return [bytes(part) for part in encode_append(sender, append)]


def peer_stream(seed: int, to: NodeId, ghost: Sender, recorded: Sequence[Frame]) -> Iterator[Frame]:
    """Without end: ghosts, strangers, their mutants (sealed or not), replays, flipped replays."""
    rng = random.Random(seed)
    stranger = Sender(bytes(16), ghost.node, 1 << 40)
    nobody = Sender(ghost.cluster_id, NodeId(99), 1 << 40)
    honest = [f for sender in (ghost, stranger, nobody) for f in honest_peer_frames(to, sender)]
    honest += [newer_batch(to, ghost), [DEEP[1]], [b"x"] * MANY_PARTS, [b""] * MANY_PARTS]
    forged = peer_mutants(seed, honest, 1 << 60, to)
    flipped = mutants(seed + 1, recorded, 1 << 60)
    while True:
        draw = rng.random()
        if draw < 0.05:
            yield rng.choice(honest)
        elif draw < 0.55:
            yield next(forged)
        elif draw < 0.75:
            yield rng.choice(recorded)
        elif draw < 0.80:
            one, other = rng.choice(recorded), rng.choice(recorded)
            yield [one[0], *other[1:]]
        else:
            yield next(flipped)


def client_stream(seed: int, cluster_id: bytes) -> Iterator[Frame]:
    """Without end: requests of this cluster and of another, and their mutants."""
    puts = [put_entry(NOBODYS_SESSION, seq) for seq in (1, 2)]
    writes = [write_of(b"one", b"two"), write_of(*puts), write_of(SESSION)]
    reads = [read_of([1, b"k"], [2, b"a", b"b", 3]), read_of([1, b"k"], local=True)]
    requests = [encode_write_request(w) for w in writes] + [encode_read_request(r) for r in reads]
    foreign = bytes(range(16))
    honest = [[bytes(part) for part in frame] for frame in requests]
    honest += [[part.replace(foreign, cluster_id) for part in frame] for frame in honest]
    honest.append([msgpack.packb([1, 1, 5, cluster_id, 0, True]), b"\1\0\0\0", b"x"])
    honest += [[DEEP[1], b""], [b""] * MANY_PARTS]
    yield from mutants(seed, honest, 1 << 60)


def admin_stream(seed: int) -> Iterator[Frame]:
    """Without end: requests to a node's admin lane; none of them can stop it."""
    honest = [[encode_request(1, "status")], [encode_request(1 << 40, "halt", {"now": True})]]
    yield from mutants(seed, [*honest, [DEEP[1]], [b""] * MANY_PARTS], 1 << 60)


def control_stream(seed: int) -> Iterator[Frame]:
    """Without end: requests to a supervisor; none of them does anything to a node."""
    deep = b"\x91" * 1_010 + b"\xc0"
    honest = [
        [encode_request(1, "hello")],
        [encode_request(2, "events", {"since": 1 << 40})],
        [encode_request(3, "act", {"action": "explode", "selector": "n9", "seed": 7})],
        [encode_request(4, "act", {"action": None, "selector": ["all"]})],
        [encode_request(5, "nothing", {"since": [[[]]]})],
        [b"\x94\x01\x07\xa3act\x81\xa6action" + deep],
        [b"\x94\x01\x07\xa6events\x81\xa5since" + deep],
        [DEEP[1]],
        [b""] * MANY_PARTS,
    ]
    yield from mutants(seed, honest, 1 << 60)


# --- verdicts -------------------------------------------------------------------------


@dataclass(frozen=True)
class PeerJudge:
    """Judges frames for one node: what it would say, if it has seen all that was recorded."""

    me: NodeId
    cluster_id: bytes
    voters: tuple[int, ...]
    newest: int
    """Number of the newest frame that was recorded."""
    lane: str

    def __call__(self, frame: Frame) -> Verdict:
        try:
            sender, messages = decode_peer_frame(self.me, frame)
        except WireError:
            return Verdict.MALFORMED
        if sender.cluster_id != self.cluster_id or sender.node not in self.voters:
            return Verdict.FOREIGN
        if sender.node == self.me:
            return Verdict.FOREIGN
        appends = [message for message in messages if isinstance(message, Append)]
        if appends if self.lane == "control" else len(appends) != 1 or len(messages) != 1:
            return Verdict.MALFORMED
        if sender.incarnation < 1 or 0 < sender.number <= self.newest:
            return Verdict.STALE
        return Verdict.TRUSTED


def judge_request(cluster_id: bytes) -> Callable[[Frame], Verdict]:
    """Judge requests to a node of one group."""

    def judge(frame: Frame) -> Verdict:
        try:
            request = decode_client_request(frame)
        except RequestError:
            return Verdict.MALFORMED
        if request.cluster_id != cluster_id:
            return Verdict.FOREIGN
        return Verdict.SERVED if request.group == 0 else Verdict.REFUSED

    return judge


def judge_admin(frame: Frame) -> Verdict:
    """Judge requests to a node's admin lane, and to a supervisor: served is what is answered."""
    try:
        if len(frame) != 1:
            raise Malformed("parts")
        request = decode_request(frame[0])
    except Malformed:
        return Verdict.MALFORMED
    return Verdict.TRUSTED if request.verb in ("stop", "down") else Verdict.SERVED


# --- sending --------------------------------------------------------------------------


class Connection:
    """A DEALER on one lane: sends what its judge lets pass, and keeps the books."""

    def __init__(
        self,
        context: zmq.Context,
        endpoint: str,
        stream: Iterator[Frame],
        judge: Callable[[Frame], Verdict],
    ) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self.replies = 0
        self._stream, self._judge = stream, judge
        self.socket: zmq.Socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.sndtimeo = SEND_TIMEOUT_MS
        self.socket.connect(endpoint)

    @property
    def sent(self) -> int:
        return self.verdicts.total()

    def send(self, count: int) -> None:
        """Send so many frames; full queues make this wait, so that nothing is dropped unread."""
        while count:
            frame = next(self._stream)
            verdict = self._judge(frame)
            if verdict is Verdict.TRUSTED:
                continue
            self.socket.send_multipart(frame)
            self.verdicts[verdict] += 1
            count -= 1
            if count % 16 == 0:
                self.drain()

    def drain(self) -> None:
        """Read every reply that waits: who does not read loses replies, which are then counted."""
        while self.socket.poll(0):
            self.socket.recv_multipart()
            self.replies += 1


def shake_hands_badly(path: Path, seed: int, count: int) -> None:
    """Connect to a lane's socket and say what is no ZMTP: ZeroMQ itself must bear it."""
    rng = random.Random(seed)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    for _ in range(count):
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as raw:
            raw.connect(os.fspath(path))
            words = rng.choice(
                [
                    rng.randbytes(rng.randrange(200)),
                    greeting[: rng.randrange(len(greeting))],
                    greeting + rng.randbytes(rng.randrange(100)),
                    greeting + b"\x02" + struct.pack(">Q", 1 << 62),
                ]
            )
            try:
                raw.sendall(words)
            except (BrokenPipeError, ConnectionResetError):
                continue  # it did not want to hear the end


# --- between two honest ends ----------------------------------------------------------


class Tap:
    """Stands on the peer lanes of a node that starts, hands everything on, and keeps copies.

    Its peers connect to whoever has the path while the node is down; they stay connected to the
    tap when the node takes the path over. After `close` they find the node.
    """

    def __init__(self, context: zmq.Context, run_dir: Path, node: int) -> None:
        self.frames: dict[str, list[Frame]] = {"control": [], "data": []}
        self._context, self._run_dir, self._node = context, run_dir, node
        self._fronts: dict[zmq.Socket, str] = {}
        self._monitors: list[zmq.Socket] = []
        self._backs: dict[str, zmq.Socket] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._relay, name="tap")
        for lane in ("control", "data"):
            front: zmq.Socket = context.socket(zmq.ROUTER)
            front.linger = 0
            self._monitors.append(front.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED))
            front.bind(lane_endpoint(run_dir, node, lane))
            self._fronts[front] = lane

    def await_peers(self, peers: int) -> None:
        """Wait until every peer's connection to each lane goes through here."""
        for monitor in self._monitors:
            for _ in range(peers):
                assert monitor.poll(SEND_TIMEOUT_MS), "a peer did not connect"
                recv_monitor_message(monitor)

    def connect(self) -> None:
        """Hand on to the node, which has taken its paths by now."""
        for lane in self._fronts.values():
            back: zmq.Socket = self._context.socket(zmq.DEALER)
            back.linger = 0
            back.connect(lane_endpoint(self._run_dir, self._node, lane))  # type: ignore[arg-type]  # a lane
            self._backs[lane] = back
        self._thread.start()

    def _relay(self) -> None:
        poller = zmq.Poller()
        for front in self._fronts:
            poller.register(front, zmq.POLLIN)
        while not self._stop.is_set():
            for front, _ in poller.poll(50):
                lane = self._fronts[front]
                _, *frame = front.recv_multipart()
                self._backs[lane].send_multipart(frame)
                self.frames[lane].append(frame)

    def close(self) -> None:
        """Step out of the way; the node's socket files stay (ZeroMQ unlinks what it bound)."""
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join()
        names: list[Lane] = ["control", "data"]
        paths = [lane_path(self._run_dir, self._node, name) for name in names]
        kept = [path.with_suffix(path.suffix + "-kept") for path in paths]
        if self._backs:
            for path, aside in zip(paths, kept, strict=True):
                path.rename(aside)
        for front in self._fronts:
            front.disable_monitor()
        for socket in (*self._monitors, *self._fronts):
            socket.close(0)
        for socket in self._backs.values():
            socket.close(SEND_TIMEOUT_MS)  # what was recorded arrives
        if self._backs:
            for path, aside in zip(paths, kept, strict=True):
                while path.exists():  # ZeroMQ unlinks in its own time
                    self._stop.wait(0.001)
                aside.rename(path)


class LyingRelay:
    """Between a client and a node: every reply comes after `lies` mutants of it and old replies.

    A mutant that is well formed and answers a request that is still open is left out: the client
    has every reason to believe it.
    """

    def __init__(self, context: zmq.Context, paths: tuple[str, str], seed: int, lies: int) -> None:
        mine, nodes = paths
        self.told = 0
        self._rng, self._lies = random.Random(seed), lies
        self._told: deque[Frame] = deque(maxlen=64)
        self._stop = threading.Event()
        self._front: zmq.Socket = context.socket(zmq.ROUTER)
        self._front.sndhwm = self._front.rcvhwm = 10_000
        self._front.linger = 0
        self._front.bind(mine)
        self._back: zmq.Socket = context.socket(zmq.DEALER)
        self._back.linger = 0
        self._back.connect(nodes)
        self._thread = threading.Thread(target=self._relay, name="liar")
        self._thread.start()

    def _relay(self) -> None:
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        poller.register(self._back, zmq.POLLIN)
        client, awaited = b"", set[int]()
        while not self._stop.is_set():
            for socket, _ in poller.poll(50):
                if socket is self._front:
                    client, *frame = self._front.recv_multipart()
                    awaited.add(decode_client_request(frame).request_id)
                    self._back.send_multipart(frame)
                    continue
                reply = self._back.recv_multipart()
                for lie in self._lies_about(reply):
                    if not _is_believable(lie, awaited):
                        self._front.send_multipart([client, *lie])
                        self.told += 1
                awaited.discard(decode_client_reply(reply).origin.request_id)
                self._front.send_multipart([client, *reply])

    def _lies_about(self, reply: Frame) -> Iterator[Frame]:
        for lie in mutants(self._rng.getrandbits(32), [reply], self._lies):
            yield self._rng.choice(self._told) if self._told and self._rng.random() < 0.2 else lie
        self._told.append(reply)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._front.close(0)
        self._back.close(0)


def _is_believable(frame: Frame, awaited: set[int]) -> bool:
    try:
        return decode_client_reply(frame).origin.request_id in awaited
    except RequestError:
        return False
