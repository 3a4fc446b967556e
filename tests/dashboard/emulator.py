"""A terminal that is not there: pyte takes what is written, and its cells are compared with rows.

A cell is (sign, how it looks). Of a blank only its ground, its underline and its being reversed are
seen, so a blank's other looks do not count.
"""

from __future__ import annotations

import re

import pyte
from rich.style import Style

from dashboard.presenter.text import ascii_row, one_cell
from dashboard.themes import style_of

FOREIGN = re.compile(r"\x1b\[[?><=][0-9;]*\$?[a-z]|\x1bP[^\x1b]*\x1b\\")
"""Private modes, queries and the keyboard protocol: nothing of them is seen, some confuse pyte."""
KEPT_MAX = 64
"""A sequence may come in two parts; none that is written is longer."""


class Emulator:
    """The cells of a terminal that was written to."""

    def __init__(self, width=120, height=36):
        self.screen = pyte.Screen(width, height)
        self.screen.reset_mode(pyte.modes.DECAWM)  # as Textual does
        self._stream = pyte.Stream(self.screen)
        self._rest = ""

    def resize(self, width, height):
        self.screen.resize(height, width)

    def feed(self, text):
        """Take what was written."""
        text = self._rest + text
        cut = text.rfind("\x1b", max(0, len(text) - KEPT_MAX))
        whole = cut < 0 or re.match(r"\x1b(\[[0-9;?><=$]*[@-~]|P[^\x1b]*\x1b\\|[^\[P])", text[cut:])
        self._rest = "" if whole else text[cut:]
        self._stream.feed(FOREIGN.sub("", text if whole else text[:cut]))

    @property
    def text(self):
        """The lines, without colours."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def cells(self):
        """Return every line as a list of cells."""
        screen = self.screen
        return [
            [_seen(screen.buffer[y][x]) for x in range(screen.columns)] for y in range(screen.lines)
        ]


def _seen(cell):
    lines = (cell.underscore, cell.reverse)
    if cell.data == " " and not any(lines):
        return " ", (None, cell.bg, False, False, *lines)
    return cell.data, (cell.fg, cell.bg, cell.bold, cell.italics, *lines)


def cells_of(rows, theme, *, ascii_only=False):
    """Return the cells that presenter rows ask for."""
    return [
        [cell for text, name in row for cell in _asked(one_cell(text), style_of(theme, name))]
        for row in (ascii_row(row) if ascii_only else row for row in rows)
    ]


def _asked(text: str, style: Style):
    lines = (bool(style.underline), bool(style.reverse))
    fg, bg = _hex(style.color), _hex(style.bgcolor)
    for sign in text:
        if sign == " " and not any(lines):
            yield " ", (None, bg, False, False, *lines)
        else:
            yield sign, (fg, bg, bool(style.bold), bool(style.italic), *lines)


def _hex(colour):
    if colour is None or colour.is_default:
        return "default"
    return colour.get_truecolor().hex.lstrip("#")


def first_difference(found, wanted):
    """Say where two grids differ; None if nowhere."""
    assert len(found) == len(wanted), f"{len(found)} lines for {len(wanted)}"
    for y, (line, other) in enumerate(zip(found, wanted, strict=True)):
        assert len(line) == len(other), f"line {y}: {len(line)} cells for {len(other)}"
        for x, (cell, asked) in enumerate(zip(line, other, strict=True)):
            if cell != asked:
                return f"line {y}, cell {x}: {cell} for {asked}"
    return None
