"""`python -m wal`, and `raftdeck wal`: look at a log without touching it.

Standard output is data, standard error everything else. Exit codes: 0 intact (a torn tail is no
damage) · 1 damaged · 2 usage, no log there, or not readable · 4 written by a newer version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from typing import Any, Final

import click

from wal import checksum
from wal.errors import (
    CorruptLogError,
    IdentityMismatchError,
    OtherFormatError,
    WalError,
)
from wal.filesystem import OsFilesystem
from wal.frame import Kind
from wal.recovery import GroupLog, Recovered
from wal.sealed import read_sealed
from wal.segment import (
    LOCK_NAME,
    SEALED_NAME,
    number_of_position,
    offset_of_position,
    position_at,
    segment_name,
    segment_number,
    spare_number,
)
from wal.survey import Sight, Snapshot, recovered, walk

__all__ = ["wal_commands"]

EXIT_DAMAGED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NEWER: Final = 4

_MARKS: Final = frozenset({LOCK_NAME, SEALED_NAME})
_PLACE: Final = re.compile(r"(\d+)(?:\.wal)?(?::(\d+))?")


# ---- what the commands take ------------------------------------------------------------------


class _LogDirectory(click.ParamType[str]):
    """A node's data directory (with `wal` in it), or the log's own directory."""

    name = "DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the log's directory."""
        fs = OsFilesystem()
        inner = f"{value}/wal"
        directory = inner if fs.exists(inner) else str(value)
        try:
            names = fs.listdir(directory)
        except OSError as error:
            self.fail(f"{directory}: {error.strerror}", param, ctx)
        if not any(segment_number(name) or spare_number(name) or name in _MARKS for name in names):
            self.fail(f"{directory}: no log here; name a node's data directory", param, ctx)
        return directory


class _Place(click.ParamType[int]):
    """A position: SEGMENT or SEGMENT:BYTE, as `dump` prints it."""

    name = "POSITION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the position."""
        match = _PLACE.fullmatch(str(value))
        if match is None or int(match[2] or 0) >> 32:
            self.fail(f"{value!r} is not SEGMENT or SEGMENT:BYTE, such as 3:4096", param, ctx)
        return position_at(int(match[1]), int(match[2] or 0))


_directory = click.argument("directory", metavar="DIR", type=_LogDirectory())
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def _closing(example: str) -> str:
    return f"\b\nExample:\n  raftdeck wal {example}"


def _fail(message: str, exit_code: int) -> click.exceptions.Exit:
    """Say why on standard error; return what ends the command."""
    click.echo(f"Error: {message}", err=True)
    return click.exceptions.Exit(exit_code)


@contextmanager
def _told() -> Iterator[None]:
    """Turn what reading a log may raise into a line and an exit code."""
    try:
        yield
    except OtherFormatError as error:
        raise _fail(str(error), EXIT_NEWER) from None
    except WalError as error:
        raise _fail(str(error), EXIT_DAMAGED) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _fail(f"{error.filename or 'log'}: {error.strerror}", EXIT_USAGE) from None


@click.group(
    "wal",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_closing("verify ./data/n1"),
)
def wal_commands() -> None:
    """Look at a node's write-ahead log: read-only, whether its node runs or not.

    DIR is a node's data directory, or the wal directory in it.

    Exit codes: 0 intact, 1 damaged, 2 usage or no log, 4 written by a newer version.
    """


# ---- verify ----------------------------------------------------------------------------------


@wal_commands.command("verify", epilog=_closing("verify --reference ./data/n1"))
@_directory
@click.option("--reference", is_flag=True, help="Compute every CRC with crcmod, the reference.")
@_json
def verify(directory: str, *, reference: bool, as_json: bool) -> None:
    """Check every checksum, and that nothing durable is missing.

    A torn tail, which was never acknowledged, is reported and is no damage.
    """
    with _told(), checksum.only_reference() if reference else nullcontext():
        implementation = checksum.active()
        try:
            found = recovered(OsFilesystem(), directory)
        except (CorruptLogError, IdentityMismatchError) as error:
            document = _damage_document(directory, error) | {"checksum": implementation}
            _print(document, as_json, _damage_lines)
            raise click.exceptions.Exit(EXIT_DAMAGED) from None
    _print(_intact_document(found) | {"checksum": implementation}, as_json, _intact_lines)


Document = dict[str, Any]


