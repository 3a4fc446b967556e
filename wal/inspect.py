"""`raftdeck wal verify|stat|dump`, and `python -m wal`: look at a log without touching it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from itertools import islice

import click

from wal import checksum
from wal.console import (
    EXIT_DAMAGED,
    Place,
    Progress,
    WatchedFilesystem,
    closing_with,
    counted,
    directory_argument,
    fail,
    json_option,
    say,
    told,
)
from wal.errors import CorruptLogError, IdentityMismatchError, WalError
from wal.filesystem import OsFilesystem
from wal.recovery import GroupLog, Recovered
from wal.sealed import read_sealed
from wal.segment import segment_name, segment_number, spare_number
from wal.show import Document, Shower, group_of, place_document
from wal.survey import Sight, Snapshot, recovered, walk

__all__ = ["wal_commands"]


@click.group(
    "wal",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=closing_with("verify ./data/n1"),
)
def wal_commands() -> None:
    """Look into a node's write-ahead log, follow it, convert it, repair it.

    DIR is a node's data directory, or the wal directory in it. All but repair only read, and may be
    used while the node runs.

    Exit codes: 0 intact, 1 damaged, 2 usage or no log, 4 written in a format not readable here.
    """


# ---- verify ----------------------------------------------------------------------------------


@wal_commands.command("verify", epilog=closing_with("verify --reference ./data/n1"))
@directory_argument
@click.option("--reference", is_flag=True, help="Compute every CRC with crcmod, the reference.")
@json_option
def verify(directory: str, *, reference: bool, as_json: bool) -> None:
    """Check every checksum, and that nothing durable is missing.

    A torn tail, which was never acknowledged, is reported and is no damage.
    """
    with (
        told(directory),
        checksum.only_reference() if reference else nullcontext(),
        Progress("verifying") as progress,
    ):
        implementation = checksum.active()
        try:
            found = recovered(WatchedFilesystem(progress), directory)
        except (CorruptLogError, IdentityMismatchError) as error:
            document = _damage_document(directory, error) | {"checksum": implementation}
            _print(document, as_json, _damage_lines)
            raise click.exceptions.Exit(EXIT_DAMAGED) from None
    _print(_intact_document(found) | {"checksum": implementation}, as_json, _intact_lines)


def _print(document: Document, as_json: bool, lines: Callable[[Document], Iterator[str]]) -> None:
    if as_json:
        say(json.dumps(document, indent=2))
    else:
        for line in lines(document):
            say(line)


def _damage_document(directory: str, error: CorruptLogError | IdentityMismatchError) -> Document:
    damage: Document = dict.fromkeys(("reason", "stored", "computed", "at", "evidence"))
    if isinstance(error, IdentityMismatchError):
        damage["reason"] = str(error)
    else:
        damage["reason"] = error.reason
        if error.position:
            damage["at"] = place_document(error.position)
        if error.evidence is not None:
            damage["evidence"] = place_document(error.evidence)
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
        "unstarted": [segment_name(number) for number in found.unstarted],
        "end": place_document(found.end) if found.end else None,
        "clean_stop": found.sealed,
        "torn_tail": None
        if torn is None
        else {"at": place_document(torn.position), "bytes": torn.bytes, "reason": torn.reason},
    }


def _unstarted_lines(document: Document) -> Iterator[str]:
    for name in document["unstarted"]:
        yield f"unstarted  {name} holds nothing of this log; the next start removes it"


def _intact_lines(document: Document) -> Iterator[str]:
    end, torn = document["end"], document["torn_tail"]
    yield f"intact     {document['directory']}"
    yield f"frames     {document['frames']} in {counted(document['segments'], 'segment')}"
    yield from _unstarted_lines(document)
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


@wal_commands.command("stat", epilog=closing_with("stat --json ./data/n1"))
@directory_argument
@json_option
def stat(directory: str, *, as_json: bool) -> None:
    """Say whose log it is, how large, and what each group has in it."""
    fs = OsFilesystem()
    with told(directory), Progress("reading") as progress:
        found = recovered(WatchedFilesystem(progress), directory)
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
    yield from _unstarted_lines(document)
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


@wal_commands.command(
    "dump",
    short_help="Print one line per frame.",
    epilog=closing_with("dump --group 0 --from 3:4096 --limit 20 ./data/n1"),
)
@directory_argument
@click.option(
    "--group", type=click.IntRange(min=0), metavar="N", help="Only the records of one group."
)
@click.option("--from", "start", type=Place(), default=0, help="Start at SEGMENT[:BYTE].")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after so many frames.")
@click.option("--hex", "as_hex", is_flag=True, help="Add each body: 4 KiB of it at most.")
@json_option
def dump(
    directory: str,
    group: int | None,
    start: int,
    limit: int | None,
    *,
    as_hex: bool,
    as_json: bool,
) -> None:
    """Print one line per frame, across damage as far as frames are found.

    The columns: position, kind, group, term, index range, bytes, and "ok" or what is wrong; behind
    "ok" the codec of a compressed body.
    """
    damaged = False

    def chosen(sights: Iterator[Sight]) -> Iterator[Sight]:
        nonlocal damaged
        for sight in sights:
            damaged = damaged or sight.proved
            if group is None or sight.header is None or group_of(sight) == group:
                yield sight

    with told(directory):
        snapshot, sealed_end = Snapshot(OsFilesystem(), directory), 0
        try:
            sealed_end = read_sealed(snapshot, directory) or 0
        except CorruptLogError as error:
            click.echo(f"Error: {error.reason}", err=True)
            damaged = True
        sights = islice(chosen(walk(snapshot, directory, start, sealed_end)), limit)
        show = Shower(snapshot, directory, as_hex=as_hex)
        if as_json:
            _dump_document(directory, (show.document(sight) for sight in sights))
        else:
            for sight in sights:
                for line in show.lines(sight):
                    say(line)
    if damaged:
        raise fail(f'{directory}: damaged; run "raftdeck wal verify"', EXIT_DAMAGED)


def _dump_document(directory: str, frames: Iterator[Document]) -> None:
    """Print one document, frame by frame: a log may hold millions."""
    start = {"schema": "raftdeck.wal.dump/1", "directory": directory}
    say(f'{json.dumps(start)[:-1]}, "frames": [', nl=False)
    try:
        for place, frame in enumerate(frames):
            say((",\n" if place else "\n") + json.dumps(frame), nl=False)
    except (WalError, OSError):
        say("\n]}")  # a document still, of what came before
        raise
    say("\n]}")
