"""The lines at the bottom: the caption of a tour, the line of time, and the keys."""

from __future__ import annotations

from collections.abc import Sequence

from dashboard.keys import Key
from dashboard.presenter.events import clock_text, event_sign
from dashboard.presenter.text import Row, Span, fit, spread
from dashboard.presenter.view import Picture, View

__all__ = ["caption_row", "footer_row", "timeline_row"]

FOOTER_ORDER = (
    "help", "palette", "chord", "undo", "tour_next", "tour_pause", "open", "wal", "link", "groups",
    "freeze", "live", "tab", "event_back", "screenshot", "leave",
)  # fmt: skip
WORDS = {
    "help": "help", "palette": "commands", "chord": "FAULT", "undo": "undo", "open": "node",
    "wal": "WAL", "link": "links", "groups": "groups", "freeze": "freeze", "live": "live",
    "tab": "pane", "screenshot": "svg", "leave": "quit", "tour_next": "next", "tour_pause": "pause",
    "event_back": "event", "back": "back",
}  # fmt: skip


def caption_row(view: View, width: int) -> Row:
    """Return the line that says what happens and why; a notice stands in front of it."""
    words = view.notice or view.caption
    return fit([(" ", "caption"), (words, "caption")], width, "caption")


def timeline_row(picture: Picture, view: View, width: int) -> Row:
    """Return the line of time: what is kept, the events in it, and the cursor."""
    clock = clock_text(picture.now_ms, picture.epoch_ms)
    word = {"live": "LIVE", "frozen": "FROZEN", "replay": "REPLAY"}[view.mode]
    right: list[Span] = [(f" {clock} ", "text"), (word, view.mode), (" ", "text")]
    if width >= 76:
        words = "  v list  m mark " if width >= 100 else " "
        right.append((f"[ ] event  {{ }} 10 s  e f jump{words}", "dim"))
    cells = width - 4 - sum(len(text) for text, _ in right)
    start, end = picture.oldest_ms, picture.newest_ms
    if cells < 8 or end <= start:
        return spread([(" ", "text")], right, width)
    signs: list[Span] = [("─", "dim")] * cells

    def place(moment: int) -> int:
        return min(cells - 1, (moment - start) * cells // (end - start + 1))

    for event in (*picture.events, *picture.later):
        if start <= event.unix_ms <= end:
            signs[place(event.unix_ms)] = event_sign(event.kind)
    signs[place(max(start, picture.now_ms))] = ("●", "cursor")
    left: list[Span] = [(" ├", "dim"), *signs, ("┤", "dim")]
    return spread(left, right, width)


def footer_row(keys: Sequence[Key], view: View, width: int) -> Row:
    """Return the most wanted keys that hold now, as many as fit whole."""
    by_command = {key.command: key for key in keys}
    order = FOOTER_ORDER if view.page == "main" else ("back", *FOOTER_ORDER)
    spans: list[Span] = []
    if view.readonly and view.mode != "replay":
        spans.append((" read-only: no faults ", "readonly"))
    used = sum(len(text) for text, _ in spans)
    last = by_command.get("leave")
    reserve = 8 if last else 0
    for command in order:
        key = by_command.get(command)
        if key is None:
            continue
        words = WORDS.get(command, command)
        if command == "freeze" and view.mode == "replay":
            words = "play"
        needed = len(key.label) + len(words) + 3
        if used + needed > width - (0 if command == "leave" else reserve):
            continue
        spans += [(" ", "footer"), (key.label, "key"), (f" {words} ", "footer")]
        used += needed
    return fit(spans, width, "footer")
