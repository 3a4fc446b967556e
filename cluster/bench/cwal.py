"""CWal's own benchmark (seed 4) on our writer of its format, and what its planned extensions bring.

1,000 entries of 1,000 bytes, as seed 4 has them: without syncs, with a sync per entry and per ten, and
overwriting batches of 31 and 10 with a sync per entry. Beside them: appends that do not wait
(asynchronous, all outstanding), and two mirrored copies. Then a file of 64 MB is read: in chunks,
mapped into memory, and as two mirrored copies. Variants take turns in every round.

What seed 4 says is told beside, in the unit of its source: its program counts microseconds and prints
them as "ms". A write of ours is a call to the kernel; what seed 4 calls a flush is in every one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cluster.bench.report import BenchReport, Ratio, commit, judge, machine, median, quotient
from cluster.tables import aligned
from wal import OsFilesystem
from wal.cwal import CwalStop
from wal.cwal_reader import MappedReader, MirrorReader, read_file
from wal.cwal_writer import AsyncCwalWriter, CwalOptions, CwalWriter

__all__ = ["Settings", "cwal", "table"]

ENTRIES: Final = 1_000
ENTRY_BYTES: Final = 1_000
FS: Final = OsFilesystem()


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run."""

    directory: Path
    rounds: int = 5
    read_megabytes: int = 64


Variant = tuple[str, Callable[[Path, Sequence[bytes]], int], float | None]
"""Name, what it does (returns its syncs), and seed 4's µs per entry."""


def _written(copies: int, options: CwalOptions, *, waits: bool = True) -> Callable[..., int]:
    def write(directory: Path, entries: Sequence[bytes]) -> int:
        paths = [f"{directory}/{copy}.cwal" for copy in range(copies)]
        if not waits:
            background = AsyncCwalWriter(FS, paths, options)
            handles = [background.append(data) for data in entries]
            for handle in handles:
                handle.wait()
            background.close()
            return background.writer.syncs
        writer = CwalWriter(FS, paths, options)
        for data in entries:
            writer.append(data)
        writer.abort()
        return writer.syncs

    return write


VARIANTS: Final[Sequence[Variant]] = (
    ("no sync", _written(1, CwalOptions(0)), 2_931 / ENTRIES),
    ("sync per entry", _written(1, CwalOptions(1)), 107_601 / ENTRIES),
    ("sync per 10", _written(1, CwalOptions(10)), 63_919 / ENTRIES),
    ("overwrite 31, sync per entry", _written(1, CwalOptions(1, 31)), 98_265 / ENTRIES),
    ("overwrite 10, sync per entry", _written(1, CwalOptions(1, 10)), 101_750 / ENTRIES),
    ("asynchronous", _written(1, CwalOptions(), waits=False), None),
    ("two copies, sync per entry", _written(2, CwalOptions(1)), None),
    ("two copies, asynchronous", _written(2, CwalOptions(), waits=False), None),
)


def cwal(settings: Settings, tell: Callable[[str], None]) -> BenchReport:
    """Measure every variant of writing and of reading, turn by turn."""
    stream = random.Random(1)
    entries = [stream.randbytes(ENTRY_BYTES) for _ in range(ENTRIES)]
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in VARIANTS}
    syncs: dict[str, int] = {}
    for number in range(settings.rounds):
        tell(f"writing, round {number + 1} of {settings.rounds}")
        for name, write, _ in VARIANTS:
            with _Place(settings.directory) as place:
                began = time.perf_counter()
                syncs[name] = write(place, entries)
                seconds[name].append(time.perf_counter() - began)
    rows: list[dict[str, Any]] = [
        {
            "what": name,
            "us_per_entry": round((median(seconds[name]) or 0.0) / ENTRIES * 1e6, 1),
            "syncs": syncs[name],
            "seed4_us_per_entry": said,
        }
        for name, _, said in VARIANTS
    ]
    rows += _reading(settings, entries, tell)
    facts = machine(settings.directory)
    return BenchReport("cwal", rows, _ratios(rows), facts, commit())


class _Place:
    """A new directory, gone afterwards."""

    def __init__(self, parent: Path) -> None:
        self._path = parent / "run"

    def __enter__(self) -> Path:
        self._path.mkdir()
        return self._path

    def __exit__(self, *_: object) -> None:
        for path in self._path.iterdir():
            path.unlink()
        self._path.rmdir()


def _reading(
    settings: Settings, entries: Sequence[bytes], tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    with _Place(settings.directory) as place:
        paths = [f"{place}/{copy}.cwal" for copy in range(2)]
        writer = CwalWriter(FS, paths, CwalOptions(0))
        for _ in range(max(1, settings.read_megabytes * 1_000_000 // (ENTRIES * ENTRY_BYTES))):
            writer.append_all(entries)
        writer.close()
        readers: dict[str, Callable[[], int]] = {
            "read in chunks": lambda: _chunks(paths[0]),
            "read mapped": lambda: _mapped(paths[0]),
            "read two copies": lambda: _mirrored(paths),
        }
        seconds: dict[str, list[float]] = {name: [] for name in readers}
        counts: dict[str, int] = {}
        for number in range(settings.rounds):
            tell(f"reading, round {number + 1} of {settings.rounds}")
            for name, read in readers.items():
                began = time.perf_counter()
                counts[name] = read()
                seconds[name].append(time.perf_counter() - began)
        assert set(counts.values()) == {writer.entries}, "every reader sees every entry"
        size = writer.bytes_written
    return [
        {
            "what": name,
            "us_per_entry": round((median(each) or 0.0) / counts[name] * 1e6, 2),
            "mb_per_s": round(size / 1e6 / (median(each) or 1.0)),
        }
        for name, each in seconds.items()
    ]


def _chunks(path: str) -> int:
    return sum(1 for _ in read_file(FS, path, CwalStop()))


def _mapped(path: str) -> int:
    with MappedReader(path) as reader:
        return sum(1 for _ in reader.entries(CwalStop()))


def _mirrored(paths: Sequence[str]) -> int:
    with MirrorReader(FS, paths) as mirror:
        return sum(1 for _ in mirror.entries(CwalStop()))


def _ratios(rows: Sequence[dict[str, Any]]) -> list[Ratio]:
    cost = {row["what"]: row["us_per_entry"] for row in rows}
    return [
        judge(
            "asynchronous_vs_sync_per_entry",
            quotient(cost["sync per entry"], cost["asynchronous"]),
            10.0,
        ),
        judge("mapped_vs_chunks", quotient(cost["read in chunks"], cost["read mapped"]), None),
        judge("sync_cost_here", quotient(cost["sync per entry"], cost["no sync"]), None),
        judge("sync_cost_in_seed_4", 107_601 / 2_931, None),
    ]


_COLUMNS: Final = ("", "µs/ENTRY", "SYNCS", "MB/S", "SEED 4, µs/ENTRY")


def table(report: BenchReport) -> str:
    """Return the rows for a person."""

    def cell(row: Any, name: str, form: str) -> str:
        value = row.get(name)
        return "–" if value is None else format(value, form)

    lines = [
        [
            row["what"],
            cell(row, "us_per_entry", ",.1f"),
            cell(row, "syncs", ","),
            cell(row, "mb_per_s", ","),
            cell(row, "seed4_us_per_entry", ",.1f"),
        ]
        for row in report.rows
    ]
    return aligned(_COLUMNS, lines, frozenset(_COLUMNS) - {""})
