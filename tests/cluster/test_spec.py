import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.exits import CommandError, Exit
from cluster.spec import NODES_FILE, SPEC_FILE, ClusterSpec, load_spec, prepare_data_dir
from node import identity
from node.identity import Identity, claim_directory, read_identity
from wal.policy import SyncPolicy


def spec(tmp_path, **changes):
    return ClusterSpec(**({"name": "deck", "data_dir": tmp_path / "data"} | changes))


def test_a_spec_survives_its_file(tmp_path):
    original = spec(
        tmp_path,
        nodes=7,
        groups=4,
        heartbeat_ms=20,
        wal=SyncPolicy(segment_bytes=1 << 20, fill_step_bytes=1 << 16),
        entry_module="planted.no_fsync",
        entry_paths=(Path("/planted"),),
        entry_options={"rate": 0.5},
    )
    assert ClusterSpec.from_json(original.to_json(), original.data_dir) == original


def test_a_directory_can_be_moved(tmp_path):
    original = spec(tmp_path)
    moved = ClusterSpec.from_json(original.to_json(), tmp_path / "elsewhere")
    assert moved == replace(original, data_dir=tmp_path / "elsewhere")


def test_every_cluster_has_an_id_of_its_own(tmp_path):
    assert spec(tmp_path).cluster_id != spec(tmp_path).cluster_id


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "../x"}, "cluster name"),
        ({"name": ""}, "cluster name"),
        ({"name": "Deck"}, "cluster name"),
        ({"name": "x" * 33}, "cluster name"),
        ({"nodes": 0}, "nodes: 0"),
        ({"nodes": 16}, "1 to 15"),
        ({"groups": 0}, "groups"),
        ({"heartbeat_ms": 200}, "timers"),
        ({"cluster_id": "x"}, "32 hexadecimal"),
        ({"data_dir": Path("data")}, "absolute"),
        ({"entry_module": "a b"}, "no module name"),
        ({"entry_paths": (Path("planted"),)}, "absolute"),
        ({"stop_timeout_ms": 0}, "stop_timeout_ms"),
    ],
)
def test_an_impossible_spec_is_a_usage_error(tmp_path, changes, text):
    with pytest.raises(CommandError, match=text) as caught:
        spec(tmp_path, **changes)
    assert caught.value.exit_code is Exit.USAGE


def test_nodes_are_told_what_the_spec_says(tmp_path):
    value = spec(tmp_path, nodes=5, groups=2, seed=9, entry_options={"bug": "x"})
    config = value.node_config(4, Path("/run/deck"))
    assert (config.node, config.voters) == (4, (1, 2, 3, 4, 5))
    assert config.data_dir == tmp_path / "data" / "n4"
    assert (config.cluster_id, config.groups, config.seed) == (value.cluster_id, 2, 9)
    assert config.entry_options == {"bug": "x"}


def test_a_data_directory_is_made_once_and_recognised_after(tmp_path):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    assert load_spec(value.data_dir) is None
    prepare_data_dir(value)
    assert load_spec(value.data_dir) == value
    inode = (value.data_dir / SPEC_FILE).stat().st_ino
    prepare_data_dir(value)
    assert (value.data_dir / SPEC_FILE).stat().st_ino == inode
    prepare_data_dir(replace(value, heartbeat_ms=20))
    assert load_spec(value.data_dir) == replace(value, heartbeat_ms=20)


@pytest.mark.parametrize(
    "change", [{"nodes": 5}, {"groups": 2}, {"name": "other"}, {"cluster_id": "1" * 32}]
)
def test_what_a_cluster_is_cannot_be_changed(tmp_path, change):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    prepare_data_dir(value)
    with pytest.raises(CommandError, match=f"with {next(iter(change))} =") as caught:
        prepare_data_dir(replace(value, **change))
    assert caught.value.exit_code is Exit.USAGE
    assert load_spec(value.data_dir) == value


def test_every_node_gets_its_directory_once(tmp_path):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    prepare_data_dir(value)
    for node in value.node_ids:
        assert read_identity(value.node_dir(node)) == Identity(value.cluster_id, node)
    shutil.rmtree(value.node_dir(2))
    prepare_data_dir(value)
    assert not value.node_dir(2).exists(), "it was emptied: nobody makes it anew"


def test_a_directory_that_takes_no_identity_is_named_and_not_called_emptied(tmp_path, monkeypatch):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    real = identity.write_atomically

    def full_at_n2(path, text):
        if path.parent == value.node_dir(2):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, text)

    monkeypatch.setattr(identity, "write_atomically", full_at_n2)
    with pytest.raises(CommandError, match=r"n2: .*No space left") as caught:
        prepare_data_dir(value)
    assert caught.value.exit_code is Exit.UNFIT
    monkeypatch.undo()
    prepare_data_dir(value)
    assert read_identity(value.node_dir(2)) == Identity(value.cluster_id, 2)


def test_a_directory_of_another_is_left_for_its_node_to_refuse(tmp_path):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    claim_directory(value.node_dir(2), Identity("2" * 32, 2))
    (value.data_dir / SPEC_FILE).write_text(value.to_json())
    prepare_data_dir(value)
    assert read_identity(value.node_dir(2)) == Identity("2" * 32, 2)
    assert json.loads((value.data_dir / NODES_FILE).read_text())["prepared"] == [1, 2, 3]
    shutil.rmtree(value.node_dir(2))
    prepare_data_dir(value)
    assert not value.node_dir(2).exists(), "it may have served before"


