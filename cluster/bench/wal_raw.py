"""`bench wal` beside the raw disk: the same bytes by bare loops, turn by turn with our log.

Records are encoded beforehand here: a leader encodes a batch once for all nodes, a follower not at
all. What is compared is the way of a batch from `append` to acknowledged, and back at recovery.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from cluster.bench import wal_bare
from cluster.bench.report import median
from cluster.bench.wal_variants import IDENTITY, Shape, Turns, fresh_log
from wal import Log, OsFilesystem, Record, RecordHeader, SyncPolicy, batch_record, recover
from wal.frame import FramePrefix, encode_prefix, padding_for
from wal.policy import Prepare
from wal.segment import segment_name

__all__ = ["append_cost", "preparations", "raw_limit", "recovery", "scan", "spread"]

Say = Callable[[str], None]

SEGMENT_BYTES: Final = 64 << 20
SPARES: Final = 4
SLICE_BLOCKS_MAX: Final = 32
"""The first block after the other side's turn costs twice the processor time: its code left the caches."""
SLICE_BYTES_MAX: Final = SEGMENT_BYTES // 4
"""At most one slice in four begins a segment, which the bare loop never does."""
BLOCKS: Final[Mapping[str, int]] = {"4KiB": 4 << 10, "64KiB": 64 << 10, "1MiB": 1 << 20}
PREPARATIONS: Final[tuple[Prepare, ...]] = ("append", "fallocate", "zero_fill", "recycle")
_FRAME_BYTES: Final = 96 + 4
"""Prefix, header, and the length of the one entry."""
_TIMEOUT_S: Final = 60.0
_BATCH_ENTRIES: Final = 256
"""Of 1 KiB: what a node makes of a thousand outstanding puts in four requests, the clients' default."""


class Feed:
    """Batches of one size that follow one another; the body is the same, its CRC computed once."""

    def __init__(self, block_bytes: int, index: int) -> None:
        self._record = batch_record(0, 1, 1, [os.urandom(block_bytes - _FRAME_BYTES)])
        self._header = RecordHeader.unpack(self._record.header)
        self.index = index

    def records(self, count: int) -> list[Record]:
        """Return the next batches."""
        made, header = [], self._header
        for _ in range(count):
            packed = RecordHeader(
                kind=header.kind, count=1, term=1, base_index=self.index,
                payload_len=header.payload_len, payload_crc=header.payload_crc,
            ).pack()  # fmt: skip
            made.append(Record(packed, self._record.body))
            self.index += 1
        return made

    def buffers(self) -> list[bytes]:
        """Return what the log writes for one of them."""
        record = self._record
        prefix = FramePrefix(1, 2, 3, 96 + len(record.body))
        parts = [encode_prefix(prefix, record.header), bytes(record.body)]
        padding = padding_for(len(record.body))
        return [*parts, padding] if padding else parts


