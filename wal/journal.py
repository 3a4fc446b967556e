"""The journal of one file in power-loss mode: what is seen of it, and what lies below (`wal.writeback`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from wal.faults import drawn
from wal.filesystem import File

__all__ = ["SECTOR_BYTES", "Entry", "EntryState", "Inode", "tear_file"]

SECTOR_BYTES: Final = 512
"""What a disk writes whole or not at all."""


class EntryState(Enum):
    """What became of an entry of a file's journal."""

    DIRTY = 1
    SAFE = 2
    """Synced, in a file whose name is not."""
    LOST = 3
    """Covered by a sync that failed: seen, and never written."""
    WRITTEN = 4
    """Kept because an older one is LOST, which it may cover."""


@dataclass(slots=True)
class Entry:
    """Bytes at an offset (None: zeros), or with `cut` a new length."""

    offset: int
    length: int
    data: bytes | None = None
    cut: bool = False
    state: EntryState = EntryState.DIRTY

    def show(self, view: bytearray, start: int) -> None:
        """Change what was read from `start` on to what a reader sees after this entry."""
        end = start + len(view)
        if self.cut:
            if self.offset < end:
                first = max(self.offset - start, 0)
                view[first:] = bytes(len(view) - first)
            return
        low, high = max(self.offset, start), min(self.offset + self.length, end)
        if low < high:
            source = self.data
            piece = bytes(high - low)
            if source is not None:
                piece = source[low - self.offset : high - self.offset]
            view[low - start : high - start] = piece

    def write(self, file: File) -> None:
        """Do it to the file below."""
        if self.cut:
            file.truncate(self.offset)
        elif self.data is None:
            file.zero_fill(self.offset, self.length)
        else:
            file.pwritev([self.data], self.offset)

    @property
    def weight(self) -> int:
        """Bytes of memory."""
        return 0 if self.data is None else len(self.data)


class Inode:
    """One file: what is below, and the journal over it. All under the file system's lock."""

    __slots__ = ("below", "handles", "journal", "path", "pending", "size")

    def __init__(self, path: str, below: File | None) -> None:
        """Begin with what lies below; None: a new file."""
        self.path = path
        self.below = below
        """None until its name is durable."""
        self.journal: list[Entry] = []
        self.size = 0 if below is None else below.size()
        self.handles = 0
        self.pending = below is None
        """Whether a change of its name is not synced."""

    def read(self, length: int, offset: int) -> bytes:
        """Return what a reader sees."""
        if not self.journal and self.below is not None:
            return self.below.pread(length, offset)
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        found = b"" if self.below is None else self.below.pread(length, offset)
        view = bytearray(found)
        view.extend(bytes(length - len(found)))
        for entry in self.journal:
            entry.show(view, offset)
        return bytes(view)

    def flush(self, state: EntryState = EntryState.DIRTY) -> None:
        """Write entries of a state below, in order, or keep them for the name to come."""
        for entry in self.journal:
            if entry.state is state:
                if self.below is not None:
                    entry.write(self.below)
                entry.state = EntryState.SAFE if self.below is None else EntryState.WRITTEN
        if not any(entry.state is EntryState.LOST for entry in self.journal):
            self.journal = [e for e in self.journal if e.state is not EntryState.WRITTEN]

    def dirty(self) -> Iterator[Entry]:
        """Yield what is not synced."""
        return (entry for entry in self.journal if entry.state is EntryState.DIRTY)


def tear_file(inode: Inode, seed: int) -> tuple[int, int]:
    """Write a drawn subset of a file's unsynced sectors below; return how many of how many."""
    touched: set[int] = set()
    old = 0 if inode.below is None else inode.below.size()
    for entry in inode.dirty():
        low, high = entry.offset, entry.offset + entry.length
        if entry.cut:
            low, high = sorted((entry.offset, old))
        touched.update(range(low // SECTOR_BYTES, -(-high // SECTOR_BYTES)))
    if inode.below is None or not touched:
        return len(touched), 0
    name = inode.path.rpartition("/")[2]
    size = inode.size if drawn(seed, "size", name) & 1 else old
    odds = (0, 30, 70, 100)[drawn(seed, "odds", name) % 4]
    kept = [s for s in sorted(touched) if drawn(seed, "sector", name, s) % 100 < odds]
    content = [(s * SECTOR_BYTES, inode.read(SECTOR_BYTES, s * SECTOR_BYTES)) for s in kept]
    if size != old:
        inode.below.truncate(size)
    for offset, data in content:
        if data[: max(0, size - offset)]:
            inode.below.pwritev([data[: size - offset]], offset)
    return len(touched), len(kept)
