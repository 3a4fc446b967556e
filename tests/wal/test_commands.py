"""`raftdeck wal tail|repair|convert|cwal`, `dump --hex`, and progress: what a person sees."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.wal.support import fill_segments, open_log
from tests.wal.test_cwal import bytes_of
from tests.wal.tool import flip, run
from wal import Log, OsFilesystem, RecordHeader, batch_record, recover
from wal.compression import Codec, compress
from wal.console import Progress, WatchedFilesystem
from wal.follow import Follower, newest
from wal.frame import Kind, record_of

FS = OsFilesystem()


# ---- dump --------------------------------------------------------------------------------


def test_dump_shows_bodies_in_hexadecimal_and_as_text(node: Path) -> None:
    lines = run("dump", "--hex", "--group", 4, node).stdout.splitlines()
    assert lines[0].split()[1] == "BATCH"
    assert lines[1] == (
        "    00000000  64 00 00 00 64 00 00 00  34 2f 31 2f 31 3b 2e 2e  d...d...4/1/1;.."
    )
    assert len(lines) == 1 + 13
    document = json.loads(run("dump", "--json", "--hex", "--group", 4, node).stdout)
    (frame,) = document["frames"]
    assert bytes.fromhex(frame["body"])[8:14] == b"4/1/1;"
    assert "body" not in json.loads(run("dump", "--json", node).stdout)["frames"][0]


def test_dump_names_the_codec_of_a_compressed_body(tmp_path: Path) -> None:
    plain = batch_record(0, 1, 1, [b"the same line " * 30] * 4)
    stored = compress(Codec.ZSTD, plain.body)
    assert stored is not None
    log, _ = open_log(directory=tmp_path)
    log.append([record_of(RecordHeader(Kind.BATCH, 0, 4, 1, 1, flags=2), stored)])
    log.append([record_of(RecordHeader(Kind.BATCH, 0, 1, 1, 5, flags=9), b"?" * 8)])
    log.abort()
    lines = run("dump", tmp_path).stdout.splitlines()
    assert [line.split(maxsplit=6)[-1] for line in lines[2:]] == ["ok zstd", "ok codec 9"]
    frames = json.loads(run("dump", "--json", tmp_path).stdout)["frames"]
    assert [frame["codec"] for frame in frames] == [None, None, "zstd", "codec 9"]


def test_a_frame_that_is_damaged_shows_no_body(node: Path) -> None:
    flip(node / "wal" / "00000001.wal", 500)
    frames = json.loads(run("dump", "--json", "--hex", node).stdout)["frames"]
    assert [frame["body"] for frame in frames if not frame["ok"]] == [None]


# ---- tail --------------------------------------------------------------------------------


def test_tail_prints_the_newest_frames_of_dump(node: Path) -> None:
    whole = run("dump", node).stdout.splitlines()
    assert len(whole) > 12
    assert run("tail", node).stdout.splitlines() == whole[-10:]
    for count in (0, 1, 5, len(whole), 500):
        result = run("tail", "-n", count, node)
        assert result.stdout.splitlines() == (whole[-count:] if count else [])
        assert result.exit_code == 0
    assert run("tail", "--jsonl", "-n", 2, node).stdout.count("\n") == 2
    assert "0/1/" in run("tail", "--hex", "-n", 1, node).stdout
    group = run("tail", "-n", 100, "--group", 4, node).stdout.splitlines()
    assert group == run("dump", "--group", 4, node).stdout.splitlines()


def test_tail_shows_damage_and_an_empty_log_nothing(node: Path, tmp_path: Path) -> None:
    flip(node / "wal" / "00000002.wal", 400)
    assert "CRC" in run("tail", "-n", 50, node).stdout
    (tmp_path / "LOCK").touch()
    result = run("tail", "--idle", 0, tmp_path)
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_follower_sees_every_frame_once_while_segments_come(tmp_path: Path) -> None:
    log, _ = open_log(directory=tmp_path)
    follower = Follower(FS, str(tmp_path), None)
    seen = [sight.sequence for sight in follower.added()]
    index = 1
    for count in (1, 3, 20, 1, 40):
        index = fill_segments(log, index, count)
        seen += [sight.sequence for sight in follower.added()]
        assert list(follower.added()) == []
    log.abort()
    assert seen == list(range(len(seen)))
    assert log.head_number > 5
    assert index == 66
    assert follower.gaps == 0


def test_a_follower_begins_behind_what_was_shown_and_passes_a_clean_stop(tmp_path: Path) -> None:
    log, _ = open_log(directory=tmp_path)
    fill_segments(log, 1, 10)
    log.seal_and_close()
    shown = newest(FS, str(tmp_path), 3)
    follower = Follower(FS, str(tmp_path), shown[-1])
    assert list(follower.added()) == []
    log, _ = open_log(directory=tmp_path)
    fill_segments(log, 11, 1)
    kinds = [sight.header.kind for sight in follower.added() if sight.header]
    assert kinds == [Kind.OPEN, Kind.BATCH]
    log.abort()


def test_a_follower_that_is_too_slow_goes_on_at_the_oldest_segment(tmp_path: Path) -> None:
    """Its segments were released, and their files used again under other names."""
    log, _ = open_log(directory=tmp_path)
    index = fill_segments(log, 1, 4)
    follower = Follower(FS, str(tmp_path), None)
    assert len(list(follower.added())) > 4
    for _ in range(6):
        index = fill_segments(log, index, 8)
        log.release(0, index - 1, 1)
    index = fill_segments(log, index, 1)
    positions = [sight.position for sight in follower.added()]
    log.abort()
    assert follower.gaps == 1
    assert positions[0] >> 32 == min(recover(FS, str(tmp_path)).segments)
    assert positions == sorted(set(positions))


def test_what_is_added_while_a_segment_ends_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look at a segment and the look for the next one, both may grow."""
    log, _ = open_log(directory=tmp_path)
    fill_segments(log, 1, 3)
    follower = Follower(FS, str(tmp_path), None)
    seen = [sight.sequence for sight in follower.added()]
    real, grown = Follower._begun, list[int]()

    def begun(self: Follower, number: int) -> bool:
        if number == 2 and not grown:
            grown.append(fill_segments(log, 4, 12))
        return real(self, number)

    monkeypatch.setattr(Follower, "_begun", begun)
    seen += [sight.sequence for sight in follower.added()]
    log.abort()
    assert grown
    assert log.head_number > 1
    assert seen == list(range(len(seen)))


