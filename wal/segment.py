"""Segments: their names, positions, and the CHECKPOINT that each of them starts with.

    CHECKPOINT body: u32 format · u32 node · 16 cluster id · u64 segment number ·
    u64 previous number (0 = none) · u64 previous end position · u32 recycled (0/1) ·
    u32 group count · per group: u32 group · u64 term · u64 vote · u64 released index ·
    u64 released term · u64 first live position · u64 last index · u32 length + configuration

Of a group's entries above the released index, the first lies at the first live position; the last
has the last index (both 0 if there is none). They show that segments before are missing.

A position is `number << 32 | offset`: it only grows over the life of a log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from struct import Struct, error
from typing import Final

from wal.errors import FrameError, OtherFormatError
from wal.frame import Buffer, Kind, Record, RecordHeader, record_of

__all__ = [
    "LOCK_NAME",
    "SEALED_NAME",
    "GroupCheckpoint",
    "LogIdentity",
    "SegmentCheckpoint",
    "decode_checkpoint",
    "number_of_position",
    "offset_of_position",
    "position_at",
    "segment_name",
    "segment_number",
    "spare_name",
    "spare_number",
]

LOCK_NAME: Final = "LOCK"
SEALED_NAME: Final = "SEALED"
"""The file of a clean stop (`wal.sealed`)."""
FORMAT: Final = 1

_HEAD: Final = Struct("<II16sQQQII")
_GROUP: Final = Struct("<IQQQQQQI")
_SEGMENT_NAME: Final = re.compile(r"(\d{8,})\.wal")
_SPARE_NAME: Final = re.compile(r"spare-(\d{8,})\.free")


def segment_name(number: int) -> str:
    """Return the file name of a segment: `00000042.wal`."""
    return f"{number:08d}.wal"


def segment_number(name: str) -> int | None:
    """Return the number (from 1) of a segment's file name, or None for another file."""
    match = _SEGMENT_NAME.fullmatch(name)
    number = int(match[1]) if match else 0
    return number if number and segment_name(number) == name else None


def spare_name(number: int) -> str:
    """Return the file name of a released segment that waits for reuse."""
    return f"spare-{number:08d}.free"


def spare_number(name: str) -> int | None:
    """Return the number in a spare's file name, or None for another file."""
    match = _SPARE_NAME.fullmatch(name)
    number = int(match[1]) if match else 0
    return number if number and spare_name(number) == name else None


def position_at(number: int, offset: int) -> int:
    """Return the position of a byte offset in a segment."""
    return number << 32 | offset


def number_of_position(position: int) -> int:
    """Return the segment number of a position."""
    return position >> 32


def offset_of_position(position: int) -> int:
    """Return the byte offset of a position."""
    return position & 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Whose log it is: a 16-byte cluster id and a node number."""

    cluster_id: bytes
    node: int

    def __post_init__(self) -> None:
        """Refuse an id that the checkpoint would cut or pad."""
        if len(self.cluster_id) != 16:
            raise ValueError(f"a cluster id has 16 bytes, not {len(self.cluster_id)}")


@dataclass(frozen=True, slots=True)
class GroupCheckpoint:
    """What must not be lost with the segments before: hard state and compaction point."""

    group: int
    term: int = 0
    vote: int = 0
    released_index: int = 0
    released_term: int = 0
    first_live: int = 0
    last_index: int = 0
    config: bytes = b""


@dataclass(frozen=True, slots=True)
class SegmentCheckpoint:
    """The first record of a segment; `previous_end` ties the chain of segments together."""

    identity: LogIdentity
    number: int
    previous: int
    previous_end: int
    recycled: bool
    groups: tuple[GroupCheckpoint, ...]

    def record(self) -> Record:
        """Encode the checkpoint as a record."""
        identity = self.identity
        parts = [
            _HEAD.pack(
                FORMAT,
                identity.node,
                identity.cluster_id,
                self.number,
                self.previous,
                self.previous_end,
                self.recycled,
                len(self.groups),
            )
        ]
        for group in self.groups:
            parts.append(
                _GROUP.pack(
                    group.group,
                    group.term,
                    group.vote,
                    group.released_index,
                    group.released_term,
                    group.first_live,
                    group.last_index,
                    len(group.config),
                )
            )
            parts.append(group.config)
        return record_of(RecordHeader(Kind.CHECKPOINT, base_index=self.number), b"".join(parts))


def decode_checkpoint(body: Buffer) -> SegmentCheckpoint:
    """Decode a CHECKPOINT body whose CRC held; `FrameError`, `OtherFormatError`."""
    try:
        head = _HEAD.unpack_from(body)
        version, node, cluster_id, number, previous, previous_end, recycled, count = head
        if version > FORMAT:
            raise OtherFormatError(
                f"log format {version} is newer than {FORMAT}, the newest this version reads;"
                " update raftdeck"
            )
        groups, offset = [], _HEAD.size
        for _ in range(count):
            group, term, vote, *places, length = _GROUP.unpack_from(body, offset)
            released_index, released_term, first_live, last_index = places
            offset += _GROUP.size
            config = bytes(body[offset : offset + length])
            groups.append(
                GroupCheckpoint(
                    group, term, vote, released_index, released_term, first_live, last_index, config
                )
            )
            offset += length
    except error as problem:
        raise FrameError(f"CHECKPOINT: {problem}") from None
    if version != FORMAT or offset != len(body):
        raise FrameError("CHECKPOINT: the body does not add up")
    identity = LogIdentity(cluster_id, node)
    return SegmentCheckpoint(
        identity, number, previous, previous_end, bool(recycled), tuple(groups)
    )
