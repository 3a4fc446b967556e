"""What the demo and `load` write: streams of items, with their totals known beforehand.

Three sources. A *directory* gives one item per file, key = path below the directory; a file above
256 KiB gives several, `path#000001`, `path#000002` …. A *file* gives one item per line, key =
`name:000000123`; a longer line is cut like a file. *Synthetic* items are a bounded set of keys
with values that never repeat. The standard library of the running Python is the directory that
every machine has.

Order and keys depend on names and bytes only. A `#` in a name is doubled, so that no name can look
like a part or a round of another. When an input ends before the run does, `rounds` goes on with
`…#r000002`: every put writes a fresh key, whose version must end as 1 if it was applied once.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final

from node.limits import KEY_BYTES_MAX, VALUE_BYTES_MAX

__all__ = [
    "CHUNK_BYTES",
    "Item",
    "Workload",
    "WorkloadError",
    "read_input",
    "standard_library",
    "synthetic",
]

CHUNK_BYTES: Final = 256 << 10
"""Longest value: a sixteenth of VALUE_BYTES_MAX, four of them in a request of 1 MiB."""

_SKIPPED_DIRECTORIES: Final = frozenset((b"__pycache__", b"site-packages", b"dist-packages"))
_SUFFIX_BYTES_MAX: Final = len(b":000000001#000001#r000001") + 8
"""What may follow a name in a key, with room for longer numbers."""
_SCAN_BYTES: Final = 1 << 20
_NOISE_BYTES: Final = 1 << 20


class WorkloadError(Exception):
    """An input that cannot be used; says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Item:
    """One put."""

    key: bytes
    value: bytes

    @property
    def sha256(self) -> bytes:
        """Digest of the value, to be kept while the value is written and read back; 32 bytes."""
        return hashlib.sha256(self.value).digest()


@dataclass(frozen=True, slots=True)
class Workload:
    """A source of items. `items` and `value_bytes` are the totals of one round."""

    name: str
    items: int
    value_bytes: int
    read: Callable[[int], Iterator[Item]]
    """Yields the items of a round, counted from 1; their keys do not name the round yet."""
    overwrites: bool = False
    """Whether each round writes the same keys again (load), or keys of its own (demo)."""

    def __iter__(self) -> Iterator[Item]:
        """Yield the items of the first round."""
        return self.read(1)

    def rounds(self) -> Iterator[Item]:
        """Yield items without end. WorkloadError if the input fails under way."""
        yield from self.read(1)
        for number in count(2):
            if self.overwrites:
                yield from self.read(number)
            else:
                suffix = b"#r%06d" % number
                for item in self.read(number):
                    yield Item(item.key + suffix, item.value)


def standard_library() -> Workload:
    """Return the files of the running Python's standard library."""
    path = Path(sysconfig.get_paths()["stdlib"])
    if not path.is_dir():
        raise WorkloadError(
            f"{path}: this Python keeps its standard library elsewhere; name an input with --input"
        )
    return _from_directory(path, "the standard library")