def test_a_launcher_that_died_while_it_prepared_prepares_once_more(tmp_path):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    prepare_data_dir(value)
    (value.data_dir / NODES_FILE).unlink()
    shutil.rmtree(value.node_dir(2))
    prepare_data_dir(value)
    assert read_identity(value.node_dir(2)) == Identity(value.cluster_id, 2)
    assert json.loads((value.data_dir / NODES_FILE).read_text())["prepared"] == [1, 2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"prepared": [1, 2, 3]}',
        '{"format": 1, "prepared": 3}',
        '{"format": 1, "prepared": "123"}',
        '{"format": 1, "prepared": ["1"]}',
        pytest.param("[" * 60_000, id="deep"),
    ],
)
def test_a_damaged_list_of_nodes_is_refused_and_left_alone(tmp_path, text):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    prepare_data_dir(value)
    (value.data_dir / NODES_FILE).write_text(text)
    with pytest.raises(CommandError, match=r"NODES\.json") as caught:
        prepare_data_dir(value)
    assert caught.value.exit_code is Exit.UNFIT
    assert (value.data_dir / NODES_FILE).read_text() == text


def test_a_list_of_nodes_of_a_newer_format_is_refused(tmp_path):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    prepare_data_dir(value)
    (value.data_dir / NODES_FILE).write_text('{"format": 2, "prepared": [1, 2, 3]}')
    with pytest.raises(CommandError, match=r"NODES\.json: format 2 is newer") as caught:
        prepare_data_dir(value)
    assert caught.value.exit_code is Exit.UNFIT


def test_a_list_of_nodes_that_cannot_be_read_is_named(tmp_path):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    (value.data_dir / NODES_FILE).mkdir()
    (value.data_dir / SPEC_FILE).write_text(value.to_json())
    with pytest.raises(CommandError, match=r"NODES\.json: Is a directory") as caught:
        prepare_data_dir(value)
    assert caught.value.exit_code is Exit.UNFIT


def test_a_launcher_killed_while_it_wrote_the_description_is_no_stranger(tmp_path):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    (value.data_dir / f".{SPEC_FILE}.123.tmp").write_text('{"clus')
    prepare_data_dir(value)
    assert load_spec(value.data_dir) == value


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    value = spec(tmp_path)
    value.data_dir.mkdir()
    (value.data_dir / "thesis.tex").write_text("ten years")
    with pytest.raises(CommandError, match=r"thesis\.tex") as caught:
        prepare_data_dir(value)
    assert caught.value.exit_code is Exit.USAGE
    assert [path.name for path in value.data_dir.iterdir()] == ["thesis.tex"]


def test_a_newer_format_is_refused_as_unfit(tmp_path):
    (tmp_path / SPEC_FILE).write_text('{"format": 2, "what": "ever"}')
    with pytest.raises(CommandError, match=r"CLUSTER\.json: format 2 is newer") as caught:
        load_spec(tmp_path)
    assert caught.value.exit_code is Exit.UNFIT


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.pop("format"),
        lambda d: d.pop("name"),
        lambda d: d.update(speed=1),
        lambda d: d.update(nodes="3"),
        lambda d: d.update(wal={"speed": 1}),
        lambda d: d.update(wal=3),
        lambda d: d.update(entry_paths=[3]),
        lambda d: d.update(entry_options=3),
        lambda d: d.update(data_dir="/etc"),
    ],
)
def test_a_damaged_file_is_a_usage_error(tmp_path, edit):
    document = json.loads(spec(tmp_path).to_json())
    edit(document)
    (tmp_path / SPEC_FILE).write_text(json.dumps(document))
    with pytest.raises(CommandError, match=r"CLUSTER\.json") as caught:
        load_spec(tmp_path)
    assert caught.value.exit_code is Exit.USAGE


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "x" * (65 << 10)])
def test_what_is_no_document_is_a_usage_error(tmp_path, text):
    (tmp_path / SPEC_FILE).write_text(text)
    with pytest.raises(CommandError) as caught:
        load_spec(tmp_path)
    assert caught.value.exit_code is Exit.USAGE


def test_recording_can_be_turned_off_and_on_and_stays_so(tmp_path, desk, monkeypatch):
    from click.testing import CliRunner

    from cluster.cli import raftdeck
    from cluster.cli_support import State
    from cluster.local import LocalCluster

    seen = []

    def launch(spec):
        seen.append(spec.recording_bytes)
        spec.data_dir.mkdir(exist_ok=True)
        prepare_data_dir(spec)
        raise CommandError(Exit.FAILED, "far enough")

    monkeypatch.setattr(LocalCluster, "launch_detached", launch)
    for flags in ([], ["--no-record"], [], ["--record"], []):
        arguments = ["up", "-d", "--data", str(tmp_path / "data"), *flags]
        CliRunner().invoke(raftdeck, arguments, obj=State())
    assert seen == [64 << 20, 0, 0, 64 << 20, 64 << 20]
    with pytest.raises(CommandError, match="recording_bytes"):
        ClusterSpec(name="a", data_dir=tmp_path, recording_bytes=-1)
