"""`bench wal`: what each optimisation of the log is worth, on this disk, now.

Theory of operation. Everything that is compared takes turns within one run (A B A B …), each turn in
a log of its own behind its warm-up (`wal_variants.fresh_log`), and what is claimed is the ratio of
medians. Goals are judged on seed 3's case: 1,000 records of 1 KiB, batches of 100.

The parts, each a list of rows with a `section`: `seed 3` and `policies` (the naive log, each
optimisation alone, all together), `shapes` (record and batch sizes), `raw` and `prepare` and
`recovery` (`wal_raw`), `seed 4` (`wal_claims`), `cost`, `strace`, `scan`, `peers`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cluster.bench import wal_bare, wal_raw
from cluster.bench.report import BenchReport, Ratio, commit, judge, limit, machine, median, quotient
from cluster.bench.wal_claims import SEED4, seed3_rows, seed4_rows
from cluster.bench.wal_peers import peers
from cluster.bench.wal_strace import cross_check
from cluster.bench.wal_variants import (
    ALL_TOGETHER,
    NAIVE,
    VARIANTS,
    Sample,
    Shape,
    Turns,
    Variant,
    run,
)
from cluster.exits import CommandError, Exit

__all__ = ["Settings", "ratios", "wal"]

Say = Callable[[str], None]

CASE: Final = Shape(1_000, 1 << 10, 100)
"""Seed 3's: 1,000 records, batches of 100. The size of its records is not said there."""
NODE: Final = "as a node does"
BARE_NAIVE: Final = "bare loop, naive"
BARE_GROUPED: Final = "bare loop, grouped"
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
SPREAD_MAX: Final = 1.5
"""A bare loop whose slowest round takes this many times its fastest had company on the disk or on the
processors: a goal that is missed then proves nothing (`holds` is null)."""
OTHERS_MAX: Final = 0.5
"""So many cores busy with other things likewise. What the kernel does for our syncs counts among them:
0.1 to 0.3 of a core."""
_BY_NAME: Final = {variant.name: variant for variant in VARIANTS}


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured and how long; the files lie below `directory` and are removed."""

    directory: Path
    quick: bool = False
    rounds: int = 5
    policies: tuple[str, ...] = ()
    """Further policies to measure beside the others, as a person writes them."""
    with_peers: bool = False

    def turns(self, seconds: float, rounds: int | None = None) -> Turns:
        """Return the rounds of one part; quick ones begin no more after `seconds`."""
        return Turns(rounds or self.rounds, seconds if self.quick else seconds * 20)

    @property
    def alone(self) -> Shape:
        """What the optimisations are compared on one by one."""
        return Shape(300, CASE.record_bytes, CASE.batch) if self.quick else CASE

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Record sizes and batch sizes."""
        sizes, batches = (
            ((100, 1 << 14), (10,)) if self.quick else ((100, 1 << 10, 1 << 14), (1, 10, 100))
        )
        return tuple(Shape(200, size, batch) for size in sizes for batch in batches)

    @property
    def recovered_bytes(self) -> int:
        """How large the log is that is read back."""
        return 1 << 28 if self.quick else 1 << 30

    @property
    def scanned_bytes(self) -> int:
        """How large the log is that is scanned for its memory; 0: none."""
        return 0 if self.quick else 4 << 30

    def bytes_wanted(self) -> int:
        """Return what may lie on the disk at once: the largest log, or eight segments of 64 MiB."""
        return max(self.recovered_bytes, self.scanned_bytes, 8 * wal_raw.SEGMENT_BYTES) + (1 << 28)


def wal(settings: Settings, say: Say) -> BenchReport:
    """Run the bench. CommandError if it cannot be run; every file is gone at the end."""
    directory = settings.directory
    free, wanted = shutil.disk_usage(directory).free, settings.bytes_wanted()
    if free < wanted:
        raise CommandError(
            Exit.UNFIT,
            f"{directory}: {free / 1e9:.1f} GB are free, this bench needs {wanted / 1e9:.1f} GB for"
            " a while; give --data a directory on another disk",
        )
    facts = machine(directory)
    company = Company()
    if facts["file_system"] in IN_MEMORY:
        say(f"{directory}: in memory, where fsync costs nothing; --data names a disk")
    rows = _seed3(settings, say)
    rows += _policies(settings, say)
    rows += _shapes(settings, say)
    rows += wal_raw.raw_limit(
        directory, settings.turns(4), 8 << 20 if settings.quick else 64 << 20, say
    )
    rows += wal_raw.preparations(
        directory, settings.turns(4), 200 if settings.quick else 1_000, say
    )
    rows += _seed4(settings, say)
    rows.append(wal_raw.append_cost(directory, settings.turns(3)))
    rows += wal_raw.recovery(directory, settings.turns(3), settings.recovered_bytes, say)
    rows += cross_check(directory)
    if settings.scanned_bytes:
        rows.append(wal_raw.scan(directory, settings.scanned_bytes, say))
    if settings.with_peers:
        shape = Shape(200, CASE.record_bytes, CASE.batch) if settings.quick else CASE
        rows += peers(directory, settings.turns(4), shape, _as_peer, say)
    others = company.cores()
    if others > OTHERS_MAX:
        say(f"{others} cores were busy with other things: a goal that is missed proves nothing")
    facts["others_of_one_core"] = others
    found = ratios(rows, is_busy=others > OTHERS_MAX)
    return BenchReport("wal", rows, found, facts, commit())


