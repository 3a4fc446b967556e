"""`raftdeck wal tail|repair|convert|cwal`: beside those of `wal.inspect`, which only look."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from typing import Any, Final

import click

from wal.console import (
    EXIT_DAMAGED,
    CwalFile,
    LogDirectory,
    Progress,
    WatchedFilesystem,
    closing_with,
    directory_argument,
    fail,
    json_option,
    say,
    told,
)
from wal.convert import Conversion, from_cwal, to_cwal
from wal.cwal import CwalEntry, CwalError, CwalStop
from wal.cwal_reader import MirrorReader, read_file
from wal.errors import CorruptLogError, IdentityMismatchError, LockedError
from wal.filesystem import OsFilesystem
from wal.follow import Follower, newest
from wal.inspect import wal_commands
from wal.recovery import recover
from wal.repair import Repair, RepairError, damage_text, repair, salvage
from wal.show import HEX_BYTES_MAX, Shower, group_of, hex_lines
from wal.survey import Sight

__all__ = ["wal_commands"]

EXIT_INTERRUPTED: Final = 130
POLL_S: Final = 0.2
"""How often a followed log is looked at."""


# ---- tail --------------------------------------------------------------------------------------


@wal_commands.command(
    "tail",
    short_help="Print the newest frames, and what is added.",
    epilog=closing_with("tail -f --group 0 ./data/n1"),
)
@directory_argument
@click.option("-n", "--lines", "count", type=click.IntRange(0, 100_000), default=10, metavar="N",
              help="Begin with so many frames. [10]")  # fmt: skip
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.option("--idle", type=click.FloatRange(min=0), metavar="S",
              help="End the following after S seconds without a new frame.")  # fmt: skip
@click.option(
    "--group", type=click.IntRange(min=0), metavar="N", help="Only the records of one group."
)
@click.option("--hex", "as_hex", is_flag=True, help="Add each body: 4 KiB of it at most.")
@click.option("--jsonl", is_flag=True, help="Print one JSON document per frame.")
def tail(
    directory: str,
    count: int,
    group: int | None,
    idle: float | None,
    *,
    follow: bool,
    as_hex: bool,
    jsonl: bool,
) -> None:
    """Print the newest frames of a log, and those that are added to it."""
    fs = OsFilesystem()
    show = Shower(fs, directory, as_hex=as_hex)

    def emit(sight: Sight) -> None:
        if group is not None and group_of(sight) != group:
            return
        if jsonl:
            say(json.dumps(show.document(sight)))
        else:
            for line in show.lines(sight):
                say(line)

    with told(directory):
        sights = newest(fs, directory, max(count, 1))
        for sight in sights[len(sights) - count if count < len(sights) else 0 :] if count else ():
            emit(sight)
        if follow or idle is not None:
            whole = [sight for sight in sights if sight.damage is None]
            follower = Follower(fs, directory, whole[-1] if whole else None)
            for sight in _followed(follower, idle):
                emit(sight)


def _followed(follower: Follower, idle: float | None) -> Iterator[Sight]:
    """Yield what is added until nothing is for `idle` seconds, or Ctrl-C."""
    gaps, heard = 0, time.monotonic()
    try:
        while idle is None or time.monotonic() - heard <= idle:
            for sight in follower.added():
                heard = time.monotonic()
                yield sight
            if follower.gaps > gaps:
                gaps = follower.gaps
                click.echo("some segments were given back before they were seen", err=True)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


# ---- repair ------------------------------------------------------------------------------------


@wal_commands.command("repair", epilog=closing_with("repair --dry-run ./data/n1"))
@directory_argument
@click.option("--dry-run", is_flag=True, help="Say what would be kept and lost; change nothing.")
@json_option
def repair_command(directory: str, *, dry_run: bool, as_json: bool) -> None:
    """Make a log again of what can be read of a damaged one.

    The damaged log is kept whole beside it, in DIR.damaged-N. An intact log is left as it is, and
    so is one with a torn tail, which the next start cuts. If the repair is interrupted, the node
    refuses the directory until it is repaired again.

    What is lost may have been acknowledged. Where a majority of the cluster is well, do not repair:
    restore the directory, or leave the node out; an emptied directory is refused.
    """
    with told(directory), Progress("reading") as progress:
        fs = WatchedFilesystem(progress)
        try:
            done = _rehearsed(fs, directory) if dry_run else repair(fs, directory)
        except (RepairError, LockedError) as error:
            raise fail(str(error), EXIT_DAMAGED) from None
    if done.damage and not dry_run:
        shutil.rmtree(f"{directory}.repaired", ignore_errors=True)
    document = {"schema": "raftdeck.wal.repair/1", "directory": directory, "dry_run": dry_run}
    document |= asdict(done)
    if as_json:
        say(json.dumps(document, indent=2))
    else:
        for line in _repair_lines(done, directory, dry_run=dry_run):
            say(line)
    if done.damage and dry_run:
        raise click.exceptions.Exit(EXIT_DAMAGED)


def _rehearsed(fs: WatchedFilesystem, directory: str) -> Repair:
    done = Repair()
    try:
        recover(fs, directory)
    except (CorruptLogError, IdentityMismatchError) as error:
        done.damage = damage_text(error)
        salvage(fs, directory, done)
    return done


def _repair_lines(done: Repair, directory: str, *, dry_run: bool) -> Iterator[str]:
    if not done.damage:
        yield f"intact     {directory}: nothing to repair"
        return
    yield f"damage     {done.damage}"
    yield f"frames     {done.frames_kept} readable, {done.frames_damaged} not"
    for loss in done.losses:
        yield f"lost       group {loss.group}: entries {loss.first} to {loss.last}"
    if not done.losses:
        yield "lost       no entries, as far as the readable frames tell"
    if dry_run:
        yield "dry run    nothing was changed"
    else:
        yield f"original   {done.copy}"
        yield f"repaired   {directory}"


# ---- convert -----------------------------------------------------------------------------------


@wal_commands.command(
    "convert",
    short_help="Turn a log into a CWal file, or one into a log.",
    epilog=closing_with("convert ./data/n1 n1.cwal"),
)
@click.argument("source", metavar="DIR|FILE", type=CwalFile(dir_okay=True))
@click.argument("target", metavar="TARGET", type=click.Path())
@click.option("--copy", "copies", multiple=True, metavar="FILE", type=CwalFile(),
              help="A mirrored copy of FILE; of each entry the good one is taken.")  # fmt: skip
@click.option("--group", type=click.IntRange(min=0), metavar="N",
              help="Of DIR: only the data of one group's entries, decompressed.")  # fmt: skip
@click.option("--salvage", is_flag=True, help="Of FILE: take what stands before the damage.")
@json_option
def convert(
    source: str,
    target: str,
    copies: tuple[str, ...],
    group: int | None,
    *,
    salvage: bool,
    as_json: bool,
) -> None:
    """Turn a log into a CWal file, or a CWal file into a log, and check what was written.

    A log in DIR becomes the file TARGET: its live state, record by record, so that the file can
    become the same log again. A CWal FILE becomes a log in the new directory TARGET; one that did
    not come from a log becomes entries of group 0, and the same file again, byte for byte.

    CWal files: u64 length, data, u32 CRC-32 of the data, little endian, entries end to end.
    """
    ours = os.path.isdir(source)
    if ours and (copies or salvage):
        raise click.UsageError("--copy and --salvage are for a CWal FILE, and the source is a DIR")
    if not ours and group is not None:
        raise click.UsageError("--group is for a DIR, and the source is a CWal FILE")
    target = target.rstrip("/")
    with told(source), Progress("converting") as progress:
        fs = WatchedFilesystem(progress)
        try:
            if ours:
                done = to_cwal(fs, LogDirectory().convert(source, None, None), target, group)
            else:
                done = from_cwal(fs, [source, *copies], target, salvage=salvage)
        except BaseException as error:
            if not isinstance(error, CwalError) or "interrupted" not in str(error):
                _remove(f"{target}.partial")
            raise
    _tell_conversion(source, target, done, as_json=as_json)


def _remove(path: str) -> None:
    """Take away what a conversion did not finish."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        os.unlink(path)


