"""Live batches appended again: they move to the head, and nobody pins the segments behind them."""

from __future__ import annotations

import random

import pytest

from tests.wal.crashfs import CrashFilesystem, PowerCut
from tests.wal.support import batch, fill_segments, open_log, opened, spans, wal_names
from wal import CorruptLogError, Log, Record, ReleasedError, hard_state_record
from wal.frame import release_record, truncate_record

QUIET = [batch(index, group=7, term=3, size=500) for index in range(1, 6)]
"""The live tail of a group that has nothing to say any more."""


def one_busy_group(fs: CrashFilesystem, log: Log, first: int = 1) -> int:
    """Fill about three segments for group 0, whose log is then released."""
    following = fill_segments(log, first, 24)
    log.release(0, following - 1, 1)
    return following


def segments(fs: CrashFilesystem) -> list[str]:
    return [name for name in wal_names(fs) if name.endswith(".wal")]


def quiet_tail(fs: CrashFilesystem) -> list[bytes]:
    """Reopen; return the headers of the quiet group's batches, read back in full."""
    log, found = open_log(fs)
    headers = [log.read(7, ref).header for ref in found.groups[7].batches]
    log.abort()
    return headers


def test_a_quiet_group_pins_every_segment_until_its_tail_is_appended_again() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([hard_state_record(7, 3, 2), *QUIET])
        one_busy_group(fs, log)
        pinned = segments(fs)
        assert pinned[0] == "00000001.wal"
        assert len(pinned) >= 4
        log.append_again(QUIET)
        assert segments(fs) == pinned[-1:], "nobody needs the others"
        stats = log.stats()
        assert stats.segments_released == len(pinned) - 1
        assert stats.bytes_copied >= sum(len(record.body) for record in QUIET)
        assert stats.segments_recycled == 0
        one_busy_group(fs, log, 25)
        assert log.stats().segments_recycled > 0
    assert quiet_tail(fs) == [record.header for record in QUIET]


def test_the_hard_state_of_a_quiet_group_is_in_every_checkpoint() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([hard_state_record(7, 3, 2, b"config"), *QUIET])
        one_busy_group(fs, log)
        log.append_again(QUIET)
    log, found = open_log(fs)
    log.abort()
    quiet = found.groups[7]
    assert (quiet.term, quiet.vote, quiet.config) == (3, 2, b"config")
    assert spans(found, 7) == [(3, index, index) for index in range(1, 6)]
    assert min(found.segments) > 1


def test_the_old_place_is_readable_until_the_copy_is_durable_and_given_back_then() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append(QUIET)
        one_busy_group(fs, log)
    log, found = open_log(fs)
    old = found.groups[7].batches[0]
    assert log.read(7, old).header == QUIET[0].header
    log.append_again(QUIET)
    with pytest.raises(ReleasedError):
        log.read(7, old)
    log.abort()


def test_half_a_tail_appended_again_keeps_the_segment_of_the_other_half() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append(QUIET)
        one_busy_group(fs, log)
        log.append_again(QUIET[:4])
        assert segments(fs)[0] == "00000001.wal"
    assert quiet_tail(fs) == [record.header for record in QUIET]
    with opened(fs) as log:
        log.append_again(QUIET[4:])
        assert segments(fs)[0] != "00000001.wal"
    assert quiet_tail(fs) == [record.header for record in QUIET]


def test_copies_in_any_order_over_segments_that_are_gone_are_put_in_order() -> None:
    """The later half moves first, then the head rolls, then the earlier half: nothing is in order."""
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append(QUIET)
        following = one_busy_group(fs, log)
        log.append_again(QUIET[2:])
        following = one_busy_group(fs, log, following)
        log.append([batch(6, group=7, term=3)])
        log.append_again(QUIET[:2])
        one_busy_group(fs, log, following)
        assert segments(fs)[0] != "00000001.wal"
    log, found = open_log(fs)
    assert spans(found, 7) == [(3, index, index) for index in range(1, 7)]
    places = [ref.position for ref in found.groups[7].batches]
    assert places != sorted(places)
    log.append([batch(7, group=7, term=3)])
    log.append([truncate_record(7, 3)])
    log.append([batch(3, group=7, term=4)])
    log.abort()
    log, found = open_log(fs)
    log.abort()
    assert spans(found, 7) == [(3, 1, 1), (3, 2, 2), (4, 3, 3)]


