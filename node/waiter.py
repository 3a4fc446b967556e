"""Waits for ZeroMQ sockets and files by their descriptors: one system call per wake-up.

Theory of operation
-------------------
`zmq_poll` asks every socket before and after it waits, and each question is a system call of its
own: a dozen sockets made 27 of them per wake-up, most of an idle node's time. A socket's own
descriptor (`zmq.FD`) becomes readable when ZeroMQ has something to tell the socket, and stays so
until a call on the socket takes it in. The trap: *any* call takes it in, a send too; then the
descriptor is silent though a message waits. So whoever was used since the last wait is asked once
more before sleeping (`touched`), and a reader reads until nothing is left or says so here.
"""

from __future__ import annotations

import select
from collections.abc import Collection
from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    Socket = zmq.Socket[bytes]
else:
    Socket = zmq.Socket

__all__ = ["Waiter", "has_message"]


class Waiter:
    """What one thread waits for, by names. Sockets must not be used by other threads."""

    def __init__(self) -> None:
        """Open an epoll descriptor."""
        self._epoll = select.epoll()
        self._names: dict[int, str] = {}
        self._sockets: dict[str, Socket] = {}
        self._touched: set[str] = set()

    def add_socket(self, name: str, socket: Socket) -> None:
        """Wait for messages on a socket; it counts as touched."""
        self._sockets[name] = socket
        fd = socket.getsockopt(zmq.FD)
        assert isinstance(fd, int)
        self.add_file(name, fd)
        self._touched.add(name)

    def add_file(self, name: str, fd: int) -> None:
        """Wait for a file descriptor to become readable."""
        self._names[fd] = name
        self._epoll.register(fd, select.EPOLLIN)

    def touched(self, names: Collection[str]) -> None:
        """Note sockets that were used, and may hold more than they showed."""
        self._touched.update(names)

    def wait(self, timeout_s: float) -> set[str]:
        """Return who may have something to read, within `timeout_s`; nobody may be a false alarm's."""
        ready = {name for name in self._touched if has_message(self._sockets[name])}
        self._touched.clear()
        for fd, _ in self._epoll.poll(0 if ready else timeout_s):
            ready.add(self._names[fd])
        return ready

    def close(self) -> None:
        """Close the epoll descriptor; sockets and files stay their owners'."""
        self._epoll.close()


def has_message(socket: Socket) -> bool:
    """Tell whether a receive would succeed now; far cheaper than one that fails."""
    events = socket.getsockopt(zmq.EVENTS)
    assert isinstance(events, int)
    return bool(events & zmq.POLLIN)
