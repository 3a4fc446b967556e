"""The two sides of a replication bench, measured alike: our cluster, and the bare pipe.

Both run the same plan from a client process of its own, write to the same file system, and are
looked at from outside: CPU from /proc, log counters before and after, all nodes caught up before
the other side has its turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from cluster.bench.bare_pipe import Plan, encode_plan
from cluster.bench.children import ANSWER_TIMEOUT_S, BarePipe, Child
from cluster.closing import Closing
from cluster.frames import ClusterFrame
from cluster.local import LocalCluster
from cluster.processes import module_environment
from cluster.spec import ClusterSpec

if TYPE_CHECKING:
    from node.metrics import NodeSnapshot, WalSnapshot

__all__ = ["BareSide", "Case", "Contestant", "OurSide", "Sample"]

READY_TIMEOUT_S: Final = 60.0
WARM_VALUE_BYTES: Final = 64 << 10
WARM_OUTSTANDING: Final = 32
WARM_SECONDS_MAX: Final = 20.0
WARM_STEPS_MAX: Final = 11
"""The first reuse takes three segments to a snapshot, one that trails it, and the one that is begun
meanwhile: 5 or 6 steps."""
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """What is written. `requests` are those that our client keeps in the air (4: its default)."""

    name: str
    value_bytes: int
    outstanding: int
    keys: int
    requests: int = 4
    bare_requests: int = 4
    """What serves the bare pipe best."""
    warm_bytes: int = 0
    """What our side writes before it is measured: a state of another size takes other snapshots."""

    def plan(self, seconds: float, requests: int, bytes_max: int | None = None) -> Plan:
        """Return the plan of one measurement."""
        return Plan(seconds, self.outstanding, self.value_bytes, self.keys, requests, bytes_max)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one side. CPU in percent of one core; `fsyncs_per_s` per node."""

    acked: int
    ops_per_s: float
    mb_per_s: float
    p50_ms: float
    p99_ms: float
    entries_per_fsync: float | None
    fsyncs_per_s: float
    wal_mb_per_s: float
    """Per node."""
    cpu_leader: float
    cpu_follower: float | None
    """The mean of the followers; None where there are none."""
    cpu_client: float
    elections: int = 0
    errors: int = 0
    error: str = ""


class Contestant(Protocol):
    """A side that can be measured any number of times."""

    def measure(self, case: Case, seconds: float) -> Sample:
        """Drive a case for about `seconds`; everybody is idle and caught up on return."""


class _Counters(NamedTuple):
    """Sums over the logs of all nodes."""

    fsyncs: int
    entries: int
    bytes_written: int


class _Cpu(NamedTuple):
    """CPU seconds so far: the nodes', the leader first, and the client's."""

    nodes: tuple[float, ...]
    client: float


def _cpu(nodes: list[int], client: int) -> _Cpu:
    return _Cpu(tuple(map(_cpu_seconds, nodes)), _cpu_seconds(client))


def _cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and all its threads; steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sample(
    seen: dict[str, Any], logs: tuple[_Counters, _Counters], cpu: tuple[_Cpu, _Cpu]
) -> Sample:
    seconds = max(1e-9, float(seen["seconds"]))
    shares = [100 * (b - a) / seconds for a, b in zip(cpu[0].nodes, cpu[1].nodes, strict=True)]
    nodes = len(shares)
    fsyncs, entries, written = (b - a for a, b in zip(*logs, strict=True))
    return Sample(
        acked=seen["acked"],
        ops_per_s=seen["acked"] / seconds,
        mb_per_s=seen["bytes"] / seconds / 1e6,
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
        entries_per_fsync=entries / fsyncs if fsyncs else None,
        fsyncs_per_s=fsyncs / nodes / seconds,
        wal_mb_per_s=written / nodes / seconds / 1e6,
        cpu_leader=shares[0],
        cpu_follower=sum(shares[1:]) / (nodes - 1) if nodes > 1 else None,
        cpu_client=100 * (cpu[1].client - cpu[0].client) / seconds,
        errors=seen.get("errors", 0),
        error=seen.get("error", ""),
    )


