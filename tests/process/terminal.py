"""A program in a real pseudo-terminal: keys go in, what was painted comes out as a grid of cells."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable

from tests.dashboard.emulator import Emulator

ESCAPES = re.compile(
    rb"\x1b\[[0-9;:?<>=]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>78]|\x1b\][^\x07]*\x07|\x1bP.*?\x1b\\"
)
ALTERNATE_ON, ALTERNATE_OFF = b"\x1b[?1049h", b"\x1b[?1049l"
CURSOR_ON = b"\x1b[?25h"
MOUSE_ON, MOUSE_OFF = b"\x1b[?1000h", b"\x1b[?1000l"


class Terminal:
    """A child on a pty of its own."""

    def __init__(self, command: list[str], *, size=(120, 36), **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.emulator = Emulator(*size)
        self.resize(*size)
        self.attributes = termios.tcgetattr(slave)
        self.raw = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        variables = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "SSH_TTY")}
        variables |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=variables, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call
        )  # fmt: skip
        self.slave = slave

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.emulator.resize(width, height)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    @property
    def text(self) -> str:
        """What is on the screen now."""
        text: str = self.emulator.text
        return text

    @property
    def said(self) -> str:
        """What was written since the dashboard gave the screen back, without escapes."""
        return ESCAPES.sub(b"\n", self.raw.rpartition(ALTERNATE_OFF)[2]).decode("utf-8", "replace")

    def pump(self, seconds: float) -> None:
        """Take what was painted; returns at once when something was."""
        if select.select([self.master], [], [], seconds)[0]:
            try:
                found = os.read(self.master, 1 << 16)
            except OSError:
                return  # the other end is closed
            self.raw += found
            self.emulator.feed(self._decoder.decode(found))

    def await_text(self, pattern: str, timeout_s: float = 30.0) -> re.Match:
        """Wait until a pattern is on the screen; return the match."""

        def found() -> re.Match | None:
            return re.search(pattern, self.text)

        match: re.Match | None = self.await_that(found, repr(pattern), timeout_s)
        assert match is not None
        return match

    def await_that(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0):
        """Wait until a condition of the screen holds; return what it returned."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what} never came:\n{self.text}"
            code = self.process.poll()
            assert code is None, f"it ended ({code}):\n{self.text}\n{self.said}"
            self.pump(0.1)
        return value

    def ends(self, timeout_s: float = 30.0) -> int:
        """Wait for the child's end, painting meanwhile; return its exit code."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
            self.pump(0.05)
        self.pump(0.05)
        self.pump(0.05)
        return self.process.returncode

    def restored(self) -> bool:
        """Whether screen, cursor, mouse and line discipline are what they were."""
        on, off = self.raw.rfind(ALTERNATE_ON), self.raw.rfind(ALTERNATE_OFF)
        mouse = self.raw.rfind(MOUSE_OFF) >= self.raw.rfind(MOUSE_ON)
        same = termios.tcgetattr(self.slave) == self.attributes
        return off > on >= 0 and self.raw.rfind(CURSOR_ON) > 0 and mouse and same

    def hang_up(self) -> None:
        """Take the terminal away, as a closed window does."""
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = -1

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.master >= 0:
            os.close(self.slave)
            os.close(self.master)
