"""Directories that were emptied: a node that forgot what it promised does not begin anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cluster.exits import CommandError
from cluster.frames import ProcessState
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from node.exits import NodeExit
from tests.process.hand import Start, config_for, get, kill, put, refused, stop


@pytest.mark.timeout(120)
def test_a_wiped_node_of_a_cluster_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    spec = ClusterSpec("deck", tmp_path / "data", nodes=3)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready()
        with cluster.client() as client:
            assert client.put(b"k", b"kept").code == 0
        cluster.kill("n1")
        for path in spec.node_dir(1).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(CommandError, match=r"IDENTITY\.json is gone.*restore the directory"):
            cluster.start("n1")
        truth = cluster.frame().nodes[0].process
        assert truth.state is ProcessState.CRASHED
        assert truth.exit_code == NodeExit.CORRUPT_LOG
        assert [path.name for path in spec.node_dir(1).iterdir()] == ["node.log"]
        with cluster.client() as client:
            assert client.put(b"k", b"and more").code == 0
    with LocalCluster.launch(spec) as cluster:
        with pytest.raises(CommandError, match=r"IDENTITY\.json is gone"):
            cluster.wait_ready()
        with cluster.client() as client:
            item = client.get(b"k").item
            assert item is not None
            assert item.value == b"and more"


@pytest.mark.parametrize("prepared", [False, True])
def test_a_log_that_was_begun_and_is_gone_is_65(start: Start, prepared: bool) -> None:
    hand = start().ready()
    put(hand, b"k")
    kill(hand)
    shutil.rmtree(hand.config.wal_dir)
    for _ in range(2):
        hand.prepared = prepared
        hand.output.unlink(missing_ok=True)
        refused(hand.start(), 65, "wal: the log is gone", "restore the directory")
        hand.cut_lifeline()
    assert [path.name for path in hand.config.wal_dir.iterdir()] == ["LOCK"]
    assert (hand.config.data_dir / "INCARNATION").read_text() == "1\n"


def test_a_first_start_that_found_no_space_for_its_log_is_73_and_may_begin_later(
    start: Start, desk: Path
) -> None:
    flag = desk / "full"
    flag.touch()
    hand = start(module="full_disk_node", full_flag=str(flag))
    refused(hand, 73, "no space for the beginning of a log")
    assert not (hand.config.data_dir / "INCARNATION").exists(), "it never began"
    flag.unlink()
    hand.output.unlink()
    again = start().ready()
    put(again, b"k", b"begun")
    assert get(again, b"k") == b"begun"
    stop(again)


@pytest.mark.parametrize("kept", ["nothing", "an unstarted segment"])
def test_a_first_start_that_ended_before_its_log_was_durable_is_no_loss(
    start: Start, desk: Path, kept: str
) -> None:
    """What a power cut may leave of it: an identity, and no record of the log."""
    config = config_for(desk)
    config.data_dir.mkdir(parents=True)
    document = {"format": 1, "cluster_id": config.cluster_id, "node": config.node}
    (config.data_dir / "IDENTITY.json").write_text(json.dumps(document))
    config.wal_dir.mkdir()
    if kept != "nothing":
        (config.wal_dir / "00000001.wal").touch()
    hand = start(config).ready()
    put(hand, b"k")
    stop(hand)