class OurSide(Closing):
    """A `LocalCluster` and the process that drives its client."""

    def __init__(self, nodes: int, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True)
        spec = ClusterSpec(
            name=f"bench-{os.getpid()}-{nodes}", data_dir=directory / "data", nodes=nodes
        )
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            self._cluster = stack.enter_context(LocalCluster.launch(spec))
            self._cluster.wait_ready(READY_TIMEOUT_S)
            self._driver = self._start_driver()
            stack.callback(self._driver.end)
            self._driver.hear()
            self._stack = stack.pop_all()

    def _start_driver(self) -> Child:
        endpoints = self._cluster.endpoints()
        config = {
            "parent": os.getpid(),
            "cluster_id": endpoints.cluster_id.hex(),
            "nodes": {str(node): address for node, address in endpoints.nodes.items()},
        }
        command = ["-m", "cluster.bench.driver", json.dumps(config)]
        errors = self._directory / "driver.err"
        return Child("the bench's client", command, errors, environment=module_environment())

    def close(self) -> None:
        """End its processes."""
        self._stack.close()

    @property
    def cluster(self) -> LocalCluster:
        """The cluster, for whoever wants to look at it meanwhile."""
        return self._cluster

    def warm(self, log_bytes: int) -> None:
        """Write until every log has passed `log_bytes`, and then until it overwrites old segments.

        A new log zero-fills its first segments as it goes, which its disk pays for; from then on
        it is what it stays. After WARM_STEPS_MAX more steps it is taken as it is.
        """
        plan = Plan(WARM_SECONDS_MAX, WARM_OUTSTANDING, WARM_VALUE_BYTES, 64, 4, log_bytes + MIB)
        for _ in range(1 + WARM_STEPS_MAX):
            self._driver.ask(encode_plan(plan))
            frame = self._settle()
            if all(self._recycles(each.wal) for each in _snapshots(frame)):
                return

    def _recycles(self, log: WalSnapshot) -> bool:
        """Tell whether more was written than all the log's files could hold without reuse."""
        files = log.segments + log.spares
        return log.bytes_written > files * self._cluster.spec.wal.segment_bytes

    def settle_in(self, case: Case) -> None:
        """Write as much as the case wants to have behind it."""
        if case.warm_bytes:
            plan = case.plan(WARM_SECONDS_MAX, case.requests, case.warm_bytes)
            self._driver.ask(encode_plan(plan), WARM_SECONDS_MAX + ANSWER_TIMEOUT_S)
            self._settle()

    def measure(self, case: Case, seconds: float) -> Sample:
        """See `Contestant`."""
        plan = case.plan(seconds, case.requests, _bytes_max(seconds))
        before = self._settle()
        pids = self._pids(before)
        cpu_before = _cpu(pids, self._driver.pid)
        seen = self._driver.ask(encode_plan(plan), seconds + ANSWER_TIMEOUT_S)
        cpu = (cpu_before, _cpu(pids, self._driver.pid))
        after = self._settle()
        sample = _sample(seen, (_log_counters(before), _log_counters(after)), cpu)
        return replace(sample, elections=_term(after) - _term(before))

    def _settle(self) -> ClusterFrame:
        """Wait until all nodes have applied all."""
        nodes = self._cluster.spec.nodes
        return self._cluster.wait_for(
            lambda frame: len(frame.caught_up()) == nodes, READY_TIMEOUT_S, "nodes lag behind"
        )

    def _pids(self, frame: ClusterFrame) -> list[int]:
        leader = frame.leader()
        parts = sorted(frame.nodes, key=lambda part: (part.node != leader, part.node))
        return [part.process.pid for part in parts if part.process.pid is not None]


def _bytes_max(seconds: float) -> int:
    """Bound what one measurement leaves on the disk: 400 MB/s for as long as it lasts."""
    return int(max(seconds, 0.1) * 400e6)


def _snapshots(frame: ClusterFrame) -> list[NodeSnapshot]:
    return [part.snapshot for part in frame.nodes if part.snapshot is not None]


def _log_counters(frame: ClusterFrame) -> _Counters:
    logs = [snapshot.wal for snapshot in _snapshots(frame)]
    return _Counters(
        sum(log.fsyncs for log in logs),
        sum(log.entries for log in logs),
        sum(log.bytes_written for log in logs),
    )


def _term(frame: ClusterFrame) -> int:
    return max(group.term for each in _snapshots(frame) for group in each.groups)


class BareSide(Closing):
    """A `BarePipe`, measured the same way."""

    def __init__(self, nodes: int, directory: Path) -> None:
        self._pipe = BarePipe(nodes, directory)

    def close(self) -> None:
        """End its processes."""
        self._pipe.close()

    def measure(self, case: Case, seconds: float) -> Sample:
        """See `Contestant`."""
        pipe = self._pipe
        before, cpu_before = self._counters(), _cpu(pipe.node_pids, pipe.client_pid)
        seen = pipe.run(case.plan(seconds, case.bare_requests))
        cpu = (cpu_before, _cpu(pipe.node_pids, pipe.client_pid))
        return _sample(seen, (before, self._counters()), cpu)

    def _counters(self) -> _Counters:
        stats = self._pipe.counters()
        return _Counters(
            sum(each["fsyncs"] for each in stats),
            sum(each["entries"] for each in stats),
            sum(each["bytes_written"] for each in stats),
        )
