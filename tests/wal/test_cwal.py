"""CWal's files (seed 4): byte for byte, every byte damaged, mirrored, overwritten, asynchronous."""

from __future__ import annotations

import random
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wal.crashfs import CrashFilesystem, PowerCut
from wal import ClosedLogError, DiskFullError, OsFilesystem, PoisonedLogError
from wal.cwal import CHUNK_BYTES, CwalError, CwalStop, checksum, read_entries
from wal.cwal_reader import MappedReader, MirrorReader, read_file
from wal.cwal_writer import AsyncCwalWriter, CwalOptions, CwalWriter

PATH = "/log/test.cwal"
COPIES = [PATH, "/log/b.cwal", "/log/c.cwal"]
APPEND = CwalOptions()
ENTRIES = [b"first", b"\x01", b"the third entry, a little longer", b"\xff" * 20]


def bytes_of(*entries: bytes) -> bytes:
    """The file as seed 4 draws it, by no code of ours."""
    return b"".join(
        struct.pack("<Q", len(data)) + data + struct.pack("<I", zlib.crc32(data))
        for data in entries
    )


def disk(**files: bytes) -> CrashFilesystem:
    fs = CrashFilesystem()
    for name, content in files.items():
        fs.put(f"/log/{name}.cwal", content)
    return fs


def read(fs: CrashFilesystem, path: str = PATH) -> tuple[list[bytes], CwalStop]:
    stop = CwalStop()
    return [bytes(entry.data) for entry in read_file(fs, path, stop)], stop


def write(
    fs: CrashFilesystem, entries: Sequence[bytes], options: CwalOptions = APPEND
) -> CwalWriter:
    writer = CwalWriter(fs, [PATH], options)
    for data in entries:
        writer.append(data)
    writer.close()
    return writer


# ---- the layout --------------------------------------------------------------------------


def test_the_bytes_are_those_of_cwal() -> None:
    fs = CrashFilesystem()
    write(fs, [b"123456789", b"a"])
    assert fs.read(PATH).hex(" ") == (
        "09 00 00 00 00 00 00 00 31 32 33 34 35 36 37 38 39 26 39 f4 cb"
        " 01 00 00 00 00 00 00 00 61 43 be b7 e8"
    )
    assert checksum(b"123456789") == 0xCBF43926


