"""kill -9 of all nodes at once, under load, over and over: nothing acknowledged is lost.

Judged from outside (the client's answers against every replica's state) and from the nodes' own
logs (Raft figure 3: election safety; figure 2: term and vote are durable).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.client import Client
from cluster.demo.verify import verify
from cluster.demo.writer import Plan, Writer
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from cluster.workload import Workload, read_input
from tests.process.wal_facts import assert_election_safety, read_facts
from wal import SyncPolicy

NODES = 3
ACK_TIMEOUT_S = 60.0
ACKS_PER_ROUND = 200


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """Three nodes with small segments, so that rounds roll over several of them."""
    policy = SyncPolicy(segment_bytes=1 << 20, fill_step_bytes=1 << 18)
    spec = ClusterSpec(name="killall", data_dir=tmp_path / "data", nodes=NODES, wal=policy)
    with LocalCluster.launch(spec) as running:
        running.wait_ready(60)
        yield running


def endless_lines(tmp_path: Path) -> Workload:
    """A text of 2,000 lines; `rounds` repeats it under new keys."""
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"line {n} of the input, {n * n:09d}\n" for n in range(2000)))
    return read_input(path)


def run_rounds(cluster: LocalCluster, workload: Workload, rounds: int) -> None:
    """Write at full speed; per round, kill everybody after some acks and start everybody again."""
    terms: dict[int, int] = {}
    with Client(cluster.endpoints(), ACK_TIMEOUT_S) as client:
        writer = Writer(client, Plan(workload, 1_000_000, 0.0))
        writer.start()
        for _ in range(rounds):
            target = writer.acked + ACKS_PER_ROUND
            assert writer.wait_for_acks(target, ACK_TIMEOUT_S), "no writes are acknowledged"
            for part in cluster.frame().nodes:
                group = part.group(0)
                assert group is not None
                assert group.term >= terms.get(part.node, 0), f"n{part.node}: its term fell"
                terms[part.node] = group.term
            cluster.kill("all")
            cluster.start("all")
            cluster.wait_ready(ACK_TIMEOUT_S)
        assert writer.wait_for_acks(writer.acked + ACKS_PER_ROUND, ACK_TIMEOUT_S)
        assert writer.finish(ACK_TIMEOUT_S), "puts stayed unanswered"
        cluster.wait_for(lambda frame: len(frame.caught_up()) == NODES, ACK_TIMEOUT_S)
        nodes = tuple(cluster.spec.node_ids)
        findings = verify(client, nodes, writer.acknowledged, lambda _: None)
    assert len(writer.acknowledged.digests) >= rounds * ACKS_PER_ROUND
    assert not findings.lost, sorted(findings.lost)[:5]
    assert not findings.duplicated, sorted(findings.duplicated)[:5]
    assert not findings.phantoms, sorted(findings.phantoms)[:5]
    assert findings.replicas_equal
    cluster.stop("all")
    facts = [read_facts(node, cluster.spec.node_dir(node) / "wal") for node in nodes]
    assert all(part.hard_states and part.batches for part in facts)
    assert_election_safety(facts)


@pytest.mark.timeout(170)
def test_nothing_acknowledged_is_lost_when_all_nodes_are_killed_at_once(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    """Five rounds."""
    run_rounds(cluster, endless_lines(tmp_path), rounds=5)


@pytest.mark.long("restart")
@pytest.mark.timeout(2400)
def test_fifty_rounds_of_killing_all_nodes_lose_nothing(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    """Fifty rounds."""
    run_rounds(cluster, endless_lines(tmp_path), rounds=50)
