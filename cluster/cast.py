"""A recording as a film for a terminal: an asciicast, version 2 (docs.asciinema.org).

The first line is a JSON object, each other line an array `[seconds, code, text]`: "o" is what a
terminal is given, "m" a chapter. Times are those of the recording; `idle_time_limit` tells players
how long a pause they may show at most. A picture is painted whole once, and after that only where it
differs from the one before: that makes a film ten times smaller. Pure.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from cluster.frames import ClusterFrame, Event
from cluster.replay import words
from cluster.tables import headline, status_table

__all__ = ["BYTES_MAX", "Draw", "Film", "cast", "plain_picture"]

Draw = Callable[[ClusterFrame], str]
"""Makes the picture of a frame: lines of plain text, or of text with terminal colours."""

BYTES_MAX: Final = 64 << 20
"""Of one film: an hour of five nodes under load, at 5 pictures a second (20 KB of each second)."""
EVENTS_SHOWN: Final = 8
GAP: Final = 8
"""Cells: to name a place takes as many bytes."""

_PLAIN: Final = "\x1b[0m"
_BEGIN: Final = f"\x1b[?25l{_PLAIN}\x1b[2J"
_END: Final = f"{_PLAIN}\x1b[?25h"
_STYLE: Final = re.compile("(\x1b\\[[0-9;]*m)")
_Cell = tuple[str, str]


class Film(NamedTuple):
    """How a film is made. `idle_s` 0 sets no limit to pauses."""

    width: int
    height: int
    title: str = ""
    idle_s: float = 0.0
    bytes_max: int = BYTES_MAX


def plain_picture(frame: ClusterFrame) -> str:
    """Return a frame as status tables: what is drawn unless another function is given."""
    lines = [f"{_clock(event.unix_ms)}  {words(event)}" for event in frame.events[-EVENTS_SHOWN:]]
    return "\n".join([headline(frame), "", status_table(frame), "", *lines])


def _clock(unix_ms: int) -> str:
    """Return the time of day (UTC)."""
    return f"{time.strftime('%H:%M:%S', time.gmtime(unix_ms // 1000))}.{unix_ms % 1000:03}"


def cast(
    frames: Iterable[ClusterFrame], events: Iterable[Event], film: Film, draw: Draw = plain_picture
) -> Iterator[str]:
    """Yield the lines of an asciicast: the pictures of all frames, a marker per event.

    It ends early, with a marker that says so, where it would grow beyond `film.bytes_max`.
    """
    waiting = iter(events)
    event = next(waiting, None)
    begin, at, used = -1, 0.0, 0
    before: list[str] = []
    for frame in frames:
        lines: list[str] = []
        if begin < 0:
            begin = frame.unix_ms
            lines.append(_head(film, begin))
        at = (frame.unix_ms - begin) / 1000
        while event is not None and event.unix_ms <= frame.unix_ms:
            moment = min(at, max(0.0, (event.unix_ms - begin) / 1000))
            lines.append(_line(moment, "m", event.text))
            event = next(waiting, None)
        picture = draw(frame).splitlines()[: film.height]
        picture += [""] * (film.height - len(picture))
        if painted := _changes(before, picture, film.width):
            lines.append(_line(at, "o", painted))
        before = picture
        used += sum(len(line.encode()) + 1 for line in lines)
        if used > film.bytes_max:
            yield _line(at, "m", f"cut: the film has reached {film.bytes_max >> 20} MiB")
            break
        yield from lines
    if begin >= 0:
        yield _line(at, "o", f"\x1b[{film.height};1H{_END}")


def _head(film: Film, begin_ms: int) -> str:
    head: dict[str, Any] = {"version": 2, "width": film.width, "height": film.height}
    head |= {"timestamp": begin_ms // 1000, "env": {"TERM": "xterm-256color"}}
    if film.idle_s:
        head["idle_time_limit"] = film.idle_s
    return json.dumps(head | ({"title": film.title} if film.title else {}), ensure_ascii=False)


def _line(at: float, code: str, text: str) -> str:
    return json.dumps([round(at, 3), code, text], ensure_ascii=False)


def _changes(before: list[str], after: list[str], width: int) -> str:
    """Return what makes one picture of another."""
    found = "" if before else _BEGIN
    old_rows = before or [""] * len(after)
    for at, (old, new) in enumerate(zip(old_rows, after, strict=True)):
        if new != old:
            found += _row_changes(at, _cells(old, width), _cells(new, width))
    return found


def _row_changes(row: int, old: list[_Cell], new: list[_Cell]) -> str:
    """Return what makes one row of another: a few cells that stay are cheaper than a new place."""
    changed = [at for at, cell in enumerate(new) if cell != old[at]]
    found, style, last = "", "", -GAP
    for at in changed:
        if at - last >= GAP:
            found += f"{_PLAIN if found else ''}\x1b[{row + 1};{at + 1}H"
            style, last = "", at - 1
        for sign_style, sign in new[last + 1 : at + 1]:
            if sign_style != style:
                found += (_PLAIN if style else "") + sign_style
                style = sign_style
            found += sign
        last = at
    return found + _PLAIN if found else ""


def _cells(line: str, width: int) -> list[_Cell]:
    """Return a line as cells, exactly so many: the colours that are in force, and the sign."""
    found: list[_Cell] = []
    style = ""
    for part in _STYLE.split(line):
        if part.startswith("\x1b"):
            style = "" if part == _PLAIN else style + part
        else:
            found += [(style, sign) for sign in part]
    return found[:width] + [("", " ")] * (width - len(found))
