"""What a log counts: syncs by entries and by time, recycled segments."""

from itertools import accumulate, repeat

import pytest

from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import DIRECTORY, IDENTITY, SMALL, batch, fill_segments, opened, uids
from wal import Log, OpenOptions, inline_driver
from wal.driver import BUCKETS, bucket_of

STEP_NS = 3_000_000


def test_a_bucket_counts_what_is_below_its_power_of_two():
    for bucket in range(1, BUCKETS - 1):
        assert bucket_of(2 ** (bucket - 1)) == bucket_of(2**bucket - 1) == bucket
    assert bucket_of(0) == 0
    assert bucket_of(1 << 80) == BUCKETS - 1


def test_syncs_are_counted_by_entries_and_by_time():
    clock = accumulate(repeat(STEP_NS)).__next__
    options = OpenOptions(SMALL, inline_driver, uids(), clock)
    log, _ = Log.open(CrashFilesystem(), DIRECTORY, IDENTITY, options)
    log.append([batch(1)])
    log.append([batch(2, 5), batch(7, 4)])
    log.append([batch(11, 9)])
    stats = log.stats()
    assert stats.sync_entries == (1, 1, 0, 0, 2), "the record of the opening holds no entry"
    assert stats.sync_latency_us == (0,) * 12 + (4,), "3 ms is between 2^11 and 2^12 µs"
    assert sum(stats.sync_entries) == stats.syncs
    log.abort()


@pytest.mark.parametrize(("prepare", "recycles"), [("recycle", True), ("zero_fill", False)])
def test_segments_in_the_file_of_an_earlier_one_are_counted(prepare, recycles):
    from dataclasses import replace

    with opened(CrashFilesystem(), replace(SMALL, prepare=prepare)) as log:
        last = fill_segments(log, 1, 20)
        assert log.stats().segments_recycled == 0
        log.release(0, last - 1, 1)
        fill_segments(log, last, 20)
        assert bool(log.stats().segments_recycled) == recycles