def raw_limit(directory: Path, turns: Turns, bytes_each: int, say: Say) -> list[dict[str, Any]]:
    """Write blocks one by one, each synced: our log inline, and `pwritev` with `fdatasync`.

    Both take turns every few blocks, first the one and then the other, so that whoever else writes to
    the disk delays them alike, and rates are those of the median slice. Where a segment begins, once in
    64 MiB, is in few slices, and so in no median.
    """
    rows = []
    policy = SyncPolicy(segment_bytes=SEGMENT_BYTES, spare_segments_max=SPARES, driver="inline")
    with (
        fresh_log(directory / "raw", policy) as (log, _, index),
        closing(wal_bare.Ring(directory / "bare", SEGMENT_BYTES)) as ring,
    ):
        feed = Feed(1 << 20, index)
        for name, size in BLOCKS.items():
            feed = Feed(size, feed.index)
            blocks = min(SLICE_BLOCKS_MAX, SLICE_BYTES_MAX // size)
            count = max(128, min(1_024, bytes_each // size)) // blocks * blocks
            ours, bare, totals = [], [], []
            for _ in turns:
                _stock_up(log, feed)
                slices = _by_slices(log, ring, feed, count, blocks)
                ours += [seconds for seconds, _ in slices]
                bare += [seconds for _, seconds in slices]
                totals.append(sum(seconds for _, seconds in slices))
            rows.append(
                {
                    "section": "raw", "case": name, "bytes": size, "count": count, "rounds": turns.taken,
                    "ours_per_s": _per_s(blocks, ours), "bare_per_s": _per_s(blocks, bare),
                    "ours_mb_per_s": _per_s(blocks * size / 1e6, ours),
                    "bare_mb_per_s": _per_s(blocks * size / 1e6, bare), "spread": spread(totals),
                }
            )  # fmt: skip
            row = rows[-1]
            say(f"raw, {name}: ours {row['ours_per_s']:,.0f}/s, bare {row['bare_per_s']:,.0f}/s")
    return rows


def _by_slices(
    log: Log, ring: wal_bare.Ring, feed: Feed, count: int, blocks: int
) -> list[tuple[float, float]]:
    """Write `count` blocks on each side, `blocks` here and as many there; return both sides' seconds."""
    records, buffers = feed.records(count), feed.buffers()
    slices = []
    for start in range(0, count, blocks):
        bare_first = start // blocks % 2 == 0
        bare = ring.write(buffers, blocks) if bare_first else 0.0
        ours = _write(log, records[start : start + blocks])
        slices.append((ours, bare or ring.write(buffers, blocks)))
    return slices


def _stock_up(log: Log, feed: Feed) -> None:
    """See to it that the log has spare segments for a round; unmeasured."""
    large = Feed(1 << 20, feed.index)
    if log.stats().spares < 2:
        # Many at once: a segment that begins takes a spare, so that giving back one by one adds none.
        for record in large.records(3 * SEGMENT_BYTES >> 20):
            log.append([record]).wait(_TIMEOUT_S)
    feed.index = large.index
    log.release(0, feed.index - 1, 1)
    log.flush().wait(_TIMEOUT_S)


def _write(log: Log, records: Sequence[Record]) -> float:
    started = time.perf_counter()
    for record in records:
        log.append([record]).wait(_TIMEOUT_S)
    return time.perf_counter() - started


def preparations(directory: Path, turns: Turns, count: int, say: Say) -> list[dict[str, Any]]:
    """Write blocks of 4 and 64 KiB, each synced, into blocks that were prepared in four ways."""
    rows = []
    for name in ("4KiB", "64KiB"):
        size = BLOCKS[name]
        taken: dict[str, list[float]] = {prepare: [] for prepare in PREPARATIONS}
        for _ in turns:
            for prepare in PREPARATIONS:
                policy = SyncPolicy(segment_bytes=16 << 20, prepare=prepare, driver="inline")
                with fresh_log(directory / "prepared", policy) as (log, _, index):
                    feed = Feed(size, index)
                    taken[prepare].append(_write(log, feed.records(min(count, (8 << 20) // size))))
        number = min(count, (8 << 20) // size)
        per_s = {prepare: _per_s(number, seconds) for prepare, seconds in taken.items()}
        rows.append(
            {"section": "prepare", "case": name, "bytes": size, "rounds": turns.taken, **per_s}
        )
        told = ", ".join(f"{prepare} {value:,.0f}/s" for prepare, value in per_s.items())
        say(f"prepared blocks, {name}: {told}")
    return rows


def append_cost(directory: Path, turns: Turns) -> dict[str, Any]:
    """Return the processor time of appending 100 bytes in batches of 100, the write included.

    `entry`: a batch is one record, its encoding counted. `frame`: a batch is an append of 100 records
    that were encoded before, as a node's are that holds many groups. The log is buffered: a sync costs
    the processor the same whatever was written, and what it evicts from the caches.
    """
    shape = Shape(20_000, 100, 100)
    payloads = shape.payloads()
    costs: dict[str, list[float]] = {"entry": [], "frame": []}
    policy = SyncPolicy(segment_bytes=16 << 20, driver="inline", commit="buffered")
    for _ in turns:
        with fresh_log(directory / "cost", policy) as (log, _, index):
            started = time.process_time()
            for start in range(0, shape.records, 100):
                batch = batch_record(0, 1, index + start, payloads[start : start + 100])
                log.append([batch])
            costs["entry"].append(time.process_time() - started)
        with fresh_log(directory / "cost", policy) as (log, _, index):
            records = [batch_record(0, 1, index + i, [each]) for i, each in enumerate(payloads)]
            started = time.process_time()
            for start in range(0, shape.records, 100):
                log.append(records[start : start + 100])
            costs["frame"].append(time.process_time() - started)
    row = {"section": "cost", "case": "100 B, batches of 100", "rounds": turns.taken}
    return (
        row
        | {"spread": spread(costs["entry"])}
        | {
            f"us_per_{name}": round((median(taken) or 0) / shape.records * 1e6, 3)
            for name, taken in costs.items()
        }
    )


@contextmanager
def written(directory: Path, total_bytes: int, entries: int) -> Iterator[Path]:
    """Give the directory of a log of so many bytes, in batches of 1 KiB entries."""
    place = directory / "written"
    policy = SyncPolicy(segment_bytes=SEGMENT_BYTES, commit="buffered", prepare="append")
    with fresh_log(place, policy) as (log, _, first):
        index = first
        body = [os.urandom(1 << 10)] * entries
        record = batch_record(0, 1, index, body)
        header = RecordHeader.unpack(record.header)
        done = 0
        while done < total_bytes:
            packed = RecordHeader(
                kind=header.kind, count=entries, term=1, base_index=index,
                payload_len=header.payload_len, payload_crc=header.payload_crc,
            ).pack()  # fmt: skip
            handle = log.append([Record(packed, record.body)])
            index += entries
            done += handle.size
            if log.queued_bytes > SEGMENT_BYTES:
                handle.wait(_TIMEOUT_S)
        log.flush().wait(_TIMEOUT_S)
        log.abort()
        yield place


def recovery(directory: Path, turns: Turns, total_bytes: int, say: Say) -> list[dict[str, Any]]:
    """Recover a log, and read and checksum the same bytes, both from the page cache."""
    rows = []
    for case, entries, size in (
        ("256 KiB batches", _BATCH_ENTRIES, total_bytes),
        ("64 KiB batches", 64, total_bytes // 4),
        ("1 KiB batches", 1, total_bytes // 8),
    ):  # fmt: skip
        with written(directory, size, entries) as place:
            ours, bare, frames, read = [], [], 0, 0
            for _ in turns:
                started = time.perf_counter()
                found = recover(OsFilesystem(), str(place), IDENTITY)
                ours.append(time.perf_counter() - started)
                frames = found.frames
                paths = [place / segment_name(number) for number in sorted(found.segments)]
                seconds, read = wal_bare.read_and_checksum(paths)
                bare.append(seconds)
            rows.append(
                {
                    "section": "recovery", "case": case, "rounds": turns.taken, "bytes": read,
                    "frames": frames, "ours_mb_per_s": _per_s(read / 1e6, ours),
                    "bare_mb_per_s": _per_s(read / 1e6, bare), "spread": spread(bare),
                }
            )  # fmt: skip
            say(
                f"recovery, {case}: ours {rows[-1]['ours_mb_per_s']:,.0f} MB/s, reading and"
                f" checksumming {rows[-1]['bare_mb_per_s']:,.0f} MB/s"
            )
    return rows


_VERIFY: Final = """\
import runpy, sys
sys.argv = ["wal", "verify", *sys.argv[1:]]
try:
    runpy.run_module("wal", run_name="__main__")
finally:
    print(open("/proc/self/status").read())
"""
"""Says its own peak: `ru_maxrss` of a child begins with what its parent held when it forked."""


def scan(directory: Path, total_bytes: int, say: Say) -> dict[str, Any]:
    """Verify a large log in a process of its own, and say what memory that took."""
    with written(directory, total_bytes, _BATCH_ENTRIES) as place:
        started = time.perf_counter()
        command = [sys.executable, "-P", "-c", _VERIFY, str(place)]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        [peak_kib] = re.findall(r"^VmHWM:\s*(\d+) kB$", child.stdout, re.MULTILINE)
        seconds = time.perf_counter() - started
    row = {
        "section": "scan", "case": f"{total_bytes / 2**30:.2g} GiB", "bytes": total_bytes,
        "seconds": round(seconds, 3), "rss_mb": round(int(peak_kib) * 1024 / 1e6, 1),
        "exit_code": child.returncode,
    }  # fmt: skip
    say(f"scan of {row['case']}: {seconds:.1f} s, {row['rss_mb']} MB resident")
    return row


def _per_s(amount: float, seconds: Sequence[float]) -> float:
    return round(amount / (median(seconds) or 1e-9), 1)


def spread(seconds: Sequence[float]) -> float:
    """Return the slowest round over the fastest one: what else the machine did meanwhile."""
    return round(max(seconds) / max(min(seconds), 1e-9), 2)