def _tell_conversion(source: str, target: str, done: Conversion, *, as_json: bool) -> None:
    document = {"schema": "raftdeck.wal.convert/1", "source": source, "target": target}
    document |= asdict(done)
    if as_json:
        say(json.dumps(document, indent=2))
        return
    what = "records of a log" if done.shape == "records" else "entries, data only"
    say(f"converted  {source} to {target}")
    say(f"entries    {done.entries:,} ({what}), {done.bytes:,} bytes")
    say(f"verified   read back and compared; sha256 {done.sha256}")
    if done.copies_damaged:
        say(f"copies     {done.copies_damaged} entries were damaged in one copy or another")
    if done.left_out:
        say(f"left out   {done.left_out}")


# ---- CWal files --------------------------------------------------------------------------------


@wal_commands.group(
    "cwal",
    short_help="Look at CWal files, and at copies of one.",
    epilog=closing_with("cwal verify log.cwal copy.cwal"),
)
def cwal() -> None:
    """Look at files in the format of CWal; several files are mirrored copies of one log."""


_files = click.argument(
    "paths",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=CwalFile(),
)


@cwal.command("verify", epilog=closing_with("cwal verify log.cwal copy.cwal"))
@_files
@json_option
def cwal_verify(paths: tuple[str, ...], *, as_json: bool) -> None:
    """Check every entry's CRC, in every copy.

    Intact: each copy is whole. Mended: each entry is whole in some copy. Zeros at the end are no
    damage; a torn tail is, because the format cannot tell the two apart.
    """
    stop = CwalStop()
    count = size = 0
    with told(paths[0]), Progress("verifying") as progress:
        fs = WatchedFilesystem(progress)
        if len(paths) == 1:
            damages: list[dict[str, Any]] = []
            for entry in read_file(fs, paths[0], stop):
                count, size = count + 1, size + len(entry.data)
            differing = []
        else:
            with MirrorReader(fs, paths) as mirror:
                for entry in mirror.entries(stop):
                    count, size = count + 1, size + len(entry.data)
                damages = [asdict(each) for each in mirror.damages]
                differing = [asdict(each) for each in mirror.differing]
    verdict = "damaged" if stop.damaged or differing else "mended" if damages else "intact"
    document = {
        "schema": "raftdeck.wal.cwal/1",
        "files": list(paths),
        "verdict": verdict,
        "entries": count,
        "bytes": size,
        "end": stop.offset,
        "rest": {"bytes": stop.rest, "reason": stop.reason, "resumes": stop.resumes},
        "copies_damaged": [*damages, *differing],
    }
    if as_json:
        say(json.dumps(document, indent=2))
    else:
        for line in _cwal_lines(document):
            say(line)
    if verdict != "intact":
        raise click.exceptions.Exit(EXIT_DAMAGED)


