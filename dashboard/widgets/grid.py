"""The terminal as a grid of cells, and the least that must be written to make it another grid.

Theory of operation. Panes bring rows of spans; each changed row becomes a `Line`: its text, and
beside it as long a string of looks. A screen line is the pieces of the panes that stand on it, with
the overlay on top. What was last written is kept, line by line; `changes` walks both, and writes the
runs of cells that differ: a move of the cursor, an escape where the look changes, the text. A row that
was rewritten but looks the same costs nothing, and neither does a pane that is painted twice before
the terminal takes anything.

A model of the terminal can be wrong (another program wrote to it, it was resized): `forget` makes
the next update write every cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dashboard.presenter.screen import Place
from dashboard.presenter.text import Row, ascii_row, one_cell
from dashboard.presenter.view import Size
from dashboard.widgets.ink import RESET, Ink

__all__ = ["Grid", "Line", "changes", "differing"]

GAP_CELLS: Final = 4
"""Up to so many cells that stay are written again: a move over them would cost as much."""
_GROUPS: Final = re.compile(r"(.)\1*", re.DOTALL)


class Line(NamedTuple):
    """One line of cells; `looks` has one character (see `Ink`) per character of `text`."""

    text: str
    looks: str

    def part(self, start: int, end: int) -> Line:
        """Return the cells from `start` up to `end`."""
        return Line(self.text[start:end], self.looks[start:end])

    def groups(self, start: int, end: int) -> Iterator[tuple[str, str]]:
        """Yield (text, look) of neighbours that look the same."""
        for found in _GROUPS.finditer(self.looks, start, end):
            yield self.text[found.start() : found.end()], found[1]


@dataclass(slots=True)
class _Pane:
    place: Place
    rows: tuple[Row, ...] = ()
    lines: tuple[Line, ...] = ()
    painted: int = 0
    """Rows made so far, for tests of the cost."""


class Grid:
    """What the terminal should show. `show` takes what the presenter makes, `lines` gives all of it."""

    def __init__(self, ink: Ink, *, ascii_only: bool = False) -> None:
        self.ink = ink
        self.size = Size(0, 0)
        self._ascii = ascii_only
        self._panes: dict[str, _Pane] = {}
        self._above: _Pane | None = None

    def recolour(self, ink: Ink) -> None:
        """Take other looks; every row is made anew."""
        self.ink = ink
        for pane in (*self._panes.values(), *([self._above] if self._above else ())):
            pane.lines = tuple(self._line(row, pane.place.width) for row in pane.rows)

    def arrange(self, size: Size, places: dict[str, Place]) -> None:
        """Put panes where they belong; one that moved or is new has no rows until it is shown."""
        self.size = size
        kept = self._panes
        self._panes = {
            name: kept[name] if name in kept and kept[name].place == place else _Pane(place)
            for name, place in places.items()
        }

    def is_blank(self, name: str) -> bool:
        """Whether a pane has no rows yet."""
        return not self._panes[name].rows

    def painted(self, name: str) -> int:
        """Return how many rows of a pane were made since it stands where it is."""
        return self._panes[name].painted

    def show(self, name: str, rows: Sequence[Row]) -> None:
        """Give a pane its rows."""
        self._fill(self._panes[name], rows)

    def cover(self, above: tuple[Place, Sequence[Row]] | None) -> None:
        """Put rows over everything, or take them away."""
        if above is None:
            self._above = None
            return
        place, rows = above
        if self._above is None or self._above.place != place:
            self._above = _Pane(place)
        self._fill(self._above, rows)

    def _fill(self, pane: _Pane, rows: Sequence[Row]) -> None:
        before, known, width = pane.rows, pane.lines, pane.place.width
        lines = []
        for y, row in enumerate(rows[: pane.place.height]):
            if y < len(before) and before[y] == row:
                lines.append(known[y])
            else:
                lines.append(self._line(row, width))
                pane.painted += 1
        pane.rows, pane.lines = tuple(rows[: pane.place.height]), tuple(lines)

    def _line(self, row: Row, width: int) -> Line:
        """Return a row as cells, cut or filled to a width."""
        looks_of = self.ink.looks
        shown = ascii_row(row) if self._ascii else row
        text = one_cell("".join([part for part, _ in shown]))
        looks = "".join([looks_of(part, name) for part, name in shown])
        left = width - len(text)
        if left:
            return Line(text[:width].ljust(width), looks[:width] + looks_of(" " * left, "text"))
        return Line(text, looks)

    def lines(self) -> list[Line]:
        """Return the whole screen."""
        width, height = self.size
        pieces: list[list[tuple[int, Line]]] = [[] for _ in range(height)]
        for pane in sorted(self._panes.values(), key=lambda pane: pane.place.x):
            x, y = pane.place.x, pane.place.y
            for row, line in zip(pieces[y:], pane.lines, strict=False):
                row.append((x, line))
        found = [self._joined(row, width) for row in pieces]
        if self._above is not None:
            x, y, wide, _ = self._above.place
            for i, line in enumerate(self._above.lines, y):
                below = found[i]
                text = below.text[:x] + line.text + below.text[x + wide :]
                found[i] = Line(text, below.looks[:x] + line.looks + below.looks[x + wide :])
        return found

    def _joined(self, pieces: Sequence[tuple[int, Line]], width: int) -> Line:
        if len(pieces) == 1 and len(pieces[0][1].text) == width:
            return pieces[0][1]
        text = looks = ""
        for x, line in pieces:
            gap = x - len(text)
            text += " " * gap + line.text
            looks += self.ink.looks(" " * gap, "text") + line.looks
        gap = width - len(text)
        return Line(text + " " * gap, looks + self.ink.looks(" " * gap, "text"))

    def at(self, x: int, y: int) -> tuple[str, Row] | None:
        """Return the pane and the row at a cell; None if there is none, or something lies over it."""
        if self._above is not None:
            left, top, width, height = self._above.place
            if left <= x < left + width and top <= y < top + height:
                return None
        for name, pane in self._panes.items():
            left, top, width, _ = pane.place
            if left <= x < left + width and top <= y < top + len(pane.rows):
                return name, pane.rows[y - top]
        return None


def differing(before: Line, after: Line) -> list[tuple[int, int]]:
    """Return where two lines of one length differ, from which cell up to which; short gaps closed."""
    runs: list[tuple[int, int]] = []
    start = end = -1
    cells = zip(before.text, after.text, before.looks, after.looks, strict=True)
    for x, (old, new, was, is_now) in enumerate(cells):
        if old == new and was == is_now:
            continue
        if start >= 0 and x - end <= GAP_CELLS:
            end = x + 1
            continue
        if start >= 0:
            runs.append((start, end))
        start, end = x, x + 1
    if start >= 0:
        runs.append((start, end))
    return runs


def changes(before: Sequence[Line] | None, after: Sequence[Line], ink: Ink) -> str:
    """Return what makes a terminal that shows `before` (None: it is not known) show `after`."""
    written: list[str] = []
    pen: str | None = None
    for y, line in enumerate(after):
        if before is None:
            runs = [(0, len(line.text))]
        elif before[y] is line or before[y] == line:
            continue
        else:
            runs = differing(before[y], line)
        at = -1
        for start, end in runs:
            written.append(f"\x1b[{start - at}C" if at >= 0 else f"\x1b[{y + 1};{start + 1}H")
            for text, look in line.groups(start, end):
                escape = ink.turn(pen, look)
                if escape:
                    written.append(escape)
                    pen = look
                written.append(text)
            at = end
    if written:
        written.append(RESET)
    return "".join(written)
