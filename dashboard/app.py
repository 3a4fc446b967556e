"""The terminal application: takes keys to the desk, and paints what the desk says."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import RenderableType
from textual import events
from textual._ansi_sequences import SYNC_END, SYNC_START
from textual.app import App, ComposeResult
from textual.screen import Screen

from dashboard.desk import Desk
from dashboard.dossier import Microscope, read_dossier
from dashboard.presenter.microscope import WalSight
from dashboard.presenter.node_detail import Dossier
from dashboard.presenter.screen import layout, overlay_rows, pane_rows
from dashboard.presenter.view import Size, View
from dashboard.terminal import TerminalDriver
from dashboard.themes import THEMES
from dashboard.widgets.canvas import Canvas
from dashboard.widgets.ink import Ink

__all__ = ["DeckApp", "Look"]

PANES: Final = (
    "header",
    "nodes",
    "brief",
    "logs",
    "links",
    "charts",
    "events",
    "page",
    "caption",
    "timeline",
    "footer",
)
TICK_S: Final = 0.1
EVERY: Final = {"links": 2, "charts": 5, "timeline": 5, "events": 2}
"""Panes that are painted at every n-th tick only; the others at each."""
CHOICES: Final = ("nodes", "brief", "page", "caption")
"""Where a key is seen that selects, scrolls or is answered in words; painted before all else."""
READ_EVERY: Final = 5
"""Files are read at every n-th tick while their page is open: twice a second."""
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Look:
    """How it looks. `theme` is dark, light or mono; `ticking` is off where a test gives the time."""

    theme: str = "dark"
    ascii_only: bool = False
    tick_s: float = TICK_S
    ticking: bool = True
    data_dir: Path | None = None
    shots_dir: Path = Path()


class DeckApp(App[int]):
    """The dashboard. Its result is the exit code."""

    TITLE = "raftdeck"
    CSS = "Screen { overflow: hidden; }"
    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None

    def __init__(self, desk: Desk, look: Look, on_close: Callable[[], None] | None = None) -> None:
        super().__init__(TerminalDriver, ansi_color=True if look.theme == "mono" else None)
        self.desk = desk
        self.look = look
        self.shade = look.theme
        self.canvas = Canvas(self._ink(), ascii_only=look.ascii_only)
        self._ticks = 0
        self._behind = False
        """Whether panes still show what was before a key."""
        self._reader: ThreadPoolExecutor | None = None
        self._reading: Future[Dossier | WalSight] | None = None
        self._microscope: Microscope | None = None
        self._terminal: Size | None = None
        self._on_close = on_close

    # ---- life ------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Make the canvas; its size and panes come later."""
        yield self.canvas

    def on_mount(self) -> None:
        """Begin to tick, and take signals as wishes to leave."""
        self.app_resume_signal.subscribe(self, lambda _: self.repaint())
        self.paint()
        if not self.look.ticking:
            return
        gc.freeze()  # modules stay: looking through them again and again costs 50 ms a time
        self.set_interval(self.look.tick_s, self.tick)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            loop.add_signal_handler(number, self._leave_on, number)

    def _leave_on(self, number: signal.Signals) -> None:
        self.exit(INTERRUPTED if number == signal.SIGINT else 128 + number)

    def on_unmount(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.shutdown(wait=False, cancel_futures=True)
        if self._on_close is not None:
            self._on_close()

    # ---- time and keys ---------------------------------------------------------------------

    def tick(self) -> None:
        """Take what is new and paint what is due."""
        self._ticks += 1
        changed = self.desk.collect()
        if self._ticks % READ_EVERY == 0 or self._reading is not None:
            changed = self._read() or changed
        if self._behind:
            self._behind = False
            self.paint()
        elif changed or self._ticks % 10 == 0:
            self.paint({name for name in PANES if self._ticks % EVERY.get(name, 1) == 0})
        else:
            self._send()

    async def on_event(self, event: events.Event) -> None:
        """Keys go to the desk and nowhere else; everything else is Textual's."""
        if isinstance(event, events.Key):
            key = "ctrl+c" if event.key == "ctrl+q" else event.key
            before = self.desk.view
            self.desk.press(key, event.character)
            self._serve()
            self._echo(before)
            return
        await super().on_event(event)

    def _echo(self, before: View) -> None:
        """Paint what a key changed; what only follows from it waits for the next tick."""
        view = self.desk.view
        chosen = replace(
            before,
            selected=view.selected,
            peer=view.peer,
            scroll=view.scroll,
            notice=view.notice,
        )
        self._behind = chosen == view and self.look.ticking
        self.paint(set(CHOICES) if self._behind else None)

    def on_canvas_clicked(self, message: Canvas.Clicked) -> None:
        """A click on a node selects it."""
        words = message.text.strip("│▸> ").split()
        if message.pane == "nodes" and words and words[0].isdigit():
            self.desk.select(int(words[0]))
            self.paint()

    def on_resize(self, event: events.Resize) -> None:
        """Lay everything out anew; Textual's own `size` follows a little later."""
        self._terminal = Size(*event.size)
        self.canvas.forget()
        self.paint()

    def on_terminal_driver_gone(self) -> None:
        """Leave, as at SIGHUP."""
        self._leave_on(signal.SIGHUP)

    def _serve(self) -> None:
        """Do what only the app can do."""
        requests, self.desk.requests = self.desk.requests, []
        for request in requests:
            if request == "leave":
                self.exit(0)
            elif request == "theme":
                self._turn_theme()
            elif request == "redraw":
                self.canvas.forget()
            elif request == "screenshot":
                self._shoot()

    def _turn_theme(self) -> None:
        if self.shade == "mono":
            self.desk.say("no colours were asked for (NO_COLOR)")
            return
        self.shade = THEMES[(THEMES.index(self.shade) + 1) % len(THEMES)]
        self.canvas.grid.recolour(self._ink())
        self.canvas.forget()

    def _shoot(self) -> None:
        frame = self.desk.frame
        stamp = time.strftime("%H%M%S")
        name = f"raftdeck-{frame.name if frame else 'empty'}-{stamp}.svg"
        path = self.look.shots_dir / name
        try:
            path.write_text(self.export_screenshot(title=name), encoding="utf-8")
        except OSError as error:
            self.desk.say(f"no screenshot: {path}: {error.strerror}")
        else:
            self.desk.say(f"screenshot: {os.path.abspath(path)}")

    # ---- painting --------------------------------------------------------------------------

    def paint(self, due: set[str] | None = None) -> None:
        """Paint the panes that are due (all of them by default) as the desk has it."""
        size = self._terminal or Size(*self.size)
        if not self.canvas.is_mounted or size.width < 1 or size.height < 1:
            return
        desk, grid = self.desk, self.canvas.grid
        picture, view, beside = desk.picture, desk.view, desk.beside
        places = layout(view, len(picture.frame.nodes) if picture.frame else 0, size)
        grid.arrange(size, places)
        for name, place in places.items():
            if due is None or name in due or grid.is_blank(name):
                grid.show(name, pane_rows(name, picture, view, place.size, beside))
        grid.cover(overlay_rows(beside, size))
        self._send()

    def repaint(self) -> None:
        """Write every cell again: somebody else wrote to the terminal, or it is another one."""
        self.canvas.forget()
        self._send()

    def _send(self) -> None:
        """Write what differs, unless the terminal is still busy with what it was sent before."""
        if not self._running or self._closed:
            return
        if isinstance(self._driver, TerminalDriver) and self._driver.busy:
            return  # the next tick sends what is new then
        text = self.canvas.update()
        if text:
            self.write(f"{SYNC_START}{text}{SYNC_END}" if self._sync_available else text)

    def write(self, text: str) -> None:
        """Hand text to the terminal."""
        if not self.is_headless and self._driver is not None:
            self._driver.write(text)

    def _display(self, screen: Screen[object], renderable: RenderableType | None) -> None:
        """Let Textual paint nothing: where it would, the canvas is written whole."""
        if renderable is not None and not self._batch_count:
            self.repaint()
        self.post_display_hook()

    def _ink(self) -> Ink:
        return Ink(self.shade, self.console._color_system)

    # ---- files -----------------------------------------------------------------------------

    def _read(self) -> bool:
        """Read the files that the open page needs, in a thread; say whether something came."""
        desk, data_dir = self.desk, self.look.data_dir
        came = False
        if self._reading is not None and self._reading.done():
            found = self._reading.result()
            self._reading = None
            came = True
            if isinstance(found, WalSight):
                desk.sight = found
            else:
                desk.dossier = found
        wanted = desk.view.page in ("node", "wal") and desk.view.mode == "live"
        if data_dir is None or not wanted or self._reading is not None:
            return came
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, "reader")
        node = desk.view.selected
        if desk.view.page == "wal":
            if self._microscope is None or self._microscope.node != node:
                self._microscope = Microscope(node, data_dir)
            self._reading = self._reader.submit(self._microscope.look)
        else:
            part = desk.frame.node(node) if desk.frame else None
            pid = part.process.pid if part else None
            self._reading = self._reader.submit(read_dossier, node, pid, data_dir)
        return came
