"""A pane: presenter rows on the screen, of which only those that changed are painted again.

Textual paints every dirty line anew, changed or not, so the comparison is made here.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from dashboard.presenter.screen import Place
from dashboard.presenter.text import Row, ascii_row, plain
from dashboard.themes import style_of

__all__ = ["PaneView"]


def _joined(row: Row, theme: str) -> list[Segment]:
    """Return a row's segments, as few as look the same: each costs some 40 bytes of escapes.

    A blank shows nothing but its background, so it joins its neighbour if that agrees.
    """
    joined: list[Segment] = []
    for text, name in row:
        style = style_of(theme, name)
        if joined:
            before, last = joined[-1].text, joined[-1].style
            assert last is not None
            same_ground = _ground(style) == _ground(last)
            if style == last or (same_ground and text.isspace()):
                joined[-1] = Segment(before + text, last)
                continue
            if same_ground and before.isspace():
                joined[-1] = Segment(before + text, style)
                continue
        joined.append(Segment(text, style))
    return joined


def _ground(style: Style) -> tuple[Color | None, bool | None, bool | None]:
    """Return what is seen of a style where nothing is written."""
    return style.bgcolor, style.underline, style.reverse


class PaneView(Widget):
    """Rows at a place. `show` is the only way to change it."""

    DEFAULT_CSS = """
    PaneView { position: absolute; background: transparent; padding: 0; margin: 0; }
    """
    can_focus = False

    class Clicked(Message):
        """A row was clicked."""

        def __init__(self, pane: str, row: int, text: str) -> None:
            self.pane = pane
            self.row = row
            self.text = text
            super().__init__()

    def __init__(self, name: str, theme: str, *, ascii_only: bool = False) -> None:
        super().__init__(id=name)
        self.pane = name
        self.theme = theme
        self._ascii = ascii_only
        self._rows: tuple[Row, ...] = ()
        self._place: Place | None = None
        self.display = False
        self.painted = 0
        """Rows painted so far, for tests of the cost."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """What is shown."""
        return self._rows

    def move(self, place: Place | None) -> None:
        """Put the pane somewhere else, or take it away."""
        if place == self._place:
            return
        self._place = place
        self.display = place is not None
        if place is not None:
            self.styles.offset = (place.x, place.y)
            self.styles.width, self.styles.height = place.width, place.height
        self._rows = ()

    def show(self, rows: Sequence[Row]) -> None:
        """Paint the rows that differ from what is shown."""
        fresh = tuple(ascii_row(row) for row in rows) if self._ascii else tuple(rows)
        before, self._rows = self._rows, fresh
        width = self._place.width if self._place else self.size.width
        changed = [
            Region(0, y, width, 1)
            for y, row in enumerate(fresh)
            if y >= len(before) or before[y] != row
        ]
        if changed:
            self.painted += len(changed)
            self.refresh(*changed)

    def repaint(self, theme: str) -> None:
        """Paint everything again in a theme."""
        self.theme = theme
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return one row in the colours of the theme."""
        if y >= len(self._rows):
            return Strip.blank(self.size.width, style_of(self.theme, "text"))
        return Strip(_joined(self._rows[y], self.theme))

    def on_click(self, event: events.Click) -> None:
        """Tell which row was meant."""
        if event.y < len(self._rows):
            self.post_message(self.Clicked(self.pane, event.y, plain(self._rows[event.y])))
