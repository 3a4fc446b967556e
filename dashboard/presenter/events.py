"""The event list: what happened, whose doing it was, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cluster.events import MARK
from cluster.frames import Event
from dashboard.presenter.history import History
from dashboard.presenter.text import UNKNOWN, Row, Span, box, clip, fit
from dashboard.presenter.view import Deed, Picture, Size, View

__all__ = [
    "ELECTIONS",
    "FAULTS",
    "MARKS",
    "cause_of",
    "clock_ms",
    "clock_text",
    "effect_of",
    "event_rows",
    "event_sign",
    "filtered",
]

FAULTS: Final = frozenset({"killed", "stopped", "crashed", "frozen", "forced", "cut", "fault"})
ELECTIONS: Final = frozenset({"leader"})
MARKS: Final = frozenset({MARK})
_SIGNS: Final = {
    "killed": ("!", "dead"), "stopped": ("■", "dead"), "crashed": ("!", "bad"),
    "forced": ("!", "bad"), "frozen": ("‖", "paused"), "thawed": ("▸", "text"),
    "started": ("↻", "recover"), "leader": ("▲", "leader"), "down": ("■", "bad"),
    "cut": ("╳", "bad"), "healed": ("┄", "text"), "fault": ("!", "bad"), MARK: ("◆", "mark"),
}  # fmt: skip
_GROUP: Final = re.compile(r"of group (\d+)")
DEED_SLACK_MS: Final = 250
"""A verb's event may be stamped this much before the key's own clock, or after its answer."""


def event_sign(kind: str) -> Span:
    """Return an event's sign and style."""
    return _SIGNS.get(kind, ("•", "text"))


def clock_text(unix_ms: int, start_ms: int) -> str:
    """Write a moment as time since the picture's beginning: m:ss.mmm."""
    ms = max(0, unix_ms - start_ms)
    minutes, rest = divmod(ms, 60_000)
    return f"{minutes}:{rest // 1000:02d}.{rest % 1000:03d}"


def clock_ms(text: str) -> int | None:
    """Read what `clock_text` writes, in m:ss[.mmm] or seconds; None for anything else."""
    minutes, _, seconds = text.rpartition(":")
    try:
        return int((int(minutes or 0) * 60 + float(seconds)) * 1000)
    except ValueError:
        return None


def cause_of(event: Event, deeds: Sequence[Deed]) -> str:
    """Say whose doing it was: a step's, yours (by which keys, if pressed here), or the system's."""
    if event.step:
        return event.by
    if event.cause == "system":
        return "system"
    for deed in reversed(deeds):
        near = deed.start_ms - DEED_SLACK_MS <= event.unix_ms <= deed.end_ms + DEED_SLACK_MS
        if near and event.node in deed.nodes:
            return deed.cause
    return event.by


def effect_of(event: Event, events: Sequence[Event], history: History) -> str:
    """Say what came of it, from later (or earlier) events and frames; empty if nothing is known.

    Times between a fault and a new leader are the supervisor's: it sees a leader when it asks,
    ten times a second.
    """
    if event.effect:
        return event.effect
    if event.kind == "leader":
        return _interregnum(event, events)
    if event.kind not in ("killed", "stopped", "crashed", "frozen"):
        return ""
    sample = history.at(event.unix_ms - 1)
    led = {
        group
        for group, (leader, _, _) in enumerate(sample.groups if sample else ())
        if leader == event.node
    }
    later = (e for e in events if e.kind == "leader" and e.sequence > event.sequence)
    follows = next((e for e in later if _group_of(e) in led), None)
    if not led:
        return ""
    if follows is None:
        return "leader lost"
    return f"leader lost, n{follows.node} after {follows.unix_ms - event.unix_ms} ms"


def _group_of(event: Event) -> int:
    """Return the group of an election; events of one group alone do not name it."""
    found = _GROUP.search(event.text)
    return int(found[1]) if found else 0


def _interregnum(event: Event, events: Sequence[Event]) -> str:
    """Return how long there was no leader before this one, if a fault or an exit began it."""
    group = _group_of(event)
    before = [e for e in events if e.sequence < event.sequence]
    elected = [e for e in before if e.kind == "leader" and _group_of(e) == group]
    if not elected:
        return ""
    ended = next(
        (
            e
            for e in before
            if e.sequence > elected[-1].sequence
            and e.node == elected[-1].node
            and e.kind in ("killed", "stopped", "crashed", "frozen")
        ),
        None,
    )
    if ended is None:
        return ""
    return f"seen {event.unix_ms - ended.unix_ms} ms after n{ended.node} {ended.kind}"


def filtered(events: Sequence[Event], words: str) -> list[Event]:
    """Return the events whose text or kind holds every word."""
    wanted = words.lower().split()
    return [
        event
        for event in events
        if all(word in f"{event.kind} {event.text}".lower() for word in wanted)
    ]


def event_rows(picture: Picture, view: View, size: Size) -> tuple[Row, ...]:
    """Return the newest events up to the cursor, or those around the chosen one; exactly `size`."""
    inner, room = size.width - 2, max(0, size.height - 2)
    events = filtered(picture.events, view.filter)
    title: list[Span] = [("EVENTS", "title")]
    if view.filter:
        title.append((f" with {view.filter!r}", "text"))
    if view.chosen is not None:
        rows, note = _list(events, picture, view, Size(inner, room))
    else:
        shown = events[-room:] if room else []
        rows = [_row(event, picture, inner) for event in shown]
        note = f"{len(shown)} of {len(events)}"
    if not rows:
        rows = [fit([(" nothing has happened yet", "dim")], inner)]
    return box(title, rows, size.width, size.height, note)


def _list(events: list[Event], picture: Picture, view: View, size: Size) -> tuple[list[Row], str]:
    """Return the rows around the chosen event; what is after the cursor is dim."""
    now = len(events)
    events = [*events, *filtered(picture.later, view.filter)]
    numbers = [event.sequence for event in events]
    place = numbers.index(view.chosen) if view.chosen in numbers else max(0, now - 1)
    first = max(0, min(place - size.height // 2, len(events) - size.height))
    rows = []
    for at in range(first, min(len(events), first + size.height)):
        row = _row(events[at], picture, size.width)
        if at >= now:
            row = tuple((text, "dim") for text, _ in row)
        if at == place:
            row = tuple((text, f"{style} selected") for text, style in row)
            row = (("▸", "cursor selected"), (row[0][0][1:], row[0][1]), *row[1:])
        rows.append(row)
    return rows, f"{place + 1} of {len(events)} · enter: go there · esc"


def _row(event: Event, picture: Picture, inner: int) -> Row:
    sign, style = event_sign(event.kind)
    effect = effect_of(event, picture.events, picture.history)
    cause = cause_of(event, picture.deeds)
    wide = inner >= 100
    text_cells = 39 if wide else 29
    spans: list[Span] = [
        (f"{clock_text(event.unix_ms, picture.epoch_ms):>9} ", "dim"),
        (f"{sign} ", style),
    ]
    text = event.text.removesuffix(" (observed)")
    spans.append(
        (clip(text, text_cells).ljust(text_cells), style if event.kind in FAULTS else "text")
    )
    spans.append((f" {clip(cause, 15):<15}" if wide else f" {clip(cause, 9):<9}", "dim"))
    if effect:
        spans.append((f" → {effect}", "strong"))
    elif event.kind in FAULTS | ELECTIONS:
        spans.append((f" → {UNKNOWN}", "dim"))
    return fit(spans, inner)