@given(entries=st.lists(st.binary(min_size=1, max_size=300)), chunk=st.integers(13, 400))
def test_what_is_written_is_read_whatever_the_chunks(entries: list[bytes], chunk: int) -> None:
    fs = CrashFilesystem()
    write(fs, entries)
    assert fs.read(PATH) == bytes_of(*entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wal.cwal.CHUNK_BYTES", chunk)
        found, stop = read(fs)
    assert found == entries
    assert (stop.offset, stop.reason, stop.rest) == (len(bytes_of(*entries)), "", 0)


def test_entries_larger_than_a_chunk_and_on_its_edges_are_read() -> None:
    entries = [b"x" * (CHUNK_BYTES - 20), b"y" * (CHUNK_BYTES + 5), b"z" * 13, b"w"]
    fs = disk(test=bytes_of(*entries))
    assert read(fs)[0] == entries


def test_a_writer_goes_on_where_the_last_one_ended() -> None:
    fs = CrashFilesystem()
    write(fs, ENTRIES[:2])
    write(fs, ENTRIES[2:])
    assert fs.read(PATH) == bytes_of(*ENTRIES)


def test_an_empty_entry_is_read_and_not_written() -> None:
    fs = disk(test=bytes_of(b"a", b"", b"b"))
    assert read(fs)[0] == [b"a", b"", b"b"]
    with pytest.raises(CwalError, match="an empty entry, which nobody writes"):
        CwalWriter(fs, [PATH])
    writer = CwalWriter(fs, [COPIES[1]])
    with pytest.raises(CwalError, match="twelve zero bytes"):
        writer.append_all([b"c", b""])
    writer.close()
    assert fs.read(COPIES[1]) == b""


# ---- damage ------------------------------------------------------------------------------


def test_a_bit_flipped_at_any_byte_is_never_served() -> None:
    content = bytes_of(*ENTRIES)
    ends = [len(bytes_of(*ENTRIES[:n])) for n in range(len(ENTRIES) + 1)]
    for offset in range(len(content)):
        for mask in (0x01, 0x80):
            flipped = bytearray(content)
            flipped[offset] ^= mask
            found, stop = read(disk(test=bytes(flipped)))
            hit = max(n for n in range(len(ENTRIES)) if ends[n] <= offset)
            assert found == ENTRIES[:hit], f"byte {offset}"
            assert stop.damaged
            assert stop.offset == ends[hit], "the damage is located"


def test_a_file_cut_at_any_byte_holds_the_entries_before() -> None:
    content = bytes_of(*ENTRIES)
    ends = [len(bytes_of(*ENTRIES[:n])) for n in range(len(ENTRIES) + 1)]
    for length in range(len(content) + 1):
        found, stop = read(disk(test=content[:length]))
        whole = max(n for n in range(len(ENTRIES) + 1) if ends[n] <= length)
        assert found == ENTRIES[:whole]
        assert stop.offset + stop.rest == length
        assert stop.damaged == (length not in ends)


@pytest.mark.parametrize("zeros", [1, 11, 12, 13, 24, 5000])
def test_zeros_to_the_end_are_the_end(zeros: int) -> None:
    fs = disk(test=bytes_of(*ENTRIES) + bytes(zeros))
    found, stop = read(fs)
    assert found == ENTRIES
    assert (stop.blank, stop.damaged, stop.rest) == (True, False, zeros)
    write(fs, [b"more"])
    assert fs.read(PATH) == bytes_of(*ENTRIES, b"more")


def test_what_the_format_cannot_see_is_as_documented() -> None:
    """A length that becomes 0 in front of four zero bytes: an empty entry, valid as any."""
    flipped = bytearray(bytes_of(bytes(4) + b"data", b"next"))
    assert flipped[0] == 8
    flipped[0] = 0
    found, stop = read(disk(test=bytes(flipped)))
    assert found == [b""], "served, though it was never written"
    assert stop.offset == 12
    shortened = bytearray(bytes_of(b"\xff" * 20))
    shortened[0] = 4
    assert read(disk(test=bytes(shortened)))[0] == [b"\xff" * 4]


def test_damage_in_front_of_valid_entries_is_refused_and_may_be_cut() -> None:
    content = bytearray(bytes_of(*ENTRIES))
    content[9] ^= 4
    fs = disk(test=bytes(content))
    assert read(fs)[1].resumes == len(bytes_of(ENTRIES[0]))
    with pytest.raises(CwalError, match="byte 0, and a valid entry behind it at byte 17"):
        CwalWriter(fs, [PATH])
    assert fs.read(PATH) == content
    assert not fs.handles, "nothing stays open"
    writer = CwalWriter(fs, [PATH], CwalOptions(behind_damage="cut"))
    assert writer.cut_bytes == len(content)
    writer.append(b"new")
    writer.close()
    assert fs.read(PATH) == bytes_of(b"new")


def test_a_torn_tail_is_cut_before_anything_is_appended() -> None:
    content = bytes_of(*ENTRIES)
    for length in range(len(content) - 31, len(content)):
        fs = disk(test=content[:length])
        writer = CwalWriter(fs, [PATH])
        assert writer.cut_bytes == length - len(bytes_of(*ENTRIES[:3]))
        writer.append(b"again")
        writer.close()
        assert fs.read(PATH) == bytes_of(*ENTRIES[:3], b"again")


# ---- CWal's batched mode -----------------------------------------------------------------


def test_a_batch_overwrites_the_one_before_without_cutting() -> None:
    fs = CrashFilesystem()
    write(fs, [b"aaaa", b"bbbb", b"cccc", b"dddd", b"eeee"], CwalOptions(1, overwrite_every=2))
    assert fs.read(PATH) == bytes_of(b"eeee", b"dddd"), "the fifth lies over the third"


def test_the_older_batch_cannot_be_told_from_the_newer_one() -> None:
    """The mode's price, and the reason why the older batch must be needed no more."""
    fs = CrashFilesystem()
    write(fs, [b"old1", b"old2", b"old3", b"new1"], CwalOptions(1, overwrite_every=3))
    assert read(fs) == ([b"new1", b"old2", b"old3"], CwalStop(48, "", 0))
    write(fs, [b"a longer one"], CwalOptions(1, overwrite_every=3))
    found, stop = read(fs)
    assert found == [b"a longer one"]
    assert stop.damaged, "entries of other sizes leave what looks like damage"


def test_syncs_are_as_many_as_asked_for() -> None:
    for options, syncs in [
        (CwalOptions(1), 10), (CwalOptions(3), 4), (CwalOptions(0), 1),
        (CwalOptions(1, 3), 10), (CwalOptions(4, 3), 3),
    ]:  # fmt: skip
        fs = CrashFilesystem()
        writer = write(fs, [b"%d" % n for n in range(10)], options)
        assert writer.syncs == syncs, options


def test_one_write_holds_what_may_be_written_together() -> None:
    fs, writes = CrashFilesystem(), 0

    def count(operation: str, path: str) -> None:
        nonlocal writes
        writes += operation == "pwritev"

    fs.before = count
    writer = CwalWriter(fs, [PATH], CwalOptions(sync_every=4, overwrite_every=6))
    writer.append_all([b"%d" % n for n in range(9)])
    assert writes == 4, "4, 2 to the start, 2 to the sync, 1"
    assert writer.offset == 3 * 13
    writer.close()


def test_numbers_below_zero_and_no_path_are_refused() -> None:
    for arguments in [(-1, 0), (0, -1)]:
        with pytest.raises(ValueError, match="0 or more"):
            CwalOptions(*arguments)
    for paths in ([], [PATH, PATH]):
        with pytest.raises(ValueError, match="each once"):
            CwalWriter(CrashFilesystem(), paths)


# ---- mirrored copies ---------------------------------------------------------------------


def test_the_good_copy_is_taken_entry_by_entry() -> None:
    """Any byte of one copy and any byte of another entry in the other copy: nothing is lost."""
    content = bytes_of(*ENTRIES)
    middle = len(bytes_of(*ENTRIES[:2]))
    for offset in range(len(content)):
        first, second = bytearray(content), bytearray(content)
        first[offset] ^= 0x10
        second[middle + 3 if offset < middle else 3] ^= 0x10
        fs = disk(test=bytes(first), b=bytes(second))
        stop = CwalStop()
        with MirrorReader(fs, COPIES[:2]) as mirror:
            assert [bytes(entry.data) for entry in mirror.entries(stop)] == ENTRIES
            assert {each.path for each in mirror.damages} == set(COPIES[:2])
            assert mirror.damaged == len(mirror.damages)
        assert stop.reason == ""


def test_what_is_damaged_in_every_copy_ends_the_reading() -> None:
    content = bytearray(bytes_of(*ENTRIES))
    content[20] ^= 1
    fs = disk(test=bytes(content), b=bytes(content))
    stop = CwalStop()
    with MirrorReader(fs, COPIES[:2]) as mirror:
        assert [bytes(entry.data) for entry in mirror.entries(stop)] == ENTRIES[:1]
    assert stop.damaged
    assert stop.offset == 17


def test_a_copy_that_is_shorter_or_gone_is_told() -> None:
    fs = disk(test=bytes_of(*ENTRIES[:2]), b=bytes_of(*ENTRIES))
    with MirrorReader(fs, COPIES) as mirror:
        assert [bytes(entry.data) for entry in mirror.entries(CwalStop())] == ENTRIES
        assert [(each.path, each.offset) for each in mirror.damages] == [
            (COPIES[2], 0), (PATH, 30), (PATH, 74),
        ]  # fmt: skip
    with pytest.raises(CwalError, match="no copy can be read"):
        MirrorReader(fs, ["/log/none.cwal"])


def test_a_length_that_became_nothing_is_not_believed_if_another_copy_says_more() -> None:
    content = bytes_of(bytes(4) + b"data", b"next")
    flipped = b"\0" + content[1:]
    with MirrorReader(disk(test=flipped, b=content), COPIES[:2]) as mirror:
        found = [bytes(entry.data) for entry in mirror.entries(CwalStop())]
        assert found == [bytes(4) + b"data", b"next"]
        assert [each.path for each in mirror.damages] == [PATH]


def test_copies_are_written_alike_and_mended_at_the_next_opening() -> None:
    fs = CrashFilesystem()
    writer = CwalWriter(fs, COPIES[:2])
    writer.append_all(ENTRIES)
    writer.close()
    fs.flip(PATH, 10)
    fs.put(COPIES[1], fs.read(COPIES[1])[:40])
    writer = CwalWriter(fs, COPIES)
    writer.append(b"five")
    writer.close()
    for path in COPIES:
        assert fs.read(path) == bytes_of(*ENTRIES, b"five"), f"{path}: the third one is new"


def test_copies_of_different_logs_are_refused() -> None:
    fs = disk(test=bytes_of(b"same", b"mine"), b=bytes_of(b"same", b"yours"))
    with pytest.raises(CwalError, match="byte 16; these are not copies of one log"):
        CwalWriter(fs, COPIES[:2])
    assert not fs.handles


def failing(fs: CrashFilesystem, wanted: str, *paths: str) -> None:
    def before(operation: str, path: str) -> None:
        if operation == wanted and path in paths:
            raise OSError(5, "Input/output error")

    fs.before = before


@pytest.mark.parametrize("operation", ["pwritev", "datasync"])
def test_a_copy_that_fails_is_lost_and_the_others_go_on(operation: str) -> None:
    fs = CrashFilesystem()
    writer = CwalWriter(fs, COPIES)
    writer.append(b"one")
    failing(fs, operation, COPIES[1])
    writer.append(b"two")
    assert [(each.path, each.reason) for each in writer.lost] == [(COPIES[1], "Input/output error")]
    failing(fs, operation, *COPIES)
    with pytest.raises(PoisonedLogError, match="no copy is left"):
        writer.append(b"three")
    with pytest.raises(PoisonedLogError):
        writer.append(b"four")
    writer.abort()


def test_a_full_disk_refuses_and_nothing_counts_as_appended() -> None:
    fs = CrashFilesystem()
    writer = CwalWriter(fs, COPIES[:2])
    writer.append(b"one")
    fs.capacity = 50
    with pytest.raises(DiskFullError, match="nothing was appended"):
        writer.append(b"x" * 40)
    assert writer.offset == 15
    fs.capacity = None
    writer.append(b"two")
    writer.close()
    assert read(fs)[0] == [b"one", b"two"]


# ---- asynchronous appends ----------------------------------------------------------------


def test_asynchronous_appends_are_durable_when_their_handles_say_so() -> None:
    fs = CrashFilesystem()
    writer = AsyncCwalWriter(fs, COPIES[:2])
    handles = [writer.append(b"%d" % n * 30) for n in range(200)]
    offsets = [handle.wait(20) for handle in handles]
    assert writer.writer.syncs <= 200
    writer.close()
    assert [entry.offset for entry in read_entries(fs.open_read(PATH), CwalStop())] == offsets
    assert (
        fs.names[PATH].durable
        == fs.names[COPIES[1]].durable
        == bytes_of(*[b"%d" % n * 30 for n in range(200)])
    )


def blocked(fs: CrashFilesystem) -> tuple[threading.Event, threading.Event]:
    """Hold the next sync; return what says that it began, and what lets it go on."""
    began, go = threading.Event(), threading.Event()

    def before(operation: str, path: str) -> None:
        if operation == "datasync":
            began.set()
            assert go.wait(20)

    fs.before = before
    return began, go


def test_what_gathers_during_a_sync_shares_the_next_one() -> None:
    fs = CrashFilesystem()
    writer = AsyncCwalWriter(fs, [PATH])
    began, go = blocked(fs)
    first = writer.append(b"first")
    assert began.wait(20)
    rest = [writer.append(b"%d" % n) for n in range(50)]
    assert not first.done
    go.set()
    assert [handle.wait(20) >= 0 for handle in rest] == [True] * 50
    assert writer.writer.syncs == 2
    writer.close()


def test_an_asynchronous_writer_overwrites_too() -> None:
    fs = CrashFilesystem()
    writer = AsyncCwalWriter(fs, [PATH], CwalOptions(overwrite_every=2))
    began, go = blocked(fs)
    handles = [writer.append(b"%d" % n) for n in range(5)]
    assert began.wait(20)
    go.set()
    assert [handle.wait(20) for handle in handles] == [0, 13, 0, 13, 0]
    writer.close()
    assert fs.read(PATH) == bytes_of(b"4", b"3")


def test_after_a_failed_sync_every_handle_ends_with_it_and_nothing_more_is_taken() -> None:
    fs = CrashFilesystem()
    writer = AsyncCwalWriter(fs, [PATH])
    began, go = blocked(fs)
    first = writer.append(b"first")
    assert began.wait(20)
    second = writer.append(b"second")
    failing(fs, "pwritev", PATH)
    go.set()
    assert first.wait(20) == 0
    with pytest.raises(PoisonedLogError):
        second.wait(20)
    with pytest.raises(PoisonedLogError):
        writer.append(b"third")
    writer.close()


def test_what_waits_is_bounded_and_a_closed_writer_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wal.cwal_writer.QUEUED_BYTES_MAX", 100)
    fs = CrashFilesystem()
    writer = AsyncCwalWriter(fs, [PATH])
    began, go = blocked(fs)
    handle = writer.append(b"x" * 200)
    assert began.wait(20)
    with pytest.raises(DiskFullError, match="wait for the disk already"):
        writer.append(b"y")
    with pytest.raises(TimeoutError):
        handle.wait(0)
    with pytest.raises(CwalError):
        writer.append(b"")
    go.set()
    writer.close()
    assert handle.done
    with pytest.raises(ClosedLogError):
        writer.append(b"z")


# ---- mapped ------------------------------------------------------------------------------


def test_a_mapped_file_reads_as_any_other_and_by_offset(tmp_path: Path) -> None:
    path = tmp_path / "mapped.cwal"
    path.write_bytes(bytes_of(*ENTRIES) + b"torn")
    stop, offsets = CwalStop(), []
    with MappedReader(str(path)) as reader:
        assert len(reader) == path.stat().st_size
        for entry, wanted in zip(reader.entries(stop), ENTRIES, strict=True):
            assert entry.data == wanted
            offsets.append(entry.offset)
            del entry
        assert stop.damaged
        assert bytes(reader.entry(offsets[2])) == ENTRIES[2]
        with pytest.raises(CwalError, match="byte 1:"):
            reader.entry(1)


def test_an_empty_file_can_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "empty.cwal"
    path.touch()
    stop = CwalStop(offset=9)
    with MappedReader(str(path)) as reader:
        assert list(reader.entries(stop)) == []
    assert (stop.offset, stop.reason) == (0, "")


def test_a_real_file_is_written_and_read(tmp_path: Path) -> None:
    paths = [f"{tmp_path}/a.cwal", f"{tmp_path}/b.cwal"]
    writer = CwalWriter(OsFilesystem(), paths, CwalOptions(2))
    writer.append_all(ENTRIES)
    writer.close()
    assert {Path(path).read_bytes() for path in paths} == {bytes_of(*ENTRIES)}


# ---- crashes -----------------------------------------------------------------------------


def crashed(seed: int, lies: bool = False) -> Callable[[], None]:
    """One life of two copies that ends in a power cut; what is checked at the next opening."""
    rng = random.Random(seed)
    fs = CrashFilesystem()
    fs.lies = lies
    options = CwalOptions(rng.choice([1, 1, 3]), behind_damage="cut")
    paths = COPIES[: rng.choice([1, 2])]
    writer = CwalWriter(fs, paths, options)
    left = rng.randint(1, 60)

    def cut(operation: str, path: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise PowerCut

    submitted: list[bytes] = []
    acked = 0
    fs.before = cut
    try:
        while True:
            part = [rng.randbytes(rng.choice([1, 40, 700])) for _ in range(rng.choice([1, 2, 5]))]
            submitted += part
            writer.append_all(part)
            if not writer._since_sync:
                acked = len(submitted)
    except PowerCut:
        fs.power_cut(rng)

    def check() -> None:
        again = CwalWriter(fs, paths, options)
        again.append(b"after the crash")
        again.close()
        for path in paths:
            found, stop = read(fs, path)
            assert not stop.reason
            assert found[-1] == b"after the crash"
            assert found[:-1] == submitted[: len(found) - 1], f"seed {seed}"
            assert len(found) - 1 >= acked, f"seed {seed}: {len(found) - 1} of {acked}"

    return check


def test_what_was_synced_survives_power_cuts() -> None:
    for seed in range(300):
        crashed(seed)()


def test_without_syncs_that_hold_entries_are_lost_and_the_check_sees_it() -> None:
    lost = 0
    for seed in range(60):
        try:
            crashed(seed, lies=True)()
        except AssertionError:
            lost += 1
        except FileNotFoundError:
            lost += 1
    assert lost > 30
