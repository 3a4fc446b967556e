"""`raftdeck up` on directories that are damaged, emptied, foreign or gone: named, kept, worked around."""

import json
import shutil

import pytest

from cluster.paths import list_runs
from node.identity import IDENTITY_FILE

pytestmark = pytest.mark.process

SMALL_FLAGS = ("--segment-bytes", str(1 << 20), "--fill-step-bytes", str(64 << 10))


def stopped_with_data(call, tmp_path):
    """Leave the data of a cluster that held a few keys and was stopped cleanly."""
    data = tmp_path / "data"
    assert call("up", "-n", "3", "--detach", "--data", data, *SMALL_FLAGS)[0] == 0
    assert call("load", "--ops", "100", "--keys", "100", "--value-bytes", "300")[0] == 0
    assert call("kv", "put", "k", "v")[0] == 0
    assert call("status", "--wait", "caughtup=3")[0] == 0
    assert call("down")[0] == 0
    return data


def content(data):
    return {
        path: path.read_bytes()
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.suffix in (".wal", ".json")
    }


def test_what_a_directory_was_made_with_cannot_be_changed(call, desk, tmp_path):
    data = stopped_with_data(call, tmp_path)
    before = content(data)
    for change in (["-n", "5"], ["--groups", "2"], ["--name", "other"]):
        code, _, err = call("up", "--detach", "--data", data, *change)
        assert code == 2
        assert "holds a cluster with" in err
    assert content(data) == before


def test_a_corrupt_log_is_refused_named_and_kept(call, tmp_path, living, desk):
    data = stopped_with_data(call, tmp_path)
    segment = data / "n2" / "wal" / "00000001.wal"
    healthy = segment.read_bytes()
    damaged = bytearray(healthy)
    damaged[20_000] ^= 0xFF
    segment.write_bytes(damaged)
    before = content(data)
    code, _, err = call("up", "--detach", "--data", data)
    assert code == 1
    assert "n2 ended with exit 65" in err
    assert "00000001" in err
    assert segment.read_bytes() == bytes(damaged)
    assert content(data)[segment] == before[segment]
    assert living(str(desk)) == []
    assert list_runs() == []

    segment.write_bytes(healthy)
    assert call("up", "--detach", "--data", data)[0] == 0
    assert call("status", "--wait", "caughtup=3")[0] == 0
    assert call("kv", "get", "k", "--node", "n2")[1] == b"v"
    assert call("down")[0] == 0


def test_foreign_and_newer_node_directories_are_refused_and_kept(call, desk, tmp_path):
    data = stopped_with_data(call, tmp_path)
    identity = data / "n2" / IDENTITY_FILE
    ours = identity.read_text()
    for change, wanted, words in (
        ({"cluster_id": "f" * 32}, 2, "belongs to cluster"),
        ({"node": 1}, 2, "belongs to node n1"),
        ({"format": 2}, 4, "format 2 is newer than 1"),
    ):
        identity.write_text(json.dumps(json.loads(ours) | change))
        before = content(data)
        code, _, err = call("up", "--detach", "--data", data)
        assert code == wanted
        assert words in err
        assert {p: t for p, t in content(data).items() if "n2" in str(p)} == {
            p: t for p, t in before.items() if "n2" in str(p)
        }
    identity.write_text(ours)
    (data / "CLUSTER.json").write_text('{"format": 2}')
    code, _, err = call("up", "--detach", "--data", data)
    assert code == 4
    assert "update raftdeck" in err


def test_most_nodes_go_on_without_the_one_that_was_emptied(call, living, desk, tmp_path):
    data = stopped_with_data(call, tmp_path)
    shutil.rmtree(data / "n2")
    code, _, err = call("up", "--detach", "--data", data)
    assert code == 1
    assert "n2 ended with exit 65" in err
    assert f"raftdeck up --most --data {data}" in err
    code, out, err = call("up", "--detach", "--most", "--data", data)
    assert code == 0, err
    assert b"2 of 3 nodes up" in out
    assert "n2 ended with exit 65" in err
    assert call("kv", "get", "k")[1] == b"v"
    assert not (data / "n2" / "wal").exists(), "it stays out"
    assert call("down")[0] == 0

    shutil.rmtree(data / "n3")
    code, _, err = call("up", "--detach", "--most", "--data", data)
    assert code == 1
    assert "ended with exit 65" in err
    assert living(str(desk)) == []


def test_most_nodes_go_on_without_the_one_whose_disk_is_gone(call, desk, tmp_path):
    data = stopped_with_data(call, tmp_path)
    shutil.move(data / "n3", tmp_path / "n3")
    (data / "n3").symlink_to(tmp_path / "nowhere")
    code, _, err = call("up", "--detach", "--data", data)
    assert code == 4
    assert "n3 cannot be started" in err
    assert "exit" not in err
    code, out, err = call("up", "--detach", "--most", "--data", data)
    assert code == 0, err
    assert b"2 of 3 nodes up" in out
    assert "n3 cannot be started" in err
    assert "check that its disk is there" in err
    assert b"crashed (no start)" in call("status")[1]
    (data / "n3").unlink()
    shutil.move(tmp_path / "n3", data / "n3")
    assert call("node", "start", "n3")[0] == 0
    assert call("down")[0] == 0


def test_the_log_of_another_node_is_refused(call, desk, tmp_path):
    """The identity file is right, the segments are not: the log carries an identity of its own."""
    data = stopped_with_data(call, tmp_path)
    shutil.rmtree(data / "n2" / "wal")
    shutil.copytree(data / "n1" / "wal", data / "n2" / "wal")
    before = content(data)
    code, _, err = call("up", "--detach", "--data", data)
    assert code == 2, err
    assert "n2 ended with exit 78" in err
    assert (
        content(data)[data / "n2" / "wal" / "00000001.wal"]
        == before[data / "n2" / "wal" / "00000001.wal"]
    )
