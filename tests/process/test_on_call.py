"""What somebody sees who is called at night: a full disk, a supervisor that hangs, one that is gone."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time

import pytest

from cluster.local import LocalCluster
from cluster.recording import RECORDING_DIRECTORY, Recording
from cluster.spec import ClusterSpec
from cluster.tables import headline
from tests.process.hand import SMALL
from tests.process.terminal import Terminal

RAFTDECK = [sys.executable, "-c", "import sys; from dashboard.cli import main; sys.exit(main())"]


@pytest.fixture
def cluster(desk):
    spec = ClusterSpec(name="night", data_dir=desk / "data", nodes=3, wal=SMALL)
    launched = LocalCluster.launch(spec)
    try:
        launched.wait_ready()
        yield launched
    finally:
        os.kill(launched.supervisor_pid, signal.SIGCONT)
        launched.__exit__(None, None, None)


@pytest.fixture
def dashboard():
    opened: list[Terminal] = []

    def attach(*options) -> Terminal:
        opened.append(Terminal([*RAFTDECK, "dash", *options]))
        return opened[-1]

    yield attach
    for one in opened:
        one.close()


def until(condition, timeout_s=40.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    return found


def recorded_state(cluster: LocalCluster, node: int) -> str:
    with Recording.open(cluster.spec.data_dir) as recording:
        latest = recording.latest()
        return "" if latest is None else latest.node(node).process.state.value


def leave(screen: Terminal) -> None:
    screen.press("q")
    assert screen.ends() == 0
    assert screen.restored()


@pytest.mark.timeout(150)
def test_a_full_disk_stops_the_recording_and_nothing_else(cluster, dashboard):
    screen = dashboard()
    screen.await_text("LEADER")
    written = cluster.spec.data_dir / RECORDING_DIRECTORY
    size = sum(path.stat().st_size for path in written.iterdir())
    _, hard = resource.prlimit(cluster.supervisor_pid, resource.RLIMIT_FSIZE)
    resource.prlimit(cluster.supervisor_pid, resource.RLIMIT_FSIZE, (size + 4_000, hard))
    screen.await_text("not recorded: (File too large|No space left)")
    screen.await_text("NO REC")
    assert "NOT RECORDED" in headline(cluster.frame()), "status says so, too"
    with cluster.client() as client:
        client.put(b"key", b"all the same")
    assert len(cluster.frame().healthy()) == 3
    resource.prlimit(cluster.supervisor_pid, resource.RLIMIT_FSIZE, (hard, hard))
    screen.await_text("recorded again: [0-9,]+ frames are missi", 60)
    until(lambda: cluster.frame().recording)
    leave(screen)
    with Recording.open(cluster.spec.data_dir) as recording:
        told = [event.text for event in recording.events() if event.kind == "recorder"]
    assert told[0].startswith("not recorded"), "what happened meanwhile is not lost"
    assert told[1].startswith("recorded again")


@pytest.mark.timeout(150)
def test_who_is_called_afterwards_goes_back_to_what_happened(cluster, dashboard):
    old = cluster.kill("leader").nodes[0]
    cluster.wait_for(lambda frame: frame.leader() not in (None, old), 20)
    until(lambda: recorded_state(cluster, old) == "killed")  # one fast enough shares a frame
    cluster.start(f"n{old}")
    cluster.wait_for(lambda frame: len(frame.caught_up()) == 3, 20)
    screen = dashboard()
    screen.await_text("3 up")
    deadline = time.monotonic() + 30
    while "FROZEN" not in screen.text:
        assert time.monotonic() < deadline, screen.text[-2000:]
        screen.press("F")  # until the recording was looked through
        for _ in range(20):
            screen.pump(0.1)
    screen.await_text("1 dead")
    screen.await_text(rf"n{old} killed .*SIGKILL")
    screen.press("G")
    leave(screen)


@pytest.mark.timeout(150)
def test_a_supervisor_that_hangs_is_told_by_its_age_and_holds_nobody(cluster, dashboard):
    first, second = dashboard(), dashboard("--readonly")
    for screen in (first, second):
        screen.await_text("LEADER")
    first.press("m")
    first.await_text("'mark 1' is in the recording")
    os.kill(cluster.supervisor_pid, signal.SIGSTOP)
    for screen in (first, second):
        screen.await_text("STALE")
        screen.await_text(r"NO FRAMES for [\d.]+ s")
    first.press("xk")
    first.await_text("kill n. …")
    leave(first)
    late = dashboard()
    late.await_text("waiting for the first frame")
    leave(late)
    os.kill(cluster.supervisor_pid, signal.SIGCONT)
    cluster.mark("awake again")
    second.await_text("awake again")
    second.await_text("LIVE")
    leave(second)


@pytest.mark.timeout(150)
def test_a_supervisor_that_is_gone_is_told_and_its_last_picture_stays(cluster, dashboard):
    first, second = dashboard(), dashboard("--readonly")
    for screen in (first, second):
        screen.await_text("LEADER")
    os.kill(cluster.supervisor_pid, signal.SIGKILL)
    for screen in (first, second):
        screen.await_text("ENDED")
        screen.await_text("the supervisor is gone")
    first.press("xk")
    first.await_text("kill: .*(gone|no running|not)")
    first.press("{")
    first.await_text("FROZEN")
    leave(first)
    leave(second)
    assert "the supervisor is gone: the cluster is down" in second.said
