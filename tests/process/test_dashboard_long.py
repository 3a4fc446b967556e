"""Ten minutes of watching under load: memory and CPU of the dashboard stay what they were.

`RAFTDECK_DASHBOARD_S` makes the run shorter, for a trial; a "minute" is a tenth of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from cluster.bench.paced import Paced
from cluster.bench.screens import Screen, pump, shut
from cluster.bench.stage import Reading, Stage, rss_bytes
from dashboard.app import DeckApp, Look
from dashboard.desk import Desk
from dashboard.presenter.history import SAMPLES_MAX
from dashboard.source import FakeSource
from tests.dashboard.scenes import frames_of
from tests.process import meters

NODES = 11
RUN_S = float(os.environ.get("RAFTDECK_DASHBOARD_S", "600"))
MINUTE_S = RUN_S / 10
RATE = 1_000.0
KEPT_BYTES_MAX = 8 * MINUTE_S * 10 * 6_000
"""Ten frames a second are kept for ten minutes, some 4 kB each; from the end of the second minute on."""
SLACK_BYTES = 8 << 20
CPU_GROWTH_MAX = 1.2
FRAME_MS = 100
AFTER_FULL_MAX = 1 << 20


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


class Endless(FakeSource):
    """The same frames again and again, ever later; only the newest is kept."""

    def __init__(self):
        self.models = frames_of("healthy", NODES)
        super().__init__(self.models[:1])

    def go_on(self, step: int) -> None:
        model = self.models[step % len(self.models)]
        self._frames = [replace(model, unix_ms=self._frames[-1].unix_ms + FRAME_MS)]


@pytest.mark.long("dashboard")
@pytest.mark.timeout(600)
def test_once_its_past_is_full_the_dashboard_keeps_no_more() -> None:
    """Twenty minutes of pictures, as fast as they can be painted: all that grows is the history."""
    resident: list[int] = []

    async def story() -> None:
        source = Endless()
        desk = Desk(source, lambda: source._frames[-1].unix_ms)
        app = DeckApp(desk, Look(ticking=False))
        async with app.run_test(size=(120, 36)):
            for step in range(2 * SAMPLES_MAX):
                source.go_on(step)
                app.tick()
                if step % 20 == 0:
                    await asyncio.sleep(0)
                if step % 1_000 == 0:
                    resident.append(rss_bytes(os.getpid()))

    asyncio.run(story())
    full = SAMPLES_MAX // 1_000 + 1
    assert max(resident[full:]) - resident[full] <= AFTER_FULL_MAX, resident
