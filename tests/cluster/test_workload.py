"""Workload sources: order, keys, totals, rounds, errors."""

from __future__ import annotations

import hashlib
import os
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster import workload
from cluster.workload import (
    CHUNK_BYTES,
    Item,
    WorkloadError,
    read_input,
    standard_library,
    synthetic,
)
from node.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def keys(source) -> list[bytes]:
    return [item.key for item in source]


def test_a_directory_gives_its_files_in_order(tmp_path):
    files = {"b.txt": b"\x00\xff", "a/z": b"", "a/y": b"1", "a.txt": b"2", "c/__pycache__/x": b"3"}
    source = read_input(tree(tmp_path, files | {"site-packages/x": b"4"}))
    assert list(source) == [
        Item(b"a.txt", b"2"),
        Item(b"b.txt", b"\x00\xff"),
        Item(b"a/y", b"1"),
        Item(b"a/z", b""),
    ]
    assert (source.items, source.value_bytes) == (4, 4)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_large_file_comes_in_numbered_parts(tmp_path, size):
    content = bytes(i * 31 % 251 for i in range(size))
    source = read_input(tree(tmp_path, {"f": content}))
    items = list(source)
    assert b"".join(item.value for item in items) == content
    assert max(len(item.value) for item in items) <= CHUNK_BYTES
    expected = [b"f#%06d" % n for n in range(1, len(items) + 1)] if size > CHUNK_BYTES else [b"f"]
    assert [item.key for item in items] == expected
    assert (source.items, source.value_bytes) == (len(items), size)


def test_names_that_are_not_text_and_names_with_a_hash_keep_distinct_keys(tmp_path):
    root = os.fsencode(tmp_path)
    for name in (b"\xff\xfe", b"a", b"b"):
        Path(os.fsdecode(os.path.join(root, name))).write_bytes(bytes(CHUNK_BYTES + 1))
    for name in (b"a#000001", b"a##000001", b"c", b"c#r000002", b"b#000001#r000003"):
        Path(os.fsdecode(os.path.join(root, name))).write_bytes(b"small")
    source = read_input(tmp_path)
    taken = list(islice(source.rounds(), 3 * source.items))
    assert len({item.key for item in taken}) == len(taken)
    assert b"\xff\xfe#000001" in keys(source)


def test_links_and_pipes_that_lead_nowhere_are_passed_over(tmp_path):
    tree(tmp_path, {"a": b"1"})
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert keys(read_input(tmp_path)) == [b"a"]


def test_a_file_gives_its_lines(tmp_path):
    path = tree(tmp_path, {"in.txt": b"one\n\n\xff\x00\r\nlast"}) / "in.txt"
    source = read_input(path)
    assert list(source) == [
        Item(b"in.txt:000000001", b"one"),
        Item(b"in.txt:000000002", b""),
        Item(b"in.txt:000000003", b"\xff\x00\r"),
        Item(b"in.txt:000000004", b"last"),
    ]
    assert (source.items, source.value_bytes) == (4, 10)


@given(st.binary(min_size=1, max_size=60).map(lambda b: b.replace(b"\x01", b"\n")))
@example(b"12345678\n")
@example(b"1234567890123456\nx")
@example(b"12345678")
@example(b"\n")
def test_lines_hold_every_byte_of_the_file(content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload, "CHUNK_BYTES", 8)
        path = Path("/tmp") / f"rd-lines-{os.getpid()}"
        path.write_bytes(content)
        try:
            source = read_input(path)
            items = list(source)
        finally:
            path.unlink()
    lines: dict[bytes, bytes] = {}
    for item in items:
        name, _, _ = item.key.partition(b"#")
        lines[name] = lines.get(name, b"") + item.value
        assert len(item.value) <= 8
        assert item.value or b"#" not in item.key, "an empty piece"
    expected = content.split(b"\n")
    if content.endswith(b"\n"):
        expected.pop()
    assert list(lines.values()) == expected
    assert len({item.key for item in items}) == len(items) == source.items
    assert sum(len(item.value) for item in items) == source.value_bytes


def test_rounds_never_repeat_a_key(tmp_path):
    source = read_input(tree(tmp_path, {"a": b"1", "b": b"2"}))
    taken = list(islice(source.rounds(), 6))
    assert keys(taken) == [b"a", b"b", b"a#r000002", b"b#r000002", b"a#r000003", b"b#r000003"]
    assert [item.value for item in taken] == [b"1", b"2"] * 3


