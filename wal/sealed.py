"""The file SEALED: the proof that a log was stopped cleanly, and where it ended.

    0  6 magic "RDSEAL" · 6 2 version "01" · 8 8 end position · 16 4 CRC-32C of bytes 0..15

It is written once everything else is durable (a temporary file, synced, then renamed, then the
directory synced) and removed, durably, at the next open before anything is appended. While it
stands, every frame up to its end position must be there: any damage is corruption.
"""

from __future__ import annotations

from contextlib import closing
from struct import Struct
from typing import Final

from wal.checksum import crc32c
from wal.errors import CorruptLogError, OtherFormatError
from wal.filesystem import Filesystem, ReadFilesystem
from wal.segment import SEALED_NAME

__all__ = ["forget_sealed", "read_sealed", "write_sealed"]

_BODY: Final = Struct("<6s2sQ")
_CRC: Final = Struct("<I")
_MAGIC: Final = b"RDSEAL"
_VERSION: Final = b"01"
_TEMPORARY: Final = f"{SEALED_NAME}.tmp"


def write_sealed(fs: Filesystem, directory: str, end: int) -> None:
    """Record a clean stop at `end`, durably."""
    path, temporary = f"{directory}/{SEALED_NAME}", f"{directory}/{_TEMPORARY}"
    if fs.exists(temporary):
        fs.unlink(temporary)
    body = _BODY.pack(_MAGIC, _VERSION, end)
    with closing(fs.open(temporary, create=True)) as file:
        file.pwritev([body, _CRC.pack(crc32c(body))], 0)
        file.sync()
    fs.rename(temporary, path)
    fs.sync_dir(directory)


def read_sealed(fs: ReadFilesystem, directory: str) -> int | None:
    """Return the end position of a clean stop, or None without one.

    Raises CorruptLogError if the file is damaged, OtherFormatError.
    """
    path = f"{directory}/{SEALED_NAME}"
    if not fs.exists(path):
        return None
    with closing(fs.open_read(path)) as file:
        content = file.pread(_BODY.size + _CRC.size + 1, 0)
    if len(content) == _BODY.size + _CRC.size:
        magic, version, end = _BODY.unpack_from(content)
        (stored,) = _CRC.unpack_from(content, _BODY.size)
        if magic == _MAGIC and stored == crc32c(content[: _BODY.size]):
            if version != _VERSION:
                raise OtherFormatError(
                    f"{path}: version {version.decode('ascii', 'replace')} is newer than"
                    f" {_VERSION.decode()}; update raftdeck"
                )
            return int(end)
    raise CorruptLogError(directory, 0, f"the file {SEALED_NAME} of the clean stop is damaged")


def forget_sealed(fs: Filesystem, directory: str) -> None:
    """Remove the proof of a clean stop, durably, and what a crash left of writing one."""
    for name in (_TEMPORARY, SEALED_NAME):
        path = f"{directory}/{name}"
        if fs.exists(path):
            fs.unlink(path)
            fs.sync_dir(directory)
