"""One real node process over a disk that fails or is full, and from a damaged snapshot."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cluster.client import ClientError, DefiniteError, IndefiniteError
from tests.process.hand import Hand, Start, get, kill, put, refused, segment_of, stop

# --- 74 and a full disk ---------------------------------------------------------------


def test_a_failed_fsync_is_74_and_nothing_of_it_was_acknowledged(start: Start, desk: Path) -> None:
    flag = desk / "fail"
    hand = start(module="failing_disk_node", fail_flag=str(flag)).ready()
    with hand.client(2.0) as client:
        client.put(b"k", b"acknowledged")
        flag.touch()
        with pytest.raises(IndefiniteError):  # it may have been written
            client.put(b"k", b"never")
    refused(hand, 74, "00000001.wal", "Input/output error", "check the disk")
    flag.unlink()
    again = start().ready()
    assert get(again, b"k") in (b"acknowledged", b"never")


def test_an_fsync_that_fails_at_the_stop_is_74_too(start: Start, desk: Path) -> None:
    flag = desk / "fail"
    hand = start(module="failing_disk_node", fail_flag=str(flag)).ready()
    flag.touch()
    hand.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]  # it was started
    refused(hand, 74, "00000001.wal", "check the disk")
    assert not (hand.config.wal_dir / "SEALED").exists()


def test_an_fsync_that_fails_at_the_start_is_74(start: Start, desk: Path) -> None:
    flag = desk / "fail"
    flag.touch()
    refused(start(module="failing_disk_node", fail_flag=str(flag)), 74, "00000001.wal")


def test_a_full_disk_refuses_writes_serves_reads_and_stops_cleanly(
    start: Start, desk: Path
) -> None:
    flag = desk / "full"
    hand = start(module="full_disk_node", full_flag=str(flag)).ready()
    put(hand, b"k", b"kept")
    flag.touch()
    fill(hand)
    with hand.client(5.0) as client:
        for _ in range(20):
            with pytest.raises(DefiniteError, match=r"(?i)full|space"):
                client.put(b"x", b"refused")
    assert get(hand, b"k") == b"kept"
    assert hand.status()["wal"]["disk_full"] is True
    stop(hand)
    assert hand.sockets == []
    assert any("without a seal" in line and "disk is full" in line for line in hand.words())
    flag.unlink()
    again = start().ready()
    assert get(again, b"k") == b"kept"
    put(again, b"k", b"newer")


def fill(hand: Hand) -> None:
    """Write until the disk says that it is full."""
    deadline = time.monotonic() + 20
    with hand.client(0.3) as client:
        while not hand.status()["wal"]["disk_full"]:
            assert time.monotonic() < deadline
            try:
                client.put(b"filler", os.urandom(100_000))
            except ClientError:
                continue


def test_a_node_with_a_full_disk_takes_writes_again_when_space_returns(
    start: Start, desk: Path
) -> None:
    flag = desk / "full"
    hand = start(module="full_disk_node", full_flag=str(flag)).ready()
    flag.touch()
    fill(hand)
    flag.unlink()
    with hand.client(10.0) as client:
        deadline = time.monotonic() + 10
        while True:
            try:
                assert client.put(b"k", b"after").code == 0
                break
            except DefiniteError:
                assert time.monotonic() < deadline
    assert get(hand, b"k") == b"after"
    stop(hand)
    assert (hand.config.wal_dir / "SEALED").is_file()


# --- snapshots ------------------------------------------------------------------------


def test_a_damaged_snapshot_that_the_log_relies_on_is_65_and_named(start: Start) -> None:
    """Restored, it is good again: the refusal has lost nothing that the log still needs."""
    hand = start().ready()
    directory = hand.config.data_dir / "snap"
    deadline = time.monotonic() + 30
    value = b""
    with hand.client() as client:
        while segment_of(hand).exists():  # released behind the snapshot
            assert time.monotonic() < deadline
            value = os.urandom(200_000)
            assert client.put(b"k", value).code == 0
    kill(hand)
    good = {path: path.read_bytes() for path in directory.glob("*.snap")}
    for path, data in good.items():
        path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    refused(start(), 65, str(max(good)), "stays out", "restore the file")
    for path, data in good.items():
        path.write_bytes(data)
    assert get(start().ready(), b"k") == value
