"""`raftdeck bench replication` end to end, tiny: the document, and nothing left. No figure is judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster.bench.contestants import Case
from cluster.bench.replication import Settings, replication
from cluster.exits import Exit

RAFTDECK = [sys.executable, "-c", "import sys; from dashboard.cli import main; sys.exit(main())"]
SIDE = {
    "requests", "ops_per_s", "mb_per_s", "p50_ms", "p99_ms", "entries_per_fsync", "fsyncs_per_s",
    "wal_mb_per_s", "cpu_leader", "cpu_follower", "cpu_client", "ops_per_s_rounds",
}  # fmt: skip
TINY = (
    Case("small", 100, 50, 100),
    Case("single", 100, 1, 100, bare_requests=1),
    Case("large", 1 << 20, 4, 8, requests=4),
)


def processes_naming(text: Path) -> list[int]:
    """Pids of living processes with a path on their command line, this one excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.fsencode(text) in command and state != "Z":
            found.append(int(entry.name))
    return found


def none_left(text: Path, timeout_s: float = 20.0) -> list[int]:
    """Wait until no process names a path; return those that stay."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while (left := processes_naming(text)) and time.monotonic() < deadline:
        pause.wait(0.05)
    return left


@pytest.mark.timeout(150)
def test_a_tiny_bench_measures_both_sides_and_leaves_nothing(desk: Path) -> None:
    """`desk` is in the path of every socket and every file."""
    data = desk / "data"
    data.mkdir()
    settings = Settings(
        data, nodes=(3,), rounds=1, seconds=0.2, warm_bytes=1 << 20, warm_seconds=0.05, cases=TINY
    )
    said: list[str] = []
    report = replication(settings, said.append)
    document = json.loads(json.dumps(report.document()))
    assert document["schema"] == "raftdeck.bench/1"
    assert document["bench"] == "replication"
    assert set(document) == {"schema", "bench", "commit", "machine", "rows", "ratios"}
    assert [row["case"] for row in document["rows"]] == ["small", "single", "large"]
    for row in document["rows"]:
        assert row["nodes"] == 3
        assert row["errors"] == 0
        for who in ("ours", "bare_pipe"):
            assert set(row[who]) == SIDE
            assert row[who]["ops_per_s"] > 0
            assert row[who]["p50_ms"] <= row[who]["p99_ms"]
            assert row[who]["entries_per_fsync"] > 0
            assert len(row[who]["ops_per_s_rounds"]) == 1
    assert [ratio["name"] for ratio in document["ratios"]] == [
        "vs_bare_pipe_ops_3",
        "bare_pipe_ops_per_s_3",
        "vs_bare_pipe_latency_3",
        "vs_bare_pipe_bytes_3",
        "bare_pipe_MB_per_s_3",
    ]
    assert all(set(ratio) == {"name", "value", "goal", "holds"} for ratio in document["ratios"])
    assert all(ratio["value"] > 0 for ratio in document["ratios"])
    assert report.exit_code in (Exit.HELD, Exit.FAILED, Exit.UNKNOWN)
    assert said[0].startswith("3 nodes: starting")
    assert not processes_naming(desk)
    assert not list(data.iterdir())


def start_and_await_both_sides(desk: Path) -> subprocess.Popen[str]:
    """Start the verb; return when its bare pipe runs, which is started last."""
    command = [*RAFTDECK, "bench", "replication", "--nodes", "3", "--data", str(desk / "data")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(desk)},  # where the bare pipe's sockets are
    )
    deadline = time.monotonic() + 60
    pause = threading.Event()
    while process.poll() is None and time.monotonic() < deadline:
        if list((desk / "data").glob("bench-*/bare-3/n3.ring")):
            return process
        pause.wait(0.02)
    process.kill()
    raise AssertionError(process.communicate()[1])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_cleans_up(desk: Path, number: signal.Signals) -> None:
    process = start_and_await_both_sides(desk)
    # As a terminal does: the whole foreground group gets it.
    os.killpg(process.pid, number)
    out, errors = process.communicate(timeout=50)
    assert process.returncode == Exit.INTERRUPTED, errors
    assert not out
    assert "Traceback" not in errors
    assert not none_left(desk)
    assert not list((desk / "data").iterdir())
    assert not list(desk.glob("bare-*"))


@pytest.mark.timeout(120)
def test_no_process_outlives_a_bench_that_was_killed(desk: Path) -> None:
    process = start_and_await_both_sides(desk)
    assert len(processes_naming(desk)) >= 9, "supervisor, nodes, client; leader, followers, client"
    process.kill()
    process.communicate(timeout=50)
    assert not none_left(desk)
