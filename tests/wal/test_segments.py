"""Rolling, releasing and recycling segments (ARCHITECTURE §5, DESIGN §5)."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest

from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import (
    DIRECTORY,
    SMALL,
    batch,
    fill_segments,
    open_log,
    opened,
    spans,
    wal_names,
)
from wal import (
    CorruptLogError,
    Kind,
    ReleasedError,
    SegmentIO,
    SyncPolicy,
    hard_state_record,
    recover,
)
from wal.checksum import crc32c
from wal.errors import FrameError
from wal.frame import decode_head, release_record, truncate_record
from wal.operations import Create, Rename, Unlink, Write
from wal.policy import Prepare
from wal.reader import Stop, read_frames
from wal.segment import SegmentCheckpoint, decode_checkpoint


def path(number: int) -> str:
    return f"{DIRECTORY}/{number:08d}.wal"


def checkpoint(fs: CrashFilesystem, number: int) -> SegmentCheckpoint:
    file = fs.open_read(path(number))
    frame = next(read_frames(file, number, Stop()))
    file.close()
    return decode_checkpoint(frame.body)


def test_a_segment_begins_with_what_must_not_be_lost_with_the_ones_before() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([hard_state_record(7, 3, 2, b"voters"), batch(1, 4, group=7)])
        log.release(7, 4, 2)
        fill_segments(log, 1, 9)
        first, second = checkpoint(fs, 1), checkpoint(fs, 2)
    assert (first.number, first.previous, first.previous_end, first.groups) == (1, 0, 0, ())
    assert (second.number, second.previous) == (2, 1)
    assert second.previous_end >> 32 == 1
    zero, seven = second.groups
    assert (seven.group, seven.term, seven.vote, seven.config) == (7, 3, 2, b"voters")
    assert (seven.released_index, seven.released_term) == (4, 2)
    assert (seven.first_live, seven.last_index) == (0, 0)
    assert (zero.first_live >> 32, zero.last_index) == (1, 7)


def test_a_released_prefix_frees_its_segments_and_the_hard_state_survives() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([hard_state_record(0, 7, 2, b"c")])
        fill_segments(log, 1, 40)
        assert log.stats().segments == 5
        log.release(0, 35, 1)
        assert log.stats().segments == 1
        assert log.stats().spares == 2
    assert wal_names(fs) == ["00000005.wal", "spare-00000001.free", "spare-00000002.free"]
    _, found = open_log(fs)
    assert spans(found) == [(1, index, index) for index in range(36, 41)]
    assert (found.groups[0].released_index, found.groups[0].released_term) == (35, 1)
    assert (found.groups[0].term, found.groups[0].vote, found.groups[0].config) == (7, 2, b"c")


def test_a_group_that_needs_an_old_segment_keeps_it() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1, group=5)])
        fill_segments(log, 1, 20)
        log.release(0, 20, 1)
        assert log.stats().segments == 3
        log.append([truncate_record(5, 1)])
        assert log.stats().segments == 1, "a cut frees it as a release does"
    assert spans(open_log(fs)[1], 5) == []


def test_a_released_segment_is_used_again_and_written_in_place() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        fill_segments(log, 1, 17)
        log.release(0, 16, 1)
        inode = fs.names[f"{DIRECTORY}/spare-00000001.free"]
        fill_segments(log, 18, 8)
        assert fs.names[path(4)] is inode
        assert checkpoint(fs, 4).recycled
        assert not checkpoint(fs, 3).recycled
        assert len(inode.seen) == SMALL.segment_bytes


def test_a_recycled_segment_never_replays_the_valid_records_of_its_earlier_use() -> None:
    """The stale frames hold CRCs, sequence and all: only the uid is of another use."""
    fs = CrashFilesystem()
    with opened(fs) as log:
        fill_segments(log, 1, 17)
        log.release(0, 16, 1)
        fill_segments(log, 18, 7)
        log.append([batch(25, size=100)])
        log.append([batch(26, size=8000)])
        log.append([batch(27, size=8000)])
        newest = log.stats().head >> 32
        offset = log.stats().head & 0xFFFF_FFFF
    assert checkpoint(fs, newest).recycled
    # Put the head at the very boundary of a stale frame: what follows it reads as a valid frame.
    stale = fs.read(path(newest))[offset:]
    assert stale.strip(b"\0"), "the rest of the file is from its earlier use"
    log, found = open_log(fs)
    assert found.torn is None, "what an earlier use left is no torn tail"
    assert spans(found)[-1] == (1, 27, 27)
    log.append([batch(28)])
    log.abort()
    assert spans(open_log(fs)[1])[-1] == (1, 28, 28)


def test_a_stale_frame_exactly_at_the_head_of_a_recycled_segment_is_not_read() -> None:
    """All frames of the same size: the head stands where a stale frame begins, valid in itself."""
    policy = SyncPolicy(segment_bytes=16384, fill_step_bytes=4096)
    fs = CrashFilesystem()
    log, _ = open_log(fs, policy=policy)
    met = 0
    for index in range(1, 60):
        log.append([batch(index, size=2000)])
        if index > 3:
            log.append([release_record(0, index - 3, 1)])
        head = log.stats().head
        number, offset = head >> 32, head & 0xFFFF_FFFF
        if not checkpoint(fs, number).recycled:
            continue
        with suppress(FrameError, struct.error):
            stale = fs.read(path(number))[offset : offset + 4096]
            uid, *_, length, payload_crc, fields = decode_head(memoryview(stale), 0, crc32c)
            assert crc32c(stale[96:length]) == payload_crc
            assert fields[0] in (Kind.BATCH, Kind.RELEASE)
            assert uid != recover(fs, DIRECTORY).uid
            met += 1
        other = CrashFilesystem()
        for name in wal_names(fs):
            other.put(f"{DIRECTORY}/{name}", fs.read(f"{DIRECTORY}/{name}"))
        _, found = open_log(other, policy=policy)
        assert found.torn is None
        assert found.end == head
        assert spans(found)[-1][2] == index
    log.abort()
    assert met >= 10, f"the head stood at a valid stale frame {met} times only"


def test_an_oversized_record_gets_a_segment_of_its_own_which_is_not_kept_as_a_spare() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1)])
        log.append([batch(2, size=300_000)])
        log.append([batch(3)])
        assert log.stats().head >> 32 == 3
        log.release(0, 3, 1)
    assert wal_names(fs) == ["00000003.wal", "spare-00000001.free"]
    assert spans(open_log(fs)[1]) == []


def test_a_first_record_that_is_oversized_is_read_back() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1, size=200_000), batch(2)])
    log, found = open_log(fs)
    assert spans(found) == [(1, 1, 1), (1, 2, 2)]
    assert len(log.read(0, found.groups[0].batches[0]).body) == 200_004


@pytest.mark.parametrize("prepare", ["recycle", "zero_fill", "fallocate", "append"])
def test_every_way_of_preparing_blocks_holds_the_same_log(prepare: Prepare) -> None:
    policy = SyncPolicy(segment_bytes=65536, fill_step_bytes=4096, prepare=prepare)
    fs = CrashFilesystem()
    log, _ = open_log(fs, policy=policy)
    fill_segments(log, 1, 30)
    log.release(0, 20, 1)
    assert log.stats().spares == (2 if prepare == "recycle" else 0)
    assert log.seal_and_close()
    log, found = open_log(fs, policy=policy)
    assert [last for _, _, last in spans(found)] == list(range(21, 31))
    fill_segments(log, 31, 5)
    log.abort()
    assert spans(open_log(fs, policy=policy)[1])[-1] == (1, 35, 35)


def test_spares_that_a_policy_has_no_use_for_are_removed_at_the_next_open() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        fill_segments(log, 1, 40)
        log.release(0, 39, 1)
    fs.put(f"{DIRECTORY}/spare-00000090.free", b"\0" * 65536)
    fs.put(f"{DIRECTORY}/spare-00000091.free", b"\0" * 200_000)
    log, _ = open_log(fs)
    assert log.stats().spares == 2
    log.abort()
    policy = SyncPolicy(segment_bytes=65536, fill_step_bytes=4096, prepare="append")
    log, _ = open_log(fs, policy=policy)
    assert [name for name in wal_names(fs) if name.startswith("spare")] == []
    log.abort()


def test_segments_are_given_back_one_by_one_each_before_the_next() -> None:
    """Whatever a crash keeps of the directory's changes, no segment is missing in the middle."""
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    fill_segments(log, 1, 40)
    done: list[str] = []
    fs.before = lambda operation, path: done.append(operation)
    log.release(0, 39, 1)
    freed = [operation for operation in done if operation in ("rename", "unlink", "sync_dir")]
    assert freed == ["rename", "sync_dir"] * 2 + ["unlink", "sync_dir"] * 2


