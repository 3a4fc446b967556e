"""The terminal, read and written on the event loop itself.

Textual's own driver has a thread for keys and one for output. On a machine whose cores are all
taken, each hand-over waits for its turn: from a key to its echo that is three waits instead of one.
Its queue of writes blocks the whole loop, too, when a terminal does not keep up. Here nothing
waits: what the terminal does not take at once is kept until it does, and `busy` tells so, that no
more pictures are made for it meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
import time
from codecs import getincrementaldecoder
from typing import Any, Final

from textual._time import get_time
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

__all__ = ["TerminalDriver"]

READ_BYTES: Final = 4_096
FAREWELL_S: Final = 2.0
"""At the end, a terminal that takes nothing for so long is left as it is."""


class TerminalDriver(LinuxDriver):
    """Textual's driver without its two threads. Everything runs on the loop's thread."""

    class Gone(Message):
        """Nobody is at the other end any more."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        self._outlet: int | None = None
        self._unsent = bytearray()
        self._awaits_room = False
        self._parser = XTermParser(debug=False)
        self._decoder = getincrementaldecoder("utf-8")("replace")

    @property
    def busy(self) -> bool:
        """Whether the terminal has not taken yet all that was written."""
        return bool(self._unsent)

    # ---- life ------------------------------------------------------------------------------

    def start_application_mode(self) -> None:
        """Take the terminal. Its file is opened anew: not to block is then no one else's affair."""
        with contextlib.suppress(OSError):  # without a name it is written to as Textual does
            name = os.ttyname(self.fileno)
            self._outlet = os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        super().start_application_mode()  # type: ignore[no-untyped-call]  # Textual's
        self._loop.add_reader(self.fileno, self._readable)

    def disable_input(self) -> None:
        """Read no more keys."""
        self._loop.remove_reader(self.fileno)
        super().disable_input()

    def stop_application_mode(self) -> None:
        """Give the terminal back as it was, and wait until it has taken that."""
        super().stop_application_mode()
        if self._outlet is None:
            return
        self._await_no_room()
        deadline = time.monotonic() + FAREWELL_S
        while self._unsent and time.monotonic() < deadline:
            select.select([], [self._outlet], [], deadline - time.monotonic())
            self._drain()
        self._await_no_room()
        self._unsent.clear()
        os.close(self._outlet)
        self._outlet = None

    def _sigcont_application(self, *_: Any) -> None:
        """Take the terminal anew, whoever stopped the process: SIGSTOP left no time to give it back.

        Without that, what it was like at first would be forgotten. A terminal that hangs up sends
        SIGCONT after SIGHUP: there is nothing left to take then.
        """
        try:
            termios.tcgetattr(self.fileno)
        except termios.error:
            return
        if self._outlet is not None:
            self.suspend_application_mode()
            self._must_signal_resume = True
        super()._sigcont_application()

    # ---- output ----------------------------------------------------------------------------

    def write(self, data: str) -> None:
        """Write text; returns at once."""
        if self._outlet is None:
            super().write(data)
            return
        self._unsent += data.encode("utf-8", "replace")
        if not self._awaits_room:
            self._drain()

    def _drain(self) -> None:
        """Give the terminal what it takes; the rest goes when it has room."""
        outlet = self._outlet
        assert outlet is not None
        try:
            while self._unsent:
                del self._unsent[: os.write(outlet, self._unsent)]
        except BlockingIOError:
            if not self._awaits_room:
                self._awaits_room = True
                self._loop.add_writer(outlet, self._drain)
            return
        except OSError:
            self._unsent.clear()  # the terminal is gone; SIGHUP or the end of its keys tells
        self._await_no_room()

    def _await_no_room(self) -> None:
        if self._awaits_room and self._outlet is not None:
            self._awaits_room = False
            self._loop.remove_writer(self._outlet)

    # ---- input -----------------------------------------------------------------------------

    def _run_input_thread(self) -> None:
        """Leave Textual's thread empty: `_readable` reads."""

    def _readable(self) -> None:
        """Take keys, mouse and answers."""
        try:
            found = os.read(self.fileno, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            found = b""
        if not found:  # nobody is there any more: SIGHUP says the same, where it is sent
            self._loop.remove_reader(self.fileno)
            self._app.post_message(self.Gone())
            return
        for message in self._parser.feed(self._decoder.decode(found)):
            self.process_message(message)
        if (timeout := self._parser._timeout_time) is not None:
            # An escape may be a key or the beginning of one: the parser decides after its delay.
            self._loop.call_later(max(0.0, timeout - get_time()) + 0.001, self._tick)

    def _tick(self) -> None:
        for message in self._parser.tick():
            self.process_message(message)
