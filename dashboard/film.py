"""Frames, one after the other, as pictures for a plain terminal or a film: text with colours.

    draw = Film(Size(120, 36), theme="dark")
    for frame in frames:
        print(draw(frame))

Each picture is the main screen as of its frame; what charts need is kept from picture to picture.
"""

from __future__ import annotations

from rich.color import ColorSystem

from cluster.frames import ClusterFrame
from dashboard.presenter.history import History
from dashboard.presenter.screen import Beside, compose, screen_text
from dashboard.presenter.text import Row, ascii_row
from dashboard.presenter.view import Mode, Picture, Size, View
from dashboard.themes import style_of

__all__ = ["Film"]


class Film:
    """Makes the picture of a frame. `theme` "" gives bare text, without any escape sequence."""

    def __init__(
        self,
        size: Size,
        *,
        theme: str = "",
        group: int = 0,
        ascii_only: bool = False,
        mode: Mode = "live",
    ) -> None:
        self._size = size
        self._theme = theme
        self._ascii = ascii_only
        self._view = View(mode=mode, group=group, readonly=True)
        self._history = History()
        self._first_ms = 0

    def __call__(self, frame: ClusterFrame) -> str:
        """Return the picture of a frame that is newer than the ones before: lines, no last newline."""
        self._history.add(frame)
        self._first_ms = self._first_ms or frame.unix_ms
        picture = Picture(
            frame,
            self._history,
            frame.events,
            now_ms=frame.unix_ms,
            newest_ms=frame.unix_ms,
            oldest_ms=self._first_ms,
            epoch_ms=min([self._first_ms, *(event.unix_ms for event in frame.events[:1])]),
            clock_ms=frame.unix_ms,
        )
        rows = compose(picture, self._view, self._size, Beside())
        if not self._theme:
            return screen_text(rows, ascii_only=self._ascii).rstrip("\n")
        return "\n".join(self._coloured(row) for row in rows)

    def _coloured(self, row: Row) -> str:
        spans = ascii_row(row) if self._ascii else row
        return "".join(
            style_of(self._theme, name).render(text, color_system=ColorSystem.TRUECOLOR)
            for text, name in spans
        )
