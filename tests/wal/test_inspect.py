"""`python -m wal dump|verify|stat`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest

from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import IDENTITY, ROOT, SMALL, batch, fill_segments, open_log
from tests.wal.tool import flip, run
from wal import (
    CorruptLogError,
    Kind,
    Log,
    LogIdentity,
    OpenOptions,
    OsFilesystem,
    RecordHeader,
)
from wal.commands import wal_commands
from wal.frame import FramePrefix, encode_prefix, record_of
from wal.recovery import recover
from wal.segment import SegmentCheckpoint
from wal.survey import Snapshot, walk


def segment(node: Path, number: int) -> Path:
    return node / "wal" / f"{number:08d}.wal"


# ---- verify ------------------------------------------------------------------------------


def test_verify_says_that_a_log_is_intact_and_where_it_ends(node: Path) -> None:
    result = run("verify", node)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"intact     {node}/wal"
    assert "in 2 segments" in result.stdout
    assert result.stderr == ""
    assert run("verify", node / "wal").stdout == result.stdout, "either directory will do"


def test_verify_computes_every_checksum_with_the_reference_if_asked(node: Path) -> None:
    fast = json.loads(run("verify", "--json", node).stdout)
    reference = json.loads(run("verify", "--json", "--reference", node).stdout)
    assert (fast.pop("checksum"), reference.pop("checksum")) == ("crc32c", "crcmod")
    assert fast == reference
    flip(segment(node, 1), 3000)
    assert run("verify", "--reference", node).exit_code == 1


def test_verify_locates_damage_and_names_the_evidence(node: Path) -> None:
    flip(segment(node, 1), 10_000)
    result = run("verify", node)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == f"damaged    {node}/wal"
    assert lines[1].startswith("where      00000001.wal, byte 8")
    assert lines[2].startswith("what       body CRC (stored ")
    assert lines[3].startswith("evidence   00000002.wal, byte 0")
    document = json.loads(run("verify", "--json", node).stdout)
    assert document["verdict"] == "damaged"
    damage = document["damage"]
    assert damage["at"]["segment"] == "00000001.wal"
    assert damage["evidence"] == {"segment": "00000002.wal", "byte": 0}
    assert len(damage["stored"]) == len(damage["computed"]) == 8


def test_verify_reports_a_torn_tail_and_calls_the_log_intact(node: Path) -> None:
    end = json.loads(run("verify", "--json", node).stdout)["end"]["byte"]
    flip(segment(node, 2), end - 20)
    result = run("verify", node)
    assert result.exit_code == 0
    assert "torn tail  00000002.wal, byte " in result.stdout
    torn = json.loads(run("verify", "--json", node).stdout)["torn_tail"]
    assert torn["at"]["byte"] < end
    assert "CRC" in torn["reason"]


def test_verify_finds_any_damage_after_a_clean_stop(tmp_path: Path) -> None:
    log, _ = open_log(directory=tmp_path)
    log.append([batch(1)])
    assert log.seal_and_close()
    assert "stopped cleanly" in run("verify", tmp_path).stdout
    flip(tmp_path / "SEALED", 9)
    result = run("verify", tmp_path)
    assert result.exit_code == 1
    assert "SEALED" in result.stdout
    assert "where" not in result.stdout, "SEALED lies in no segment"
    assert run("dump", tmp_path).exit_code == 1


def test_verify_finds_a_segment_of_another_node(node: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "other"
    log, _ = open_log(directory=foreign, identity=LogIdentity(IDENTITY.cluster_id, 2))
    fill_segments(log, 1, 9)
    log.abort()
    segment(node, 2).write_bytes((foreign / "00000002.wal").read_bytes())
    result = run("verify", node)
    assert result.exit_code == 1
    assert "belongs to node n2" in result.stdout
    assert run("stat", node).exit_code == 1


def test_a_newer_format_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    body = bytearray(SegmentCheckpoint(IDENTITY, 1, 0, 0, False, ()).record().body)
    body[0] = 2
    record = record_of(RecordHeader(Kind.CHECKPOINT, base_index=1), bytes(body))
    frame = encode_prefix(FramePrefix(5, 0, 1 << 32, 96 + len(body)), record.header)
    (tmp_path / "00000001.wal").write_bytes(frame + bytes(body))
    for command in ("verify", "stat"):
        result = run(command, tmp_path)
        assert result.exit_code == 4
        assert "newer than 1" in result.stderr
        assert result.stdout == ""


# ---- dump --------------------------------------------------------------------------------


def test_dump_prints_one_line_per_frame(node: Path) -> None:
    result = run("dump", node)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["00000001.wal:0", "CHECKPOINT", "-", "0", "1", "152", "ok"]
    assert [line[1] for line in lines[:4]] == ["CHECKPOINT", "OPEN", "HARD_STATE", "BATCH"]
    assert lines[3][2:] == ["4", "1", "1-2", "304", "ok"]
    assert len(lines) == json.loads(run("verify", "--json", node).stdout)["frames"]


def test_dump_chooses_by_group_place_and_number(node: Path) -> None:
    def positions(*arguments: object) -> list[str]:
        return [line.split()[0] for line in run("dump", *arguments, node).stdout.splitlines()]

    assert len(positions("--group", 4)) == 1
    assert len(positions("--group", 0, "--limit", 5)) == 5
    assert positions("--from", "2")[0] == "00000002.wal:0"
    assert positions("--from", "00000002.wal:0") == positions("--from", "2:0")
    second = positions("--from", "2")[1]
    assert positions("--from", second)[0] == second
    assert positions("--from", "99") == []


def test_dump_goes_on_behind_damage(node: Path) -> None:
    whole = run("dump", node).stdout.splitlines()
    flip(segment(node, 1), 9000)  # a body
    flip(segment(node, 1), 26_000)  # another
    start = int(whole[8].split()[0].split(":")[1])
    flip(segment(node, 1), start + 3)  # a uid
    result = run("dump", node)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert len(lines) == len(whole)
    broken = [line for line in lines if not line.endswith(" ok")]
    assert len(broken) == 3
    assert broken[0].split()[1] == "BATCH", "its header still holds"
    assert "body CRC" in broken[0]
    assert "frame CRC" in broken[2]
    assert broken[2].split()[1] == "-"
    document = json.loads(run("dump", "--json", node).stdout)
    assert [frame["ok"] for frame in document["frames"]].count(False) == 3
    assert all(frame["proved"] for frame in document["frames"] if not frame["ok"])


def test_dump_reads_a_segment_whose_checkpoint_is_damaged(node: Path) -> None:
    whole = run("dump", node).stdout.splitlines()
    for number in (1, 2):
        flip(segment(node, number), 50)
    lines = run("dump", node).stdout.splitlines()
    assert [line for line in lines if line.endswith("ok")] == [
        line for line in whole if "CHECKPOINT" not in line
    ]


def test_dump_shows_a_torn_tail_and_calls_it_no_damage(node: Path) -> None:
    end = json.loads(run("verify", "--json", node).stdout)["end"]["byte"]
    flip(segment(node, 2), end - 20)
    result = run("dump", node)
    assert result.exit_code == 0
    assert "CRC" in result.stdout.splitlines()[-1]


def test_dump_does_not_show_what_an_earlier_use_left_in_a_recycled_file(tmp_path: Path) -> None:
    log, _ = open_log(directory=tmp_path)
    fill_segments(log, 1, 17)
    log.release(0, 16, 1)
    fill_segments(log, 18, 9)
    newest = log.stats().head >> 32
    log.abort()
    assert newest == 4
    lines = run("dump", "--from", newest, tmp_path).stdout.splitlines()
    assert [line.split()[4] for line in lines] == ["4", "25", "26"]


# ---- stat --------------------------------------------------------------------------------


def test_stat_says_whose_log_it_is_and_what_is_in_it(node: Path) -> None:
    result = run("stat", node)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"owner      n3 of cluster {IDENTITY.cluster_id.hex()}\n")
    assert "group 4    term 0, vote 0, released 0, last 2, 1 batches, 208 bytes" in result.stdout
    document = json.loads(run("stat", "--json", node).stdout)
    assert document["schema"] == "raftdeck.wal.stat/1"
    assert document["segments"] == 2
    assert document["segment_bytes"] == sum(
        path.stat().st_size for path in (node / "wal").glob("*.wal")
    )
    assert document["groups"][0] == {
        "group": 0,
        "term": 3,
        "vote": 1,
        "released": 0,
        "last": 12,
        "batches": 10,
        "bytes": 9 * 8004 + 3 * 104,
    }


def test_an_empty_log_is_intact(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_text("1\n")
    assert "frames     0 in 0 segments" in run("verify", tmp_path).stdout
    assert run("stat", tmp_path).exit_code == 0
    assert run("dump", tmp_path).stdout == ""


# ---- usage -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["dump", "verify", "stat"])
def test_a_place_without_a_log_is_a_usage_error(command: str, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        result = run(command, place)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert str(place) in result.stderr


def test_a_wrong_position_names_the_right_form(node: Path) -> None:
    for place in ("x", "1:2:3", "-1", f"1:{1 << 32}"):
        result = run("dump", f"--from={place}", node)
        assert result.exit_code == 2
        assert "SEGMENT:BYTE" in result.stderr


def test_every_help_has_an_example() -> None:
    assert "Example:\n    raftdeck wal " in run("--help").stdout
    assert isinstance(wal_commands, click.Group)
    for name in wal_commands.commands:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert f"Example:\n    raftdeck wal {name} " in result.stdout


def test_the_module_runs_by_itself_and_leaves_the_log_alone(node: Path) -> None:
    before = {path.name: path.read_bytes() for path in (node / "wal").iterdir()}
    answer = subprocess.run(
        [sys.executable, "-m", "wal", "verify", str(node)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("intact")
    assert {path.name: path.read_bytes() for path in (node / "wal").iterdir()} == before


# ---- a log that is being written ---------------------------------------------------------


def test_a_log_is_verified_while_its_node_writes_it(tmp_path: Path) -> None:
    log, _ = Log.open(OsFilesystem(), str(tmp_path), IDENTITY, OpenOptions(SMALL))
    stop = threading.Event()
    written = threading.Event()

    def write() -> None:
        index = 1
        while not stop.is_set():
            log.append([batch(index, size=500)]).wait(20)
            index += 1
            if index == 50:
                written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(20)
        for _ in range(10):
            result = run("verify", tmp_path)
            assert result.exit_code == 0, result.stdout
            assert run("dump", tmp_path).exit_code == 0
    finally:
        stop.set()
        writer.join(20)
        log.abort()


class Growing(CrashFilesystem):
    """A log that grows between any two reads of its reader."""

    def __init__(self) -> None:
        super().__init__()
        self.log: Log | None = None
        self.index = 1

    def grow(self) -> None:
        log, self.log = self.log, None
        if log is not None:
            for _ in range(3):
                log.append([batch(self.index, size=900)])
                self.index += 1
            self.log = log

    def open_read(self, path: str):
        file = super().open_read(path)
        real = file.pread

        def pread(length: int, offset: int) -> bytes:
            data = real(length, offset)
            self.grow()
            return data

        file.pread = pread  # type: ignore[method-assign]  # one reader's view only
        return file


def test_frames_that_are_written_meanwhile_are_not_mistaken_for_damage() -> None:
    fs = Growing()
    log, _ = open_log(fs)
    fs.log = log
    fs.grow()
    with pytest.raises(CorruptLogError):
        recover(fs, "/log")  # without the snapshot: the control
    for _ in range(20):
        found = recover(Snapshot(fs, "/log"), "/log")
        assert found.groups[0].batches
        assert not any(sight.proved for sight in walk(Snapshot(fs, "/log"), "/log"))
