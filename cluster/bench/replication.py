"""`bench replication`: our cluster and the bare pipe, one after the other, round by round.

Theory of operation. Per number of nodes both sides are started once and warmed up; then, case by
case, they are measured in turn (A B A B …), each while the other is idle. What is claimed is the
ratio of the two medians, in which the machine and its other load cancel out; everything absolute
is information.

Warm-up: each of our logs passes its first segment (64 MiB) and each case once runs unmeasured, so
that every key exists. Keys are bounded, so is the bare pipe's file.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from cluster.bench.children import ChildError
from cluster.bench.contestants import BareSide, Case, Contestant, OurSide, Sample
from cluster.bench.report import (
    BenchReport,
    Ratio,
    commit,
    judge,
    machine,
    median,
    quotient,
)
from cluster.exits import CommandError, Exit
from cluster.tables import aligned

__all__ = ["Settings", "measure", "ratios", "replication", "row", "table", "take_turns"]

OURS: Final = "ours"
BARE: Final = "bare_pipe"
SMALL: Final = Case("1 KiB x 1,000", 1 << 10, 1_000, 10_000)
SINGLE: Final = Case("1 KiB x 1", 1 << 10, 1, 10_000, bare_requests=1)
LARGE: Final = Case(
    "1 MiB x 16", 1 << 20, 16, 64, requests=16, bare_requests=16, warm_bytes=16 << 26
)

GOAL: Final = 0.40
GOAL_NODES: Final = 3
SEGMENT_BYTES: Final = 64 << 20
NODE_BYTES: Final = 10 * SEGMENT_BYTES
"""Per node: six segments until a snapshot releases three (which become spares), two more spares, the
snapshot, and the bare pipe's ring."""
LARGE_BYTES_PER_S: Final = 1_200_000_000
SMALL_BYTES_PER_S: Final = 300_000_000
"""What all our logs together may grow in a second of measuring: 3 × 400 MB/s, 3 × 100 MB/s."""
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, how often and how long, and where the files lie (removed at the end)."""

    directory: Path
    nodes: tuple[int, ...] = (3, 5, 11)
    rounds: int = 5
    seconds: float = 2.0
    warm_bytes: int = SEGMENT_BYTES
    warm_seconds: float = 0.5
    cases: tuple[Case, ...] = (SMALL, SINGLE, LARGE)
    """With 3 nodes; with any other number only the first."""

    def cases_of(self, nodes: int) -> tuple[Case, ...]:
        """Return the cases for a number of nodes."""
        return self.cases if nodes == GOAL_NODES else self.cases[:1]

    def bytes_wanted(self) -> int:
        """Return what may lie on the disk at once, if no segment were recycled."""

        def wanted(nodes: int) -> float:
            large = [case.value_bytes >= LARGE.value_bytes for case in self.cases_of(nodes)]
            growth = sum(LARGE_BYTES_PER_S if each else SMALL_BYTES_PER_S for each in large)
            return nodes * NODE_BYTES + self.rounds * self.seconds * growth

        return int(max(map(wanted, self.nodes)))


def replication(settings: Settings, say: Say) -> BenchReport:
    """Run the bench. CommandError if it cannot be run; every process and file is gone at the end."""
    _check_space(settings)
    rows: list[dict[str, Any]] = []
    facts = machine(settings.directory)
    if facts["file_system"] in IN_MEMORY:
        say(f"{settings.directory}: in memory, where fsync costs nothing; --data names a disk")
    try:
        for nodes in settings.nodes:
            rows += measure(settings, nodes, say)
    except ChildError as error:
        raise CommandError(Exit.UNFIT, f"{error}; see: raftdeck doctor") from None
    return BenchReport("replication", rows, ratios(rows), facts, commit())


def _check_space(settings: Settings) -> None:
    free, wanted = shutil.disk_usage(settings.directory).free, settings.bytes_wanted()
    if free < wanted:
        raise CommandError(
            Exit.UNFIT,
            f"{settings.directory}: {free / 1e9:.1f} GB are free, this bench may need"
            f" {wanted / 1e9:.1f} GB for a while; give --data a directory on another disk",
        )


def measure(settings: Settings, nodes: int, say: Say) -> list[dict[str, Any]]:
    """Start both sides with so many nodes, and measure every case."""
    rows = []
    with contextlib.ExitStack() as stack:
        say(f"{nodes} nodes: starting and warming up")
        ours = stack.enter_context(OurSide(nodes, settings.directory / f"ours-{nodes}"))
        bare = stack.enter_context(BareSide(nodes, settings.directory / f"bare-{nodes}"))
        ours.warm(settings.warm_bytes)
        sides: dict[str, Contestant] = {OURS: ours, BARE: bare}
        for case in settings.cases_of(nodes):
            for side in sides.values():
                side.measure(case, settings.warm_seconds)
            ours.settle_in(case)
            samples = take_turns(sides, settings, case, lambda text: say(f"{nodes} nodes, {text}"))
            rows.append(row(nodes, case, samples))
    return rows


def take_turns(
    sides: Mapping[str, Contestant], settings: Settings, case: Case, say: Say
) -> dict[str, list[Sample]]:
    """Measure every side in turn, round by round."""
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for number in range(1, settings.rounds + 1):
        for name, side in sides.items():
            samples[name].append(side.measure(case, settings.seconds))
        last = ", ".join(
            f"{name} {taken[-1].ops_per_s:,.0f} ops/s" for name, taken in samples.items()
        )
        say(f"{case.name}, round {number} of {settings.rounds}: {last}")
    return samples


# ---- rows and ratios -----------------------------------------------------------------------------


def row(nodes: int, case: Case, samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Return one row: medians per side, and whatever disturbed ours."""
    taken = samples[OURS]
    elections = sum(sample.elections for sample in taken)
    errors = sum(sample.errors for sample in taken)
    notes = [f"{elections} elections"] if elections else []
    if errors:
        notes.append(f"{errors} puts failed: {next(s.error for s in taken if s.errors)}")
    return {
        "nodes": nodes,
        "case": case.name,
        "value_bytes": case.value_bytes,
        "outstanding": case.outstanding,
        "rounds": len(taken),
        OURS: {"requests": case.requests} | _medians(taken),
        BARE: {"requests": min(case.bare_requests, case.outstanding)} | _medians(samples[BARE]),
        "elections": elections,
        "errors": errors,
        "note": "; ".join(notes) or None,
    }


