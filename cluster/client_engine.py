"""The client's one thread: a core, a DEALER per node, and a way to be woken.

Theory of operation. Callers, on any thread, append a `Call` to the inbox and wake the thread, one
byte per batch of calls and not per call. The thread drains the inbox into the core, receives,
polls the core, sends, and hands completions over in one go; whatever callers queued while it was
busy becomes the next request (natural batching). IMMEDIATE=1 makes a send to a node that is not
connected fail at once, which the core counts as *not sent*; a connection that breaks later is
reported by the socket's monitor, and then what was sent is in doubt.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from cluster.client_bulk import Writes
from cluster.client_core import ClientCore
from cluster.client_types import (
    ClientConfig,
    ClientError,
    Completion,
    DefiniteError,
    Query,
    Ticket,
)
from node.commands import Operation
from node.limits import WRITE_DETAILS_BYTES_MAX
from node.raft.types import NodeId

__all__ = ["Call", "Endpoints", "Engine"]

_RECONNECT_MS: Final = 10
_HIGH_WATER_MARK: Final = 64
"""Messages per node and direction; a core has at most 4 requests in the air per group."""
_REPLIES_PER_TURN: Final = 64
"""Replies taken from one socket before the core is polled again."""
_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a cluster is: its id, each node's client address, and its number of groups."""

    cluster_id: bytes
    nodes: Mapping[NodeId, str]
    groups: int = 1


class Call:
    """One operation on its way into the core; completed on the engine's thread by `Deliver`."""

    __slots__ = ("deadline", "node", "subject")

    def __init__(
        self, subject: Operation | Query | Writes, deadline: int, node: NodeId | None
    ) -> None:
        self.subject = subject
        self.deadline = deadline
        self.node = node


Deliver = Callable[[list[tuple[Call, Completion]]], None]
"""Takes what one turn has completed; runs on the engine's thread and must not block."""


