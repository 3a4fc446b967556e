"""`bench dashboard`: what the dashboard costs, how soon it answers a key, and what it costs the nodes.

Theory of operation. One cluster of eleven nodes, one process that loads it, dashboards on
pseudo-terminals of 120 × 36 at their own ten pictures a second. First full load is measured; then
one dashboard is watched at half of it and at full load; then the nodes' frames, bytes and CPU time
per acknowledged put are compared with five dashboards and with none, in turn (A B A B …), at 30 %.

The limits are times and rates by contract, so what else runs on the machine matters: its CPU time
is measured too, and a limit that is missed beside much of it proves nothing.
"""

from __future__ import annotations

import contextlib
import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

from cluster.bench.children import ChildError
from cluster.bench.paced import Paced
from cluster.bench.report import BenchReport, Ratio, commit, limit, machine, median
from cluster.bench.screens import Screen, pump, shut
from cluster.bench.stage import Reading, Stage
from cluster.exits import CommandError, Exit
from cluster.tables import aligned

__all__ = ["PerOperation", "Settings", "change", "dashboard", "quantile", "ratios", "table"]

NODES: Final = 11
HALF: Final = 0.5
WATCHED: Final = 0.3
DASHBOARDS: Final = 5
OTHERS_MAX: Final = 0.2
"""Of one core: beside more than this a missed limit proves nothing."""
BYTES_NEEDED: Final = 8_000_000_000
ECHO_TIMEOUT_S: Final = 2.0
SETTLE_S: Final = 1.0
KEY_GAPS_S: Final = (0.15, 0.35)

CPU_MAX: Final = 0.10
KB_PER_S_MAX: Final = 60.0
ECHO_MS_MAX: Final = 50.0
ECHO_FULL_MS_MAX: Final = 120.0
CHANGE_MAX: Final = 0.03

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how often; the files lie in `directory` (removed at the end)."""

    directory: Path
    nodes: int = NODES
    full_s: float = 4.0
    window_s: float = 20.0
    keys: int = 100
    rounds: int = 5
    round_s: float = 8.0
    warm: bool = True


@dataclass(frozen=True, slots=True)
class PerOperation:
    """What one acknowledged put cost all nodes together."""

    frames: float
    bytes: float
    cpu_us: float
    admin_frames: float
    """Those of the lane by which the nodes are looked at; in `frames` too."""


def quantile(values: Sequence[float], fraction: float) -> float | None:
    """Return the value at a fraction, nearest rank; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def change(without: Sequence[float], beside: Sequence[float]) -> float | None:
    """Return by how much of itself a median grew; None if there is nothing to compare."""
    before, after = median(without), median(beside)
    return None if after is None or not before else after / before - 1


def dashboard(settings: Settings, say: Say) -> BenchReport:
    """Run the bench. CommandError if it cannot be run; every process and file is gone at the end."""
    free = shutil.disk_usage(settings.directory).free
    if free < BYTES_NEEDED:
        raise CommandError(
            Exit.UNFIT,
            f"{settings.directory}: {free / 1e9:.1f} GB are free, this bench may need"
            f" {BYTES_NEEDED / 1e9:.0f} GB for a while; give --data a directory on another disk",
        )
    facts = machine(settings.directory)
    try:
        say(f"{settings.nodes} nodes: starting and warming up")
        with Stage(settings.nodes, settings.directory / "ours") as stage:
            rows = _measure(stage, settings, say)
    except ChildError as error:
        raise CommandError(Exit.UNFIT, f"{error}; see: raftdeck doctor") from None
    return BenchReport("dashboard", rows, ratios(rows), facts, commit())


def _measure(stage: Stage, settings: Settings, say: Say) -> list[dict[str, Any]]:
    if settings.warm:
        stage.warm()
    stage.drive(Paced(settings.full_s / 2))
    full = stage.drive(Paced(settings.full_s))
    rate = full["acked"] / full["seconds"]
    say(f"full load: {rate:,.0f} puts a second")
    rows = []
    with contextlib.ExitStack() as stack:
        screen = stack.enter_context(contextlib.closing(Screen(stage.name)))
        stack.callback(shut, [screen])
        screen.wait_shown()
        pump([screen], SETTLE_S)
        for case, share in (("half_load", HALF), ("full_load", None)):
            pace = None if share is None else share * rate
            rows.append(_watch(stage, screen, settings, case, pace))
            say(_told(rows[-1]))
    rows.append(_compare(stage, settings, WATCHED * rate, say))
    return rows


# ---- one dashboard -----------------------------------------------------------------------------


