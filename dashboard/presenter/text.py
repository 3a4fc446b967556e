"""Rows: plain text in spans that carry the name of a style, and the numbers in them.

A row is a tuple of (text, style name); colours are given to names by `dashboard.themes`, so that a
row is the same on every terminal, in `status --watch --plain`, and in a test. Every character is
one cell wide. Shape and word come first: a reader without colours loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

__all__ = [
    "ASCII",
    "UNKNOWN",
    "Align",
    "Row",
    "Span",
    "ascii_row",
    "box",
    "clip",
    "count",
    "cut",
    "decimal",
    "duration",
    "fit",
    "one_cell",
    "plain",
    "scaled",
    "scaled_bytes",
    "spread",
    "width_of",
]

Span = tuple[str, str]
Row = tuple[Span, ...]
Align = Literal["left", "right"]

UNKNOWN: Final = "–"


def _table() -> dict[int, str]:
    pairs = {
        "▲": "^", "○": "o", "◐": "v", "◌": ",", "‖": "=", "✖": "x", "↻": "r", "⇣": "s", "■": "#",
        "–": "-", "┃": "|", "│": "|", "─": "-", "┌": "+", "┐": "+", "└": "+", "┘": "+", "├": "|",
        "┤": "|", "┬": "+", "┴": "+", "┼": "+", "╳": "X", "┄": ".", "▸": ">", "◂": "<", "▏": ".",
        "▎": ".", "▍": ":", "▌": ":", "▋": "=", "▊": "=", "▉": "#", "█": "#", "▇": "%", "▆": "*",
        "▅": "+", "▄": "=", "▃": "-", "▂": ":", "▁": ".", "░": ".", "▒": ":", "▓": "%", "·": ".",
        "…": ".", "→": ">", "←": "<", "↔": "-", "↑": "^", "↓": "v", "●": "*", "•": "o", "✓": "Y",
        "×": "x", "≤": "<", "≥": ">", "◆": "*", "µ": "u", "≈": "~",
    }  # fmt: skip
    return {ord(sign): plain_sign for sign, plain_sign in pairs.items()}


ASCII: Final = _table()
"""Every sign that the screen draws, and the one ASCII character that stands for it."""
_OF_UNSURE_WIDTH: Final = re.compile(
    r"[^ -~\u00a1-\u00ac\u00ae-\u02ff\u0370-\u0482\u048a-\u052f" + "".join(map(chr, ASCII)) + "]"
)
"""Anything but ASCII, Latin, Greek, Cyrillic, and what the screen draws."""


def plain(row: Row) -> str:
    """Return a row's text."""
    return "".join(text for text, _ in row)


def width_of(row: Iterable[Span]) -> int:
    """Return how many cells a row takes."""
    return sum(len(text) for text, _ in row)


def ascii_row(row: Row) -> Row:
    """Return the row in ASCII, of the same width; what has no sign of its own becomes "?"."""
    return tuple((_ascii(text), style) for text, style in row)


def one_cell(text: str) -> str:
    """Put "?" for all that is not surely one cell wide: controls, wide signs, combining marks.

    Names and file contents come from outside: none may move what stands right of it, nor reach the
    terminal as an escape.
    """
    return _OF_UNSURE_WIDTH.sub("?", text)


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    return text.translate(ASCII).encode("ascii", "replace").decode()


def clip(text: str, width: int) -> str:
    """Cut a text to a width; a cut is always seen."""
    if len(text) <= width:
        return text
    return text[: max(0, width - 1)] + "…" if width > 0 else ""


def cut(row: Sequence[Span], start: int, end: int) -> Row:
    """Return the cells of a row from `start` up to `end`."""
    found: list[Span] = []
    x = 0
    for text, name in row:
        part = text[max(0, start - x) : max(0, end - x)]
        if part:
            found.append((part, name))
        x += len(text)
    return tuple(found)


def fit(row: Sequence[Span], width: int, style: str = "text") -> Row:
    """Cut or fill a row to a width."""
    found: list[Span] = []
    left = width
    for text, name in row:
        if not text:
            continue
        if len(text) > left:
            found.append((clip(text, left), name))
            left = 0
            break
        found.append((text, name))
        left -= len(text)
    if left:
        found.append((" " * left, style))
    return tuple(found)


def spread(left: Sequence[Span], right: Sequence[Span], width: int, style: str = "text") -> Row:
    """Put one part at either end; the right one stays whole."""
    room = width - width_of(right)
    if room <= 0:
        return fit(right, width, style)
    return (*fit(left, room, style), *right)


def box(
    title: Sequence[Span], rows: Sequence[Row], width: int, height: int, note: str = ""
) -> tuple[Row, ...]:
    """Draw a frame with a title (and a note at the right) around rows; cut or filled to fit."""
    inner = width - 2
    head = [("┌─ ", "frame"), *title, (" ", "frame")]
    tail: list[Span] = [(f" {note} ", "dim"), ("─┐", "frame")] if note else [("┐", "frame")]
    if width_of(head) + width_of(tail) > width:
        tail = [("┐", "frame")]
    head = list(fit(head, width - width_of(tail), "frame"))
    if head[-1][1] == "frame" and not head[-1][0].strip():
        head[-1] = ("─" * len(head[-1][0]), "frame")
    top: Row = (*head, *tail)
    body = [(("│", "frame"), *fit(row, inner), ("│", "frame")) for row in rows[: height - 2]]
    blank: Row = (("│", "frame"), (" " * inner, "text"), ("│", "frame"))
    body += [blank] * (height - 2 - len(body))
    bottom: Row = (("└" + "─" * inner + "┘", "frame"),)
    return (top, *body, bottom)


def count(value: int | None) -> str:
    """Write a whole number with separators; unknown is a dash, never 0."""
    return UNKNOWN if value is None else f"{value:,}"


def decimal(value: float | None, digits: int = 1) -> str:
    """Write a number with digits behind the point."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def scaled(value: float | None, width: int) -> str:
    """Write a number so that it fits: with separators, then k, M, G. Never cut, never rounded to 0."""
    if value is None:
        return UNKNOWN
    whole = f"{round(value):,}"
    if len(whole) <= width:
        return whole
    for size, unit in ((1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        for digits in (1, 0):
            text = f"{value / size:.{digits}f}{unit}"
            if len(text) <= width and abs(value) < size * 1000:
                return text
    return "#" * width


def scaled_bytes(value: float | None) -> str:
    """Write bytes in at most five characters with a unit."""
    if value is None:
        return UNKNOWN
    for size, unit in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k")):
        if value >= size:
            return (
                f"{value / size:.1f}{unit}" if value < size * 100 else f"{value / size:.0f}{unit}"
            )
    return f"{value:.0f}B"


def duration(ms: float | None) -> str:
    """Write a length of time: ms below a second, then s, then m:ss, then h:mm:ss."""
    if ms is None:
        return UNKNOWN
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