def _print(document: Document, as_json: bool, lines: Callable[[Document], Iterator[str]]) -> None:
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        for line in lines(document):
            click.echo(line)


def _place_document(position: int) -> Document:
    return {
        "segment": segment_name(number_of_position(position)),
        "byte": offset_of_position(position),
    }


def _damage_document(directory: str, error: CorruptLogError | IdentityMismatchError) -> Document:
    damage: Document = dict.fromkeys(("reason", "stored", "computed", "at", "evidence"))
    if isinstance(error, IdentityMismatchError):
        damage["reason"] = str(error)
    else:
        damage["reason"] = error.reason
        if error.position:
            damage["at"] = _place_document(error.position)
        if error.evidence is not None:
            damage["evidence"] = _place_document(error.evidence)
        cause = error.cause
        if cause is not None and cause.stored is not None and cause.computed is not None:
            damage |= {"stored": f"{cause.stored:08x}", "computed": f"{cause.computed:08x}"}
    return {
        "schema": "raftdeck.wal.verify/1",
        "directory": directory,
        "verdict": "damaged",
        "damage": damage,
    }


def _damage_lines(document: Document) -> Iterator[str]:
    damage = document["damage"]
    at, evidence = damage["at"], damage["evidence"]
    yield f"damaged    {document['directory']}"
    if at is not None:
        yield f"where      {at['segment']}, byte {at['byte']}"
    yield f"what       {damage['reason']}"
    if evidence is not None:
        yield f"evidence   {evidence['segment']}, byte {evidence['byte']}, was written later"


def _intact_document(found: Recovered) -> Document:
    torn = found.torn
    return {
        "schema": "raftdeck.wal.verify/1",
        "directory": found.directory,
        "verdict": "intact",
        "segments": len(found.segments),
        "frames": found.frames,
        "end": _place_document(found.end) if found.end else None,
        "clean_stop": found.sealed,
        "torn_tail": None
        if torn is None
        else {"at": _place_document(torn.position), "bytes": torn.bytes, "reason": torn.reason},
    }


def _intact_lines(document: Document) -> Iterator[str]:
    end, torn = document["end"], document["torn_tail"]
    yield f"intact     {document['directory']}"
    yield f"frames     {document['frames']} in {document['segments']} segments"
    if end is not None:
        how = "; stopped cleanly" if document["clean_stop"] else ""
        yield f"end        {end['segment']}, byte {end['byte']}{how}"
    if torn is not None:
        at = torn["at"]
        yield (
            f"torn tail  {at['segment']}, byte {at['byte']}: never acknowledged"
            f" ({torn['reason']}); the next start cuts it"
        )
    yield f"checksum   CRC-32C by {document['checksum']}"


# ---- stat ------------------------------------------------------------------------------------


@wal_commands.command("stat", epilog=_closing("stat --json ./data/n1"))
@_directory
@_json
def stat(directory: str, *, as_json: bool) -> None:
    """Say whose log it is, how large, and what each group has in it."""
    fs = OsFilesystem()
    with _told():
        found = recovered(fs, directory)
        segments, spares = [], []
        for name in fs.listdir(directory):
            if segment_number(name) is not None:
                segments.append(_size(fs, f"{directory}/{name}"))
            elif spare_number(name) is not None:
                spares.append(_size(fs, f"{directory}/{name}"))
    identity = found.identity
    document = _intact_document(found) | {
        "schema": "raftdeck.wal.stat/1",
        "node": None if identity is None else identity.node,
        "cluster": None if identity is None else identity.cluster_id.hex(),
        "segments": len(segments),
        "segment_bytes": sum(segments),
        "spares": len(spares),
        "spare_bytes": sum(spares),
        "groups": [_group_document(number, log) for number, log in sorted(found.groups.items())],
    }
    _print(document, as_json, _stat_lines)


def _size(fs: OsFilesystem, path: str) -> int:
    try:
        file = fs.open_read(path)
    except FileNotFoundError:
        return 0  # given back or used again meanwhile
    with closing(file):
        return file.size()


def _group_document(number: int, log: GroupLog) -> Document:
    return {
        "group": number,
        "term": log.term,
        "vote": log.vote,
        "released": log.released_index,
        "last": log.last_index,
        "batches": len(log.batches),
        "bytes": sum(ref.size for ref in log.batches),
    }