def test_appends_are_not_delayed_by_the_freeing_of_many_segments() -> None:
    from tests.wal.test_failures import step_log

    log, driver = step_log(CrashFilesystem())
    for index in range(1, 60):
        log.append([batch(index, size=8000)], context=index)
        driver.pump()
    log.release(0, 58, 1)
    driver.pump()
    handle = log.append([batch(60)], context=60)
    driver.pump()
    driver.pump()
    assert handle.durable
    assert log.stats().segments > 4


def test_a_batch_of_a_freed_segment_is_refused_and_its_file_is_closed() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    fill_segments(log, 1, 9)
    log.abort()
    log, found = open_log(fs)
    first = found.groups[0].batches[0]
    assert log.read(0, first) == batch(1, size=8000)
    fill_segments(log, 10, 9)
    log.release(0, 18, 1)
    with pytest.raises(ReleasedError, match=r"00000001\.wal was given back"):
        log.read(0, first)
    assert not [handle for handle in fs.handles if handle._path == path(1)]


def test_a_batch_is_read_back_with_its_checksums_or_not_at_all() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1), batch(2)])
    log, found = open_log(fs)
    first, second = found.groups[0].batches
    assert log.read(0, first) == batch(1)
    for offset in (first.position + 100, first.position + 5, first.position + 60):
        fs.flip(path(1), offset & 0xFFFF_FFFF)
        with pytest.raises(CorruptLogError) as caught:
            log.read(0, first)
        assert caught.value.position == first.position
        fs.flip(path(1), offset & 0xFFFF_FFFF)
    with pytest.raises(CorruptLogError, match="another record stands here"):
        log.read(1, first)
    assert log.read(0, second) == batch(2)


