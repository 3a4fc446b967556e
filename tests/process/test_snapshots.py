"""Snapshots, release and recycling on real nodes: bounded disks, and a restart loses nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from cluster.client import Client
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from cluster.workload import synthetic
from wal import SyncPolicy

NODES = 3
MIB = 1 << 20
KEYS = 200
TIMEOUT_S = 60.0
VALUE = 4096


def write(client: Client, rounds: int, seed: int) -> dict[bytes, bytes]:
    """Overwrite a bounded set of keys over and over; return what each holds in the end."""
    last: dict[bytes, bytes] = {}
    pending = []
    workload = synthetic(KEYS, VALUE, seed)
    for number in range(1, rounds + 1):
        for item in workload.read(number):
            last[item.key] = item.value
            pending.append(client.put_nowait(item.key, item.value, TIMEOUT_S))
        for future in pending:
            future.result(TIMEOUT_S)
        pending.clear()
    return last


def log_bytes(directory: Path) -> int:
    total = 0
    for path in directory.glob("wal/*.wal"):
        with contextlib.suppress(FileNotFoundError):  # given back a moment ago
            total += path.stat().st_size
    return total


@pytest.mark.timeout(150)
def test_the_log_is_released_behind_snapshots_and_a_restart_starts_from_one(tmp_path: Path) -> None:
    policy = SyncPolicy(segment_bytes=MIB, fill_step_bytes=MIB // 4)
    spec = ClusterSpec(name="snap", data_dir=tmp_path / "data", nodes=NODES, wal=policy)
    directories = [spec.node_dir(node) for node in spec.node_ids]
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready(TIMEOUT_S)
        with cluster.client() as client:
            expected = write(client, rounds=20, seed=1)  # 16 MB through logs of 1 MiB segments
            cluster.wait_for(
                lambda _: all(log_bytes(directory) <= 8 * MIB for directory in directories),
                TIMEOUT_S,
                "the logs are not released",
            )
            assert all(list(directory.glob("snap/*.snap")) for directory in directories)
            newest = [max(directory.glob("wal/*.wal")).stem for directory in directories]
            assert all(int(number) >= 15 for number in newest), "so many segments were begun"
            # Killed in the middle of more of the same: snapshots are under way at some of them.
            futures = [
                client.put_nowait(item.key, item.value, TIMEOUT_S)
                for number in range(1, 6)
                for item in synthetic(KEYS, VALUE, 2).read(number)
            ]
            cluster.kill("all")
            cluster.start("all")
            for future in futures:
                future.result(TIMEOUT_S)
            expected |= {item.key: item.value for item in synthetic(KEYS, VALUE, 2).read(5)}
            cluster.wait_for(lambda frame: len(frame.caught_up()) == NODES, TIMEOUT_S)
            for key, value in expected.items():
                item = client.get(key).item
                assert item is not None
                assert item.value == value
        # A second time, cleanly: the same state from snapshot and tail on every replica.
        cluster.restart("all")
        cluster.wait_ready(TIMEOUT_S)
        cluster.wait_for(lambda frame: len(frame.caught_up()) == NODES, TIMEOUT_S)
        with cluster.client() as client:
            for node in cluster.endpoints().nodes:
                for key, value in expected.items():
                    item = client.get(key, node=node).item
                    assert item is not None
                    assert (item.value, item.version) == (value, 25)


@pytest.mark.timeout(90)
def test_a_node_whose_snapshot_is_damaged_refuses_to_start_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    policy = SyncPolicy(segment_bytes=MIB, fill_step_bytes=MIB // 4)
    spec = ClusterSpec(name="badsnap", data_dir=tmp_path / "data", nodes=NODES, wal=policy)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready(TIMEOUT_S)
        snapshots = spec.node_dir(1) / "snap"
        with cluster.client() as client:
            write(client, rounds=8, seed=1)
            cluster.wait_for(lambda _: bool(list(snapshots.glob("*.snap"))), TIMEOUT_S)
            cluster.kill("n1")
            (newest,) = snapshots.glob("*.snap")
            damaged = bytearray(newest.read_bytes())
            damaged[len(damaged) // 2] ^= 1
            newest.write_bytes(damaged)
            with pytest.raises(Exception, match=r"snap.*bad chunk at byte"):
                cluster.start("n1")
            client.put(b"still", b"here", TIMEOUT_S)
