"""Between our logs and CWal files: both ways, nothing lost, nothing made up."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wal.model import Model, Workload
from tests.wal.support import IDENTITY, open_log
from tests.wal.test_cwal import bytes_of
from wal import OsFilesystem, RecordHeader, Recovered, batch_record, hard_state_record
from wal.compression import Codec, compress
from wal.convert import FOREIGN_OWNER, from_cwal, is_foreign, to_cwal
from wal.cwal import CwalError, CwalStop
from wal.cwal_reader import read_file
from wal.errors import CorruptLogError
from wal.excerpt import records_of, state_of
from wal.frame import Kind, record_of
from wal.recovery import recover

FS = OsFilesystem()
ENTRIES = [b"one", b"two", b"\0" * 300, b"x" * 5000]
many = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def entries_of(path: Path) -> list[bytes]:
    stop = CwalStop()
    found = [bytes(entry.data) for entry in read_file(FS, str(path), stop)]
    assert not stop.reason
    return found


def bytes_in(directory: Path) -> list[tuple[bytes, bytes]]:
    """Every record that is live in a log, by no code of `wal.convert`."""
    found = recover(FS, str(directory))
    records = records_of(FS, str(directory), found.groups)
    return [(record.header, bytes(record.body)) for record in records]


def a_log(directory: Path, seed: int) -> Recovered:
    """A log of several groups, segments, cuts, releases and copies."""
    rng, model = random.Random(seed), Model()
    workload = Workload(rng, rng.choice([1, 3]))
    log, _ = open_log(directory=directory)
    for _ in range(rng.choice([1, 10, 60])):
        log.append(workload.append(model))
        if rng.random() < 0.2 and (again := workload.again(model)):
            log.append_again(again)
    log.abort()
    return recover(FS, str(directory))


@pytest.mark.parametrize("seed", range(25))
def test_a_log_becomes_a_file_and_the_same_log_again(tmp_path: Path, seed: int) -> None:
    found = a_log(tmp_path / "log", seed)
    done = to_cwal(FS, f"{tmp_path}/log", f"{tmp_path}/f.cwal")
    assert done.shape == "records"
    back = from_cwal(FS, [f"{tmp_path}/f.cwal"], f"{tmp_path}/back")
    assert (back.sha256, back.entries, back.left_out) == (done.sha256, done.entries, "")
    again = recover(FS, f"{tmp_path}/back")
    assert again.identity == IDENTITY
    assert again.sealed
    assert state_of(again) == state_of(found)
    assert bytes_in(tmp_path / "back") == bytes_in(tmp_path / "log"), "batches verbatim"
    to_cwal(FS, f"{tmp_path}/back", f"{tmp_path}/g.cwal")
    assert (tmp_path / "g.cwal").read_bytes() == (tmp_path / "f.cwal").read_bytes()


@many
@given(entries=st.lists(st.binary(max_size=2000), max_size=30))
def test_a_foreign_file_becomes_a_log_and_the_same_file_again(
    tmp_path_factory: pytest.TempPathFactory, entries: list[bytes]
) -> None:
    while entries and not entries[-1]:
        entries.pop()  # empty entries at the end are zeros to the end
    place = tmp_path_factory.mktemp("foreign")
    (place / "f.cwal").write_bytes(bytes_of(*entries))
    done = from_cwal(FS, [f"{place}/f.cwal"], f"{place}/log")
    assert (done.shape, done.entries) == ("entries", len(entries))
    found = recover(FS, f"{place}/log")
    assert is_foreign(found)
    assert found.identity == FOREIGN_OWNER
    to_cwal(FS, f"{place}/log", f"{place}/g.cwal")
    assert (place / "g.cwal").read_bytes() == bytes_of(*entries)


def test_many_entries_become_batches_of_a_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wal.convert.BATCH_ENTRIES_MAX", 100)
    monkeypatch.setattr("wal.convert.BATCH_BYTES", 5_000)
    entries = [b"%d" % n * 20 for n in range(1_000)] + [b"y" * 9_000]
    (tmp_path / "f.cwal").write_bytes(bytes_of(*entries))
    from_cwal(FS, [f"{tmp_path}/f.cwal"], f"{tmp_path}/log")
    refs = recover(FS, f"{tmp_path}/log").groups[0].batches
    assert max(ref.count for ref in refs) == 100
    assert [ref.size for ref in refs if ref.size > 5_400] == [9_004]
    to_cwal(FS, f"{tmp_path}/log", f"{tmp_path}/g.cwal")
    assert entries_of(tmp_path / "g.cwal") == entries


def test_zeros_at_the_end_of_a_file_are_left_out_and_told(tmp_path: Path) -> None:
    (tmp_path / "f.cwal").write_bytes(bytes_of(*ENTRIES) + bytes(100))
    done = from_cwal(FS, [f"{tmp_path}/f.cwal"], f"{tmp_path}/log")
    assert done.entries == len(ENTRIES)
    assert done.left_out.startswith("100 bytes from byte")


@pytest.mark.parametrize("codec", [Codec.LZ4, Codec.ZSTD], ids=lambda codec: codec.name)
def test_the_entries_of_one_group_are_its_data_decompressed(tmp_path: Path, codec: Codec) -> None:
    plain = [b"a line of text " * 20] * 5
    record = batch_record(2, 1, 1, plain)
    stored = compress(codec, record.body)
    assert stored is not None
    header = RecordHeader(Kind.BATCH, 2, 5, 1, 1, flags=int(codec))
    log, _ = open_log(directory=tmp_path / "log")
    log.append([record_of(header, stored), batch_record(2, 1, 6, [b"plain"])])
    log.append([batch_record(0, 1, 1, [b"another group"])])
    log.abort()
    done = to_cwal(FS, f"{tmp_path}/log", f"{tmp_path}/f.cwal", group=2)
    assert done.shape == "entries"
    assert entries_of(tmp_path / "f.cwal") == [*plain, b"plain"]
    with pytest.raises(CwalError, match="no group 7 in this log; there are: 0, 2"):
        to_cwal(FS, f"{tmp_path}/log", f"{tmp_path}/g.cwal", group=7)


def flipped(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_damaged_file_is_refused_wherever_it_is_damaged(tmp_path: Path, foreign: bool) -> None:
    path = tmp_path / "f.cwal"
    if foreign:
        path.write_bytes(bytes_of(*ENTRIES))
    else:
        log, _ = open_log(directory=tmp_path / "log")
        log.append([hard_state_record(0, 2, 1), batch_record(0, 2, 1, ENTRIES[:2])])
        log.abort()
        to_cwal(FS, f"{tmp_path}/log", str(path))
    whole = path.read_bytes()
    step = 1 if len(whole) < 1000 else 41
    for number, offset in enumerate(range(0, len(whole), step)):
        flipped(path, offset)
        with pytest.raises(CwalError, match="--salvage"):
            from_cwal(FS, [str(path)], f"{tmp_path}/out{number}")
        assert not (tmp_path / f"out{number}").exists()
        path.write_bytes(whole)
    for number, length in enumerate(range(1, len(whole), step)):
        path.write_bytes(whole[:length])
        if foreign and not _cut_inside(length):
            continue
        with pytest.raises(CwalError, match="--salvage"):
            from_cwal(FS, [str(path)], f"{tmp_path}/cut{number}")


def _cut_inside(length: int) -> bool:
    return length not in {len(bytes_of(*ENTRIES[:n])) for n in range(len(ENTRIES) + 1)}


def test_salvage_takes_what_stands_before_the_damage(tmp_path: Path) -> None:
    (tmp_path / "f.cwal").write_bytes(bytes_of(*ENTRIES))
    flipped(tmp_path / "f.cwal", len(bytes_of(*ENTRIES[:2])) + 9)
    done = from_cwal(FS, [f"{tmp_path}/f.cwal"], f"{tmp_path}/log", salvage=True)
    assert done.entries == 2
    assert "CRC" in done.left_out
    a_log(tmp_path / "ours", 3)
    to_cwal(FS, f"{tmp_path}/ours", f"{tmp_path}/g.cwal")
    whole = (tmp_path / "g.cwal").read_bytes()
    (tmp_path / "g.cwal").write_bytes(whole[: len(whole) * 2 // 3])
    done = from_cwal(FS, [f"{tmp_path}/g.cwal"], f"{tmp_path}/part", salvage=True)
    found, rest = bytes_in(tmp_path / "part"), bytes_in(tmp_path / "ours")
    assert 0 < len(found) < len(rest)
    assert done.left_out


def test_copies_are_read_entry_by_entry(tmp_path: Path) -> None:
    for name, offset in [("a", 9), ("b", 30)]:
        (tmp_path / name).write_bytes(bytes_of(*ENTRIES))
        flipped(tmp_path / name, offset)
    paths = [f"{tmp_path}/a", f"{tmp_path}/b"]
    done = from_cwal(FS, paths, f"{tmp_path}/log")
    assert (done.entries, done.copies_damaged) == (len(ENTRIES), 2)
    (tmp_path / "b").write_bytes(bytes_of(b"one", b"other"))
    with pytest.raises(CwalError, match="not copies of one log"):
        from_cwal(FS, paths, f"{tmp_path}/log2")


def test_what_is_there_already_is_never_overwritten(tmp_path: Path) -> None:
    a_log(tmp_path / "log", 1)
    (tmp_path / "f.cwal").write_bytes(b"mine")
    with pytest.raises(CwalError, match="exists"):
        to_cwal(FS, f"{tmp_path}/log", f"{tmp_path}/f.cwal")
    with pytest.raises(CwalError, match="exists"):
        from_cwal(FS, [f"{tmp_path}/f.cwal"], f"{tmp_path}/log")
    assert (tmp_path / "f.cwal").read_bytes() == b"mine"
    (tmp_path / "g.cwal.partial").touch()
    with pytest.raises(CwalError, match="interrupted"):
        to_cwal(FS, f"{tmp_path}/log", f"{tmp_path}/g.cwal")


def test_a_damaged_log_is_not_converted_and_neither_is_an_empty_one(tmp_path: Path) -> None:
    log, _ = open_log(directory=tmp_path / "log")
    for index in range(1, 9):
        log.append([batch_record(0, 1, index, [b"x" * 100])])
    log.abort()
    flipped(tmp_path / "log" / "00000001.wal", 700)
    with pytest.raises(CorruptLogError):
        to_cwal(FS, f"{tmp_path}/log", f"{tmp_path}/f.cwal")
    assert not list(tmp_path.glob("f.cwal*"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CwalError, match="nothing to convert"):
        to_cwal(FS, f"{tmp_path}/empty", f"{tmp_path}/f.cwal")


def test_what_the_disk_changes_on_the_way_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: another byte is written than was meant; the CRC is right, the digest is not."""
    a_log(tmp_path / "log", 2)
    real = to_cwal.__globals__["read_file"]

    def other(fs: OsFilesystem, path: str, stop: CwalStop):
        for entry in real(fs, path, stop):
            yield entry._replace(data=b"?" + bytes(entry.data)[1:])

    with monkeypatch.context() as patch:
        patch.setattr("wal.convert.read_file", other)
        with pytest.raises(CwalError, match="other data than was meant"):
            to_cwal(FS, f"{tmp_path}/log", f"{tmp_path}/f.cwal")
    assert not (tmp_path / "f.cwal").exists()
    (tmp_path / "g.cwal").write_bytes(bytes_of(b"one", b"two"))
    monkeypatch.setattr(
        "wal.convert.batch_record",
        lambda *place: batch_record(place[0], place[1], place[2], [b"one", b"?wo"]),
    )
    with pytest.raises(CwalError, match="does not read back as what was meant"):
        from_cwal(FS, [f"{tmp_path}/g.cwal"], f"{tmp_path}/other")
    assert not (tmp_path / "other").exists()