def read_input(path: Path) -> Workload:
    """Return the items of a directory (one per file) or of a file (one per line)."""
    try:
        if path.is_dir():
            return _from_directory(path, str(path))
        if path.is_file():
            return _from_lines(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if path.exists():
        raise WorkloadError(f"{path}: neither a file nor a directory; name one of these")
    raise WorkloadError(f"{path}: no such file or directory; check the path of --input")


def synthetic(keys: int, value_bytes: int, seed: int = 0) -> Workload:
    """Return a bounded set of keys, written over and over in order, with ever new values."""
    if keys < 1:
        raise WorkloadError(f"{keys} keys; a load needs at least 1")
    if not 0 <= value_bytes <= VALUE_BYTES_MAX:
        raise WorkloadError(f"values of {value_bytes} bytes; a value has 0 to {VALUE_BYTES_MAX}")
    names = [b"key-%08d" % number for number in range(keys)]
    noise = random.Random(seed).randbytes(_NOISE_BYTES + value_bytes)

    def read(number: int) -> Iterator[Item]:
        first = (number - 1) * keys
        for serial, key in enumerate(names, first):
            # A serial number makes values differ; what follows it cannot be compressed.
            offset = serial * 4_099 % _NOISE_BYTES
            head = struct.pack("<Q", serial)[:value_bytes]
            yield Item(key, head + noise[offset : offset + value_bytes - len(head)])

    name = f"{keys} keys of {value_bytes} bytes"
    return Workload(name, keys, keys * value_bytes, read, overwrites=True)


# --- directories --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was when it was found; only that many bytes of it are read."""

    path: bytes
    key: bytes
    size: int


def _from_directory(directory: Path, name: str) -> Workload:
    files = tuple(_find(os.fsencode(directory)))
    if not files:
        raise WorkloadError(f"{directory}: holds no files; name a directory with some in it")
    items = sum(max(1, -(-file.size // CHUNK_BYTES)) for file in files)

    def read(_round: int) -> Iterator[Item]:
        for file in files:
            yield from _read_file(file)

    return Workload(name, items, sum(file.size for file in files), read)


def _find(root: bytes) -> Iterator[_File]:
    """Yield the readable regular files below a directory, by name."""

    def fail(error: OSError) -> None:
        raise _unreadable(error.filename, error) from error

    for directory, subdirectories, names in os.walk(root, onerror=fail):
        subdirectories[:] = sorted(set(subdirectories) - _SKIPPED_DIRECTORIES)
        for name in sorted(names):
            path = os.path.join(directory, name)
            if not os.path.isfile(path):
                continue  # a socket, a pipe, a dangling link
            if not os.access(path, os.R_OK):
                raise WorkloadError(f"{os.fsdecode(path)}: cannot be read; check its permissions")
            key = os.path.relpath(path, root).replace(b"#", b"##")
            yield _File(path, _checked_key(key, path), os.stat(path).st_size)


def _read_file(file: _File) -> Iterator[Item]:
    try:
        with open(file.path, "rb") as stream:
            if file.size <= CHUNK_BYTES:
                yield Item(file.key, _read_exactly(stream, file.size, file.path))
                return
            for part, start in enumerate(range(0, file.size, CHUNK_BYTES), 1):
                size = min(CHUNK_BYTES, file.size - start)
                value = _read_exactly(stream, size, file.path)
                yield Item(file.key + b"#%06d" % part, value)
    except OSError as error:
        raise _unreadable(file.path, error) from error


def _read_exactly(stream: BinaryIO, size: int, path: bytes) -> bytes:
    value = stream.read(size)
    if len(value) != size:
        raise WorkloadError(f"{os.fsdecode(path)}: became shorter while it was read; start again")
    return value


# --- lines --------------------------------------------------------------------------------


def _from_lines(path: Path) -> Workload:
    size = path.stat().st_size
    if size == 0:
        raise WorkloadError(f"{path}: is empty; name a file with at least one line")
    raw_path = os.fsencode(path)
    name = _checked_key(os.fsencode(path.name).replace(b"#", b"##"), raw_path)
    items = value_bytes = 0
    for item in _read_lines(raw_path, name, size):
        items += 1
        value_bytes += len(item.value)

    def read(_round: int) -> Iterator[Item]:
        return _read_lines(raw_path, name, size)

    return Workload(str(path), items, value_bytes, read)


def _read_lines(path: bytes, name: bytes, size: int) -> Iterator[Item]:
    """Yield the lines of the first `size` bytes, without their newline, in pieces if long."""
    try:
        with open(path, "rb", buffering=_SCAN_BYTES) as stream:
            line, part, left = 1, 0, size
            while left:
                piece = stream.readline(min(CHUNK_BYTES, left))
                if not piece:
                    raise WorkloadError(
                        f"{os.fsdecode(path)}: became shorter while it was read; start again"
                    )
                left -= len(piece)
                ended = piece.endswith(b"\n")
                value = piece[:-1] if ended else piece
                if part or (not ended and left):
                    part += 1
                suffix = b"#%06d" % part if part else b""
                if value or part <= 1:  # not the bare newline behind a full last piece
                    yield Item(name + b":%09d" % line + suffix, value)
                if ended:
                    line, part = line + 1, 0
    except OSError as error:
        raise _unreadable(path, error) from error


def _checked_key(key: bytes, path: bytes) -> bytes:
    bound = KEY_BYTES_MAX - _SUFFIX_BYTES_MAX
    if len(key) > bound:
        raise WorkloadError(
            f"{os.fsdecode(path)}: its key has {len(key)} bytes, at most {bound}; shorten the path"
        )
    return key


def _unreadable(path: Path | bytes | str, error: OSError) -> WorkloadError:
    return WorkloadError(f"{os.fsdecode(path)}: cannot be read: {error.strerror}")
