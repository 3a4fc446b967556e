"""What looking costs the nodes: no frame each, for their status is read from shared memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cluster.control import FrameStream
from cluster.frames import ClusterFrame
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from tests.process.hand import SMALL

TIMEOUT_S = 60.0


def admin_frames(frame: ClusterFrame) -> dict[int, int]:
    """How many requests for its status each node has answered."""
    found = {}
    for part in frame.nodes:
        assert part.snapshot is not None
        [lane] = [lane for lane in part.snapshot.traffic.lanes if lane.lane == "admin"]
        found[part.node] = lane.frames_out
    return found


def watched(stream: FrameStream, until: Callable[[ClusterFrame], bool]) -> ClusterFrame:
    """Return the first frame of the stream that is as wanted."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        frame = stream.newest(1.0)
        if frame is not None and until(frame):
            return frame
    raise AssertionError("no such frame came")


def newest(frame: ClusterFrame, node: int) -> tuple[int, int]:
    """A node's uptime (ns) and the age of what it said (ms); an age without end if it said nothing."""
    part = frame.node(node)
    assert part is not None
    if part.snapshot is None or part.snapshot_age_ms is None:
        return 0, 1 << 60
    return part.snapshot.uptime_ns, part.snapshot_age_ms


def state(frame: ClusterFrame, node: int) -> str:
    part = frame.node(node)
    assert part is not None
    return part.process.state.value


def test_a_watched_cluster_answers_no_requests_and_is_as_fresh_as_ever(desk: Path) -> None:
    spec = ClusterSpec(name="deck", data_dir=desk / "data", nodes=3, wal=SMALL)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready(TIMEOUT_S)
        stream = FrameStream(cluster.run_dir)
        try:
            asked = admin_frames(watched(stream, lambda frame: len(frame.caught_up()) == 3))
            frames = [watched(stream, lambda _: True) for _ in range(20)]
            uptimes = set()
            for frame in frames:
                uptimes.add(newest(frame, 1)[0])
                assert max(newest(frame, node)[1] for node in (1, 2, 3)) < 1_000
            assert len(uptimes) > 10, "each frame shows another moment"
            grown = {node: n - asked[node] for node, n in admin_frames(frames[-1]).items()}
            assert max(grown.values()) <= 4, "the first look, and a late page now and then"

            cluster.pause("n2")
            watched(stream, lambda f: state(f, 2) == "frozen" and newest(f, 2)[1] > 500)
            cluster.resume("n2")
            watched(stream, lambda f: newest(f, 2)[1] < 300)

            cluster.kill("n3")
            watched(stream, lambda f: state(f, 3) == "killed")
            cluster.start("n3")
            watched(stream, lambda f: newest(f, 3)[1] < 300)
        finally:
            stream.close()
