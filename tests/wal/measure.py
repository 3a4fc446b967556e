"""How fast the log is, beside a bare loop of pwritev and fdatasync over the same kind of files.

    python -m tests.wal.measure append|recover|frame [DIRECTORY]

Not a test. Log and bare loop take turns (A B A B …), the median of five rounds is printed; the
directory should be on the disk that is to be measured, not in memory.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from statistics import median

from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import IDENTITY, StepDriver
from wal import (
    AppendHandle,
    Log,
    OpenOptions,
    OsFilesystem,
    Record,
    SegmentIO,
    SyncPolicy,
    batch_record,
    recover,
)
from wal.checksum import active, crc32c
from wal.frame import FramePrefix, RecordHeader, encode_prefix, padding_for

ROUNDS = 5
SEGMENT = 64 << 20
ENTRY = os.urandom(1024)


def batch_of(entries: int, base: int) -> Record:
    """Encode a batch; its CRC is the leader's cost, and not measured here."""
    return batch_record(0, 1, base, [ENTRY] * entries)


def measure_append(directory: Path) -> None:
    """Print MB/s of the log and of the bare loop."""
    print(f"CRC-32C by {active()}; {ROUNDS} rounds in turns, medians; MB/s of payload")
    for name, entries, total in (("100 × 1 KiB", 100, 3000), ("1 MiB", 1024, 600)):
        records = [batch_of(entries, 1 + place * entries) for place in range(total)]
        payload = sum(len(record.body) for record in records)
        for window in (1, 8):
            bare, ours, jobs = [], [], 0
            for turn in range(ROUNDS + 1):
                bare_s = bare_loop(directory / "bare", records, window)
                ours_s, jobs = log_loop(directory / f"log-{name}-{window}-{turn}", records, window)
                if turn:  # the first round prepares the files
                    bare.append(payload / bare_s / 1e6)
                    ours.append(payload / ours_s / 1e6)
            print(
                f"{name:>12} batches, {window} outstanding: log {median(ours):6.0f}"
                f" ({jobs} syncs), bare {median(bare):6.0f}, ratio {median(ours) / median(bare):.2f}"
            )


