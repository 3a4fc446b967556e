"""Frames for whoever draws them: `FrameSource`, and `LiveFeed`, its living implementation.

    async with LiveFeed.attach("deck") as feed:
        while await feed.changed():
            draw(feed.latest())

A `LiveFeed` subscribes to a supervisor within one asyncio loop, without a thread. Frames that have
piled up are kept packed and only the newest is decoded, so that a slow screen is late for nothing.
What was before the feed began comes from the recording in the data directory, which is looked
through in steps of some milliseconds. A supervisor that is silent is looked after: its lock says
whether it lives. Requests (`act`) wait without blocking the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self

import msgpack
import zmq
import zmq.asyncio

from cluster.api import ActionResult
from cluster.exits import CommandError, Exit
from cluster.frames import ClusterFrame, Event, FrameError
from cluster.paths import LOCK_FILE, FileLock, control_path, frames_path
from cluster.publisher import FRAME_STAMP
from cluster.recording import EVENTS_KEPT_MAX, Recording
from node.admin import MESSAGE_BYTES_MAX, Malformed, decode_reply, encode_request

__all__ = ["FeedState", "FrameSource", "LiveFeed"]

KEPT_FRAMES_MAX: Final = 1_200
"""Two minutes at 10 Hz; what is older is read from the recording."""
KEPT_BYTES_MAX: Final = 64 << 20
SILENT_S: Final = 1.0
"""Ten frames that did not come."""
LOOK_MS: Final = 250
REQUEST_TIMEOUT_S: Final = 120.0
"""Longer than any operation's own deadline: the supervisor's error is the better one."""


class FrameSource(Protocol):
    """Where a picture comes from: a living cluster (`LiveFeed`) or a recording of one."""

    def latest(self) -> ClusterFrame | None:
        """Return the newest frame."""

    def frames_since(self, sequence: int) -> Iterator[ClusterFrame]:
        """Yield the frames after a number, oldest first; of a living cluster those up to now."""

    def frame_at(self, unix_ms: int) -> ClusterFrame | None:
        """Return the newest frame of that time or before it; None if there is none."""

    def events(self) -> tuple[Event, ...]:
        """Return the events, oldest first; of very many, the newest."""

    def span(self) -> tuple[int, int] | None:
        """Return the times of the first and of the last frame (unix ms); None if there is none."""


class FeedState(Enum):
    """LIVE: frames come. SILENT: none for a second, the supervisor lives. GONE: it does not."""

    LIVE = "live"
    SILENT = "silent"
    GONE = "gone"


class _Packed(NamedTuple):
    """A frame as it came."""

    sequence: int
    unix_ms: int
    body: bytes


class LiveFeed:
    """The frames of a living cluster; satisfies `FrameSource`. One asyncio loop."""

    def __init__(self, run_dir: Path) -> None:
        """Prepare to follow the supervisor of a run directory; `CommandError` if there is none."""
        holder = FileLock.read_holder(run_dir / LOCK_FILE)
        if holder is None or not FileLock.is_held(run_dir / LOCK_FILE):
            raise CommandError(Exit.NO_CLUSTER, f"no running cluster {run_dir.name!r}")
        self.supervisor_pid = holder.pid
        self.data_dir = Path(holder.data_dir)
        self.state = FeedState.SILENT
        self.malformed = 0
        self._run_dir = run_dir
        self._kept: deque[_Packed] = deque()
        self._kept_bytes = 0
        self._decoded: ClusterFrame | None = None
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT_MAX)
        self._history: Recording | None = None
        self._heard_s = time.monotonic()
        self._told = asyncio.Event()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def attach(cls, where: str | None = None) -> Self:
        """Find a running cluster by name or data directory; None: the only one."""
        from cluster.local import find_run_dir

        return cls(find_run_dir(where))

    async def __aenter__(self) -> Self:
        self._context = zmq.asyncio.Context()
        self._frames = self._connected(zmq.SUB, frames_path(self._run_dir))
        self._frames.set(zmq.SUBSCRIBE, b"frame")
        self._control = self._connected(zmq.DEALER, control_path(self._run_dir))
        works = (self._follow(), self._take_replies(), self._look_back())
        self._tasks = [asyncio.create_task(work) for work in works]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the subscription; the cluster goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._refuse_all("the feed was closed")
        self._frames.close()
        self._control.close()
        self._context.term()
        if self._history is not None:
            self._history.close()

    def _connected(self, kind: int, path: Path) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, 10)
        socket.set(zmq.RCVHWM, 64)
        socket.set(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
        socket.connect(f"ipc://{path}")
        return socket

    # --- looking ----------------------------------------------------------------------

    @property
    def age_ms(self) -> int:
        """Time since the newest frame came, or since the feed began."""
        return int((time.monotonic() - self._heard_s) * 1000)

    async def changed(self) -> bool:
        """Wait for a new frame or a new state; False once the supervisor is gone."""
        await self._told.wait()
        self._told.clear()
        return self.state is not FeedState.GONE

    def latest(self) -> ClusterFrame | None:
        """See `FrameSource`."""
        return self._decoded

    def frames_since(self, sequence: int) -> Iterator[ClusterFrame]:
        """See `FrameSource`."""
        newest = tuple(self._kept)
        first = newest[0].sequence if newest else 0
        if self._history is not None and (not newest or sequence + 1 < first):
            for frame in self._history.frames_since(sequence):
                if newest and frame.sequence >= first:
                    break
                yield frame
        for packed in newest:
            if packed.sequence > sequence and (decoded := self._decode(packed)) is not None:
                yield decoded

    def frame_at(self, unix_ms: int) -> ClusterFrame | None:
        """See `FrameSource`."""
        position = bisect_right(self._kept, unix_ms, key=lambda packed: packed.unix_ms) - 1
        if position >= 0:
            return self._decode(self._kept[position])
        return None if self._history is None else self._history.frame_at(unix_ms)

    def events(self) -> tuple[Event, ...]:
        """See `FrameSource`."""
        return self.events_since(0)

    def events_since(self, sequence: int) -> tuple[Event, ...]:
        """Return the events after a number, oldest first."""
        old = () if self._history is None else self._history.events_since(sequence)
        last = old[-1].sequence if old else sequence
        return old + tuple(event for event in self._events if event.sequence > last)

    def span(self) -> tuple[int, int] | None:
        """See `FrameSource`."""
        old = None if self._history is None else self._history.span()
        if not self._kept:
            return old
        first = min(self._kept[0].unix_ms, old[0] if old else self._kept[0].unix_ms)
        return first, self._kept[-1].unix_ms

    # --- acting -----------------------------------------------------------------------

    async def act(
        self, verb: str, selector: str, *, seed: int | None = None, step: str = ""
    ) -> ActionResult:
        """Apply a verb of `cluster.actions` to nodes; `CommandError` is what the supervisor says.

        `step` names the scenario's step that wants it; without it, it is you.
        """
        args: dict[str, Any] = {"action": verb, "selector": selector, "step": step}
        if seed is not None:
            args["seed"] = seed
        done = await self.request("act", args)
        return ActionResult(
            verb, selector, tuple(done["nodes"]), dict(done["states"]), tuple(done["notes"])
        )

    async def request(self, verb: str, args: Mapping[str, Any] | None = None) -> Any:
        """Send a control request and wait for its payload; others may be sent meanwhile."""
        if self.state is FeedState.GONE:
            raise self._gone()
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            await self._control.send(encode_request(number, verb, args))
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await future
        except TimeoutError:
            raise CommandError(
                Exit.UNFIT, f"the supervisor did not answer {verb!r} in time"
            ) from None
        finally:
            del self._waiting[number]

    def _gone(self) -> CommandError:
        return CommandError(
            Exit.NO_CLUSTER,
            f"cluster {self._run_dir.name!r}: its supervisor is gone; see: raftdeck ls",
        )

    def _refuse_all(self, why: str) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(CommandError(Exit.NO_CLUSTER, why))

    # --- at work ----------------------------------------------------------------------

    async def _follow(self) -> None:
        """Take frames as they come; look after a supervisor that is silent."""
        while self.state is not FeedState.GONE:
            if await self._frames.poll(LOOK_MS):
                await self._drain()
            elif self.age_ms > SILENT_S * 1000:
                lives = FileLock.is_held(self._run_dir / LOCK_FILE)
                self._become(FeedState.SILENT if lives else FeedState.GONE)
        self._refuse_all(str(self._gone()))

    async def _drain(self) -> None:
        came = False
        with contextlib.suppress(zmq.Again):
            while True:
                parts = await self._frames.recv_multipart(zmq.NOBLOCK)
                if len(parts) != 3 or len(parts[1]) != FRAME_STAMP.size:
                    self.malformed += 1
                    continue
                sequence, unix_ms = FRAME_STAMP.unpack(parts[1])
                self._keep(_Packed(sequence, unix_ms, parts[2]))
                came = True
        if came and (frame := self._decode(self._kept[-1])) is not None:
            self._decoded = frame
            last = self._events[-1].sequence if self._events else 0
            self._events += (event for event in frame.events if event.sequence > last)
            self._heard_s = time.monotonic()
            self.state = FeedState.LIVE
            self._told.set()

    def _keep(self, packed: _Packed) -> None:
        self._kept.append(packed)
        self._kept_bytes += len(packed.body)
        while len(self._kept) > KEPT_FRAMES_MAX or self._kept_bytes > KEPT_BYTES_MAX:
            self._kept_bytes -= len(self._kept.popleft().body)

    def _decode(self, packed: _Packed) -> ClusterFrame | None:
        newest = self._decoded
        if newest is not None and newest.sequence == packed.sequence:
            return newest
        try:
            return ClusterFrame.decode(msgpack.unpackb(packed.body))
        except (FrameError, ValueError, msgpack.UnpackException):
            self.malformed += 1
            return None

    def _become(self, state: FeedState) -> None:
        if state is not self.state:
            self.state = state
            self._told.set()

    async def _take_replies(self) -> None:
        while True:
            parts = await self._control.recv_multipart()
            try:
                reply = decode_reply(parts[-1])
            except Malformed:
                self.malformed += 1
                continue
            future = self._waiting.get(reply.number)
            if future is None or future.done():
                continue  # it came too late
            if reply.ok:
                future.set_result(reply.payload)
            else:
                future.set_exception(CommandError.decode(reply.payload))

    async def _look_back(self) -> None:
        """Read the recording of this supervisor's life, a few MB at a time, and follow it."""
        while True:
            if self._history is None:
                self._history = self._recording()
            while self._history is not None and self._history.look():
                await asyncio.sleep(0)
            await asyncio.sleep(SILENT_S)

    def _recording(self) -> Recording | None:
        """Return the recording of the present life; None while there is none."""
        try:
            found = Recording(self.data_dir)
        except CommandError:
            return None
        if found.header.supervisor_pid == self.supervisor_pid:
            return found
        found.close()
        return None
