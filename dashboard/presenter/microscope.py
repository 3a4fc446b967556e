"""The WAL microscope: frames of the newest segment, fsync boundaries, and one frame in hex.

Every frame says up to where the log was durable when it was written; so the places that those
words name are where fsyncs ended. What lies behind the node's own durable position is written and
not yet durable: a power cut may take it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from dashboard.presenter.node_detail import position_text
from dashboard.presenter.text import Row, Span, box, clip, fit
from dashboard.presenter.view import Picture, Size, View

__all__ = ["FrameSight", "WalSight", "microscope_page"]

FIELDS: Final = (
    (0, 8, "segment uid"), (8, 16, "sequence"), (16, 24, "durable position"), (24, 28, "length"),
    (28, 32, "frame CRC"), (32, 36, "magic RDB1"), (36, 40, "version, kind, flags"), (40, 44, "group"),
    (44, 48, "count"), (48, 56, "term"), (56, 64, "base index"), (64, 72, "leader time"),
    (72, 76, "payload length"), (76, 80, "payload CRC"), (80, 92, "reserved"), (92, 96, "header CRC"),
)  # fmt: skip
"""Bytes of a frame's head (`wal.frame`); the body follows."""


@dataclass(frozen=True, slots=True)
class FrameSight:
    """One frame as read. `damage` says what is wrong with it; None if every CRC holds."""

    position: int
    size: int
    kind: str
    group: int
    term: int
    index: int
    count: int
    sequence: int
    durable_pos: int
    content: bytes
    """Its first bytes, head included."""
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class WalSight:
    """What was read of a node's newest segment."""

    node: int
    directory: str
    segment: str
    frames: tuple[FrameSight, ...]
    end: int
    """The position behind the last valid frame."""
    tail: str
    """What lies behind it, in words."""
    torn: bool = False
    tail_bytes: bytes = b""
    frames_total: int = 0
    problem: str = ""


