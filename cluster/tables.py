"""Frames as plain text: the table of `raftdeck status`. Pure; colours nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cluster.frames import ClusterFrame, NodeFrame, ProcessState
from node.metrics import GroupSnapshot

__all__ = ["UNKNOWN", "aligned", "headline", "leaders", "leaders_table", "status_table"]

UNKNOWN: Final = "–"

_ROLES: Final = {
    "leader": "◆ leader",
    "follower": "● follower",
    "candidate": "◐ candidate",
    "pre_candidate": "◔ pre-candidate",
}
_PROCESSES: Final = {
    ProcessState.RUNNING: "running",
    ProcessState.FROZEN: "‖ frozen",
    ProcessState.KILLED: "✗ killed",
    ProcessState.STOPPED: "■ stopped",
    ProcessState.CRASHED: "! crashed",
}
_COLUMNS: Final = (
    "NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "FSYNC/S", "ENT/FSYNC", "MB/S", "CPU%",
    "RSS MB", "PID", "PROCESS",
)  # fmt: skip
_NUMBERS: Final = frozenset(_COLUMNS) - {"NODE", "ROLE", "PROCESS"}


def aligned(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[str] = frozenset()
) -> str:
    """Return a table with a header; columns named in `right` are aligned to the right."""
    table = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def headline(frame: ClusterFrame, group: int = 0) -> str:
    """Return one line about the whole cluster."""
    leader = frame.leader(group)
    who = "no leader" if leader is None else f"n{leader} leads"
    state = None if leader is None else frame.node(leader).group(group)
    term = f" in term {state.term}" if state else ""
    return (
        f"cluster {frame.name}: {len(frame.healthy(group))} of {len(frame.nodes)} nodes healthy,"
        f" {who}{term}{_saved(frame)}"
        f"{'; NOT RECORDED' if frame.recording is False else ''}"
    )


def _saved(frame: ClusterFrame) -> str:
    """Return what compression did to the batches of all leaders; nothing where it is off."""
    parts = [part.snapshot.compression for part in frame.nodes if part.snapshot is not None]
    codecs = sorted({part.codec for part in parts} - {"none"})
    before = sum(part.bytes_in for part in parts)
    if not codecs:
        return ""
    if not before:
        return f"; {codecs[0]}: nothing compressed yet"
    after = sum(part.bytes_out for part in parts)
    milliseconds = sum(part.compress_ns for part in parts) / 1e6
    return (
        f"; {codecs[0]}: {before / 1e6:.1f} MB of batches stored as {after / 1e6:.1f}"
        f" ({after / before:.0%}) in {milliseconds:.0f} ms"
    )


def status_table(frame: ClusterFrame, group: int = 0) -> str:
    """Return the table of all nodes for one group. Unknown is "–", never 0."""
    leader = frame.leader(group)
    leading = None if leader is None else frame.node(leader).group(group)
    rows = [_row(part, part.group(group), leading) for part in frame.nodes]
    return aligned(_COLUMNS, rows, _NUMBERS)


def leaders(frame: ClusterFrame) -> list[dict[str, Any]]:
    """Return, for each group, who leads it: as its leader says itself; None is unknown."""
    rows: list[dict[str, Any]] = []
    for group in range(frame.groups):
        leader = frame.leader(group)
        state = None if leader is None else frame.node(leader).group(group)
        rows.append(
            {
                "group": group,
                "leader": leader,
                "term": None if state is None else state.term,
                "commit": None if state is None else state.commit,
                "resting": None if state is None else state.resting,
            }
        )
    return rows


def leaders_table(frame: ClusterFrame) -> str:
    """Return the same as a table."""
    states = {None: UNKNOWN, True: "resting", False: "active"}
    rows = [
        [
            str(row["group"]),
            UNKNOWN if row["leader"] is None else f"n{row['leader']}",
            _whole(row["term"]),
            _whole(row["commit"]),
            states[row["resting"]],
        ]
        for row in leaders(frame)
    ]
    columns = ("GROUP", "LEADER", "TERM", "COMMIT", "STATE")
    return aligned(columns, rows, frozenset({"GROUP", "TERM", "COMMIT"}))


def _row(part: NodeFrame, state: GroupSnapshot | None, leading: GroupSnapshot | None) -> list[str]:
    process, rates = part.process, part.rates
    lag = None if state is None or leading is None else max(0, leading.commit - state.applied)
    speeds = [UNKNOWN] * 3
    if rates is not None:
        speeds = [
            _decimal(rates.fsyncs_per_s, 0),
            _decimal(rates.entries_per_fsync, 1),
            _decimal(rates.wal_bytes_per_s / 1e6, 1),
        ]
    return [
        f"n{part.node}",
        _role(part, state),
        _whole(None if state is None else state.term),
        _whole(None if state is None else state.commit),
        _whole(None if state is None else state.applied),
        _whole(lag if part.fresh else None),
        *speeds,
        _decimal(process.cpu_percent, 0),
        _decimal(None if process.rss_bytes is None else process.rss_bytes / 1e6, 0),
        _whole(process.pid),
        _process(part),
    ]


def _role(part: NodeFrame, state: GroupSnapshot | None) -> str:
    if state is None:
        return UNKNOWN
    word = _ROLES.get(state.role, state.role)
    return word if part.fresh else f"{word}?"


def _process(part: NodeFrame) -> str:
    process = part.process
    text = _PROCESSES[process.state]
    if process.state is ProcessState.CRASHED:
        if process.signal:
            text += f" (signal {process.signal})"
        elif process.exit_code is not None:  # a simulated process has none
            text += f" (exit {process.exit_code})"
        elif process.starts == 0:
            text += " (no start)"
    elif process.state is ProcessState.RUNNING and part.snapshot is None:
        text = "starting"
    elif process.state is ProcessState.RUNNING and not part.fresh:
        text += f", silent for {(part.snapshot_age_ms or 0) / 1000:.0f} s"
    return text


def _whole(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _decimal(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"
