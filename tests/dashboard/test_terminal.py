"""The driver on a pseudo-terminal: keys in, pictures out, and nothing that waits for a slow reader."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
import termios
import threading
from contextlib import closing

import pytest
from textual import events

from dashboard import terminal
from dashboard.terminal import TerminalDriver

TIMEOUT_S = 20.0
LONG = "".join(f"<{number}>" for number in range(100_000))
"""More than any pseudo-terminal holds back."""


class App:
    """What a driver needs of an app."""

    def __init__(self):
        self.taken = []
        self.came = asyncio.Event()

    async def _post_message(self, message):
        self.post_message(message)

    def post_message(self, message):
        self.taken.append(message)
        self.came.set()

    async def until(self, condition):
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self.came.clear()
                await self.came.wait()

    def pressed(self):
        return [message.key for message in self.taken if isinstance(message, events.Key)]


class Ends:
    """Both ends of a pseudo-terminal; `read` takes what was written until a text came."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)

    def read_until(self, text):
        found = b""
        while text not in found:
            found += os.read(self.master, 1 << 16)
        return found.decode()

    def close(self):
        for end in (self.master, self.slave):
            if end >= 0:
                os.close(end)


@pytest.fixture
def ends(monkeypatch):
    with closing(Ends()) as made:
        stdin = os.fdopen(os.dup(made.slave), "r")
        with stdin:
            monkeypatch.setattr(sys, "__stdin__", stdin)
            yield made


def run(story):
    """Run a story with a driver in application mode; it is given back at the end."""

    async def told():
        app = App()
        driver = TerminalDriver(app, size=(80, 24))
        driver.start_application_mode()
        try:
            await story(app, driver)
        finally:
            driver.stop_application_mode()
            driver.close()

    asyncio.run(told())


def test_keys_come_as_they_were_typed(ends):
    async def story(app, driver):
        os.write(ends.master, "jé\x1b[A".encode())
        await app.until(lambda: len(app.pressed()) >= 3)
        keys = [m for m in app.taken if isinstance(m, events.Key)]
        assert [(m.key, m.character) for m in keys][::2] == [("j", "j"), ("up", None)]
        assert keys[1].character == "é"

    run(story)


def test_a_lone_escape_is_a_key_after_its_delay_and_half_a_sign_waits_for_the_rest(ends):
    async def story(app, driver):
        os.write(ends.master, b"\x1b")
        await app.until(lambda: app.pressed() == ["escape"])
        os.write(ends.master, "▲".encode()[:1])
        os.write(ends.master, "▲".encode()[1:] + b"\xffk")
        await app.until(lambda: "k" in app.pressed())
        characters = [m.character for m in app.taken if isinstance(m, events.Key)]
        assert characters[1:] == ["▲", "\N{REPLACEMENT CHARACTER}", "k"]

    run(story)


def test_a_terminal_that_takes_nothing_holds_nobody_up_and_gets_all_in_order(ends):
    async def story(app, driver):
        driver.write(LONG)
        driver.write("the end")
        assert driver.busy
        os.write(ends.master, b"j")
        await app.until(lambda: app.pressed() == ["j"])
        found = await asyncio.to_thread(ends.read_until, b"the end")
        assert LONG + "the end" in found
        async with asyncio.timeout(TIMEOUT_S):
            while driver.busy:
                await asyncio.sleep(0)

    run(story)


def test_at_the_end_the_terminal_is_what_it_was(ends):
    async def story(app, driver):
        assert termios.tcgetattr(ends.slave) != ends.before
        driver.write("x" * 50_000)
        reader.start()

    said = []
    reader = threading.Thread(target=lambda: said.append(ends.read_until(b"\x1b[?1004l")))
    run(story)
    reader.join(TIMEOUT_S)
    assert "x" * 50_000 in said[0]
    assert said[0].index("\x1b[?1049l") > said[0].rindex("x")
    assert termios.tcgetattr(ends.slave) == ends.before


def test_a_terminal_that_never_reads_is_left_after_a_while(ends, monkeypatch):
    monkeypatch.setattr(terminal, "FAREWELL_S", 0.05)

    async def story(app, driver):
        driver.write(LONG)

    run(story)
    assert termios.tcgetattr(ends.slave) == ends.before


def test_a_window_that_is_closed_is_told_to_the_app(ends):
    async def story(app, driver):
        os.close(ends.master)
        ends.master = -1
        await app.until(lambda: any(isinstance(m, TerminalDriver.Gone) for m in app.taken))
        driver.write("nobody reads this")
        assert not driver.busy

    run(story)
