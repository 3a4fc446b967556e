"""Other logs that a Python program can use, with the same records: where they are installed.

SQLite in WAL mode (standard library), LMDB, and RocksDB's WAL through rocksdict. Each is told to
sync every commit. They are whole databases: beside the log they keep an index, and LMDB a tree. So a
ratio says what a log on its own saves, not who is better.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from cluster.bench.report import median
from cluster.bench.wal_variants import Shape, Turns

__all__ = ["PEERS", "Peer", "peers"]

Peer = Callable[[Path, Sequence[bytes], int], float]
"""Write records, so many per commit, in a new directory; return the seconds of the writing."""

_MAP_BYTES: Final = 1 << 28


def _sqlite(directory: Path, records: Sequence[bytes], batch: int) -> float:
    with closing(sqlite3.connect(directory / "log.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, data BLOB)")
        started = time.perf_counter()
        for group in _groups(records, batch):
            database.execute("BEGIN")
            database.executemany("INSERT INTO log (data) VALUES (?)", [(data,) for data in group])
            database.execute("COMMIT")
        return time.perf_counter() - started


def _lmdb(directory: Path, records: Sequence[bytes], batch: int) -> float:
    lmdb: Any = import_module("lmdb")
    with lmdb.open(str(directory), map_size=_MAP_BYTES) as environment:
        number = 0
        started = time.perf_counter()
        for group in _groups(records, batch):
            with environment.begin(write=True) as transaction:
                for data in group:
                    transaction.put(number.to_bytes(8, "big"), data, append=True)
                    number += 1
        return time.perf_counter() - started


def _rocksdb(directory: Path, records: Sequence[bytes], batch: int) -> float:
    rocksdict: Any = import_module("rocksdict")
    options = rocksdict.WriteOptions()
    options.sync = True
    database = rocksdict.Rdict(str(directory / "rocks"), rocksdict.Options(raw_mode=True))
    try:
        database.set_write_options(options)
        number = 0
        started = time.perf_counter()
        for group in _groups(records, batch):
            together = rocksdict.WriteBatch(raw_mode=True)
            for data in group:
                together.put(number.to_bytes(8, "big"), data)
                number += 1
            database.write(together)
        return time.perf_counter() - started
    finally:
        database.close()


PEERS: Final[Mapping[str, tuple[str, Peer]]] = {
    "SQLite WAL": ("sqlite3", _sqlite),
    "LMDB": ("lmdb", _lmdb),
    "RocksDB": ("rocksdict", _rocksdb),
}
"""Name → the module that it needs, and its loop."""


def peers(
    directory: Path, turns: Turns, shape: Shape, ours: Peer, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure ours and every peer that is installed, turn by turn, one record and a batch at a time."""
    installed = {name: run for name, (module, run) in PEERS.items() if find_spec(module)}
    payloads, rows = shape.payloads(), []
    for batch in (1, shape.batch):
        runs: dict[str, Peer] = {"ours": ours, **installed}
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in turns:
            for name, run in runs.items():
                place = directory / "peer"
                place.mkdir()
                try:
                    taken[name].append(run(place, payloads, batch))
                finally:
                    shutil.rmtree(place, ignore_errors=True)
        for name, seconds in taken.items():
            per_s = round(shape.records / (median(seconds) or 1e-9), 1)
            rows.append(
                {
                    "section": "peers", "case": name, "batch": batch, "record_bytes": shape.record_bytes,
                    "rounds": turns.taken, "ops_per_s": per_s,
                }
            )  # fmt: skip
            say(f"peers, {batch} per commit: {name} {per_s:,.0f}/s")
    absent = [
        f"{name} (pip install {module})"
        for name, (module, _) in PEERS.items()
        if name not in installed
    ]
    if absent:
        say(f"peers that are not installed: {', '.join(absent)}")
    return rows


def _groups(records: Sequence[bytes], batch: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(records), batch):
        yield records[start : start + batch]
