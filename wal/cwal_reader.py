"""Readers of CWal files: one file, one file mapped into memory, and mirrored copies of one.

`MappedReader` is what seed 4 plans as an experiment: entries are views of the mapping, nothing is
copied and nothing is read ahead of need. A mapped file must not become shorter meanwhile: touching
what is gone ends the process with SIGBUS, which no library can turn into an error.

`MirrorReader` reads copies that were written alike (`wal.cwal_writer`): at each offset it takes the
first copy whose entry is valid there, so damage is survived as long as no entry is damaged in all.
Of valid ones that differ only in length the longest is taken: a short one may be valid by what its
damaged length leads to (`wal.cwal`), a long one by chance. Only our own writer makes copies, so an
empty entry is damage.
"""

from __future__ import annotations

import mmap
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Final

from wal.cwal import (
    BLANK,
    OVERHEAD_BYTES,
    CwalEntry,
    CwalError,
    CwalStop,
    entry_at,
    entry_size,
    read_entries,
)
from wal.filesystem import Buffer, ReadFile, ReadFilesystem

__all__ = ["CopyDamage", "MappedReader", "MirrorReader", "read_file"]

DAMAGES_MAX: Final = 1_000
"""Damages that a mirror reader tells one by one; behind that it only counts."""


def read_file(fs: ReadFilesystem, path: str, stop: CwalStop) -> Generator[CwalEntry, None, None]:
    """Yield the entries of one file; see `wal.cwal.read_entries`."""
    with closing(fs.open_read(path)) as file:
        yield from read_entries(file, stop)


class MappedReader:
    """A CWal file in memory, as it was when it was opened. `close` it, or use `with`."""

    def __init__(self, path: str) -> None:
        """Map a file. Raises OSError."""
        with open(path, "rb") as file:
            empty = file.seek(0, 2) == 0
            self._map = None if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._view = memoryview(b"" if self._map is None else self._map)

    def __enter__(self) -> MappedReader:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __len__(self) -> int:
        """Return the bytes that are mapped."""
        return len(self._view)

    def entries(self, stop: CwalStop, *, start: int = 0) -> Iterator[CwalEntry]:
        """Yield the entries from `start` on as views of the mapping; see `read_entries`."""
        return read_entries(_Mapped(self._view), stop, start=start)

    def entry(self, offset: int) -> memoryview:
        """Return the data of the entry at `offset`; CwalError if none begins there."""
        found = entry_at(self._view, offset)
        if isinstance(found, str):
            raise CwalError(f"byte {offset}: {found}")
        return found

    def close(self) -> None:
        """Give the mapping back, or leave that to the last view of it that is still in use."""
        self._view.release()
        if self._map is not None:
            with suppress(BufferError):
                self._map.close()


class _Mapped:
    """`ReadFile` whose reads are views."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def pread(self, length: int, offset: int) -> bytes:
        return self._view[offset : offset + length]  # type: ignore[return-value]  # as good as bytes

    def size(self) -> int:
        return len(self._view)

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class CopyDamage:
    """An entry that one copy does not hold, and another one does."""

    path: str
    offset: int
    reason: str


class MirrorReader:
    """Copies of one log. After `entries` is exhausted, `damages` says what each copy lacked."""

    def __init__(self, fs: ReadFilesystem, paths: Sequence[str]) -> None:
        """Read `paths`, in this order of preference; at least one must be there.

        Raises CwalError if none can be opened.
        """
        self.damages: list[CopyDamage] = []
        self.damaged = 0
        """How many entries some copy lacked, counted per copy."""
        self.differing: list[CopyDamage] = []
        """The first entry, if any, that is valid in two copies and not the same."""
        self._files: dict[str, ReadFile] = {}
        with ExitStack() as undo:
            for path in paths:
                try:
                    self._files[path] = file = fs.open_read(path)
                except OSError as error:
                    self._note(path, 0, error.strerror or "cannot be opened")
                else:
                    undo.callback(file.close)
            if not self._files:
                reasons = "; ".join(f"{each.path}: {each.reason}" for each in self.damages)
                raise CwalError(f"no copy can be read: {reasons}")
            self._close = undo.pop_all()

    def __enter__(self) -> MirrorReader:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the copies."""
        self._close.close()

    def entries(self, stop: CwalStop) -> Iterator[CwalEntry]:
        """Yield entry after entry, each from the first copy that has it whole.

        Ends where no copy has a valid entry: at the end of the longest, if all is well. `stop`
        then tells of the copy that holds most. A copy that just ends earlier is damaged too.
        """
        lanes = {path: _Lane(file) for path, file in self._files.items()}
        offset = 0
        while True:
            found = {path: lane.at(offset) for path, lane in lanes.items()}
            whole = [data for data in found.values() if not isinstance(data, str)]
            if not whole:
                break
            best = max(whole, key=len)
            for path, data in found.items():
                if isinstance(data, str):
                    self._note(path, offset, data)
                elif len(data) < len(best) and best[: len(data)] == data:
                    self._note(path, offset, "a shorter entry: its length is damaged")
                elif not self.differing and data != best:
                    self.differing.append(CopyDamage(path, offset, "another entry"))
            yield CwalEntry(offset, best)
            offset += entry_size(len(best))
        longest = max(self._files.values(), key=lambda file: file.size())
        for _ in read_entries(longest, stop, start=offset, empties="damage"):
            raise AssertionError("an entry that a lane did not see")

    def _note(self, path: str, offset: int, reason: str) -> None:
        self.damaged += 1
        if len(self.damages) < DAMAGES_MAX:
            self.damages.append(CopyDamage(path, offset, reason))


class _Lane:
    """One copy, read entry by entry at offsets that the whole of the copies decides."""

    def __init__(self, file: ReadFile) -> None:
        self._file = file
        self._entries: Iterator[CwalEntry] | None = None
        self._stop = CwalStop()
        self._next = 0

    def at(self, offset: int) -> Buffer | str:
        """Return the data of the entry at `offset`, or what is wrong there."""
        if self._entries is None or self._next != offset:
            self._stop = CwalStop()
            self._entries = read_entries(self._file, self._stop, start=offset, empties="damage")
        entry = next(self._entries, None)
        if entry is None:
            self._entries = None
            if self._stop.offset == offset and self._stop.reason:
                return self._stop.reason
            return "ends here" if offset >= self._file.size() else BLANK
        self._next = offset + OVERHEAD_BYTES + len(entry.data)
        return entry.data