class Company:
    """What else the machine does while the bench runs."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._busy_s, self._own_s = self._read()

    def cores(self) -> float:
        """Return how many cores were busy since then, without ours and our children's share."""
        busy_s, own_s = self._read()
        elapsed_s = max(time.monotonic() - self._started, 1e-9)
        others_s = busy_s - self._busy_s - (own_s - self._own_s)
        return round(max(0.0, others_s / elapsed_s), 2)

    def _read(self) -> tuple[float, float]:
        import psutil

        machine, own = psutil.cpu_times(), os.times()
        busy_s = machine.user + machine.nice + machine.system
        return busy_s, own.user + own.system + own.children_user + own.children_system


# ---- the parts -----------------------------------------------------------------------------------


def _seed3(settings: Settings, say: Say) -> list[dict[str, Any]]:
    """Measure the naive log and all optimisations together, beside the bare loops."""
    payloads, path = CASE.payloads(), settings.directory / "bare"
    naive, optimised = _BY_NAME[NAIVE], _BY_NAME[ALL_TOGETHER]
    taken: dict[str, list[Sample]] = {
        name: [] for name in (NAIVE, ALL_TOGETHER, BARE_NAIVE, BARE_GROUPED)
    }
    turns = settings.turns(12)
    for _ in turns:
        for variant in (naive, optimised):
            taken[variant.name].append(run(settings.directory / "log", variant, CASE, payloads))
        taken[BARE_NAIVE].append(_bare(wal_bare.naive(path, payloads)))
        taken[BARE_GROUPED].append(_bare(wal_bare.grouped(path, payloads, CASE.batch)))
        told = ", ".join(f"{name} {samples[-1].per_s:,.0f}/s" for name, samples in taken.items())
        say(f"seed 3's case, round {turns.taken} of {turns.rounds}: {told}")
    rows = [_row("case", name, CASE, samples) for name, samples in taken.items()]
    return rows + seed3_rows({"naive": rows[0], "optimised": rows[1]})


def _bare(timing: wal_bare.Timing) -> Sample:
    return Sample(timing.seconds, CASE.records, timing.writes, timing.syncs, 0, 0.0)


def _policies(settings: Settings, say: Say) -> list[dict[str, Any]]:
    """Measure every variant, and the policies that were asked for."""
    shape = settings.alone
    variants = [*VARIANTS, *(Variant(text, text) for text in settings.policies)]
    samples = _in_turn(settings, settings.turns(20), variants, shape)
    rows = [_row("policies", name, shape, taken) for name, taken in samples.items()]
    naive = rows[0]["ops_per_s"]
    for row in rows:
        row["vs_naive"] = round(row["ops_per_s"] / naive, 2)
        lacks = f"; {', '.join(row['missing'])} missing" if row["missing"] else ""
        say(f"{row['case']}: {row['ops_per_s']:,.0f}/s, {row['vs_naive']:.1f} of naive{lacks}")
    return rows


def _shapes(settings: Settings, say: Say) -> list[dict[str, Any]]:
    """Measure the naive log, a node's and all together over record and batch sizes."""
    rows = []
    for shape in settings.shapes:
        variants = [_BY_NAME[name] for name in (NAIVE, NODE, ALL_TOGETHER)]
        samples = _in_turn(settings, settings.turns(3), variants, shape)
        rows += [_row("shapes", name, shape, taken) for name, taken in samples.items()]
        told = ", ".join(f"{row['case']} {row['ops_per_s']:,.0f}/s" for row in rows[-3:])
        say(f"{shape.record_bytes:,} B in batches of {shape.batch}: {told}")
    return rows


def _in_turn(
    settings: Settings, turns: Turns, variants: Sequence[Variant], shape: Shape
) -> dict[str, list[Sample]]:
    payloads = shape.payloads()
    samples: dict[str, list[Sample]] = {variant.name: [] for variant in variants}
    for _ in turns:
        for variant in variants:
            taken = run(settings.directory / "log", variant, shape, payloads)
            samples[variant.name].append(taken)
    return samples


def _seed4(settings: Settings, say: Say) -> list[dict[str, Any]]:
    """Measure CWal's variants."""
    records = 200 if settings.quick else 1_000
    taken: list[list[float]] = [[] for _ in SEED4]
    for _ in settings.turns(6):
        for samples, claim in zip(taken, SEED4, strict=True):
            shape = Shape(records, 1_000, min(claim.batch, records))
            sample = run(settings.directory / "log", claim.variant, shape, shape.payloads())
            samples.append(sample.seconds * 1e3 * 1_000 / records)
    rows = seed4_rows([median(samples) or 0.0 for samples in taken])
    for row in rows:
        say(
            f"seed 4, {row['case']}: {row['measured_vs_flush']} of flush, it claims {row['claimed_vs_flush']}"
        )
    return rows


