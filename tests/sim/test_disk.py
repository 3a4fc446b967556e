"""The simulated disk: what a power cut takes, and what it must leave."""

import errno
from itertools import pairwise

import pytest

from cluster.sim.disk import SECTOR_BYTES, DiskOperation, PowerCut, SimDisk, Trap
from cluster.sim.rng import Stream
from wal.errors import LockedError


def written(disk: SimDisk, path: str, content: bytes, *, synced: bool) -> None:
    """Create a file with a durable name and this content."""
    file = disk.open(path, create=True)
    disk.sync_dir(path.rpartition("/")[0])
    file.pwritev([content], 0)
    if synced:
        file.datasync()


def content_of(disk: SimDisk, path: str) -> bytes:
    file = disk.open_read(path)
    return file.pread(file.size(), 0)


def test_a_power_cut_empties_the_cache() -> None:
    disk = SimDisk()
    written(disk, "d/a", b"durable", synced=True)
    file = disk.open("d/a")
    file.pwritev([b"lost"], 0)
    file.pwritev([b"lost too"], 100)
    assert content_of(disk, "d/a").startswith(b"lost")
    disk.power_loss(None)
    assert content_of(disk, "d/a") == b"durable"


def test_the_death_of_a_process_leaves_the_cache_alone() -> None:
    disk = SimDisk()
    written(disk, "d/a", b"unsynced", synced=False)
    disk.process_died()
    assert content_of(disk, "d/a") == b"unsynced"


def test_a_name_is_durable_only_after_its_directory_was_synced() -> None:
    disk = SimDisk()
    file = disk.open("d/a", create=True)
    file.pwritev([b"content"], 0)
    file.datasync()
    disk.power_loss(None)
    assert not disk.exists("d/a")


def test_an_unsynced_rename_and_an_unsynced_unlink_come_undone() -> None:
    disk = SimDisk()
    written(disk, "d/a", b"a", synced=True)
    written(disk, "d/b", b"b", synced=True)
    disk.rename("d/a", "d/c")
    disk.unlink("d/b")
    assert disk.listdir("d") == ["c"]
    disk.power_loss(None)
    assert disk.listdir("d") == ["a", "b"]
    disk.rename("d/a", "d/c")
    disk.sync_dir("d")
    disk.power_loss(None)
    assert disk.listdir("d") == ["b", "c"]


def test_a_sync_of_one_directory_leaves_the_others_unsynced() -> None:
    disk = SimDisk()
    disk.open("d/a", create=True)
    disk.open("e/b", create=True)
    disk.sync_dir("d")
    disk.power_loss(None)
    assert disk.listdir("d") == ["a"]
    assert disk.listdir("e") == []


def test_a_torn_cut_keeps_a_prefix_of_the_directory_changes() -> None:
    seen = set()
    for seed in range(64):
        disk = SimDisk()
        for name in "abc":
            disk.open(f"d/{name}", create=True)
        disk.power_loss(Stream(seed, "torn"))
        seen.add("".join(disk.listdir("d")))
    assert seen == {"", "a", "ab", "abc"}


def test_a_torn_cut_keeps_whole_sectors_of_what_was_unsynced_and_all_that_was_synced() -> None:
    sectors = 6
    durable, fresh = b"d" * SECTOR_BYTES, b"f" * SECTOR_BYTES
    patterns = set()
    for seed in range(200):
        disk = SimDisk()
        written(disk, "d/a", durable * sectors, synced=True)
        disk.open("d/a").pwritev([fresh * (sectors - 1)], SECTOR_BYTES)
        disk.power_loss(Stream(seed, "torn"))
        found = content_of(disk, "d/a")
        starts = [*range(0, len(found) + 1, SECTOR_BYTES)]
        parts = [found[start:stop] for start, stop in pairwise(starts)]
        assert len(parts) == sectors
        assert parts[0] == durable, "a synced sector that was not written again stays"
        assert set(parts) <= {durable, fresh}
        patterns.add(tuple(part == fresh for part in parts))
    assert (False,) * sectors in patterns
    assert (False, *(True,) * (sectors - 1)) in patterns
    holes = [p for p in patterns if True in p and any(b and not a for a, b in pairwise(p[1:]))]
    assert holes, "a later sector may survive an earlier one"


