"""What `wal.faultfs` and power-loss mode cost while nothing is wrong.

    python -m tests.wal.measure_faults [DIRECTORY]

Not a test. Bare file, wrapped file and power-loss mode take turns (A B C A B C …); medians of
`ROUNDS` rounds are printed. The directory should be on the disk that is to be measured.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from wal import OsFilesystem
from wal.faultfs import FaultFile, FaultFilesystem
from wal.faults import FaultBoard
from wal.filesystem import File, TunableFilesystem
from wal.writeback import WriteBackFilesystem

ROUNDS = 15
BLOCK = bytes(4096)
CALLS = 20_000
PAIRS = 150


class Nothing:
    """A file that does nothing: what is left is the call."""

    def pwritev(self, buffers: object, offset: int) -> None:
        """Do nothing."""

    def datasync(self) -> None:
        """Do nothing."""


def board() -> FaultBoard:
    return FaultBoard(time.monotonic_ns, lambda _: None)


def call_ns(call: Callable[[], None]) -> float:
    began = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (time.perf_counter_ns() - began) / CALLS


def write_and_sync_us(file: File) -> float:
    buffers = [BLOCK]
    began = time.perf_counter_ns()
    for place in range(PAIRS):
        file.pwritev(buffers, place * 4096)
        file.datasync()
    return (time.perf_counter_ns() - began) / PAIRS / 1000


def write_us(file: File) -> float:
    buffers = [BLOCK]
    began = time.perf_counter_ns()
    for place in range(1000):
        file.pwritev(buffers, place % 100 * 4096)
    return (time.perf_counter_ns() - began) / 1000 / 1000


def main(root: Path) -> None:
    """Print the table."""
    bare = OsFilesystem()
    kinds: dict[str, TunableFilesystem] = {
        "bare": bare,
        "wrapped, no fault": FaultFilesystem(bare, board()),
        "wrapped, power-loss mode": FaultFilesystem(WriteBackFilesystem(bare), board()),
    }
    files: dict[str, File] = {}
    for place, (name, fs) in enumerate(kinds.items()):
        files[name] = fs.open(str(root / str(place)), create=True)
        files[name].zero_fill(0, 4096 * 1000)
        fs.sync_dir(str(root))
        files[name].sync()
    nothing: File = Nothing()  # type: ignore[assignment]  # as much as is called
    wrapped = FaultFile(nothing, "a", board())
    calls: dict[str, list[float]] = {"write": [], "sync": []}
    pairs: dict[str, list[float]] = {name: [] for name in files}
    writes: dict[str, list[float]] = {name: [] for name in files}
    bare_write = partial(nothing.pwritev, [BLOCK], 0)
    wrapped_write = partial(wrapped.pwritev, [BLOCK], 0)
    for _ in range(ROUNDS):
        calls["write"].append(call_ns(wrapped_write) - call_ns(bare_write))
        calls["sync"].append(call_ns(wrapped.datasync) - call_ns(nothing.datasync))
        for name, file in files.items():
            writes[name].append(write_us(file))
            file.datasync()
            pairs[name].append(write_and_sync_us(file))
    print(
        f"more per call: write {median(calls['write']):.0f} ns, sync {median(calls['sync']):.0f} ns"
    )
    for name in files:
        print(
            f"{name:<26} write 4 KiB {median(writes[name]):6.2f} µs,"
            f" write + sync {median(pairs[name]):7.1f} µs"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(Path(directory))
