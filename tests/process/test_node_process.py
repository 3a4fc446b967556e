"""One real node process, from its first line to its exit code (ARCHITECTURE §9).

What a failing or full disk makes of it: `test_node_disk.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.processes import module_environment
from node.config import LANES
from node.exits import NodeExit
from tests.process.hand import (
    PLANTED,
    Hand,
    Start,
    ask,
    config_for,
    get,
    kill,
    put,
    refused,
    segment_of,
    stop,
    wait_for_end,
)
from wal.checksum import crc32c

# --- clean stops ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_a_node_cleanly(start: Start, number: signal.Signals) -> None:
    hand = start().ready()
    assert hand.sockets == sorted(f"n1.{lane}" for lane in LANES)
    put(hand, b"k", b"kept")
    began = time.monotonic()
    hand.process.send_signal(number)  # type: ignore[union-attr]  # it was started
    assert hand.wait() == 0
    assert time.monotonic() - began < 5
    assert hand.sockets == []
    assert (hand.config.wal_dir / "SEALED").is_file()
    assert hand.errors() == []
    if number == signal.SIGTERM:
        again = start().ready()
        assert any("after a clean stop" in line for line in again.words())
        assert get(again, b"k") == b"kept"


def test_the_admin_verb_stop_is_answered_and_then_done(start: Start) -> None:
    hand = start().ready()
    reply = ask(hand.config, "stop")
    assert (reply.ok, reply.payload) == (True, "stopping")
    assert hand.wait() == 0
    assert (hand.config.wal_dir / "SEALED").is_file()
    assert hand.sockets == []


def test_the_end_of_the_lifeline_stops_a_node_cleanly(start: Start) -> None:
    hand = start().ready()
    hand.cut_lifeline()
    assert hand.wait() == 0
    assert (hand.config.wal_dir / "SEALED").is_file()
    assert hand.sockets == []


def test_two_signals_at_once_are_one_clean_stop(start: Start) -> None:
    hand = start().ready()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
        hand.process.send_signal(number)  # type: ignore[union-attr]  # it was started
    assert hand.wait() == 0
    assert hand.errors() == []


def test_a_killed_node_comes_back_with_everything_acknowledged(start: Start) -> None:
    hand = start().ready()
    with hand.client() as client:
        futures = [client.put_nowait(b"f%d" % n, b"x") for n in range(500)]
        assert all(future.result(10).code == 0 for future in futures)
    hand.process.kill()  # type: ignore[union-attr]  # it was started
    assert hand.wait() == -signal.SIGKILL
    again = start().ready()
    assert any("after no clean stop" in line for line in again.words())
    assert get(again, b"f499") == b"x"
    assert again.status()["incarnation"] == 2


# --- the parent's death ---------------------------------------------------------------


def under_a_foster_parent(hand: Hand, lifeline: int) -> tuple[subprocess.Popen[str], int, int]:
    """Start the node under another process; return that, the node's pid and a pidfd of it."""
    command = [sys.executable, str(PLANTED / "foster_parent.py")]
    with hand.output.open("ab") as output:
        parent = subprocess.Popen(
            [*command, *hand.command("PARENT", lifeline)],
            stdout=subprocess.PIPE,
            stderr=output,
            pass_fds=[lifeline],
            env=module_environment(),
            text=True,
        )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    return parent, pid, os.pidfd_open(pid)


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
def test_a_node_dies_with_its_parent_even_when_frozen(desk: Path, frozen: bool) -> None:
    """The lifeline stays open here: it is the kernel's parent-death signal that does it."""
    hand = Hand(config_for(desk))
    read_end, write_end = os.pipe()
    parent, pid, pidfd = under_a_foster_parent(hand, read_end)
    try:
        assert hand.status()["pid"] == pid
        if frozen:
            os.kill(pid, signal.SIGSTOP)
            wait_until_stopped(pid)
        parent.kill()
        parent.wait()
        wait_for_end(pid, pidfd)
    finally:
        for descriptor in (read_end, write_end, pidfd):
            os.close(descriptor)
        assert parent.stdout is not None
        parent.stdout.close()


def wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline


def test_a_node_whose_parent_is_another_does_nothing(desk: Path) -> None:
    hand = Hand(config_for(desk))
    done = subprocess.run(
        hand.command("1", None),
        env=module_environment(),
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    if os.getppid() == 1 and os.getpid() == 1:
        pytest.skip("this test is process 1 itself")
    assert done.returncode == 0
    assert b"process 1 is not the parent" in done.stderr
    assert not hand.config.data_dir.exists()
    assert hand.sockets == []


# --- 64: usage ------------------------------------------------------------------------


def run_node(*arguments: str, **extra) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "node", *arguments],
        env=module_environment(),
        capture_output=not extra,
        text=True,
        timeout=30,
        check=False,
        **extra,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--config"),
        (["--config"], "expected one argument"),
        (["--config", "/nowhere/node.json"], "/nowhere/node.json: No such file"),
        (["--config", "/dev/null", "--parent-pid", "x"], "invalid int"),
        (["--config", "/dev/null", "--lifeline-fd", "777"], "777: no open descriptor"),
        (["--config", "/dev/null"], "not JSON"),
        (["--config", "/dev/null", "--fast"], "--fast"),
    ],
)
def test_wrong_usage_is_64_and_one_line(arguments: list[str], words: str) -> None:
    done = run_node(*arguments)
    assert done.returncode == NodeExit.USAGE
    [line] = done.stderr.splitlines()
    assert "error: " in line
    assert words in line


