"""The sources: the live one over a real socket, the replaying one over a recording by script."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace

import msgpack
import pytest
import zmq

from cluster.chunks import ChunkHeader
from cluster.paths import LOCK_FILE, FileLock, Holder, frames_path
from cluster.recorder import Recorder
from cluster.recording import RECORDING_DIRECTORY
from dashboard.live import LiveSource
from dashboard.past import NOT_RECORDED
from dashboard.presenter.events import FAULTS
from dashboard.replay import ReplaySource
from dashboard.source import FakeSource
from dashboard.timeline import Timeline
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


def record(data_dir, frames, *, pid=99):
    """Write a recording as the supervisor `pid` would have."""
    header = ChunkHeader(f"1-{pid}", "0" * 32, "demo", 1, pid, START_MS)
    recorder = Recorder(data_dir / RECORDING_DIRECTORY, header, 16 << 20)
    told = 0
    for frame in frames:
        new = [event for event in frame.events if event.sequence > told]
        while not recorder.record(frame.encode(), new):
            threading.Event().wait(0.001)
        told = frame.events[-1].sequence if frame.events else told
    recorder.close()


@pytest.fixture
def held(publisher, tmp_path):
    """A run directory whose lock says where the data is."""
    made, run_dir = publisher
    lock = FileLock(run_dir / LOCK_FILE)
    assert lock.acquire(Holder(99, "demo", "0" * 32, str(run_dir), str(tmp_path)))
    yield made, run_dir, tmp_path
    lock.release()


def attached(made, run_dir, first):
    source = LiveSource(run_dir)
    made.await_subscriber()
    made.publish(first)
    assert wait_until(lambda: source.latest() == first)
    return source


def test_who_comes_late_looks_back_into_the_recording(held):
    made, run_dir, data_dir = held
    frames = frames_of("frozen", 3, end_ms=20_000)
    record(data_dir, frames[:160])
    source = attached(made, run_dir, replace(frames[150], events=frames[150].events[-1:]))
    try:
        assert wait_until(lambda: (source.span() or (0, 0))[0] == START_MS)
        assert [event.sequence for event in source.events()] == [3, 4, 5, 6]
        for ms in (0, 4_950, 9_000, 14_900):
            assert source.at(START_MS + ms) == frames[ms // 100]
        assert source.at(START_MS + 15_000).sequence == frames[150].sequence
        assert source.at(START_MS - 1) is None
        moments = source.moments(START_MS + 14_700, START_MS + 15_000)
        assert moments == [START_MS + ms for ms in (14_800, 14_900, 15_000)]
        assert source.edge == "the recording begins here"
        timeline = Timeline(source)
        timeline.collect()
        rate = timeline.history.commit_rate(0, START_MS + 9_000)
        assert rate == pytest.approx(6_120, rel=0.02), "charts have a past, too"
        assert timeline.event_moment(-1, FAULTS) == START_MS + 9_000
        made.publish(frames[170])
        assert wait_until(lambda: source.latest() == frames[170])
        assert len(list(source.between(START_MS, START_MS + 17_000))) == 151
    finally:
        source.close()


def test_what_is_kept_of_the_past_is_ten_minutes_and_leaves_with_time(held, monkeypatch):
    made, run_dir, data_dir = held
    monkeypatch.setattr("dashboard.live.WINDOW_MS", 10_000)
    monkeypatch.setattr("dashboard.live.FRAMES_MAX", 0)
    frames = frames_of("healthy", 3, end_ms=40_000)
    record(data_dir, frames[:150])
    source = LiveSource(run_dir, back_ms=10_000)
    try:
        made.await_subscriber()
        made.publish(frames[150])
        assert wait_until(lambda: source.span() == (START_MS + 5_000, START_MS + 15_000))
        made.publish(frames[200])
        assert wait_until(lambda: source.span() == (START_MS + 10_000, START_MS + 20_000))
        assert "ten minutes" in source.edge
        for frame in frames[201:]:
            made.publish(frame)
            assert wait_until(lambda frame=frame: source.latest() == frame)
        oldest, _ = source.span() or (0, 0)
        assert oldest >= START_MS + 15_000, "the files were let go"
        assert source.at(START_MS + 9_000) is None
    finally:
        source.close()


@pytest.mark.parametrize("recorded", ["nothing", "another life", "rubbish"])
def test_without_a_recording_of_this_life_it_is_said_how_far_time_goes(held, recorded):
    made, run_dir, data_dir = held
    frames = frames_of("healthy", 3)
    if recorded == "another life":
        record(data_dir, frames[:50], pid=7)
    elif recorded == "rubbish":
        (data_dir / RECORDING_DIRECTORY).mkdir()
        (data_dir / RECORDING_DIRECTORY / "00000001.rec").write_bytes(b"rubbish" * 99)
    source = attached(made, run_dir, frames[60])
    try:
        words = "cannot be read: .*not a recording" if recorded == "rubbish" else NOT_RECORDED
        assert wait_until(lambda: re.search(words, source.edge)), source.edge
        assert source.span() == (frames[60].unix_ms, frames[60].unix_ms)
    finally:
        source.close()


def test_a_new_life_of_the_cluster_begins_time_anew(held):
    made, run_dir, _ = held
    frames = frames_of("healthy", 3)
    source = attached(made, run_dir, frames[60])
    try:
        again = replace(frames[90], supervisor_pid=100, events=frames[90].events[:1])
        made.publish(again)
        assert wait_until(lambda: source.latest() == again)
        assert [event.sequence for event in source.events()] == [1]
        assert source.span() == (again.unix_ms, again.unix_ms)
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

    def moments(self, start_ms, end_ms):
        return [f.unix_ms for f in self._frames if start_ms < f.unix_ms <= end_ms]

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
