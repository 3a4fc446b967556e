"""Compressed batches on real nodes: killed, snapshotted, restarted with another codec, read back."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.client import Client
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from wal import OsFilesystem, SyncPolicy
from wal.survey import walk

NODES = 3
KEYS = 100
TIMEOUT_S = 60.0


def await_snapshot(directory: Path) -> None:
    """Wait until a snapshot stands for the first batches: a thread of its own writes it."""
    deadline = time.monotonic() + TIMEOUT_S
    while not list(directory.glob("snap/*.snap")):
        assert time.monotonic() < deadline, "no snapshot was taken"
        threading.Event().wait(0.05)


MIB = 1 << 20
WORDS = [b"%x " % (n * n * 7919) for n in range(400)]


def text(stream: random.Random) -> bytes:
    """About 8 KiB that shrink to a third or so."""
    return b"".join(stream.choices(WORDS, k=1400))


def codecs_in(spec: ClusterSpec, node: int) -> set[int]:
    sights = walk(OsFilesystem(), str(spec.node_dir(node) / "wal"))
    return {sight.header.flags for sight in sights if sight.header and sight.header.count > 1}


def check(client: Client, expected: dict[bytes, bytes]) -> None:
    for key, value in expected.items():
        item = client.get(key, TIMEOUT_S).item
        assert item is not None, key
        assert item.value == value, key


@pytest.mark.timeout(170)
def test_nothing_is_lost_whatever_codec_each_life_writes_with(tmp_path: Path) -> None:
    """Each life overwrites the keys in bulks, and ends with kill -9 of all; then another codec."""
    policy = SyncPolicy(segment_bytes=MIB, fill_step_bytes=MIB // 4)
    spec = ClusterSpec(name="packed", data_dir=tmp_path / "data", nodes=NODES, wal=policy)
    stream = random.Random(3)
    expected: dict[bytes, bytes] = {}
    for codec in ("zstd", "lz4", "none"):
        spec = replace(spec, compression=codec)
        with LocalCluster.launch(spec) as cluster:
            cluster.wait_ready(TIMEOUT_S)
            with cluster.client() as client:
                check(client, expected)
                for _ in range(12):
                    pairs = {b"key %d" % n: text(stream) for n in range(KEYS)}
                    client.put_many(list(pairs.items()), TIMEOUT_S)
                    expected |= pairs
            cluster.wait_for(lambda frame: len(frame.caught_up()) == NODES, TIMEOUT_S)
            counted = [part.snapshot.compression for part in cluster.frame().nodes if part.snapshot]
            assert {part.codec for part in counted} == {codec}
            if codec != "none":
                assert sum(part.bytes_in for part in counted) > 5 * MIB
                assert max(part.decompress_ns for part in counted) > 0
                saved = sum(part.bytes_out for part in counted)
                assert saved < sum(part.bytes_in for part in counted) * 0.7
            else:
                assert sum(part.batches for part in counted) == 0
            if codec == "zstd":
                await_snapshot(spec.node_dir(1))
            cluster.kill("all")
        assert codecs_in(spec, 1) & {{"none": 0, "lz4": 1, "zstd": 2}[codec]}
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready(TIMEOUT_S)
        with cluster.client() as client:
            check(client, expected)
