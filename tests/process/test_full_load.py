"""Ten minutes at full speed: the disk is bounded, memory is flat, and the end is as fast as the start.

`RAFTDECK_FULL_LOAD_S` makes the run shorter, for a trial; a "minute" is a tenth of it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.load import Load, LoadPlan, LoadReport
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from cluster.workload import synthetic
from tests.process import meters
from wal import SyncPolicy

NODES = 3
KEYS = 10_000
VALUE_BYTES = 1_024
OUTSTANDING = 1_024
RUN_S = float(os.environ.get("RAFTDECK_FULL_LOAD_S", "600"))
MINUTE_S = RUN_S / 10
WINDOW_S = min(5.0, MINUTE_S / 3)
SPEED_MIN = 0.95
"""Median of the last minute's windows over that of the second minute's."""
RSS_RATIO_MAX = 1.05
RSS_GROWTH_MAX = 8 << 20
"""Memory may grow by this or by 5 %, whatever is more."""

SEGMENT_BYTES = SyncPolicy().segment_bytes
LIVE_SEGMENTS = 9
"""Kept before a snapshot: 1. Grown until the next is due: 1, and while it is written: 1. Partly used
at either end: 2. Held for a voter that lags (`CoreConfig.hold_bytes_max`, 256 MiB): 4."""
SEGMENTS_MAX = LIVE_SEGMENTS + SyncPolicy().spare_segments_max
SNAPSHOT_BYTES_MAX = 2 * KEYS * (VALUE_BYTES + 256)
"""The old one, until the new one is durable."""
DISK_BYTES_MAX = SEGMENTS_MAX * SEGMENT_BYTES + SNAPSHOT_BYTES_MAX + (16 << 20)
"""And the node's log and small files: 736 MB in all."""


@dataclass
class Window:
    """A few seconds: acknowledged operations per second, and what each node then was."""

    at_s: float
    ops_per_s: float
    rss: dict[str, int]
    disk: dict[str, int]
    bare_ms: float
    """CPU time of a fixed piece of work of this process: how fast the machine was."""


@dataclass
class Watch:
    """Looks at the load and the nodes every few seconds."""

    cluster: LocalCluster
    processes: dict[str, int]
    windows: list[Window] = field(default_factory=list)
    load: Load | None = None
    _acked: int = 0
    _at_s: float = 0.0

    def look(self, at_s: float) -> str | None:
        """Close a window if its time is over; return a line of progress then."""
        assert self.load is not None
        if at_s < self._at_s + WINDOW_S:
            return None
        acked, rate = self.load.acked, (self.load.acked - self._acked) / (at_s - self._at_s)
        self._acked, self._at_s = acked, at_s
        readings = meters.read_all(self.processes)
        rss = {name: reading.rss_bytes for name, reading in readings.items()}
        nodes = self.cluster.spec.node_ids
        disk = {f"n{n}": meters.disk_bytes(self.cluster.spec.node_dir(n)) for n in nodes}
        self.windows.append(Window(at_s, rate, rss, disk, bare_work_ms()))
        return (
            f"{at_s:6.1f} s  {rate:9,.0f} ops/s  RSS MB "
            + " ".join(f"{rss[f'n{n}'] / 1e6:.0f}" for n in nodes)
            + "  disk MB "
            + " ".join(f"{disk[f'n{n}'] / 1e6:.0f}" for n in nodes)
        )

    def minutes(self, first: float, last: float) -> list[Window]:
        """The windows that lie in minutes `first` up to `last` (0 is the start)."""
        return [w for w in self.windows if first * MINUTE_S < w.at_s <= last * MINUTE_S + 0.2]


def bare_work_ms() -> float:
    """About 4 ms of work that touches nothing of ours."""
    began = time.thread_time_ns()
    total = 0
    for number in range(100_000):
        total += number
    return (time.thread_time_ns() - began) / 1e6


def run(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> tuple[Watch, LoadReport]:
    watch = Watch(cluster, meters.pids(cluster))
    with cluster.client() as client:
        plan = LoadPlan(
            synthetic(KEYS, VALUE_BYTES), OUTSTANDING, seconds=RUN_S + 0.5, timeout_s=30.0
        )
        watch.load = load = Load(client, plan)

        def tick(at_s: float) -> None:
            if line := watch.look(at_s):
                with capsys.disabled():
                    print(line, flush=True)

        report = load.run(tick)
    return watch, report


def speed(windows: list[Window]) -> float:
    return meters.median([window.ops_per_s for window in windows])


def rss(windows: list[Window], name: str) -> float:
    return meters.median([window.rss[name] for window in windows])


@pytest.mark.long("full-load")
@pytest.mark.timeout(2400)
def test_ten_minutes_of_full_load_stay_bounded_and_even(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three nodes, default configuration, 10,000 keys of 1 KiB written over and over."""
    spec = ClusterSpec(name="full", data_dir=desk / "data", nodes=NODES)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready(60)
        before = [part.process.pid for part in cluster.frame().nodes]
        watch, report = run(cluster, capsys)
        assert [part.process.pid for part in cluster.frame().nodes] == before
    second, last = watch.minutes(1, 2), watch.minutes(9, 10)
    early, late = watch.minutes(4, 6), watch.minutes(8, 10)
    nodes = [f"n{node}" for node in spec.node_ids]
    ratio = speed(last) / speed(second)
    bare = [meters.median([w.bare_ms for w in part]) for part in (second, last)]
    disk = {name: max(window.disk[name] for window in watch.windows) for name in nodes}
    memory = {name: (rss(early, name), rss(late, name)) for name in nodes}
    document = {
        "schema": "raftdeck.full_load/1",
        "seconds": RUN_S,
        "acked": report.acked,
        "indefinite": report.indefinite,
        "definite": report.definite,
        "ops_per_s": report.ops_per_s,
        "ops_per_s_minutes": [round(speed(watch.minutes(m, m + 1))) for m in range(10)],
        "last_over_second_minute": round(ratio, 3),
        "bare_machine_ms": [round(value, 2) for value in bare],
        "rss_bytes_early_late": memory,
        "disk_bytes_max": disk,
        "disk_bytes_bound": DISK_BYTES_MAX,
        "p99_ms": report.p99_ms,
    }
    rows = [
        (
            name,
            f"{memory[name][0] / 1e6:.1f}",
            f"{memory[name][1] / 1e6:.1f}",
            f"{disk[name] / 1e6:.0f}",
        )
        for name in nodes
    ]
    columns = ("node", "RSS MB, minutes 5-6", "last 2", "disk MB at most")
    text = meters.table(columns, rows)
    text += f"\n{report.ops_per_s:,.0f} ops/s; last minute over second: {ratio:.3f}"
    text += f"; the bare machine: {bare[0] / bare[1]:.3f}"
    meters.publish(capsys, text, document)
    assert report.definite == report.indefinite == 0, report.last_error
    assert max(disk.values()) <= DISK_BYTES_MAX
    for name, (then, now) in memory.items():
        assert now <= max(then * RSS_RATIO_MAX, then + RSS_GROWTH_MAX), name
    assert ratio >= SPEED_MIN, f"{ratio:.3f} of the second minute's speed"
