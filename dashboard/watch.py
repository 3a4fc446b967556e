"""`raftdeck status --watch`: the presenter's rows without a screen.

With --plain, or where there is no terminal, one line per event and per change, after TigerBeetle's
simulator: the column of a mark is its node. Else the main screen as text, once a second.
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import click

from cluster.cli_status import status as plain_status
from cluster.cli_support import note
from cluster.frames import ClusterFrame
from dashboard.film import Film
from dashboard.presenter.events import cause_of, clock_text, effect_of
from dashboard.presenter.history import History
from dashboard.presenter.text import UNKNOWN, ascii_row, count, plain
from dashboard.presenter.view import Size, quorum, standing_of
from dashboard.source import FrameSource

__all__ = ["Narrator", "status"]

LOOK_S: Final = 0.1
CLEAR: Final = "\x1b[H\x1b[2J"


class Narrator:
    """Turns frames into lines: what happened, and what changed without an event."""

    def __init__(self, group: int = 0) -> None:
        """Tell of one group."""
        self._group = group
        self._history = History()
        self._told = 0
        self._shown = ""
        self._epoch_ms = 0

    def lines(self, frame: ClusterFrame) -> Iterator[str]:
        """Yield the lines that a frame brings."""
        self._history.add(frame)
        first = frame.events[0].unix_ms if frame.events else frame.unix_ms
        self._epoch_ms = self._epoch_ms or first
        new = [event for event in frame.events if event.sequence > self._told]
        for event in new:
            self._told = event.sequence
            effect = effect_of(event, frame.events, self._history)
            words = f"{event.text} · {cause_of(event, ())}" + (f" → {effect}" if effect else "")
            seen = bool(self._shown)  # what was before the first frame looked nobody knows how
            yield self._line(event.unix_ms, event.kind, frame if seen else None, words)
        now = f"{self._marks(frame)} {frame.leader(self._group)} {self._term(frame)}"
        if now != self._shown and not (new and self._shown):
            yield self._line(frame.unix_ms, "change" if self._shown else "now", frame, "")
        self._shown = now

    def _marks(self, frame: ClusterFrame) -> str:
        signs = [standing_of(frame, part, self._group).glyph for part in frame.nodes]
        return " ".join(signs)

    def _term(self, frame: ClusterFrame) -> int:
        states = [part.group(self._group) for part in frame.nodes]
        return max((state.term for state in states if state is not None), default=0)

    def _line(self, unix_ms: int, kind: str, frame: ClusterFrame | None, words: str) -> str:
        head = f"{clock_text(unix_ms, self._epoch_ms):>10} {kind:<9}"
        if frame is None:
            return f"{head} {UNKNOWN}  {words}"
        sample = self._history.at(frame.unix_ms)
        known = sample is not None and self._group < len(sample.groups)
        commit = sample.groups[self._group][2] if sample is not None and known else None
        needed, present = quorum(frame, self._group)
        margin = f"{present}/{len(frame.nodes)}{'' if present >= needed else ' NO QUORUM'}"
        return (
            f"{head} {self._marks(frame)}  t{self._term(frame)} c{count(commit)} {margin}  {words}"
        ).rstrip()


def _watch(source: FrameSource, group: int, *, plain_lines: bool, ascii_only: bool) -> None:
    """Print until interrupted, or until the cluster is gone."""
    narrator, before = Narrator(group), 0
    width, height = shutil.get_terminal_size()
    theme = "" if os.environ.get("NO_COLOR") else "dark"
    film = Film(Size(width, height - 1), theme=theme, group=group, ascii_only=ascii_only)
    while source.problem is None:
        frame = source.latest()
        if frame is None or frame.sequence == before:
            time.sleep(LOOK_S)
            continue
        before = frame.sequence
        if plain_lines:
            for line in narrator.lines(frame):
                click.echo(plain(ascii_row(((line, ""),))) if ascii_only else line)
            continue
        click.echo(CLEAR + film(frame))
        time.sleep(1 - LOOK_S)
    note(source.problem)


def _status(*, watch: bool, plain_lines: bool, ascii_only: bool, **options: Any) -> None:
    if not watch:
        assert plain_status.callback is not None
        plain_status.callback(**options)
        return
    from cluster.local import find_run_dir
    from dashboard.live import LiveSource

    source = LiveSource(find_run_dir(options["cluster"]), back_ms=0)
    try:
        lines = plain_lines or not sys.stdout.isatty()
        _watch(source, options["group"], plain_lines=lines, ascii_only=ascii_only)
    finally:
        source.close()


def _command() -> click.Command:
    command = copy.copy(plain_status)
    command.callback = _status
    command.params = [
        *plain_status.params,
        click.Option(["--watch"], is_flag=True, help="Go on until interrupted."),
        click.Option(
            ["--plain", "plain_lines"], is_flag=True, help="With --watch: a line per change."
        ),
        click.Option(["--ascii", "ascii_only"], is_flag=True, help="ASCII signs only."),
    ]
    return command


status = _command()
"""The verb."""
