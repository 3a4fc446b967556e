"""A node's output on disk, bounded: `node.log` and the `node.log.1` before it.

The node writes straight into the file (its stdout and stderr, O_APPEND), so that it needs nobody
to read a pipe, and its last words survive everybody. When the file is too large the supervisor
copies it to `node.log.1` and cuts it to nothing; lines written between copy and cut are lost,
which a log that is too large can afford.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

__all__ = ["NodeLog"]

LOG_BYTES_MAX: Final = 4 << 20
"""15 nodes × 2 files × 4 MiB = 120 MiB at worst."""
TAIL_BYTES: Final = 16 << 10
LINE_MAX: Final = 400


class NodeLog:
    """The log file of one node; used by the supervisor's main thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    def open(self) -> int:
        """Open for a new life of the node; return a descriptor that the caller closes."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        self._start = os.fstat(descriptor).st_size
        return descriptor

    def note(self, text: str) -> None:
        """Append a line of the supervisor's own; a full disk is no reason to fail."""
        with contextlib.suppress(OSError), self.path.open("ab") as file:
            file.write(f"--- {text}\n".encode())

    def rotate(self) -> None:
        """Start over if the file has outgrown its bound."""
        with contextlib.suppress(OSError):  # the node's log must never hurt the cluster
            if self.path.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(self.path, self.path.with_name(self.path.name + ".1"))
                os.truncate(self.path, 0)
                self._start = 0

    def last_lines(self, count: int) -> tuple[str, ...]:
        """Return the last lines that the present (or last) life of the node wrote."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._start, size - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ()
        lines = [line[:LINE_MAX] for line in text.splitlines() if line.strip()]
        return tuple(line for line in lines if not line.startswith("--- "))[-count:]
