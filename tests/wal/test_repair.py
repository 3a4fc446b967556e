"""Repair: what can be read is a log again, the original is kept, and no crash is in between."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.wal.crashfs import CrashFilesystem, PowerCut
from tests.wal.model import Model, Workload
from tests.wal.support import DIRECTORY, IDENTITY, SMALL, batch, open_log, options, spans
from wal import CorruptLogError, Log, LogIdentity, Recovered, hard_state_record
from wal.errors import LockedError
from wal.excerpt import state_of
from wal.frame import release_record, truncate_record
from wal.recovery import recover
from wal.repair import Loss, Repair, RepairError, repair
from wal.segment import segment_name, segment_number

TINY = replace(SMALL, segment_bytes=16 << 10, fill_step_bytes=4 << 10, prepare="append")
COPY = f"{DIRECTORY}.damaged-1"


def logged(fs: CrashFilesystem, batches: int = 40, size: int = 1500) -> Recovered:
    """Two groups over several segments; group 1 has a batch between those of group 0."""
    log, _ = open_log(fs, policy=TINY)
    log.append([hard_state_record(0, 1, 2), hard_state_record(1, 1, 3)])
    for index in range(1, batches + 1):
        log.append([batch(index, size=size)])
        if index % 10 == 0:
            log.append([batch(index // 10, group=1)])
    log.abort()
    return recover(fs, DIRECTORY)


def mend(fs: CrashFilesystem) -> Repair:
    return repair(fs, DIRECTORY, options(TINY))


def content_of(fs: CrashFilesystem, directory: str) -> dict[str, bytes]:
    names = fs.listdir(directory)
    kept = [name for name in names if segment_number(name) or name == "SEALED"]
    return {name: fs.read(f"{directory}/{name}") for name in kept}


def place_of(found: Recovered, index: int, group: int = 0) -> tuple[str, int]:
    """Return file and offset of a batch."""
    (position,) = [ref.position for ref in found.groups[group].batches if ref.base_index == index]
    return f"{DIRECTORY}/{segment_name(position >> 32)}", position & 0xFFFF_FFFF


def test_an_intact_log_and_a_torn_tail_are_left_as_they_are() -> None:
    fs = CrashFilesystem()
    logged(fs)
    before = content_of(fs, DIRECTORY)
    assert mend(fs) == Repair()
    path, _ = place_of(recover(fs, DIRECTORY), 40)
    torn = fs.read(path)[:-900]
    fs.put(path, torn)
    assert mend(fs) == Repair(), "the next open cuts it"
    assert fs.read(path) == torn
    assert set(content_of(fs, DIRECTORY)) == set(before)
    assert not fs.exists(COPY)


def test_what_is_behind_a_gap_is_lost_to_its_group_and_to_no_other() -> None:
    fs = CrashFilesystem()
    found = logged(fs)
    path, offset = place_of(found, 17)
    fs.flip(path, offset + 200)
    damaged = content_of(fs, DIRECTORY)
    with pytest.raises(CorruptLogError):
        recover(fs, DIRECTORY)
    done = mend(fs)
    assert done.losses == [Loss(0, 17, 40)]
    assert (done.frames_damaged, done.copy, done.resumed) == (1, COPY, False)
    assert "body CRC" in done.damage
    again = recover(fs, DIRECTORY)
    assert again.sealed
    assert spans(again) == spans(found)[:16]
    assert spans(again, 1) == spans(found, 1)
    assert (again.groups[0].vote, again.groups[1].vote) == (2, 3)
    assert again.identity == IDENTITY
    assert content_of(fs, COPY) == damaged, "the original is kept, to the byte"
    log, _ = open_log(fs, policy=TINY)
    log.append([batch(17)])
    log.seal_and_close()
    assert len(recover(fs, DIRECTORY).groups[0].batches) == 17


def test_a_segment_that_is_missing_costs_what_lay_in_it() -> None:
    fs = CrashFilesystem()
    found = logged(fs)
    fs.vanish(f"{DIRECTORY}/{segment_name(3)}")
    kept = [ref for ref in found.groups[0].batches if ref.position >> 32 < 3]
    done = mend(fs)
    assert done.losses[0] == Loss(0, kept[-1].last_index + 1, 40)
    assert len(recover(fs, DIRECTORY).groups[0].batches) == len(kept)


def test_the_first_segment_missing_leaves_the_state_and_no_entries_that_do_not_join() -> None:
    fs = CrashFilesystem()
    logged(fs)
    fs.vanish(f"{DIRECTORY}/{segment_name(1)}")
    done = mend(fs)
    again = recover(fs, DIRECTORY)
    assert (again.groups[0].term, again.groups[0].vote) == (1, 2), "every checkpoint has them"
    assert spans(again) == []
    assert done.losses[0] == Loss(0, 1, 40)


def test_a_damaged_seal_costs_nothing() -> None:
    fs = CrashFilesystem()
    logged(fs)
    log, found = open_log(fs, policy=TINY)
    log.seal_and_close()
    fs.flip(f"{DIRECTORY}/SEALED", 9)
    done = mend(fs)
    assert done.losses == []
    assert state_of(recover(fs, DIRECTORY)) == state_of(found)


def test_a_lost_cut_is_told_by_what_was_written_after_it() -> None:
    """Entries 3 to 6 of term 1 were cut, 3 to 5 written again in term 2; the cut cannot be read."""
    fs = CrashFilesystem()
    log, _ = open_log(fs, policy=TINY)
    log.append([batch(1), batch(2), batch(3), batch(4), batch(5), batch(6)])
    log.append([hard_state_record(0, 2, 1)])
    before = len(fs.read(f"{DIRECTORY}/{segment_name(1)}"))
    log.append([truncate_record(0, 3)])
    log.append([batch(3, 2, term=2)])
    log.append([batch(5, term=2)])
    log.abort()
    want = state_of(recover(fs, DIRECTORY))
    fs.flip(f"{DIRECTORY}/{segment_name(1)}", before + 40)
    done = mend(fs)
    assert done.losses == []
    assert state_of(recover(fs, DIRECTORY)) == want


def test_copies_stand_for_batches_that_cannot_be_read() -> None:
    fs = CrashFilesystem()
    log, _ = open_log(fs, policy=TINY)
    records = [batch(index) for index in range(1, 6)]
    log.append(records)
    log.append_again(records[1:3])
    log.append([batch(6)])
    log.abort()
    want = state_of(recover(fs, DIRECTORY))
    content = fs.read(f"{DIRECTORY}/{segment_name(1)}")
    fs.flip(f"{DIRECTORY}/{segment_name(1)}", content.index(b"0/1/2;"))
    done = mend(fs)
    assert done.losses == []
    assert state_of(recover(fs, DIRECTORY)) == want


def test_a_release_is_kept() -> None:
    fs = CrashFilesystem()
    logged(fs)
    log, _ = open_log(fs, policy=TINY)
    log.append([release_record(0, 30, 1)])
    log.append([batch(41)])
    log.append([batch(42)])
    log.abort()
    found = recover(fs, DIRECTORY)
    path, offset = place_of(found, 40)
    fs.flip(path, offset + 150)
    assert mend(fs).losses == [Loss(0, 40, 42)]
    again = recover(fs, DIRECTORY).groups[0]
    assert (again.released_index, again.last_index) == (30, 39)


def test_a_log_in_use_is_not_repaired() -> None:
    fs = CrashFilesystem()
    logged(fs)
    lock = fs.lock(f"{DIRECTORY}/LOCK")
    with pytest.raises(LockedError):
        mend(fs)
    lock.release()


def test_what_belongs_to_nobody_or_to_two_nodes_is_refused_and_left_alone() -> None:
    fs = CrashFilesystem()
    logged(fs, batches=3)
    other = CrashFilesystem()
    log, _ = Log.open(other, DIRECTORY, LogIdentity(bytes(16), 9), options(TINY))
    for index in range(1, 30):
        log.append([batch(index, size=1500)])
    log.abort()
    fs.put(f"{DIRECTORY}/{segment_name(2)}", other.read(f"{DIRECTORY}/{segment_name(2)}"))
    before = content_of(fs, DIRECTORY)
    with pytest.raises(RepairError, match="different nodes"):
        mend(fs)
    fs.vanish(f"{DIRECTORY}/{segment_name(2)}")
    fs.put(f"{DIRECTORY}/{segment_name(1)}", b"?" * 4096)
    fs.put(f"{DIRECTORY}/SEALED", b"?")
    with pytest.raises(RepairError, match="whose log it is"):
        mend(fs)
    assert before
    assert not fs.exists(COPY)
    assert not fs.locked


def test_each_repair_keeps_a_copy_of_its_own() -> None:
    fs = CrashFilesystem()
    logged(fs)
    for number, index in [(1, 30), (2, 20)]:
        path, offset = place_of(recover(fs, DIRECTORY), index)
        fs.flip(path, offset + 200)
        assert mend(fs).copy == f"{DIRECTORY}.damaged-{number}"


def damaged_log(seed: int) -> tuple[CrashFilesystem, bytes]:
    """A log with a flipped byte in front of something durable."""
    rng = random.Random(seed)
    while True:
        fs, model = CrashFilesystem(), Model()
        workload = Workload(rng, 2)
        log, _ = open_log(fs, policy=TINY)
        for _ in range(30):
            log.append(workload.append(model))
        log.abort()
        name = rng.choice(list(content_of(fs, DIRECTORY)))
        path = f"{DIRECTORY}/{name}"
        fs.flip(path, rng.randrange(len(fs.read(path))))
        try:
            recover(fs, DIRECTORY)
        except CorruptLogError:
            return fs, fs.read(path)


def snapshot(fs: CrashFilesystem) -> dict[str, bytes]:
    return {path: bytes(inode.seen) for path, inode in fs.names.items()}


def restored(files: dict[str, bytes]) -> CrashFilesystem:
    fs = CrashFilesystem()
    for path, content in files.items():
        fs.put(path, content)
    fs.directories.add(DIRECTORY)
    return fs


@pytest.mark.parametrize("seed", range(6))
def test_power_cuts_at_every_step_lead_to_the_same_log(seed: int) -> None:
    """Cut after each change to the disk, in the middle of repairing again as well."""
    original, _ = damaged_log(seed)
    files = snapshot(original)
    straight = restored(files)
    mend(straight)
    want = state_of(recover(straight, DIRECTORY))
    steps = straight.changes
    assert steps > 15
    damaged = {
        path: content for path, content in files.items() if path.endswith((".wal", "SEALED"))
    }
    rng = random.Random(seed)
    for step in [*range(steps), *[steps - 1, steps - 2, steps - 3] * 8]:
        rng.seed(rng.random())
        fs = restored(files)
        for left in (step, rng.randrange(steps)):
            _cut_after(fs, left)
            try:
                mend(fs)
            except PowerCut:
                fs.power_cut(rng)
                _check_refused_or_whole(fs, want)
            else:
                break
        fs.before = lambda operation, path: None
        fs.kill()
        mend(fs)
        assert state_of(recover(fs, DIRECTORY)) == want, f"step {step}"
        copies = [name for name in fs.directories if ".damaged-" in name]
        kept = [
            {f"{DIRECTORY}/{name}": data for name, data in content_of(fs, copy).items()}
            for copy in copies
        ]
        assert damaged in kept, "some copy is the original"


def _cut_after(fs: CrashFilesystem, left: int) -> None:
    remaining = left

    def before(operation: str, path: str) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise PowerCut

    fs.before = before


def _check_refused_or_whole(fs: CrashFilesystem, want: object) -> None:
    try:
        found = recover(fs, DIRECTORY)
    except CorruptLogError:
        return
    assert state_of(found) == want, "a directory that is taken for a log holds all of it"


def test_what_the_disk_changes_on_the_way_is_noticed_before_the_old_log_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, _ = damaged_log(1)
    fs = restored(snapshot(original))
    real = repair.__globals__["records_of"]
    monkeypatch.setattr("wal.repair.records_of", lambda *of: list(real(*of))[:-1])
    with pytest.raises(RepairError, match="another log than was meant"):
        mend(fs)
    monkeypatch.undo()
    assert mend(fs).resumed
    recover(fs, DIRECTORY)


def test_a_note_whose_copy_is_gone_is_told() -> None:
    original, _ = damaged_log(1)
    fs = restored(snapshot(original))
    fs.put(f"{DIRECTORY}/SEALED", b"raftdeck wal repair: not a log; the original is in gone-1\n")
    with pytest.raises(RepairError, match="put it back"):
        mend(fs)
