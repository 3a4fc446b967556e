"""SIGSTOP of the leader, SIGCONT: it steps down or proves its lead before it answers a read.

The classic stale read (etcd#20418): a leader that slept through its own deposition wakes up with
read requests in its inbox and believes that it still leads.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.client import Client, ClientError, Endpoints
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from node.raft.types import NodeId

FREEZE_S = 2.0
TIMEOUT_S = 30.0
KEY = b"register"


def only(endpoints: Endpoints, node: int) -> Endpoints:
    """The same cluster as seen by a client that knows one node only."""
    address = endpoints.nodes[NodeId(node)]
    return Endpoints(endpoints.cluster_id, {NodeId(node): address}, endpoints.groups)


def read_across_a_freeze(cluster: LocalCluster, writer: Client, number: int) -> bytes | None:
    """Freeze the leader, overwrite the key elsewhere, ask the old leader; None if it refused."""
    old = cluster.frame().leader()
    assert old is not None
    writer.put(KEY, b"before %d" % number)
    with Client(only(cluster.endpoints(), old), FREEZE_S + 3.0) as reader:
        assert reader.get(KEY).item is not None
        cluster.pause(f"n{old}")
        frozen_at = time.monotonic()
        try:
            waiting = reader.get_nowait(KEY)
            writer.put(KEY, b"after %d" % number, TIMEOUT_S)
            # Asked after the write was acknowledged: an answer must show it.
            asked = reader.get_nowait(KEY)
            cluster.wait_for(
                lambda _: time.monotonic() - frozen_at >= FREEZE_S, TIMEOUT_S, "the clock stands"
            )
        finally:
            cluster.resume(f"n{old}")
        waiting.exception(TIMEOUT_S)
        try:
            item = asked.result(TIMEOUT_S).item
        except ClientError:
            return None
        assert item is not None
        return item.value


def run_rounds(tmp_path: Path, rounds: int) -> None:
    spec = ClusterSpec(name="freeze", data_dir=tmp_path / "data", nodes=3)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready(60)
        with cluster.client() as writer:
            for number in range(rounds):
                value = read_across_a_freeze(cluster, writer, number)
                assert value in (None, b"after %d" % number), "a stale read"
                cluster.wait_for(lambda frame: len(frame.healthy()) == 3, TIMEOUT_S)
        terms = [group.term for part in cluster.frame().nodes if (group := part.group(0))]
        assert min(terms) > rounds, "every freeze must have cost the leader its lead"


@pytest.mark.timeout(120)
def test_a_leader_that_slept_never_answers_a_read_with_an_old_value(tmp_path: Path) -> None:
    """Two rounds; fifty in the long suite."""
    run_rounds(tmp_path, 2)


@pytest.mark.long("freeze")
@pytest.mark.timeout(900)
def test_fifty_frozen_leaders_answer_no_stale_read(tmp_path: Path) -> None:
    """Fifty rounds."""
    run_rounds(tmp_path, 50)