def _cwal_lines(document: dict[str, Any]) -> Iterator[str]:
    yield f"{document['verdict']:<10} {', '.join(document['files'])}"
    yield f"entries    {document['entries']:,}, {document['bytes']:,} bytes of data"
    rest = document["rest"]
    if rest["reason"]:
        yield f"end        byte {document['end']}; then {rest['bytes']} bytes: {rest['reason']}"
    else:
        yield f"end        byte {document['end']}, the end of the file"
    if rest["resumes"] is not None:
        yield f"goes on    a valid entry follows at byte {rest['resumes']}"
    for each in document["copies_damaged"]:
        yield f"copy       {each['path']}, byte {each['offset']}: {each['reason']}"


@cwal.command("dump", epilog=closing_with("cwal dump --hex --limit 3 log.cwal"))
@_files
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Stop after so many entries."
)
@click.option("--hex", "as_hex", is_flag=True, help="Add the data: 4 KiB of it at most.")
@click.option("--jsonl", is_flag=True, help="Print one JSON document per entry.")
def cwal_dump(paths: tuple[str, ...], limit: int | None, *, as_hex: bool, jsonl: bool) -> None:
    """Print one line per entry: its place, its size, its first bytes."""
    stop, fs = CwalStop(), OsFilesystem()
    with told(paths[0]):
        if len(paths) == 1:
            with closing(read_file(fs, paths[0], stop)) as entries:
                _dump_entries(entries, limit, as_hex=as_hex, jsonl=jsonl)
        else:
            with MirrorReader(fs, paths) as mirror:
                _dump_entries(mirror.entries(stop), limit, as_hex=as_hex, jsonl=jsonl)
    if stop.damaged:
        where = f"{paths[0]}: {stop.reason} at byte {stop.offset}"
        raise fail(where, EXIT_DAMAGED)


def _dump_entries(
    entries: Iterable[CwalEntry], limit: int | None, *, as_hex: bool, jsonl: bool
) -> None:
    for number, entry in enumerate(entries, 1):
        data = bytes(entry.data[:HEX_BYTES_MAX])
        if jsonl:
            document: dict[str, Any] = {"byte": entry.offset, "bytes": len(entry.data)}
            if as_hex:
                document["data"] = data.hex()
            say(json.dumps(document))
        else:
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data[:48])
            say(f"{entry.offset:<12} {len(entry.data):>10}  {text}")
            if as_hex:
                for line in hex_lines(data):
                    say(line)
        if number == limit:
            return
