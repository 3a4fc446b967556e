"""What the kernel says of a cluster's processes: CPU time, memory, wake-ups, bytes on disk."""

from __future__ import annotations

import json
import os
import statistics
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.local import LocalCluster

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Reading:
    """One process at one moment. CPU time counts in ticks of 10 ms."""

    cpu_s: float
    rss_bytes: int
    wakeups: int
    """Voluntary context switches of all threads: how often one of them waited."""


def read_process(pid: int) -> Reading:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    wakeups = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            lines = (task / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that ended meanwhile
        wakeups += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))
    return Reading((int(stat[11]) + int(stat[12])) / TICKS_PER_S, pages * PAGE_BYTES, wakeups)


def pids(cluster: LocalCluster) -> dict[str, int]:
    """Every process of a cluster by name; all are alive."""
    found = {}
    for part in cluster.frame().nodes:
        assert part.process.pid is not None, f"n{part.node} is down"
        found[f"n{part.node}"] = part.process.pid
    return found | {"supervisor": cluster.supervisor_pid}


def read_all(processes: Mapping[str, int]) -> dict[str, Reading]:
    return {name: read_process(pid) for name, pid in processes.items()}


def disk_bytes(directory: Path) -> int:
    """Space that a directory takes: blocks, not lengths."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # removed meanwhile
    return total


def let_pass(seconds: float) -> None:
    """Let time pass: for what is measured over time, and has no event to wait for."""
    threading.Event().wait(seconds)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Right-aligned text."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(r, widths, strict=True)) for r in cells]
    return "\n".join(lines)


def publish(capsys: Any, text: str, document: Mapping[str, Any]) -> None:
    """Print a result for a person and for a program, past pytest's capture."""
    with capsys.disabled():
        print(f"\n{text}\n{json.dumps(document)}", flush=True)


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
