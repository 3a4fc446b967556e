"""Who gets frames, and when (`cluster.publisher`)."""

from typing import Any

import msgpack
import pytest
import zmq

import cluster.publisher
from cluster.events import EventLog
from cluster.frames import ClusterFrame
from cluster.publisher import FRAME_STAMP, Publisher


class Watcher:
    """In place of an observer: says how many frames were made."""

    def __init__(self, frame):
        self._frame = frame
        self.made = 0

    def frame(self, pid):
        self.made += 1
        return self._frame


class Tape:
    """In place of a recorder; `full` refuses."""

    def __init__(self):
        self.kept = []
        self.full = False
        self.problem = None
        self.works = True
        self.closed = False

    def record(self, document, events):
        if not self.full:
            self.kept.append((document, events))
        return not self.full

    def news(self):
        problem, self.problem = self.problem, None
        return problem

    def close(self):
        self.closed = True


class Socket:
    """In place of an XPUB; `inbox` holds what subscribers said."""

    def __init__(self):
        self.inbox = []
        self.sent = []
        self.full = False

    def recv(self, flags):
        if not self.inbox:
            raise zmq.Again
        return self.inbox.pop(0)

    def send_multipart(self, parts, flags):
        if self.full:
            raise zmq.Again
        self.sent.append(parts)


@pytest.fixture
def desk_of(healthy_frame):
    def make(tape=None):
        socket: Any = Socket()
        watcher: Any = Watcher(healthy_frame)
        events = EventLog()
        return Publisher(socket, watcher, events, tape), socket, watcher, events

    return make


def test_without_a_subscriber_and_a_recorder_no_frame_is_made(desk_of):
    publisher, _, watcher, events = desk_of()
    publisher.publish()
    events.add("killed", "n1 killed", cause="user")
    publisher.publish_events()
    publisher.close()
    assert watcher.made == 0


def test_a_frame_is_made_once_for_subscribers_and_recorder(desk_of, healthy_frame):
    tape = Tape()
    publisher, socket, watcher, _ = desk_of(tape)
    assert not publisher.take_subscriptions()
    socket.inbox = [b"\x01frame"]
    assert publisher.take_subscriptions()
    publisher.publish()
    assert watcher.made == 1
    [[topic, stamp, body]] = socket.sent
    assert topic == b"frame"
    assert FRAME_STAMP.unpack(stamp) == (healthy_frame.sequence, healthy_frame.unix_ms)
    assert ClusterFrame.decode(msgpack.unpackb(body)) == healthy_frame
    assert ClusterFrame.decode(tape.kept[0][0]) == healthy_frame
    socket.inbox = [b"\x00frame"]
    publisher.take_subscriptions()
    publisher.publish()
    assert len(socket.sent) == 1
    assert len(tape.kept) == 2


def test_what_happens_makes_a_frame_but_not_twenty(desk_of, monkeypatch):
    tape = Tape()
    publisher, _, _, events = desk_of(tape)
    publisher.publish_events()
    assert not tape.kept
    for number in range(20):
        events.add("killed", f"n{number} killed", cause="user")
        publisher.publish_events()
    assert len(tape.kept) == 1
    monkeypatch.setattr(cluster.publisher, "EVENT_FRAME_S", 0)
    publisher.publish()
    assert [len(new) for _, new in tape.kept] == [1, 19]


def test_a_frame_that_was_due_anyhow_does_not_delay_the_one_that_shows_an_event(desk_of):
    tape = Tape()
    publisher, _, _, events = desk_of(tape)
    publisher.publish()
    events.add("killed", "n1 killed", cause="user")
    publisher.publish_events()
    assert [len(new) for _, new in tape.kept] == [0, 1]


def test_events_that_the_recorder_could_not_take_are_handed_over_again(desk_of):
    tape = Tape()
    publisher, _, _, events = desk_of(tape)
    tape.full = True
    events.add("killed", "n1 killed", cause="user")
    publisher.publish()
    tape.full, tape.problem = False, "the recording has gaps"
    publisher.publish()
    publisher.close()
    assert [[event.kind for event in new] for _, new in tape.kept] == [["killed"], ["recorder"]]
    assert tape.closed


def test_a_slow_subscriber_misses_frames_and_nobody_waits(desk_of):
    publisher, socket, watcher, _ = desk_of()
    socket.inbox, socket.full = [b"\x01frame"], True
    publisher.take_subscriptions()
    publisher.publish()
    assert watcher.made == 1
    assert socket.sent == []