_MEASURED: Final = tuple(
    spec.name
    for spec in fields(Sample)
    if spec.name not in ("acked", "elections", "errors", "error")
)


def _medians(samples: Sequence[Sample]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _MEASURED:
        middle = median(getattr(sample, name) for sample in samples)
        values[name] = None if middle is None else round(middle, 3)
    values["ops_per_s_rounds"] = [round(sample.ops_per_s, 1) for sample in samples]
    return values


def ratios(rows: Iterable[Mapping[str, Any]]) -> list[Ratio]:
    """Compare the sides of every row; the goals are those of 3 nodes.

    A latency's ratio is the bare pipe's over ours: higher is better, as everywhere.
    """
    found: list[Ratio] = []
    for each in rows:
        nodes, ours, bare = each["nodes"], each[OURS], each[BARE]
        goal = GOAL if nodes == GOAL_NODES else None
        disturbed = bool(each["note"])
        if each["outstanding"] == 1:
            value = quotient(bare["p50_ms"], ours["p50_ms"])
            found.append(judge(f"vs_bare_pipe_latency_{nodes}", value, None))
        elif each["value_bytes"] >= LARGE.value_bytes:
            value = quotient(ours["mb_per_s"], bare["mb_per_s"])
            found.append(judge(f"vs_bare_pipe_bytes_{nodes}", value, goal, disturbed=disturbed))
            found.append(judge(f"bare_pipe_MB_per_s_{nodes}", bare["mb_per_s"], None))
        else:
            value = quotient(ours["ops_per_s"], bare["ops_per_s"])
            found.append(judge(f"vs_bare_pipe_ops_{nodes}", value, goal, disturbed=disturbed))
            found.append(judge(f"bare_pipe_ops_per_s_{nodes}", bare["ops_per_s"], None))
    return found


# ---- for a person --------------------------------------------------------------------------------

_COLUMNS: Final = (
    "NODES", "CASE", "WHO", "OPS/S", "MB/S", "P50 MS", "P99 MS", "ENT/FSYNC", "FSYNC/S",
    "CPU% LEADER", "FOLLOWER", "CLIENT", "NOTE",
)  # fmt: skip
_SHOWN: Final = (
    ("ops_per_s", 0), ("mb_per_s", 1), ("p50_ms", 2), ("p99_ms", 2), ("entries_per_fsync", 1),
    ("fsyncs_per_s", 0), ("cpu_leader", 0), ("cpu_follower", 0), ("cpu_client", 0),
)  # fmt: skip


def table(report: BenchReport) -> str:
    """Return the rows as a table: two lines per case."""
    lines = []
    for each in report.rows:
        for who in (OURS, BARE):
            side = each[who]
            cells = [
                "–" if side[name] is None else f"{side[name]:,.{digits}f}"
                for name, digits in _SHOWN
            ]
            first = [str(each["nodes"]), each["case"]] if who == OURS else ["", ""]
            note = each["note"] if who == OURS and each["note"] else ""
            lines.append([*first, who.replace("_", " "), *cells, note])
    right = frozenset(_COLUMNS) - {"CASE", "WHO", "NOTE"}
    return aligned(_COLUMNS, lines, right)
