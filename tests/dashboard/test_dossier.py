"""The microscope against a real log, and the dossier against /proc: what is shown is what is there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dashboard.dossier import Microscope, read_dossier
from wal import Log, LogIdentity, OpenOptions, OsFilesystem, SyncPolicy, batch_record, inline_driver
from wal.frame import FRAME_BYTES_MIN
from wal.survey import walk

SMALL = SyncPolicy(segment_bytes=64 << 10, fill_step_bytes=16 << 10)


@pytest.fixture
def log(tmp_path: Path):
    directory = tmp_path / "n2" / "wal"
    directory.parent.mkdir()
    options = OpenOptions(SMALL, inline_driver)
    opened, _ = Log.open(OsFilesystem(), str(directory), LogIdentity(bytes(16), 2), options)
    yield opened
    opened.abort()


def append(log: Log, index: int, entries: list[bytes]) -> None:
    log.append([batch_record(0, 7, index, entries)]).wait()


def test_the_microscope_shows_the_frames_that_a_survey_finds(log, tmp_path):
    append(log, 1, [b"one", b"two"])
    append(log, 3, [b"three" * 100])
    sight = Microscope(2, tmp_path).look()
    found = [s for s in walk(OsFilesystem(), str(tmp_path / "n2" / "wal")) if s.header is not None]
    assert [frame.position for frame in sight.frames] == [s.position for s in found]
    assert [frame.sequence for frame in sight.frames] == [s.sequence for s in found]
    assert [frame.kind for frame in sight.frames] == [s.header.kind.name for s in found if s.header]
    assert sight.frames[-1].count == 1
    assert b"three" in sight.frames[-1].content
    assert not sight.torn


def test_the_microscope_follows_a_log_that_grows(log, tmp_path):
    microscope = Microscope(2, tmp_path)
    append(log, 1, [b"one"])
    before = microscope.look()
    append(log, 2, [b"two"])
    after = microscope.look()
    assert after.frames[: len(before.frames)] == before.frames
    assert len(after.frames) > len(before.frames)
    assert after.frames_total == len(after.frames)


def test_a_torn_tail_is_marked(log, tmp_path):
    append(log, 1, [b"one"])
    append(log, 2, [b"two" * 500])
    sight = Microscope(2, tmp_path).look()
    last = sight.frames[-1]
    path = tmp_path / "n2" / "wal" / sight.segment
    with path.open("r+b") as file:
        file.seek((last.position & 0xFFFF_FFFF) + FRAME_BYTES_MIN + 700)
        file.write(bytes(800))
    torn = Microscope(2, tmp_path).look()
    assert torn.torn
    assert "body CRC" in torn.tail
    assert torn.end == last.position


def test_what_is_not_there_is_said(tmp_path):
    assert "No such file" in Microscope(7, tmp_path).look().problem
    (tmp_path / "n1" / "wal").mkdir(parents=True)
    assert "no segment" in Microscope(1, tmp_path).look().problem


def test_the_dossier_lists_the_threads_that_proc_lists(log, tmp_path):
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="waits")
    thread.start()
    try:
        dossier = read_dossier(2, os.getpid(), tmp_path)
        assert len(dossier.threads) == len(os.listdir(f"/proc/{os.getpid()}/task"))
    finally:
        stop.set()
        thread.join()
    names = dict(dossier.files)
    assert names["wal/00000001.wal"] == (tmp_path / "n2/wal/00000001.wal").stat().st_size


def test_a_dossier_of_nobody_is_empty(tmp_path):
    dossier = read_dossier(9, None, tmp_path)
    assert (dossier.threads, dossier.files, dossier.log) == ((), (), ())
