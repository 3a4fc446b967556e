"""Damage that a crash cannot explain is refused, and nothing is changed (ARCHITECTURE §5)."""

from __future__ import annotations

import pytest

from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import (
    DIRECTORY,
    IDENTITY,
    batch,
    fill_segments,
    open_log,
    opened,
    spans,
    wal_names,
)
from tests.wal.test_failures import step_log
from wal import (
    CorruptLogError,
    IdentityMismatchError,
    LogIdentity,
    SyncPolicy,
    hard_state_record,
    recover,
)
from wal.frame import FramePrefix, encode_prefix, frame_size, release_record
from wal.policy import Prepare

SEGMENTS = [f"{DIRECTORY}/{number:08d}.wal" for number in range(12)]


def three_segments() -> CrashFilesystem:
    """A log of three segments that ended without a clean stop."""
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([hard_state_record(0, 7, 2)])
        fill_segments(log, 1, 20)
    assert wal_names(fs) == ["00000001.wal", "00000002.wal", "00000003.wal"]
    return fs


def refused(fs: CrashFilesystem) -> CorruptLogError:
    """Open a damaged log, and see that it is refused and left as it is."""
    before = {name: fs.read(f"{DIRECTORY}/{name}") for name in wal_names(fs)}
    with pytest.raises(CorruptLogError) as caught:
        open_log(fs)
    assert {name: fs.read(f"{DIRECTORY}/{name}") for name in wal_names(fs)} == before
    assert not fs.handles, "a failed open leaves no file open"
    assert not fs.locked, "a failed open leaves no lock behind"
    return caught.value


@pytest.mark.parametrize("newest_holds_something", [True, False])
def test_a_missing_middle_segment_is_corruption(newest_holds_something: bool) -> None:
    fs = three_segments()
    fs.vanish(SEGMENTS[2])
    if not newest_holds_something:
        fs.put(SEGMENTS[3], bytes(4096))
    error = refused(fs)
    assert error.reason == "00000002.wal is missing"
    assert error.position >> 32 == 1
    assert error.evidence == 3 << 32


@pytest.mark.parametrize("content", [b"", bytes(4096), b"rubbish" * 100])
@pytest.mark.parametrize("number", [1, 2])
def test_a_segment_in_front_of_others_that_holds_nothing_is_corruption(
    number: int, content: bytes
) -> None:
    """Nothing in it proves that it held anything; the segments behind it do."""
    fs = three_segments()
    fs.put(SEGMENTS[number], content)
    assert refused(fs).evidence == (number + 1) << 32


def test_a_missing_first_segment_is_corruption() -> None:
    fs = three_segments()
    fs.vanish(SEGMENTS[1])
    error = refused(fs)
    assert "entries 1 to" in error.reason
    assert error.position == 2 << 32, "the start of the oldest segment that is left"


def test_a_missing_first_segment_is_noticed_even_if_nothing_of_the_group_follows() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1, 5, group=4)])
        fill_segments(log, 1, 10)
    fs.vanish(SEGMENTS[1])
    fs.put(SEGMENTS[3], b"")  # an unstarted one, as a crash may leave it
    assert (
        "group 4: entries 1 to 5 are missing" in refused(fs).reason
        or "group 0" in refused(fs).reason
    )


def test_a_group_that_lived_only_in_the_missing_first_segment_is_noticed() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1, 5, group=4)])
        fill_segments(log, 1, 10)
        log.release(0, 10, 1)
    fs.vanish(SEGMENTS[1])
    assert "group 4: entries 1 to 5 are missing" in refused(fs).reason


def test_segments_that_a_release_freed_are_not_missed() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([hard_state_record(4, 9, 1), batch(1, 5, group=4)])
        fill_segments(log, 1, 10)
        log.release(4, 5, 1)
        log.release(0, 10, 1)
    assert SEGMENTS[1].rsplit("/")[-1] not in wal_names(fs)
    _, found = open_log(fs)
    assert spans(found, 4) == []
    assert (found.groups[4].term, found.groups[4].vote) == (9, 1)
    assert (found.groups[4].released_index, found.groups[4].released_term) == (5, 1)


