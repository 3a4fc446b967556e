import json
from pathlib import Path
from typing import Any

import pytest

from node.config import NODES_MAX, ConfigError, NodeConfig, policy_from
from node.exits import NodeExit
from wal.policy import SyncPolicy

CLUSTER_ID = "0123456789abcdef0123456789abcdef"


def config(**changes):
    values: dict[str, Any] = {
        "cluster_id": CLUSTER_ID,
        "cluster_name": "deck",
        "node": 2,
        "voters": (1, 2, 3),
        "run_dir": Path("/run/deck"),
        "data_dir": Path("/data/deck/n2"),
    }
    return NodeConfig(**(values | changes))


def test_a_configuration_survives_json():
    original = config(
        groups=3,
        heartbeat_ms=20,
        election_ms_min=100,
        election_ms_max=200,
        wal=SyncPolicy(segment_bytes=1 << 20, fill_step_bytes=1 << 16, prepare="fallocate"),
        seed=7,
        entry_options={"bug": "forgets_votes", "rate": 0.5, "on": True},
    )
    assert NodeConfig.from_json(original.to_json()) == original


def test_a_configuration_file_names_itself_in_errors(tmp_path):
    path = tmp_path / "n2.json"
    with pytest.raises(ConfigError, match=r"n2\.json: No such file"):
        NodeConfig.load(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"n2\.json: not JSON") as caught:
        NodeConfig.load(path)
    assert caught.value.exit_code == NodeExit.USAGE
    path.write_text(config().to_json())
    assert NodeConfig.load(path) == config()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cluster_id": "0123"}, "32 hexadecimal"),
        ({"cluster_id": CLUSTER_ID.upper()}, "32 hexadecimal"),
        ({"cluster_name": "a/b"}, "cluster_name"),
        ({"node": 4}, "not among the voters"),
        ({"node": 0, "voters": (0, 1)}, "voters: 0"),
        ({"voters": (2, 2)}, "names a node twice"),
        ({"voters": ()}, "1 to 15"),
        ({"voters": tuple(range(1, NODES_MAX + 2))}, "1 to 15"),
        ({"heartbeat_ms": 150}, "timers"),
        ({"election_ms_max": 100}, "timers"),
        ({"heartbeat_ms": 50.0}, "heartbeat_ms"),
        ({"groups": 0}, "groups"),
        ({"groups": True}, "groups"),
        ({"seed": -1}, "seed"),
        ({"compression": "gzip"}, "none, lz4, zstd"),
        ({"retain_s": -1}, "retain_s"),
        ({"retain_bytes": 1 << 41}, "retain_bytes"),
        ({"run_dir": Path("run")}, "absolute"),
        ({"entry_options": {"a": [1]}}, "plain value"),
    ],
)
def test_a_contradictory_configuration_is_refused(changes, text):
    with pytest.raises(ConfigError, match=text) as caught:
        config(**changes)
    assert caught.value.exit_code == NodeExit.USAGE


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"segment_bytes": 1000}, "segment_bytes"),
        ({"fill_step_bytes": 128 << 20}, "fill_step_bytes"),
        ({"fill_step_bytes": 5000}, "multiples of 4096"),
        ({"fill_step_bytes": "4096"}, "wrong type"),
        ({"speed": 1}, "unknown key 'wal.speed'"),
        ({"prepare": "hope"}, "'hope' is not one of"),
    ],
)
def test_an_impossible_log_policy_is_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        policy_from(changes)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda d: d.pop("node"), "missing key 'node'"),
        (lambda d: d.update(hartbeat_ms=50), "unknown key 'hartbeat_ms'"),
        (lambda d: d["wal"].update(speed=1), "unknown key 'wal.speed'"),
        (lambda d: d.update(voters=3), "wrong type"),
        (lambda d: d.update(voters=[1, [2]]), "voters"),
        (lambda d: d.update(wal=[]), "wrong type"),
        (lambda d: d.update(run_dir=None), "wrong type"),
        (lambda d: d.pop("format"), "format: None"),
        (lambda d: d.update(seed="x" * (64 << 10)), "exceeds"),
    ],
)
def test_a_misspelt_document_is_refused(edit, text):
    document = json.loads(config().to_json())
    edit(document)
    with pytest.raises(ConfigError, match=text):
        NodeConfig.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["[]", "null", "\x00", "[" * 10_000, b"\xff\xfe"])
def test_what_is_no_document_is_refused(text):
    with pytest.raises(ConfigError):
        NodeConfig.from_json(text)


def test_a_newer_format_has_its_own_exit_code():
    document = json.loads(config().to_json()) | {"format": 2, "new_key": 1}
    with pytest.raises(ConfigError, match="newer than 1") as caught:
        NodeConfig.from_json(json.dumps(document))
    assert caught.value.exit_code == NodeExit.OTHER_FORMAT


def test_endpoints_and_directories_follow_the_architecture():
    value = config()
    assert value.endpoint("admin") == "ipc:///run/deck/n2.admin"
    assert value.endpoint("data", node=3) == "ipc:///run/deck/n3.data"
    assert value.wal_dir == Path("/data/deck/n2/wal")
    assert value.log_path == Path("/data/deck/n2/node.log")
    assert value.cluster_id_bytes.hex() == CLUSTER_ID
