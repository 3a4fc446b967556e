"""The log's tools on what is no log, cannot be read, or cannot be written: words and exit codes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.wal.support import ROOT, batch, open_log
from tests.wal.tool import run

READ = [
    ["verify"],
    ["verify", "--json"],
    ["stat"],
    ["stat", "--json"],
    ["dump"],
    ["dump", "--json", "--hex"],
    ["tail"],
    ["tail", "--jsonl"],
    ["repair", "--dry-run"],
]
"""Every verb that takes a DIR."""


def missing(place: Path) -> None:
    """Nothing there."""


def empty(place: Path) -> None:
    place.mkdir()


def empty_log_directory(place: Path) -> None:
    (place / "wal").mkdir(parents=True)


def foreign_directory(place: Path) -> None:
    place.mkdir()
    (place / "notes.txt").write_text("hello")


def text_file(place: Path) -> None:
    place.write_text("hello\n" * 100)


def dangling_link(place: Path) -> None:
    place.symlink_to(place.with_name("nowhere"))


def pipe(place: Path) -> None:
    os.mkfifo(place)


@pytest.mark.parametrize("arguments", READ, ids=" ".join)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "No such file or directory"),
        (empty, "no log here; name a node's data directory"),
        (empty_log_directory, "no log here; name a node's data directory"),
        (foreign_directory, "no log here; name a node's data directory"),
        (text_file, "a file, and no node's data directory; for a CWal file there is: raftdeck wal"),
        (pipe, "a file, and no node's data directory"),
        (dangling_link, "No such file or directory"),
    ],
)
def test_what_is_no_log_is_named_and_is_wrong_use(
    arguments: list[str], make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    make(place)
    before = sorted(tmp_path.rglob("*"))
    result = run(*arguments, place)
    assert result.exit_code == 2
    assert f"{place}" in result.stderr
    assert words in result.stderr
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", READ, ids=" ".join)
def test_a_directory_in_a_segments_place_is_named(arguments: list[str], tmp_path: Path) -> None:
    """The kernel does not say which file it was; the tool says which log."""
    (tmp_path / "wal" / "00000001.wal").mkdir(parents=True)
    result = run(*arguments, tmp_path)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"Error: {tmp_path}/wal: Is a directory\n")


@pytest.mark.parametrize("verb", ["verify", "stat"])
def test_a_segment_that_holds_nothing_of_the_log_is_told(verb: str, tmp_path: Path) -> None:
    """It is no damage: a crash leaves one. But a person who put a text there should see it."""
    log, _ = open_log(directory=tmp_path / "wal")
    log.append([batch(1)])
    log.abort()
    assert "unstarted" not in run(verb, tmp_path).stdout
    (tmp_path / "wal" / "00000002.wal").write_text("hello\n" * 100)
    result = run(verb, tmp_path)
    assert result.exit_code == 0
    line = "unstarted  00000002.wal holds nothing of this log; the next start removes it\n"
    assert line in result.stdout
    assert '"unstarted": [\n    "00000002.wal"\n  ]' in run(verb, "--json", tmp_path).stdout
    log, found = open_log(directory=tmp_path / "wal")
    assert found.unstarted == (2,)
    log.abort()
    assert "unstarted" not in run(verb, tmp_path).stdout


@pytest.mark.parametrize("arguments", [["convert"], ["cwal", "verify"], ["cwal", "dump"]])
def test_a_pipe_or_a_device_is_no_cwal_file(arguments: list[str], tmp_path: Path) -> None:
    """A pipe would be waited for, and a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    target = [tmp_path / "target"] if arguments == ["convert"] else []
    for place in (tmp_path / "pipe", Path(os.devnull)):
        assert not stat.S_ISREG(place.stat().st_mode)
        result = run(*arguments, place, *target)
        assert result.exit_code == 2
        assert f"{place}: neither a file nor a directory" in result.stderr
    (tmp_path / "log.cwal").write_bytes(b"")
    result = run("convert", tmp_path / "log.cwal", "--copy", tmp_path / "pipe", tmp_path / "target")
    assert result.exit_code == 2
    assert f"{tmp_path}/pipe: neither a file nor a directory" in result.stderr
    assert not (tmp_path / "target").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [*READ, ["convert"], ["cwal", "dump"]], ids=" ".join)
def test_a_standard_output_that_is_full_is_named(arguments: list[str], tmp_path: Path) -> None:
    log, _ = open_log(directory=tmp_path / "wal")
    log.append([batch(1)])
    log.abort()
    run("convert", tmp_path, tmp_path / "log.cwal")
    place = tmp_path / "log.cwal" if arguments[0] == "cwal" else tmp_path
    more = [tmp_path / "again.cwal"] if arguments == ["convert"] else []
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wal", *arguments, str(place), *more],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.stderr == "Error: standard output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("arguments", READ, ids=" ".join)
@pytest.mark.parametrize("hidden", ["wal", "wal/00000001.wal"])
def test_what_may_not_be_read_is_named(arguments: list[str], hidden: str, tmp_path: Path) -> None:
    log, _ = open_log(directory=tmp_path / "wal")
    log.append([batch(1)])
    log.abort()
    (tmp_path / hidden).chmod(0)
    try:
        result = run(*arguments, tmp_path)
    finally:
        (tmp_path / hidden).chmod(0o700)
    assert result.exit_code == 2
    assert f"{tmp_path}/{hidden}: Permission denied" in result.stderr
