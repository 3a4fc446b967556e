"""SVG snapshots, pinned to the locked Textual: colours and weights, which text goldens do not see.

After a change that is meant, look at the report that pytest names, then run
`scripts/test tests/dashboard/test_svg.py --snapshot-update`.
"""

from __future__ import annotations

import pytest

from dashboard.app import DeckApp, Look
from tests.dashboard.conftest import Rig

SMALL, MIDDLE = (80, 24), (120, 36)
MAIN = [
    ("healthy", 3, MIDDLE, "dark"),
    ("healthy", 5, MIDDLE, "light"),
    ("healthy", 11, SMALL, "dark"),
    ("election", 5, SMALL, "dark"),
    ("election", 5, SMALL, "light"),
    ("election", 5, SMALL, "mono"),
    ("frozen", 5, MIDDLE, "dark"),
    ("minority", 5, SMALL, "dark"),
    ("minority", 5, SMALL, "light"),
    ("partition", 5, MIDDLE, "dark"),
    ("noquorum", 3, SMALL, "dark"),
    ("noquorum", 3, SMALL, "mono"),
    ("recovering", 5, SMALL, "dark"),
    ("stale", 3, SMALL, "light"),
]
KEYS = [
    ("chord", ("x",), "dark"),
    ("chord-light", ("x",), "light"),
    ("palette", ("colon", "k"), "dark"),
    ("help", ("question_mark",), "dark"),
    ("node", ("enter",), "dark"),
    ("link", ("o",), "dark"),
    ("groups", ("t",), "dark"),
    ("past", ("left_curly_bracket",), "dark"),
    ("filter", ("slash", "n", "3"), "dark"),
]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("scene", "nodes", "size", "theme"), MAIN, ids=lambda value: str(value).replace(", ", "x")
)
def test_a_scene(snap_compare, monkeypatch, scene, nodes, *, size, theme):
    if theme == "mono":
        monkeypatch.setenv("NO_COLOR", "1")
    app = DeckApp(Rig(scene, nodes).desk, Look(theme=theme, ticking=False))
    assert snap_compare(app, terminal_size=size)


@pytest.mark.parametrize(("name", "keys", "theme"), KEYS, ids=[name for name, *_ in KEYS])
def test_a_page_or_overlay(snap_compare, name, keys, theme):
    rig = Rig("frozen", 5, groups=3 if name == "groups" else 1)
    app = DeckApp(rig.desk, Look(theme=theme, ticking=False))
    assert snap_compare(app, press=keys, terminal_size=SMALL)


def test_a_replay_without_hands(snap_compare):
    rig = Rig("partition", 3, kind="replay", hands=False)
    rig.press("end", "upper_f")
    assert snap_compare(DeckApp(rig.desk, Look(ticking=False)), terminal_size=SMALL)
