"""The groups table: who leads each Raft group, how far it is, and whether it rests."""

from __future__ import annotations

from dashboard.presenter.text import UNKNOWN, Row, Span, box, count, fit, scaled
from dashboard.presenter.view import Picture, Size, View, quorum

__all__ = ["group_page"]


def group_page(picture: Picture, view: View, size: Size) -> tuple[Row, ...]:
    """Return the table in a box of exactly `size`; the selected group is always in sight."""
    frame, inner, room = picture.frame, size.width - 2, size.height - 3
    if frame is None:
        return box([("GROUPS", "title")], [], *size)
    led = [frame.leader(group) for group in range(frame.groups)]
    counts = "  ".join(f"n{part.node} {led.count(part.node)}" for part in frame.nodes)
    title: list[Span] = [(f"GROUPS {frame.groups}", "title"), (f"  leads: {counts}", "dim")]
    head = f"  {'group':>5}  {'leader':<6} {'term':>5} {'commit':>13} {'commit/s':>9} {'pending':>8}  {'quorum':<9} state"
    rows: list[Row] = [fit([(head, "dim")], inner)]
    start = max(0, min(view.group - room // 2, frame.groups - room))
    for group in range(start, min(frame.groups, start + room)):
        leader = led[group]
        state = None if leader is None else frame.node(leader).group(group)
        chosen = group == view.group
        needed, present = quorum(frame, group)
        word = ("resting" if state.resting else "active") if state else "NO LEADER"
        pending = None if state is None else state.last - state.commit
        who = UNKNOWN if leader is None else f"▲ n{leader}"
        spans: list[Span] = [
            ("▸ " if chosen else "  ", "cursor"),
            (f"{group:>5}  {who:<6} ", "text" if state else "bad"),
            (f"{state.term if state else UNKNOWN!s:>5} ", "text"),
            (f"{count(state.commit if state else None):>13} ", "text"),
            (f"{scaled(picture.history.commit_rate(group, picture.now_ms), 9):>9} ", "text"),
            (f"{scaled(pending, 8):>8}  ", "text"),
            (f"{present}/{len(frame.nodes)} {'' if present >= needed else 'NO':<5} ", "text"),
            (word, "text" if state else "bad"),
        ]
        row = fit(spans, inner)
        rows.append(tuple((t, f"{s} selected") for t, s in row) if chosen else row)
    return box(title, rows, size.width, size.height, "↑↓ enter")