def microscope_page(
    picture: Picture, view: View, size: Size, sight: WalSight | None
) -> tuple[Row, ...]:
    """Return the page of exactly `size`: frames above, the chosen one in hex below."""
    title: list[Span] = [(f"WAL MICROSCOPE n{view.selected}", "title")]
    if view.mode == "replay":
        words = "a recording holds no segment files: this page needs a running cluster"
        return box(title, [fit([(f" {words}", "warn")], size.width - 2)], *size)
    if sight is None or sight.node != view.selected:
        return box(title, [fit([(" reading", "dim")], size.width - 2)], *size)
    if sight.problem:
        return box(title, [fit([(f" {sight.problem}", "warn")], size.width - 2)], *size)
    title.append((f"  {sight.segment}  {sight.frames_total:,} frames", "text"))
    durable = _durable(picture, view)
    inner = size.width - 2
    list_room = max(4, (size.height - 5) // 2)
    back = min(view.scroll, max(0, len(sight.frames) - 1))
    chosen = len(sight.frames) - 1 - back
    rows = _summary(_calmed(sight, picture, view), durable, inner)
    rows += _frame_list(_calmed(sight, picture, view), chosen, durable, Size(inner, list_room))
    rows.append(fit([("─" * inner, "frame")], inner))
    calm = _calmed(sight, picture, view)
    if calm.torn and back == 0:
        rows.append(fit([(" the torn bytes", "bad")], inner))
        tail = (
            replace(sight.frames[-1], position=sight.end, content=sight.tail_bytes)
            if sight.frames
            else None
        )
        rows += _hex(tail, Size(inner, size.height - 2 - len(rows))) if tail else []
    elif sight.frames:
        rows += _hex(sight.frames[chosen], Size(inner, size.height - 2 - len(rows)))
    return box(
        title, rows, size.width, size.height, "follows" if back == 0 else f"{back} back, G follows"
    )


def _calmed(sight: WalSight, picture: Picture, view: View) -> WalSight:
    """Half a frame at the end is torn only if nobody is writing it just now."""
    part = (
        next((p for p in picture.frame.nodes if p.node == view.selected), None)
        if picture.frame
        else None
    )
    if not sight.torn or part is None or not part.process.state.alive:
        return sight
    return replace(sight, torn=False, tail="a frame that is being written just now")


def _durable(picture: Picture, view: View) -> int:
    """Return the durable position that the node reports; 0 if it does not."""
    frame = picture.frame
    part = next((p for p in frame.nodes if p.node == view.selected), None) if frame else None
    return 0 if part is None or part.snapshot is None else part.snapshot.wal.durable_position


def _summary(sight: WalSight, durable: int, inner: int) -> list[Row]:
    after = sight.end - durable if durable else None
    state = "– the node reports no durable position"
    if after is not None:
        state = (
            f"{max(0, after):,} bytes written and not yet durable" if after > 0 else "all durable"
        )
    style = "bad" if sight.torn else "dim"
    return [
        fit(
            [
                (" end of frames ", "dim"),
                (position_text(sight.end), "text"),
                (f"   {state}", "text"),
            ],
            inner,
        ),
        fit([(" behind it     ", "dim"), (sight.tail, style)], inner),
    ]


def _frame_list(sight: WalSight, chosen: int, durable: int, size: Size) -> list[Row]:
    head = (
        f"   {'byte':>12} {'sequence':>10} {'kind':<11}{'group':>5} {'term':>5} {'index':>19}"
        f" {'bytes':>8}  CRC"
    )
    boundaries = {frame.durable_pos for frame in sight.frames} | ({durable} if durable else set())
    room = size.height - 1 - sight.torn
    first = max(0, min(chosen - room // 2, len(sight.frames) - room))
    rows = []
    for place in range(first, min(len(sight.frames), first + room)):
        frame = sight.frames[place]
        synced = frame.position + frame.size in boundaries
        rows.append(_frame_row(frame, durable, size.width, chosen=place == chosen, synced=synced))
    if sight.torn:
        rows.append(fit([(f"   ╳ {sight.tail}", "bad")], size.width))
    missing = size.height - 1 - len(rows)
    return [fit([(head, "dim")], size.width), *rows, *[fit([], size.width)] * missing]


def _frame_row(frame: FrameSight, durable: int, width: int, *, chosen: bool, synced: bool) -> Row:
    after = bool(durable) and frame.position >= durable
    indexes = f"{frame.index:,}" if frame.index else "–"
    if frame.count > 1:
        indexes = f"{frame.index:,}+{frame.count}"
    spans: list[Span] = [(" ▸ " if chosen else "   ", "cursor")]
    text = (
        f"{frame.position & 0xFFFF_FFFF:>12,} {frame.sequence:>10,} {frame.kind:<11}"
        f"{frame.group:>5} {frame.term:>5} {indexes:>19} {frame.size:>8,}  "
    )
    spans.append((text, "uncommitted" if after else "text"))
    spans.append((f"╳ {frame.damage}", "bad") if frame.damage else ("✓ ok", "good"))
    if after:
        spans.append((" NOT DURABLE yet", "warn"))
    elif synced:
        spans.append((" ─┘ fsync", "commit"))
    row = fit(spans, width)
    return tuple((t, f"{s} selected") for t, s in row) if chosen else row


def _hex(frame: FrameSight, size: Size) -> list[Row]:
    per_row = 16 if size.width >= 96 else 8
    rows = []
    for offset in range(0, min(len(frame.content), per_row * max(0, size.height)), per_row):
        piece = frame.content[offset : offset + per_row]
        spans: list[Span] = [(f" {(frame.position & 0xFFFF_FFFF) + offset:>10,}  ", "dim")]
        for place, byte in enumerate(piece):
            spans.append((f"{byte:02x} ", _part_style(offset + place)))
        spans.append(("   " * (per_row - len(piece)) + " ", "text"))
        signs = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in piece)
        spans.append((signs.ljust(per_row) + "  ", "text"))
        spans.append((clip(_names(offset, per_row), size.width - 14 - per_row * 4 - 4), "dim"))
        rows.append(fit(spans, size.width))
    return rows


def _part_style(offset: int) -> str:
    if offset < 32:
        return "term1"
    if offset < 96:
        return "term3"
    return "text"


def _names(offset: int, width: int) -> str:
    names = [name for start, _, name in FIELDS if offset <= start < offset + width]
    if offset <= 96 < offset + width:
        names.append("body")
    return " · ".join(names)
