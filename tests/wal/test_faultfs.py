"""Every fault of a disk, on the real file system."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.wal.disks import Desk, Killed, fails
from tests.wal.support import batch, open_log, spans
from wal import CorruptLogError, OsFilesystem
from wal.faultfs import FaultFilesystem, flip_bit
from wal.faults import FAULTS_MAX, POINTS, Fault, FaultBoard, drawn
from wal.filesystem import FileMode


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


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


def test_a_write_that_syncs_meets_the_faults_of_syncs_too(desk: Desk) -> None:
    desk.fs.open(desk.path("a"), create=True).close()
    file = desk.fs.open_tuned(desk.path("a"), FileMode(dsync=True))
    desk.board.set(Fault("fail", 1000, on="sync", times=1))
    with fails(errno.EIO):
        file.pwritev([b"x"], 0)
    assert file.size() == 0
    desk.board.set(Fault("at", 1000, point="wal.sync.after", deed="kill", times=1))
    with pytest.raises(Killed):
        file.pwritev([b"x"], 0)
    assert file.size() == 1


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