def test_a_line_that_cannot_be_written_does_not_change_how_a_node_ends() -> None:
    """Its output is a file, and the disk may be full."""
    with open("/dev/full", "w") as full:
        done = run_node("--config", "/nowhere/node.json", stderr=full, stdout=full)
    assert done.returncode == NodeExit.USAGE


# --- refusals: the data directory stays as it is --------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data directory is kept that tests spoil a copy of."""
    return tmp_path_factory.mktemp("template") / "n1"


@pytest.fixture
def filled(start: Start, desk: Path, template: Path) -> Hand:
    """A node with some data that was stopped cleanly."""
    hand = Hand(config_for(desk))
    if template.exists():
        hand.config.data_dir.parent.mkdir()
        shutil.copytree(template, hand.config.data_dir)
        return hand
    first = start().ready()
    for number in range(5):
        put(first, b"key %d" % number, b"value %d " % number * 300)
    stop(first)
    first.output.unlink()
    shutil.copytree(hand.config.data_dir, template)
    return hand


def test_a_damaged_segment_is_65_and_named_with_the_byte(start: Start, filled: Hand) -> None:
    segment = segment_of(filled)
    data = bytearray(segment.read_bytes())
    place = data.index(b"value 2 ") + 5
    data[place] ^= 1
    segment.write_bytes(data)
    before = filled.hashes()
    line = refused(start(), 65, "00000001.wal", "byte", "raftdeck wal verify")
    named = int(line.split("byte ")[1].split(":")[0].split()[0])
    assert named <= place < named + 4_096, "the byte of the frame that holds the damage"
    assert filled.hashes() == before


def test_a_damaged_segment_of_a_killed_node_is_65_too(start: Start) -> None:
    """Frames behind it prove that it was durable: no torn tail."""
    hand = start().ready()
    for number in range(5):
        put(hand, b"key %d" % number, b"value %d " % number * 300)
    kill(hand)
    segment = segment_of(hand)
    data = bytearray(segment.read_bytes())
    data[data.index(b"value 1 ")] ^= 1
    segment.write_bytes(data)
    before = hand.hashes()
    refused(start(), 65, "00000001.wal", "proved durable by")
    assert hand.hashes() == before


def test_a_torn_tail_is_cut_and_said(start: Start) -> None:
    hand = start().ready()
    put(hand, b"k", b"kept")
    kill(hand)
    segment = segment_of(hand)
    end = len(segment.read_bytes().rstrip(b"\0"))
    with segment.open("r+b") as file:
        file.seek(end + 8 - end % 8)
        file.write(b"torn" * 50)
    again = start().ready()
    assert any("torn tail" in line and "byte" in line for line in again.words())
    assert get(again, b"k") == b"kept"


def test_the_directory_of_another_cluster_is_78(start: Start, desk: Path, filled: Hand) -> None:
    before = filled.hashes()
    foreign = replace(config_for(desk), cluster_id="ee" * 16)
    refused(start(foreign), 78, str(filled.config.data_dir), "belongs to cluster", "of its own")
    assert filled.hashes() == before


def test_the_directory_of_another_node_is_78(start: Start, desk: Path, filled: Hand) -> None:
    before = filled.hashes()
    other = replace(config_for(desk, 2, (1, 2)), data_dir=filled.config.data_dir)
    refused(start(other), 78, "belongs to node n1, not to n2", "put the node directories back")
    assert filled.hashes() == before


def test_a_log_without_an_identity_is_78(start: Start, filled: Hand) -> None:
    (filled.config.data_dir / "IDENTITY.json").unlink()
    before = filled.hashes()
    refused(start(), 78, "IDENTITY.json", "restore that file")
    assert filled.hashes() == before


def test_a_log_of_another_cluster_under_the_right_identity_is_78(
    start: Start, desk: Path, filled: Hand
) -> None:
    """Somebody copied the `wal` directory: the segments say whose they are."""
    document = json.loads((filled.config.data_dir / "IDENTITY.json").read_text())
    document["cluster_id"] = "ee" * 16
    (filled.config.data_dir / "IDENTITY.json").write_text(json.dumps(document))
    before = filled.hashes()
    refused(start(replace(config_for(desk), cluster_id="ee" * 16)), 78, str(filled.config.wal_dir))
    assert filled.hashes() == before


def test_a_newer_identity_is_76(start: Start, filled: Hand) -> None:
    path = filled.config.data_dir / "IDENTITY.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    before = filled.hashes()
    refused(start(), 76, str(path), "format 9 is newer", "update raftdeck")
    assert filled.hashes() == before