def writing(log: Log, stop: threading.Event) -> None:
    index = 1
    while not stop.is_set():
        index = fill_segments(log, index, 1, size=300)


def test_following_a_log_that_is_written_shows_whole_frames_only(tmp_path: Path) -> None:
    log, _ = open_log(directory=tmp_path)
    stop = threading.Event()
    thread = threading.Thread(target=writing, args=(log, stop))
    thread.start()
    try:
        follower = Follower(FS, str(tmp_path), None)
        seen: list[int | None] = []
        while len(seen) < 300:
            seen += [sight.sequence for sight in follower.added()]
    finally:
        stop.set()
        thread.join()
        log.abort()
    assert seen == list(range(len(seen)))


def test_tail_follows_until_nothing_is_added(node: Path) -> None:
    result = run("tail", "-f", "--idle", 0.3, "-n", 2, node)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2


# ---- repair ------------------------------------------------------------------------------


def test_repair_says_what_it_kept_and_where_the_original_is(node: Path) -> None:
    path = node / "wal" / "00000001.wal"
    flip(path, path.read_bytes().index(b"0/1/3;") + 100)
    damaged = path.read_bytes()
    rehearsed = run("repair", "--dry-run", node)
    assert rehearsed.exit_code == 1
    assert "lost       group 0: entries 3 to 12" in rehearsed.stdout
    assert path.read_bytes() == damaged
    result = run("repair", node)
    assert result.exit_code == 0, result.stderr
    assert "lost       group 0: entries 3 to 12" in result.stdout
    assert f"original   {node}/wal.damaged-1" in result.stdout
    assert (node / "wal.damaged-1" / "00000001.wal").read_bytes() == damaged
    assert sorted(path.name for path in node.iterdir()) == ["wal", "wal.damaged-1"]
    assert run("verify", node).exit_code == 0
    again = json.loads(run("repair", "--json", node).stdout)
    assert (again["schema"], again["damage"], again["copy"]) == ("raftdeck.wal.repair/1", "", "")


def test_a_log_in_use_is_not_repaired_and_the_error_names_who_has_it(node: Path) -> None:
    flip(node / "wal" / "00000001.wal", 500)
    lock = FS.lock(f"{node}/wal/LOCK")
    result = run("repair", node)
    lock.release()
    assert result.exit_code == 1
    assert "in use by process" in result.stderr


# ---- convert -----------------------------------------------------------------------------


