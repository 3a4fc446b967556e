"""The bare pipe: what Python can do with no Raft in it. The upper bound of `bench replication`.

One file of the standard library, ZeroMQ and a CRC-32C; it imports nothing of this project, so
that nothing of this project can slow it down.

    client ──request──▶ leader ──batch──▶ the followers        ipc, ROUTER/DEALER
           ◀──reply───         ◀───ack───

- Each node has a WAL thread: it takes everything that is queued, makes one `pwritev` and one
  `fdatasync`, and wakes its main thread. Natural batching, no timer. The file is 64 MiB of zeros,
  overwritten in a ring.
- Whatever has arrived in one turn of the leader is one batch. It is sent to every follower while
  the leader's own disk writes.
- A batch is committed once a majority of durable copies exists, the leader's counted like any
  other. The leader then applies it to a dict and answers each request with one frame; followers
  learn of the commit with the next batch (or 5 ms later) and apply it too.
- Every hop checks a CRC-32C: the leader and each follower of every byte, the client of its answer.
- What is missing is what Raft is for: terms, elections, log matching, retries, sessions, recovery,
  flow control, membership. Nothing here survives anything.

`cluster.bench.children.BarePipe` starts a leader, which starts its followers (so that all nodes
are in one session, as the nodes of a cluster are), and a client:

    python -P bare_pipe.py leader|follower|client JSON

Leader and client answer each line of their standard input with one of JSON. Every process ends
when its standard input does, and asks the kernel for SIGKILL when its parent dies.

Byte layouts, little endian: a *block* is one request: `head` (u32 key lengths, u32 value lengths,
keys) and `values`, two parts.

    request    u64 request · u32 puts · u32 crc of head and values; then head, values
    batch      u64 number · u64 commit · u32 blocks · u32 crc; per block u32 puts, u32 crc; then
               head and values of every block. The same bytes go into the file.
    ack        u64 number that is durable · u32 crc
    question   nothing; answered by a node's counters as JSON
    reply      u64 request · one code per put · u32 crc
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import zmq

if TYPE_CHECKING:
    Socket = zmq.Socket[bytes]
else:
    Socket = zmq.Socket

try:
    from crc32c import crc32c
except ImportError:
    import crcmod.predefined

    crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")

__all__ = [
    "ANNOUNCE_MS",
    "KEY_BYTES",
    "Plan",
    "encode_plan",
    "make_values",
    "quantile",
    "tell",
]

RING_BYTES: Final = 64 << 20
JOB_BYTES_MAX: Final = 16 << 20
JOB_BUFFERS_MAX: Final = 768
"""Below IOV_MAX (1,024) with one more batch of a turn."""
VIEW_BYTES_MIN: Final = 64 << 10
"""From this size on a value is kept as a view of the frame it came in: no copy at all."""
ANNOUNCE_MS: Final = 5
KEY_BYTES: Final = 12
STOP_TIMEOUT_S: Final = 5.0

_REQUEST: Final = struct.Struct("<QII")
_BATCH: Final = struct.Struct("<QQII")
_BLOCK: Final = struct.Struct("<II")
_ACK: Final = struct.Struct("<QI")
_NUMBER: Final = struct.Struct("<Q")
_CRC: Final = struct.Struct("<I")
_PR_SET_PDEATHSIG: Final = 1

Buffers = list[Any]
"""bytes, and the memory of received frames."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the client does: `requests` are in the air, and share the outstanding puts."""

    seconds: float
    outstanding: int = 1_000
    value_bytes: int = 1_024
    keys: int = 10_000
    requests: int = 4
    bytes_max: int | None = None
    """End earlier once this many bytes of keys and values are acknowledged."""


# ---- the log -----------------------------------------------------------------------------------


