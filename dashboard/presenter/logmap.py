"""The log map: one line per node, a digit per stretch of the log, and where it is committed.

A digit is the last of the term's; ┃ is the commit index, what stands right of it is not committed.
As the leader knows a follower, • is its match index (where it is behind the log shown) and ▸ its
next index. ░ is a snapshot instead of entries, · entries whose term the node did not report.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple

from cluster.frames import ClusterFrame, NodeFrame
from dashboard.presenter.text import Row, Span, box, count, fit, scaled, spread
from dashboard.presenter.view import Picture, Size, View, standing_under
from node.metrics import GroupSnapshot, PeerSnapshot

__all__ = ["log_rows", "term_style"]

NAME_CELLS: Final = 6
TERM_STYLES: Final = 6


class _Scale(NamedTuple):
    """The stretch of the log that is drawn: `step` indexes per cell from `first` on."""

    first: int
    step: int
    cells: int

    def cell(self, index: int) -> int:
        """Return the cell that holds an index; below 0 or beyond `cells` if it is outside."""
        return (index - self.first) // self.step

    def last_of(self, cell: int) -> int:
        """Return the last index of a cell."""
        return self.first + (cell + 1) * self.step - 1


def log_rows(picture: Picture, view: View, size: Size) -> tuple[Row, ...]:
    """Return the map in a box of exactly `size`."""
    title: list[Span] = [
        ("LOG", "title"),
        (" digit = term · ┃ commit · right of ┃ uncommitted", "dim"),
    ]
    frame = picture.frame
    if frame is None:
        return box(title, [], size.width, size.height)
    inner = size.width - 2
    tail = 20 if inner >= 56 else 9
    cells = max(8, inner - NAME_CELLS - tail - 1)
    scale = _scale(frame, view.group, cells)
    note = f"1 cell = {scaled(scale.step, 6)}" if inner >= 68 else ""
    rows = [_ruler(scale, inner)]
    room = size.height - 3
    nodes = frame.nodes
    if len(nodes) > room:
        place = next((i for i, part in enumerate(nodes) if part.node == view.selected), 0)
        start = max(0, min(place - room // 2, len(nodes) - room))
        nodes = nodes[start : start + max(1, room)]
        title[1] = (f" n{nodes[0].node}-n{nodes[-1].node} shown · ┃ commit", "dim")
    leader = frame.leader(view.group)
    rows += [_node_row(frame, leader, part, view, (scale, inner)) for part in nodes]
    return box(title, rows, size.width, size.height, note)


def _scale(frame: ClusterFrame, group: int, cells: int) -> _Scale:
    """Choose a stretch that ends at the newest entry and holds what the living nodes differ in."""
    states = [state for part in frame.nodes if (state := part.group(group)) is not None]
    if not states:
        return _Scale(1, 1, cells)
    newest = max(state.last for state in states)
    fresh = [
        state for part in frame.nodes if part.fresh and (state := part.group(group)) is not None
    ]
    lowest = min((state.commit for state in fresh), default=newest)
    wanted = max(newest - lowest, 1) * 4 // 3
    step = 1
    while step * cells < wanted:
        step = _next_step(step)
    # The right edge moves in strides of a tenth, so that digits do not shimmer at every frame.
    stride = step * max(1, cells // 10)
    end = (newest // stride + 1) * stride
    return _Scale(max(1, end - step * cells + 1), step, cells)


def _next_step(step: int) -> int:
    """Return the next of 1, 2, 5, 10, 20, 50, and so on."""
    first = int(str(step)[0])
    return step * 5 // 2 if first == 2 else step * 2


def _ruler(scale: _Scale, inner: int) -> Row:
    left, right = count(scale.first), count(scale.last_of(scale.cells - 1))
    line = left.ljust(scale.cells - len(right)) + right if scale.cells > 24 else right
    return fit([("index ", "dim"), (line[: scale.cells], "dim")], inner)


def _node_row(
    frame: ClusterFrame, leader: int | None, part: NodeFrame, view: View, shape: tuple[_Scale, int]
) -> Row:
    scale, inner = shape
    standing = standing_under(leader, frame, part, view.group)
    state = part.group(view.group)
    name: list[Span] = [(standing.glyph, standing.style), (f" n{part.node}".ljust(5), "text")]
    if state is None:
        return fit([*name, ("– no report", "dim")], inner)
    leading = None if leader is None else frame.node(leader).group(view.group)
    spans = _merged(_cells(state, _peer(leading, part.node), scale))
    spans = spans if part.fresh else [(text, "dim") for text, _ in spans]
    behind = 0 if leading is None or leader == part.node else leading.last - state.last
    return spread([*name, *spans], [(_tail(state, behind), "dim")], inner)


def _peer(leading: GroupSnapshot | None, node: int) -> PeerSnapshot | None:
    if leading is None:
        return None
    return next((peer for peer in leading.peers if peer.node == node), None)


def _cells(state: GroupSnapshot, peer: PeerSnapshot | None, scale: _Scale) -> list[Span]:
    """Return one span per cell; the commit mark takes the cell behind the last committed one."""
    starts, terms = state.log[0::2], state.log[1::2]
    committed = scale.cell(state.commit)
    found: list[Span] = []
    for cell in range(scale.cells):
        index = min(scale.last_of(cell), state.last)
        if scale.first + cell * scale.step > state.last:
            found.append((" ", "text"))
        elif index <= state.start:
            found.append(("░", "dim"))
        else:
            run = bisect_right(starts, index) - 1
            sign = str(terms[run] % 10) if run >= 0 else "·"
            style = term_style(terms[run]) if run >= 0 else "dim"
            found.append((sign, style if cell <= committed else f"{style} uncommitted"))
    if committed < -1:
        found[0] = ("←", "warn")
    elif committed + 1 < scale.cells:
        found.insert(committed + 1, ("┃", "commit"))
    else:
        found.append(("┃", "commit"))
    if peer is not None:
        _mark(
            found,
            scale.cell(peer.match) + (peer.match > state.commit),
            "•",
            peer.match < state.last,
        )
        beyond = scale.cell(peer.next)
        _mark(found, beyond + 1, "▸", beyond > scale.cell(state.last))
    return found[: scale.cells + 1]


def _mark(cells: list[Span], place: int, sign: str, wanted: bool) -> None:
    if wanted and 0 <= place < len(cells) and cells[place][0] != "┃":
        cells[place] = (sign, "mark")


def _merged(cells: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for text, style in cells:
        if merged and merged[-1][1] == style:
            merged[-1] = (merged[-1][0] + text, style)
        else:
            merged.append((text, style))
    return merged


def _tail(state: GroupSnapshot, behind: int) -> str:
    """Say in numbers what the marks show."""
    if behind > 0:
        return f" {scaled(behind, 9):>9} behind"
    return f" {scaled(state.last, 9):>9}"


def term_style(term: int) -> str:
    """Return the style of a term's digits: six hues in turn, as in RaftScope."""
    return f"term{term % TERM_STYLES}"
