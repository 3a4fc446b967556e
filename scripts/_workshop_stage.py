"""The workshop's stage: it prints, and it measures policies by turns, on the disk at hand."""

from __future__ import annotations

import shutil
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from wal import Log, LogIdentity, OpenOptions, OsFilesystem, SyncPolicy, batch_record

__all__ = ["BATCH", "NAIVE", "RECORD_BYTES", "Fields", "LostError", "Stage", "Trial", "Variant"]

RECORD_BYTES: Final = 1024
BATCH: Final = 100
"""Seed 3's case: records of 1 KiB, a hundred to a group."""
ROUNDS: Final = 3
SEGMENT_BYTES: Final = 16 << 20
RECYCLED_BYTES: Final = 4 << 20
"""Segments that are to be used again are small: a few have to be filled and given back first."""
OWNER: Final = LogIdentity(b"workshop-of-logs", 1)

Fields = Mapping[str, Any]
"""Fields of `SyncPolicy` and their values."""

NAIVE: Final[Fields] = {
    "commit": "record", "sync": "fsync", "prepare": "append", "driver": "inline",
}  # fmt: skip


class LostError(Exception):
    """Something acknowledged was not found again."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of seed 3's case."""

    seconds: float
    records: int
    syncs: int
    writes: int
    calls: int

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.records / self.seconds


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy by the fields that it changes, under the name that the step shows."""

    name: str
    changes: Fields = field(default_factory=dict)
    base: Fields = field(default_factory=lambda: NAIVE)

    def policy(self) -> tuple[SyncPolicy, list[str]]:
        """Return the policy, and the fields that this version of `wal` does not have."""
        known = {spec.name for spec in fields(SyncPolicy)}
        wanted = {**self.base, **self.changes}
        missing = sorted(set(wanted) - known)
        settings = {name: value for name, value in wanted.items() if name in known}
        step = settings.get("fill_step_bytes", 0)
        settings.setdefault("segment_bytes", max(SEGMENT_BYTES, step))
        if settings.get("prepare") == "recycle":
            settings |= {"segment_bytes": RECYCLED_BYTES, "fill_step_bytes": RECYCLED_BYTES // 4}
        return SyncPolicy(**settings), missing

    @property
    def missing(self) -> list[str]:
        """Fields of the change itself that are missing: the variant cannot be shown."""
        return [name for name in self.policy()[1] if name in self.changes]


@dataclass
class Stage:
    """Where the steps run, and what they print."""

    directory: Path
    records: int
    width: int
    numbers: int = 0

    def place(self) -> Path:
        """Return a new directory."""
        self.numbers += 1
        return self.directory / f"{self.numbers:03d}"

    def say(self, text: str) -> None:
        """Print a paragraph."""
        for part in textwrap.dedent(text).strip().split("\n\n"):
            print(textwrap.fill(" ".join(part.split()), self.width))
            print()

    def show(self, lines: Iterator[str] | Sequence[str]) -> None:
        """Print lines as they are, cut at the width."""
        for line in lines:
            print(line[: self.width])
        print()

    def trial(self, variant: Variant, records: int | None = None) -> Trial:
        """Write records of 1 KiB, handed over a hundred at a time, each hundred made durable."""
        policy, _ = variant.policy()
        directory, fs = self.place(), OsFilesystem()
        options = OpenOptions(policy, clock=time.monotonic_ns)
        log, _ = Log.open(fs, str(directory), OWNER, options)
        try:
            index = _warm(log, policy)
            stats, calls = log.stats(), fs.calls.total
            count = records or self.records
            began = time.perf_counter()
            _write(log, index, count)
            seconds = time.perf_counter() - began
            after = log.stats()
            return Trial(
                seconds,
                count,
                after.syncs - stats.syncs,
                after.jobs - stats.jobs,
                fs.calls.total - calls,
            )
        finally:
            log.abort()
            shutil.rmtree(directory, ignore_errors=True)

    def compare(self, variants: Sequence[Variant], records: int | None = None) -> list[Trial]:
        """Measure variants by turns, A B A B …; print all, return the median of each."""
        found: list[list[Trial]] = [[] for _ in variants]
        for _ in range(ROUNDS):
            for variant, trials in zip(variants, found, strict=True):
                if not variant.missing:
                    trials.append(self.trial(variant, records))
        for trials in found:
            trials.sort(key=lambda trial: trial.rate)
        self.show(_comparison(variants, found, self.width))
        return [trials[len(trials) // 2] for trials in found if trials]


def _warm(log: Log, policy: SyncPolicy) -> int:
    """Begin the first segment; where files are used again, see to it that there are some."""
    _write(log, 1, BATCH)
    index = 1 + BATCH
    if policy.prepare == "recycle":
        while log.head_number < 4:
            log.append([batch_record(0, 1, index, [bytes(RECYCLED_BYTES // 4)])]).wait()
            index += 1
        log.release(0, index - 1, 1)
        _write(log, index, 1)  # done only when the files have been given back
        index += 1
    return index


def _write(log: Log, index: int, count: int) -> None:
    body = b"x" * RECORD_BYTES
    for start in range(index, index + count, BATCH):
        some = range(start, min(start + BATCH, index + count))
        log.append([batch_record(0, 1, number, [body]) for number in some]).wait()


def _comparison(
    variants: Sequence[Variant], found: Sequence[Sequence[Trial]], width: int
) -> Iterator[str]:
    """Yield a table: median, lowest and highest of the rounds, counts, and how often the first."""
    names = max(len(variant.name) for variant in variants)
    middle = [trials[len(trials) // 2].rate if trials else 0.0 for trials in found]
    yield f"{'':<{names}}  {'records/s':>9}  {'of rounds':>13}  {'syncs':>5}  {'calls':>5}  {'×':>5}"
    bar = max(4, width - names - 49)
    base = next((rate for rate in middle if rate), 1.0)
    for variant, trials, rate in zip(variants, found, middle, strict=True):
        if not trials:
            lacking = ", ".join(variant.missing)
            yield f"{variant.name:<{names}}  not in this version: SyncPolicy has no {lacking}"
            continue
        spread = f"{trials[0].rate:,.0f}–{trials[-1].rate:,.0f}"
        yield (
            f"{variant.name:<{names}}  {rate:>9,.0f}  {spread:>13}  {trials[0].syncs:>5}"
            f"  {trials[0].calls:>5}  {rate / base:>5.1f}  "
            + "█"
            * max(1, round(bar * rate / max(middle)))
        )
