"""Colours for style names. Blue against orange, never red against green; words and shapes first.

A compound name ("text selected") is the first style with the second laid over it. `mono` uses
no colour at all, for NO_COLOR and terminals that have none.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from rich.style import Style

__all__ = ["BACKGROUNDS", "THEMES", "style_of"]

THEMES: Final = ("dark", "light")
BACKGROUNDS: Final = {"dark": "#10151b", "light": "#fbfaf6", "mono": "default"}

_DARK: Final = {
    "text": "#d5dce4", "strong": "bold #f2f5f8", "dim": "#8592a0", "frame": "#3c4a5a",
    "title": "bold #9cc9f5", "leader": "bold #62baf0", "follower": "#d5dce4",
    "candidate": "bold #f0e05a", "paused": "bold #8fa8ff", "dead": "bold #f0a030",
    "recover": "#4fd0c0", "stale": "italic #98a4b0", "warn": "bold #f0b840",
    "bad": "bold #10151b on #f09030", "good": "#62baf0", "cut": "bold #f09030", "spark": "#6fa6d6", "bar": "#5b9bd5",
    "event": "#f0b840", "commit": "bold #f2f5f8", "mark": "bold #f0e05a", "uncommitted": "underline",
    "cursor": "bold #f0e05a", "selected": "on #24384d", "key": "bold #10151b on #9cc9f5",
    "key2": "bold #9cc9f5", "footer": "#b4c0cc on #1a242f",
    "head": "#d5dce4 on #1a2836", "headdim": "#93a4b5 on #1a2836",
    "headstrong": "bold #f2f5f8 on #1a2836", "headwarn": "bold #f0b840 on #1a2836",
    "name": "bold #f2f5f8 on #1a2836", "headleader": "bold #62baf0 on #1a2836", "live": "bold #10151b on #62baf0",
    "frozen": "bold #10151b on #f0e05a", "replay": "bold #10151b on #c79fe0",
    "readonly": "bold #10151b on #b4c0cc", "caption": "bold #f2f5f8 on #2d3f25",
    "term0": "#e0a040", "term1": "#62baf0", "term2": "#40c09c", "term3": "#e8dc60",
    "term4": "#8fa8ff", "term5": "#e090c0",
}  # fmt: skip
_LIGHT: Final = {
    "text": "#1d2733", "strong": "bold #05090e", "dim": "#5a6775", "frame": "#aab4be",
    "title": "bold #0b4f8a", "leader": "bold #0060a8", "follower": "#1d2733",
    "candidate": "bold #7a6000", "paused": "bold #3a49c0", "dead": "bold #a85200",
    "recover": "#00705f", "stale": "italic #5a6775", "warn": "bold #a05a00",
    "bad": "bold #ffffff on #b85400", "good": "#0060a8", "cut": "bold #b85400", "spark": "#2f6fa8", "bar": "#2f77b5",
    "event": "#a05a00", "commit": "bold #05090e", "mark": "bold #7a4d00", "uncommitted": "underline",
    "cursor": "bold #a05a00", "selected": "on #d5e5f4", "key": "bold #ffffff on #0b4f8a",
    "key2": "bold #0b4f8a", "footer": "#34404c on #e6e9ec",
    "head": "#1d2733 on #dfe8f0", "headdim": "#4b5a69 on #dfe8f0",
    "headstrong": "bold #05090e on #dfe8f0", "headwarn": "bold #a05a00 on #dfe8f0",
    "name": "bold #05090e on #dfe8f0", "headleader": "bold #0060a8 on #dfe8f0", "live": "bold #ffffff on #0060a8",
    "frozen": "bold #05090e on #e8c840", "replay": "bold #ffffff on #6a3f8f",
    "readonly": "bold #ffffff on #4b5a69", "caption": "bold #05090e on #dcebcf",
    "term0": "#9a5a00", "term1": "#0060a8", "term2": "#00705f", "term3": "#6f6200",
    "term4": "#3a49c0", "term5": "#9a3070",
}  # fmt: skip
_MONO: Final = {
    "strong": "bold", "title": "bold", "leader": "bold", "candidate": "bold", "paused": "bold",
    "dead": "bold", "warn": "bold", "bad": "bold reverse", "cut": "bold", "commit": "bold", "mark": "bold",
    "uncommitted": "underline", "cursor": "bold", "selected": "reverse", "key": "reverse",
    "key2": "bold", "head": "", "headstrong": "bold", "headwarn": "bold", "name": "bold", "headleader": "bold",
    "live": "reverse", "frozen": "bold reverse", "replay": "bold reverse", "readonly": "reverse",
    "caption": "bold", "footer": "", "stale": "italic",
}  # fmt: skip
_TABLES: Final = {"dark": _DARK, "light": _LIGHT, "mono": _MONO}


@lru_cache(maxsize=1024)
def style_of(theme: str, name: str) -> Style:
    """Return the style of a name, compound or not, in a theme."""
    table = _TABLES[theme]
    found = Style() if theme == "mono" else Style.parse(f"{table['text']} on {BACKGROUNDS[theme]}")
    for part in name.split():
        found += Style.parse(table.get(part, ""))
    return found


def names_of(theme: str) -> frozenset[str]:
    """Return the names a theme knows."""
    return frozenset(_TABLES[theme])
