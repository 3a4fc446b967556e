"""What the tests of `wal` share: a driver that waits to be pumped, small policies, a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.wal.crashfs import CrashFilesystem
from wal import (
    AppendHandle,
    Filesystem,
    JobRunner,
    Log,
    LogIdentity,
    OpenOptions,
    OsFilesystem,
    Record,
    Recovered,
    SyncPolicy,
    batch_record,
    inline_driver,
)
from wal.driver import OnComplete

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = "/log"
IDENTITY = LogIdentity(bytes(range(16)), 3)
SMALL = SyncPolicy(segment_bytes=64 << 10, fill_step_bytes=16 << 10, spare_segments_max=2)


class StepDriver:
    """Performs jobs when a test says so; until then, appends gather."""

    def __init__(self, runner: JobRunner, on_complete: OnComplete) -> None:
        self.runner = runner
        self.on_complete = on_complete

    def submit(self, submit: Callable[[], AppendHandle]) -> AppendHandle:
        return submit()

    def retry(self) -> None:
        self.runner.committer.retry()

    def close(self) -> None:
        while self.pump():
            pass
        self.runner.io.close()

    def pump(self) -> bool:
        """Perform one job; False if there is none."""
        job = self.runner.committer.next_job()
        if job is None:
            return False
        handles = self.runner.settle(job, self.runner.perform(job))
        for handle in handles:
            handle.settle()
        if handles:
            self.on_complete(handles)
        return True


POLICIES: dict[str, str] = {
    "natural": "prepare=recycle",
    "zero_fill": "prepare=zero_fill",
    "fallocate": "prepare=fallocate",
    "append": "prepare=append",
    "naive": "naive",
    "count": "gather_us=10000,gather_records=5",
    "bytes": "gather_us=10000,gather_bytes=6000",
    "time": "gather_us=3000",
    "buffered": "buffered",
    "buffered, written behind": "buffered,writeback_bytes=8192,prepare=append",
    "fsync": "sync=fsync",
    "o_dsync": "sync=o_dsync",
    "o_dsync, append": "sync=o_dsync,prepare=append",
    "direct": "io=direct",
    "direct, append": "io=direct,prepare=append",
    "direct, fallocate": "io=direct,prepare=fallocate",
    "direct, o_dsync": "io=direct,sync=o_dsync",
    "pipeline": "driver=pipeline",
    "pipeline, direct": "driver=pipeline,io=direct",
    "pipeline, o_dsync": "driver=pipeline,sync=o_dsync",
    "pipeline, buffered": "driver=pipeline,commit=buffered",
    "pipeline, time": "driver=pipeline,gather_us=2000",
    "drop": "page_cache=drop",
    "all": "gather_us=5000,gather_records=7,io=direct,driver=pipeline,page_cache=drop",
}
"""A policy of every kind, as a person writes it; the crash tests run over each."""


def uids() -> Callable[[], int]:
    """Return a source of segment uids: distinct, and the same in every run."""
    counter = itertools.count(1)
    return lambda: (next(counter) * 0x9E3779B97F4A7C15) & 0xFFFF_FFFF_FFFF_FFFF


def options(policy: SyncPolicy = SMALL, draw_uid: Callable[[], int] | None = None) -> OpenOptions:
    return OpenOptions(policy, inline_driver, draw_uid or uids())


def open_log(
    fs: Filesystem | None = None,
    directory: str | Path = DIRECTORY,
    *,
    policy: SyncPolicy = SMALL,
    identity: LogIdentity = IDENTITY,
    draw_uid: Callable[[], int] | None = None,
) -> tuple[Log, Recovered]:
    """Open with the inline driver: an append is durable when it returns."""
    return Log.open(fs or OsFilesystem(), str(directory), identity, options(policy, draw_uid))


@contextmanager
def opened(fs: CrashFilesystem, policy: SyncPolicy = SMALL) -> Iterator[Log]:
    """Open, and leave without a clean stop."""
    log, _ = open_log(fs, policy=policy)
    yield log
    log.abort()


def batch(base: int, count: int = 1, *, group: int = 0, term: int = 1, size: int = 100) -> Record:
    """Return a batch whose entries say who they are."""
    entries = [
        f"{group}/{term}/{index};".encode().ljust(size, b".") for index in range(base, base + count)
    ]
    return batch_record(group, term, base, entries)


def spans(found: Recovered, group: int = 0) -> list[tuple[int, int, int]]:
    """Return (term, first, last) of every batch of a group."""
    if group not in found.groups:
        return []
    return [(ref.term, ref.base_index, ref.last_index) for ref in found.groups[group].batches]


def fill_segments(log: Log, first: int, batches: int, *, group: int = 0, size: int = 8000) -> int:
    """Append batches of one large entry each; return the next index."""
    for index in range(first, first + batches):
        log.append([batch(index, group=group, size=size)])
    return first + batches


def wal_names(fs: Filesystem, directory: str = DIRECTORY) -> Sequence[str]:
    return [name for name in fs.listdir(directory) if name != "LOCK"]
