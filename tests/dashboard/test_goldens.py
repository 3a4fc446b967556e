"""What the screen says, as plain text: every scene at three sizes with three cluster sizes.

`RAFTDECK_GOLDENS=write scripts/test tests/dashboard/test_goldens.py` writes them anew; read the
difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dashboard.keys import keys_on
from dashboard.presenter.screen import Beside, compose, screen_text
from dashboard.presenter.text import width_of
from dashboard.presenter.view import Size
from tests.dashboard.scenes import SCENES, frames_of, picture_of, view_of

GOLDENS = Path(__file__).parent / "goldens"
SIZES = (Size(80, 24), Size(120, 36), Size(200, 60))
NODES = (3, 5, 11)


def screen_of(scene: str, nodes: int, size: Size, *, ascii_only: bool = False) -> str:
    view = view_of(scene)
    features = frozenset() if scene in ("readonly", "replay") else frozenset({"act"})
    if scene == "replay":
        features = frozenset({"replay"})
    beside = Beside(keys=tuple(keys_on(view.page, features)))
    rows = compose(picture_of(frames_of(scene, nodes)), view, size, beside)
    assert len(rows) == size.height
    assert {width_of(row) for row in rows} == {size.width}
    return screen_text(rows, ascii_only=ascii_only)


@pytest.mark.parametrize("scene", SCENES)
def test_a_scene_looks_as_it_did(scene):
    parts = [
        f"=== {scene}, {nodes} nodes, {size.width}x{size.height}\n{screen_of(scene, nodes, size)}"
        for size in SIZES
        for nodes in NODES
    ]
    text = "\n".join(parts)
    golden = GOLDENS / f"{scene}.txt"
    if os.environ.get("RAFTDECK_GOLDENS") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("scene", SCENES)
def test_ascii_is_really_ascii_and_loses_no_cell(scene):
    for size in SIZES:
        unicode = screen_of(scene, 5, size)
        text = screen_of(scene, 5, size, ascii_only=True)
        assert text.isascii()
        assert text.count("?") == unicode.count("?"), "a sign has no ASCII of its own"
        lengths = [len(line) for line in unicode.splitlines()]
        assert [len(line) for line in text.splitlines()] == lengths


SAYS = {
    "election": ("NO LEADER", "CAND", "PRE-CAND", "DEAD"),
    "frozen": ("PAUSED", "SIGSTOP", "1 paused"),
    "minority": ("DEAD", "CRASHED", "2 dead", "MARGIN 0", "exit 3", "sig 9"),
    "partition": ("PRE-CAND", "╳"),
    "noquorum": ("NO QUORUM", "NO LEADER", "DEAD"),
    "recovering": ("RECOVER", "starting", "55,108"),
    "replay": ("REPLAY",),
    "readonly": ("READ-ONLY", "no faults"),
    "stale": ("STALE 4s",),
    "healthy": ("LIVE", "LEADER", "margin 2"),
}


@pytest.mark.parametrize("scene", SCENES)
def test_a_scene_says_in_words_what_is_the_matter(scene):
    text = screen_of(scene, 5, Size(120, 36))
    assert not [word for word in SAYS[scene] if word not in text], text


def test_a_dead_node_shows_dashes_and_no_invented_zero():
    row = next(
        line for line in screen_of("minority", 5, Size(120, 36)).splitlines() if "DEAD" in line
    )
    numbers = row.split("sig 9")[1][:80].split()
    assert set(numbers) == {"–"}, row
