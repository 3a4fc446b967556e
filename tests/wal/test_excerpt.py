"""A log's live state, record by record, and a new log that is written of it."""

from __future__ import annotations

import errno
import os

import pytest

from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import DIRECTORY, IDENTITY, batch, opened, options
from wal import CorruptLogError, FrameError, OtherFormatError, hard_state_record, recover
from wal.checksum import reference
from wal.excerpt import record_at, records_of, state_of, write_log
from wal.frame import FramePrefix, encode_prefix, release_record, truncate_record

FIRST = f"{DIRECTORY}/00000001.wal"
RECORDS = [
    hard_state_record(0, 3, 2, b"voters"),
    *(batch(index, group=group) for group in (0, 4) for index in (1, 2, 3)),
    release_record(4, 2, 1),
]


def a_log() -> CrashFilesystem:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append(RECORDS)
    return fs


@pytest.mark.parametrize("bound", ["APPEND_BYTES", "APPEND_RECORDS_MAX"])
@pytest.mark.parametrize("at_once", [1, 3, 1_000])
def test_a_new_log_of_the_records_holds_the_same_however_they_are_grouped(
    bound: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"wal.excerpt.{bound}", at_once * (100 if bound == "APPEND_BYTES" else 1))
    fs, found = a_log(), recover(a_log(), DIRECTORY)
    other = CrashFilesystem()
    count = write_log(
        other, DIRECTORY, IDENTITY, records_of(fs, DIRECTORY, found.groups), options()
    )
    again = recover(other, DIRECTORY, IDENTITY)
    assert again.sealed
    assert state_of(again) == state_of(found)
    assert count == len([*records_of(fs, DIRECTORY, found.groups)])
    assert state_of(found)[4][5] == ((1, 3, 1, 104),)


def test_a_record_is_read_with_its_checksums_or_not_at_all() -> None:
    fs = a_log()
    position = recover(fs, DIRECTORY).groups[0].batches[0].position
    place = position & 0xFFFF_FFFF
    whole = record_at(fs, DIRECTORY, position)
    assert whole == batch(1)
    for offset in range(place, place + 96 + len(whole.body)):
        fs.flip(FIRST, offset)
        with pytest.raises(FrameError):
            record_at(fs, DIRECTORY, position)
        fs.flip(FIRST, offset)


def test_a_frame_whose_length_is_not_its_records_is_refused() -> None:
    fs = a_log()
    found = recover(fs, DIRECTORY)
    position = found.groups[0].batches[0].position
    head = encode_prefix(FramePrefix(found.uid, 3, 0, 96 + 5), batch(1).header)
    content = bytearray(fs.read(FIRST))
    place = position & 0xFFFF_FFFF
    content[place : place + 96] = head
    fs.put(FIRST, bytes(content))
    with pytest.raises(FrameError, match="frame length 101 does not fit"):
        record_at(fs, DIRECTORY, position)


def test_a_record_of_a_newer_format_is_named_as_such() -> None:
    fs = a_log()
    found = recover(fs, DIRECTORY)
    position = found.groups[0].batches[0].position
    newer = bytearray(batch(1).header[:60])
    newer[4] = 3
    header = bytes(newer) + reference(bytes(newer)).to_bytes(4, "little")
    content = bytearray(fs.read(FIRST))
    place = position & 0xFFFF_FFFF
    prefix = FramePrefix(found.uid, 3, 0, 96 + len(batch(1).body))
    content[place : place + 96] = encode_prefix(prefix, header)
    fs.put(FIRST, bytes(content))
    with pytest.raises(OtherFormatError, match="record format 3 is newer"):
        record_at(fs, DIRECTORY, position)


def test_a_batch_that_is_damaged_meanwhile_is_located() -> None:
    fs = a_log()
    found = recover(fs, DIRECTORY)
    damaged = found.groups[0].batches[1]
    fs.flip(FIRST, (damaged.position & 0xFFFF_FFFF) + 100)
    with pytest.raises(CorruptLogError, match="body CRC") as caught:
        list(records_of(fs, DIRECTORY, found.groups))
    assert caught.value.position == damaged.position


@pytest.mark.parametrize("capacity", range(15_000, 17_400, 200))
def test_a_disk_without_room_for_the_new_log_is_told_and_nothing_stays_open(capacity: int) -> None:
    found = recover(a_log(), DIRECTORY)
    records = [*records_of(a_log(), DIRECTORY, found.groups)]
    fs = CrashFilesystem()
    fs.capacity = capacity
    more = [batch(index, size=1_600) for index in range(4, 13)]
    with pytest.raises(OSError, match="no space"):
        write_log(fs, DIRECTORY, IDENTITY, [*records, *more], options())
    assert not fs.handles
    assert not fs.locked


def test_a_disk_without_room_for_the_clean_stop_is_told_and_nothing_stays_open() -> None:
    fs = CrashFilesystem()

    def refuse(operation: str, path: str) -> None:
        if operation == "create" and "SEALED" in path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fs.before = refuse
    with pytest.raises(OSError, match="the log could not be finished: no space"):
        write_log(fs, DIRECTORY, IDENTITY, RECORDS, options())
    assert not fs.handles
    assert not fs.locked


def test_a_group_of_which_nothing_is_left_is_no_part_of_the_state() -> None:
    fs = CrashFilesystem()
    with opened(fs) as log:
        log.append([*RECORDS, batch(1, group=7), truncate_record(7, 1)])
    found = recover(fs, DIRECTORY)
    assert 7 in found.groups
    assert state_of(found) == state_of(recover(a_log(), DIRECTORY))
