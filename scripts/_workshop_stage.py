"""The workshop's stage: it prints, and it measures policies by turns, on the disk at hand."""

from __future__ import annotations

import shutil
import textwrap
import time
from collections import Counter
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
OWNER: Final = LogIdentity(b"workshop-of-logs", 1)

Fields = Mapping[str, Any]
"""Fields of `SyncPolicy` and their values."""

NAIVE: Final[Fields] = {
    "commit": "record", "sync": "fsync", "prepare": "append", "driver": "inline",
}  # fmt: skip


class LostError(Exception):
    """Something acknowledged was not found again."""


class _CountedFile:
    """A file whose calls are counted by name."""

    def __init__(self, file: Any, calls: Counter[str]) -> None:
        self._file = file
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._file, name)
        if not callable(method):
            return method

        def call(*arguments: Any, **options: Any) -> Any:
            self._calls[name] += 1
            return method(*arguments, **options)

        return call


class CountingFilesystem(OsFilesystem):
    """The real file system; `calls` counts what a log asks of its files."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def open(self, path: str, **options: Any) -> Any:
        """See `Filesystem.open`."""
        return _CountedFile(super().open(path, **options), self.calls)


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
        settings.setdefault("segment_bytes", SEGMENT_BYTES)
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
        directory, fs = self.place(), CountingFilesystem()
        log, _ = Log.open(fs, str(directory), OWNER, OpenOptions(policy))
        try:
            _write(log, 1, BATCH)  # the first segment exists, and what is prepared is prepared
            stats, calls = log.stats(), fs.calls.total()
            count = records or self.records
            began = time.perf_counter()
            _write(log, 1 + BATCH, count)
            seconds = time.perf_counter() - began
            after = log.stats()
            return Trial(
                seconds,
                count,
                after.syncs - stats.syncs,
                after.jobs - stats.jobs,
                fs.calls.total() - calls,
            )
        finally:
            log.abort()
            shutil.rmtree(directory, ignore_errors=True)

    def compare(self, variants: Sequence[Variant], records: int | None = None) -> list[Trial]:
        """Measure variants by turns, A B A B …; print and return the median of each."""
        found: list[list[Trial]] = [[] for _ in variants]
        for _ in range(ROUNDS):
            for variant, trials in zip(variants, found, strict=True):
                if not variant.missing:
                    trials.append(self.trial(variant, records))
        middle = [sorted(each, key=lambda trial: trial.rate)[len(each) // 2] if each else None
                  for each in found]  # fmt: skip
        first = middle[0]
        assert first is not None, "the first variant is what the others are compared with"
        self.show(_comparison(variants, middle, self.width))
        return [trial or first for trial in middle]


def _write(log: Log, index: int, count: int) -> None:
    body = b"x" * RECORD_BYTES
    for start in range(index, index + count, BATCH):
        some = range(start, min(start + BATCH, index + count))
        log.append([batch_record(0, 1, number, [body]) for number in some]).wait()


def _comparison(
    variants: Sequence[Variant], trials: Sequence[Trial | None], width: int
) -> Iterator[str]:
    first = trials[0]
    assert first is not None
    names = max(len(variant.name) for variant in variants)
    best = max(trial.rate for trial in trials if trial)
    yield f"{'':<{names}}  {'records/s':>9}  {'syncs':>5}  {'writes':>6}  {'calls':>6}  {'×':>6}"
    bar = max(4, width - names - 43)
    for variant, trial in zip(variants, trials, strict=True):
        if trial is None:
            lacking = ", ".join(variant.missing)
            yield f"{variant.name:<{names}}  not in this version: SyncPolicy has no {lacking}"
            continue
        yield (
            f"{variant.name:<{names}}  {trial.rate:>9,.0f}  {trial.syncs:>5}  {trial.writes:>6}"
            f"  {trial.calls:>6}  {trial.rate / first.rate:>6.1f}  "
            + "█"
            * max(1, round(bar * trial.rate / best))
        )