class Wal:
    """The write-ahead log of one node: a thread that writes and syncs whatever is queued."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for offset in range(0, RING_BYTES, 1 << 20):
            os.pwrite(self._fd, bytes(1 << 20), offset)
        os.fsync(self._fd)
        self._queue: SimpleQueue[tuple[int, int, int, Buffers]] = SimpleQueue()
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.durable = 0
        self.fsyncs = self.entries = self.bytes_written = 0
        threading.Thread(target=self._work, name="wal", daemon=True).start()

    def append(self, number: int, entries: int, buffers: Buffers) -> None:
        """Queue one batch."""
        self._queue.put((number, entries, sum(map(len, buffers)), buffers))

    def _work(self) -> None:
        try:
            self._drive()
        except BaseException as error:  # without its log the process is nothing
            sys.stderr.write(f"the log failed: {error!r}\n")
            sys.stderr.flush()
            os._exit(74)

    def _drive(self) -> None:
        queue, offset = self._queue, 0
        while True:
            number, entries, size, buffers = queue.get()
            while queue.qsize() and size < JOB_BYTES_MAX and len(buffers) < JOB_BUFFERS_MAX:
                number, more, length, others = queue.get()
                entries += more
                size += length
                buffers += others
            if offset + size > RING_BYTES:
                offset = 0
            if os.pwritev(self._fd, buffers, offset) != size:
                raise OSError(f"a short write at {offset}")
            os.fdatasync(self._fd)
            offset += size
            self.fsyncs += 1
            self.entries += entries
            self.bytes_written += size
            self.durable = number
            os.eventfd_write(self.wake, 1)


# ---- blocks ------------------------------------------------------------------------------------


def encode_block(keys: Sequence[bytes], values: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return head and values of a block."""
    lengths = [*map(len, keys), *map(len, values)]
    return struct.pack(f"<{len(lengths)}I", *lengths) + b"".join(keys), b"".join(values)


def apply_block(state: dict[bytes, Any], puts: int, head: zmq.Frame, values: zmq.Frame) -> None:
    """Put every key of a block."""
    keys = head.bytes
    lengths = struct.unpack_from(f"<{2 * puts}I", keys)
    large = len(values) >= puts * VIEW_BYTES_MIN
    body: Any = values.buffer if large else values.bytes
    key_at, value_at = 8 * puts, 0
    for key_len, value_len in zip(lengths[:puts], lengths[puts:], strict=True):
        key_end, value_end = key_at + key_len, value_at + value_len
        state[keys[key_at:key_end]] = body[value_at:value_end]
        key_at, value_at = key_end, value_end


def block_crc(head: Any, values: Any) -> int:
    """Return the CRC-32C over both parts."""
    crc: int = crc32c(values, crc32c(head))
    return crc


def sealed(body: bytes) -> bytes:
    """Return a short message with its CRC behind it."""
    return body + _CRC.pack(crc32c(body))


def unsealed(message: bytes) -> bytes:
    """Return a short message whose CRC holds, without it."""
    body = message[: -_CRC.size]
    if _CRC.unpack_from(message, len(body))[0] != crc32c(body):
        raise ValueError("a message with a wrong CRC")
    return body


# ---- processes -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Batch:
    """A batch until it is applied: per block (puts, head, values), and who asked for it."""

    number: int
    blocks: list[tuple[int, zmq.Frame, zmq.Frame]]
    askers: list[tuple[bytes, bytes]]


