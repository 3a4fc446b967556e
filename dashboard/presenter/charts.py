"""Three charts: commits per second, entries per fsync, and how long fsyncs take.

Scales are fixed steps (1, 2, 5, …) above what the window has seen, so that the axis does not
breathe. Histograms are what nodes count since their start, by powers of two.
"""

from __future__ import annotations

from typing import Final

from cluster.frames import ClusterFrame
from dashboard.presenter.nodes import BLOCKS, nice_ceiling
from dashboard.presenter.text import UNKNOWN, Row, Span, box, fit, scaled
from dashboard.presenter.view import Picture, Size, View

__all__ = ["chart_rows", "commit_chart", "entries_chart", "latency_chart"]

AXIS_CELLS: Final = 6
STEP_MS: Final = 1_000
PARTS: Final = "▏▎▍▌▋▊▉█"
LATENCY_TOPS_US: Final = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
LATENCY_TITLES: Final = ("≤.25", ".5", "1", "2", "4", "8", "16", "32", ">")


def chart_rows(picture: Picture, view: View, size: Size) -> tuple[Row, ...]:
    """Return the three charts side by side (two, or one, where there is less room)."""
    parts = [commit_chart, entries_chart, latency_chart]
    if size.width < 100:
        parts = [commit_chart, entries_chart]
    if size.width < 60:
        parts = [entries_chart]
    widths = [size.width // len(parts)] * len(parts)
    widths[-1] += size.width - sum(widths)
    drawn = [
        part(picture, view, Size(width, size.height))
        for part, width in zip(parts, widths, strict=True)
    ]
    return tuple(tuple(span for row in rows for span in row) for rows in zip(*drawn, strict=True))


def commit_chart(picture: Picture, view: View, size: Size) -> tuple[Row, ...]:
    """Draw commits per second, newest at the right, a second per cell, and faults below."""
    inner, height = size.width - 2, size.height - 2
    cells = max(1, inner - AXIS_CELLS - 1)
    end = picture.now_ms - picture.now_ms % STEP_MS
    moments = [end - (cells - 1 - cell) * STEP_MS for cell in range(cells)]
    values = [picture.history.commit_rate(view.group, moment) for moment in moments]
    now = picture.history.commit_rate(view.group, picture.now_ms)
    top = nice_ceiling(max((value for value in values if value is not None), default=0))
    title: list[Span] = [("COMMITS/s", "title"), (f" now {scaled(now, 7)}", "text")]
    bars = max(1, height - 1)
    bars -= bars > 6 and bars % 2  # an odd number of lines has no round numbers
    marked = bars // next(parts for parts in (5, 4, 2, 1) if bars % parts == 0)
    rows: list[Row] = []
    for line in range(bars, 0, -1):
        mark = scaled(top * line / bars, 5) if line % marked == 0 else ""
        text = "".join(_column(value, top, bars, line) for value in values)
        rows.append(fit([(mark.rjust(5), "dim"), ("┤", "dim"), (text, "bar")], inner))
    if height > 1:
        rows.append(fit([("      ", "dim"), (_marks(picture, moments), "event")], inner))
    return box(title, rows, size.width, size.height, f"{cells} s")


def _column(value: float | None, top: float, bars: int, line: int) -> str:
    """Return what a bar shows on one line; 0 is a thin line on the lowest, unknown is blank."""
    if value is None:
        return " "
    eighths = round(value / top * bars * 8) - (line - 1) * 8
    if eighths <= 0:
        return "▁" if line == 1 else " "
    return BLOCKS[min(8, eighths) - 1]


def _marks(picture: Picture, moments: list[int]) -> str:
    """Mark what happened below the second in which it did."""
    signs = [" "] * len(moments)
    kinds = {
        "killed": "!",
        "crashed": "!",
        "stopped": "!",
        "frozen": "‖",
        "leader": "▲",
        "started": "↻",
    }
    for event in picture.events:
        place = (event.unix_ms - moments[0]) // STEP_MS + 1
        if 0 <= place < len(signs) and event.kind in kinds:
            signs[place] = kinds[event.kind] if signs[place] != "!" else "!"
    return "".join(signs)


def entries_chart(picture: Picture, view: View, size: Size) -> tuple[Row, ...]:
    """Draw by how many entries the fsyncs of one node made durable: group commit at work."""
    frame, inner, height = picture.frame, size.width - 2, size.height - 2
    node = _node_shown(frame, view)
    title: list[Span] = [("ENTRIES PER FSYNC", "title")]
    snapshot = None if frame is None or node is None else frame.node(node).snapshot
    if snapshot is None or not any(snapshot.wal.sync_entries):
        who = "no node reports a" if node is None else f"n{node} reports no"
        rows = [fit([(f" {UNKNOWN} {who} histogram", "dim")], inner)]
        return box(title, rows, size.width, size.height)
    mean = snapshot.wal.entries_per_fsync
    title.append((f" n{node} mean {scaled(mean, 6)}", "text"))
    bands = _bands(snapshot.wal.sync_entries, height)
    total = sum(number for _, number in bands)
    room = max(1, inner - 9 - 8)
    rows = []
    for label, number in bands:
        share = number / total
        bar = _bar(share, room)
        rows.append(
            fit(
                [
                    (label.rjust(8), "dim"),
                    (" ", "text"),
                    (bar.ljust(room), "bar"),
                    (f"{share:7.1%}", "text"),
                ],
                inner,
            )
        )
    return box(title, rows, size.width, size.height, "since start" if size.width >= 52 else "")


def _node_shown(frame: ClusterFrame | None, view: View) -> int | None:
    """Return the selected node if it reports, else the leader."""
    if frame is None:
        return None
    known = {part.node: part for part in frame.nodes}
    if view.selected in known and known[view.selected].snapshot is not None:
        return view.selected
    return frame.leader(view.group)


def _bands(buckets: tuple[int, ...], rows: int) -> list[tuple[str, int]]:
    """Join neighbouring buckets until they fit; bucket n counts values from 2^(n-1) below 2^n."""
    first = next(i for i, number in enumerate(buckets) if number)
    last = max(i for i, number in enumerate(buckets) if number)
    width = -(-(last - first + 1) // max(1, rows))
    bands = []
    for start in range(first, last + 1, width):
        end = min(start + width - 1, last)
        low = 1 << (start - 1) if start else 0
        high = (1 << end) - 1 if end else 0
        label = f"{low}" if low >= high else f"{_short(low)}-{_short(high)}"
        bands.append((label, sum(buckets[start : end + 1])))
    return bands


def _short(value: int) -> str:
    return str(value) if value < 1024 else f"{value // 1024}k"


def _bar(share: float, room: int) -> str:
    eighths = round(share * room * 8)
    if share > 0 and eighths == 0:
        eighths = 1
    whole, part = divmod(eighths, 8)
    return "█" * whole + (PARTS[part - 1] if part else "")


def latency_chart(picture: Picture, view: View, size: Size) -> tuple[Row, ...]:
    """Draw how long each node's writes and syncs took: a row per node, a column per power of two."""
    frame, inner = picture.frame, size.width - 2
    title: list[Span] = [("FSYNC LATENCY", "title"), (" ms, up to", "dim")]
    if frame is None:
        return box(title, [], size.width, size.height)
    cell = max(3, min(6, (inner - 5) // len(LATENCY_TITLES)))
    head = "     " + "".join(title.rjust(cell) for title in LATENCY_TITLES)
    rows = [fit([(head, "dim")], inner)]
    room = size.height - 3
    parts = frame.nodes
    if len(parts) > room:
        place = next((i for i, part in enumerate(parts) if part.node == view.selected), 0)
        start = max(0, min(place - room // 2, len(parts) - room))
        parts = parts[start : start + max(1, room)]
    if len(parts) < len(frame.nodes):
        title = [*title[:1], (f" ms, n{parts[0].node}-n{parts[-1].node}", "dim")]
    for part in parts:
        buckets = part.snapshot.wal.sync_latency_us if part.snapshot is not None else ()
        name: Span = (f" n{part.node}".ljust(5), "text" if part.fresh else "dim")
        rows.append(fit([name, *_heat(buckets, cell)], inner))
    return box(title, rows, size.width, size.height)


def _heat(buckets: tuple[int, ...], cell: int) -> list[Span]:
    if not any(buckets):
        return [(UNKNOWN.rjust(cell), "dim")] * len(LATENCY_TITLES)
    sums = [0] * len(LATENCY_TITLES)
    for place, number in enumerate(buckets):
        top = 1 << place
        column = next((i for i, limit in enumerate(LATENCY_TOPS_US) if top <= limit), len(sums) - 1)
        sums[column] += number
    most = max(sums)
    spans: list[Span] = []
    for column, number in enumerate(sums):
        sign = BLOCKS[max(0, round(number / most * 8) - 1)] if number else "·"
        slow = column > LATENCY_TITLES.index("8") and number
        spans.append((sign.rjust(cell), "warn" if slow else ("bar" if number else "dim")))
    return spans