def test_a_newer_record_is_76(start: Start, filled: Hand) -> None:
    segment = segment_of(filled)
    data = bytearray(segment.read_bytes())
    data[32 + 4] = 9  # the version of the first record; both CRCs are made to hold
    struct.pack_into("<I", data, 32 + 60, crc32c(bytes(data[32:92])))
    struct.pack_into("<I", data, 28, crc32c(bytes(data[32:96]), crc32c(bytes(data[:28]))))
    segment.write_bytes(data)
    before = filled.hashes()
    refused(start(), 76, "newer", "update raftdeck")
    assert filled.hashes() == before


def test_a_newer_configuration_is_76(desk: Path) -> None:
    hand = Hand(config_for(desk))
    hand.path.write_text(hand.path.read_text().replace('"format": 1', '"format": 9'))
    done = run_node("--config", str(hand.path))
    assert done.returncode == 76
    assert str(hand.path) in done.stderr


def test_a_directory_in_use_is_75_and_its_user_goes_on(start: Start, desk: Path) -> None:
    hand = start().ready()
    put(hand, b"k", b"v1")
    run = desk / "other"
    run.mkdir()
    second = start(replace(config_for(desk), run_dir=run))
    line = refused(second, 75, str(hand.config.wal_dir), "stop it first")
    assert str(hand.process.pid) in line  # type: ignore[union-attr]  # it was started
    put(hand, b"k", b"v2")
    assert get(hand, b"k") == b"v2"
    assert hand.sockets == sorted(f"n1.{lane}" for lane in LANES)


def plain_file(hand: Hand) -> None:
    hand.config.data_dir.parent.mkdir()
    hand.config.data_dir.write_text("a file")


def wal_is_a_file(hand: Hand) -> None:
    hand.config.data_dir.mkdir(parents=True)
    hand.config.wal_dir.write_text("a file")


def no_run_dir(hand: Hand) -> None:
    hand.config.run_dir.rmdir()


def lane_is_a_directory(hand: Hand) -> None:
    (hand.config.run_dir / "n1.client").mkdir()


def bad_incarnation(hand: Hand) -> None:
    hand.config.data_dir.mkdir(parents=True)
    (hand.config.data_dir / "INCARNATION").write_text("-5\n")


def huge_incarnation(hand: Hand) -> None:
    hand.config.data_dir.mkdir(parents=True)
    (hand.config.data_dir / "INCARNATION").write_text("9" * 30)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (plain_file, ["data directory", "check its owner, mode and free space"]),
        (wal_is_a_file, ["wal", "check its owner, mode and free space"]),
        (no_run_dir, ["n1.control", "check the run directory"]),
        (bad_incarnation, ["INCARNATION", "write a number into it"]),
        (huge_incarnation, ["INCARNATION", "write a number into it"]),
    ],
)
def test_a_directory_that_cannot_be_used_is_73(
    desk: Path, spoil: Callable[[Hand], None], words: list[str]
) -> None:
    hand = Hand(config_for(desk))
    spoil(hand)
    try:
        refused(hand.start(), 73, *words)
    finally:
        hand.close()


def test_a_lane_that_cannot_be_bound_is_73_and_leaves_no_other_lane_behind(desk: Path) -> None:
    hand = Hand(config_for(desk))
    lane_is_a_directory(hand)
    try:
        hand.start()
        assert hand.wait() == 73
        [line] = hand.errors()
        assert "n1.client" in line
        assert "check the run directory" in line
        assert hand.sockets == ["n1.client"], "the directory itself"
    finally:
        hand.close()


def test_a_run_directory_too_long_for_sockets_is_73(desk: Path) -> None:
    run = desk / ("x" * 100)
    run.mkdir()
    hand = Hand(replace(config_for(desk), run_dir=run))
    hand.path = desk / "node.json"
    hand.path.write_text(hand.config.to_json())
    try:
        refused(hand.start(), 73, "n1.control", "check the run directory")
    finally:
        hand.close()


def test_a_peers_socket_path_may_be_the_one_that_is_too_long(desk: Path) -> None:
    """Our own fits, that of node 10 is longer by one."""
    base = config_for(desk, 1, (1, 1_000_000_000))
    room = 107 - len(str(desk)) - len("//n1.control")
    run = desk / ("x" * room)
    run.mkdir()
    hand = Hand(replace(base, run_dir=run))
    try:
        refused(hand.start(), 73, str(run), "check the run directory")
    finally:
        hand.close()


def test_a_copied_directory_of_a_dead_node_starts_elsewhere(
    start: Start, desk: Path, filled: Hand
) -> None:
    """Nothing in it names a path."""
    elsewhere = desk / "elsewhere"
    shutil.copytree(filled.config.data_dir, elsewhere)
    again = start(replace(config_for(desk), data_dir=elsewhere)).ready()
    assert get(again, b"key 4") == b"value 4 " * 300


def test_a_snapshot_directory_that_is_none_is_73(start: Start, filled: Hand) -> None:
    shutil.rmtree(filled.config.data_dir / "snap")
    (filled.config.data_dir / "snap").write_text("a file")
    refused(start(), 73, "snap", "check its owner, mode and free space")
