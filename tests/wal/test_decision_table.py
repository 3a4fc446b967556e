"""The decision table of docs/durability.md: each row is built, and opened in both modes.

A row is where the log is damaged, whether it was stopped cleanly, and what stands behind the damage;
what an open does about it follows. The page and this file name the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest

from node.exits import NodeExit
from node.main import _EXITS
from tests.wal.crashfs import CrashFilesystem
from tests.wal.support import (
    DIRECTORY,
    IDENTITY,
    ROOT,
    SMALL,
    batch,
    fill_segments,
    opened,
    options,
    spans,
    wal_names,
)
from tests.wal.test_failures import step_log
from wal import CorruptLogError, Log, SyncPolicy, TornTailError, WalError, recover
from wal.recovery import Recovered, RecoveryMode
from wal.sealed import read_sealed
from wal.segment import SEALED_NAME, segment_number

FIRST, SECOND, THIRD = (f"{DIRECTORY}/{number:08d}.wal" for number in (1, 2, 3))
SEALED = f"{DIRECTORY}/{SEALED_NAME}"
PAGE = ROOT / "docs" / "durability.md"


@dataclass(frozen=True)
class Row:
    """What an open in default mode does: the last index that it finds, or why it refuses."""

    build: Callable[[], CrashFilesystem]
    last: int | None = None
    """None: wherever the segments that are left end."""
    torn: str = ""
    """Reason of the torn tail that is cut; strict refuses it."""
    refused: str = ""
    """Part of the error of both modes."""


def end_of(fs: CrashFilesystem) -> int:
    """Where the log ends in its newest segment."""
    return recover(fs, DIRECTORY, IDENTITY).end & 0xFFFF_FFFF


def three_flushes(*, sealed: bool = False, policy: SyncPolicy = SMALL) -> CrashFilesystem:
    """One segment: batches 1, 2, 3, each made durable before the next."""
    fs = CrashFilesystem()
    log, _ = Log.open(fs, DIRECTORY, IDENTITY, options(policy))
    for index in (1, 2, 3):
        log.append([batch(index)])
    log.seal_and_close() if sealed else log.abort()
    fs.kill()
    return fs


def flipped(fs: CrashFilesystem, index: int, path: str = FIRST) -> CrashFilesystem:
    """Damage the body of a batch, which says of itself which it is."""
    place = fs.read(path).index(f"0/1/{index};".encode())
    fs.flip(path, place)
    return fs


def one_write_of_three() -> CrashFilesystem:
    """Batch 1 durable; 2, 3 and 4 in one write."""
    fs = CrashFilesystem()
    log, driver = step_log(fs)
    while driver.pump():
        pass
    log.append([batch(1)])
    while driver.pump():
        pass
    for index in (2, 3, 4):
        log.append([batch(index)])
    while driver.pump():
        pass
    fs.kill()
    return fs


def segments(count: int = 3, *, sealed: bool = False) -> CrashFilesystem:
    """Batches of 8,000 bytes, eight to a segment."""
    fs = CrashFilesystem()
    log, _ = Log.open(fs, DIRECTORY, IDENTITY, options(SMALL))
    index = 1
    while f"{count:08d}.wal" not in wal_names(fs):
        index = fill_segments(log, index, 1)
    log.seal_and_close() if sealed else log.abort()
    fs.kill()
    return fs


def without(fs: CrashFilesystem, path: str) -> CrashFilesystem:
    fs.vanish(path)
    return fs


def with_bytes(fs: CrashFilesystem, path: str, data: bytes, offset: int) -> CrashFilesystem:
    """Put bytes into a file."""
    content = bytearray(fs.read(path))
    content[offset : offset + len(data)] = data
    fs.put(path, bytes(content))
    return fs


def garbage_behind(fs: CrashFilesystem) -> CrashFilesystem:
    return with_bytes(fs, FIRST, b"\xa5" * 300, end_of(fs) + 64)


def empty_newest() -> CrashFilesystem:
    fs = three_flushes()
    fs.put(SECOND, b"")
    return fs


def torn_newest() -> CrashFilesystem:
    """The write that began the newest segment, its checkpoint, was torn."""
    fs = segments(2)
    fs.flip(SECOND, 40)
    return fs


def cut_down(fs: CrashFilesystem, index: int) -> CrashFilesystem:
    """End the file in the middle of a batch."""
    content = fs.read(FIRST)
    fs.put(FIRST, content[: content.index(f"0/1/{index};".encode()) + 20])
    return fs


def stale_behind() -> CrashFilesystem:
    """A file that is used again: valid frames of its earlier use stand behind the end."""
    fs = CrashFilesystem()
    log, _ = Log.open(fs, DIRECTORY, IDENTITY, options(SMALL))
    index = fill_segments(log, 1, 20)
    log.release(0, index - 1, 1)
    while not log.stats().segments_recycled:
        index = fill_segments(log, index, 1)
    log.abort()
    fs.kill()
    newest = max(name for name in wal_names(fs) if name.endswith(".wal"))
    assert b"0/1/" in fs.read(f"{DIRECTORY}/{newest}")[end_of(fs) :]
    return fs


def flipped_first(fs: CrashFilesystem) -> CrashFilesystem:
    """Damage the first frame of the log."""
    fs.flip(FIRST, 40)
    return fs


def lone_checkpoint() -> CrashFilesystem:
    """A log whose very first write was torn: nothing was durable yet."""
    fs = three_flushes()
    fs.put(FIRST, fs.read(FIRST)[:60])
    return fs


ROWS: Mapping[str, Row] = {
    "whole, crashed": Row(three_flushes, last=3),
    "whole, stopped": Row(lambda: three_flushes(sealed=True), last=3),
    "last flush": Row(lambda: flipped(three_flushes(), 3), last=2, torn="body CRC"),
    "last flush, stopped": Row(
        lambda: flipped(three_flushes(sealed=True), 3), refused="the log was stopped cleanly"
    ),
    "last flush, a later frame of it whole": Row(
        lambda: flipped(one_write_of_three(), 2), last=1, torn="body CRC"
    ),
    "file ends in the last flush": Row(
        lambda: cut_down(three_flushes(), 3), last=2, torn="does not fit"
    ),
    "before the last flush": Row(lambda: flipped(three_flushes(), 2), refused="proved durable by"),
    "before the last flush, stopped": Row(
        lambda: flipped(three_flushes(sealed=True), 2), refused="the log was stopped cleanly"
    ),
    "first frame": Row(lambda: flipped_first(three_flushes()), refused="proved durable by"),
    "first frame, nothing behind": Row(lone_checkpoint, last=0),
    "older segment": Row(
        lambda: flipped(segments(), 2), refused="proved durable by segment 00000002.wal"
    ),
    "start of a middle segment": Row(
        lambda: with_bytes(segments(), SECOND, bytes(200), 0), refused="proved durable by"
    ),
    "start of the newest segment": Row(torn_newest, torn="CRC"),
    "newest segment empty": Row(empty_newest, last=3),
    "middle segment missing": Row(
        lambda: without(segments(), SECOND), refused="00000002.wal is missing"
    ),
    "oldest segment missing": Row(lambda: without(segments(), FIRST), refused="are missing"),
    "newest segment missing": Row(lambda: without(segments(2), SECOND)),
    "newest segment missing, stopped": Row(
        lambda: without(segments(2, sealed=True), SECOND), refused="00000002.wal is missing"
    ),
    "zeros behind the end": Row(
        lambda: with_bytes(three_flushes(), FIRST, bytes(9000), end_of(three_flushes())), last=3
    ),
    "garbage behind the end": Row(lambda: garbage_behind(three_flushes()), last=3, torn="CRC"),
    "garbage behind the end, stopped": Row(
        lambda: garbage_behind(three_flushes(sealed=True)), last=3
    ),
    "stale frames behind the end": Row(stale_behind),
    "SEALED damaged": Row(
        lambda: with_bytes(three_flushes(sealed=True), SEALED, b"\xff", 9),
        refused="the file SEALED of the clean stop is damaged",
    ),
}


def try_open(fs: CrashFilesystem, mode: RecoveryMode) -> Recovered | WalError:
    """Open and abort; a refusal changes nothing."""
    before = {name: fs.read(f"{DIRECTORY}/{name}") for name in wal_names(fs)}
    try:
        log, found = Log.open(fs, DIRECTORY, IDENTITY, replace(options(), recovery=mode))
    except WalError as error:
        assert {name: fs.read(f"{DIRECTORY}/{name}") for name in wal_names(fs)} == before
        assert not fs.locked
        return error
    assert read_sealed(fs, DIRECTORY) is None
    log.abort()
    return found


def last_of(found: Recovered) -> int:
    ends = spans(found)
    return ends[-1][2] if ends else 0


@pytest.mark.parametrize("name", ROWS)
def test_default(name: str) -> None:
    row = ROWS[name]
    fs = row.build()
    sizes = {name: len(fs.read(f"{DIRECTORY}/{name}")) for name in wal_names(fs)}
    outcome = try_open(fs, "default")
    if row.refused:
        assert isinstance(outcome, CorruptLogError), outcome
        assert row.refused in str(outcome)
        assert "raftdeck wal verify" in str(outcome)
        assert _EXITS[type(outcome)] is NodeExit.CORRUPT_LOG
        return
    assert isinstance(outcome, Recovered), outcome
    assert bool(outcome.torn) == bool(row.torn)
    if outcome.torn is not None:
        assert row.torn in outcome.torn.reason, outcome.torn
        number, offset = outcome.torn.position >> 32, outcome.torn.position & 0xFFFF_FFFF
        behind = sum(size for name, size in sizes.items() if (segment_number(name) or 0) >= number)
        assert outcome.torn.bytes == behind - offset
        assert outcome.torn.position == outcome.end
    last = last_of(outcome)
    assert row.last in (None, last)
    with opened(fs) as log:  # what is appended behind the cut stays
        log.append([batch(last + 1)])
    with opened(fs):
        pass
    assert last_of(recover(fs, DIRECTORY, IDENTITY)) == last + 1


@pytest.mark.parametrize("name", ROWS)
def test_strict(name: str) -> None:
    row = ROWS[name]
    outcome = try_open(row.build(), "strict")
    if row.refused:
        assert isinstance(outcome, CorruptLogError)
        assert row.refused in str(outcome)
    elif row.torn:
        assert isinstance(outcome, TornTailError), outcome
        assert "torn tail of" in str(outcome)
        assert "--recovery default" in str(outcome)
        assert _EXITS[type(outcome)] is NodeExit.CORRUPT_LOG
    else:
        assert isinstance(outcome, Recovered), outcome


def test_the_page_names_these_rows_and_what_becomes_of_them() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = {row[0]: row[-2:] for row in cells if row[0] in ROWS}
    assert list(table) == list(ROWS)
    for name, row in ROWS.items():
        wanted = ["refused, 65"] * 2 if row.refused else ["opens"] * 2
        wanted = ["cut, opens", "refused, 65"] if row.torn else wanted
        assert [cell.replace("**", "") for cell in table[name]] == wanted, name
