"""`bench sim`: how many simulated clusters a core runs per minute, and what each of them is.

Seeds of the profile lite (and, for information, of swarm) are run in one process, in rounds that
take turns. A rate is seeds per minute of this process's CPU time: what one core gives; the wall
clock's rate stands beside it, and differs where other programs run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cluster.bench.report import BenchReport, Ratio, commit, judge, machine, median
from cluster.sim.campaign import Campaign, run_campaign, run_seed
from cluster.sim.plan import Profile
from cluster.tables import aligned

__all__ = ["Settings", "sim", "table"]

LITE_GOAL: Final = 300.0
PROFILES: Final[tuple[Profile, ...]] = ("lite", "swarm")
_WARM_SEEDS: Final = 10

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How many seeds a round has, and how many rounds."""

    seeds: int = 200
    rounds: int = 5


def sim(settings: Settings, say: Say) -> BenchReport:
    """Run the bench. A seed that does not hold is in its row: `failed`."""
    for profile in PROFILES:
        _round(profile, 1, _WARM_SEEDS)
    samples: dict[Profile, list[dict[str, float]]] = {profile: [] for profile in PROFILES}
    for number in range(settings.rounds):
        for profile in PROFILES:
            first = 1 + number * settings.seeds
            samples[profile].append(_round(profile, first, settings.seeds))
            rate = samples[profile][-1]["seeds_per_cpu_minute"]
            say(f"round {number + 1} of {settings.rounds}, {profile}: {rate:,.0f} seeds a minute")
    rows = [_row(profile, taken) for profile, taken in samples.items()]
    return BenchReport("sim", rows, _ratios(rows), machine(Path.cwd()), commit())


def _round(profile: Profile, first: int, seeds: int) -> dict[str, float]:
    began_s = time.monotonic()
    numbers = range(first, first + seeds)
    run = run_campaign(numbers, run=lambda seed, build: run_seed(seed, build, profile=profile))
    wall_s = time.monotonic() - began_s
    return _figures(run, wall_s)


def _figures(run: Campaign, wall_s: float) -> dict[str, float]:
    return {
        "seeds_per_cpu_minute": 60 * run.seeds / run.cpu_s,
        "seeds_per_wall_minute": 60 * run.seeds / wall_s,
        "events_per_seed": run.events / run.seeds,
        "events_per_s": run.events / run.cpu_s,
        "turns_per_seed": run.turns / run.seeds,
        "operations_per_seed": run.operations / run.seeds,
        "faults_per_seed": run.faults / run.seeds,
        "virtual_s_per_seed": run.virtual_ns / 1e9 / run.seeds,
        "virtual_to_real": run.virtual_ns / 1e9 / run.cpu_s,
        "failed": len(run.failures),
    }


def _row(profile: Profile, taken: Sequence[dict[str, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"profile": profile, "rounds": len(taken)}
    for name in taken[0]:
        row[name] = round(median(each[name] for each in taken) or 0.0, 2)
    row["failed"] = sum(int(each["failed"]) for each in taken)
    row["every_round"] = [round(each["seeds_per_cpu_minute"], 1) for each in taken]
    return row


def _ratios(rows: Sequence[dict[str, Any]]) -> list[Ratio]:
    lite, swarm = rows
    return [
        judge("lite_seeds_per_minute_per_core", lite["seeds_per_cpu_minute"], LITE_GOAL),
        judge("swarm_seeds_per_minute_per_core", swarm["seeds_per_cpu_minute"], None),
        judge("lite_virtual_to_real", lite["virtual_to_real"], None),
    ]


_COLUMNS: Final = (
    ("SEEDS/MIN", "seeds_per_cpu_minute"),
    ("WALL", "seeds_per_wall_minute"),
    ("EVENTS/SEED", "events_per_seed"),
    ("EVENTS/S", "events_per_s"),
    ("OPS/SEED", "operations_per_seed"),
    ("FAULTS/SEED", "faults_per_seed"),
    ("VIRTUAL S", "virtual_s_per_seed"),
    ("VIRTUAL/REAL", "virtual_to_real"),
    ("FAILED", "failed"),
)


def table(report: BenchReport) -> str:
    """Return the rows for a person."""
    head = ("PROFILE", *(name for name, _ in _COLUMNS))
    cells = [
        [str(row["profile"]), *(f"{row[key]:,.1f}".removesuffix(".0") for _, key in _COLUMNS)]
        for row in report.rows
    ]
    return aligned(head, cells, frozenset(head) - {"PROFILE"})
