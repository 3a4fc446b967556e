"""The demo as a presenter runs it: typed into a shell, in a terminal that tmux emulates."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.process import meters
from tests.process.test_demo import processes_of, small_input

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "ready>"

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not on PATH")


class Tmux:
    """One shell in a tmux server of its own."""

    def __init__(self, desk: Path) -> None:
        self._socket = str(desk / "tmux")
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "SSH_TTY", "TMUX")}
        start = desk / "shell"
        start.write_text(f"PS1='{PROMPT} '\n")
        self._environment = kept | {"ENV": str(start), "COLORTERM": "truecolor"}
        # tmux starts what it is told through the account's shell, which may be none.
        self._environment["SHELL"] = "/bin/sh"
        self._do("-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "36", "sh")
        self.await_text(PROMPT)

    def _do(self, *words: str) -> str:
        command = ["tmux", "-S", self._socket, "-u", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, env=self._environment, timeout=20, check=True
        )
        return done.stdout

    def press(self, *keys: str) -> None:
        self._do("send-keys", *keys)

    def type(self, line: str) -> None:
        self._do("send-keys", "-l", line)
        self.press("Enter")

    @property
    def text(self) -> str:
        """What is on the screen."""
        return self._do("capture-pane", "-p")

    def state(self) -> str:
        """Say of the pane: alternate screen, cursor, mouse."""
        names = "#{alternate_on} #{cursor_flag} #{mouse_any_flag}"
        return self._do("display-message", "-p", names).strip()

    def await_text(self, pattern: str, timeout_s: float = 40.0) -> re.Match:
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"{pattern!r} never came:\n{self.text}"
            meters.let_pass(0.05)
        return found

    def settings(self, name: str, at: Path) -> str:
        """Let the shell write its terminal's settings to a file, and return them."""
        place = at / name
        self.type(f"stty -a > {shlex.quote(str(place))}; clear; echo noted {name}")
        self.await_text(rf"(?m)^noted {name}$")
        return place.read_text()

    def close(self) -> None:
        self._do("kill-server")


@pytest.fixture
def tmux(desk: Path):
    made = Tmux(desk)
    yield made
    made.close()


def begin(tmux: Tmux, tmp_path: Path, desk: Path) -> re.Match:
    """Start the demo from the shell; return who leads."""
    words = [str(ROOT / "scripts" / "demo"), "-n", "3", "--seconds", "600"]
    words += ["--input", str(small_input(tmp_path)), "--data", str(desk / "data")]
    tmux.type(f"{shlex.join(words)}; echo exit=$?")
    return tmux.await_text(r"▲ n(\d) term (\d+)")


def assert_all_is_as_before(tmux: Tmux, desk: Path, tmp_path: Path, before: str) -> None:
    """No process of the demo, the shell's own screen, cursor, mouse and line discipline."""
    deadline = time.monotonic() + 20
    while left := processes_of(desk / "raftdeck") + processes_of(desk / "data"):
        assert time.monotonic() < deadline, f"processes are left: {left}"
        meters.let_pass(0.05)
    assert tmux.state() == "0 1 0"
    assert "┌" not in tmux.text, "nothing of the dashboard is left on the shell's screen"
    assert tmux.settings("after", tmp_path) == before


@pytest.mark.timeout(150)
def test_a_presenter_in_tmux_kills_the_leader_restarts_it_and_leaves(tmux, tmp_path, desk):
    before = tmux.settings("before", tmp_path)
    led = begin(tmux, tmp_path, desk)
    old = led[1]
    tmux.press("l", "x")
    tmux.await_text(rf"FAULT on n{old} ▲ LEADER")
    tmux.await_text("SIGKILL: gone at once")
    tmux.press("k")
    tmux.await_text(rf"n{old} killed \(signal SIGKILL\)")
    new = tmux.await_text(rf"▲ n([^{old}]) term (\d+)")
    assert int(new[2]) > int(led[2])
    tmux.press("x", "r")
    tmux.await_text(rf"start: n{old} running")
    tmux.await_text("3 up")
    tmux.press("q")
    tmux.await_text("end the demo and its cluster")
    tmux.press("y")
    tmux.await_text(r"(?m)^exit=0$")
    assert str(desk / "data") in tmux.text
    assert_all_is_as_before(tmux, desk, tmp_path, before)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_tmux_gives_the_shell_its_terminal_back(tmux, tmp_path, desk, number):
    before = tmux.settings("before", tmp_path)
    begin(tmux, tmp_path, desk)
    (demo,) = [
        pid
        for pid in processes_of(desk / "data")
        if b"demo" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
    os.kill(demo, number)
    tmux.await_text(rf"(?m)^exit={128 + number}$")
    assert_all_is_as_before(tmux, desk, tmp_path, before)
