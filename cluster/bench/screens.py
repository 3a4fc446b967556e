"""Dashboards on pseudo-terminals: their processes, what they write, how soon they answer a key.

A `Screen` is the process and the terminal's own end; nothing is drawn. The dashboard is only a
command here: this package imports nothing of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cluster.bench.children import ChildError
from cluster.processes import module_environment

__all__ = ["COLUMNS", "LINES", "Marker", "Screen", "pump", "shut"]

COLUMNS: Final = 120
LINES: Final = 36
SHOWN_TIMEOUT_S: Final = 60.0
LEAVE_TIMEOUT_S: Final = 10.0
READ_BYTES: Final = 1 << 16
KEPT_BYTES: Final = 4_096
"""Enough for the last words of one that failed."""
CARRIED_BYTES: Final = 256
"""A row's beginning may come in two reads."""
_PROGRAM: Final = """
import fcntl, sys, termios
from node.lifeline import die_with_parent
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if not die_with_parent(int(sys.argv.pop(1))):
    sys.exit(0)
from dashboard.cli import main
sys.exit(main())
"""
_STYLE: Final = rb"(?:\x1b\[[0-9;]*m)*"
_MARKED: Final = re.compile(
    rb"\x1b\[(\d+);[1-3]H(?:" + _STYLE + rb"(?:\xe2\x94\x82| ))*" + _STYLE + "▸".encode()
)
"""The beginning of a line of the node table (│, a blank) that carries the marker of the selection.
No other pane at the left edge has that sign in its first cells."""


class Marker:
    """Follows the selection's marker through what is written to the terminal."""

    def __init__(self) -> None:
        self.line: int | None = None
        """The line that carries it; None until it was painted."""
        self._rest = b""

    def take(self, painted: bytes) -> bool:
        """Take what was written; tell whether the marker is on another line now."""
        text = self._rest + painted
        before, end = self.line, 0
        for found in _MARKED.finditer(text):
            self.line, end = int(found[1]), found.end()
        self._rest = text[max(end, len(text) - CARRIED_BYTES) :]
        return self.line != before


class Screen:
    """One dashboard of a cluster on a terminal of its own. One thread."""

    def __init__(self, cluster: str) -> None:
        """Start it; `wait_shown` says when it is there."""
        self.marker = Marker()
        self.bytes_read = 0
        self.moved_at = 0
        """When the marker was last seen to move (monotonic ns)."""
        self._last = b""
        self.master, slave = os.openpty()
        try:
            size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
            environment = module_environment()
            for name in ("NO_COLOR", "SSH_TTY"):
                environment.pop(name, None)
            environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
            command = [sys.executable, "-P", "-c", _PROGRAM, str(os.getpid()), "dash", cluster]
            self._process = subprocess.Popen(
                command, stdin=slave, stdout=slave, stderr=slave, env=environment,
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(self.master)
            raise
        finally:
            os.close(slave)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def read(self) -> None:
        """Take what can be read; does not wait."""
        if not select.select([self.master], [], [], 0)[0]:
            return
        try:
            painted = os.read(self.master, READ_BYTES)
        except OSError:
            return  # the other end is closed
        self.bytes_read += len(painted)
        self._last = (self._last + painted)[-KEPT_BYTES:]
        if self.marker.take(painted):
            self.moved_at = time.monotonic_ns()

    def wait_shown(self) -> None:
        """Wait until the node table is painted."""
        deadline = time.monotonic() + SHOWN_TIMEOUT_S
        while self.marker.line is None:
            pump([self], 0.1)
            self._check()
            if time.monotonic() > deadline:
                raise ChildError(f"the dashboard painted no node within {SHOWN_TIMEOUT_S:g} s")

    def echo_ms(self, key: bytes, timeout_s: float) -> float | None:
        """Press a key that moves the selection; return when that was seen, None if it was not."""
        pump([self], 0.0)
        begun = self.moved_at = time.monotonic_ns()
        os.write(self.master, key)
        deadline = time.monotonic() + timeout_s
        while self.moved_at == begun:
            self._check()
            if time.monotonic() > deadline:
                return None
            pump([self], deadline - time.monotonic(), until=lambda: self.moved_at != begun)
        return (self.moved_at - begun) / 1e6

    def _check(self) -> None:
        if self.ended:
            words = self._last.decode("utf-8", "replace").strip().splitlines()
            raise ChildError(f"the dashboard ended: {words[-1] if words else 'without a word'}")

    def leave(self) -> None:
        """Ask it to leave."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End it, by force if it has not left."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        if self.master >= 0:
            os.close(self.master)
            self.master = -1


def pump(
    screens: Iterable[Screen], seconds: float, until: Callable[[], bool] = lambda: False
) -> None:
    """Take what the dashboards write for so long, or until a condition holds."""
    by_end = {screen.master: screen for screen in screens}
    deadline = time.monotonic() + seconds
    while not until():
        left = max(0.0, deadline - time.monotonic())
        ready = select.select([*by_end], [], [], left)[0]
        for end in ready:
            by_end[end].read()
            if by_end[end].ended:
                del by_end[end]
        if not left or not (by_end or ready):
            return


def shut(screens: Sequence[Screen]) -> None:
    """Let dashboards leave, all at once; whoever stays is killed."""
    try:
        for screen in screens:
            screen.leave()
        deadline = time.monotonic() + LEAVE_TIMEOUT_S
        while any(not screen.ended for screen in screens) and time.monotonic() < deadline:
            pump([screen for screen in screens if not screen.ended], 0.05)
    finally:
        for screen in screens:
            screen.close()
