"""The vocabulary of disk faults: what is taken, what is refused, and what a node without a cache does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.config import NodeConfig
from node.faults import FIELDS, FOR_MS, DiskFaults, FaultError, decode_fault
from wal import Log, LogIdentity, OpenOptions, OsFilesystem, SyncPolicy, batch_record
from wal.faults import FAULTS_MAX, Fault


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig(
        "0f" * 16, "t", 1, (1,), tmp_path / "run", tmp_path / "n1", wal=SyncPolicy(1 << 20, 1 << 16)
    )


def opened(config: NodeConfig, disk: DiskFaults) -> Log:
    identity = LogIdentity(config.cluster_id_bytes, 1)
    log, _ = Log.open(disk.filesystem, str(config.wal_dir), identity, OpenOptions(config.wal))
    return log


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_every_kind_can_be_asked_for_with_what_belongs_to_it(kind: str) -> None:
    values: dict[str, Any] = dict.fromkeys(FIELDS[kind], 1)
    values |= {n: w for n, w in (("on", "write"), ("deed", "kill")) if n in values}
    if "point" in values:
        values["point"] = "wal.sync.before"
    request = decode_fault({"kind": kind} | values)
    assert request.kind == kind
    assert request.values == values


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, "no disk fault None"),
        ({"kind": ["slow"]}, "known are: slow, stall"),
        ({"kind": "melt"}, "known are: slow, stall"),
        ({"kind": "slow", "quota": 1}, "takes no 'quota'; it takes: for_ms, on"),
        ({"kind": "heal", "for_ms": 1}, "it takes: nothing"),
        ({"kind": "slow", "for_ms": 0}, "for_ms: 0 is not a whole number from 1 to 3600000"),
        ({"kind": "slow", "for_ms": True}, "for_ms: True"),
        ({"kind": "slow", "for_ms": 1.5}, "for_ms: 1.5"),
        ({"kind": "slow", "on": "fsync"}, "valid are: create, write, sync"),
        ({"kind": "slow", "on": 7}, "on: no 7"),
        ({"kind": "fail", "odds": 101}, "from 1 to 100"),
        ({"kind": "flip", "bit": 8}, "from 0 to 7"),
        ({"kind": "flip", "segment": 0}, "from 1 to"),
        ({"kind": "at", "deed": "kill"}, "needs a point"),
        ({"kind": "at", "deed": "melt", "point": "wal.sync.before"}, "kill, error, stall"),
        ({"kind": "at", "deed": "kill", "point": "wal.sync"}, "wal.sync.before"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(args: dict[str, Any], words: str) -> None:
    with pytest.raises(FaultError) as caught:
        decode_fault(args)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_what_nobody_said_has_a_default() -> None:
    assert decode_fault({"kind": "slow"}).standing() == Fault("slow", FOR_MS, delay_ms=100)
    assert decode_fault({"kind": "fail"}).standing() == Fault("fail", FOR_MS, times=1, delay_ms=100)
    lasting = decode_fault({"kind": "fail", "for_ms": 5}).standing()
    assert (lasting.times, lasting.for_ms) == (0, 5)


def test_a_fault_says_what_it_does() -> None:
    texts = {
        str(decode_fault({"kind": "slow", "for_ms": 2000}).standing()): "every sync takes 100 ms",
        str(decode_fault({"kind": "fail", "odds": 30}).standing()): "sync fails with EIO, 30 %",
        str(decode_fault({"kind": "full", "quota": 4096}).standing()): "grow by 4,096 bytes",
        str(decode_fault({"kind": "fail", "times": 3}).standing()): ", 3 times, for 10 s",
    }
    for text, part in texts.items():
        assert part in text


def test_a_node_that_keeps_nothing_back_cannot_lose_its_power(config: NodeConfig) -> None:
    disk = DiskFaults(config, OsFilesystem())
    log = opened(config, disk)
    for kind in ("powercut", "torn"):
        with pytest.raises(FaultError, match="up --power-loss"):
            disk.apply({"kind": kind}, log)
    assert disk.state().unsynced == 0
    log.abort()


def test_faults_stand_are_told_and_are_healed(config: NodeConfig) -> None:
    disk = DiskFaults(replace(config, power_loss=True), OsFilesystem())
    log = opened(config, disk)
    assert disk.apply({"kind": "heal"}, log)["lines"] == ["nothing to heal"]
    disk.apply({"kind": "slow", "delay_ms": 1}, log)
    log.append([batch_record(0, 1, 1, [b"x"])]).wait()
    assert disk.state().standing == 1
    [told] = disk.apply({"kind": "show"}, log)["faults"]
    assert told["kind"] == "slow"
    assert told["bites"] == disk.state().bites >= 1
    assert told["left_ms"] > 0
    [line] = disk.apply({"kind": "heal"}, log)["lines"]
    assert "last at the sync of 00000001.wal" in line
    assert disk.state().standing == 0
    for _ in range(FAULTS_MAX):
        disk.apply({"kind": "stall"}, log)
    with pytest.raises(FaultError, match="heal them first"):
        disk.apply({"kind": "stall"}, log)
    disk.apply({"kind": "heal"}, log)
    log.abort()


def test_a_flip_is_drawn_by_its_seed_within_what_is_durable(config: NodeConfig) -> None:
    disk = DiskFaults(config, OsFilesystem())
    log = opened(config, disk)
    log.append([batch_record(0, 1, 1, [b"x" * 500])]).wait()
    path = config.wal_dir / "00000001.wal"
    good = path.read_bytes()
    [first] = disk.apply({"kind": "flip", "seed": 4}, log)["lines"]
    damaged = path.read_bytes()
    [place] = [n for n in range(len(good)) if good[n] != damaged[n]]
    assert place < log.stats().durable & 0xFFFF_FFFF
    assert f"byte {place} turned over" in first
    disk.apply({"kind": "flip", "seed": 4}, log)
    assert path.read_bytes() == good
    with pytest.raises(FaultError, match=r"00000009\.wal"):
        disk.apply({"kind": "flip", "segment": 9}, log)
    with pytest.raises(FaultError, match="ends before"):
        disk.apply({"kind": "flip", "offset": 1 << 30}, log)
    log.abort()


def test_a_log_of_nothing_has_no_bit_to_flip(config: NodeConfig) -> None:
    disk = DiskFaults(config, OsFilesystem())
    assert disk.state().bit_ns == -1

    class Young:
        """A log that has not written yet."""

        segment_bytes = 1 << 20

        def stats(self) -> Any:
            return type("Stats", (), {"durable": 0})

    with pytest.raises(FaultError, match="nothing of the log is durable"):
        disk.apply({"kind": "flip"}, Young())  # type: ignore[arg-type]  # as much as is asked
