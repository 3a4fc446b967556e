"""Snapshot files: written in the background, complete or refused, and only then the log lets go."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from node.raft.types import GroupId, Index, LogStart, Term
from node.snapshots import OperationThread, SnapshotError, SnapshotStore
from tests.wal.crashfs import CrashFilesystem
from wal import LogIdentity, OsFilesystem, OtherFormatError, SegmentIO
from wal.operations import Write

IDENTITY = LogIdentity(b"c" * 16, 1)
GROUP = GroupId(0)
NOTHING = Index(0)


class Inline:
    """An `OperationRunner` that performs at once; `left` operations, then it stops like a crash."""

    def __init__(self, io: SegmentIO) -> None:
        self.io = io
        self.left = 1 << 30
        self.full_at: int | None = None
        """How many writes succeed before one finds no space."""

    def run(self, operations, done) -> None:
        failure = None
        for operation in operations:
            if self.left == 0:
                return
            self.left -= 1
            if isinstance(operation, Write) and self.full_at is not None:
                self.full_at -= 1
                if self.full_at < 0:
                    self.full_at, failure = None, OSError(errno.ENOSPC, "No space left on device")
                    break
            self.io.perform(operation)
        if done is not None:
            done(failure)

    def close(self) -> None:
        self.io.close()


def store_in(path: Path, identity: LogIdentity = IDENTITY) -> tuple[SnapshotStore, Inline]:
    filesystem = OsFilesystem()
    runner = Inline(SegmentIO(filesystem, str(path)))
    return SnapshotStore(filesystem, str(path), identity, runner, lambda: None), runner


def write(store: SnapshotStore, index: int, *chunks: bytes) -> None:
    writer = store.begin(GROUP, LogStart(Index(index), Term(3)))
    for chunk in chunks:
        writer.write(chunk)
    assert writer.queued_bytes >= 0
    writer.finish()


def read_all(path: Path) -> list[bytes]:
    loaded = store_in(path)[0].newest(GROUP, NOTHING)
    assert loaded is not None
    return list(loaded.chunks)


def test_what_was_written_is_read_back_and_older_ones_are_gone(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path)
    write(store, 5, b"old")
    write(store, 9, b"head", b"", b"x" * 100_000)
    assert [(done.place.index, done.error) for done in store.completions()] == [
        (5, None),
        (9, None),
    ]
    loaded = store_in(tmp_path)[0].newest(GROUP, Index(9))
    assert loaded is not None
    assert loaded.place == LogStart(Index(9), Term(3))
    assert list(loaded.chunks) == [b"head", b"", b"x" * 100_000]
    assert [path.name for path in tmp_path.iterdir()] == ["000000-0000000000000009.snap"]


def test_a_group_without_a_snapshot_starts_empty_unless_its_log_was_released(
    tmp_path: Path,
) -> None:
    store, _ = store_in(tmp_path)
    write(store, 5, b"of group 0")
    assert store.newest(GroupId(1), NOTHING) is None
    with pytest.raises(SnapshotError, match="missing"):
        store.newest(GroupId(1), Index(7))
    with pytest.raises(SnapshotError, match="behind this snapshot"):
        store.newest(GROUP, Index(6))


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path)
    write(store, 5, b"head", b"some items")
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        with pytest.raises((SnapshotError, OtherFormatError)):
            read_all(tmp_path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SnapshotError):
            read_all(tmp_path)


def test_another_nodes_snapshot_is_refused(tmp_path: Path) -> None:
    write(store_in(tmp_path)[0], 5, b"head")
    with pytest.raises(SnapshotError, match="another group, node or cluster"):
        store_in(tmp_path, LogIdentity(b"c" * 16, 2))[0].newest(GROUP, NOTHING)


def test_a_crash_at_any_operation_leaves_the_old_snapshot_or_the_new_one(tmp_path: Path) -> None:
    for left in range(20):
        directory = tmp_path / str(left)
        directory.mkdir()
        store, runner = store_in(directory)
        write(store, 5, b"old")
        runner.left = left
        write(store, 9, b"new", b"more")
        finished = len(store.completions()) == 2
        loaded = store_in(directory)[0].newest(GROUP, NOTHING)
        assert loaded is not None
        content = list(loaded.chunks)
        assert (
            content == [b"new", b"more"] if finished else content in ([b"old"], [b"new", b"more"])
        )
        assert not list(directory.glob("*.tmp")), "what was half-written is cleared away"


@pytest.mark.parametrize("draw", range(8))
def test_a_snapshot_that_a_start_believes_in_survives_a_power_cut(draw: int) -> None:
    """A process was killed between the rename and the sync of the directory."""
    disk = CrashFilesystem()
    runner = Inline(SegmentIO(disk, "/snap"))
    runner.left = 6  # create, header, chunk, trailer, sync, rename
    store = SnapshotStore(disk, "/snap", IDENTITY, runner, lambda: None)
    write(store, 5, b"head")
    disk.kill()
    for _ in range(2):
        again = SnapshotStore(disk, "/snap", IDENTITY, runner, lambda: None)
        assert again.newest(GROUP, NOTHING) is not None
        disk.power_cut(random.Random(draw))


@pytest.mark.parametrize("failing", range(4))
def test_a_snapshot_of_which_a_part_could_not_be_written_never_gets_its_name(
    tmp_path: Path, failing: int
) -> None:
    """The disk was full for a moment: what came before and after it was written."""
    store, runner = store_in(tmp_path)
    write(store, 5, b"old")
    store.completions()
    runner.full_at = failing  # header, two chunks, trailer
    write(store, 9, b"head", b"more")
    (done,) = store.completions()
    assert isinstance(done.error, OSError)
    assert [path.name for path in tmp_path.iterdir()] == ["000000-0000000000000005.snap"]
    assert read_all(tmp_path) == [b"old"]
    write(store, 9, b"head", b"more")
    assert read_all(tmp_path) == [b"head", b"more"]


def test_the_thread_writes_in_the_background_and_reports_errors(tmp_path: Path) -> None:
    filesystem = OsFilesystem()
    (tmp_path / "good").mkdir()
    thread = OperationThread(SegmentIO(filesystem, str(tmp_path / "good")))
    ended: list[bool] = []
    store = SnapshotStore(
        filesystem, str(tmp_path / "good"), IDENTITY, thread, lambda: ended.append(True)
    )
    write(store, 5, b"head")
    thread.close_after_all()
    assert ended == [True]
    assert [done.error for done in store.completions()] == [None]
    broken = OperationThread(SegmentIO(filesystem, str(tmp_path / "absent")))
    failing = SnapshotStore(filesystem, str(tmp_path / "good"), IDENTITY, broken, lambda: None)
    write(failing, 9, b"head")
    broken.close_after_all()
    (done,) = failing.completions()
    assert isinstance(done.error, OSError)