def test_a_copy_whose_segment_is_missing_is_missed() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append(QUIET)
        following = one_busy_group(fs, log)
        log.append_again(QUIET[2:3])
        log.append_again([*QUIET[:2], *QUIET[3:]])
        one_busy_group(fs, log, following)
    fs.vanish(f"/log/{segments(fs)[0]}")
    with pytest.raises(CorruptLogError, match="group 7: entries 1 to 5 are missing"):
        open_log(fs)


@pytest.mark.parametrize(
    ("halves", "missing"),
    [
        (([0, 1], [2, 3, 4]), "1 to 2"),
        (([2, 3, 4], [0, 1]), "3 to 5"),
        (([1], [0, 2, 3, 4]), "2 to 2"),
    ],
)
def test_what_is_missing_of_a_tail_that_was_copied_in_halves_is_named(
    halves: tuple[list[int], list[int]], missing: str
) -> None:
    """Each half lies in a segment of its own, and the first of these is gone."""
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append(QUIET)
        following = one_busy_group(fs, log)
        log.append_again([QUIET[place] for place in halves[0]])
        following = one_busy_group(fs, log, following)
        log.append_again([QUIET[place] for place in halves[1]])
        one_busy_group(fs, log, following)
    fs.vanish(f"/log/{segments(fs)[0]}")
    with pytest.raises(CorruptLogError, match=rf"group 7: entries {missing} are missing"):
        open_log(fs)


@pytest.mark.parametrize(
    ("before", "copy", "reason"),
    [
        ([release_record(7, 2, 3)], QUIET[1:2], "no copy of 2"),
        ([truncate_record(7, 4)], QUIET[3:4], "no copy of 4"),
        ([], [batch(6, group=7)], "no copy of 6"),
        ([], [hard_state_record(7, 3, 1)], "only batches"),
    ],
)
def test_what_is_not_live_is_not_appended_again(
    before: list[Record], copy: list[Record], reason: str
) -> None:
    with opened(CrashFilesystem()) as log:
        log.append(QUIET)
        if before:
            log.append(before)
        with pytest.raises(AssertionError, match=reason):
            log.append_again(copy)
        log.append([batch(1, group=8)])


def test_a_batch_that_lies_in_the_log_already_is_no_append() -> None:
    with opened(CrashFilesystem()) as log:
        log.append(QUIET)
        with pytest.raises(AssertionError, match="a batch at 1, not at 6"):
            log.append(QUIET[:1])


def test_a_crash_at_every_operation_of_appending_again_finds_the_same_tail() -> None:
    """Power is cut before each change to the disk, and what is left differs by draw."""
    cuts = rolled = 0
    for at in range(60):
        for draw in range(4):
            fs = CrashFilesystem()
            with opened(fs) as log:
                log.append([hard_state_record(7, 3, 2), *QUIET])
                following = one_busy_group(fs, log)
                following = fill_segments(log, following, 4)  # the copies roll the head
            log, _ = open_log(fs)
            if not cut_at(fs, log, at, following):
                continue
            cuts += 1
            fs.power_cut(random.Random(1000 * at + draw))
            rolled += "00000001.wal" not in segments(fs)
            for _ in range(2):  # a second restart finds it, too
                assert quiet_tail(fs) == [record.header for record in QUIET], f"cut {at}.{draw}"
                log, found = open_log(fs)
                assert (found.groups[7].term, found.groups[7].vote) == (3, 2)
                log.append_again(QUIET)
                log.abort()
    assert cuts >= 4 * 15
    assert 0 < rolled < cuts, "cuts before and behind the end of the oldest segment"


def cut_at(fs: CrashFilesystem, log: Log, at: int, following: int) -> bool:
    """Append again in two halves, with the busy group in between; False if it all went well."""
    last = fs.changes + at

    def cut(operation: str, path: str) -> None:
        if fs.changes > last:
            raise PowerCut

    fs.before = cut
    try:
        log.append_again(QUIET[:3])
        following = fill_segments(log, following, 6)
        log.append_again(QUIET[3:])
        log.release(0, following - 1, 1)
    except PowerCut:
        return True
    fs.before = lambda operation, path: None
    log.abort()
    return False