def test_convert_there_and_back(node: Path, tmp_path: Path) -> None:
    there = run("convert", node, tmp_path / "f.cwal")
    assert there.exit_code == 0, there.stderr
    assert "records of a log" in there.stdout
    back = json.loads(run("convert", "--json", tmp_path / "f.cwal", tmp_path / "log").stdout)
    assert (back["schema"], back["shape"]) == ("raftdeck.wal.convert/1", "records")
    assert back["sha256"] in there.stdout
    whole = run("stat", tmp_path / "log").stdout.splitlines()[-2:]
    assert whole == run("stat", node).stdout.splitlines()[-2:]
    data = run("convert", "--group", 4, node, tmp_path / "g.cwal")
    assert "2 (entries, data only)" in data.stdout


def test_convert_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "f.cwal").write_bytes(bytes_of(b"one", b"two")[:-1])
    result = run("convert", tmp_path / "f.cwal", tmp_path / "log")
    assert result.exit_code == 1
    assert "--salvage takes what stands before it" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["f.cwal"]
    result = run("convert", "--salvage", tmp_path / "f.cwal", tmp_path / "log")
    assert result.exit_code == 0
    assert "left out   14 bytes from byte 15" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--copy", "{file}", "{node}", "{out}"], "for a CWal FILE"),
        (["--salvage", "{node}", "{out}"], "for a CWal FILE"),
        (["--group", "0", "{file}", "{out}"], "for a DIR"),
        (["{out}", "{out}"], "does not exist"),
        (["{empty}", "{out}"], "no log here"),
    ],
)
def test_wrong_use_of_convert_is_told(
    node: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    (tmp_path / "f.cwal").write_bytes(bytes_of(b"one"))
    (tmp_path / "empty").mkdir()
    places = {"file": tmp_path / "f.cwal", "node": node, "out": tmp_path / "x"}
    places["empty"] = tmp_path / "empty"
    result = run("convert", *[option.format(**places) for option in options])
    assert result.exit_code == 2
    assert words in result.stderr


# ---- CWal files --------------------------------------------------------------------------


def test_cwal_verify_judges_a_file_and_copies_of_one(tmp_path: Path) -> None:
    one, two = tmp_path / "a.cwal", tmp_path / "b.cwal"
    one.write_bytes(bytes_of(b"one", b"two", b"three"))
    two.write_bytes(one.read_bytes())
    result = run("cwal", "verify", one)
    assert result.exit_code == 0
    assert result.stdout.startswith("intact")
    assert "entries    3, 11 bytes of data" in result.stdout
    flip(one, 9)
    result = run("cwal", "verify", one)
    assert result.exit_code == 1
    assert "goes on    a valid entry follows at byte 15" in result.stdout
    flip(two, 40)
    document = json.loads(run("cwal", "verify", "--json", one, two).stdout)
    assert (document["verdict"], document["entries"]) == ("mended", 3)
    assert [each["offset"] for each in document["copies_damaged"]] == [0, 30]
    flip(one, 40)
    assert run("cwal", "verify", one, two).stdout.startswith("damaged")


def test_cwal_dump_prints_entries(tmp_path: Path) -> None:
    path = tmp_path / "a.cwal"
    path.write_bytes(bytes_of(b"one", b"\x00two", b"three") + b"torn")
    result = run("cwal", "dump", path)
    assert result.exit_code == 1
    assert "cut off" in result.stderr
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["0", "3", "one"], ["15", "4", ".two"], ["31", "5", "three"],
    ]  # fmt: skip
    assert run("cwal", "dump", "--limit", 1, path).exit_code == 0
    entry = json.loads(run("cwal", "dump", "--hex", "--jsonl", "--limit", 1, path).stdout)
    assert entry == {"byte": 0, "bytes": 3, "data": "6f6e65"}
    assert "6f 6e 65" in run("cwal", "dump", "--hex", path, path).stdout
    for verb in ("verify", "dump"):
        assert "Example:" in run("cwal", verb, "--help").stdout
        assert run("cwal", verb).exit_code == 2


# ---- progress ----------------------------------------------------------------------------


class Terminal:
    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("wal.console.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_long_work_tells_how_far_it_is_and_takes_the_line_away(
    node: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("verifying") as progress:
        progress.advance(1_000_000)
        assert terminal.text == "", "short work says nothing"
        clock[0] = 2.0
        file = WatchedFilesystem(progress).open_read(f"{node}/wal/00000001.wal")
        assert len(file.pread(100, 0)) == 100
        file.close()
        assert terminal.text.endswith("verifying: 1 MB, 1 MB/s")
        progress.advance(5_000_000)
        assert "6 MB" not in terminal.text, "not more often than five times a second"
    assert terminal.text.endswith("\r\x1b[K")
