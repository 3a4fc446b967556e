"""The line that is typed into: the palette's, or the event filter's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dashboard.presenter.overlay import PaletteView

__all__ = ["Prompt"]

Entries = Callable[[str], Sequence[tuple[str, str]]]


class Prompt:
    """An open line, key by key. `entries` says what fits what was typed; the filter has none."""

    def __init__(self, view: PaletteView, entries: Entries | None = None) -> None:
        self.filtering = entries is None
        self.view = view if entries is None else replace(view, entries=tuple(entries(view.typed)))
        self.open = True
        self._entries = entries

    def take(self, key: str, character: str | None) -> PaletteView | None:
        """Take a key; return what was entered, if the key was that."""
        if key in ("escape", "ctrl+c", "enter"):
            self.open = False
            return self.view if key == "enter" else None
        view = self.view
        if key in ("down", "up"):
            chosen = view.chosen + (1 if key == "down" else -1)
            self.view = replace(view, chosen=max(0, min(len(view.entries) - 1, chosen)))
            return None
        typed = view.typed
        if key == "backspace":
            typed = typed[:-1]
        elif character is not None and character.isprintable():
            typed += character
        entries = tuple(self._entries(typed)) if self._entries else ()
        self.view = replace(view, typed=typed, entries=entries, chosen=0)
        return None
