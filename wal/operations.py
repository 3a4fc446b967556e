"""What a committer asks of a disk: small typed operations, performed one by one by a driver.

A crash may happen between any two. Each may be repeated after it failed half-way, except `BARRIERS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wal.frame import Buffer

__all__ = [
    "BARRIERS",
    "Allocate",
    "Create",
    "DropCache",
    "Operation",
    "Rename",
    "StartWriteback",
    "Sync",
    "SyncDir",
    "Unlink",
    "Write",
    "ZeroFill",
]


@dataclass(frozen=True, slots=True)
class Create:
    """Make a new, empty file; repeating it on an existing one empties it."""

    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    """Rename a file (a spare becomes a segment, a segment a spare)."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """Remove a file."""

    name: str


@dataclass(frozen=True, slots=True)
class SyncDir:
    """Make the directory's names durable."""


@dataclass(frozen=True, slots=True)
class ZeroFill:
    """Write zeros ahead of the head."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Allocate:
    """Reserve blocks up to `length` without writing them."""

    name: str
    length: int


@dataclass(slots=True)
class Write:
    """Write frames at the head. One per job, and so not frozen: see `wal.job.Job`."""

    name: str
    offset: int
    buffers: tuple[Buffer, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Make the segment's content durable; the job's records are durable after it."""

    name: str


@dataclass(frozen=True, slots=True)
class DropCache:
    """Let durable bytes leave the page cache. Advice: it may be ignored, and changes nothing."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class StartWriteback:
    """Begin to write dirty bytes to the disk, waiting for nothing. Makes nothing durable."""

    name: str
    offset: int
    length: int


Operation = (
    Create
    | Rename
    | Unlink
    | SyncDir
    | ZeroFill
    | Allocate
    | Write
    | Sync
    | DropCache
    | StartWriteback
)

BARRIERS: Final = (Sync, SyncDir)
"""What makes others durable. One that failed is not repeated: the next would succeed and lie."""
