"""Ten minutes of watching under load: memory and CPU of the dashboard stay what they were.

`RAFTDECK_DASHBOARD_S` makes the run shorter, for a trial; a "minute" is a tenth of it.
"""

from __future__ import annotations

import contextlib
import os
from itertools import pairwise
from pathlib import Path

import pytest

from cluster.bench.paced import Paced
from cluster.bench.screens import Screen, pump, shut
from cluster.bench.stage import Reading, Stage
from tests.process import meters

NODES = 11
RUN_S = float(os.environ.get("RAFTDECK_DASHBOARD_S", "600"))
MINUTE_S = RUN_S / 10
RATE = 1_000.0
KEPT_BYTES_MAX = 8 * MINUTE_S * 10 * 6_000
"""Ten frames a second are kept for ten minutes, some 4 kB each; from the end of the second minute on."""
SLACK_BYTES = 8 << 20
CPU_GROWTH_MAX = 1.2


@pytest.mark.long("dashboard")
@pytest.mark.timeout(1800)
def test_ten_minutes_of_watching_stay_even(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readings: list[Reading] = []
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(Stage(NODES, desk / "data"))
        screen = Screen(stage.name)
        stack.callback(shut, [screen])
        screen.wait_shown()
        stage.begin(Paced(RUN_S + 5, RATE))
        for _ in range(11):
            readings.append(stage.reading([screen.pid]))
            pump([screen], MINUTE_S)
        written = screen.bytes_read
        stage.end(lambda: pump([screen], 0.05))
    cpu = [
        after.watched_cpu_since(before) / (after.at_s - before.at_s)
        for before, after in pairwise(readings)
    ]
    rss = [reading.rss_bytes for reading in readings]
    table = [
        (i, f"{c:.3f}", f"{r / 1e6:.1f}") for i, (c, r) in enumerate(zip(cpu, rss[1:], strict=True))
    ]
    document = {"schema": "raftdeck.dashboard_long/1", "seconds": RUN_S, "cpu": cpu, "rss": rss}
    meters.publish(
        capsys,
        meters.table(("minute", "CPU of a core", "RSS MB"), table),
        document | {"kB_per_s": written / RUN_S / 1e3},
    )
    assert rss[-1] - rss[2] <= KEPT_BYTES_MAX + SLACK_BYTES
    assert meters.median(cpu[7:]) <= CPU_GROWTH_MAX * meters.median(cpu[1:4])