class Node(ABC):
    """What leader and followers share: the log, the dict, the batches that wait."""

    def __init__(self, path: Path) -> None:
        self.wal = Wal(path)
        self.state: dict[bytes, Any] = {}
        self.waiting: deque[Batch] = deque()
        self.applied = 0
        self.context: zmq.Context[Any] = zmq.Context()
        self.poller = zmq.Poller()
        self.poller.register(self.wal.wake, zmq.POLLIN)
        self.poller.register(0, zmq.POLLIN)

    def socket(self, kind: int, identity: bytes = b"") -> Socket:
        """Return a socket that the loop waits for."""
        socket: Socket = self.context.socket(kind)
        socket.linger = 0
        if identity:
            socket.identity = identity
        self.poller.register(socket, zmq.POLLIN)
        return socket

    def poll(self, timeout_ms: int | None) -> dict[Any, int]:
        """Wait; take note of what became durable; end with standard input."""
        ready = dict(self.poller.poll(timeout_ms))
        if 0 in ready:
            if not sys.stdin.readline():
                raise SystemExit(0)
            self.asked()
        if self.wal.wake in ready:
            os.eventfd_read(self.wal.wake)
        return ready

    @abstractmethod
    def asked(self) -> None:
        """Answer a line of standard input."""

    def counters(self) -> dict[str, int]:
        """Return what this node has done so far."""
        wal = self.wal
        return {
            "applied": self.applied,
            "keys": len(self.state),
            "fsyncs": wal.fsyncs,
            "entries": wal.entries,
            "bytes_written": wal.bytes_written,
        }


