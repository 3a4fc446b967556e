"""The node table: protocol truth beside process truth, a row per node.

Columns are declared once, with a rank: a narrow screen keeps those of the lowest rank. Numbers are
aligned to the right and shrink to k and M; none is ever cut. What a node has not reported, or
reported too long ago to be a rate, is "–"; old values are dim and their age stands in the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from cluster.frames import ClusterFrame, NodeFrame, NodeRates, ProcessState
from dashboard.presenter.history import Sample
from dashboard.presenter.text import (
    UNKNOWN,
    Align,
    Row,
    Span,
    box,
    clip,
    decimal,
    fit,
    scaled,
    scaled_bytes,
    width_of,
)
from dashboard.presenter.view import Picture, Size, Standing, View, standing_of, standing_under
from node.metrics import GroupSnapshot, WalSnapshot

__all__ = ["brief_rows", "node_rows", "process_words", "sparkline"]

SPARK_STEP_MS: Final = 1_000
SPARK_STALE_MS: Final = 1_500
"""Unwatched, a supervisor makes one frame a second; a bar may be that old, and a little more."""
SPARK_CELLS_MAX: Final = 60
BLOCKS: Final = "▁▂▃▄▅▆▇█"
P99_WARN_MS: Final = 10.0
TIMER_CELLS: Final = 7
_NOTHING: Final = Sample(0, ())


class _Led(NamedTuple):
    """Who leads the group, and its own state there."""

    leader: int | None
    state: GroupSnapshot | None

    @classmethod
    def of(cls, frame: ClusterFrame, group: int) -> _Led:
        leader = frame.leader(group)
        return cls(leader, None if leader is None else frame.node(leader).group(group))


class _Seen(NamedTuple):
    """Everything that a cell may look at."""

    picture: Picture
    frame: ClusterFrame
    view: View
    part: NodeFrame
    standing: Standing
    state: GroupSnapshot | None
    leading: GroupSnapshot | None
    ceiling: float

    @property
    def rates(self) -> NodeRates | None:
        return self.part.rates if self.part.fresh else None

    @property
    def wal(self) -> WalSnapshot | None:
        fresh = self.part.fresh and self.part.snapshot is not None
        return self.part.snapshot.wal if fresh and self.part.snapshot is not None else None


@dataclass(frozen=True, slots=True)
class _Column:
    """One column; `rank` 0 is always there."""

    title: str
    width: int
    rank: int
    cell: Callable[[_Seen], Span]
    align: Align = "right"
    short: str = ""


def node_rows(picture: Picture, view: View, size: Size, *, boxed: bool) -> tuple[Row, ...]:
    """Return the table, in a box or under a rule, of exactly `size`."""
    frame = picture.frame
    if frame is None:
        return tuple(fit([], size.width) for _ in range(size.height))
    inner = size.width - 2 if boxed else size.width
    columns, spark = _chosen(inner, frame)
    rows = [_titles(columns, spark, inner)]
    past = _every_second(picture, spark)
    ceiling = _ceiling(past or _every_second(picture, 1))
    shown = _window(frame, view, size.height - (3 if boxed else 2))
    led = _Led.of(frame, view.group)
    rows += [_row(picture, view, part, columns, (inner, ceiling, past, led)) for part in shown]
    title: list[Span] = [(f"NODES {len(frame.nodes)}", "title")]
    if len(shown) < len(frame.nodes):
        title += [(f"  n{shown[0].node}-n{shown[-1].node} shown", "dim")]
    if boxed:
        return box(title, rows, size.width, size.height, f"spark 0 to {scaled(ceiling, 6)}/s")
    head: Row = (("─ ", "frame"), *title, (" ", "frame"))
    head = (*head, ("─" * (size.width - width_of(head)), "frame"))
    blank = fit([], size.width)
    return (head, *rows, *[blank] * size.height)[: size.height]


def brief_rows(picture: Picture, view: View, size: Size) -> tuple[Row, ...]:
    """Return every node as shape, number and (where there is room) word: for the smallest screens."""
    frame = picture.frame
    if frame is None:
        return tuple(fit([], size.width) for _ in range(size.height))
    cell = next(
        (wide for wide in (14, 7) if (size.width // wide) * size.height >= len(frame.nodes)), 5
    )
    rows: list[Row] = []
    per_row = max(1, size.width // cell)
    for start in range(0, len(frame.nodes), per_row):
        spans: list[Span] = []
        for part in frame.nodes[start : start + per_row]:
            standing = standing_of(frame, part, view.group)
            words = f"{standing.glyph} n{part.node}" + (f" {standing.word}" if cell == 14 else "")
            style = f"{standing.style} selected" if part.node == view.selected else standing.style
            spans += [(clip(words, cell - 1).ljust(cell - 1), style), (" ", "text")]
        rows.append(fit(spans, size.width))
    blank = fit([], size.width)
    return (*rows, *[blank] * size.height)[: size.height]


def _window(frame: ClusterFrame, view: View, room: int) -> tuple[NodeFrame, ...]:
    """Return the nodes that fit; the selected one is always among them."""
    nodes, room = frame.nodes, max(1, room)
    if len(nodes) <= room:
        return nodes
    place = next((i for i, part in enumerate(nodes) if part.node == view.selected), 0)
    start = max(0, min(place - room // 2, len(nodes) - room))
    return nodes[start : start + room]


def _chosen(inner: int, frame: ClusterFrame) -> tuple[list[_Column], int]:
    """Return the columns that fit, and the cells left for the sparkline."""
    columns = [column for column in _COLUMNS if column.title != "on" or frame.groups > 1]
    for rank in range(9, -1, -1):
        used = 2 + sum(column.width + 1 for column in columns)
        if inner - used >= 7 or rank == 0:
            break
        columns = [column for column in columns if column.rank < rank]
    used = 2 + sum(column.width + 1 for column in columns)
    return columns, max(0, min(SPARK_CELLS_MAX, inner - used))


def _titles(columns: list[_Column], spark: int, inner: int) -> Row:
    spans: list[Span] = [("  ", "dim")]
    for column in columns:
        text = column.title.ljust(column.width)
        if column.align == "right":
            text = column.title.rjust(column.width)
        spans.append((text + " ", "dim"))
    if spark >= 6:
        words = f"applied/s {spark}s" if spark >= 13 else "appl/s"
        spans.append((clip(words, spark), "dim"))
    return fit(spans, inner)


def _row(
    picture: Picture,
    view: View,
    part: NodeFrame,
    columns: list[_Column],
    shape: tuple[int, float, list[Sample], _Led],
) -> Row:
    frame = picture.frame
    assert frame is not None
    inner, ceiling, past, led = shape
    standing = standing_under(led.leader, frame, part, view.group)
    state = part.group(view.group)
    seen = _Seen(picture, frame, view, part, standing, state, led.state, ceiling)
    chosen = part.node == view.selected
    spans: list[Span] = [("▸ " if chosen else "  ", "cursor")]
    for column in columns:
        text, style = column.cell(seen)
        text = clip(text, column.width)
        text = text.ljust(column.width) if column.align == "left" else text.rjust(column.width)
        spans += [(text, style), (" ", "text")]
    if past:
        values = [sample.applied_per_s(part.node) for sample in past]
        spans.append((sparkline(values, ceiling, len(past)), "spark"))
    row = fit(spans, inner)
    if not chosen:
        return row
    return tuple((text, f"{style} selected") for text, style in row)


def _every_second(picture: Picture, cells: int) -> list[Sample]:
    found = []
    first = picture.now_ms - picture.now_ms % SPARK_STEP_MS - cells * SPARK_STEP_MS
    for step in range(cells):
        moment = first + (step + 1) * SPARK_STEP_MS
        sample = picture.history.at(moment)
        if sample is None or sample.unix_ms < moment - SPARK_STALE_MS:
            sample = _NOTHING
        found.append(sample)
    return found


def _ceiling(past: list[Sample]) -> float:
    """Return the scale's fixed top: the next 1, 2 or 5 above what the leaders applied.

    A node that catches up applies ten times that; its bars are full, and the others stay readable.
    """
    highest = 0.0
    for sample in past:
        leaders = {leader for leader, _, _ in sample.groups if leader} or sample.members
        highest = max([highest, *(sample.applied_per_s(node) or 0.0 for node in leaders)])
    return nice_ceiling(highest)


def nice_ceiling(value: float) -> float:
    """Return the smallest of 10, 20, 50, 100, … that is at least `value`."""
    top = 10.0
    while True:
        for factor in (1, 2, 5):
            if top * factor >= value:
                return top * factor
        top *= 10


def sparkline(values: list[float | None], ceiling: float, cells: int) -> str:
    """Draw values on a fixed scale; what is unknown is blank, and 0 is the lowest bar."""
    signs = []
    for value in values[-cells:]:
        if value is None:
            signs.append(" ")
            continue
        level = int(min(1.0, value / ceiling) * (len(BLOCKS) - 1) + 0.5) if ceiling else 0
        signs.append(BLOCKS[level])
    return "".join(signs).rjust(cells)


# ---- cells -----------------------------------------------------------------------------------


def process_words(part: NodeFrame) -> tuple[str, str]:
    """Return what the kernel says of the process, and its style."""
    process = part.process
    if process.state is ProcessState.KILLED:
        return f"sig {process.signal}" if process.signal else "killed", "dead"
    if process.state is ProcessState.CRASHED:
        if process.signal:
            return f"sig {process.signal}", "bad"
        if process.starts == 0:
            return "no start", "bad"
        # A simulated process has no exit code.
        return ("ended" if process.exit_code is None else f"exit {process.exit_code}"), "bad"
    if process.state is ProcessState.STOPPED:
        return "exited", "dead"
    if process.state is ProcessState.FROZEN:
        return "SIGSTOP", "paused"
    if part.snapshot is None:
        return "starting", "recover"
    name = "running" if process.pid is None else str(process.pid)  # a simulated one has no pid
    return (name, "dim") if part.fresh else (f"{name}?", "stale")


def _old(seen: _Seen) -> str:
    return "text" if seen.part.fresh else "dim"


def _number(seen: _Seen) -> Span:
    return str(seen.part.node), "text"


def _role(seen: _Seen) -> Span:
    return str(seen.standing), seen.standing.style


def _mark(seen: _Seen) -> Span:
    """Put the mark at the node's own column, after TigerBeetle's VOPR: who moved, without colour."""
    place = [part.node for part in seen.frame.nodes].index(seen.part.node)
    return ("·" * place + seen.standing.glyph).ljust(len(seen.frame.nodes), "·"), "dim"


def _term(seen: _Seen) -> Span:
    if seen.state is None:
        return UNKNOWN, "dim"
    return str(seen.state.term), _old(seen)


def _vote(seen: _Seen) -> Span:
    state = seen.state
    if state is None or not seen.part.fresh:
        return UNKNOWN, "dim"
    if state.role in ("candidate", "pre_candidate"):
        return f"{len(state.votes)}/{len(seen.frame.nodes) // 2 + 1}", "candidate"
    return (f"n{state.vote}" if state.vote else UNKNOWN), "text"


def _last(seen: _Seen) -> Span:
    return scaled(None if seen.state is None else seen.state.last, 9), _old(seen)


def _commit(seen: _Seen) -> Span:
    return scaled(None if seen.state is None else seen.state.commit, 9), _old(seen)


def _lag(seen: _Seen) -> Span:
    if seen.state is None or seen.leading is None:
        return UNKNOWN, "dim"
    lag = max(0, seen.leading.commit - seen.state.commit)
    return scaled(lag, 6), "warn" if lag > 10_000 else _old(seen)


def _lag_ms(seen: _Seen) -> Span:
    """In ms: the leader committed this node's next entry at most (or, with >, at least) so long ago."""
    state = seen.state
    if state is None or seen.leading is None:
        return UNKNOWN, "dim"
    if state.commit >= seen.leading.commit:
        return "0", _old(seen)
    lag = seen.picture.history.lag(state.commit, seen.view.group, seen.picture.now_ms)
    if lag is None:
        return UNKNOWN, "dim"
    sign = ">" if lag.at_least else "<"
    if lag.ms < 1000:
        return f"{sign}{max(lag.ms, 1)}ms", _old(seen)
    seconds = lag.ms / 1000
    return (
        f"{'>' if lag.at_least else ''}{seconds:.1f}s"
        if seconds < 100
        else f"{sign}{seconds:.0f}s",
        "warn",
    )


