"""The supervisor's control socket and frame stream, from the outside. One thread each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import zmq

from cluster.closing import Closing
from cluster.exits import CommandError, Exit
from cluster.frames import ClusterFrame, FrameError
from cluster.paths import LOCK_FILE, FileLock, control_path, frames_path
from node.admin import MESSAGE_BYTES_MAX, Malformed, decode_reply, encode_request

__all__ = ["Control", "FrameStream"]

REQUEST_TIMEOUT_S = 10.0
LOOK_INTERVAL_S = 0.25
"""How often a waiting request looks whether the supervisor still lives."""
LAST_WORDS_MS = 100


class Control(Closing):
    """Requests to one supervisor. `CommandError` is what it refused, or that it is gone."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = _connected(self._context, zmq.DEALER, control_path(run_dir))
        self._number = 0

    def close(self) -> None:
        """Close the connection; the supervisor goes on."""
        self._socket.close()
        self._context.term()

    def request(
        self,
        verb: str,
        args: Mapping[str, Any] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Any:
        """Send one request and return its payload."""
        self._number += 1
        deadline = time.monotonic() + timeout_s
        self._wait(zmq.POLLOUT, deadline, verb)
        self._socket.send(encode_request(self._number, verb, args))
        while True:
            self._wait(zmq.POLLIN, deadline, verb)
            try:
                reply = decode_reply(self._socket.recv())
            except Malformed as error:
                raise CommandError(Exit.UNFIT, f"supervisor of {self._name}: {error}") from None
            if reply.number == self._number:
                break  # others answer requests that timed out here
        if not reply.ok:
            raise CommandError.decode(reply.payload)
        return reply.payload

    @property
    def _name(self) -> str:
        return f"cluster {self._run_dir.name!r}"

    def _wait(self, flag: int, deadline: float, verb: str) -> None:
        while True:
            remaining = deadline - time.monotonic()
            if self._socket.poll(int(max(0, min(remaining, LOOK_INTERVAL_S)) * 1000), flag):
                return
            if not FileLock.is_held(self._run_dir / LOCK_FILE):
                # Its last answer may have come between the two looks: a `down` ends so.
                if self._socket.poll(LAST_WORDS_MS, flag):
                    return
                raise CommandError(
                    Exit.NO_CLUSTER, f"{self._name}: its supervisor is gone; see: raftdeck ls"
                )
            if remaining <= 0:
                raise CommandError(
                    Exit.UNFIT, f"{self._name}: the supervisor did not answer {verb!r} in time"
                )


class FrameStream:
    """A subscription: the supervisor publishes ten frames a second while it stands."""

    def __init__(self, run_dir: Path) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = _connected(self._context, zmq.SUB, frames_path(run_dir))
        self._socket.set(zmq.SUBSCRIBE, b"frame")
        self.malformed = 0

    def newest(self, timeout_s: float) -> ClusterFrame | None:
        """Wait for a frame and return the newest that has arrived; None after the timeout."""
        found = self.newest_packed(timeout_s)
        return None if found is None else found[1]

    def newest_packed(self, timeout_s: float) -> tuple[bytes, ClusterFrame] | None:
        """Do the same, and return the frame's bytes too: whoever keeps frames keeps those."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        parts: list[bytes] = []
        with contextlib.suppress(zmq.Again):
            while True:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
        try:
            return parts[-1], ClusterFrame.decode(msgpack.unpackb(parts[-1]))
        except (FrameError, ValueError, msgpack.UnpackException):
            self.malformed += 1
            return None

    def close(self) -> None:
        """End the subscription."""
        self._socket.close()
        self._context.term()


def _connected(context: zmq.Context[zmq.Socket[bytes]], kind: int, path: Path) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.set(zmq.LINGER, 0)
    # Not IMMEDIATE: with it, a peer that leaves takes the answers along that are not yet read.
    socket.set(zmq.RECONNECT_IVL, 10)
    socket.set(zmq.RCVHWM, 64)
    socket.set(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
    socket.connect(f"ipc://{path}")
    return socket
