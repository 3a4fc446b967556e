"""One node in full: its process, its groups, its log on disk, its threads and its last words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cluster.frames import ClusterFrame, NodeFrame, ProcessState
from dashboard.presenter.logmap import term_style
from dashboard.presenter.text import (
    UNKNOWN,
    Row,
    Span,
    box,
    count,
    decimal,
    duration,
    fit,
    scaled_bytes,
)
from dashboard.presenter.view import Picture, Size, View, standing_of

__all__ = ["Dossier", "DossierThread", "node_page", "position_text"]

LABEL: Final = 14
RUNS_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class DossierThread:
    """One thread of a process, from /proc."""

    name: str
    cpu_ms: int


@dataclass(frozen=True, slots=True)
class Dossier:
    """What was read of a node beside the frames: /proc, file names and sizes, its log file."""

    node: int
    threads: tuple[DossierThread, ...] = ()
    files: tuple[tuple[str, int], ...] = ()
    log: tuple[str, ...] = ()
    directory: str = ""


def position_text(position: int) -> str:
    """Write a log position as segment and byte."""
    return UNKNOWN if position <= 0 else f"{position >> 32:08d}.wal:{position & 0xFFFF_FFFF:,}"


def node_page(
    picture: Picture, view: View, size: Size, dossier: Dossier | None = None
) -> tuple[Row, ...]:
    """Return the page of the selected node, of exactly `size`."""
    frame = picture.frame
    part = next((p for p in frame.nodes if p.node == view.selected), None) if frame else None
    if frame is None or part is None:
        return box([("NODE", "title")], [], *size)
    standing = standing_of(frame, part, view.group)
    title: list[Span] = [(f"NODE n{part.node} ", "title"), (str(standing), standing.style)]
    left = [*_process(part, frame), (), *_hard_state(part, view), (), *_wal(part)]
    right = [*_peers(part, view), *_groups(part), *_traffic(part), *_dossier(dossier, part.node)]
    inner = size.width - 2
    if size.width >= 100:
        half = inner // 2
        rows = _beside(left, right, half, inner - half)
    else:
        rows = [fit(row, inner) for row in (*left, (), *right)]
    room = size.height - 2
    first = max(0, min(view.scroll, len(rows) - room))
    more = f"{first + 1}-{min(len(rows), first + room)} of {len(rows)}" if len(rows) > room else ""
    return box(title, rows[first:], size.width, size.height, more)


def _beside(left: Sequence[Row], right: Sequence[Row], width: int, other: int) -> list[Row]:
    height = max(len(left), len(right))
    rows = []
    for place in range(height):
        one = left[place] if place < len(left) else ()
        two = right[place] if place < len(right) else ()
        rows.append((*fit(one, width), *fit(two, other)))
    return rows


def _line(label: str, text: str, style: str = "text") -> Row:
    return ((f" {label:<{LABEL}}", "dim"), (text, style))


def _head(text: str) -> Row:
    return ((f" {text}", "title"),)


def _process(part: NodeFrame, frame: ClusterFrame) -> list[Row]:
    process = part.process
    ended = ""
    if process.signal:
        ended = f" by signal {process.signal}"
    elif process.exit_code is not None:
        ended = f" with exit {process.exit_code}"
    elif process.state is ProcessState.CRASHED and process.starts == 0:
        ended = " without a start"
    since = duration(frame.unix_ms - process.since_unix_ms)
    whose = "a person's doing" if process.cause == "user" else "the system's doing"
    rows = [
        _head("PROCESS  the kernel's word"),
        _line("state", f"{process.state.value}{ended} for {since}, {whose}"),
        _line("pid", f"{process.pid or UNKNOWN}   life {process.starts}"),
        _line(
            "cpu, memory",
            f"{decimal(process.cpu_percent, 0)} %   {scaled_bytes(process.rss_bytes)}",
        ),
    ]
    if part.snapshot is not None:
        snapshot = part.snapshot
        age = part.snapshot_age_ms or 0
        rows.append(_line("reported", f"{age} ms ago", "stale" if age > 2000 else "text"))
        rows.append(
            _line(
                "loop lag p99",
                f"{snapshot.loop_lag_p99_ns / 1e6:.1f} ms   stalls {snapshot.stalls}, longest {snapshot.stall_longest_ns / 1e6:.0f} ms",
            )
        )
        rows.append(_line("timeout", f"{snapshot.election_timeout_ns / 1e6:.0f} ms in force"))
    elif process.state in (ProcessState.RUNNING, ProcessState.FROZEN):
        rows.append(_line("reported", "nothing yet", "stale"))
    if process.state is ProcessState.CRASHED:
        rows += [((f"   {line}", "bad"),) for line in process.last_log[-4:]]
    return rows


def _hard_state(part: NodeFrame, view: View) -> list[Row]:
    state = part.group(view.group)
    rows = [_head(f"GROUP {view.group}  the node's word")]
    if state is None:
        return [*rows, _line("state", f"{UNKNOWN} no report")]
    rows += [
        _line("role", state.role + (" (resting)" if state.resting else "")),
        _line(
            "hard state", f"term {state.term}, vote {f'n{state.vote}' if state.vote else UNKNOWN}"
        ),
        _line("leader", f"n{state.leader}" if state.leader else UNKNOWN),
        _line("last", count(state.last)),
        _line("durable", count(state.durable)),
        _line("commit", count(state.commit)),
        _line("applied", count(state.applied)),
        _line("log begins", f"{state.start + 1:,}" + (" (snapshot before)" if state.start else "")),
        _line("elections", f"{state.elections}   shared stalls {state.shared_stalls}"),
        _line("timer", "resting" if state.timer_ns < 0 else f"{state.timer_ns / 1e6:.0f} ms left"),
    ]
    if state.votes:
        rows.append(_line("votes", " ".join(f"n{node}" for node in state.votes)))
    rows.append(_runs(state.log))
    return rows


def _runs(log: tuple[int, ...]) -> Row:
    """List the newest runs of terms: term@first index."""
    pairs = list(zip(log[0::2], log[1::2], strict=False))[-RUNS_SHOWN:]
    spans: list[Span] = [(f" {'terms':<{LABEL}}", "dim")]
    if not pairs:
        spans.append((UNKNOWN, "dim"))
    for first, term in pairs:
        spans += [(f"{term}", term_style(term)), (f"@{first:,} ", "text")]
    return tuple(spans)


def _wal(part: NodeFrame) -> list[Row]:
    rows = [_head("LOG ON DISK")]
    if part.snapshot is None:
        return [*rows, _line("wal", f"{UNKNOWN} no report")]
    wal = part.snapshot.wal
    behind = wal.head_position - wal.durable_position
    undurable = f"   {scaled_bytes(behind)} not durable" if 0 < behind < 1 << 32 else ""
    return [
        *rows,
        _line("segments", f"{wal.segments} in use, {wal.spares} spare, {wal.recycled} recycled"),
        _line("head", position_text(wal.head_position)),
        _line("durable to", position_text(wal.durable_position) + undurable),
        _line(
            "syncs",
            f"{wal.fsyncs:,} of {wal.entries:,} entries: {decimal(wal.entries_per_fsync)} each",
        ),
        _line("written", scaled_bytes(wal.bytes_written)),
        _line(
            "sync time", f"p50 {wal.fsync_p50_ns / 1e6:.2f} ms, p99 {wal.fsync_p99_ns / 1e6:.2f} ms"
        ),
        _line("queue", f"{scaled_bytes(wal.queued_bytes)} waits to be durable"),
        _line("torn tail", f"{wal.torn_tail_bytes} bytes cut at the start"),
        *([_line("disk", "FULL", "bad")] if wal.disk_full else []),
    ]


def _peers(part: NodeFrame, view: View) -> list[Row]:
    state = part.group(view.group)
    if state is None or not state.peers:
        return []
    rows: list[Row] = [_head("PEERS  as this leader knows them")]
    rows.append(((f"   {'peer':<5}{'match':>13}{'next':>13}  {'state':<10}", "dim"),))
    rows += [
        ((f"   n{peer.node:<4}{peer.match:>13,}{peer.next:>13,}  {peer.state:<10}", "text"),)
        for peer in state.peers
    ]
    return [*rows, ()]


def _groups(part: NodeFrame) -> list[Row]:
    snapshot = part.snapshot
    if snapshot is None or len(snapshot.groups) < 2:
        return []
    roles = [group.role for group in snapshot.groups]
    resting = sum(group.resting for group in snapshot.groups)
    return [
        _head(f"GROUPS {len(roles)}"),
        _line(
            "leads", f"{roles.count('leader')}, follows {roles.count('follower')}, {resting} rest"
        ),
        (),
    ]


def _traffic(part: NodeFrame) -> list[Row]:
    snapshot = part.snapshot
    if snapshot is None:
        return []
    rows = [
        _head("TRAFFIC  since the start"),
        ((f"   {'lane':<9}{'in':>8}{'out':>8}{'frames in':>12}{'out':>11}", "dim"),),
    ]
    rows += [
        (
            (
                f"   {lane.lane:<9}{scaled_bytes(lane.bytes_in):>8}{scaled_bytes(lane.bytes_out):>8}{lane.frames_in:>12,}{lane.frames_out:>11,}",
                "text",
            ),
        )
        for lane in snapshot.traffic.lanes
    ]
    traffic = snapshot.traffic
    rows.append(
        _line(
            "dropped",
            f"{traffic.dropped:,}   malformed {traffic.malformed:,}   foreign {traffic.foreign:,}",
        )
    )
    rows.append(_line("requests", f"{traffic.client_requests:,}   acked {traffic.acks:,}"))
    return [*rows, ()]


def _dossier(dossier: Dossier | None, node: int) -> list[Row]:
    if dossier is None or dossier.node != node:
        return []
    rows: list[Row] = []
    if dossier.threads:
        rows.append(_head(f"THREADS {len(dossier.threads)}  CPU since the start"))
        rows += [
            ((f"   {thread.name:<18}{thread.cpu_ms / 1000:>9.1f} s", "text"),)
            for thread in dossier.threads
        ]
        rows.append(())
    if dossier.files:
        rows.append(_head(f"FILES  {dossier.directory}"))
        rows += [
            ((f"   {name:<26}{scaled_bytes(size):>8}", "text"),) for name, size in dossier.files
        ]
        rows.append(())
    if dossier.log:
        rows.append(_head("LOG  its last lines"))
        rows += [((f"   {line}", "text"),) for line in dossier.log]
    return rows