def _traffic(seen: _Seen) -> Span:
    rates = seen.rates
    if rates is None:
        return UNKNOWN, "dim"
    return f"{_mb(rates.received_bytes_per_s)}/{_mb(rates.sent_bytes_per_s)}", "text"


def _mb(value: float) -> str:
    mb = value / 1e6
    return f"{mb:.1f}" if mb < 99.95 else f"{mb:.0f}"


def _fsyncs(seen: _Seen) -> Span:
    return scaled(seen.rates.fsyncs_per_s if seen.rates else None, 5), "text"


def _per_fsync(seen: _Seen) -> Span:
    value = seen.rates.entries_per_fsync if seen.rates else None
    return (decimal(value, 1) if value is None or value < 1000 else scaled(value, 6)), "strong"


def _latencies(seen: _Seen) -> Span:
    wal = seen.wal
    if wal is None or not wal.fsyncs:
        return UNKNOWN, "dim"
    p99 = wal.fsync_p99_ns / 1e6
    style = "warn" if p99 > P99_WARN_MS else "text"
    return f"{_ms(wal.fsync_p50_ns / 1e6)}/{_ms(p99)}", style


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _cpu(seen: _Seen) -> Span:
    value = seen.part.process.cpu_percent
    return (UNKNOWN if value is None else f"{value:.0f}"), "text"


