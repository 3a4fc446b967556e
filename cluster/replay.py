"""A recording as text: a line per event or change.

The columns of a line are those of TigerBeetle's simulator: what moved is read from where the mark
stands. The column of a mark is its node:

        +12.104  killed    x o ^ o o  t7  c184,221  n1 killed (signal SIGKILL) · by you → exit -9
        time     what      nodes      term commit   words · cause → effect

Marks: `^` leads, `o` follows, `v` candidate, `,` asks for pre-votes, `=` frozen, `x` down, `r` runs
and has not answered, `?` silent. Time is counted from the first frame. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from cluster.frames import ClusterFrame, Event, NodeFrame, ProcessState
from cluster.tables import UNKNOWN
from node.metrics import plain

__all__ = [
    "documents",
    "event_line",
    "marks",
    "narrate",
    "words",
]

EXPORT_SCHEMA: Final = "raftdeck.export/1"

_ROLES: Final = {"leader": "^", "follower": "o", "candidate": "v", "pre_candidate": ","}


def marks(frame: ClusterFrame, group: int = 0) -> str:
    """Return one mark per node, in the order of the nodes."""
    return " ".join(_mark(part, group) for part in frame.nodes)


def _mark(part: NodeFrame, group: int) -> str:
    if part.process.state is ProcessState.FROZEN:
        return "="
    if not part.process.state.alive:
        return "x"
    state = part.group(group)
    if state is None:
        return "r"
    return _ROLES.get(state.role, "?") if part.fresh else "?"


def narrate(
    frames: Iterable[ClusterFrame], events: Iterable[Event], group: int = 0
) -> Iterator[tuple[int, str]]:
    """Yield (unix ms, line): each event, and each frame whose marks or term changed without one."""
    begin, before = 0, ""
    waiting = iter(events)
    event = next(waiting, None)
    shown: ClusterFrame | None = None
    for frame in frames:
        begin = begin or frame.unix_ms
        told = False
        while event is not None and event.unix_ms <= frame.unix_ms:
            told = True
            yield event.unix_ms, event_line(event, frame, begin, group)
            event = next(waiting, None)
        now = f"{marks(frame, group)} {_term(frame, group)}"
        if now != before and not told:
            yield frame.unix_ms, _line(frame.unix_ms - begin, "change", frame, group)
        before, shown = now, frame
    while event is not None and shown is not None:
        yield event.unix_ms, event_line(event, shown, begin, group)
        event = next(waiting, None)


def event_line(event: Event, frame: ClusterFrame, begin_ms: int, group: int = 0) -> str:
    """Return one event as a line, beside the marks of a frame."""
    return f"{_line(event.unix_ms - begin_ms, event.kind, frame, group)}  {words(event)}"


def words(event: Event) -> str:
    """Return an event's text, who brought it about unless it was the system, and its effect."""
    effect = f" → {event.effect}" if event.effect else ""
    by = "" if event.cause == "system" and not event.step else f" · by {event.by}"
    return f"{event.text}{by}{effect}"


def _line(elapsed_ms: int, kind: str, frame: ClusterFrame, group: int) -> str:
    commits = [state.commit for part in frame.nodes if (state := part.group(group)) is not None]
    commit = f"{max(commits):,}" if commits else UNKNOWN
    term = f"t{_term(frame, group)}"
    return f"{elapsed_ms / 1000:+9.3f}  {kind:<9} {marks(frame, group)}  {term:<4} c{commit}"


def _term(frame: ClusterFrame, group: int) -> str:
    terms = [state.term for part in frame.nodes if (state := part.group(group)) is not None]
    return str(max(terms)) if terms else UNKNOWN


def documents(frames: Iterable[ClusterFrame], events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    """Yield what `export --jsonl` writes: frames and events by time, each with its `type`."""
    waiting = iter(events)
    event = next(waiting, None)
    for frame in frames:
        while event is not None and event.unix_ms <= frame.unix_ms:
            yield {"schema": EXPORT_SCHEMA, "type": "event"} | plain(event)
            event = next(waiting, None)
        bare = frame.with_events(()).encode()
        yield {"schema": EXPORT_SCHEMA, "type": "frame", "frame": bare}
    for late in [] if event is None else [event, *waiting]:
        yield {"schema": EXPORT_SCHEMA, "type": "event"} | plain(late)
