"""The verbs that draw, and that the others never pay for Textual."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dashboard.film import Film
from dashboard.presenter.view import Size
from dashboard.watch import Narrator
from tests.dashboard.scenes import frames_of

PROBE = """
import json, sys
from dashboard.cli import main
sys.argv = ["raftdeck", *json.loads(sys.argv[1])]
code = main()
print("textual" in sys.modules, "dashboard.app" in sys.modules, code, file=sys.stderr)
"""


def probe(*arguments: str, tmp_path) -> tuple[str, str]:
    environment = {"PATH": "/usr/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, json.dumps(arguments)],
        capture_output=True, text=True, env=environment, timeout=30, check=False,
    )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("ls",), ("status",), ("status", "--watch"), ("demo", "--input", "absent"), ("node", "kill", "n1"), ("dash", "--help")],
    ids=" ".join,
)  # fmt: skip
def test_a_verb_that_draws_nothing_never_loads_textual(arguments, tmp_path):
    _, errors = probe(*arguments, tmp_path=tmp_path)
    assert errors.splitlines()[-1].startswith("False False"), errors


def test_the_probe_can_see_textual(tmp_path):
    code = PROBE.replace("code = main()", "import textual; code = 0")
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "[]"], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("True"), done.stderr


def test_dash_without_a_terminal_says_what_to_use_instead(tmp_path):
    _, errors = probe("dash", tmp_path=tmp_path)
    assert "needs a terminal" in errors
    assert "raftdeck status" in errors


def test_help_names_the_verbs_that_draw_beside_the_others(tmp_path):
    out, _ = probe("--help", tmp_path=tmp_path)
    assert "dash" in out
    assert "bench" in out
    out, _ = probe("demo", "--help", tmp_path=tmp_path)
    assert "--headless" in out
    assert "--ascii" in out


def test_the_narrator_tells_each_event_once_and_what_changed_without_one():
    narrator = Narrator()
    lines = [line for frame in frames_of("frozen", 3) for line in narrator.lines(frame)]
    assert [line.split()[1] for line in lines] == [
        "started", "leader", "now", "killed", "leader", "started", "frozen", "change",
    ]  # fmt: skip
    assert lines[0].split(maxsplit=2)[2] == "–  n1 started (pid 4001) · you", "nobody saw it"
    assert "○ ▲ ○  t7 c150,000 3/3" in lines[2]
    assert "n1 killed (signal 9) · you" in lines[3]
    assert "seen 121 ms after n1 killed" in lines[4]
    assert "○ ▲ ‖" in lines[-1]


def test_a_film_shows_each_frame_as_the_screen_would():
    frames = frames_of("frozen", 3)
    bare, coloured = Film(Size(80, 24)), Film(Size(80, 24), theme="dark", ascii_only=True)
    pictures = [(bare(frame), coloured(frame)) for frame in frames[::10]]
    picture, painted = pictures[-1]
    assert "PAUSED" in picture
    assert "\x1b" not in picture
    assert len(picture.splitlines()) == len(painted.splitlines()) == 24
    assert "\x1b[" in painted
    assert painted.isascii()
