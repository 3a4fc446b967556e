"""Opening: locks, identities, formats, crashes at every step of a stop and of a recovery."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.wal.crashfs import CrashFile, CrashFilesystem, PowerCut
from tests.wal.support import (
    DIRECTORY,
    IDENTITY,
    ROOT,
    batch,
    fill_segments,
    open_log,
    opened,
    spans,
    wal_names,
)
from wal import (
    CorruptLogError,
    IdentityMismatchError,
    Kind,
    LockedError,
    Log,
    LogIdentity,
    OpenOptions,
    OsFilesystem,
    OtherFormatError,
    RecordHeader,
    Recovered,
    hard_state_record,
    recover,
)
from wal.checksum import reference
from wal.frame import FramePrefix, encode_prefix, record_of
from wal.reader import CHUNK_BYTES, Rest, Stop, read_frames, scan_frames
from wal.segment import GroupCheckpoint, SegmentCheckpoint, decode_checkpoint

FIRST = f"{DIRECTORY}/00000001.wal"
SEALED = f"{DIRECTORY}/SEALED"

Groups = tuple[GroupCheckpoint, ...]


# ---- who may open ------------------------------------------------------------------------


def test_a_directory_has_one_writer(tmp_path: Path) -> None:
    log, _ = open_log(directory=tmp_path / "n1" / "wal")
    with pytest.raises(LockedError, match=rf"in use by process {os.getpid()}"):
        open_log(directory=tmp_path / "n1" / "wal")
    log.abort()
    log, _ = open_log(directory=tmp_path / "n1" / "wal")
    log.abort()


@pytest.mark.parametrize("left", [(), ("00000001.wal",), ("spare-00000001.free",)])
def test_a_log_that_had_begun_and_has_no_segment_left_is_a_loss(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    for name in left:
        (tmp_path / name).touch()
    options = OpenOptions(begun=True)
    with pytest.raises(CorruptLogError, match="the log is gone: it was begun here"):
        Log.open(OsFilesystem(), str(tmp_path), IDENTITY, options)
    assert {path.name for path in tmp_path.iterdir()} == {"LOCK", *left}


def test_a_log_that_had_begun_and_is_there_is_opened(tmp_path: Path) -> None:
    open_log(directory=tmp_path)[0].abort()
    log, found = Log.open(OsFilesystem(), str(tmp_path), IDENTITY, OpenOptions(begun=True))
    log.abort()
    assert found.number == 1


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from wal import *; "
        "log, _ = Log.open(OsFilesystem(), sys.argv[1], LogIdentity(bytes(range(16)), 3)); "
        "log.append([batch_record(0, 1, 1, [b'x'])]).wait(); os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    child = subprocess.run(command, cwd=ROOT, check=False, timeout=30)
    assert child.returncode == 9
    log, found = open_log(directory=tmp_path)
    assert spans(found) == [(1, 1, 1)]
    log.abort()


def test_a_log_belongs_to_one_node_of_one_cluster() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1)])
    for stranger in (LogIdentity(IDENTITY.cluster_id, 4), LogIdentity(bytes(16), 3)):
        before = fs.read(FIRST)
        with pytest.raises(IdentityMismatchError, match="belongs to node n3"):
            open_log(fs, identity=stranger)
        assert fs.read(FIRST) == before
        assert not fs.locked
    assert spans(recover(fs, DIRECTORY)) == [(1, 1, 1)], "without an identity, any may be read"


# ---- formats -----------------------------------------------------------------------------


def newer_record(fs: CrashFilesystem) -> None:
    """Append a frame, valid in every other way, whose record says version 3."""
    found = recover(fs, DIRECTORY)
    head = bytearray(batch(2).header[:60])
    head[4] = 3
    header = bytes(head) + reference(bytes(head)).to_bytes(4, "little")
    body = batch(2).body
    prefix = FramePrefix(found.uid, found.sequence, found.end, 96 + len(body))
    frame = encode_prefix(prefix, header) + body
    content = bytearray(fs.read(FIRST))
    offset = found.end & 0xFFFF_FFFF
    content[offset : offset + len(frame)] = frame
    fs.put(FIRST, bytes(content))


def newer_checkpoint(fs: CrashFilesystem) -> None:
    body = bytearray(SegmentCheckpoint(IDENTITY, 1, 0, 0, False, ()).record().body)
    body[0] = 2
    record = record_of(RecordHeader(Kind.CHECKPOINT, base_index=1), bytes(body))
    prefix = FramePrefix(5, 0, 1 << 32, 96 + len(body))
    fs.put(FIRST, encode_prefix(prefix, record.header) + bytes(body))


def newer_seal(fs: CrashFilesystem) -> None:
    body = b"RDSEAL02" + bytes(8)
    fs.put(SEALED, body + reference(body).to_bytes(4, "little"))


@pytest.mark.parametrize("make_newer", [newer_record, newer_checkpoint, newer_seal])
def test_a_newer_format_is_refused_and_left_alone(
    make_newer: Callable[[CrashFilesystem], None],
) -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1)])
    make_newer(fs)
    before = fs.read(FIRST)
    with pytest.raises(OtherFormatError, match=r"newer than .*update raftdeck"):
        open_log(fs)
    assert fs.read(FIRST) == before
    assert not fs.locked


def test_a_newer_record_behind_a_torn_one_is_not_cut_away() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1)])
    newer_record(fs)
    end = recover_end_before_newer(fs)
    fs.flip(FIRST, end - 10)
    with pytest.raises(CorruptLogError):
        open_log(fs)


def recover_end_before_newer(fs: CrashFilesystem) -> int:
    file = fs.open_read(FIRST)
    stop = Stop()
    with pytest.raises(OtherFormatError):
        list(read_frames(file, 1, stop))
    file.close()
    return stop.offset


# ---- valid bytes that make no sense ------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "count", "index", "body", "reason"),
    [
        (Kind.BATCH, 0, 3, b"", "a batch without entries"),
        (Kind.BATCH, 1, 2, b"\0" * 4, "a batch at index 2 overwrites the log"),
        (Kind.BATCH, 1, 5, b"\0" * 4, "group 0: entries 3 to 4 are missing"),
        (Kind.TRUNCATE, 0, 2, b"", "a cut at index 2, inside a batch"),
        (Kind.RELEASE, 0, 1, b"", "a release up to index 1, inside a batch"),
        (Kind.HARD_STATE, 0, 0, b"short", "the body is too short"),
        (Kind.CHECKPOINT, 0, 1, b"", "a checkpoint inside a segment"),
    ],
)
def test_records_that_contradict_the_log_are_corruption(kind, count, index, body, reason) -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1, 2)])
    found = recover(fs, DIRECTORY)
    record = record_of(RecordHeader(kind, 0, count, 1, index), body)
    prefix = FramePrefix(found.uid, found.sequence, found.end, 96 + len(body))
    content = bytearray(fs.read(FIRST))
    offset = found.end & 0xFFFF_FFFF
    frame = encode_prefix(prefix, record.header) + body
    content[offset : offset + len(frame)] = frame
    fs.put(FIRST, bytes(content))
    with pytest.raises(CorruptLogError, match=reason) as caught:
        open_log(fs)
    assert caught.value.position == found.end


SECOND = f"{DIRECTORY}/00000002.wal"


def one_group_more(groups: Groups) -> Groups:
    return *groups, replace(groups[0], group=9)


def other_group(**changes: Any) -> Callable[[Groups], Groups]:
    return lambda groups: (replace(groups[0], **changes), *groups[1:])


def two_segments() -> CrashFilesystem:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([hard_state_record(0, 5, 1, b"c"), batch(1, 2), batch(1, group=3)])
        log.release(0, 2, 1)
        fill_segments(log, 3, 9)
    return fs


def forge_checkpoint(
    fs: CrashFilesystem, forge: Callable[[Groups], Groups], *, sequence: int = 0
) -> None:
    """Let the second segment begin with another checkpoint, valid by itself."""
    file = fs.open_read(SECOND)
    frame = next(read_frames(file, 2, Stop()))
    file.close()
    true = decode_checkpoint(frame.body)
    record = replace(true, groups=forge(true.groups)).record()
    prefix = replace(
        frame.prefix,
        sequence=frame.sequence + sequence,
        frame_len=96 + len(record.body),
    )
    content = bytearray(fs.read(SECOND))
    head = encode_prefix(prefix, record.header) + record.body
    content[: len(head) + -len(head) % 8] = head + bytes(-len(head) % 8)
    fs.put(SECOND, bytes(content))


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (other_group(term=6), "group 0: the checkpoint contradicts the log"),
        (other_group(vote=2), "group 0: the checkpoint contradicts the log"),
        (other_group(config=b"d"), "group 0: the checkpoint contradicts the log"),
        (other_group(released_index=3), "group 0: the checkpoint contradicts the log"),
        (other_group(released_term=2), "group 0: the checkpoint contradicts the log"),
        (other_group(last_index=8), "group 0: the checkpoint contradicts the log"),
        (other_group(last_index=10), "group 0: the checkpoint contradicts the log"),
        (other_group(group=9), "group 9: the checkpoint contradicts the log"),
        (one_group_more, "the checkpoint names other groups than the log"),
        (lambda groups: groups[:1], "the checkpoint names other groups than the log"),
    ],
)
def test_a_checkpoint_that_contradicts_the_log_before_it_is_corruption(
    forge: Callable[[Groups], Groups], reason: str
) -> None:
    """The rules of the writer and of the reader are two pieces of code: this keeps them one."""
    fs = two_segments()
    assert spans(recover(fs, DIRECTORY))[-1] == (1, 11, 11)
    forge_checkpoint(fs, forge)
    with pytest.raises(CorruptLogError, match=reason) as caught:
        open_log(fs)
    assert caught.value.position == 2 << 32


@pytest.mark.parametrize("off", [-1, 1])
def test_a_checkpoint_whose_sequence_does_not_continue_is_corruption(off: int) -> None:
    fs = two_segments()
    forge_checkpoint(fs, lambda groups: groups, sequence=off)
    with pytest.raises(CorruptLogError, match="the sequence of frames does not continue") as caught:
        open_log(fs)
    assert caught.value.position == 2 << 32


@pytest.mark.parametrize("number", [1, 2])
def test_a_checkpoint_that_cannot_be_read_a_second_time_is_corruption(number: int) -> None:
    """A disk that answers differently from one read to the next: nothing is cut because of it."""

    class Fickle(CrashFilesystem):
        reads = 0

        def open_read(self, path: str) -> CrashFile:
            if path.endswith(f"{number}.wal"):
                self.reads += 1
                if self.reads == 2:
                    self.flip(path, 100)
            return super().open_read(path)

    fs = Fickle()
    with opened(fs) as log:
        fill_segments(log, 1, 9)
    fs.reads = 0
    with pytest.raises(CorruptLogError, match="could be read once, and not again: ") as caught:
        recover(fs, DIRECTORY)
    assert caught.value.position == number << 32
    assert caught.value.cause is not None


def test_a_checkpoint_that_does_not_add_up_is_corruption() -> None:
    fs = CrashFilesystem()
    record = record_of(RecordHeader(Kind.CHECKPOINT, base_index=1), b"\1\0\0\0rest")
    prefix = FramePrefix(5, 0, 1 << 32, 96 + len(record.body))
    frame = encode_prefix(prefix, record.header) + bytes(record.body)
    fs.put(FIRST, frame)
    with pytest.raises(CorruptLogError, match="CHECKPOINT"):
        open_log(fs)


# ---- a clean stop ------------------------------------------------------------------------


def test_a_clean_stop_is_recognised_once() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    log.append([batch(1)])
    assert log.seal_and_close()
    assert "SEALED" in wal_names(fs)
    log, found = open_log(fs)
    assert found.sealed
    assert "SEALED" not in wal_names(fs)
    log.abort()
    assert not open_log(fs)[1].sealed


def test_a_sealed_segment_goes_on_in_place() -> None:
    """Its blocks are prepared already: a restart after a clean stop costs no zero-filling."""
    fs = CrashFilesystem()
    log, _ = open_log(fs)
    log.append([batch(1)])
    assert log.seal_and_close()
    size = len(fs.read(FIRST))
    done: list[str] = []
    log, _ = open_log(fs)
    fs.before = lambda operation, path: done.append(operation)
    log.append([batch(2)])
    assert done == ["pwritev", "datasync"]
    assert len(fs.read(FIRST)) == size


def next_index(found: Recovered) -> int:
    """Return the index behind the log of group 0; its batches must follow its released index."""
    first = found.groups[0].released_index + 1 if 0 in found.groups else 1
    last = [span[2] for span in spans(found)]
    assert last == list(range(first, first + len(last)))
    return first + len(last)


def crash_everywhere(build: Callable[[CrashFilesystem], object], seeds: int) -> int:
    """Run `build` with a power cut before each of its changes; return how many there are."""
    reference_fs = CrashFilesystem()
    build(reference_fs)
    total = reference_fs.changes
    for change in range(total):
        for seed in range(seeds):
            fs = CrashFilesystem()

            def cut(operation: str, path: str, fs: CrashFilesystem = fs, at: int = change) -> None:
                if fs.changes > at:
                    raise PowerCut

            fs.before = cut
            with pytest.raises(PowerCut):
                build(fs)
            fs.power_cut(random.Random(seed))
            log, found = open_log(fs)
            following = next_index(found)
            log.append([batch(following)])
            log.abort()
            assert next_index(open_log(fs)[1]) == following + 1, (change, seed)
    return total


def stop_cleanly_twice(fs: CrashFilesystem) -> None:
    for index in (1, 2):
        log, _ = open_log(fs)
        log.append([batch(index)])
        log.seal_and_close()


def roll_release_and_recycle(fs: CrashFilesystem) -> None:
    following = next_index(open_and_close(fs))
    log, _ = open_log(fs)
    for _ in range(4):
        following = fill_segments(log, following, 2, size=30_000)
        log.release(0, following - 2, 1)
    log.abort()


def open_and_close(fs: CrashFilesystem) -> Recovered:
    log, found = open_log(fs)
    log.abort()
    return found


def test_a_power_cut_at_any_step_of_a_clean_stop_loses_nothing() -> None:
    assert crash_everywhere(stop_cleanly_twice, 3) > 25


def test_a_power_cut_at_any_step_of_rolling_loses_nothing() -> None:
    assert crash_everywhere(roll_release_and_recycle, 2) > 50


def test_what_a_crash_leaves_of_writing_sealed_is_removed() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1)])
    fs.put(f"{SEALED}.tmp", b"half")
    log, found = open_log(fs)
    assert not found.sealed
    assert wal_names(fs) == ["00000001.wal"]
    fs.put(f"{SEALED}.tmp", b"half")
    assert log.seal_and_close(), "nor is it an obstacle"


# ---- reading a segment -------------------------------------------------------------------


def test_frames_are_found_on_both_sides_of_every_chunk_edge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A chunk may end anywhere within a frame's head; none is missed, none is invented."""
    monkeypatch.setattr("wal.reader.CHUNK_BYTES", 256)
    frame = encode_prefix(FramePrefix(7, 1, 2, 96), record_of(RecordHeader(Kind.SEAL)).header)
    fs = CrashFilesystem()
    for start in (0, 40):
        for offset in range(start, 1200, 8):
            content = bytearray(1200 + 96)
            content[offset : offset + 96] = frame
            fs.put(FIRST, bytes(content))
            file = fs.open_read(FIRST)
            rest = Rest()
            assert {found for found, _ in scan_frames(file, start, rest)} == {offset}
            assert not rest.blank


