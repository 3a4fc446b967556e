"""What lies over a page for a moment: the chord, a question, the palette, and the help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dashboard.keys import Key
from dashboard.presenter.text import Row, Span, box, clip, fit
from dashboard.presenter.view import Size

__all__ = [
    "Choice",
    "ChordView",
    "PaletteView",
    "Question",
    "chord_rows",
    "help_rows",
    "palette_rows",
    "question_rows",
]


SIGNS: Final = (
    ("▲ ○", "leader, follower (OUSTED: of an older term)"),
    ("◐ ◌", "candidate, pre-candidate"),
    ("‖ ✖", "paused by SIGSTOP, dead"),
    ("↻ ⇣", "recovers its log, receives a snapshot"),
    ("? –", "silent for its age, unknown"),
    ("┃ • ▸", "commit, match, next in the log map"),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One verb of the chord: its key, its name, its exact effect, and why not now (empty: now)."""

    key: str
    name: str
    effect: str
    undone_by: str | None = None
    asks: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class ChordView:
    """The open chord: whom it would meet, and what each second key would do."""

    target: str
    outlook: str
    """What would be left of the quorum without the target."""
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A yes-or-no question; no is the default."""

    text: str
    detail: str
    yes: str = "y"


@dataclass(frozen=True, slots=True)
class PaletteView:
    """The open palette (or the event filter, which has no entries)."""

    title: str
    typed: str
    entries: tuple[tuple[str, str], ...] = ()
    chosen: int = 0


def chord_rows(chord: ChordView, width: int, height: int) -> tuple[Row, ...]:
    """Return the chord's box; every verb is there, those that do not apply now say why."""
    inner = width - 2
    rows: list[Row] = []
    named = max([8, *(len(choice.name) for choice in chord.choices)]) + 1
    for choice in chord.choices:
        style = "dim" if choice.refused else "text"
        words = f"not now: {choice.refused}" if choice.refused else choice.effect
        undo = f"  (u: {choice.undone_by})" if choice.undone_by and not choice.refused else ""
        asks = "  (asks)" if choice.asks and not choice.refused else ""
        spans: list[Span] = [
            (" ", "text"),
            (f" {choice.key} ", "dim" if choice.refused else "key"),
            (f" {choice.name:<{named}}", style),
            (clip(words, max(8, inner - named - 5 - len(undo) - len(asks))), style),
            (undo + asks, "dim"),
        ]
        rows.append(fit(spans, inner))
    room = height - 3
    if len(rows) > room:
        rows = [*rows[: room - 1], fit([(f"  … {len(rows) - room + 1} more: use :", "dim")], inner)]
    rows.append(fit([(f" {chord.outlook}", "warn")], inner))
    title: list[Span] = [("FAULT on ", "title"), (chord.target, "strong")]
    return box(title, rows, width, min(height, len(rows) + 2), "↑↓ target · esc cancels")


def question_rows(question: Question, width: int) -> tuple[Row, ...]:
    """Return the question's box."""
    inner = width - 2
    rows: list[Row] = [
        fit([(f" {question.text}", "strong")], inner),
        fit([(f" {question.detail}", "text")], inner),
        fit(
            [
                (f"  {question.yes} ", "key"),
                (" yes    ", "text"),
                (" any other key ", "key"),
                (" cancel", "strong"),
            ],
            inner,
        ),
    ]
    return box([("SURE?", "title")], rows, width, 5, "default: cancel")


def palette_rows(palette: PaletteView, width: int, height: int) -> tuple[Row, ...]:
    """Return the palette's box: what was typed, and what it could mean."""
    inner, room = width - 2, height - 3
    rows: list[Row] = [
        fit([(f" {palette.title} ", "dim"), (palette.typed, "strong"), ("█", "cursor")], inner)
    ]
    first = max(0, min(palette.chosen - room // 2, len(palette.entries) - room))
    for place in range(first, min(len(palette.entries), first + room)):
        name, words = palette.entries[place]
        chosen = place == palette.chosen
        row = fit(
            [
                ("▸ " if chosen else "  ", "cursor"),
                (f"{clip(name, 26):<26} ", "text"),
                (words, "dim"),
            ],
            inner,
        )
        rows.append(tuple((t, f"{s} selected") for t, s in row) if chosen else row)
    title: list[Span] = [("COMMANDS" if palette.entries else "INPUT", "title")]
    return box(title, rows, width, min(height, len(rows) + 2), "enter runs · esc cancels")


def help_rows(
    keys: Sequence[Key], choices: Sequence[Choice], size: Size, scroll: int
) -> tuple[Row, ...]:
    """Return the help: every key that holds there, by section, then the verbs, then the signs."""
    inner, room = size.width - 2, size.height - 2
    entries = _help_entries(keys, choices)
    columns = 2 if (inner >= 72 and len(entries) > room) or inner >= 110 else 1
    depth = -(-len(entries) // columns)
    cell = inner // columns
    rows = []
    for place in range(depth):
        spans: list[Span] = []
        for column in range(columns):
            at = column * depth + place
            spans += fit(entries[at] if at < len(entries) else (), cell)
        rows.append(fit(spans, inner))
    first = max(0, min(scroll, depth - room))
    more = f"{first + 1}-{min(depth, first + room)} of {depth}, j k · " if depth > room else ""
    return box([("HELP", "title")], rows[first:], *size, f"{more}? or esc: back")


def _help_entries(keys: Sequence[Key], choices: Sequence[Choice]) -> list[Row]:
    entries: list[Row] = []
    section = ""
    for key in keys:
        if key.section != section:
            section = key.section
            entries.append(((f" {section.upper()}", "title"),))
        entries.append(((f"  {key.label:<6}", "key2"), (key.help, "text")))
    if choices:
        entries.append(((" VERBS  after x, on the selected node", "title"),))
        entries += [
            ((f"  x {choice.key:<4}", "key2"), (f"{choice.name}: {choice.effect}", "text"))
            for choice in choices
        ]
    entries.append(((" SIGNS", "title"),))
    entries += [((f"  {sign:<6}", "key2"), (words, "text")) for sign, words in SIGNS]
    return entries