class Engine:
    """Owns the thread and the sockets. `submit`, `stop` and `join` may be called on any thread."""

    def __init__(
        self, endpoints: Endpoints, deliver: Deliver, config: ClientConfig | None = None
    ) -> None:
        self._config = ClientConfig() if config is None else config
        self._core = ClientCore(
            endpoints.cluster_id, list(endpoints.nodes), endpoints.groups, self._config
        )
        self._deliver = deliver
        self._inbox: deque[Call] = deque()
        self._calls: dict[Ticket, Call] = {}
        self._awake = False
        self._stopping = False
        self._finished = False
        self._context = zmq.Context()
        self._sockets: dict[NodeId, zmq.Socket[bytes]] = {}
        self._monitors: dict[NodeId, zmq.Socket[bytes]] = {}
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        self._wake_lock = threading.Lock()
        try:
            for node, address in endpoints.nodes.items():
                self._connect(node, address)
        except zmq.ZMQError as error:
            self._close()
            raise DefiniteError(f"cannot connect to the cluster: {error}") from error
        self._thread = threading.Thread(target=self._run, name="raftdeck-client", daemon=True)
        self._thread.start()

    # --- any thread -------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Queue a call; DefiniteError if the engine is stopped or full."""
        if self._stopping:
            raise DefiniteError("the client is closed")
        if len(self._inbox) >= self._config.pending_operations_max:
            raise DefiniteError(f"{len(self._inbox)} operations wait for the client's thread")
        self._inbox.append(call)
        if not self._awake:
            self._wake()
        if self._finished:  # the thread ended in between: nobody else will look into the inbox
            self._refuse_inbox()

    def stop(self) -> None:
        """Ask the thread to fail what is pending and end; returns at once."""
        self._stopping = True
        self._wake()

    def join(self) -> None:
        """Wait for the thread to end; it does so within milliseconds of `stop`."""
        self._thread.join()

    def _wake(self) -> None:
        self._awake = True
        with self._wake_lock:
            if not self._finished:
                try:
                    os.write(self._wake_in, b"\0")
                except BlockingIOError:
                    return  # 64 KiB of wake-ups are waiting already

    def _refuse_inbox(self) -> None:
        refused: list[tuple[Call, Completion]] = []
        while True:
            try:
                call = self._inbox.popleft()
            except IndexError:
                break
            error = DefiniteError("the client was closed")
            refused.append((call, Completion(Ticket(0), None, error)))
        if refused:
            self._deliver(refused)

    # --- the engine's thread ----------------------------------------------------------

    def _run(self) -> None:
        reason = "the client's thread has failed"
        try:
            poller = self._make_poller()
            while not self._stopping:
                self._turn(poller)
            reason = "the client was closed"
        finally:
            self._finish(reason)

    def _make_poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        poller.register(self._wake_out, zmq.POLLIN)
        for socket in (*self._sockets.values(), *self._monitors.values()):
            poller.register(socket, zmq.POLLIN)
        return poller

    def _turn(self, poller: zmq.Poller) -> None:
        """Wait for something to do, then do all of it."""
        deadline = self._core.next_deadline()
        wait_ms: int | None = None
        if deadline is not None:
            # Rounded up: waking before the deadline would only mean to wait again.
            wait_ms = max(0, -((time.monotonic_ns() - deadline) // _NS_PER_MS))
        ready = dict(poller.poll(wait_ms))
        if self._wake_out in ready:
            os.read(self._wake_out, 1 << 16)
            self._awake = False  # before the inbox is read: a later call writes a new byte
        now = time.monotonic_ns()
        for node, socket in self._sockets.items():
            if socket in ready:
                self._receive(node, socket, now)
        for node, monitor in self._monitors.items():
            if monitor in ready:
                recv_monitor_message(monitor)
                self._core.peer_lost(node, now)
        self._complete([])  # first: what callbacks submit now leaves with this turn
        self._admit(now)
        self._send(now)
        self._complete([])

    def _admit(self, now: int) -> None:
        """Move the calls that are in the inbox now into the core."""
        core = self._core
        refused: list[tuple[Call, Completion]] = []
        for _ in range(len(self._inbox)):
            call = self._inbox.popleft()
            try:
                if isinstance(call.subject, Operation):
                    ticket = core.submit_write(call.subject, now, call.deadline)
                elif isinstance(call.subject, Writes):
                    ticket = core.submit_bulk(call.subject, now, call.deadline)
                else:
                    ticket = core.submit_read(call.subject, now, call.deadline, call.node)
            except ClientError as error:
                refused.append((call, Completion(Ticket(0), None, error)))
            else:
                self._calls[ticket] = call
        if refused:
            self._complete(refused)

    def _receive(self, node: NodeId, socket: zmq.Socket[bytes], now: int) -> None:
        for _ in range(_REPLIES_PER_TURN):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._core.receive(node, parts, now)

    def _send(self, now: int) -> None:
        for outgoing in self._core.poll(now):
            try:
                # Copied (0.1 µs per KiB): pyzmq's zero-copy keeps a thread of its own for ever.
                self._sockets[outgoing.node].send_multipart(outgoing.parts, zmq.NOBLOCK)
            except zmq.Again:
                self._core.not_sent(outgoing, now)

    def _complete(self, completed: list[tuple[Call, Completion]]) -> None:
        calls = self._calls
        for completion in self._core.take_completions():
            completed.append((calls.pop(completion.ticket), completion))
        if completed:
            self._deliver(completed)

    def _finish(self, reason: str) -> None:
        """Fail whatever is pending, whether the engine was stopped or has failed itself."""
        self._stopping = True
        self._core.abandon(reason)
        self._complete([])
        self._close()
        self._refuse_inbox()

    # --- sockets ----------------------------------------------------------------------

    def _connect(self, node: NodeId, address: str) -> None:
        socket = self._context.socket(zmq.DEALER)
        self._sockets[node] = socket
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, WRITE_DETAILS_BYTES_MAX)
        self._monitors[node] = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.connect(address)

    def _close(self) -> None:
        with self._wake_lock:
            self._finished = True
            os.close(self._wake_out)
            os.close(self._wake_in)
        for socket in self._sockets.values():
            socket.disable_monitor()
            socket.close(linger=0)
        for monitor in self._monitors.values():
            monitor.close(linger=0)
        self._context.term()
