"""Real processes with a log in power-loss mode, ended by SIGKILL: twenty crashes (issue 5)."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.process.killed_log import ENTRY_BYTES, IN_FLIGHT_MAX
from tests.wal.support import ROOT, batch, open_log, spans
from wal import Log, Recovered

CRASHES = 20
POLICIES = ("natural", "naive", "driver=pipeline", "sync=o_dsync", "io=direct", "prepare=append")
WAIT_S = 20


def killed(directory: Path, policy: str, acks: int, *options: str) -> int:
    """Run a log's process, kill it after so many acknowledgements; return the last index of them."""
    command = [sys.executable, "-m", "tests.process.killed_log", str(directory), policy, *options]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    heard: list[str] = []
    try:
        while len(heard) < acks and (line := process.stdout.readline()):
            heard.append(line)
    finally:
        process.kill()
        heard += process.stdout.readlines()
        complaint = process.stderr.read()
        assert process.wait(WAIT_S) == -signal.SIGKILL, complaint
        process.stdout.close()
        process.stderr.close()
    assert len(heard) >= acks, complaint
    return int([line for line in heard if line.endswith("\n")][-1])


def held(log: Log, found: Recovered) -> int:
    """Return the last index; every batch that is live is read back in full."""
    group = found.groups[0]
    last = group.last_index
    expected = range(group.released_index + 1, last + 1)
    assert spans(found) == [(1, index, index) for index in expected]
    for ref in group.batches:
        assert log.read(0, ref) == batch(ref.base_index, size=ENTRY_BYTES)
    return last


def test_twenty_killed_processes_lose_nothing_that_they_acknowledged(tmp_path: Path) -> None:
    """One log, each life under the next policy; between them an open, an append and another crash."""
    rng = random.Random(20)
    unacknowledged = 0
    for life in range(CRASHES):
        policy = POLICIES[life % len(POLICIES)]
        acknowledged = killed(tmp_path / "wal", policy, rng.randint(1, 60))
        log, found = open_log(directory=tmp_path / "wal")
        last = held(log, found)
        assert acknowledged <= last <= acknowledged + IN_FLIGHT_MAX, f"life {life}, {policy}"
        unacknowledged += last - acknowledged
        log.append([batch(last + 1, size=ENTRY_BYTES)])
        log.abort()
        log, found = open_log(directory=tmp_path / "wal")
        assert held(log, found) == last + 1, f"life {life}, {policy}: the restart after"
        log.abort()
    assert unacknowledged < CRASHES * (IN_FLIGHT_MAX - 1), "no kill took anything"


def test_a_killed_process_that_did_not_sync_loses_what_it_acknowledged(tmp_path: Path) -> None:
    """The control: power-loss mode takes what no sync covered."""
    acknowledged = killed(tmp_path / "wal", "natural", 12, "--unsynced")
    log, found = open_log(directory=tmp_path / "wal")
    group = found.groups.get(0)
    assert (group.last_index if group else 0) < acknowledged
    log.abort()