def test_a_cut_suffix_is_never_seen_again() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        fill_segments(log, 1, 12)
        log.append([truncate_record(0, 6), batch(6, term=2)])
    _, found = open_log(fs)
    assert spans(found) == [*((1, index, index) for index in range(1, 6)), (2, 6, 6)]
    fs.kill()
    log, found = open_log(fs)
    log.append([truncate_record(0, 2)])
    log.append([batch(2, term=3)])
    fill_segments(log, 3, 20)
    fs.kill()
    _, found = open_log(fs)
    assert spans(found)[:3] == [(1, 1, 1), (3, 2, 2), (1, 3, 3)]


def test_a_release_never_goes_back() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1, 2), batch(3, 2)])
        log.release(0, 2, 1)
        log.release(0, 1, 1)
        log.release(0, 2, 9)
    _, found = open_log(fs)
    assert (found.groups[0].released_index, found.groups[0].released_term) == (2, 1)
    assert spans(found) == [(1, 3, 4)]


def test_a_release_ahead_of_the_log_makes_room_for_a_snapshot() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1, 2)])
        log.release(0, 100, 4)
        log.append([batch(101, term=4)])
    _, found = open_log(fs)
    assert spans(found) == [(4, 101, 101)]
    assert (found.groups[0].released_index, found.groups[0].released_term) == (100, 4)


def test_only_an_unstarted_first_segment_is_an_empty_log() -> None:
    for content in (b"", b"\0" * 4096, b"rubbish"):
        fs = CrashFilesystem()
        fs.mkdirs(DIRECTORY)
        fs.put(path(1), content)
        log, found = open_log(fs)
        assert found.end == 0
        assert found.unstarted == (1,)
        log.append([batch(1)])
        log.abort()
        assert spans(open_log(fs)[1]) == [(1, 1, 1)]


def test_blocks_are_zeroed_ahead_of_the_head_in_steps() -> None:
    """And again behind an unclean stop, which cut them off."""
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    done: list[str] = []
    fs.before = lambda operation, path: done.append(operation)
    log.append([batch(1)])
    assert done == ["pwritev", "datasync"], "the first step was filled when the segment began"
    assert len(fs.read(path(1))) == SMALL.fill_step_bytes
    done.clear()
    log.append([batch(2, size=20_000)])
    assert done == ["zero_fill", "pwritev", "datasync"]
    assert len(fs.read(path(1))) == 2 * SMALL.fill_step_bytes
    fs.kill()
    log, found = open_log(fs)
    assert len(fs.read(path(1))) == (found.end & 0xFFFF_FFFF) + SMALL.fill_step_bytes
    log.abort()


def test_making_a_file_anew_empties_it() -> None:
    """A job whose creation succeeded, and whose writing found no space, is performed once more."""
    fs = CrashFilesystem()
    fs.mkdirs(DIRECTORY)
    io = SegmentIO(fs, DIRECTORY)
    io.perform(Create("00000001.wal"))
    io.perform(Write("00000001.wal", 0, (b"half",), 4))
    io.perform(Create("00000001.wal"))
    assert fs.read(path(1)) == b""
    io.perform(Rename("00000001.wal", "00000002.wal"))
    io.perform(Rename("00000001.wal", "00000002.wal"))
    io.perform(Unlink("00000002.wal"))
    io.perform(Unlink("00000002.wal"))
    assert wal_names(fs) == []
    io.close()
    assert not fs.handles
