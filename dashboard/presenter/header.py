"""The two lines at the top: which cluster, how alive, who leads, how fast, and the verdict so far."""

from __future__ import annotations

from typing import Final

from cluster.frames import ClusterFrame
from dashboard.presenter.text import (
    UNKNOWN,
    Row,
    Span,
    count,
    duration,
    fit,
    scaled,
    spread,
    width_of,
)
from dashboard.presenter.view import Picture, Size, View, quorum, tally

__all__ = ["header_rows", "mode_span", "quorum_spans"]

GAP: Final[Span] = ("  ", "head")
SILENT_MS: Final = 1_500
"""Without a frame for so long, the picture is old and says so; frames come ten times a second."""


def header_rows(picture: Picture, view: View, size: Size) -> tuple[Row, Row]:
    """Return the header's two rows."""
    frame = picture.frame
    if frame is None:
        words = picture.problem or "waiting for the first frame"
        return (
            spread([(" raftdeck", "head")], [mode_span(picture, view)], size.width, "head"),
            fit([(f" {words}", "warn")], size.width, "head"),
        )
    return _first(frame, picture, view, size.width), _second(frame, picture, view, size.width)


def mode_span(picture: Picture, view: View) -> Span:
    """Say whether this is now, frozen, or a recording; and whether hands are tied."""
    if view.mode == "live" and picture.problem:
        return " ENDED ", "bad"
    if view.mode == "live" and _silent_ms(picture):
        return " STALE ", "bad"
    if view.mode == "live":
        return " LIVE ▸ ", "live"
    if view.mode == "frozen":
        return f" FROZEN -{duration(picture.newest_ms - picture.now_ms)} ", "frozen"
    return f" REPLAY {f'x{view.speed:g}' if view.speed else '‖'} ", "replay"


def _first(frame: ClusterFrame, picture: Picture, view: View, width: int) -> Row:
    states = tally(frame)
    counts = f"{states.up} up"
    for number, word in (
        (states.frozen, "paused"), (states.dead, "dead"), (states.silent, "silent"),
        (states.starting, "starting"),
    ):  # fmt: skip
        counts += f" {number} {word}" if number else ""
    left: list[Span] = [(f" {frame.name} ", "name"), (" ", "head"), mode_span(picture, view)]
    if view.readonly and view.mode != "replay":
        left += [(" ", "head"), (" READ-ONLY ", "readonly")]
    if frame.recording is False:
        left += [(" ", "head"), (" NO REC ", "headwarn")]
    left += [GAP, (f"{states.nodes} nodes: " if width >= 100 else "", "head")]
    left += [(counts, "head" if states.up == states.nodes else "headwarn"), GAP]
    left += quorum_spans(frame, view.group)
    right: list[Span] = []
    if frame.groups > 1:
        left += [GAP, (f"group {view.group} of {frame.groups}", "head")]
    left += [GAP, *_leader(frame, picture, view.group)]
    if width >= 100:
        right = [(f"up {_uptime(frame)} ", "head")]
    return spread(left, right, width, "head")


def _silent_ms(picture: Picture) -> int:
    """Return for how long no frame has come; 0 while they do."""
    age = 0 if picture.frame is None else picture.clock_ms - picture.frame.unix_ms
    return age if age > SILENT_MS else 0


def quorum_spans(frame: ClusterFrame, group: int) -> list[Span]:
    """Say how many more faults the group bears."""
    needed, present = quorum(frame, group)
    margin = present - needed
    if margin < 0:
        return [(f"NO QUORUM {present}/{len(frame.nodes)}", "bad"), (f" needs {needed}", "head")]
    style = "head" if margin else "headwarn"
    word = f"margin {margin}" if margin else "MARGIN 0"
    return [(f"quorum {needed}/{len(frame.nodes)} {word}", style)]


def _leader(frame: ClusterFrame, picture: Picture, group: int) -> list[Span]:
    leader = frame.leader(group)
    if leader is None:
        since = picture.history.leaderless_before(picture.now_ms + 1, group)
        age = "" if since is None else f" for {duration(picture.now_ms - since)}"
        return [(f"NO LEADER{age}", "bad")]
    state = frame.node(leader).group(group)
    assert state is not None
    return [("▲ ", "headleader"), (f"n{leader}", "headleader"), (f" term {state.term}", "head")]


def _uptime(frame: ClusterFrame) -> str:
    started = [part.process.since_unix_ms for part in frame.nodes if part.process.state.alive]
    return duration(frame.unix_ms - min(started)) if started else UNKNOWN


def _second(frame: ClusterFrame, picture: Picture, view: View, width: int) -> Row:
    history, now = picture.history, picture.now_ms
    states = [part.group(view.group) for part in frame.nodes]
    commit = max((state.commit for state in states if state is not None), default=None)
    rate = history.commit_rate(view.group, now)
    leader = frame.leader(view.group)
    lead = None if leader is None else frame.node(leader)
    state = None if lead is None else lead.group(view.group)
    pending = None if state is None else state.last - state.commit
    parts: list[list[Span]] = [
        [(" commit ", "headdim"), (f"{count(commit):>11}", "head")],
        [(f" {UNKNOWN if rate is None else '+' + scaled(rate, 7):>8}/s", "headstrong")],
        [("  pending ", "headdim"), (f"{scaled(pending, 5):>5}", "head")],
    ]
    if lead is not None and lead.snapshot is not None:
        rates = lead.rates
        each = rates.entries_per_fsync if rates else None
        parts += [
            [(f"  n{leader} fsync p99 ", "headdim"), _slow(lead.snapshot.wal.fsync_p99_ns / 1e6)],
            [(f" {scaled(each, 5):>5}", "headstrong"), (" ent/fsync", "headdim")],
            [
                (f" {scaled(rates.fsyncs_per_s if rates else None, 5):>5}", "head"),
                (" fsync/s", "headdim"),
            ],
        ]
    right = _verdict(picture, view)
    return spread(_whole_parts(parts, width - width_of(right)), right, width, "head")


def _whole_parts(parts: list[list[Span]], room: int) -> list[Span]:
    """Join the parts that fit; none is shown in part."""
    found: list[Span] = []
    for part in parts:
        if width_of(found) + width_of(part) > room:
            break
        found += part
    return found


def _slow(p99_ms: float) -> Span:
    return f"{p99_ms:5.1f} ms", "headwarn" if p99_ms > 10 else "head"


def _verdict(picture: Picture, view: View) -> list[Span]:
    if picture.problem:
        return [(f"{picture.problem} ", "bad")]
    if view.mode == "live" and (age := _silent_ms(picture)):
        return [(f"NO FRAMES for {duration(age)} ", "bad")]
    if picture.verdict is not None:
        return [(f"{picture.verdict.text} ", picture.verdict.style)]
    return []
