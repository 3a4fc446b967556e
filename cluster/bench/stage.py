"""The cluster that dashboards look at: its load, and what the kernel and the nodes say of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cluster.bench.children import ANSWER_TIMEOUT_S, Child
from cluster.bench.paced import Paced
from cluster.closing import Closing
from cluster.local import LocalCluster
from cluster.processes import module_environment
from cluster.spec import ClusterSpec
from wal import SyncPolicy

__all__ = ["Reading", "Stage", "busy_seconds", "cpu_seconds"]

READY_TIMEOUT_S: Final = 60.0
SEGMENT_BYTES: Final = 16 << 20
"""A quarter of the default: a log overwrites its first segment after seconds, not minutes."""
WARM_S: Final = 2.0
WARM_STEPS_MAX: Final = 12
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and all its threads; steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def waited_seconds(pid: int) -> float:
    """Return how long the threads of a process, together, were ready to run and had no core.

    0 where the kernel does not count it (CONFIG_SCHED_INFO).
    """
    waited_ns = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile, or nothing is counted
            waited_ns += int((thread / "schedstat").read_text().split()[1])
    return waited_ns / 1e9


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def busy_seconds(line: str) -> float:
    """Return the time that all cores were busy, from the first line of /proc/stat."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, line.split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one moment. `watched` are the dashboards."""

    at_s: float
    frames: int
    bytes: int
    admin_frames: int
    term: int
    nodes_cpu_s: float
    watched_cpu_s: float
    own_cpu_s: float
    """Of everything that belongs to the bench."""
    busy_s: float
    """Of the whole machine."""
    rss_bytes: int
    """Of the first dashboard; 0 if there is none."""
    waited_s: float = 0.0
    """How long its threads stood in the queue for a core."""

    def watched_cpu_since(self, before: Reading) -> float:
        """Return the CPU seconds of the dashboards."""
        return self.watched_cpu_s - before.watched_cpu_s

    def others_since(self, before: Reading) -> float:
        """Return how many cores were busy with what does not belong to the bench."""
        others = self.busy_s - before.busy_s - (self.own_cpu_s - before.own_cpu_s)
        return max(0.0, others / max(1e-9, self.at_s - before.at_s))


class Stage(Closing):
    """A `LocalCluster` and the process that loads it. One thread; one load at a time."""

    def __init__(self, nodes: int, directory: Path) -> None:
        self.name = f"bench-{os.getpid()}"
        directory.mkdir(parents=True)
        spec = ClusterSpec(
            name=self.name,
            data_dir=directory / "data",
            nodes=nodes,
            wal=SyncPolicy(segment_bytes=SEGMENT_BYTES),
        )
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            self._cluster = stack.enter_context(LocalCluster.launch(spec))
            self._cluster.wait_ready(READY_TIMEOUT_S)
            endpoints = self._cluster.endpoints()
            config = {
                "parent": os.getpid(),
                "cluster_id": endpoints.cluster_id.hex(),
                "nodes": {str(node): address for node, address in endpoints.nodes.items()},
            }
            command = ["-m", "cluster.bench.paced", json.dumps(config)]
            errors = directory / "load.err"
            environment = module_environment()
            self._load = Child("the bench's load", command, errors, environment=environment)
            stack.callback(self._load.end)
            self._load.hear()
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End its processes."""
        self._stack.close()

    def warm(self) -> None:
        """Write until every log overwrites segments that it has used before."""
        for _ in range(WARM_STEPS_MAX):
            self.drive(Paced(WARM_S, None, 64 << 10, 64, 32))
            frame = self._cluster.frame()
            if all(part.snapshot and part.snapshot.wal.recycled for part in frame.nodes):
                return

    def drive(self, plan: Paced) -> dict[str, Any]:
        """Run a load to its end; all nodes are caught up then."""
        self.begin(plan)
        seen = self.end()
        self.settle()
        return seen

    def begin(self, plan: Paced) -> None:
        """Begin a load; `end` waits for its result."""
        self._until = time.monotonic() + plan.seconds + ANSWER_TIMEOUT_S
        self._load.tell(json.dumps(asdict(plan)))

    def end(self, meanwhile: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Wait for a load's end and return what it measured."""
        while not self._load.speaks() and time.monotonic() < self._until:
            meanwhile()
        return self._load.hear()

    def settle(self) -> None:
        """Wait until all nodes have applied all."""
        nodes = self._cluster.spec.nodes
        self._cluster.wait_for(
            lambda frame: len(frame.caught_up()) == nodes, READY_TIMEOUT_S, "nodes lag behind"
        )

    def reading(self, watched: Sequence[int]) -> Reading:
        """Read everything now. `watched` are the dashboards' process ids."""
        frame = self._cluster.frame()
        nodes = [part.process.pid for part in frame.nodes if part.process.pid is not None]
        shown = [part.snapshot for part in frame.nodes if part.snapshot is not None]
        lanes = [lane for each in shown for lane in each.traffic.lanes]
        nodes_cpu, watched_cpu = (sum(map(cpu_seconds, pids)) for pids in (nodes, watched))
        around = (self._cluster.supervisor_pid, self._load.pid, os.getpid())
        first_line = Path("/proc/stat").read_text().partition("\n")[0]
        return Reading(
            at_s=time.monotonic(),
            frames=sum(lane.frames_in + lane.frames_out for lane in lanes),
            bytes=sum(lane.bytes_in + lane.bytes_out for lane in lanes),
            admin_frames=sum(x.frames_in + x.frames_out for x in lanes if x.lane == "admin"),
            term=max(group.term for each in shown for group in each.groups),
            nodes_cpu_s=nodes_cpu,
            watched_cpu_s=watched_cpu,
            own_cpu_s=nodes_cpu + watched_cpu + sum(map(cpu_seconds, around)),
            busy_s=busy_seconds(first_line),
            rss_bytes=rss_bytes(watched[0]) if watched else 0,
            waited_s=waited_seconds(watched[0]) if watched else 0.0,
        )
