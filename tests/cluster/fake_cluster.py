"""In-process nodes that answer clients by §8 over real sockets, with faults."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from cluster.client import (
    Endpoints,
)
from cluster.client_core import group_of
from node import commands
from node.client_wire import (
    ReadRequest,
    ReplyOrigin,
    Status,
    WriteRequest,
    decode_request,
    encode_read_reply,
    encode_refusal,
    encode_write_reply,
)
from node.kv.machine import KeyValueMachine
from node.raft.types import BatchMeta, Index, NodeId, Term

CLUSTER = bytes(range(16))
GENEROUS_S = 20.0
OPEN = commands.encode_open_session()
Fate = Callable[[int, WriteRequest | ReadRequest], str]


class FakeCluster:
    """Three ROUTER threads over one state machine per group: a log without Raft, with faults.

    `fate(node, request)` decides, on the node's thread, what a request meets: `serve`, `busy`,
    `drop` (not applied), `mute` (applied, no answer), `twice` (answered twice), `hold` (applied;
    answered once `released` is set), `lost` (LEAD_LOST, applied all the same).
    """

    def __init__(self, directory: Path, groups: int = 1, nodes: int = 3) -> None:
        self.groups = groups
        self.leader = 1
        self.fate: Fate = lambda node, request: "serve"
        self.machines = [KeyValueMachine() for _ in range(groups)]
        self.seen: list[tuple[int, str]] = []
        self._next_index = [1] * groups
        self._lock = threading.Condition()
        """Guards everything below and above; notified for every request that was handled."""
        self._context = zmq.Context()
        self._directory = directory
        self._stops: dict[int, threading.Event] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._held: list[tuple[int, Callable[[], object]]] = []
        self.released = threading.Event()
        self.endpoints = Endpoints(
            CLUSTER, {NodeId(n): self._address(n) for n in range(1, nodes + 1)}, groups
        )
        for node in range(1, nodes + 1):
            self.start(node)

    def _address(self, node: int) -> str:
        return f"ipc://{self._directory}/n{node}.client"

    def start(self, node: int) -> None:
        """Bind and serve; returns once the node listens."""
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        router.bind(self._address(node))
        self._stops[node] = threading.Event()
        thread = threading.Thread(target=self._serve, args=(node, router), name=f"fake-{node}")
        self._threads[node] = thread
        thread.start()

    def kill(self, node: int) -> None:
        """Close the node's socket, connections and all."""
        self._stops.pop(node).set()
        self._threads.pop(node).join()

    def close(self) -> None:
        for node in list(self._threads):
            self.kill(node)
        self._context.term()

    def _serve(self, node: int, router: zmq.Socket[bytes]) -> None:
        stop = self._stops[node]
        while not stop.is_set():
            if self.released.is_set():
                self._release(node)
            if router.poll(5):
                client, *parts = router.recv_multipart()
                self._handle(node, router, client, decode_request(parts, client))
        router.close(linger=0)

    def _release(self, node: int) -> None:
        """Send what this node holds back; a socket belongs to its own thread."""
        with self._lock:
            mine = [answer for holder, answer in self._held if holder == node]
            self._held = [entry for entry in self._held if entry[0] != node]
        for answer in mine:
            answer()

    def _handle(
        self,
        node: int,
        router: zmq.Socket[bytes],
        client: bytes,
        request: WriteRequest | ReadRequest,
    ) -> None:
        with self._lock:
            fate = self.fate(node, request) if request.cluster_id == CLUSTER else "foreign"
            self.seen.append((node, fate))
            self._lock.notify_all()
            parts = self._answer(node, request, fate)
            if fate == "hold" and node == self.leader:
                self._held.append((node, lambda: router.send_multipart([client, *parts])))
                return
        if fate not in ("drop", "mute"):
            for _ in range(2 if fate == "twice" else 1):
                router.send_multipart([client, *parts])

    def _answer(self, node: int, request: WriteRequest | ReadRequest, fate: str) -> list:
        local = isinstance(request, ReadRequest) and request.local
        origin = ReplyOrigin(request.request_id, request.group, NodeId(self.leader), Term(1))
        if fate == "foreign":
            return encode_refusal(origin, Status.FOREIGN_CLUSTER, "this is another cluster")
        if node != self.leader and not local:
            return encode_refusal(origin, Status.NOT_LEADER, "")
        if fate == "busy":
            return encode_refusal(origin, Status.BUSY, "")
        if fate == "drop":
            return []
        machine = self.machines[request.group]
        if isinstance(request, ReadRequest):
            return encode_read_reply(origin, machine.query_all(request.queries))
        body = bytes(request.body)
        index = self._next_index[request.group]
        self._next_index[request.group] += request.count
        meta = BatchMeta(Term(1), Index(index), request.count, len(body))
        outcomes = machine.apply(meta, 0, body)
        if fate == "lost":
            return encode_refusal(origin, Status.LEAD_LOST, "")
        return encode_write_reply(origin, outcomes)

    def wait_for_fate(self, node: int, fate: str) -> None:
        """Wait until a request has met `fate` on `node`."""
        with self._lock:
            assert self._lock.wait_for(lambda: (node, fate) in self.seen, GENEROUS_S)

    def version(self, key: bytes) -> int:
        with self._lock:
            result = self.machines[group_of(key, self.groups)].query([1, key])
        assert isinstance(result, list)
        return 0 if result[1] is None else result[1][4]


def is_put(request: WriteRequest | ReadRequest) -> bool:
    """Whether a request carries operations, and not only an open_session."""
    return isinstance(request, WriteRequest) and bytes(request.entries) != OPEN


@contextmanager
def running(groups: int = 1, nodes: int = 3) -> Iterator[FakeCluster]:
    # A short path: a socket's name holds 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rd", dir="/tmp") as directory:
        cluster = FakeCluster(Path(directory), groups, nodes)
        try:
            yield cluster
        finally:
            cluster.close()
