"""Every fault of a disk against the real file system, and power-loss mode against models of it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.sim.disk import SimDisk
from tests.wal.support import IDENTITY, SMALL, batch, open_log, options, spans
from wal import CorruptLogError, Log, OsFilesystem, PoisonedLogError, recover
from wal.faultfs import FaultFilesystem, flip_bit
from wal.faults import FAULTS_MAX, POINTS, Fault, FaultBoard, drawn
from wal.filesystem import FileMode, Lock, TunableFilesystem
from wal.writeback import SECTOR_BYTES, WriteBackFilesystem

MS = 1_000_000


class Killed(BaseException):
    """What a board does here instead of ending the process."""


class Disk(OsFilesystem):
    """The real one; its lock can be given back as a dead process's is."""

    held: Lock | None = None

    def lock(self, path: str) -> Lock:
        self.held = super().lock(path)
        return self.held

    def owner_died(self) -> None:
        if self.held is not None:
            self.held.release()
            self.held = None


class Desk:
    """A disk in a directory, its faults, and a clock that stands still until it is moved."""

    def __init__(self, root: Path, *, power_loss: bool = False) -> None:
        self.now_ns = 0
        self.told: list[str] = []
        self.wal = str(root / "wal")
        (root / "wal").mkdir(exist_ok=True)
        self.disk = Disk()
        self.cache = WriteBackFilesystem(self.disk) if power_loss else None
        self.board = FaultBoard(lambda: self.now_ns, self._end, self.told.append)
        inner: TunableFilesystem = self.cache or self.disk
        self.fs = FaultFilesystem(inner, self.board)

    def _end(self, text: str) -> None:
        raise Killed(text)

    def path(self, name: str) -> str:
        return f"{self.wal}/{name}"

    def pass_ms(self, ms: int) -> None:
        self.now_ns += ms * MS


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def wary(tmp_path: Path) -> Desk:
    """One in power-loss mode."""
    return Desk(tmp_path, power_loss=True)


@contextlib.contextmanager
def fails(code: int) -> Iterator[None]:
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        yield
    assert caught.value.errno == code
    assert caught.value.filename


# --- each fault -------------------------------------------------------------------------


def test_without_a_fault_everything_passes_through(desk: Desk) -> None:
    file = desk.fs.open(desk.path("a"), create=True)
    file.pwritev([b"one", b"two"], 0)
    file.zero_fill(6, 10)
    file.allocate(0, 32)
    file.datasync()
    file.sync()
    file.truncate(8)
    assert file.pread(8, 0) == b"onetwo\0\0"
    assert file.size() == 8
    file.close()
    desk.fs.rename(desk.path("a"), desk.path("b"))
    desk.fs.sync_dir(desk.wal)
    assert desk.fs.listdir(desk.wal) == ["b"]
    desk.fs.unlink(desk.path("b"))
    assert not desk.fs.exists(desk.path("b"))
    assert not desk.board.armed
    assert desk.board.bites == 0


def test_an_eio_bites_once_says_so_and_is_over(desk: Desk) -> None:
    file = desk.fs.open(desk.path("a"), create=True)
    desk.board.set(Fault("fail", 1000, on="write", times=1))
    with fails(errno.EIO):
        file.pwritev([b"x"], 0)
    assert file.size() == 0
    file.pwritev([b"x"], 0)
    [report] = desk.board.reports()
    assert (report.bites, report.bit_ago_ms, report.left_ms) == (1, 0, 0)
    assert report.where == "write of a"
    assert not desk.board.armed, "a fault that is over costs nothing"
    assert desk.told == [f"fail: {report.fault}; it bites at the write of a"]


@pytest.mark.parametrize(
    "operation", ["create", "write", "sync", "truncate", "rename", "unlink", "dir-sync"]
)
def test_an_eio_bites_the_operation_it_is_for_and_no_other(desk: Desk, operation: str) -> None:
    board, fs = desk.board, desk.fs
    file = fs.open(desk.path("a"), create=True)
    board.set(Fault("fail", 1000, on=operation))  # type: ignore[arg-type]  # parametrized
    steps = {
        "create": lambda: fs.open(desk.path("b"), create=True).close(),
        "write": lambda: file.pwritev([b"x"], 0),
        "sync": file.datasync,
        "truncate": lambda: file.truncate(0),
        "rename": lambda: fs.rename(desk.path("a"), desk.path("c")),
        "unlink": lambda: fs.unlink(desk.path("c")),
        "dir-sync": lambda: fs.sync_dir(desk.wal),
    }
    for name, step in steps.items():
        if name == operation:
            with fails(errno.EIO):
                step()
            board.heal()
        step()
    assert board.bites == 1