def test_a_damaged_checkpoint_of_the_oldest_segment_is_corruption_once_older_ones_are_gone() -> (
    None
):
    """Segment 1 was given back, so the checkpoint that replaces it was durable."""
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([hard_state_record(0, 7, 2)])
        fill_segments(log, 1, 9)
        log.release(0, 8, 1)
    oldest = wal_names(fs)[0]
    assert oldest == "00000002.wal"
    # Leave one flush group only: the rest is as if it had never been written.
    data = bytearray(fs.read(f"{DIRECTORY}/{oldest}"))
    data[40] ^= 1
    data[96 + 200 :] = bytes(len(data) - 96 - 200)
    fs.put(f"{DIRECTORY}/{oldest}", bytes(data))
    assert refused(fs).position == 2 << 32


def test_a_later_segment_of_another_node_is_named_as_such() -> None:
    fs, foreign = three_segments(), CrashFilesystem()
    log, _ = open_log(foreign, identity=LogIdentity(IDENTITY.cluster_id, 2))
    fill_segments(log, 1, 20)
    log.abort()
    fs.put(SEGMENTS[3], foreign.read(SEGMENTS[3]))
    with pytest.raises(IdentityMismatchError, match=r"00000003.wal belongs to node n2"):
        open_log(fs)
    assert fs.read(SEGMENTS[3]) == foreign.read(SEGMENTS[3])


def test_a_later_segment_of_another_time_is_not_removed() -> None:
    """Its checkpoint continues a shorter log: no frame in it proves anything, none is thrown away."""
    fs, other = three_segments(), CrashFilesystem()
    with opened(other) as log:
        fill_segments(log, 1, 20, size=8600)
    fs.put(SEGMENTS[3], other.read(SEGMENTS[3]))
    assert refused(fs).evidence == 3 << 32


def test_a_first_segment_of_another_node_is_named_as_such() -> None:
    fs = three_segments()
    with pytest.raises(IdentityMismatchError):
        open_log(fs, identity=LogIdentity(bytes(16), 3))
    assert not fs.handles
    assert not fs.locked


def test_frames_behind_a_clean_stop_are_refused() -> None:
    """A copy of an older SEALED cannot make a longer log pass as cleanly stopped."""
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    log.append([batch(1)])
    log.seal_and_close()
    sealed = fs.read(f"{DIRECTORY}/SEALED")
    with opened(fs) as log:
        log.append([batch(2)])
    fs.put(f"{DIRECTORY}/SEALED", sealed)
    assert "clean stop" in refused(fs).reason


def test_a_damaged_checkpoint_cannot_hide_the_later_jobs_of_its_segment() -> None:
    """The first sector shows an older use of the file; what follows it is still evidence."""
    fs = CrashFilesystem()
    with opened(fs) as log:
        fill_segments(log, 1, 17)
        log.release(0, 15, 1)
        fill_segments(log, 18, 11)
    newest = [name for name in wal_names(fs) if name.endswith(".wal")][-1]
    assert newest == "00000004.wal"
    old = bytearray(fs.read(f"{DIRECTORY}/{newest}"))
    stale = CrashFilesystem()
    with opened(stale) as log:
        fill_segments(log, 1, 3)
    first = stale.read(SEGMENTS[1])
    old[:4096] = first[:4096]
    fs.put(f"{DIRECTORY}/{newest}", bytes(old))
    error = refused(fs)
    assert error.evidence is not None
    assert error.position == 4 << 32
    assert error.reason == "the start of an earlier use of this file"


def planted_frame(fs: CrashFilesystem, *, uid: int = 0, sequence: int = 0) -> None:
    """Put a valid batch behind the end; `uid` and `sequence` say how far it is off."""
    found = recover(fs, DIRECTORY)
    record = batch(2)
    prefix = FramePrefix(
        found.uid + uid, found.sequence + sequence, found.end, 96 + len(record.body)
    )
    content = bytearray(fs.read(SEGMENTS[1]))
    offset = found.end & 0xFFFF_FFFF
    frame = encode_prefix(prefix, record.header) + record.body
    content[offset : offset + len(frame)] = frame
    fs.put(SEGMENTS[1], bytes(content))


@pytest.mark.parametrize(
    ("uid", "sequence", "read"), [(0, 0, True), (1, 0, False), (0, 1, False), (0, -1, False)]
)
def test_a_frame_counts_only_with_its_segments_uid_and_the_next_sequence_number(
    uid: int, sequence: int, read: bool
) -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1)])
    planted_frame(fs, uid=uid, sequence=sequence)
    assert (spans(recover(fs, DIRECTORY))[-1] == (1, 2, 2)) is read


