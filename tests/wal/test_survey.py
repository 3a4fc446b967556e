"""Looking at a log that changes while it is looked at, or that holds what an earlier use left."""

from __future__ import annotations

import errno

import pytest

from tests.wal.crashfs import CrashFile, CrashFilesystem
from tests.wal.support import DIRECTORY, fill_segments, open_log, opened, spans, wal_names
from wal import CorruptLogError, recover
from wal.survey import Snapshot, recovered, walk

FIRST, SECOND = f"{DIRECTORY}/00000001.wal", f"{DIRECTORY}/00000002.wal"


def two_segments() -> CrashFilesystem:
    fs = CrashFilesystem()
    with opened(fs) as log:
        fill_segments(log, 1, 10)
    return fs


class Restless(CrashFilesystem):
    """Each time that its first segment is opened to be read, other bytes of it are damaged."""

    damages: tuple[int, ...] = ()
    opened = 0

    def open_read(self, path: str) -> CrashFile:
        if path == FIRST and self.damages:
            old = self.damages[(self.opened - 1) % len(self.damages)]
            new = self.damages[self.opened % len(self.damages)]
            if self.opened:
                self.flip(path, old)
            self.flip(path, new)
            self.opened += 1
        return super().open_read(path)


def restless(*damages: int) -> Restless:
    fs = Restless()
    with opened(fs) as log:
        fill_segments(log, 1, 10)
    fs.damages = damages
    return fs


def test_damage_that_stays_where_it_is_is_damage() -> None:
    fs = two_segments()
    fs.flip(FIRST, 10_000)
    with pytest.raises(CorruptLogError) as caught:
        recovered(fs, DIRECTORY)
    with pytest.raises(CorruptLogError) as judged:
        recover(fs, DIRECTORY)
    assert str(caught.value) == str(judged.value)


def test_damage_that_moves_is_a_log_that_changes_too_fast() -> None:
    fs = restless(10_000, 19_000, 27_000, 35_000, 43_000, 51_000, 59_000)
    with pytest.raises(OSError, match="the log changes faster than it can be read") as caught:
        recovered(fs, DIRECTORY)
    assert caught.value.errno == errno.EBUSY


def test_a_segment_that_is_given_back_meanwhile_is_left_out_of_a_walk() -> None:
    fs = two_segments()
    snapshot = Snapshot(fs, DIRECTORY)
    everything = list(walk(snapshot, DIRECTORY))
    fs.vanish(FIRST)
    rest = list(walk(snapshot, DIRECTORY))
    assert rest == [sight for sight in everything if sight.position >> 32 == 2]
    assert rest
    assert len(rest) < len(everything)


def test_a_walk_of_a_recycled_segment_whose_start_is_damaged_shows_this_use_only() -> None:
    """Without its checkpoint the uid is told by what its frames say was durable before them."""
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    index = fill_segments(log, 1, 20)
    log.release(0, index - 1, 1)
    while not log.stats().segments_recycled:
        index = fill_segments(log, index, 1)
    index = fill_segments(log, index, 2)
    log.abort()
    newest = max(name for name in wal_names(fs) if name.endswith(".wal"))
    number, path = int(newest[:8]), f"{DIRECTORY}/{newest}"
    start = number << 32
    whole = [sight for sight in walk(fs, DIRECTORY, start) if sight.damage is None]
    assert spans(recover(fs, DIRECTORY))[-1][2] == index - 1
    content = fs.read(path)
    stale = content.rindex(b"0/1/", 0, len(content) - 8_000)
    assert int(content[stale + 4 : content.index(b";", stale)]) <= 20, "of the earlier use"
    first = whole[1].position & 0xFFFF_FFFF
    fs.put(path, bytes(first) + content[first:])
    seen = list(walk(fs, DIRECTORY, start))
    assert [sight for sight in seen if sight.damage is None] == whole[1:]
    assert [sight.position for sight in seen if sight.damage is not None] == [start]
