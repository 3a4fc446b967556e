"""What a cluster costs that nobody uses: five nodes, ten seconds after their first leader."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from tests.process import meters

NODES = 5
SETTLE_S = 10.0
MEASURE_S = 30.0
NODES_CPU_MAX = 0.05
"""Of one core, all nodes together."""
SUPERVISOR_CPU_MAX = 0.03
NODE_RSS_MAX = 60_000_000


@pytest.mark.long("idle")
@pytest.mark.timeout(180)
def test_an_idle_cluster_costs_next_to_nothing(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody subscribes to frames, nothing is written."""
    spec = ClusterSpec(name="idle", data_dir=desk / "data", nodes=NODES)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready(60)
        processes = meters.pids(cluster)
        meters.let_pass(SETTLE_S)
        before, began = meters.read_all(processes), time.monotonic()
        meters.let_pass(MEASURE_S)
        after, seconds = meters.read_all(processes), time.monotonic() - began
        frame = cluster.frame()
        leader = frame.leader()
        terms = {group.term for part in frame.nodes if (group := part.group(0))}
    cpu = {name: (after[name].cpu_s - before[name].cpu_s) / seconds for name in processes}
    wakeups = {name: (after[name].wakeups - before[name].wakeups) / seconds for name in processes}
    nodes = sum(share for name, share in cpu.items() if name != "supervisor")
    rows = [
        (
            f"{name} (leader)" if name == f"n{leader}" else name,
            f"{100 * cpu[name]:.2f}",
            f"{wakeups[name]:.1f}",
            f"{after[name].rss_bytes / 1e6:.1f}",
        )
        for name in processes
    ]
    rows.append(("all nodes", f"{100 * nodes:.2f}", "", ""))
    document = {
        "schema": "raftdeck.idle/1",
        "nodes": NODES,
        "seconds": round(seconds, 2),
        "terms": sorted(terms),
        "nodes_cpu_percent": round(100 * nodes, 2),
        "supervisor_cpu_percent": round(100 * cpu["supervisor"], 2),
        "wakeups_per_s": {name: round(rate, 1) for name, rate in wakeups.items()},
        "rss_bytes": {name: reading.rss_bytes for name, reading in after.items()},
    }
    columns = ("process", "CPU %", "wake-ups/s", "RSS MB")
    meters.publish(capsys, meters.table(columns, rows), document)
    fattest = max(reading.rss_bytes for name, reading in after.items() if name != "supervisor")
    assert fattest < NODE_RSS_MAX, f"{fattest} bytes"
    assert cpu["supervisor"] < SUPERVISOR_CPU_MAX, f"{cpu['supervisor']:.2%}"
    assert nodes < NODES_CPU_MAX, f"{nodes:.2%} of a core"