@pytest.mark.parametrize("prepare", ["recycle", "append"])
def test_what_was_cut_off_never_comes_back_behind_a_frame_of_the_same_size(
    prepare: Prepare,
) -> None:
    """The next life's OPEN takes the place, the uid and the sequence number of what was damaged."""
    policy = SyncPolicy(segment_bytes=65536, fill_step_bytes=4096, prepare=prepare)
    fs = CrashFilesystem()
    log, driver = step_log(fs, policy)
    damaged = log.stats().head & 0xFFFF_FFFF
    log.append([release_record(7, 5, 1), batch(1), batch(2)], context="one flush")
    assert driver.pump()
    fs.kill()
    fs.flip(SEGMENTS[1], damaged + 40)
    for _ in range(2):
        log, found = open_log(fs, policy=policy)
        assert spans(found) == []
        assert found.end & 0xFFFF_FFFF >= damaged
        log.abort()


def test_a_segment_that_was_only_just_created_proves_that_the_one_before_was_durable() -> None:
    """No frame says so yet: the damage is in the last flush. But a log rolls only when synced."""
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1)])
        log.append([batch(2)])
        end = log.stats().head
    fs.flip(SEGMENTS[1], (end & 0xFFFF_FFFF) - 20)
    assert recover(fs, DIRECTORY).torn is not None
    fs.put(SEGMENTS[2], bytes(4096))
    error = refused(fs)
    assert error.evidence == 2 << 32
    assert error.position >> 32 == 1


def test_a_checkpoint_of_the_newest_segment_whose_body_alone_was_torn_is_a_torn_tail() -> None:
    """Its head is whole and is the only trace: the rest of the write did not arrive."""
    fs = CrashFilesystem()
    with opened(fs) as log:
        fill_segments(log, 1, 9)
    assert recover(fs, DIRECTORY).number == 2
    content = fs.read(SEGMENTS[2])
    assert content[96:104] != bytes(8)
    fs.put(SEGMENTS[2], content[:96] + bytes(len(content) - 96))
    found = recover(fs, DIRECTORY)
    assert found.unstarted == (2,)
    assert found.torn is not None
    assert found.torn.position == found.end
    assert found.torn.reason.startswith("body CRC")


@pytest.mark.parametrize("offset", [40, 100])
def test_the_first_write_of_a_log_that_arrived_in_part_is_a_torn_tail(offset: int) -> None:
    """Its checkpoint is damaged, in head or body; a later frame of the same write is whole."""
    fs = CrashFilesystem()
    with opened(fs):
        pass
    whole = recover(fs, DIRECTORY)
    assert (whole.number, whole.proved, whole.frames) == (1, 1 << 32, 2)
    fs.flip(SEGMENTS[1], offset)
    found = recover(fs, DIRECTORY)
    assert (found.end, found.unstarted) == (0, (1,))
    assert found.torn is not None
    assert found.torn.position == 1 << 32
    assert found.torn.bytes == len(fs.read(SEGMENTS[1]))
    with opened(fs) as log:
        log.append([batch(1)])
    assert spans(recover(fs, DIRECTORY)) == [(1, 1, 1)]


def test_a_write_into_a_recycled_segment_whose_beginning_is_lost_is_a_torn_tail() -> None:
    """Where it began still stands what an earlier use left; only its later frame shows it."""
    fs = CrashFilesystem()
    with opened(fs) as log:
        fill_segments(log, 1, 17)
        log.release(0, 16, 1)
        following = fill_segments(log, 18, 9)
        assert log.stats().segments_recycled
        head = log.stats().head
        path = SEGMENTS[head >> 32]
        before = fs.read(path)
        log.append([batch(following, size=1_000), batch(following + 1, size=1_000)])
    start = head & 0xFFFF_FFFF
    behind = start + frame_size(4 + 1_000)
    assert before[start:behind].strip(b"\0"), "stale, not blank"
    whole = fs.read(path)
    fs.put(path, whole[:start] + before[start:behind] + whole[behind:])
    found = recover(fs, DIRECTORY)
    assert found.end == head
    assert spans(found)[-1] == (1, following - 1, following - 1)
    assert found.torn is not None
    assert found.torn.position == head


def test_files_that_only_look_like_segments_are_left_alone() -> None:
    fs = three_segments()
    for name in ("00000000.wal", "000000004.wal", "0000004.wal"):
        fs.put(f"{DIRECTORY}/{name}", b"not ours")
    log, found = open_log(fs)
    assert len(spans(found)) == 20
    log.abort()
    assert fs.read(f"{DIRECTORY}/00000000.wal") == b"not ours"