def _stat_lines(document: Document) -> Iterator[str]:
    if document["node"] is not None:
        yield f"owner      n{document['node']} of cluster {document['cluster']}"
    yield f"segments   {document['segments']}, {document['segment_bytes']} bytes"
    yield f"spares     {document['spares']}, {document['spare_bytes']} bytes"
    yield f"frames     {document['frames']}"
    if document["end"] is not None:
        how = "; stopped cleanly" if document["clean_stop"] else ""
        yield f"end        {document['end']['segment']}, byte {document['end']['byte']}{how}"
    if document["torn_tail"] is not None:
        at = document["torn_tail"]["at"]
        yield f"torn tail  {at['segment']}, byte {at['byte']}"
    for group in document["groups"]:
        yield (
            f"group {group['group']:<4} term {group['term']}, vote {group['vote']},"
            f" released {group['released']}, last {group['last']},"
            f" {group['batches']} batches, {group['bytes']} bytes"
        )


# ---- dump ------------------------------------------------------------------------------------


@wal_commands.command("dump", epilog=_closing("dump --group 0 --from 3:4096 --limit 20 ./data/n1"))
@_directory
@click.option("--group", type=click.IntRange(min=0), help="Only the records of one group.")
@click.option("--from", "start", type=_Place(), default=0, help="Start at SEGMENT[:BYTE].")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many lines.")
@_json
def dump(
    directory: str, group: int | None, start: int, limit: int | None, *, as_json: bool
) -> None:
    """Print one line per frame, across damage as far as frames are found.

    The columns: position, kind, group, term, index range, bytes, and "ok" or what is wrong.
    """
    damaged = False

    def chosen(sights: Iterator[Sight]) -> Iterator[Sight]:
        nonlocal damaged
        for sight in sights:
            damaged = damaged or sight.proved
            if group is None or sight.header is None or _group_of(sight) == group:
                yield sight

    with _told():
        snapshot, sealed_end = Snapshot(OsFilesystem(), directory), 0
        try:
            sealed_end = read_sealed(snapshot, directory) or 0
        except CorruptLogError as error:
            click.echo(f"Error: {error.reason}", err=True)
            damaged = True
        sights = islice(chosen(walk(snapshot, directory, start, sealed_end)), limit)
        if as_json:
            _dump_document(directory, sights)
        else:
            for sight in sights:
                click.echo(_sight_line(sight))
    if damaged:
        raise _fail(f'{directory}: damaged; run "raftdeck wal verify"', EXIT_DAMAGED)


def _dump_document(directory: str, sights: Iterator[Sight]) -> None:
    """Print one document, frame by frame: a log may hold millions."""
    start = {"schema": "raftdeck.wal.dump/1", "directory": directory}
    click.echo(f'{json.dumps(start)[:-1]}, "frames": [', nl=False)
    try:
        for place, sight in enumerate(sights):
            click.echo((",\n" if place else "\n") + json.dumps(_sight_document(sight)), nl=False)
    finally:
        click.echo("\n]}")


def _group_of(sight: Sight) -> int | None:
    header = sight.header
    if header is None or header.kind in (Kind.CHECKPOINT, Kind.OPEN, Kind.SEAL):
        return None
    return header.group


def _sight_document(sight: Sight) -> Document:
    header = sight.header
    document = _place_document(sight.position) | {
        "sequence": sight.sequence,
        "kind": None if header is None else header.kind.name,
        "group": _group_of(sight),
        "term": None if header is None else header.term,
        "index": None if header is None else header.base_index,
        "count": None if header is None else header.count,
        "bytes": sight.size,
        "ok": sight.damage is None,
    }
    if sight.damage is not None:
        document |= {"damage": str(sight.damage), "proved": sight.proved}
    return document


def _sight_line(sight: Sight) -> str:
    header = sight.header
    place = (
        f"{segment_name(number_of_position(sight.position))}:{offset_of_position(sight.position)}"
    )
    if header is None:
        return f"{place:<24} {'-':<10} {'-':>5} {'-':>6} {'-':>19} {'-':>8}  {sight.damage}"
    group = _group_of(sight)
    shown = "-" if group is None else str(group)
    indexes = str(header.base_index) if header.base_index else "-"
    if header.count > 1:
        indexes = f"{header.base_index}-{header.base_index + header.count - 1}"
    return (
        f"{place:<24} {header.kind.name:<10} {shown:>5} {header.term:>6} {indexes:>19}"
        f" {sight.size:>8}  {sight.damage or 'ok'}"
    )
