"""Looks: what a cell's style is on one terminal in one theme, and the escapes that lead from one to another.

A look is one character per cell, so that a line's looks are a string beside its text: compared,
cut and grouped at the speed of strings.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from rich.color import ColorSystem
from rich.style import Style

from dashboard.themes import style_of

__all__ = ["RESET", "Ink"]

RESET: Final = "\x1b[0m"
FIRST_LOOK: Final = 0x100
SPANS_KEPT_MAX: Final = 4_096
"""Spans that stay (frames, titles, words) are looked up; numbers come and go."""
TURNS_KEPT_MAX: Final = 1_024


class _Look(NamedTuple):
    """How a cell looks. A blank one looks like its neighbours on the same ground."""

    style: Style
    blank: bool


class Ink:
    """The looks of a theme. `system` is the terminal's colours; None has none."""

    def __init__(self, theme: str, system: ColorSystem | None) -> None:
        self.theme = theme
        self.system = system
        self._seen: list[_Look] = []
        self._signs: dict[_Look, str] = {}
        self.looks = lru_cache(SPANS_KEPT_MAX)(self._looks)
        self.turn = lru_cache(TURNS_KEPT_MAX)(self._turn)

    def style(self, look: str) -> Style:
        """Return a look's style."""
        return self._seen[ord(look) - FIRST_LOOK].style

    def _sign(self, look: _Look) -> str:
        found = self._signs.get(look)
        if found is None:
            found = self._signs[look] = chr(FIRST_LOOK + len(self._seen))
            self._seen.append(look)
        return found

    def _looks(self, text: str, name: str) -> str:
        """Return a look per character; of a blank only its ground is seen, so only that counts."""
        style = style_of(self.theme, name)
        look = self._sign(_Look(style, False))
        if " " not in text:
            return look * len(text)
        blank = self._sign(_Look(_ground(style), True))
        return "".join([blank if sign == " " else look for sign in text])

    def _turn(self, before: str | None, after: str) -> str:
        """Return the escape that leads from one look to another; None is a state not known."""
        new, blank = self._seen[ord(after) - FIRST_LOOK]
        attributes, colour, ground = self._codes(new)
        if before is not None:
            old = self.style(before)
            if blank and new == _ground(old):
                return ""  # the pen may stay as it is
            old_attributes, old_colour, old_ground = self._codes(old)
            if old_attributes == attributes:
                pairs = ((old_colour, colour), (old_ground, ground))
                return _escape([code for was, code in pairs if code != was])
        return _escape(["0", attributes, colour, ground])

    def _codes(self, style: Style) -> tuple[str, str, str]:
        """Return the codes of a style's attributes, of its colour and of its ground."""
        system = self.system
        bare = style.without_color.render("x", color_system=system or ColorSystem.STANDARD)
        attributes = bare[2 : bare.index("m")] if bare.startswith("\x1b") else ""
        colour, ground = "39", "49"
        if system is not None and style.color is not None:
            colour = ";".join(style.color.downgrade(system).get_ansi_codes())
        if system is not None and style.bgcolor is not None:
            codes = style.bgcolor.downgrade(system).get_ansi_codes(foreground=False)
            ground = ";".join(codes)
        return attributes, colour, ground


def _ground(style: Style) -> Style:
    """Return what is seen of a style where nothing is written."""
    if style.underline or style.reverse:
        return style
    return Style(bgcolor=style.bgcolor)


def _escape(codes: list[str]) -> str:
    written = ";".join(code for code in codes if code)
    return f"\x1b[{written}m" if written else ""