def _rss(seen: _Seen) -> Span:
    return scaled_bytes(seen.part.process.rss_bytes), "text"


def _timer(seen: _Seen) -> Span:
    """The time left: a bar against the election timeout in force, or what a leader does."""
    state, snapshot = seen.state, seen.part.snapshot
    if state is None or snapshot is None or not seen.part.fresh:
        return UNKNOWN, "dim"
    if state.resting:
        return "resting", "dim"
    if state.role == "leader":
        return "beats", "dim"
    if state.timer_ns < 0 or snapshot.election_timeout_ns <= 0:
        return UNKNOWN, "dim"
    share = min(1.0, state.timer_ns / (2 * snapshot.election_timeout_ns))
    filled = round(share * TIMER_CELLS)
    return "▓" * filled + "░" * (TIMER_CELLS - filled), "dim"


def _process(seen: _Seen) -> Span:
    return process_words(seen.part)


_COLUMNS: Final = (
    _Column("#", 2, 0, _number),
    _Column("role", 10, 0, _role, "left"),
    _Column("process", 8, 3, _process, "left"),
    _Column("marks", 11, 9, _mark, "left"),
    _Column("term", 4, 0, _term),
    _Column("vote", 4, 6, _vote),
    _Column("last", 9, 7, _last),
    _Column("commit", 9, 0, _commit),
    _Column("lag", 6, 0, _lag),
    _Column("lag t", 6, 4, _lag_ms),
    _Column("MB/s i/o", 9, 2, _traffic),
    _Column("fsy/s", 5, 5, _fsyncs),
    _Column("ent/fs", 6, 1, _per_fsync),
    _Column("p50/p99ms", 9, 5, _latencies),
    _Column("cpu%", 4, 5, _cpu),
    _Column("rss", 5, 6, _rss),
    _Column("timer", 7, 8, _timer, "left"),
)