def _as_peer(directory: Path, records: Sequence[bytes], batch: int) -> float:
    shape = Shape(len(records), len(records[0]), batch)
    return run(directory / "log", _BY_NAME[ALL_TOGETHER], shape, records).seconds


def _row(section: str, name: str, shape: Shape, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return medians; counts are those of the last round, and alike in all unless a group waited."""
    seconds, last = median(sample.seconds for sample in samples) or 1e-9, samples[-1]
    return {
        "section": section,
        "case": name,
        "records": shape.records,
        "record_bytes": shape.record_bytes,
        "batch": shape.batch,
        "rounds": len(samples),
        "ops_per_s": round(shape.records / seconds, 1),
        "mb_per_s": round(shape.records * shape.record_bytes / seconds / 1e6, 3),
        "ms_per_record": round(seconds * 1e3 / shape.records, 5),
        "wait_p50_us": round(median(sample.wait_p50_us for sample in samples) or 0.0, 1),
        "writes": last.writes,
        "fsyncs": last.syncs,
        "calls": last.calls,
        "spread": wal_raw.spread([sample.seconds for sample in samples]),
        "ops_per_s_rounds": [round(sample.per_s, 1) for sample in samples],
        "missing": list(last.missing),
    }


# ---- ratios --------------------------------------------------------------------------------------


def ratios(rows: Sequence[Mapping[str, Any]], *, is_busy: bool = False) -> list[Ratio]:
    """Compare what belongs together; what was not measured has no ratio.

    `is_busy`: the machine did other things meanwhile.
    """
    found = {(row["section"], row["case"]): row for row in rows}
    naive, optimised = found["case", NAIVE], found["case", ALL_TOGETHER]
    bare = _speedup(found["case", BARE_NAIVE], found["case", BARE_GROUPED])
    speedup = _speedup(naive, optimised)
    spreads = [found["case", name]["spread"] for name in (BARE_NAIVE, BARE_GROUPED)]
    disturbed = is_busy or max(spreads) > SPREAD_MAX
    ratios = [
        judge("optimised_vs_naive", speedup, 30, disturbed=disturbed),
        judge("bare_optimised_vs_naive", bare, None),
        judge("optimised_vs_naive_of_bare", quotient(speedup, bare), 0.5, disturbed=disturbed),
        judge("fsyncs_naive_vs_optimised", quotient(naive["fsyncs"], optimised["fsyncs"]), 100),
        judge("syscalls_naive_vs_optimised", quotient(naive["calls"], optimised["calls"]), 100),
    ]
    for name, goal in (("4KiB", None), ("64KiB", 0.85), ("1MiB", 0.90)):
        row = found["raw", name]
        value = quotient(row["ours_per_s"], row["bare_per_s"])
        disturbed = is_busy or row["spread"] > SPREAD_MAX
        ratios.append(judge(f"wal_vs_raw_{name}", value, goal, disturbed=disturbed))
    for name in ("4KiB", "64KiB"):
        row = found["prepare", name]
        for other in ("fallocate", "append"):
            ratios.append(
                judge(f"recycle_vs_{other}_{name}", quotient(row["recycle"], row[other]), None)
            )
    cost = next(row for row in rows if row["section"] == "cost")
    disturbed = is_busy or cost["spread"] > SPREAD_MAX
    name = "append_us_per_100B_record_in_a_batch"
    ratios.append(limit(name, cost["us_per_entry"], 2.0, disturbed=disturbed))
    for case, name, goal in (
        ("256 KiB batches", "recovery_vs_read_and_checksum", 0.7),
        ("64 KiB batches", "recovery_vs_read_and_checksum_64KiB_batches", None),
        ("1 KiB batches", "recovery_vs_read_and_checksum_1KiB_batches", None),
    ):
        row = found["recovery", case]
        value = quotient(row["ours_mb_per_s"], row["bare_mb_per_s"])
        disturbed = is_busy or row["spread"] > SPREAD_MAX
        ratios.append(judge(name, value, goal, disturbed=disturbed))
    for row in rows:
        if row["section"] == "scan":
            ratios.append(limit("scan_4GiB_rss_MB", row["rss_mb"], 64.0))
        elif row["section"] == "strace":
            ratios.append(
                judge(f"counts_agree_with_strace, {row['case']}", float(row["agree"]), 1.0)
            )
        elif row["section"] == "peers" and row["case"] != "ours" and row["batch"] > 1:
            ours = found["peers", "ours"]["ops_per_s"]
            ratios.append(judge(f"vs_{row['case']}", quotient(ours, row["ops_per_s"]), None))
    return ratios


def _speedup(slow: Mapping[str, Any], fast: Mapping[str, Any]) -> float | None:
    return quotient(fast["ops_per_s"], slow["ops_per_s"])
