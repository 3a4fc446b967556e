"""The one widget: a grid of cells that Textual sees as strips, and the terminal as few bytes.

Textual's compositor walks every widget at each paint, and writes whole lines. Live panes are
therefore not widgets: the app writes what differs itself (`update`), and Textual renders the canvas
only for pictures of it and where all is painted anyway.
"""

from __future__ import annotations

from rich.segment import Segment
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from dashboard.presenter.text import plain
from dashboard.widgets.grid import Grid, Line, changes
from dashboard.widgets.ink import Ink

__all__ = ["Canvas"]


class Canvas(Widget):
    """The whole screen."""

    DEFAULT_CSS = "Canvas { width: 100%; height: 100%; }"
    can_focus = False

    class Clicked(Message):
        """A row of a pane was clicked."""

        def __init__(self, pane: str, text: str) -> None:
            self.pane = pane
            self.text = text
            super().__init__()

    def __init__(self, ink: Ink, *, ascii_only: bool = False) -> None:
        super().__init__(id="canvas")
        self.grid = Grid(ink, ascii_only=ascii_only)
        self._written: list[Line] | None = None

    def update(self) -> str:
        """Return what the terminal must be told, and take it for told; empty if nothing changed."""
        lines, before = self.grid.lines(), self._written
        if before is not None and _shape(before) != _shape(lines):
            before = None
        text = changes(before, lines, self.grid.ink)
        self._written = lines
        return text

    def forget(self) -> None:
        """Take nothing for known of the terminal: the next update is all of the screen."""
        self._written = None

    def render_lines(self, crop: Region) -> list[Strip]:
        """Return a part of the screen, for Textual."""
        lines, ink = self.grid.lines(), self.grid.ink
        strips = [
            Strip([Segment(text, ink.style(look)) for text, look in line.groups(0, len(line.text))])
            for line in lines[crop.y : crop.bottom]
        ]
        strips += [Strip([])] * (crop.height - len(strips))
        return [strip.crop_extend(crop.x, crop.right, None) for strip in strips]

    def on_click(self, event: events.Click) -> None:
        """Tell which row was meant."""
        found = self.grid.at(event.x, event.y)
        if found is not None:
            self.post_message(self.Clicked(found[0], plain(found[1])))


def _shape(lines: list[Line]) -> tuple[int, int]:
    return len(lines), len(lines[0].text) if lines else 0
