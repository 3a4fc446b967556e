import json
import os

import pytest

from node.exits import NodeExit
from node.identity import (
    IDENTITY_FILE,
    Identity,
    IdentityError,
    claim_directory,
    read_identity,
    recognise_directory,
    write_atomically,
)

OURS = Identity("0" * 32, 1)


def test_an_empty_directory_is_claimed_once_and_recognised_after(tmp_path):
    directory = tmp_path / "deep" / "n1"
    claim_directory(directory, OURS)
    assert read_identity(directory) == OURS
    before = (directory / IDENTITY_FILE).stat()
    claim_directory(directory, OURS)
    assert (directory / IDENTITY_FILE).stat().st_ino == before.st_ino
    assert [path.name for path in directory.iterdir()] == [IDENTITY_FILE]


@pytest.mark.parametrize(
    ("theirs", "text"),
    [(Identity("1" * 32, 1), "belongs to cluster 1111"), (Identity("0" * 32, 2), "node n2")],
)
def test_a_foreign_directory_is_refused_and_left_alone(tmp_path, theirs, text):
    claim_directory(tmp_path, theirs)
    before = (tmp_path / IDENTITY_FILE).read_bytes()
    with pytest.raises(IdentityError, match=text) as caught:
        claim_directory(tmp_path, OURS)
    assert caught.value.exit_code == NodeExit.FOREIGN_IDENTITY
    assert (tmp_path / IDENTITY_FILE).read_bytes() == before


def test_a_log_without_an_identity_is_refused(tmp_path):
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / "00000001.wal").write_bytes(b"x")
    with pytest.raises(IdentityError, match="holds a log but no IDENTITY") as caught:
        claim_directory(tmp_path, OURS)
    assert caught.value.exit_code == NodeExit.FOREIGN_IDENTITY
    assert not (tmp_path / IDENTITY_FILE).exists()


def test_a_prepared_directory_is_recognised_and_an_emptied_one_is_refused(tmp_path):
    claim_directory(tmp_path, OURS)
    recognise_directory(tmp_path, OURS)
    with pytest.raises(IdentityError, match="not to n2"):
        recognise_directory(tmp_path, Identity(OURS.cluster_id, 2))
    (tmp_path / IDENTITY_FILE).unlink()
    with pytest.raises(IdentityError, match="was emptied, and with it the votes") as caught:
        recognise_directory(tmp_path, OURS)
    assert caught.value.exit_code == NodeExit.CORRUPT_LOG
    assert not list(tmp_path.iterdir()), "a refused start writes nothing"


def test_a_newer_format_is_refused_by_its_own_code(tmp_path):
    text = json.dumps({"format": 2, "who": "knows"})
    (tmp_path / IDENTITY_FILE).write_text(text)
    with pytest.raises(IdentityError, match="format 2 is newer") as caught:
        claim_directory(tmp_path, OURS)
    assert caught.value.exit_code == NodeExit.OTHER_FORMAT
    assert (tmp_path / IDENTITY_FILE).read_text() == text


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '{"format": 1}', '{"format": 1, "cluster_id": 3, "node": 1}', "[" * 4096],
)
def test_a_damaged_identity_is_refused(tmp_path, text):
    (tmp_path / IDENTITY_FILE).write_text(text)
    with pytest.raises(IdentityError, match="not an identity file") as caught:
        claim_directory(tmp_path, OURS)
    assert caught.value.exit_code == NodeExit.DATA_DIR_UNUSABLE


def test_a_path_that_is_no_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="data directory") as caught:
        claim_directory(tmp_path / "file", OURS)
    assert caught.value.exit_code == NodeExit.DATA_DIR_UNUSABLE


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_synced_before_the_rename_and_the_directory_after(tmp_path, monkeypatch):
    seen = []
    fsync = os.fsync

    def record(descriptor):
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / "file").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_atomically(tmp_path / "file", "text")
    (first, existed_first), (second, existed_second) = seen
    assert first.endswith(".tmp")
    assert not existed_first
    assert second == str(tmp_path)
    assert existed_second
