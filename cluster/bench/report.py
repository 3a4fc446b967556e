"""What every bench shares: the document, the facts of the machine, medians, ratios.

    {"schema": "raftdeck.bench/1", "bench": NAME, "commit": …, "machine": {…},
     "rows": [{…}, …], "ratios": [{"name", "value", "goal", "holds"}, …]}

`commit` is the checkout's (with `-dirty` if files differ from it), else the version that is
installed. `holds` is null where there is no goal, or where the run proves nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from cluster.exits import Exit

__all__ = [
    "BENCH_SCHEMA",
    "BenchReport",
    "Ratio",
    "commit",
    "file_system",
    "judge",
    "limit",
    "machine",
    "median",
    "quotient",
]

BENCH_SCHEMA: Final = "raftdeck.bench/1"
_GIT_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure that is claimed, or (without a goal) told. Higher is better, but for limits."""

    name: str
    value: float | None
    goal: float | None = None
    holds: bool | None = None
    at_most: bool = False
    """Whether the goal is a limit. Not in the document: there the name says it, by its unit."""


def judge(name: str, value: float | None, goal: float | None, *, disturbed: bool = False) -> Ratio:
    """Compare a value with its goal.

    `disturbed`: something happened that can only have lowered the value (an election, an error),
    so a value below its goal proves nothing.
    """
    if value is not None:
        value = round(value, 4)
    if value is None or goal is None:
        return Ratio(name, value, goal)
    reached = value >= goal
    return Ratio(name, value, goal, None if disturbed and not reached else reached)


def limit(name: str, value: float | None, goal: float, *, disturbed: bool = False) -> Ratio:
    """Compare a value with a limit: lower is better.

    `disturbed`: something happened that can only have raised the value.
    """
    if value is None:
        return Ratio(name, None, goal, at_most=True)
    value = round(value, 4)
    reached = value <= goal
    return Ratio(name, value, goal, None if disturbed and not reached else reached, at_most=True)


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of what was measured; None if nothing was."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def quotient(ours: float | None, other: float | None) -> float | None:
    """Divide; None unless both are known and the divisor is more than 0."""
    return None if ours is None or not other else ours / other


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A finished bench."""

    bench: str
    rows: Sequence[Mapping[str, Any]]
    ratios: Sequence[Ratio]
    machine: Mapping[str, Any] = field(default_factory=dict)
    commit: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "schema": BENCH_SCHEMA,
            "bench": self.bench,
            "commit": self.commit,
            "machine": dict(self.machine),
            "rows": [dict(row) for row in self.rows],
            "ratios": [
                {name: getattr(ratio, name) for name in ("name", "value", "goal", "holds")}
                for ratio in self.ratios
            ],
        }

    @property
    def exit_code(self) -> Exit:
        """FAILED if a goal was missed, UNKNOWN if one could not be judged, else HELD."""
        goals = [ratio.holds for ratio in self.ratios if ratio.goal is not None]
        if False in goals:
            return Exit.FAILED
        return Exit.UNKNOWN if None in goals or not self.rows else Exit.HELD

    def ratio_lines(self) -> list[str]:
        """Return one line per ratio, for a person."""
        width = max((len(ratio.name) for ratio in self.ratios), default=0)
        return [f"{ratio.name:<{width}}  {_verdict(ratio)}" for ratio in self.ratios]

    def machine_line(self) -> str:
        """Return the facts of the machine, for a person."""
        facts = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        return f"commit {self.commit}; {facts}"


def _verdict(ratio: Ratio) -> str:
    value = "–" if ratio.value is None else f"{ratio.value:,.2f}"
    if ratio.goal is None:
        return value
    verdict = {True: "holds", False: "missed", None: "unknown"}[ratio.holds]
    return f"{value}  goal {'≤ ' if ratio.at_most else ''}{ratio.goal:.2f}: {verdict}"


# ---- where and what ----------------------------------------------------------------------------


def machine(directory: Path) -> dict[str, Any]:
    """Return the facts that decide about figures; `directory` is where the files lie."""
    import psutil
    import zmq

    from wal import checksum

    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": file_system(directory),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "pyzmq": f"{zmq.__version__} (libzmq {zmq.zmq_version()})",
        "checksum": checksum.active(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def file_system(directory: Path) -> str:
    """Name the type of the file system that holds a directory."""
    import psutil

    place = directory.resolve()
    mounts = [p for p in psutil.disk_partitions(all=True) if place.is_relative_to(p.mountpoint)]
    found = max(mounts, key=lambda mount: len(mount.mountpoint), default=None)
    return found.fstype if found else "unknown"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def commit() -> str | None:
    """Return the commit that is measured; the version where there is no checkout."""
    root = Path(__file__).resolve().parents[2]
    head = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    if head is None:
        try:
            return f"version {version('raftdeck')}"
        except PackageNotFoundError:
            return None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return head + ("-dirty" if changed else "")


def _git(root: Path, *arguments: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    answer = subprocess.run(
        [program, "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=_GIT_TIMEOUT_S,
    )
    return answer.stdout.strip() if answer.returncode == 0 else None
