"""A disk in a directory with its faults, for the tests of `wal.faultfs` and `wal.writeback`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wal import OsFilesystem
from wal.faultfs import FaultFilesystem
from wal.faults import FaultBoard
from wal.filesystem import Lock, TunableFilesystem
from wal.writeback import WriteBackFilesystem

MS = 1_000_000


class Killed(BaseException):
    """What a board does here instead of ending the process."""


class Disk(OsFilesystem):
    """The real one; its lock can be given back as a dead process's is."""

    held: Lock | None = None

    def lock(self, path: str) -> Lock:
        self.held = super().lock(path)
        return self.held

    def owner_died(self) -> None:
        if self.held is not None:
            self.held.release()
            self.held = None


class Desk:
    """A disk in a directory, its faults, and a clock that stands still until it is moved."""

    def __init__(self, root: Path, *, power_loss: bool = False) -> None:
        self.now_ns = 0
        self.told: list[str] = []
        self.wal = str(root / "wal")
        (root / "wal").mkdir(exist_ok=True)
        self.disk = Disk()
        self.cache = WriteBackFilesystem(self.disk) if power_loss else None
        self.board = FaultBoard(lambda: self.now_ns, self._end, self.told.append)
        inner: TunableFilesystem = self.cache or self.disk
        self.fs = FaultFilesystem(inner, self.board)

    def _end(self, text: str) -> None:
        raise Killed(text)

    def path(self, name: str) -> str:
        return f"{self.wal}/{name}"

    def pass_ms(self, ms: int) -> None:
        self.now_ns += ms * MS


@contextlib.contextmanager
def fails(code: int) -> Iterator[None]:
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        yield
    assert caught.value.errno == code
    assert caught.value.filename
