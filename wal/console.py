"""What the verbs of `raftdeck wal` share: arguments, errors, exit codes, progress.

Standard output is data, standard error everything else. Exit codes: 0 held (a torn tail is no
damage) · 1 damaged, or the operation failed · 2 usage, no log there, or not readable · 4 written in
a format that cannot be read here.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO

import click

from wal.errors import OtherFormatError, WalError
from wal.filesystem import OsFilesystem, ReadFile
from wal.segment import LOCK_NAME, SEALED_NAME, position_at, segment_number, spare_number

__all__ = [
    "EXIT_DAMAGED",
    "EXIT_OTHER_FORMAT",
    "EXIT_USAGE",
    "CwalFile",
    "LogDirectory",
    "Place",
    "Progress",
    "WatchedFilesystem",
    "closing_with",
    "counted",
    "directory_argument",
    "drop_output",
    "fail",
    "json_option",
    "say",
    "told",
]

EXIT_DAMAGED: Final = 1
EXIT_USAGE: Final = 2
EXIT_OTHER_FORMAT: Final = 4

_MARKS: Final = frozenset({LOCK_NAME, SEALED_NAME})
_PLACE: Final = re.compile(r"(\d+)(?:\.wal)?(?::(\d+))?")
_SILENT_S: Final = 1.0
"""Work that is done by then shows no progress."""
_EVERY_S: Final = 0.2


# ---- what the commands take ------------------------------------------------------------------


class LogDirectory(click.ParamType[str]):
    """A node's data directory (with `wal` in it), or the log's own directory."""

    name = "DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the log's directory."""
        fs = OsFilesystem()
        given = str(value).rstrip("/") or "/"
        inner = f"{given}/wal"
        directory = inner if fs.exists(inner) else given
        try:
            names = fs.listdir(directory)
        except NotADirectoryError:
            hint = f"for a CWal file there is: raftdeck wal cwal verify {given}"
            self.fail(f"{given}: a file, and no node's data directory; {hint}", param, ctx)
        except OSError as error:
            self.fail(f"{directory}: {error.strerror}", param, ctx)
        if not any(segment_number(name) or spare_number(name) or name in _MARKS for name in names):
            self.fail(f"{directory}: no log here; name a node's data directory", param, ctx)
        return directory


class CwalFile(click.Path):
    """A file that can be read to its end: no directory, and neither a pipe nor a device."""

    def __init__(self, *, dir_okay: bool = False) -> None:
        """With `dir_okay` a directory is taken as well."""
        super().__init__(exists=True, dir_okay=dir_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        path = super().convert(value, param, ctx)
        if not (os.path.isfile(path) or os.path.isdir(path)):
            self.fail(f"{value}: neither a file nor a directory", param, ctx)
        return path


class Place(click.ParamType[int]):
    """A position: SEGMENT or SEGMENT:BYTE, as `dump` prints it."""

    name = "POSITION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the position."""
        match = _PLACE.fullmatch(str(value))
        if match is None or int(match[2] or 0) >> 32:
            self.fail(f"{value!r} is not SEGMENT or SEGMENT:BYTE, such as 3:4096", param, ctx)
        return position_at(int(match[1]), int(match[2] or 0))


directory_argument = click.argument("directory", metavar="DIR", type=LogDirectory())
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def closing_with(example: str) -> str:
    """Return the end of a help text."""
    return f"\b\nExample:\n  raftdeck wal {example}"


def fail(message: str, exit_code: int) -> click.exceptions.Exit:
    """Say why on standard error; return what ends the command."""
    click.echo(f"Error: {message}", err=True)
    return click.exceptions.Exit(exit_code)


def say(text: str, *, nl: bool = True) -> None:
    """Print data; a standard output that cannot take it ends the command, and is named."""
    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise fail(f"standard output: {error.strerror}", EXIT_DAMAGED) from None


def drop_output(*streams: TextIO) -> None:
    """Let standard output, or `streams`, go nowhere.

    What was not taken would be tried again at the exit, and make the exit code 120.
    """
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        for stream in streams or (sys.stdout,):
            os.dup2(nowhere.fileno(), stream.fileno())


def counted(count: int, noun: str) -> str:
    """Return `1 segment`, `2 segments`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn what reading a log may raise into a line and an exit code.

    `where` is named if the error does not say which file it was.
    """
    try:
        yield
    except OtherFormatError as error:
        raise fail(str(error), EXIT_OTHER_FORMAT) from None
    except WalError as error:
        raise fail(str(error), EXIT_DAMAGED) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise fail(f"{error.filename or where}: {error.strerror}", EXIT_USAGE) from None


# ---- progress ----------------------------------------------------------------------------------


class Progress:
    """Says on standard error how many bytes were read, while it is a terminal. Use `with`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()
        self._next = self._began + _SILENT_S
        self._bytes = 0
        self._shown = False
        self._watched = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def advance(self, count: int) -> None:
        """Count bytes."""
        self._bytes += count
        if not self._watched:
            return
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY_S
            self._shown = True
            speed = self._bytes / 1e6 / (now - self._began)
            text = f"{self._what}: {self._bytes / 1e6:,.0f} MB, {speed:,.0f} MB/s"
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


class _WatchedFile:
    """`ReadFile` whose reads are counted."""

    def __init__(self, file: ReadFile, progress: Progress) -> None:
        self._file = file
        self._progress = progress
        self.size = file.size
        self.close = file.close

    def pread(self, length: int, offset: int) -> bytes:
        piece = self._file.pread(length, offset)
        self._progress.advance(len(piece))
        return piece


class WatchedFilesystem(OsFilesystem):
    """The real file system; what is read of it shows as progress."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def open_read(self, path: str) -> ReadFile:
        """See `ReadFilesystem.open_read`."""
        return _WatchedFile(super().open_read(path), self._progress)
