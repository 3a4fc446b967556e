"""The link matrix: what each node (row) knows of its connection to each other one (column)."""

from __future__ import annotations

from typing import Final

from cluster.frames import ClusterFrame, NodeFrame, ProcessState
from dashboard.presenter.text import Row, Span, box, duration, fit, scaled
from dashboard.presenter.view import Picture, Size, View, standing_of
from node.metrics import LinkSnapshot

__all__ = ["SLOW_MS", "link_cell", "link_of", "link_page", "link_rows"]

SILENT_MS: Final = 1_000
"""Nothing heard for so long from a node that runs and answers us: the way between is suspect."""
SLOW_MS: Final = 50.0
CELL: Final = 5


def link_of(frame: ClusterFrame, node: int, peer: int) -> LinkSnapshot | None:
    """Return what a node says of its link to a peer; None if it says nothing, or not lately."""
    part = frame.node(node)
    if not part.fresh or part.snapshot is None:
        return None
    return next((link for link in part.snapshot.links if link.node == peer), None)


def link_cell(frame: ClusterFrame, node: int, peer: int) -> Span:
    """Return one cell: a round trip in ms, or a sign.

    ■ itself · ╳ silent, ~ slow, ? never heard, • heard · "·" silent, and nothing was due: followers
    do not talk to each other · – the node does not report · ‖ ✖ the other end is frozen or dead
    """
    if node == peer:
        return "■", "dim"
    link = link_of(frame, node, peer)
    if link is None:
        return "–", "dim"
    other = frame.node(peer).process.state
    if other is not ProcessState.RUNNING:
        return ("‖", "paused") if other is ProcessState.FROZEN else ("✖", "dead")
    due = _talks(frame, node) or _talks(frame, peer)
    if link.heard_ago_ns < 0:
        return ("?", "warn") if due else ("·", "dim")
    if link.heard_ago_ns > SILENT_MS * 1_000_000:
        return ("╳", "cut") if due else ("·", "dim")
    if link.rtt_ns < 0:
        return "•", "text"
    ms = link.rtt_ns / 1e6
    text = f"{ms:.1f}" if ms < 99.95 else scaled(ms, 3)
    return (f"~{text}", "warn") if ms > SLOW_MS else (text, "text")


def _talks(frame: ClusterFrame, node: int) -> bool:
    """Say whether a node has reason to talk to all others: it leads some group, or wants to."""
    part = frame.node(node)
    if not part.fresh or part.snapshot is None:
        return False
    return any(group.role != "follower" for group in part.snapshot.groups)


def link_rows(picture: Picture, _: View, size: Size) -> tuple[Row, ...]:
    """Return the matrix in a box of exactly `size`; narrow ones show shapes without numbers."""
    title: list[Span] = [("LINKS", "title"), (" row hears col, rtt ms", "dim")]
    frame = picture.frame
    if frame is None:
        return box(title, [], size.width, size.height)
    inner = size.width - 2
    nodes = frame.nodes
    cell = CELL if inner >= 4 + CELL * len(nodes) else max(2, min(CELL, (inner - 4) // len(nodes)))
    head: list[Span] = [("    ", "dim")]
    head += [(f"{'n' if cell > 3 else ''}{part.node}".rjust(cell), "dim") for part in nodes]
    rows = [fit(head, inner)]
    rows += [fit(_matrix_row(frame, part, cell), inner) for part in nodes]
    side = inner - 4 - cell * len(nodes)
    if side >= 18:
        notes = _notes(frame)
        rows = [
            fit([*fit(row, inner - side), ("  ", "dim"), (notes[place], "dim")], inner)
            if place < len(notes)
            else row
            for place, row in enumerate(rows)
        ]
    elif len(rows) + 1 <= size.height - 2:
        rows.append(fit([("╳ silent >1 s  ~ slow  ? never  · none due", "dim")], inner))
    return box(title, rows, size.width, size.height)


def _matrix_row(frame: ClusterFrame, part: NodeFrame, cell: int) -> list[Span]:
    spans: list[Span] = [(f" n{part.node}".ljust(4), "text")]
    for other in frame.nodes:
        text, style = link_cell(frame, part.node, other.node)
        if len(text) >= cell:
            text = "~" if text.startswith("~") else "•"
        spans += [(" " * (cell - len(text)), "text"), (text, style)]
    return spans


def _notes(frame: ClusterFrame) -> list[str]:
    fresh = [part.snapshot for part in frame.nodes if part.fresh and part.snapshot is not None]
    dropped = sum(snapshot.traffic.dropped for snapshot in fresh)
    malformed = sum(snapshot.traffic.malformed for snapshot in fresh)
    foreign = sum(snapshot.traffic.foreign for snapshot in fresh)
    return [
        "╳ silent >1 s",
        f"~ slow >{SLOW_MS:.0f} ms",
        "? never heard",
        "· none due",
        f"dropped {scaled(dropped, 7)}",
        f"malformed {scaled(malformed, 5)}",
        f"foreign {scaled(foreign, 7)}",
    ]


def link_page(picture: Picture, view: View, size: Size) -> tuple[Row, ...]:
    """Return the detail of one link, both directions, of exactly `size`."""
    frame = picture.frame
    known = {part.node for part in frame.nodes} if frame else set()
    title: list[Span] = [(f"LINK n{view.selected} – n{view.peer}", "title")]
    if frame is None or not {view.selected, view.peer} <= known or view.selected == view.peer:
        return box(title, [fit([(" one node has no link", "dim")], size.width - 2)], *size)
    rows: list[Row] = [()]
    for here, there in ((view.selected, view.peer), (view.peer, view.selected)):
        rows += [*_direction(frame, here, there, view.group), ()]
    rows += [
        ((" ←→ chooses the other end, ↑↓ this end.", "dim"),),
        ((" A round trip holds the peer's own turn; silence counts from any frame.", "dim"),),
    ]
    return box(title, [fit(row, size.width - 2) for row in rows], *size)


def _direction(frame: ClusterFrame, here: int, there: int, group: int) -> list[Row]:
    link = link_of(frame, here, there)
    part = frame.node(here)
    standing = standing_of(frame, part, group)
    head: Row = (
        (f" n{here} ", "strong"),
        (str(standing), standing.style),
        (f" says of n{there}:", "text"),
    )
    if link is None:
        why = "it does not report now" if not part.fresh else "it reports no links"
        return [head, ((f"   – {why}", "dim"),)]
    heard = "never" if link.heard_ago_ns < 0 else f"{duration(link.heard_ago_ns / 1e6)} ago"
    rtt = "–" if link.rtt_ns < 0 else f"{link.rtt_ns / 1e6:.2f} ms"
    text, style = link_cell(frame, here, there)
    rows: list[Row] = [head, (("   state       ", "dim"), (text, style))]
    rows += [
        (("   last heard  ", "dim"), (heard, "text")),
        (("   round trip  ", "dim"), (rtt, "text")),
    ]
    state = part.group(group)
    peer = next((p for p in state.peers if p.node == there), None) if state else None
    if peer is not None:
        text = f"match {peer.match:,}  next {peer.next:,}  {peer.state}"
        rows.append((("   as leader   ", "dim"), (text, "text")))
    return rows