def test_a_fault_expires_by_itself(desk: Desk) -> None:
    file = desk.fs.open(desk.path("a"), create=True)
    desk.board.set(Fault("fail", 100, on="sync"))
    desk.pass_ms(99)
    with fails(errno.EIO):
        file.datasync()
    desk.pass_ms(1)
    file.datasync()
    assert desk.board.standing == 0


def test_a_fault_that_never_bit_is_reported_so(desk: Desk) -> None:
    desk.board.set(Fault("fail", 100, on="sync"))
    [report] = desk.board.heal()
    assert (report.bites, report.bit_ago_ms) == (0, -1)


def test_a_full_disk_takes_its_quota_a_prefix_and_no_file(desk: Desk) -> None:
    file = desk.fs.open(desk.path("a"), create=True)
    file.zero_fill(0, 8192)
    desk.board.set(Fault("full", 1000, quota=8192))
    file.pwritev([b"x" * 8192], 0)
    file.pwritev([b"y" * 4096], 8192)
    with fails(errno.ENOSPC):
        file.pwritev([b"z" * 10_000], 12_288)
    assert file.size() == 12_288 + 4096, "whole blocks of what had room"
    with fails(errno.ENOSPC):
        file.zero_fill(16_384, 4096)
    with fails(errno.ENOSPC):
        file.allocate(0, 100_000)
    with fails(errno.ENOSPC):
        desk.fs.open(desk.path("b"), create=True)
    file.pwritev([b"over"], 0)


def test_space_returns_to_a_full_disk_by_unlink_and_truncate(desk: Desk) -> None:
    file = desk.fs.open(desk.path("a"), create=True)
    file.pwritev([bytes(4096)], 0)
    other = desk.fs.open(desk.path("b"), create=True)
    other.pwritev([bytes(4096)], 0)
    desk.board.set(Fault("full", 1000))
    with fails(errno.ENOSPC):
        file.pwritev([bytes(4096)], 4096)
    other.truncate(0)
    file.pwritev([bytes(4096)], 4096)
    with fails(errno.ENOSPC):
        other.pwritev([b"x"], 0)
    desk.fs.unlink(desk.path("a"))
    other.pwritev([b"x"], 0)


def test_a_short_write_stores_a_drawn_part(desk: Desk, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)

    def stored(seed: int, name: str) -> int:
        file = desk.fs.open(desk.path(name), create=True)
        desk.board.set(Fault("short", 1000, times=1, seed=seed))
        with fails(errno.ENOSPC):
            file.pwritev([data[:1000], data[1000:]], 0)
        assert file.pread(1 << 20, 0) == data[: file.size()]
        return file.size()

    first = stored(1, "a")
    assert 0 < first < 1 << 20
    assert stored(1, "b") == first, "the same seed, the same draw"
    assert stored(2, "c") != first


def test_odds_are_drawn_by_the_seed(desk: Desk) -> None:
    file = desk.fs.open(desk.path("a"), create=True)

    def pattern(seed: int) -> list[bool]:
        desk.board.set(Fault("fail", 1000, on="write", odds=50, seed=seed))
        bitten = []
        for _ in range(64):
            try:
                file.pwritev([b"x"], 0)
                bitten.append(False)
            except OSError:
                bitten.append(True)
        desk.board.heal()
        return bitten

    assert pattern(3) == pattern(3) != pattern(4)
    assert 10 < sum(pattern(3)) < 54


def real_board(root: Path) -> tuple[FaultFilesystem, FaultBoard]:
    import time

    board = FaultBoard(time.monotonic_ns, lambda text: None)
    return FaultFilesystem(OsFilesystem(), board), board


def test_a_slow_sync_takes_that_much_longer(tmp_path: Path) -> None:
    import time

    fs, board = real_board(tmp_path)
    file = fs.open(str(tmp_path / "a"), create=True)
    board.set(Fault("slow", 60_000, delay_ms=30, times=1))
    began = time.monotonic()
    file.datasync()
    assert time.monotonic() - began >= 0.03
    assert board.bites == 1