def test_an_item_knows_the_digest_of_its_value():
    assert Item(b"k", b"v").sha256 == hashlib.sha256(b"v").digest()


def test_what_grows_while_it_is_read_keeps_its_totals(tmp_path):
    path = tree(tmp_path, {"a": b"one\ntwo\n"}) / "a"
    whole, lines = read_input(tmp_path), read_input(path)
    path.write_bytes(b"one\ntwo\nthree\n")
    assert [item.value for item in whole] == [b"one\ntwo\n"]
    assert [item.value for item in lines] == [b"one", b"two"]


def test_what_shrinks_or_vanishes_while_it_is_read_is_an_error(tmp_path):
    path = tree(tmp_path, {"a": b"one\ntwo\n"}) / "a"
    whole, lines = read_input(tmp_path), read_input(path)
    path.write_bytes(b"one")
    for source in (whole, lines):
        with pytest.raises(WorkloadError, match=r"/a: became shorter"):
            list(source)
    path.unlink()
    for source in (whole, lines):
        with pytest.raises(WorkloadError, match=r"/a: cannot be read: No such file"):
            list(source)


def test_a_missing_input_is_a_clear_error(tmp_path):
    with pytest.raises(WorkloadError, match="no such file or directory; check the path"):
        read_input(tmp_path / "none")


def test_an_empty_input_is_a_clear_error(tmp_path):
    empty = tree(tmp_path, {"empty": b""}) / "empty"
    with pytest.raises(WorkloadError, match="is empty"):
        read_input(empty)
    (tmp_path / "d").mkdir()
    with pytest.raises(WorkloadError, match="holds no files"):
        read_input(tmp_path / "d")


def test_a_pipe_is_no_input(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WorkloadError, match="neither a file nor a directory"):
        read_input(tmp_path / "pipe")


def test_an_unreadable_input_is_a_clear_error(tmp_path, monkeypatch):
    # Root reads everything, so the refusal is played by the calls that would report it.
    tree(tmp_path, {"d/secret": b"1"})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(WorkloadError, match=r"d/secret: cannot be read; check its permissions"):
        read_input(tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(WorkloadError, match="cannot be read: Permission denied"):
        read_input(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_directory_without_permission_is_a_clear_error(tmp_path):
    closed = tree(tmp_path, {"d/secret": b"1"}) / "d"
    closed.chmod(0)
    try:
        with pytest.raises(WorkloadError, match="cannot be read"):
            read_input(tmp_path)
    finally:
        closed.chmod(0o700)


def test_a_path_too_long_for_a_key_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr(workload, "KEY_BYTES_MAX", 50)
    tree(tmp_path, {"x" * 60: b""})
    with pytest.raises(WorkloadError, match="shorten the path"):
        read_input(tmp_path)


def test_the_standard_library_is_a_workload():
    source = standard_library()
    head = list(islice(source, 50))
    assert head == list(islice(standard_library(), 50))
    found = {key.partition(b"#")[0] for key in keys(source)}
    assert {b"os.py", b"asyncio/events.py"} <= found
    assert not any(b"__pycache__" in key or b"site-packages" in key for key in found)
    assert source.items > 500
    assert max(map(len, found)) < KEY_BYTES_MAX


def test_synthetic_keys_are_bounded_and_values_never_repeat():
    source = synthetic(keys=10, value_bytes=100, seed=3)
    taken = list(islice(source.rounds(), 35))
    assert keys(taken[:10]) == keys(taken[10:20]) == keys(source)
    assert len(set(keys(taken))) == 10
    assert {len(item.value) for item in taken} == {100}
    assert len({item.value for item in taken}) == 35
    assert taken == list(islice(synthetic(10, 100, 3).rounds(), 35))
    assert (source.items, source.value_bytes) == (10, 1_000)


def test_synthetic_values_differ_even_when_the_noise_comes_round(monkeypatch):
    monkeypatch.setattr(workload, "_NOISE_BYTES", 16)
    taken = list(islice(synthetic(keys=10, value_bytes=20).rounds(), 100))
    assert len({item.value for item in taken}) == 100


@pytest.mark.parametrize("size", [0, 3, 8, VALUE_BYTES_MAX])
def test_synthetic_values_have_the_size_asked_for(size):
    assert {len(item.value) for item in synthetic(3, size)} == {size}


@pytest.mark.parametrize(("number", "size"), [(0, 1), (1, -1), (1, VALUE_BYTES_MAX + 1)])
def test_synthetic_bounds_are_clear_errors(number, size):
    with pytest.raises(WorkloadError):
        synthetic(number, size)
