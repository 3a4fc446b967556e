"""Makes frames of what is observed, and gives them to whoever wants them: subscribers, a recorder.

A frame is made and encoded once, whoever listens. Ten a second while somebody does, one a second
otherwise (for the recorder only), and one more when something happened. Of clusters with very many
groups a frame carries `STREAM_GROUPS_MAX`; all of them are in the frames that are asked for.

On the wire (PUB): `[b"frame", sequence and unix_ms (2 × u64, little endian), msgpack]`.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from typing import Final

import msgpack
import zmq

from cluster.events import EventLog
from cluster.observer import Observer
from cluster.recorder import Recorder

__all__ = ["FRAME_STAMP", "STREAM_GROUPS_MAX", "Publisher"]

STREAM_GROUPS_MAX: Final = 64
"""15 nodes × 64 groups × about 250 bytes are 240 KB a frame."""
TOPIC: Final = b"frame"
EVENT_FRAME_S: Final = 0.05
"""At least so long between two frames that only an event asked for."""
FRAME_STAMP: Final = struct.Struct("<QQ")


class Publisher:
    """The frames of one supervisor. Main thread; the socket stays the caller's."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        observer: Observer,
        events: EventLog,
        recorder: Recorder | None,
    ) -> None:
        """Publish on an XPUB; record too if there is a recorder."""
        self._topics: set[bytes] = set()
        self._socket = socket
        self._observer = observer
        self._events = events
        self._recorder = recorder
        self._recorded_to = 0
        self._event_frames_from = 0.0

    @property
    def watched(self) -> bool:
        """Whether anybody subscribes."""
        return bool(self._topics)

    def take_subscriptions(self) -> bool:
        """Note who came and went; return whether somebody new came.

        XPUB tells of each topic's first and last subscriber. A topic is a prefix of what is sent, so
        six of them matter; the rest is not for us.
        """
        came = False
        while True:
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return came
            verb, topic = message[:1], message[1:]
            if not TOPIC.startswith(topic):
                continue
            if verb == b"\x01" and topic not in self._topics:
                self._topics.add(topic)
                came = True
            elif verb == b"\x00":
                self._topics.discard(topic)

    def publish(self) -> None:
        """Make the frame of this moment, if anybody wants one."""
        if not self.watched and self._recorder is None:
            return
        self._observer.recording = self._recorder is not None and self._recorder.works
        frame = self._observer.frame(os.getpid()).slimmed(STREAM_GROUPS_MAX)
        document = frame.encode()
        if self.watched:
            stamp = FRAME_STAMP.pack(frame.sequence, frame.unix_ms)
            with contextlib.suppress(zmq.Again):  # a slow subscriber misses frames
                self._socket.send_multipart([TOPIC, stamp, msgpack.packb(document)], zmq.NOBLOCK)
        if self._recorder is not None:
            events = self._events.since(self._recorded_to)
            if self._recorder.record(document, events) and events:
                self._recorded_to = events[-1].sequence
            if (news := self._recorder.news()) is not None:
                self._events.add("recorder", news, cause="system")

    def publish_events(self) -> None:
        """Make a frame if something has happened since the last one."""
        happened = self._recorder is not None and self._events.sequence > self._recorded_to
        if happened and time.monotonic() >= self._event_frames_from:
            self._event_frames_from = time.monotonic() + EVENT_FRAME_S
            self.publish()

    def close(self) -> None:
        """Make the last frame, and let the recorder end."""
        if self._recorder is not None:
            self.publish()
            self._recorder.close()