def test_a_torn_cut_may_keep_or_lose_the_growth_of_a_file() -> None:
    sizes = set()
    for seed in range(64):
        disk = SimDisk()
        written(disk, "d/a", b"x" * 100, synced=True)
        disk.open("d/a").pwritev([b"y" * 5000], 100)
        disk.power_loss(Stream(seed, "torn"))
        assert content_of(disk, "d/a")[:100] in (b"x" * 100,)
        sizes.add(len(content_of(disk, "d/a")))
    assert sizes == {100, 5100}


def test_an_unsynced_truncation_comes_undone_and_a_synced_one_does_not() -> None:
    disk = SimDisk()
    written(disk, "d/a", b"x" * 2000, synced=True)
    file = disk.open("d/a")
    file.truncate(10)
    assert file.size() == 10
    disk.power_loss(None)
    assert len(content_of(disk, "d/a")) == 2000
    file = disk.open("d/a")
    file.truncate(10)
    file.sync()
    disk.power_loss(None)
    assert content_of(disk, "d/a") == b"x" * 10


def test_a_write_behind_the_end_leaves_zeros_between() -> None:
    disk = SimDisk()
    written(disk, "d/a", b"x", synced=True)
    file = disk.open("d/a")
    file.pwritev([b"y"], 1000)
    file.datasync()
    disk.power_loss(None)
    assert content_of(disk, "d/a") == b"x" + bytes(999) + b"y"


def test_a_full_disk_refuses_growth_and_still_overwrites() -> None:
    disk = SimDisk()
    written(disk, "d/a", bytes(1000), synced=True)
    disk.full = True
    file = disk.open("d/a")
    file.pwritev([b"fits"], 0)
    with pytest.raises(OSError, match="No space") as caught:
        file.pwritev([b"does not"], 996)
    assert caught.value.errno == errno.ENOSPC


def test_a_failing_sync_makes_nothing_durable() -> None:
    disk = SimDisk()
    written(disk, "d/a", b"before", synced=True)
    file = disk.open("d/a")
    file.pwritev([b"after!"], 0)
    disk.failing_syncs = 1
    with pytest.raises(OSError, match="Input/output"):
        file.datasync()
    disk.power_loss(None)
    assert content_of(disk, "d/a") == b"before"


def test_a_fuse_cuts_the_power_between_two_operations() -> None:
    disk = SimDisk()
    disk.fuse = 1
    disk.open("d/a", create=True)
    with pytest.raises(PowerCut):
        disk.sync_dir("d")


@pytest.mark.parametrize("after", [False, True])
def test_a_trap_springs_once_at_its_operation_and_at_no_other(after: bool) -> None:
    disk = SimDisk()
    sprung: list[tuple[str, list[str]]] = []

    def spring(path: str) -> None:
        sprung.append((path, disk.listdir("d")))

    disk.trap = Trap(DiskOperation.RENAME, "d", 1, after, spring)
    written(disk, "d/a", b"a", synced=True)
    written(disk, "e/a", b"a", synced=True)
    disk.rename("e/a", "e/b")
    disk.rename("d/a", "d/b")
    disk.rename("d/b", "d/c")
    disk.rename("d/c", "d/d")
    assert sprung == [("d/c", ["c" if after else "b"])]


def test_every_kind_of_operation_springs_its_trap() -> None:
    for kind in DiskOperation:
        disk = SimDisk()
        sprung: list[str] = []
        disk.trap = Trap(kind, "d", 0, False, sprung.append)
        written(disk, "d/a", b"a", synced=True)
        disk.rename("d/a", "d/b")
        disk.unlink("d/b")
        assert len(sprung) == 1, kind


def test_a_trap_that_cuts_the_power_keeps_its_operation_from_happening() -> None:
    disk = SimDisk()
    written(disk, "d/a", b"before", synced=True)

    def spring(path: str) -> None:
        raise PowerCut

    disk.trap = Trap(DiskOperation.WRITE, "d", 0, False, spring)
    with pytest.raises(PowerCut):
        disk.open("d/a").pwritev([b"after!"], 0)
    assert content_of(disk, "d/a") == b"before"


def test_a_lock_is_exclusive_and_goes_with_its_process() -> None:
    disk = SimDisk()
    disk.lock("d/LOCK")
    with pytest.raises(LockedError):
        disk.lock("d/LOCK")
    disk.process_died()
    disk.lock("d/LOCK").release()
    disk.lock("d/LOCK")
