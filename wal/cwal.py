"""The file format of CWal (seed 4), byte for byte: one file, entries end to end, nothing else.

    0      8  byte_len   u64, bytes of the data
    8      n  data
    8 + n  4  crc        u32, CRC-32 of the data alone

What seed 4 leaves open is taken from the sources it names (sjay05/cwal at 02d6237): both numbers are
written as the machine has them, so little endian on every machine that CWal was tested on; the CRC
is CRC-32 of IEEE 802.3 (polynomial 0x04C11DB7, reflected, all ones in and out; 0xCBF43926 of
"123456789"), not the CRC-32C of our own frames; it covers the data and not the length.

What the format cannot tell, and a reader of it must know:

* A damaged length is noticed only because the CRC then stands elsewhere. One that becomes 0 is not
  noticed if the data begins with four zero bytes, for the CRC of nothing is 0; nor one that becomes 4
  in front of eight bytes of 0xff, whose CRC is 0xffffffff.
* For the same reason twelve zero bytes are a valid, empty entry, and a file that grew in a power cut
  without being written is full of them. Zeros up to the end of the file are therefore read as its
  end; `CwalWriter` refuses empty entries, so none of its own are lost by that, and takes one that
  it finds for damage: of a torn write, holes in front of later sectors remain.
* There is no sequence number. Behind the end of a batch that overwrites the one before (CWal's
  batched mode), entries of the older batch are as valid as those of the newer one.
* There is no record of what was durable: a torn tail and damage look alike.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final, Literal, NamedTuple

from wal.errors import WalError
from wal.filesystem import Buffer, ReadFile

__all__ = [
    "OVERHEAD_BYTES",
    "CwalEntry",
    "CwalError",
    "CwalStop",
    "Empties",
    "checksum",
    "encode_entry",
    "entry_at",
    "entry_size",
    "read_entries",
]

_LENGTH: Final = Struct("<Q")
_CRC: Final = Struct("<I")
OVERHEAD_BYTES: Final = _LENGTH.size + _CRC.size
CHUNK_BYTES: Final = 4 << 20

Empties = Literal["entries", "damage"]
"""What an entry without data is taken for."""


class CwalError(WalError):
    """A CWal file that cannot be read, or written, as asked. The text says which and where."""


class CwalEntry(NamedTuple):
    """One entry: where it begins in its file, and its data."""

    offset: int
    data: Buffer


@dataclass(slots=True)
class CwalStop:
    """Where and why reading ended."""

    offset: int = 0
    reason: str = ""
    """Empty at the end of the file; else what is wrong with the entry there."""
    rest: int = 0
    """Bytes from there to the end of the file."""
    resumes: int | None = None
    """Where the next valid entry begins, if the damaged one's length still leads to one."""

    @property
    def damaged(self) -> bool:
        """Whether something stands there that is neither an entry nor zeros to the end."""
        return bool(self.reason) and not self.blank

    @property
    def blank(self) -> bool:
        """Whether all that follows is zeros: the file grew, and was not written."""
        return self.reason == BLANK


BLANK: Final = "zeros to the end"


def checksum(data: Buffer) -> int:
    """Return the CRC-32 that CWal keeps of an entry's data."""
    return zlib.crc32(data)


def encode_entry(data: Buffer) -> tuple[bytes, Buffer, bytes]:
    """Return the three pieces of an entry as they stand in the file; the data is not copied."""
    return _LENGTH.pack(len(data)), data, _CRC.pack(zlib.crc32(data))


def entry_size(length: int) -> int:
    """Return the bytes that an entry of `length` bytes of data takes."""
    return OVERHEAD_BYTES + length


def entry_at(view: memoryview, offset: int) -> memoryview | str:
    """Return the data of the entry at `offset` of a whole file, or what is wrong with it."""
    left = len(view) - offset
    if left < OVERHEAD_BYTES:
        return f"cut off: {left} bytes, and the shortest entry has {OVERHEAD_BYTES}"
    (length,) = _LENGTH.unpack_from(view, offset)
    if length > left - OVERHEAD_BYTES:
        return f"length {length} does not fit the {left} bytes that are left"
    start = offset + _LENGTH.size
    data = view[start : start + length]
    (stored,) = _CRC.unpack_from(view, start + length)
    computed = zlib.crc32(data)
    if stored != computed:
        return f"CRC (stored {stored:08x}, computed {computed:08x})"
    return data


def read_entries(
    file: ReadFile, stop: CwalStop, *, start: int = 0, empties: Empties = "entries"
) -> Iterator[CwalEntry]:
    """Yield the entries of a file from `start` to the first that is not valid; `stop` says why.

    `empties` is what an entry without data is taken for; zeros to the end are the end either way.
    Memory: a chunk of 4 MiB, or the largest entry. The data of an entry keeps its chunk alive.
    """
    size = file.size()
    offset, base, chunk = start, 0, memoryview(b"")
    while offset < size:
        wanted = min(OVERHEAD_BYTES, size - offset)
        if offset + wanted > base + len(chunk):
            chunk, base = memoryview(file.pread(CHUNK_BYTES, offset)), offset
        if len(chunk) - (offset - base) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(chunk, offset - base)
            whole = entry_size(length)
            if whole <= size - offset and offset - base + whole > len(chunk):
                chunk, base = memoryview(file.pread(max(CHUNK_BYTES, whole), offset)), offset
            if length == 0 and _is_blank(file, offset, size):
                _end(stop, offset, size, BLANK)
                return
        found = entry_at(chunk, offset - base)
        if not found and empties == "damage":
            found = "an empty entry, which nobody writes: a hole in the file, or a damaged length"
        if isinstance(found, str):
            _end(stop, offset, size, BLANK if _is_blank(file, offset, size) else found)
            stop.resumes = _next_valid(file, offset, size)
            return
        yield CwalEntry(offset, found)
        offset += entry_size(len(found))
    _end(stop, offset, size, "")


def _end(stop: CwalStop, offset: int, size: int, reason: str) -> None:
    stop.offset, stop.reason, stop.rest, stop.resumes = offset, reason, max(0, size - offset), None


def _is_blank(file: ReadFile, offset: int, size: int) -> bool:
    """Tell whether a file holds only zeros from `offset` on; one look, mostly."""
    while offset < size:
        piece = bytes(file.pread(min(CHUNK_BYTES, size - offset), offset))
        if not piece or piece.count(0) != len(piece):
            return not piece
        offset += len(piece)
    return True


def _next_valid(file: ReadFile, offset: int, size: int) -> int | None:
    """Return where the entry behind a damaged one begins, if the length still leads to one."""
    head = file.pread(_LENGTH.size, offset)
    if len(head) < _LENGTH.size:
        return None
    following = offset + entry_size(_LENGTH.unpack(head)[0])
    if following + OVERHEAD_BYTES > size:
        return None
    (length,) = _LENGTH.unpack(file.pread(_LENGTH.size, following))
    if following + entry_size(length) > size or not length:
        return None
    found = entry_at(memoryview(file.pread(entry_size(length), following)), 0)
    return None if isinstance(found, str) else following
