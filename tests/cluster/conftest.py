"""Frames and clusters that the tests of `cluster` share."""

import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.frames import ClusterFrame, Event, NodeFrame, NodeRates, ProcessState, ProcessTruth
from node.metrics import GroupSnapshot, NodeSnapshot, WalSnapshot

PLANTED = Path(__file__).resolve().parent.parent / "planted"


def node_frame(node, state="running", role="follower", *, leader=1, age_ms=5, **group):
    """One node; a dead one has no snapshot, as a supervisor's frames have it."""
    state = ProcessState(state)
    values: dict[str, Any] = {
        "term": 3,
        "vote": 0,
        "last": 20,
        "commit": 20,
        "applied": 20,
        "durable": 20,
    }
    values |= {"elections": 0} | group
    truth = ProcessTruth(state, "user", 1_000, 1, pid=100 + node if state.alive else None)
    if not state.alive:
        return NodeFrame(node, truth)
    snapshot = NodeSnapshot(
        node, 1, 100 + node, 10**9, (GroupSnapshot(0, role, leader=leader, **values),),
        WalSnapshot(fsyncs=10, entries=100),
    )  # fmt: skip
    rates = NodeRates(100.0, 10.0, 2e6, 1000.0, 1000.0) if state is ProcessState.RUNNING else None
    return NodeFrame(node, truth, snapshot, age_ms, rates)


def frame_of(*nodes, groups=1, events=()):
    return ClusterFrame(
        7, 1_795_000_000_000, "0" * 32, "deck", 99, groups, tuple(nodes), tuple(events)
    )


@pytest.fixture
def healthy_frame():
    """Five nodes, n1 leads."""
    others = (node_frame(n) for n in (2, 3, 4, 5))
    event = Event(1, 1_000, "user", "started", 1, "n1 started")
    return frame_of(node_frame(1, role="leader"), *others, events=(event,))


@pytest.fixture
def make_node():
    return node_frame


@pytest.fixture
def make_frame():
    return frame_of


@pytest.fixture(scope="module")
def shared_desk(tmp_path_factory):
    """As `desk`, for a cluster that several tests of a module share."""
    with pytest.MonkeyPatch.context() as patch:
        yield from _desk(tmp_path_factory.mktemp("desk"), patch)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A short runtime directory, and settings and state directories, of the test's own."""
    yield from _desk(tmp_path, monkeypatch)


def _desk(place, patch):
    """Set the environment, and look for survivors afterwards.

    Whatever a test leaves alive is killed after it, and named as a failure: every process of a
    cluster has the runtime directory on its command line.
    """
    with tempfile.TemporaryDirectory(prefix="rd-") as runtime:
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        patch.setenv("XDG_STATE_HOME", str(place / "state"))
        patch.setenv("XDG_CONFIG_HOME", str(place / "config"))
        for name in [name for name in os.environ if name.startswith("RAFTDECK_")]:
            patch.delenv(name)
        try:
            yield Path(runtime)
        finally:
            survivors = processes_naming(runtime)
            for pid in survivors:
                os.kill(pid, signal.SIGKILL)
        assert not survivors, f"the test left processes behind: {survivors}"


def processes_naming(text):
    """Return the living processes that name a text on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text.encode() in command and state != "Z":
            found.append(int(entry.name))
    return found


def wait_until(condition, timeout_s=20.0):
    """Poll a condition; the last value is returned, so that an assertion can show it."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (value := condition()) and time.monotonic() < deadline:
        pause.wait(0.01)
    return value


@pytest.fixture
def eventually():
    return wait_until


@pytest.fixture
def living():
    return processes_naming


@pytest.fixture
def planted():
    return PLANTED


@pytest.fixture
def call(capfdbinary):
    """Run a command line in this process: its exit code, stdout (bytes), stderr (text)."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        return code, captured.out, captured.err.decode()

    return run
