"""Power-loss mode: on the real file system, beside the simulator's disk, and under a log."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.sim.disk import SimDisk
from tests.wal.disks import Desk, Killed, fails
from tests.wal.support import IDENTITY, SMALL, batch, open_log, options, spans
from wal import Log, OsFilesystem, PoisonedLogError, recover
from wal.faults import Fault, drawn
from wal.filesystem import FileMode
from wal.journal import SECTOR_BYTES
from wal.writeback import WriteBackFilesystem


@pytest.fixture
def wary(tmp_path: Path) -> Desk:
    """One in power-loss mode."""
    return Desk(tmp_path, power_loss=True)


# --- power-loss mode --------------------------------------------------------------------


def cut(wary: Desk) -> Desk:
    """Lose the process; return what the next one finds."""
    return Desk(Path(wary.wal).parent, power_loss=True)


def test_what_is_not_synced_is_seen_and_lost(wary: Desk) -> None:
    file = wary.fs.open(wary.path("a"), create=True)
    wary.fs.sync_dir(wary.wal)
    file.pwritev([b"kept"], 0)
    file.datasync()
    file.pwritev([b"LOST"], 2)
    assert file.pread(10, 0) == b"keLOST"
    assert file.size() == 6
    assert wary.cache is not None
    assert wary.cache.unsynced.writes == 1
    after = cut(wary)
    assert after.fs.open_read(after.path("a")).pread(10, 0) == b"kept"


def test_a_created_file_is_lost_without_a_sync_of_its_directory(wary: Desk) -> None:
    file = wary.fs.open(wary.path("a"), create=True)
    file.pwritev([b"content"], 0)
    file.sync()
    assert wary.fs.listdir(wary.wal) == ["a"]
    assert not cut(wary).fs.exists(wary.path("a"))
    wary.fs.sync_dir(wary.wal)
    after = cut(wary)
    assert after.fs.open_read(after.path("a")).pread(10, 0) == b"content"


def test_a_rename_is_lost_without_a_sync_of_its_directory(wary: Desk) -> None:
    file = wary.fs.open(wary.path("a"), create=True)
    wary.fs.sync_dir(wary.wal)
    wary.fs.rename(wary.path("a"), wary.path("b"))
    file.pwritev([b"x"], 0)
    file.datasync()
    assert wary.fs.listdir(wary.wal) == ["b"]
    after = cut(wary)
    assert after.fs.listdir(after.wal) == ["a"]
    assert after.fs.open_read(after.path("a")).pread(1, 0) == b"x", "content follows the file"
    wary.fs.sync_dir(wary.wal)
    assert cut(wary).fs.listdir(wary.wal) == ["b"]


def test_a_renamed_file_is_found_again_after_it_was_closed(wary: Desk) -> None:
    file = wary.fs.open(wary.path("a"), create=True)
    file.pwritev([b"x"], 0)
    file.datasync()
    wary.fs.sync_dir(wary.wal)
    file.close()
    wary.fs.rename(wary.path("a"), wary.path("b"))
    for _ in range(2):
        again = wary.fs.open_read(wary.path("b"))
        assert again.pread(1, 0) == b"x"
        again.close()


def test_what_was_cut_off_reads_as_zeros_when_the_file_grows_again(wary: Desk) -> None:
    file = wary.fs.open(wary.path("a"), create=True)
    wary.fs.sync_dir(wary.wal)
    file.pwritev([b"x" * 100], 0)
    file.datasync()
    file.truncate(10)
    assert file.pread(100, 0) == b"x" * 10
    file.truncate(20)
    assert file.pread(100, 5) == b"x" * 5 + bytes(10)
    file.datasync()
    assert file.pread(100, 0) == b"x" * 10 + bytes(10)


def test_a_write_of_nothing_changes_nothing(wary: Desk) -> None:
    file = wary.fs.open(wary.path("a"), create=True)
    file.pwritev([], 10)
    file.zero_fill(10, 0)
    assert file.size() == 0


def test_an_unlinked_file_returns_without_a_sync_of_its_directory(wary: Desk) -> None:
    wary.fs.open(wary.path("a"), create=True).close()
    wary.fs.sync_dir(wary.wal)
    wary.fs.unlink(wary.path("a"))
    assert not wary.fs.exists(wary.path("a"))
    with pytest.raises(FileNotFoundError):
        wary.fs.open(wary.path("a"))
    assert cut(wary).fs.exists(wary.path("a"))
    wary.fs.sync_dir(wary.wal)
    assert not cut(wary).fs.exists(wary.path("a"))


def test_after_a_failed_sync_the_next_one_succeeds_and_lies(wary: Desk) -> None:
    """Fsyncgate: the pages are clean, a reader still sees them, and the disk never gets them."""
    file = wary.fs.open(wary.path("a"), create=True)
    wary.fs.sync_dir(wary.wal)
    file.pwritev([b"aaaa"], 0)
    wary.board.set(Fault("fail", 1000, times=1))
    with fails(errno.EIO):
        file.datasync()
    file.pwritev([b"bb"], 1)
    file.datasync()
    assert file.pread(4, 0) == b"abba"
    after = cut(wary)
    assert after.fs.open_read(after.path("a")).pread(4, 0) == b"\0bb"


def test_a_file_opened_with_dsync_is_durable_by_its_writes(wary: Desk) -> None:
    wary.fs.open(wary.path("a"), create=True).close()
    wary.fs.sync_dir(wary.wal)
    file = wary.fs.open_tuned(wary.path("a"), FileMode(dsync=True))
    file.pwritev([b"durable"], 0)
    after = cut(wary)
    assert after.fs.open_read(after.path("a")).pread(10, 0) == b"durable"


def test_what_is_too_much_for_memory_is_written_early(
    wary: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wal.writeback.JOURNAL_BYTES_MAX", 10_000)
    file = wary.fs.open(wary.path("a"), create=True)
    for place in range(5):
        file.pwritev([bytes([65 + place]) * 3000], place * 3000)
    assert wary.cache is not None
    assert wary.cache.unsynced.size < 10_000
    assert file.pread(15_000, 0) == b"".join(bytes([65 + n]) * 3000 for n in range(5))


def test_no_descriptor_is_left_behind(wary: Desk) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(20):
        file = wary.fs.open(wary.path("new"), create=True)
        file.pwritev([b"x"], 0)
        file.close()
        if turn % 2:
            wary.fs.rename(wary.path("new"), wary.path("old"))
            wary.fs.unlink(wary.path("old"))
        else:
            wary.fs.unlink(wary.path("new"))
        wary.fs.sync_dir(wary.wal)
    assert len(os.listdir("/proc/self/fd")) == before


# Against the simulator's disk, which is another hand's model of the same promise.

NAMES = ("a", "b", "c")
SIZES = st.integers(0, 3 * SECTOR_BYTES)
STEP = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(NAMES), SIZES, st.binary(min_size=1, max_size=900)),
    st.tuples(st.just("zero"), st.sampled_from(NAMES), SIZES, st.integers(1, 1500)),
    st.tuples(st.just("truncate"), st.sampled_from(NAMES), SIZES),
    st.tuples(st.just("sync"), st.sampled_from(NAMES)),
    st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("unlink"), st.sampled_from(NAMES)),
    st.tuples(st.just("reopen"), st.sampled_from(NAMES)),
    st.tuples(st.just("sync_dir")),
)


class Side:
    """One of the two disks, and the handles that a process holds on it."""

    def __init__(self, fs, directory: str) -> None:
        self.fs = fs
        self.directory = directory
        self.handles: dict[str, Any] = {}

    def do(self, step: tuple) -> None:
        """Take one step; a name that is not there is made."""
        fs, kind = self.fs, step[0]
        if kind == "sync_dir":
            fs.sync_dir(self.directory)
            return
        path = f"{self.directory}/{step[1]}"
        if kind == "rename":
            if step[1] != step[2] and fs.exists(path):
                target = f"{self.directory}/{step[2]}"
                fs.rename(path, target)
                self.handles.pop(target, None)
                if path in self.handles:
                    self.handles[target] = self.handles.pop(path)
            return
        if kind == "unlink":
            if fs.exists(path):
                fs.unlink(path)
                self.handles.pop(path, None)
            return
        if kind == "reopen":
            if path in self.handles:
                self.handles.pop(path).close()
            return
        file = self._file(path)
        match step:
            case ("write", _, offset, data):
                file.pwritev([data[:1], data[1:]], offset)
            case ("zero", _, offset, length):
                file.zero_fill(offset, length)
            case ("truncate", _, length):
                file.truncate(length)
            case ("sync", _):
                file.datasync()

    def _file(self, path: str):
        if path not in self.handles:
            self.handles[path] = self.fs.open(path, create=not self.fs.exists(path))
        return self.handles[path]

    def content(self) -> dict[str, bytes]:
        """What a reader sees."""
        found = {}
        for name in self.fs.listdir(self.directory):
            file = self.fs.open_read(f"{self.directory}/{name}")
            found[name] = file.pread(1 << 20, 0)
            assert file.size() == len(found[name])
            file.close()
        return found


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEP, max_size=40))
def test_power_loss_mode_shows_and_loses_what_the_simulators_disk_does(
    tmp_path: Path,
    steps: list[tuple],
) -> None:
    """The same steps on both: readers see the same at every step, and find the same after a cut."""
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    model = SimDisk()
    model.mkdirs("disk")
    ours = Side(WriteBackFilesystem(OsFilesystem()), str(root))
    theirs = Side(model, "disk")
    for step in steps:
        ours.do(step)
        theirs.do(step)
        assert ours.content() == theirs.content()
    model.power_loss(None)
    assert Side(OsFilesystem(), str(root)).content() == theirs.content()
    shutil.rmtree(root)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEP, max_size=25), seed=st.integers(0, 1 << 32))
def test_a_torn_cut_leaves_old_or_new_sectors_and_a_prefix_of_the_names(
    tmp_path: Path,
    steps: list[tuple],
    seed: int,
) -> None:
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    model = SimDisk()
    model.mkdirs("disk")
    cache = WriteBackFilesystem(OsFilesystem())
    ours, theirs = Side(cache, str(root)), Side(model, "disk")
    prefixes: list[set[str]] = []
    synced: dict[str, bytes] = {}  # in files whose names may not be durable
    for step in steps:
        if step[0] == "sync_dir":
            prefixes.clear()
        ours.do(step)
        theirs.do(step)
        prefixes.append(set(theirs.content()))
        if step[0] == "sync":
            synced[step[1]] = theirs.content()[step[1]]
    seen = ours.content()
    torn = cache.tear(seed)
    found = Side(OsFilesystem(), str(root)).content()
    model.power_loss(None)
    before = theirs.content()
    assert set(found) in [set(before), *prefixes, set(seen)]
    assert 0 <= torn.sectors_kept <= torn.sectors
    if not any(step[0] in ("rename", "unlink") for step in steps):
        for name, content in found.items():
            parts = (before.get(name, b""), synced.get(name, b""), seen[name])
            assert len(content) in map(len, parts)
            for start in range(0, len(content), SECTOR_BYTES):
                piece = content[start : start + SECTOR_BYTES]
                allowed = [part[start : start + len(piece)] for part in parts]
                assert piece in [part.ljust(len(piece), b"\0") for part in allowed]
    shutil.rmtree(root)


def test_torn_cuts_keep_all_nothing_and_parts(tmp_path: Path) -> None:
    kept = set()
    for seed in range(40):
        desk = Desk(Path(tempfile.mkdtemp(dir=tmp_path)), power_loss=True)
        file = desk.fs.open(desk.path("a"), create=True)
        desk.fs.sync_dir(desk.wal)
        file.pwritev([os.urandom(8 * SECTOR_BYTES)], 0)
        assert desk.cache is not None
        torn = desk.cache.tear(seed)
        assert torn.sectors == 8
        assert desk.disk.open_read(desk.path("a")).size() in (0, 8 * SECTOR_BYTES)
        kept.add(torn.sectors_kept)
    assert {0, 8} < kept
    assert len(kept) >= 5


# --- a log on it ------------------------------------------------------------------------


def test_a_log_keeps_what_it_acknowledged_and_loses_what_it_did_not(wary: Desk) -> None:
    log, _ = open_log(wary.fs, wary.wal)
    for index in range(1, 30):
        log.append([batch(index, size=3000)])
    wary.board.set(Fault("at", 1000, point="wal.sync.before", deed="kill"))
    with pytest.raises(Killed):
        log.append([batch(30)])
    found = recover(OsFilesystem(), wary.wal, IDENTITY)
    assert [last for _, _, last in spans(found)] == list(range(1, 30))


def test_a_log_without_syncs_loses_what_it_acknowledged(wary: Desk) -> None:
    """The negative control: the same cut under a disk whose syncs do nothing."""
    assert wary.cache is not None
    wary.cache.flush = lambda inode: None  # type: ignore[method-assign]  # planted
    log, _ = open_log(wary.fs, wary.wal)
    for index in range(1, 10):  # fewer than fill a segment: a second one would prove the first
        log.append([batch(index, size=3000)]).wait()
    found = recover(OsFilesystem(), wary.wal, IDENTITY)
    assert spans(found) == []


def test_a_failed_sync_poisons_a_log_for_good(wary: Desk) -> None:
    log, _ = open_log(wary.fs, wary.wal)
    log.append([batch(1)])
    wary.board.set(Fault("fail", 1000, times=1))
    with pytest.raises(PoisonedLogError):
        log.append([batch(2)]).wait()
    with pytest.raises(PoisonedLogError):
        log.append([batch(2)])
    found = recover(OsFilesystem(), wary.wal, IDENTITY)
    assert spans(found) == [(1, 1, 1)]


@pytest.mark.parametrize("seed", range(20))
def test_a_log_outlives_torn_cuts_one_after_another(tmp_path: Path, seed: int) -> None:
    """Ten lives, each cut in mid-write; what was acknowledged is there, and no more than was given."""
    acknowledged = given = 0
    for life in range(10):
        desk = Desk(tmp_path, power_loss=True)
        log, found = Log.open(desk.fs, desk.wal, IDENTITY, options(SMALL))
        ends = [last for _, _, last in spans(found)]
        last = ends[-1] if ends else 0
        assert acknowledged <= last <= given, f"seed {seed}, life {life}"
        acknowledged = given = last
        for _ in range(drawn(seed, "appends", life) % 12):
            given += 1
            log.append([batch(given, size=1 + drawn(seed, "size", given) % 9000)])
            acknowledged = given
        point = ("wal.sync.before", "wal.dir-sync.before", "wal.write.after")[life % 3]
        desk.board.set(Fault("at", 1000, point=point, deed="kill"))
        with contextlib.suppress(Killed):
            for _ in range(12):
                given += 1
                log.append([batch(given, size=8000)])
                acknowledged = given
        assert desk.cache is not None
        desk.cache.tear(drawn(seed, "tear", life))
        desk.disk.owner_died()
