"""A program in a real pseudo-terminal: keys go in, what was painted comes out as text."""

from __future__ import annotations

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

ESCAPES = re.compile(
    rb"\x1b\[[0-9;:?<>=]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>78]|\x1b\][^\x07]*\x07|\x1bP.*?\x1b\\"
)
ALTERNATE_ON, ALTERNATE_OFF = b"\x1b[?1049h", b"\x1b[?1049l"
CURSOR_ON = b"\x1b[?25h"
MOUSE_ON, MOUSE_OFF = b"\x1b[?1000h", b"\x1b[?1000l"


class Terminal:
    """A child on a pty of its own. `text` is everything painted so far, without escapes."""

    def __init__(self, command: list[str], *, size=(120, 36), **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(*size)
        self.attributes = termios.tcgetattr(slave)
        self.raw = b""
        variables = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "SSH_TTY")}
        variables |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=variables, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call
        )  # fmt: skip
        self.slave = slave

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    @property
    def text(self) -> str:
        return ESCAPES.sub(b"\n", self.raw).decode("utf-8", "replace")

    def pump(self, seconds: float) -> None:
        """Take what was painted; returns at once when something was."""
        if select.select([self.master], [], [], seconds)[0]:
            try:
                self.raw += os.read(self.master, 1 << 16)
            except OSError:
                return  # the other end is closed

    def await_text(self, pattern: str, timeout_s: float = 30.0, *, since: int = 0) -> re.Match:
        """Wait until a pattern was painted after a mark; return the last match."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = list(re.finditer(pattern, self.text[since:]))
            if found:
                return found[-1]
            assert time.monotonic() < deadline, f"{pattern!r} never came:\n{self.text[-4000:]}"
            assert self.process.poll() is None, (
                f"it ended ({self.process.returncode}):\n{self.text[-4000:]}"
            )
            self.pump(0.1)

    @property
    def mark(self) -> int:
        """Where the text ends now, for `since`."""
        return len(self.text)

    def ends(self, timeout_s: float = 30.0) -> int:
        """Wait for the child's end, painting meanwhile; return its exit code."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.text[-4000:]}"
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