def _watch(
    stage: Stage, screen: Screen, settings: Settings, case: str, rate: float | None
) -> dict[str, Any]:
    """Look at a dashboard for a window without keys, then press keys, under one load."""
    keys_s = settings.keys * sum(KEY_GAPS_S) / 2 * 1.5
    seconds = SETTLE_S + settings.window_s + keys_s
    stage.begin(Paced(seconds, rate))
    pump([screen], SETTLE_S)
    whole = before = stage.reading([screen.pid])
    written = screen.bytes_read
    pump([screen], settings.window_s)
    after = stage.reading([screen.pid])
    written = screen.bytes_read - written
    echoes = press(screen, settings.keys, random.Random(1))
    last = stage.reading([screen.pid])
    others = last.others_since(whole)
    seen = stage.end(partial(pump, [screen], 0.02))
    stage.settle()
    passed = after.at_s - before.at_s
    return {
        "case": case,
        "nodes": settings.nodes,
        "ops_per_s": round(seen["acked"] / seen["seconds"], 1),
        "p99_ms": seen["p99_ms"],
        "window_s": round(passed, 2),
        "cpu_of_one_core": round(after.watched_cpu_since(before) / passed, 4),
        "kB_per_s": round(written / passed / 1e3, 2),
        "rss_mb_start": round(before.rss_bytes / 1e6, 1),
        "rss_mb_end": round(after.rss_bytes / 1e6, 1),
        "keys": len(echoes),
        "keys_unseen": sum(each >= ECHO_TIMEOUT_S * 1e3 for each in echoes),
        "key_echo_p50_ms": _rounded(quantile(echoes, 0.5)),
        "key_echo_p99_ms": _rounded(quantile(echoes, 0.99)),
        "waited_of_keys": round((last.waited_s - after.waited_s) / (last.at_s - after.at_s), 3),
        "others_of_one_core": round(others, 2),
        "elections": after.term - before.term,
        "skipped": seen["skipped"],
        "errors": seen["errors"],
        "note": note_of(others, after.term - before.term, seen["skipped"], seen["errors"]),
    }


def press(screen: Screen, keys: int, rng: random.Random) -> list[float]:
    """Move the selection to and fro; return each echo in ms. One that never came counts in full."""
    echoes = []
    for number in range(keys):
        pump([screen], rng.uniform(*KEY_GAPS_S))
        found = screen.echo_ms(b"kj"[number % 2 :][:1], ECHO_TIMEOUT_S)
        echoes.append(ECHO_TIMEOUT_S * 1e3 if found is None else found)
    return echoes


def note_of(others: float, elections: int, skipped: int, errors: int) -> str | None:
    """Say what disturbed a measurement; None if nothing did."""
    notes = [f"{others:.2f} cores busy with other things"] if others > OTHERS_MAX else []
    counts = {"elections": elections, "puts skipped": skipped, "puts failed": errors}
    return "; ".join(notes + [f"{n} {what}" for what, n in counts.items() if n]) or None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _told(row: Mapping[str, Any]) -> str:
    return (
        f"{row['case']}: {row['ops_per_s']:,.0f} puts a second; the dashboard takes"
        f" {row['cpu_of_one_core']:.3f} of a core, writes {row['kB_per_s']:.1f} kB/s, answers"
        f" within {row['key_echo_p50_ms']} ms (p99 {row['key_echo_p99_ms']})"
    )


# ---- five dashboards ---------------------------------------------------------------------------


def _compare(stage: Stage, settings: Settings, rate: float, say: Say) -> dict[str, Any]:
    """Measure what a put costs the nodes with no dashboard and with five, in turn."""
    samples: dict[str, list[PerOperation]] = {"without": [], "with": []}
    others, elections, lost = 0.0, 0, {"skipped": 0, "errors": 0}
    plan = Paced(settings.round_s, rate)
    for number in range(1, settings.rounds + 1):
        for name, count in (("without", 0), ("with", DASHBOARDS)):
            with contextlib.ExitStack() as stack:
                screens: list[Screen] = []
                stack.callback(shut, screens)
                for _ in range(count):
                    screens.append(Screen(stage.name))
                for screen in screens:
                    screen.wait_shown()
                pump(screens, SETTLE_S)
                pids = [screen.pid for screen in screens]
                before = stage.reading(pids)
                stage.begin(plan)
                pump(screens, settings.round_s)
                seen = stage.end(partial(pump, screens, 0.02))
                after = stage.reading(pids)
            stage.settle()
            samples[name].append(per_operation(before, after, seen["acked"]))
            others = max(others, after.others_since(before))
            elections += after.term - before.term
            for what in lost:
                lost[what] += seen[what]
        cpu = ", ".join(f"{name} {taken[-1].cpu_us:.1f} µs" for name, taken in samples.items())
        say(f"dashboards, round {number} of {settings.rounds}: CPU of the nodes per put {cpu}")
    return compared(samples, settings.nodes) | {
        "ops_per_s": round(rate, 1),
        "others_of_one_core": round(others, 2),
        "elections": elections,
        **lost,
        "note": note_of(others, elections, lost["skipped"], lost["errors"]),
    }


