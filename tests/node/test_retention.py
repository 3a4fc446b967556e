"""What a log keeps although a snapshot stands for it: by bytes, by age, within a bound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.compaction import AGE_MARKS_MAX, CompactionPolicy, _Ages
from tests.node.rig import MS, SESSION, put_entry
from tests.node.test_compaction import BUSY, EAGER, NEVER, QUIET, SEGMENT, Follower

SECOND = 1000 * MS
SEGMENTS = 12


def written(policy: CompactionPolicy, segments: int = SEGMENTS) -> Follower:
    node = Follower(1, policy)
    node.append(BUSY, 1, SESSION)
    node.keep_busy(segments)
    return node


def kept(node: Follower) -> int:
    return node.multi.groups[BUSY].core.log.bytes


def test_without_a_policy_the_snapshot_releases_all_but_the_trailing_bytes() -> None:
    node = written(EAGER)
    assert kept(node) < 4 * SEGMENT
    assert node.store.log.stats().segments_released >= SEGMENTS - 5


@pytest.mark.parametrize("segments", [3, 6])
def test_so_many_bytes_stay_behind_every_snapshot(segments: int) -> None:
    node = written(replace(EAGER, trailing_bytes=segments * SEGMENT))
    assert segments * SEGMENT <= kept(node) < (segments + 3) * SEGMENT
    assert node.multi.groups[BUSY].snapshot_index > node.multi.groups[BUSY].core.log.start.index


def test_what_is_young_stays_and_goes_when_it_is_old() -> None:
    node = written(replace(EAGER, retain_ns=SECOND))
    log = node.multi.groups[BUSY].core.log
    assert log.start.index == 0, "all of it is younger than a second"
    assert node.store.log.stats().segments_released == 0
    node.clock.now += 2 * SECOND
    node.keep_busy(3)
    assert log.start.index > 0
    assert kept(node) < 6 * SEGMENT
    assert node.store.log.stats().segments_released >= SEGMENTS - 3


def test_a_quiet_log_goes_when_all_of_it_is_old() -> None:
    node = Follower(1, replace(EAGER, retain_ns=SECOND, log_bytes_min=1, trailing_bytes=0))
    node.append(BUSY, 1, SESSION)
    node.append(BUSY, 1, put_entry(1, 1, b"k", b"x" * 500))
    log = node.multi.groups[BUSY].core.log
    assert (node.multi.groups[BUSY].snapshot_index, log.start.index) == (2, 0)
    node.clock.now += SECOND // AGE_MARKS_MAX + 1
    node.turn()
    node.clock.now += SECOND - 200 * MS
    node.turn()
    assert log.start.index == 0
    node.clock.now += 300 * MS
    node.turn()
    assert log.start.index == 2


def test_age_alone_keeps_no_more_than_its_bound() -> None:
    node = written(replace(EAGER, retain_ns=SECOND, retain_bytes_max=5 * SEGMENT))
    assert 5 * SEGMENT <= kept(node) < 8 * SEGMENT
    assert node.store.log.stats().segments_released >= SEGMENTS - 9


def test_what_was_recovered_counts_as_new() -> None:
    node = written(replace(EAGER, retain_ns=SECOND))
    node.clock.now += SECOND - 100 * MS
    node.boot()
    node.clock.now += 900 * MS
    node.turn()
    assert node.multi.groups[BUSY].core.log.start.index == 0
    assert kept(node) > (SEGMENTS - 1) * SEGMENT


def test_a_group_that_keeps_nothing_does_not_release_what_another_one_keeps() -> None:
    """A segment is given back when no group needs it: one that is kept for its age stays whole."""
    node = Follower(2, replace(EAGER, retain_ns=SECOND, pinned_segments_max=NEVER))
    node.append(BUSY, 1, SESSION)
    said = node.append(QUIET, 1, b"?" * 500).header
    node.keep_busy(6)
    stats = node.store.log.stats()
    assert (stats.segments_released, stats.bytes_copied) == (0, 0)
    assert (
        node.store.read(QUIET, node.multi.groups[QUIET].core.log.batches[0].base_index).header
        == said
    )


def test_ages_are_told_to_a_part_of_the_span_and_are_bounded() -> None:
    ages = _Ages()
    for now in range(10_000):
        ages.mark(now, now * 2, 1_000)
    assert len(ages._marks) <= AGE_MARKS_MAX + 2
    moment = 9_999 - 1_000
    assert moment - 1_000 // AGE_MARKS_MAX - 2 <= ages.older_than(moment) // 2 <= moment
    assert ages.older_than(0) == 0
