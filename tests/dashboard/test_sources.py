"""The sources: the live one over a real socket, the replaying one over a recording by script."""

from __future__ import annotations

import threading
import time

import msgpack
import pytest
import zmq

from cluster.paths import frames_path
from dashboard.live import LiveSource
from dashboard.replay import ReplaySource
from dashboard.source import FakeSource
from tests.dashboard.scenes import START_MS, frames_of


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (value := condition()) and time.monotonic() < deadline:
        pause.wait(0.01)
    return value


class Publisher:
    """A supervisor's frame socket."""

    def __init__(self, run_dir):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.set(zmq.LINGER, 0)
        self.socket.bind(f"ipc://{frames_path(run_dir)}")

    def await_subscriber(self):
        assert self.socket.poll(10_000)
        self.socket.recv()

    def publish(self, frame):
        self.socket.send_multipart([b"frame", msgpack.packb(frame.encode())])

    def close(self):
        self.socket.close()
        self.context.term()


@pytest.fixture
def publisher(tmp_path_factory):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="rd-") as place:
        made = Publisher(Path(place))
        yield made, Path(place)
        made.close()


def test_the_live_source_keeps_frames_and_events_and_decodes_old_ones(publisher):
    made, run_dir = publisher
    frames = frames_of("healthy", 3, end_ms=12_000)
    source = LiveSource(run_dir)
    try:
        made.await_subscriber()
        for frame in frames[::20]:
            made.publish(frame)
            assert wait_until(lambda frame=frame: source.latest() == frame)
        assert source.span() == (START_MS, START_MS + 12_000)
        assert source.at(START_MS + 4_500) == frames[40]
        assert source.at(START_MS - 1) is None
        assert [f.unix_ms for f in source.between(START_MS, START_MS + 9_000, 3_900)] == [
            START_MS + 2_000, START_MS + 6_000,
        ]  # fmt: skip
        assert [event.sequence for event in source.events()] == [1, 2, 3, 4, 5, 6]
        made.socket.send_multipart([b"frame", b"rubbish"])
        made.publish(frames[-1])
        assert wait_until(lambda: source.latest() == frames[-1])
    finally:
        source.close()


def test_a_supervisor_that_is_gone_is_told_and_nothing_spins(publisher):
    _, run_dir = publisher
    source = LiveSource(run_dir)
    try:
        assert wait_until(lambda: source.problem)
        assert "gone" in str(source.problem)
        before = time.process_time()
        threading.Event().wait(0.5)
        assert time.process_time() - before < 0.25
    finally:
        source.close()


class Script:
    """A recording in memory."""

    def __init__(self, frames):
        self._frames = frames
        self.decoded = 0
        self.closed = False

    def latest(self):
        return self._frames[-1]

    def frame_at(self, unix_ms):
        self.decoded += 1
        return next((f for f in reversed(self._frames) if f.unix_ms <= unix_ms), None)

    def frames(self, start_ms, end_ms):
        return (f for f in self._frames if start_ms <= f.unix_ms <= end_ms)

    def events(self):
        return self._frames[-1].events

    def span(self):
        return self._frames[0].unix_ms, self._frames[-1].unix_ms

    def close(self):
        self.closed = True


def test_live_scripted_and_replayed_sources_agree():
    frames = frames_of("frozen", 3, end_ms=12_000)
    script, fake = Script(frames), FakeSource(frames, "replay")
    replay = ReplaySource(script)
    assert replay.kind == fake.kind == "replay"
    assert replay.latest() == fake.latest()
    assert replay.span() == fake.span()
    assert list(replay.events()) == list(fake.events())
    for ms in (-5, 0, 4_950, 12_000, 99_000):
        assert replay.at(START_MS + ms) == fake.at(START_MS + ms)
    stretch = (START_MS + 1_000, START_MS + 3_000)
    assert list(replay.between(*stretch)) == list(fake.between(*stretch))
    assert replay.moments(*stretch) == fake.moments(*stretch)
    script.decoded = 0
    assert len(list(replay.between(START_MS, START_MS + 10_000, 1_000))) == 10
    assert script.decoded == 10, "frames between the steps are not decoded"
    replay.close()
    assert script.closed