def per_operation(before: Reading, after: Reading, acked: int) -> PerOperation:
    """Return what each of `acked` puts cost."""
    each = 1 / max(1, acked)
    return PerOperation(
        frames=(after.frames - before.frames) * each,
        bytes=(after.bytes - before.bytes) * each,
        cpu_us=(after.nodes_cpu_s - before.nodes_cpu_s) * 1e6 * each,
        admin_frames=(after.admin_frames - before.admin_frames) * each,
    )


def compared(samples: Mapping[str, Sequence[PerOperation]], nodes: int) -> dict[str, Any]:
    """Return a row: medians of both sides, the changes, and every round."""
    names = [spec.name for spec in fields(PerOperation)]
    values = {
        who: {name: [getattr(each, name) for each in taken] for name in names}
        for who, taken in samples.items()
    }
    row: dict[str, Any] = {"case": "five_dashboards", "nodes": nodes, "dashboards": DASHBOARDS}
    for who, taken in samples.items():
        row[who] = {name: _three(median(values[who][name])) for name in names} | {
            "rounds": [{k: _three(v) for k, v in asdict(each).items()} for each in taken]
        }
    row["changes"] = {
        name: _three(change(values["without"][name], values["with"][name])) for name in names
    }
    return row


def _three(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# ---- ratios, and for a person ------------------------------------------------------------------


def ratios(rows: Sequence[Mapping[str, Any]]) -> list[Ratio]:
    """Compare every row with its limits.

    What else runs on the machine makes times longer; what is counted (bytes, frames) only an election
    changes.
    """
    found: list[Ratio] = []
    for row in rows:
        times, counts = bool(row["note"]), bool(row["elections"])
        if row["case"] == "half_load":
            found += [
                limit("cpu_of_one_core", row["cpu_of_one_core"], CPU_MAX, disturbed=times),
                limit("kB_per_s", row["kB_per_s"], KB_PER_S_MAX, disturbed=counts),
                limit("key_echo_p99_ms", row["key_echo_p99_ms"], ECHO_MS_MAX, disturbed=times),
            ]
        elif row["case"] == "full_load":
            name, value = "key_echo_p99_ms_full_load", row["key_echo_p99_ms"]
            found.append(limit(name, value, ECHO_FULL_MS_MAX, disturbed=times))
        else:
            by = row["changes"]
            found += [
                limit("nodes_frames_per_op_change", by["frames"], CHANGE_MAX, disturbed=counts),
                limit("nodes_bytes_per_op_change", by["bytes"], CHANGE_MAX, disturbed=counts),
                limit("nodes_cpu_per_op_change", by["cpu_us"], CHANGE_MAX, disturbed=times),
            ]
    return found


_COLUMNS: Final = (
    "CASE", "OPS/S", "CPU OF A CORE", "KB/S", "ECHO P50 MS", "P99 MS", "RSS MB", "THEN", "NOTE",
)  # fmt: skip
_SHOWN: Final = (
    ("ops_per_s", 0), ("cpu_of_one_core", 3), ("kB_per_s", 1), ("key_echo_p50_ms", 1),
    ("key_echo_p99_ms", 1), ("rss_mb_start", 1), ("rss_mb_end", 1),
)  # fmt: skip
_COSTS: Final = ("NODES, PER PUT", "FRAMES", "BYTES", "CPU µS")


def table(report: BenchReport) -> str:
    """Return the rows as two tables: the dashboard's own figures, and the nodes'."""
    own, nodes = [], []
    for row in report.rows:
        if row["case"] != "five_dashboards":
            cells = ["–" if row[k] is None else f"{row[k]:,.{digits}f}" for k, digits in _SHOWN]
            own.append([row["case"].replace("_", " "), *cells, row["note"] or ""])
            continue
        for who, text in (("without", "no dashboard"), ("with", f"{row['dashboards']} dashboards")):
            side = row[who]
            nodes.append([text, *(f"{side[k]:,.3f}" for k in ("frames", "bytes", "cpu_us"))])
    first = aligned(_COLUMNS, own, frozenset(_COLUMNS) - {"CASE", "NOTE"})
    return f"{first}\n\n{aligned(_COSTS, nodes, frozenset(_COSTS[1:]))}"