class Leader(Node):
    """Takes requests, makes batches of them, counts acks, answers."""

    def __init__(self, directory: Path, path: Path, nodes: int) -> None:
        super().__init__(path)
        self._clients = self.socket(zmq.ROUTER)
        self._clients.bind(f"ipc://{directory}/client")
        self._peers = self.socket(zmq.ROUTER)
        self._peers.bind(f"ipc://{directory}/peers")
        self._durable = dict.fromkeys((b"%d" % node for node in range(2, nodes + 1)), 0)
        self._quorum_at = nodes - (nodes // 2 + 1)
        self._number = self._commit = self._announced = 0
        self._answers: dict[bytes, dict[str, int]] = {}

    def run(self) -> None:
        """Wait for every follower, then work until the parent is done."""
        missing = set(self._durable)
        while missing:
            if self._peers in self.poll(None):
                missing.discard(self._peers.recv_multipart()[0])
        tell(ready=True)
        while True:
            behind = self._announced < self._commit
            ready = self.poll(ANNOUNCE_MS if behind else None)
            if self._peers in ready:
                self._take_acks()
            if self._clients in ready:
                self._take_requests()
            elif behind and not ready:
                self._send([], [])
            durable = sorted((*self._durable.values(), self.wal.durable))
            if durable[self._quorum_at] > self._commit:
                self._commit = durable[self._quorum_at]
                self._apply()

    def asked(self) -> None:
        """Ask every follower for its counters; `_take_acks` gets the answers."""
        self._answers = {b"1": self.counters()}
        for identity in self._durable:
            self._peers.send_multipart([identity, b""])
        self._tell_counters()

    def _tell_counters(self) -> None:
        if len(self._answers) == 1 + len(self._durable):
            tell(nodes=[self._answers[identity] for identity in (b"1", *self._durable)])

    def _take_acks(self) -> None:
        for identity, ack in drain(self._peers, copy=True):
            if len(ack) == _ACK.size:
                self._durable[identity] = _NUMBER.unpack(unsealed(ack))[0]
            else:
                self._answers[identity] = json.loads(ack)
                self._tell_counters()

    def _take_requests(self) -> None:
        blocks: list[tuple[int, zmq.Frame, zmq.Frame]] = []
        askers: list[tuple[bytes, bytes]] = []
        index: list[bytes] = []
        for client, request, head, values in drain(self._clients, copy=False):
            number, puts, crc = _REQUEST.unpack(request.buffer)
            if block_crc(head.buffer, values.buffer) != crc:
                raise ValueError("a request with a wrong CRC")
            blocks.append((puts, head, values))
            askers.append((client.bytes, _NUMBER.pack(number)))
            index.append(_BLOCK.pack(puts, crc))
        self._number += 1
        self.waiting.append(Batch(self._number, blocks, askers))
        self._send(index, blocks)

    def _send(self, index: list[bytes], blocks: list[tuple[int, zmq.Frame, zmq.Frame]]) -> None:
        """Send a batch, or (without blocks) the news of a commit, and write the batch."""
        places = b"".join(index)
        number = self._number if blocks else 0
        header = _BATCH.pack(number, self._commit, len(blocks), crc32c(places)) + places
        frames = [frame for _, head, values in blocks for frame in (head, values)]
        for identity in self._durable:
            # Received frames are shared with the socket, not copied.
            self._peers.send_multipart([identity, header, *frames])
        self._announced = self._commit
        if blocks:
            entries = sum(puts for puts, _, _ in blocks)
            self.wal.append(number, entries, [header, *(frame.buffer for frame in frames)])

    def _apply(self) -> None:
        while self.waiting and self.waiting[0].number <= self._commit:
            batch = self.waiting.popleft()
            for (puts, head, values), (client, request) in zip(
                batch.blocks, batch.askers, strict=True
            ):
                apply_block(self.state, puts, head, values)
                self.applied += puts
                self._clients.send_multipart([client, sealed(request + bytes(puts))])


class Follower(Node):
    """Writes batches, acknowledges them, applies what is committed."""

    def __init__(self, directory: Path, path: Path, identity: bytes) -> None:
        super().__init__(path)
        self._leader = self.socket(zmq.DEALER, identity)
        self._leader.connect(f"ipc://{directory}/peers")

    def asked(self) -> None:
        """Tell the own counters."""
        tell(nodes=[self.counters()])

    def run(self) -> None:
        """Work until the parent is done."""
        self._leader.send(b"")
        acked = commit = 0
        while True:
            ready = self.poll(None)
            if self.wal.durable > acked:
                acked = self.wal.durable
                self._leader.send(sealed(_NUMBER.pack(acked)))
            if self._leader in ready:
                for header, *frames in drain(self._leader, copy=False):
                    if len(header):
                        commit = self._take(header, frames)
                    else:
                        self._leader.send(json.dumps(self.counters()).encode())
            while self.waiting and self.waiting[0].number <= commit:
                for puts, head, values in self.waiting.popleft().blocks:
                    apply_block(self.state, puts, head, values)
                    self.applied += puts

    def _take(self, header: zmq.Frame, frames: list[zmq.Frame]) -> int:
        """Check and queue one batch; return the leader's commit."""
        number, commit, count, crc = _BATCH.unpack_from(header.buffer)
        places = header.buffer[_BATCH.size :]
        if crc32c(places) != crc:
            raise ValueError("a batch with a wrong CRC")
        blocks = []
        for (puts, crc), head, values in zip(
            _BLOCK.iter_unpack(places), frames[::2], frames[1::2], strict=True
        ):
            if block_crc(head.buffer, values.buffer) != crc:
                raise ValueError("a block with a wrong CRC")
            blocks.append((puts, head, values))
        if count:
            self.waiting.append(Batch(number, blocks, []))
            entries = sum(puts for puts, _, _ in blocks)
            buffers = [header.buffer, *(frame.buffer for frame in frames)]
            self.wal.append(number, entries, buffers)
        return int(commit)


class Load:
    """The client: keeps puts outstanding; every answered request is followed by the next one."""

    def __init__(self, directory: Path) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: Socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(f"ipc://{directory}/client")
        self._number = self._at = 0

    def run(self) -> None:
        """Run one plan per line of standard input."""
        while line := sys.stdin.readline():
            tell(**self.measure(Plan(**json.loads(line))))

    def measure(self, plan: Plan) -> dict[str, Any]:
        """Drive one plan and return what was seen."""
        keys = [b"key-%08d" % number for number in range(plan.keys)]
        values = make_values(plan.value_bytes)
        share, rest = divmod(plan.outstanding, min(plan.requests, plan.outstanding))
        sizes = [share + (n < rest) for n in range(min(plan.requests, plan.outstanding))]
        sent: dict[int, tuple[int, int]] = {}
        latencies: Counter[int] = Counter()
        started = now = time.monotonic_ns()
        end = started + int(plan.seconds * 1e9)
        left = plan.bytes_max or sys.maxsize
        for puts in sizes:
            self._send(keys, values, puts, sent)
        acked = 0
        while sent:
            reply = unsealed(self._socket.recv())
            number = _NUMBER.unpack_from(reply)[0]
            puts, begun = sent.pop(number)
            if len(reply) != _NUMBER.size + puts or any(reply[_NUMBER.size :]):
                raise ValueError("an answer that does not fit its request")
            now = time.monotonic_ns()
            latencies[(now - begun) // 1_000] += puts
            acked += puts
            left -= puts * (KEY_BYTES + plan.value_bytes)
            if now < end and left > 0:
                self._send(keys, values, puts, sent)
        seconds = (now - started) / 1e9
        return {
            "seconds": seconds,
            "acked": acked,
            "bytes": acked * (KEY_BYTES + plan.value_bytes),
            "p50_ms": quantile(latencies, 0.5) / 1e3,
            "p99_ms": quantile(latencies, 0.99) / 1e3,
        }

    def _send(
        self, keys: list[bytes], values: list[bytes], puts: int, sent: dict[int, tuple[int, int]]
    ) -> None:
        begun = time.monotonic_ns()
        places = range(self._at, self._at + puts)
        self._at += puts
        head, body = encode_block(
            [keys[place % len(keys)] for place in places],
            [values[place % len(values)] for place in places],
        )
        self._number += 1
        sent[self._number] = (puts, begun)
        request = _REQUEST.pack(self._number, puts, block_crc(head, body))
        self._socket.send_multipart([request, head, body], copy=len(body) < VIEW_BYTES_MIN * 8)


def encode_plan(plan: Plan) -> str:
    """Return a plan as the line that a client reads."""
    return json.dumps({name: getattr(plan, name) for name in plan.__slots__})


@lru_cache
def make_values(value_bytes: int) -> list[bytes]:
    """Return the values that are written in turn: at most 64, at most 16 MiB, all different."""
    count = max(2, min(64, (16 << 20) // max(1, value_bytes)))
    generator = random.Random(1)
    return [generator.randbytes(value_bytes) for _ in range(count)]


def quantile(counts: Counter[int], fraction: float) -> int:
    """Return the value at `fraction` of a multiset, nearest rank; 0 if it is empty."""
    left = fraction * counts.total()
    value = 0
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            break
    return value


def drain(socket: Socket, *, copy: bool) -> Iterator[list[Any]]:
    """Yield the messages that have arrived."""
    while True:
        try:
            yield socket.recv_multipart(zmq.NOBLOCK, copy=copy)
        except zmq.Again:
            return


def tell(**fields: Any) -> None:
    """Print one JSON line for the parent."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def start_followers(config: dict[str, Any]) -> list[subprocess.Popen[bytes]]:
    """Start the followers; each ends when the pipe that is its standard input is closed."""
    followers = []
    for node in range(2, config["nodes"] + 1):
        own = json.dumps(config | {"node": node, "parent": os.getpid()})
        command = [sys.executable, "-P", str(Path(__file__).resolve()), "follower", own]
        followers.append(subprocess.Popen(command, stdin=subprocess.PIPE))
    return followers


def end_followers(followers: list[subprocess.Popen[bytes]]) -> None:
    """Let the followers end; kill those that do not."""
    for follower in followers:
        assert follower.stdin is not None
        follower.stdin.close()
    for follower in followers:
        try:
            follower.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            follower.kill()
            follower.wait()


def main() -> None:
    """Be one of the processes, until the parent is done or gone."""
    role, config = sys.argv[1], json.loads(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != config["parent"]:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    directory, data, node = Path(config["directory"]), Path(config["data"]), config["node"]
    if role == "leader":
        followers = start_followers(config)
        tell(pids=[os.getpid(), *(follower.pid for follower in followers)])
        try:
            Leader(directory, data / "n1.ring", config["nodes"]).run()
        finally:
            end_followers(followers)
    elif role == "follower":
        Follower(directory, data / f"n{node}.ring", b"%d" % node).run()
    else:
        Load(directory).run()


if __name__ == "__main__":
    main()