def test_a_stall_ends_when_it_is_healed(tmp_path: Path) -> None:
    fs, board = real_board(tmp_path)
    file = fs.open(str(tmp_path / "a"), create=True)
    board.set(Fault("stall", 60_000))
    done = threading.Event()

    def work() -> None:
        file.datasync()
        done.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while not board.bites:
        assert not done.wait(0.001)
    assert not done.wait(0.02)
    [report] = board.heal()
    assert report.bites == 1
    assert done.wait(20)
    thread.join()


def test_a_stall_ends_by_itself(tmp_path: Path) -> None:
    fs, board = real_board(tmp_path)
    file = fs.open(str(tmp_path / "a"), create=True)
    board.set(Fault("stall", 30))
    file.datasync()
    file.datasync()
    assert board.bites == 1
    assert board.standing == 0


def test_faults_are_bounded(desk: Desk) -> None:
    for _ in range(FAULTS_MAX):
        desk.board.set(Fault("stall", 1000))
    with pytest.raises(ValueError, match="heal them first"):
        desk.board.set(Fault("stall", 1000))


@pytest.mark.parametrize("point", [p for p in POINTS if p.startswith("wal.")])
def test_every_point_is_met_and_named(desk: Desk, point: str) -> None:
    board, fs = desk.board, desk.fs
    board.set(Fault("at", 1000, point=point, deed="kill", times=1))

    def meet_all() -> None:
        file = fs.open(desk.path("a"), create=True)
        file.pwritev([b"x"], 0)
        file.datasync()
        file.truncate(0)
        fs.rename(desk.path("a"), desk.path("b"))
        fs.unlink(desk.path("b"))
        fs.sync_dir(desk.wal)

    with pytest.raises(Killed, match=point):
        meet_all()
    assert board.bites == 1


def test_before_and_after_a_point_differ(desk: Desk) -> None:
    desk.board.set(Fault("at", 1000, point="wal.create.before", deed="error", times=1))
    with fails(errno.EIO):
        desk.fs.open(desk.path("a"), create=True)
    assert not desk.fs.exists(desk.path("a"))
    desk.board.set(Fault("at", 1000, point="wal.create.after", deed="error", times=1))
    with fails(errno.EIO):
        desk.fs.open(desk.path("a"), create=True)
    assert desk.fs.exists(desk.path("a"))


def test_a_point_of_another_directory_is_not_met(desk: Desk) -> None:
    desk.board.set(Fault("at", 1000, point="snap.create.before", deed="error"))
    desk.fs.open(desk.path("a"), create=True)
    assert desk.board.bites == 0


def test_a_flipped_bit_is_flipped_and_flips_back(desk: Desk) -> None:
    file = desk.fs.open(desk.path("a"), create=True)
    file.pwritev([b"\x00\x10"], 0)
    flip = flip_bit(desk.disk, desk.path("a"), 1, 4)
    assert (flip.before, flip.after) == (0x10, 0x00)
    assert file.pread(2, 0) == b"\0\0"
    flip_bit(desk.disk, desk.path("a"), 1, 4)
    assert file.pread(2, 0) == b"\x00\x10"
    with pytest.raises(ValueError, match="ends before"):
        flip_bit(desk.disk, desk.path("a"), 2, 0)


def test_draws_depend_on_what_they_are_for() -> None:
    assert drawn(1, "a", 2) == drawn(1, "a", 2)
    assert len({drawn(1, "a", 2), drawn(2, "a", 2), drawn(1, "b", 2), drawn(1, "a", 3)}) == 4
    assert sum(drawn(9, n) & 1 for n in range(1000)) in range(400, 600)


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


def test_a_flipped_bit_of_a_log_is_found_at_its_place(desk: Desk) -> None:
    log, _ = open_log(desk.fs, desk.wal)
    for index in range(1, 6):
        log.append([batch(index)])
    log.abort()
    path = desk.path("00000001.wal")
    flip_bit(desk.disk, path, 700, 3)
    with pytest.raises(CorruptLogError, match=r"00000001\.wal"):
        open_log(desk.fs, desk.wal)
    flip_bit(desk.disk, path, 700, 3)
    log, found = open_log(desk.fs, desk.wal)
    assert len(spans(found)) == 5
    log.abort()