def test_a_scan_sees_blank_blocks_short_files_and_magic_without_a_frame() -> None:
    fs = CrashFilesystem()
    for content, blank in ((b"", True), (bytes(5000), True), (b"RDB1" * 3000, False)):
        fs.put(FIRST, content)
        rest = Rest()
        assert list(scan_frames(fs.open_read(FIRST), 0, rest)) == []
        assert rest.blank is blank


def test_a_record_longer_than_a_chunk_is_read_whole() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([batch(1), batch(2, size=CHUNK_BYTES + 5), batch(3)])
    assert spans(recover(fs, DIRECTORY)) == [(1, 1, 1), (1, 2, 2), (1, 3, 3)]


# ---- the real disk -----------------------------------------------------------------------


def test_the_real_file_system_holds_a_log_through_stops_and_crashes(tmp_path: Path) -> None:
    directory = str(tmp_path / "wal")
    following = 1
    for life in range(4):
        log, found = open_log(OsFilesystem(), directory)
        assert found.sealed == (life in (1, 3))
        assert [span[2] for span in spans(found)] == list(range(max(1, following - 5), following))
        following = fill_segments(log, following, 20)
        log.release(0, following - 6, 1)
        if life % 2 == 0:
            assert log.seal_and_close()
        else:
            log.abort()
    names = sorted(os.listdir(directory))
    assert [name for name in names if name.startswith("spare")], "segments were given back"


def test_recovery_changes_nothing(tmp_path: Path) -> None:
    log, _ = open_log(directory=tmp_path)
    fill_segments(log, 1, 10)
    log.abort()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert recover(OsFilesystem(), str(tmp_path)) == recover(OsFilesystem(), str(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
