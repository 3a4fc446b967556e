"""Frames as lines and as documents, for `dump` and `tail`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from wal.compression import Codec
from wal.errors import FrameError, OtherFormatError
from wal.excerpt import record_at
from wal.filesystem import ReadFilesystem
from wal.frame import Kind
from wal.segment import number_of_position, offset_of_position, segment_name
from wal.survey import Sight

__all__ = ["HEX_BYTES_MAX", "Document", "Shower", "group_of", "hex_lines", "place_document"]

Document = dict[str, Any]

_HEX_WIDTH: Final = 16
HEX_BYTES_MAX: Final = 4_096
"""Bytes of one body that are shown: 256 lines."""


def place_document(position: int) -> Document:
    """Return a position for people and programs: file and byte."""
    return {
        "segment": segment_name(number_of_position(position)),
        "byte": offset_of_position(position),
    }


def group_of(sight: Sight) -> int | None:
    """Return the group of a frame; None for the log's own and for unreadable ones."""
    header = sight.header
    if header is None or header.kind in (Kind.CHECKPOINT, Kind.OPEN, Kind.SEAL):
        return None
    return header.group


def _codec(sight: Sight) -> str | None:
    header = sight.header
    if header is None or not header.flags:
        return None
    known = {int(codec): codec.name.lower() for codec in Codec}
    return known.get(header.flags, f"codec {header.flags}")


def _document(sight: Sight) -> Document:
    """Return one frame as a document."""
    header = sight.header
    document = place_document(sight.position) | {
        "sequence": sight.sequence,
        "kind": None if header is None else header.kind.name,
        "group": group_of(sight),
        "term": None if header is None else header.term,
        "index": None if header is None else header.base_index,
        "count": None if header is None else header.count,
        "bytes": sight.size,
        "codec": _codec(sight),
        "ok": sight.damage is None,
    }
    if sight.damage is not None:
        document |= {"damage": str(sight.damage), "proved": sight.proved}
    return document


def _line(sight: Sight) -> str:
    """Return one frame as a line: position, kind, group, term, indexes, bytes, and how it is."""
    header = sight.header
    place = (
        f"{segment_name(number_of_position(sight.position))}:{offset_of_position(sight.position)}"
    )
    if header is None:
        return f"{place:<24} {'-':<10} {'-':>5} {'-':>6} {'-':>19} {'-':>8}  {sight.damage}"
    group = group_of(sight)
    shown = "-" if group is None else str(group)
    indexes = str(header.base_index) if header.base_index else "-"
    if header.count > 1:
        indexes = f"{header.base_index}-{header.base_index + header.count - 1}"
    codec = _codec(sight)
    word = str(sight.damage) if sight.damage else f"ok {codec}" if codec else "ok"
    return (
        f"{place:<24} {header.kind.name:<10} {shown:>5} {header.term:>6} {indexes:>19}"
        f" {sight.size:>8}  {word}"
    )


def _body(fs: ReadFilesystem, directory: str, sight: Sight) -> bytes | None:
    """Return the stored body of a frame, as far as it is shown; None if it cannot be read."""
    if sight.damage is not None:
        return None
    try:
        return bytes(record_at(fs, directory, sight.position).body[:HEX_BYTES_MAX])
    except (FrameError, OtherFormatError, FileNotFoundError):
        return None  # given back meanwhile


def hex_lines(body: bytes) -> Iterator[str]:
    """Yield bytes in lines of sixteen: offset, hexadecimal, text."""
    for offset in range(0, len(body), _HEX_WIDTH):
        piece = body[offset : offset + _HEX_WIDTH]
        left, right = piece[:8].hex(" "), piece[8:].hex(" ")
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        yield f"    {offset:08x}  {left:<23}  {right:<23}  {text}"


class Shower:
    """Shows the frames of one log; with `as_hex`, their bodies too."""

    def __init__(self, fs: ReadFilesystem, directory: str, *, as_hex: bool) -> None:
        self._fs = fs
        self._directory = directory
        self._as_hex = as_hex

    def document(self, sight: Sight) -> Document:
        """Return a frame as a document."""
        document = _document(sight)
        if self._as_hex:
            body = _body(self._fs, self._directory, sight)
            document["body"] = None if body is None else body.hex()
        return document

    def lines(self, sight: Sight) -> Iterator[str]:
        """Yield a frame's line, and those of its body."""
        yield _line(sight)
        if self._as_hex:
            yield from hex_lines(_body(self._fs, self._directory, sight) or b"")