def bare_loop(directory: Path, records: list[Record], window: int) -> float:
    """Write the same frames with the same grouping into two files that exist already."""
    fs = OsFilesystem()
    fs.mkdirs(str(directory))
    files = []
    for name in ("a", "b"):
        path = directory / name
        file = fs.open(str(path), create=not path.exists())
        if file.size() < SEGMENT:
            file.zero_fill(0, SEGMENT)
            file.sync()
        files.append(file)
    heads = [
        encode_prefix(FramePrefix(1, 2, 3, 96 + len(record.body)), record.header)
        for record in records
    ]
    started = time.perf_counter()
    file, offset = files[0], 0
    group = max(1, min(window // 2, (4 << 20) // len(records[0].body)))
    for start in range(0, len(records), group):
        buffers: list[bytes] = []
        for place in range(start, min(start + group, len(records))):
            head, record = heads[place], records[place]
            buffers += [head, bytes(record.body), padding_for(len(record.body))]
        size = sum(map(len, buffers))
        if offset + size > SEGMENT:
            files.reverse()
            file, offset = files[0], 0
        file.pwritev(buffers, offset)
        file.datasync()
        offset += size
    elapsed = time.perf_counter() - started
    for file in files:
        file.close()
    return elapsed


def log_loop(directory: Path, records: list[Record], window: int) -> tuple[float, int]:
    """Append with `window` batches outstanding, releasing behind, so that segments are recycled."""
    options = OpenOptions(clock=time.perf_counter_ns)
    log, _ = Log.open(OsFilesystem(), str(directory), IDENTITY, options)
    warm = 3 * SEGMENT // len(records[0].body)
    following = 1
    for _ in range(warm):  # until the first segments are recycled
        log.append([rebased(records[0], following)])
        following += RecordHeader.unpack(records[0].header).count
        if log.queued_bytes > 8 << 20:
            log.append([rebased(records[0], following)]).wait()
            following += RecordHeader.unpack(records[0].header).count
        log.release(0, following - 1, 1)
    count = RecordHeader.unpack(records[0].header).count
    prepared = [rebased(record, following + place * count) for place, record in enumerate(records)]
    log.append([prepared[0]]).wait()
    before = log.stats().syncs
    started = time.perf_counter()
    outstanding: deque[AppendHandle] = deque()
    for place, record in enumerate(prepared[1:], 1):
        outstanding.append(log.append([record]))
        if place % 64 == 0:
            log.release(0, following + (place - 32) * count - 1, 1)
        while len(outstanding) >= window:
            outstanding.popleft().wait()
    while outstanding:
        outstanding.popleft().wait()
    elapsed = time.perf_counter() - started
    syncs = log.stats().syncs - before
    log.abort()
    for path in directory.iterdir():
        path.unlink()
    return elapsed, syncs


def rebased(record: Record, base: int) -> Record:
    """Give a batch another base index without touching its body."""
    header = RecordHeader.unpack(record.header)
    return Record(
        RecordHeader(
            header.kind,
            header.group,
            header.count,
            header.term,
            base,
            0,
            header.payload_len,
            header.payload_crc,
        ).pack(),
        record.body,
    )


def measure_recover(directory: Path) -> None:
    """Print the time to recover 1 GiB in frames of three sizes, from the page cache."""
    for name, entries in (("1 KiB", 1), ("100 KiB", 100), ("1 MiB", 1024)):
        place = directory / f"recover-{entries}"
        log, _ = Log.open(OsFilesystem(), str(place), IDENTITY)
        base = 1
        while log.stats().head >> 32 < 17:
            log.append([batch_of(entries, base + step * entries) for step in range(64)]).wait()
            base += 64 * entries
        log.seal_and_close()
        times, cpu = [], []
        for _ in range(ROUNDS):
            started, started_cpu = time.perf_counter(), time.process_time()
            recover(OsFilesystem(), str(place))
            times.append(time.perf_counter() - started)
            cpu.append(time.process_time() - started_cpu)
        found = recover(OsFilesystem(), str(place))
        size = sum(found.segments.values())
        print(
            f"frames of {name:>7}: {found.frames:>7} frames, {size >> 20} MiB in {median(times):.2f} s:"
            f" {size / median(times) / 1e9:.2f} GB/s; {median(cpu) / found.frames * 1e6:.1f} µs of"
            " processor time each"
        )
        for path in place.iterdir():
            path.unlink()


class NoIO(SegmentIO):
    """Performs nothing."""

    def perform(self, operation: object) -> None:
        """Do nothing at once."""


def measure_frame(directory: Path) -> None:
    """Print what a record of 100 bytes costs from submit to done, without any disk."""
    del directory
    total = 200_000
    records = [batch_record(0, 1, index, [ENTRY[:100]]) for index in range(1, total + 1)]
    for per_append in (1, 64):
        times = []
        for _ in range(ROUNDS):
            drivers: list[StepDriver] = []

            def make(runner, on_complete, drivers=drivers):
                runner.io = NoIO(CrashFilesystem(), "/")
                drivers.append(StepDriver(runner, on_complete))
                return drivers[0]

            options = OpenOptions(SyncPolicy(), make)
            log, _ = Log.open(CrashFilesystem(), "/log", IDENTITY, options)
            started = time.process_time()
            for start in range(0, total, per_append):
                log.append(records[start : start + per_append], context="c")
                if start % 256 == 0:
                    drivers[0].pump()
            while drivers[0].pump():
                pass
            times.append((time.process_time() - started) / total * 1e6)
        print(
            f"{per_append:>3} records per append: {median(times):.2f} µs of processor time per frame"
        )
    head, body = records[0].header, bytes(records[0].body)
    started = time.process_time()
    for _ in range(total):
        crc32c(head)
    print(f"one CRC of 64 bytes: {(time.process_time() - started) / total * 1e6:.2f} µs")
    del body


if __name__ == "__main__":
    measures = {"append": measure_append, "recover": measure_recover, "frame": measure_frame}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in measures:
        sys.exit(str(__doc__))
    if len(sys.argv) > 2:
        measures[name](Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            measures[name](Path(temporary))
