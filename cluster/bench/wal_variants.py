"""What `bench wal` measures of our log: policies, and the ways in which records are given to it.

A variant is a policy (`wal.policy`) and a way of appending. `RUNS` of one shape write the same
payloads; encoding them is part of the time, opening the log, preparing its file and removing it is
not.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from wal import Log, LogIdentity, OpenOptions, OsFilesystem, Record, batch_record
from wal.frame import frame_size
from wal.policy import SyncPolicy, policy_of_text

__all__ = [
    "ALL_TOGETHER",
    "NAIVE",
    "VARIANTS",
    "Sample",
    "Shape",
    "Turns",
    "Variant",
    "fresh_log",
    "run",
    "write_all",
]

Giving = Literal["each", "together", "periods"]
"""each: every record is an append of its own, and after a batch of them the caller waits.
together: a batch of records is one append, encoded once, as a leader does with what it received.
periods: each, and after a batch the caller asks for a flush (CWal's SYNC_PERIOD)."""

IDENTITY: Final = LogIdentity(bytes(16), 1)
SEGMENT_BYTES: Final = 16 << 20
"""So that recycling is reached after 32 MiB, and four spare files are 64 MiB."""
_WARM_RECORD: Final = bytes(1 << 20)
_TIMEOUT_S: Final = 60.0
SETTLING_FLUSHES: Final = 4
"""Segments are given back one at a time, between other jobs; the warm-up leaves one or two."""
NAIVE: Final = "naive"
ALL_TOGETHER: Final = "all together"


@dataclass(slots=True)
class Turns:
    """The rounds of a comparison: so many, or as many as begin within so many seconds; one at least.

    On a disk that others keep busy a round may take twenty times as long as on one of its own.
    """

    rounds: int
    seconds: float
    taken: int = 0

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the rounds, from 1."""
        started = time.monotonic()
        self.taken = 0
        while self.taken < self.rounds:
            if self.taken and time.monotonic() - started > self.seconds:
                return
            self.taken += 1
            yield self.taken


@dataclass(frozen=True, slots=True)
class Shape:
    """What is written: so many records of so many bytes, `batch` of them at a time."""

    records: int
    record_bytes: int
    batch: int

    def payloads(self) -> list[bytes]:
        """Return the records. Their bytes do not matter, their number of objects does."""
        source = os.urandom(self.record_bytes + 64)
        return [source[i % 64 : i % 64 + self.record_bytes] for i in range(self.records)]


@dataclass(frozen=True, slots=True)
class Variant:
    """A named policy and a way of appending. `{batch}`, `{bytes}` in the policy are the shape's."""

    name: str
    policy: str
    giving: Giving = "each"

    def policy_for(self, shape: Shape) -> SyncPolicy:
        """Return the policy for a shape."""
        size = frame_size(shape.record_bytes + 4) * shape.batch
        text = self.policy.format(batch=max(1, shape.batch), bytes=size)
        return policy_of_text(text, SyncPolicy(segment_bytes=SEGMENT_BYTES))


VARIANTS: Final[tuple[Variant, ...]] = (
    Variant(NAIVE, "naive"),
    Variant("buffered, no sync", "naive,commit=buffered"),
    Variant("group by count", "naive,commit=group,driver=thread,gather_records={batch},gather_us=50000"),
    Variant("group by bytes", "naive,commit=group,driver=thread,gather_bytes={bytes},gather_us=50000"),
    Variant("group by time, 1 ms", "naive,commit=group,driver=thread,gather_us=1000"),
    Variant("natural groups", "naive,commit=group,driver=thread"),
    Variant("one append per batch", "naive,commit=group", "together"),
    Variant("fallocate", "naive,prepare=fallocate"),
    Variant("zero_fill", "naive,prepare=zero_fill"),
    Variant("recycle", "naive,prepare=recycle"),
    Variant("fdatasync", "naive,sync=fdatasync"),
    Variant("o_dsync", "naive,sync=o_dsync"),
    Variant("o_direct", "naive,io=direct"),
    Variant("thread", "naive,driver=thread"),
    Variant("pipeline", "naive,driver=pipeline"),
    Variant("page cache dropped", "naive,page_cache=drop"),
    Variant("as a node does", "natural"),
    Variant("balanced", "balanced"),
    Variant("low_latency", "low_latency"),
    Variant("high_throughput", f"high_throughput,fill_step_bytes={SEGMENT_BYTES}"),
    Variant("all, O_DIRECT", "driver=inline,io=direct", "together"),
    Variant("all, O_DSYNC", "driver=inline,sync=o_dsync", "together"),
    Variant(ALL_TOGETHER, "driver=inline", "together"),
)  # fmt: skip
"""The naive log, it with one optimisation alone, and combinations. The last one is what the goals of
seed 3's case are judged by: a batch per append, one write and one fdatasync, in a recycled file."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run."""

    seconds: float
    records: int
    writes: int
    syncs: int
    """Calls of fsync or fdatasync; none with O_DSYNC."""
    others: int
    wait_p50_us: float
    """From the append of a batch's last record until it was acknowledged, median."""
    missing: tuple[str, ...] = ()

    @property
    def per_s(self) -> float:
        """Records per second."""
        return self.records / self.seconds

    @property
    def calls(self) -> int:
        """System calls on files that are written."""
        return self.writes + self.syncs + self.others


@contextmanager
def fresh_log(directory: Path, policy: SyncPolicy) -> Iterator[tuple[Log, OsFilesystem, int]]:
    """Give a new log behind its warm-up, and the next index; its directory is gone afterwards.

    With "recycle" its head is a file that has been a segment before.
    """
    fs = OsFilesystem()
    log, _ = Log.open(fs, str(directory), IDENTITY, OpenOptions(policy, clock=time.monotonic_ns))
    try:
        index = 1
        log.append([batch_record(0, 1, index, [b"warm"])])
        while policy.prepare == "recycle" and not log.stats().segments_recycled:
            index += 1
            log.append([batch_record(0, 1, index, [_WARM_RECORD])])
            log.flush().wait(_TIMEOUT_S)
            log.release(0, index - 1, 1)
        for _ in range(SETTLING_FLUSHES):
            log.flush().wait(_TIMEOUT_S)
        yield log, fs, index + 1
    finally:
        log.abort()
        shutil.rmtree(directory, ignore_errors=True)


def run(directory: Path, variant: Variant, shape: Shape, payloads: Sequence[bytes]) -> Sample:
    """Write the payloads once, in a new log in `directory`."""
    policy = variant.policy_for(shape)
    with fresh_log(directory, policy) as (log, fs, index):
        before = fs.calls.writes, fs.calls.syncs, fs.calls.others
        started = time.perf_counter()
        waits = write_all(log, variant, shape, payloads, index)
        seconds = time.perf_counter() - started
        calls = fs.calls
        after = calls.writes, calls.syncs, calls.others
        writes, syncs, others = (b - a for a, b in zip(before, after, strict=True))
        missing = tuple(each.capability for each in log.stats().missing)
    waits.sort()
    middle = waits[len(waits) // 2] * 1e6
    return Sample(seconds, shape.records, writes, syncs, others, middle, missing)


def write_all(
    log: Log, variant: Variant, shape: Shape, payloads: Sequence[bytes], index: int
) -> list[float]:
    """Write the payloads as a variant does; return how long each batch was waited for (s)."""
    write = {"each": _each, "together": _together, "periods": _periods}[variant.giving]
    waits: list[float] = []
    for start in range(0, shape.records, shape.batch):
        write(log, payloads[start : start + shape.batch], index + start, waits)
    return waits


Write = Callable[[Log, Sequence[bytes], int, list[float]], None]


def _each(log: Log, payloads: Sequence[bytes], index: int, waits: list[float]) -> None:
    for place, payload in enumerate(payloads[:-1]):
        log.append([batch_record(0, 1, index + place, [payload])])
    last = batch_record(0, 1, index + len(payloads) - 1, [payloads[-1]])
    started = time.perf_counter()
    log.append([last]).wait(_TIMEOUT_S)
    waits.append(time.perf_counter() - started)


def _together(log: Log, payloads: Sequence[bytes], index: int, waits: list[float]) -> None:
    records: list[Record] = [batch_record(0, 1, index, payloads)]
    started = time.perf_counter()
    log.append(records).wait(_TIMEOUT_S)
    waits.append(time.perf_counter() - started)


def _periods(log: Log, payloads: Sequence[bytes], index: int, waits: list[float]) -> None:
    for place, payload in enumerate(payloads):
        log.append([batch_record(0, 1, index + place, [payload])])
    started = time.perf_counter()
    log.flush().wait(_TIMEOUT_S)
    waits.append(time.perf_counter() - started)
