"""The chunk files of a recording: their bytes, and how a frame differs from another. Pure.

    DATA/recording/
        00000007.rec 00000008.rec …     numbers only grow; the oldest files go first

    one file                off size field
                              0   8  magic "RDREC001"
                              8   4  length of the header
                             12   4  CRC-32 of the header
                             16   …  header: msgpack map {schema, run, cluster_id, name, groups,
                                     supervisor_pid, started_unix_ms}
    then records            off size field
                              0   4  length of the body
                              4   4  CRC-32 of kind, time, sequence and body
                              8   1  kind: 1 FULL 2 DELTA 3 EVENTS
                              9   8  unix_ms
                             17   8  sequence of the frame, or of the newest of the events
                             25   …  body: zlib of msgpack

A file begins with a FULL frame, so that it is read without any other. FULL is an encoded
`ClusterFrame` whose `events` are replaced by the number of the newest (`events_to`). DELTA is what
changed against the last FULL before it: a map of positions (of a key in its map, as FULL has it) to
changes, where a change is a scalar (the new value), a map (changes within a map), `[0, value]` (a
new map or list) or `[1, {index: change}]` (changes within a list of as many maps). A file's last record may be cut: whoever wrote it was
killed. All records of one life of a supervisor bear the same `run` in their files' headers.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, NamedTuple

import msgpack

from cluster.exits import CommandError, Exit

__all__ = [
    "DELTA",
    "EVENTS",
    "FULL",
    "HEADER_BYTES_MAX",
    "RECORDING_SCHEMA",
    "ChunkHeader",
    "Entry",
    "changes_between",
    "decode_body",
    "decode_header",
    "encode_header",
    "encode_record",
    "entries",
    "patched",
]

RECORDING_SCHEMA: Final = "raftdeck.recording/1"
MAGIC: Final = b"RDREC001"
FULL: Final = 1
DELTA: Final = 2
EVENTS: Final = 3

_FAMILY: Final = RECORDING_SCHEMA.rpartition("/")[0]
_HEAD: Final = struct.Struct("<8sII")
_RECORD: Final = struct.Struct("<IIBQQ")
_CHECKED_FROM: Final = 8
HEADER_BYTES_MAX: Final = 4 << 10
"""Magic, lengths and header together: names and ids of at most 200 bytes."""
BODY_BYTES_MAX: Final = 16 << 20
"""An unpacked body: 15 nodes × 64 groups × 18 fields of about 20 bytes, forty times over."""
_LEVEL: Final = 1
"""zlib's fastest: level 6 makes a frame 5 to 7 % smaller."""


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """Whose recording a file belongs to; `run` names one life of one supervisor."""

    run: str
    cluster_id: str
    name: str
    groups: int
    supervisor_pid: int
    started_unix_ms: int


class Entry(NamedTuple):
    """Where a record is in its file, and what can be said without unpacking it."""

    kind: int
    unix_ms: int
    sequence: int
    offset: int
    length: int


def encode_header(header: ChunkHeader) -> bytes:
    """Return what a chunk file begins with."""
    body: bytes = msgpack.packb({"schema": RECORDING_SCHEMA} | asdict(header))
    return _HEAD.pack(MAGIC, len(body), zlib.crc32(body)) + body


def decode_header(data: bytes, where: str) -> tuple[ChunkHeader, int] | None:
    """Return a file's header and where its records begin; None if the file ends before.

    `CommandError`: no recording at all (usage), or a newer schema (unfit).
    """
    if len(data) < _HEAD.size:
        if data != MAGIC[: len(data)] and not data.startswith(MAGIC):
            raise CommandError(Exit.USAGE, f"{where}: not a recording of raftdeck")
        return None
    magic, length, crc = _HEAD.unpack_from(data)
    if magic != MAGIC or _HEAD.size + length > HEADER_BYTES_MAX:
        raise CommandError(Exit.USAGE, f"{where}: not a recording of raftdeck")
    body = data[_HEAD.size : _HEAD.size + length]
    if len(body) < length or zlib.crc32(body) != crc:
        return None
    document = msgpack.unpackb(body)
    _check_schema(document.get("schema"), where)
    known = {spec.name: document[spec.name] for spec in fields(ChunkHeader)}
    return ChunkHeader(**known), _HEAD.size + length


def _check_schema(schema: object, where: str) -> None:
    if schema == RECORDING_SCHEMA:
        return
    family, _, version = str(schema).rpartition("/")
    if family == _FAMILY and version.isdigit():
        raise CommandError(
            Exit.UNFIT,
            f"{where}: schema {schema} is newer than {RECORDING_SCHEMA}, the newest this version"
            " reads; update raftdeck",
        )
    raise CommandError(Exit.USAGE, f"{where}: schema {schema!r} is no recording of raftdeck")


def encode_record(kind: int, unix_ms: int, sequence: int, document: object) -> bytes:
    """Return one record."""
    body = zlib.compress(msgpack.packb(document), _LEVEL)
    head = _RECORD.pack(len(body), 0, kind, unix_ms, sequence)
    crc = zlib.crc32(body, zlib.crc32(head[_CHECKED_FROM:]))
    return _RECORD.pack(len(body), crc, kind, unix_ms, sequence) + body


def entries(data: bytes, offset: int) -> Iterator[Entry]:
    """Yield the records of `data`, which stands at `offset` of its file.

    They end with the first one that is cut or damaged.
    """
    view = memoryview(data)
    at = 0
    while at + _RECORD.size <= len(data):
        length, crc, kind, unix_ms, sequence = _RECORD.unpack_from(data, at)
        end = at + _RECORD.size + length
        if end > len(data) or zlib.crc32(view[at + _CHECKED_FROM : end]) != crc:
            return
        yield Entry(kind, unix_ms, sequence, offset + at, end - at)
        at = end


def decode_body(record: bytes) -> Any:
    """Return the document of a whole record that `entries` found."""
    packed = zlib.decompressobj().decompress(record[_RECORD.size :], BODY_BYTES_MAX)
    return msgpack.unpackb(packed, strict_map_key=False)


# --- differences ----------------------------------------------------------------------


def changes_between(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[int, Any] | None:
    """Return the changes that make `new` of `old`; None if their keys differ."""
    if old.keys() != new.keys():
        return None
    found: dict[int, Any] = {}
    for at, (key, before) in enumerate(old.items()):
        value = new[key]
        if value is not before and (value != before or type(value) is not type(before)):
            found[at] = _change(before, value)
    return found


def _change(old: Any, new: Any) -> Any:
    if isinstance(new, dict):
        inner = changes_between(old, new) if isinstance(old, dict) else None
        return [0, new] if inner is None else inner
    if not isinstance(new, list | tuple):
        return new
    maps = isinstance(old, list) and len(old) == len(new) and all(isinstance(v, dict) for v in new)
    if not maps:
        return [0, new]
    pairs = enumerate(zip(old, new, strict=True))
    return [1, {at: _change(before, after) for at, (before, after) in pairs if before != after}]


def patched(old: Mapping[str, Any], changes: Mapping[int, Any]) -> dict[str, Any]:
    """Return `old` with changes made; what did not change is shared."""
    new, keys = dict(old), list(old)
    for at, change in changes.items():
        new[keys[at]] = _after(old[keys[at]], change)
    return new


def _after(old: Any, change: Any) -> Any:
    if isinstance(change, dict):
        return patched(old, change)
    if not isinstance(change, list):
        return change
    form, value = change
    if form == 0:
        return value
    items = list(old)
    for at, inner in value.items():
        items[at] = _after(items[at], inner)
    return items
