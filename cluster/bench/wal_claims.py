"""What seeds 3 and 4 claim of write-ahead logs, and the runs that stand beside it.

The claims are copied from the seeds' own tables; which machine they were measured on is not said
there. What is measured here is measured on another one: the absolute figures differ by what the
disks differ, and the ratios say whether the lesson holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cluster.bench.wal_variants import Variant

__all__ = ["SEED3", "SEED4", "Claim4", "seed3_rows", "seed4_rows"]

SEED3: Final[Mapping[str, tuple[float, float]]] = {
    "writes per second": (238.0, 17_857.0),
    "ms per write": (4.19, 0.06),
    "fsyncs": (1_000, 10),
    "system calls": (4_000, 25),
}
"""Metric → (naive, optimised), of 1,000 records. Its "20-30" system calls are 25 here."""


@dataclass(frozen=True, slots=True)
class Claim4:
    """One line of seed 4's benchmarks: 1,000 records of 1,000 bytes."""

    name: str
    ms: float
    """What it claims for the whole run."""
    variant: Variant
    batch: int


SEED4: Final[tuple[Claim4, ...]] = (
    Claim4(
        "no flush, no sync", 2_931,
        Variant("", "naive,commit=buffered,driver=thread,gather_bytes=8192,gather_us=1000"), 1_000,
    ),
    Claim4("flush, no sync", 3_556, Variant("", "naive,commit=buffered"), 1),
    Claim4("sync, period 1", 107_601, Variant("", "naive"), 1),
    Claim4("sync, period 10", 63_919, Variant("", "naive,commit=buffered", "periods"), 10),
    Claim4(
        "overwriting batches of 31", 98_265,
        Variant("", "naive,commit=buffered,prepare=recycle", "periods"), 31,
    ),
    Claim4(
        "overwriting batches of 10", 101_750,
        Variant("", "naive,commit=buffered,prepare=recycle", "periods"), 10,
    ),
)  # fmt: skip
"""CWal's stream has a buffer of its own, so that without a flush it writes every 8 KiB. Its batched
mode syncs after a batch and overwrites the file from the start; ours overwrites a recycled segment."""

SYNC_INCREASE_CLAIMED: Final = 0.35
"""Seed 4: fsync "causes a 35 % increase in time"."""


def seed3_rows(measured: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put seed 3's table beside ours. `measured`: "naive" and "optimised" → a row of figures."""
    figures = {
        "writes per second": "ops_per_s",
        "ms per write": "ms_per_record",
        "fsyncs": "fsyncs",
        "system calls": "calls",
    }
    rows = []
    for metric, (naive, optimised) in SEED3.items():
        ours = [measured[side][figures[metric]] for side in ("naive", "optimised")]
        rows.append(
            {
                "section": "seed 3", "case": metric,
                "claimed": {"naive": naive, "optimised": optimised, "ratio": _ratio(naive, optimised)},
                "measured": {"naive": ours[0], "optimised": ours[1], "ratio": _ratio(*ours)},
            }
        )  # fmt: skip
    return rows


def seed4_rows(measured_ms: Sequence[float]) -> list[dict[str, Any]]:
    """Put seed 4's table beside ours; both in ms for 1,000 records, and over its own "flush"."""
    claimed_flush, measured_flush = SEED4[1].ms, measured_ms[1]
    return [
        {
            "section": "seed 4", "case": claim.name, "claimed_ms": claim.ms,
            "measured_ms": round(ms, 3), "claimed_vs_flush": round(claim.ms / claimed_flush, 2),
            "measured_vs_flush": round(ms / measured_flush, 2),
        }
        for claim, ms in zip(SEED4, measured_ms, strict=True)
    ]  # fmt: skip


def _ratio(naive: float, optimised: float) -> float:
    """Return how many times better the optimised side is, whichever direction is better."""
    low, high = sorted((naive, optimised))
    return round(high / low, 1) if low else 0.0
