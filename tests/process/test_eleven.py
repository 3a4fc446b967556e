"""Eleven nodes on two cores: a term changes only after a stall that somebody has recorded.

A node that is not scheduled for half of its election timeout says so: a line `stalled for N ms` in
its log, and the count `stalls` of its snapshot. A change of term without such a record, shortly
before, by the old leader or by the node that campaigned, is an election for no reason.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from cluster.frames import ClusterFrame
from cluster.load import Load, LoadPlan
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from cluster.workload import synthetic
from tests.process import meters

NODES = 11
RUN_S = 60.0
OUTSTANDING = 256
EXCUSE_S = 3.0
"""A stall excuses an election that is seen within this time: a timeout of at most 2 s, and a look."""
CLOCK_S = 1.5
"""What log lines (whole seconds) and looks (10 Hz, late on a busy machine) may be off by."""
DAY_S = 86_400
STALL_LINE = re.compile(r"^(\d\d):(\d\d):(\d\d) stalled for (\d+) ms", re.MULTILINE)


@dataclass(frozen=True)
class TermChange:
    """A term seen for the first time; times of day in seconds."""

    at_s: float
    term: int
    old_leader: int | None
    campaigned: tuple[int, ...]
    """Nodes whose count of elections grew since the last look."""


@dataclass
class History:
    """What frames told: term changes, and when each node's count of stalls had grown."""

    changes: list[TermChange] = field(default_factory=list)
    stalls: dict[int, list[float]] = field(default_factory=dict)
    longest_ms: dict[int, int] = field(default_factory=dict)
    timeouts_ms: dict[int, int] = field(default_factory=dict)
    _term: int = 0
    _leader: int | None = None
    _elections: dict[int, int] = field(default_factory=dict)
    _counts: dict[int, int] = field(default_factory=dict)

    def take(self, frame: ClusterFrame) -> None:
        """Compare a frame with the one before."""
        now, campaigned, term = time_of_day(), [], 0
        for part in frame.nodes:
            if part.snapshot is None or (group := part.group(0)) is None:
                continue
            term = max(term, group.term)
            if group.elections > self._elections.get(part.node, 0):
                campaigned.append(part.node)
            self._elections[part.node] = group.elections
            self._note_stalls(part.node, part.snapshot, now)
        if term > self._term:
            if self._term:
                self.changes.append(TermChange(now, term, self._leader, tuple(campaigned)))
            self._term = term
        self._leader = frame.leader() or self._leader

    def _note_stalls(self, node: int, snapshot: object, now: float) -> None:
        """The one place that knows what a snapshot calls its stalls."""
        count: int = getattr(snapshot, "stalls", 0)
        if count > self._counts.get(node, count):
            self.stalls.setdefault(node, []).append(now)
        self._counts[node] = count
        self.longest_ms[node] = getattr(snapshot, "stall_longest_ns", 0) // 1_000_000
        self.timeouts_ms[node] = getattr(snapshot, "election_timeout_ns", 0) // 1_000_000


def time_of_day() -> float:
    now = datetime.now().astimezone()
    return now.hour * 3600 + now.minute * 60 + now.second + now.microsecond / 1e6


def logged_stalls(log: str) -> list[tuple[float, int]]:
    """(time of day in s, length in ms) of every stall that a node's log tells of."""
    found = []
    for hours, minutes, seconds, length in STALL_LINE.findall(log):
        found.append((int(hours) * 3600.0 + int(minutes) * 60 + int(seconds), int(length)))
    return found


def is_excused(change: TermChange, stalls: dict[int, list[float]]) -> bool:
    """Whether the old leader, or who campaigned, stalled shortly before a change of term."""
    suspects = {*change.campaigned, *([] if change.old_leader is None else [change.old_leader])}
    for node in suspects:
        for at_s in stalls.get(node, []):
            before_s = (change.at_s - at_s + DAY_S / 2) % DAY_S - DAY_S / 2
            if -CLOCK_S <= before_s <= EXCUSE_S + CLOCK_S:
                return True
    return False


@pytest.mark.parametrize(
    ("stall_at", "node", "excused"),
    [
        (100.0, 1, True),
        (102.4, 3, True),
        (100.0, 2, False),
        (90.0, 1, False),
        (110.0, 1, False),
    ],
)
def test_a_change_is_excused_by_a_stall_of_those_concerned_and_of_nobody_else(
    stall_at: float, node: int, excused: bool
) -> None:
    change = TermChange(102.0, 2, 1, (3,))
    assert is_excused(change, {node: [stall_at]}) is excused


def test_stalls_are_read_from_a_log() -> None:
    log = "10:00:00 ready\n10:00:07 stalled for 210 ms (turn)\nstalled for 1 ms\n23:59:59 stalled for 5 ms"
    assert logged_stalls(log) == [(36_007.0, 210), (86_399.0, 5)]


def watch(cluster: LocalCluster, history: History, stop: threading.Event) -> None:
    """Read every frame that the supervisor publishes."""
    stream = cluster.stream()
    try:
        while not stop.is_set():
            if (frame := stream.newest(1.0)) is not None:
                history.take(frame)
    finally:
        stream.close()


@pytest.mark.long("eleven")
@pytest.mark.timeout(300)
def test_eleven_nodes_under_load_change_their_term_only_after_a_recorded_stall(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Default configuration, sixty seconds of load."""
    spec = ClusterSpec(name="eleven", data_dir=desk / "data", nodes=NODES)
    history, stop = History(), threading.Event()
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready(60)
        watcher = threading.Thread(target=watch, args=(cluster, history, stop))
        watcher.start()
        try:
            processes = meters.pids(cluster)
            before, began = meters.read_all(processes), time.monotonic()
            with cluster.client() as client:
                plan = LoadPlan(synthetic(1_000, 100), OUTSTANDING, seconds=RUN_S, timeout_s=30.0)
                report = Load(client, plan).run()
            after, seconds = meters.read_all(processes), time.monotonic() - began
        finally:
            stop.set()
            watcher.join()
        cluster.wait_for(lambda frame: len(frame.healthy()) == NODES, 60)
    stalls = {node: list(times) for node, times in history.stalls.items()}
    logged = {}
    for node in spec.node_ids:
        text = (spec.node_dir(node) / "node.log").read_text(errors="replace")
        logged[node] = logged_stalls(text)
        stalls.setdefault(node, []).extend(at_s for at_s, _ in logged[node])
    unexcused = [change for change in history.changes if not is_excused(change, stalls)]
    cpu = {n: (after[n].cpu_s - before[n].cpu_s) / seconds for n in processes}
    document = {
        "schema": "raftdeck.eleven/1",
        "seconds": round(seconds, 1),
        "ops_per_s": report.ops_per_s,
        "p99_ms": report.p99_ms,
        "max_ms": report.max_ms,
        "term_changes": len(history.changes),
        "without_a_stall": len(unexcused),
        "cpu_cores": round(sum(cpu.values()), 2),
    }
    rows = [
        (
            f"n{node}",
            f"{100 * cpu[f'n{node}']:.0f}",
            len(logged[node]),
            max((length for _, length in logged[node]), default=history.longest_ms.get(node, 0)),
            history.timeouts_ms.get(node, 0),
        )
        for node in spec.node_ids
    ]
    text = meters.table(("node", "CPU %", "stalls", "longest ms", "timeout ms"), rows)
    text += "".join(f"\n{change}" for change in history.changes)
    meters.publish(capsys, text, document)
    assert report.definite == report.indefinite == 0, report.last_error
    assert not unexcused, f"elections without a stall: {unexcused}"
