"""The desk: everything the dashboard does, without a terminal.

Keys come in (`press`), time passes (`collect`), and `picture`, `view` and `beside` say what is to be
seen; `dashboard.app` paints that. The clock, the frames and the hands that act are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from cluster.actions import ACTIONS, Action
from cluster.frames import ClusterFrame
from dashboard.chord import action_for, choices_for, chord_view
from dashboard.deeds import Deeds, Hands
from dashboard.desk_time import TimeDesk
from dashboard.event_list import EventList
from dashboard.keys import KEYS, Key, key_for, keys_on
from dashboard.palette import entries_for
from dashboard.presenter.events import clock_ms
from dashboard.presenter.microscope import WalSight
from dashboard.presenter.node_detail import Dossier
from dashboard.presenter.overlay import PaletteView, Question
from dashboard.presenter.screen import Beside
from dashboard.presenter.view import TABS, Deed, Page, Picture, View
from dashboard.prompt import Prompt
from dashboard.source import FrameSource
from dashboard.timeline import Timeline
from dashboard.tour import Tour

__all__ = ["Desk"]

NOTICE_MS: Final = 6_000


class Desk(TimeDesk):
    """State and commands. Everything runs on the screen's thread."""

    def __init__(
        self,
        source: FrameSource,
        clock_ms: Callable[[], int],
        *,
        hands: Hands | None = None,
        tour: Tour | None = None,
        actions: Sequence[Action] = ACTIONS,
        leave_question: str = "",
    ) -> None:
        self.view = View(
            mode="replay" if source.kind == "replay" else "live", demo=tour is not None
        )
        self.view = replace(self.view, readonly=hands is None)
        self.dossier: Dossier | None = None
        self.sight: WalSight | None = None
        self.requests: list[str] = []
        """What only the app can do: "leave", "screenshot", "theme", "redraw"."""
        self.actions = actions
        self.time = Timeline(source)
        self._source = source
        self._clock_ms = clock_ms
        self._deeds = Deeds(hands) if hands is not None else None
        self._tour = tour
        self._leave_question = leave_question
        self._notice_until_ms = 0
        self._chord_open = False
        self._question: tuple[Question, Callable[[], None]] | None = None
        self._prompt: Prompt | None = None
        self._list = EventList(self.time)
        self._played_at_ms: int | None = None
        self._first_seen = False
        self.collect()
        if source.kind == "replay":
            span = source.span()
            self._seek(span[0] if span else 0)

    # ---- what is to be seen ----------------------------------------------------------------

    @property
    def features(self) -> frozenset[str]:
        """The features that keys ask for."""
        found = {
            "act": self._deeds is not None and self.view.mode != "replay",
            "demo": self._tour is not None,
            "replay": self.view.mode == "replay",
        }
        return frozenset(name for name, there in found.items() if there)

    @property
    def picture(self) -> Picture:
        """The picture as of the cursor."""
        source, time = self._source, self.time
        span = source.span() or (0, 0)
        events, later = time.events_around
        epoch = min([span[0], *(event.unix_ms for event in events[:1])])
        return Picture(
            time.frame,
            time.history,
            events,
            later=later,
            now_ms=time.now_ms,
            newest_ms=span[1],
            oldest_ms=span[0],
            epoch_ms=epoch,
            clock_ms=self._clock_ms() if self.view.mode == "live" else time.now_ms,
            deeds=self._deeds.all if self._deeds else (),
            verdict=self._tour.verdict if self._tour and self.view.mode == "live" else None,
            problem=source.problem if self.view.mode == "live" else None,
        )

    @property
    def beside(self) -> Beside:
        """What a screen shows besides the picture."""
        frame = self.frame
        chord = None
        if self._chord_open and frame is not None:
            chord = chord_view(frame, self.view.selected, self.view.group, self.actions)
        return Beside(
            keys=tuple(keys_on(self.view.page, self.features)),
            help_keys=tuple(keys_on(self.view.helped, self.features)),
            choices=choices_for(self.actions) if "act" in self.features else (),
            dossier=self.dossier,
            sight=self.sight,
            chord=chord,
            question=None if self._question is None else self._question[0],
            palette=None if self._prompt is None else self._prompt.view,
        )

    @property
    def leader(self) -> int | None:
        """Who leads the shown group at the cursor."""
        return None if self.frame is None else self.frame.leader(self.view.group)

    # ---- time passes -----------------------------------------------------------------------

    def collect(self) -> bool:
        """Take what has arrived since the last time; say whether there is anything new to see."""
        changed = self._finish_verbs()
        changed = self._expire_notice() or changed
        if self._tour is not None and self._tour.caption != self.view.caption:
            self.view = replace(self.view, caption=self._tour.caption)
            changed = True
        if self.view.mode == "replay":
            return self._play() or changed
        changed = self.time.collect() or changed
        if (newest := self._source.latest()) is not None:
            self._greet(newest)
        return changed

    def _greet(self, frame: ClusterFrame) -> None:
        """Select the leader at the first sight of one."""
        known = [part.node for part in frame.nodes]
        if not self._first_seen and frame.leader() is not None:
            self._first_seen = True
            self.view = replace(self.view, selected=frame.leader() or known[0])
        if self.view.selected not in known:
            self.view = replace(self.view, selected=known[0])
        if self.view.peer not in known:
            self.view = replace(self.view, peer=known[-1])

    def _play(self) -> bool:
        """Move a recording's cursor as far as the clock has moved."""
        if not self.view.speed:
            return False
        now = self._clock_ms()
        before, self._played_at_ms = self._played_at_ms, now
        if before is None:
            return False
        self._seek(self.time.now_ms + int((now - before) * self.view.speed))
        if self.time.at_end:
            self.view = replace(self.view, speed=0.0)
        return True

    def _expire_notice(self) -> bool:
        if self.view.notice and self._clock_ms() > self._notice_until_ms:
            self.view = replace(self.view, notice="")
            return True
        return False

    def say(self, text: str) -> None:
        """Show a line for some seconds."""
        self.view = replace(self.view, notice=text)
        self._notice_until_ms = self._clock_ms() + NOTICE_MS

    # ---- keys ------------------------------------------------------------------------------

    def press(self, key: str, character: str | None = None) -> None:
        """Take one key (Textual's name, and the character it stands for)."""
        if self._question is not None:
            self._answer(key)
        elif self._prompt is not None:
            self._type(self._prompt, key, character)
        elif self._chord_open:
            self._second_key(key, character)
        elif (found := key_for(key, self.view.page, self.features)) is not None:
            self.run(found)
        elif key in ("x", "u") and "act" not in self.features:
            why = (
                "in a recording nothing can be changed"
                if self.view.mode == "replay"
                else "--readonly"
            )
            self.say(f"no faults from here: {why}")

    def run(self, key: Key) -> None:
        """Do what a key of the table does."""
        getattr(self, f"_do_{key.command}")()

    def _answer(self, key: str) -> None:
        assert self._question is not None
        _, consequence = self._question
        self._question = None
        if key == "y":
            consequence()
        else:
            self.say("cancelled")

    # ---- choosing --------------------------------------------------------------------------

    def _do_help(self) -> None:
        if self.view.page == "help":
            self._page(self.view.helped)
        else:
            self.view = replace(self.view, helped=self.view.page)
            self._page("help")

    def _do_back(self) -> None:
        if self.view.page == "help":
            self._page(self.view.helped)
        elif self.view.listing:
            self.view = self._list.left(self.view)
        elif self.view.page == "main" and self.view.filter:
            self.view = replace(self.view, filter="")
        elif self.view.page == "main":
            self.view = replace(self.view, zoomed=False)
        else:
            self._page("main")

    def _page(self, page: Page) -> None:
        self.view = replace(self.view, page=page, scroll=0)

    def _do_next_node(self) -> None:
        self._move(1)

    def _do_previous_node(self) -> None:
        self._move(-1)

    def _move(self, step: int) -> None:
        if self.view.listing:
            self.view = self._list.moved(self.view, step)
        elif self.view.page == "groups":
            self._select_group(self.view.group + step)
        elif self.view.page == "wal":
            self.view = replace(self.view, scroll=max(0, self.view.scroll - step))
        elif self.view.page == "help":
            self.view = replace(self.view, scroll=max(0, self.view.scroll + step))
        else:
            self.view = replace(self.view, selected=self._neighbour(self.view.selected, step))

    def _neighbour(self, node: int, step: int) -> int:
        known = [part.node for part in self.frame.nodes] if self.frame else [node]
        place = known.index(node) if node in known else 0
        return known[(place + step) % len(known)]

    def select(self, node: int) -> None:
        """Select a node, as a click does."""
        if self.frame is not None and node in [part.node for part in self.frame.nodes]:
            self.view = replace(self.view, selected=node)

    def _do_leader(self) -> None:
        if self.leader is None:
            self.say("there is no leader to select")
        else:
            self.view = replace(self.view, selected=self.leader)

    def _do_open(self) -> None:
        if self.view.listing:
            self._go_to_chosen()
            return
        self._page("main" if self.view.page == "groups" else "node")

    def _do_link(self) -> None:
        if self.view.peer == self.view.selected:
            self.view = replace(self.view, peer=self._neighbour(self.view.selected, 1))
        self._page("link")

    def _do_wal(self) -> None:
        self._page("wal")

    def _do_groups(self) -> None:
        self._page("main" if self.view.page == "groups" else "groups")

    def _do_previous_peer(self) -> None:
        self._turn_peer(-1)

    def _do_next_peer(self) -> None:
        self._turn_peer(1)

    def _turn_peer(self, step: int) -> None:
        peer = self._neighbour(self.view.peer, step)
        if peer == self.view.selected:
            peer = self._neighbour(peer, step)
        self.view = replace(self.view, peer=peer)

    def _do_page_up(self) -> None:
        self._scroll(-10)

    def _do_page_down(self) -> None:
        self._scroll(10)

    def _scroll(self, step: int) -> None:
        if self.view.listing:
            self.view = self._list.moved(self.view, step)
            return
        step = -step if self.view.page == "wal" else step
        self.view = replace(self.view, scroll=max(0, self.view.scroll + step))

    def _do_previous_group(self) -> None:
        self._select_group(self.view.group - 1)

    def _do_next_group(self) -> None:
        self._select_group(self.view.group + 1)

    def _select_group(self, group: int) -> None:
        groups = self.frame.groups if self.frame else 1
        self.view = replace(self.view, group=group % groups)

    def _do_tab(self) -> None:
        self.view = replace(self.view, tab=(self.view.tab + 1) % len(TABS))

    def _do_zoom(self) -> None:
        self.view = replace(self.view, zoomed=not self.view.zoomed)

    # ---- faults ----------------------------------------------------------------------------

    def _do_chord(self) -> None:
        if self.frame is None:
            self.say("there is no frame yet")
            return
        if self.view.mode == "frozen":
            self._do_live()  # a fault meets the present, so the present is shown
        self._chord_open = True

    def _second_key(self, key: str, character: str | None) -> None:
        if key in ("down", "up", "tab"):
            step = -1 if key == "up" else 1
            self.view = replace(self.view, selected=self._neighbour(self.view.selected, step))
            return
        self._chord_open = False
        if key in ("escape", "x", "ctrl+c", "q"):
            return
        frame = self._source.latest()
        if frame is None:
            return
        action = action_for(self.actions, character or key, frame.node(self.view.selected))
        if action is None:
            self.say(f"{character or key}: no verb that n{self.view.selected} takes now")
            return
        cause = f"you (x {character or key})"
        self._ask_or_act(action, f"n{self.view.selected}", cause)

    def _ask_or_act(self, action: Action, selector: str, cause: str) -> None:
        if not action.asks:
            self.act(action, selector, cause)
            return
        question = Question(
            f"{action.name} {selector}?", f"{action.effect or action.help} Nothing undoes it."
        )
        self._question = (question, lambda: self.act(action, selector, cause))

    def act(self, action: Action, selector: str, cause: str, *, undoing: bool = False) -> None:
        """Do a verb now; it is shown as `cause` in the events."""
        if self._deeds is None:
            self.say("no faults from here: --readonly")
            return
        if self._tour is not None:
            self._tour.take_over()
        now = self._clock_ms()
        known = [part.node for part in self.frame.nodes] if self.frame else []
        named = [node for node in known if f"n{node}" in selector.split(",")]
        deed = Deed(now, now, tuple(named or known), cause)
        self._deeds.begin(action, selector, deed, undoing=undoing)
        self.say(f"{action.name} {selector} …")
        self._finish_verbs()

    def _finish_verbs(self) -> bool:
        told = self._deeds.finish(self._clock_ms()) if self._deeds else []
        for words in told:
            self.say(words)
        return bool(told)

    def _do_undo(self) -> None:
        last = self._deeds.take_last(self.actions) if self._deeds else None
        if last is None:
            self.say("there is nothing to undo")
        else:
            self.act(*last, "you (u)", undoing=True)

    # ---- palette and filter ----------------------------------------------------------------

    def _do_palette(self) -> None:
        self._prompt = Prompt(PaletteView(":", ""), self._entries)

    def _do_filter(self) -> None:
        self._prompt = Prompt(PaletteView("events with", self.view.filter))

    def _type(self, prompt: Prompt, key: str, character: str | None) -> None:
        entered = prompt.take(key, character)
        if not prompt.open:
            self._prompt = None
        if entered is not None:
            self._entered(entered, prompt)

    def _entries(self, typed: str) -> list[tuple[str, str]]:
        acting = "act" in self.features
        return entries_for(
            typed,
            choices_for(self.actions) if acting else (),
            tuple(keys_on(self.view.page, self.features)),
            f"n{self.view.selected}",
        )

    def _entered(self, palette: PaletteView, prompt: Prompt) -> None:
        if prompt.filtering:
            self.view = replace(self.view, filter=palette.typed.strip())
            return
        if not palette.entries:
            self.say(f"no command {palette.typed!r}")
            return
        name, _ = palette.entries[palette.chosen]
        first, _, rest = name.partition(" ")
        action = next((a for a in self.actions if a.name == first), None)
        if action is not None and rest and "act" in self.features:
            self._ask_or_act(action, rest, f"you (:{name})")
            return
        moment = clock_ms(rest) if first == "seek" else None
        if moment is not None:
            self._freeze_at(self.picture.epoch_ms + moment)
            return
        if first == "mark" and rest:
            self._mark(rest)
            return
        if first == "group" and rest.isdigit():
            self._select_group(int(rest))
            return
        command = name.replace(" ", "_")
        self.run(next(key for key in KEYS if key.command == command))

    # ---- tour and screen -------------------------------------------------------------------

    def _do_tour_next(self) -> None:
        if self._tour is not None:
            self._tour.go_on()

    def _do_tour_pause(self) -> None:
        if self._tour is not None:
            self._tour.pause()

    def _do_theme(self) -> None:
        self.requests.append("theme")

    def _do_screenshot(self) -> None:
        self.requests.append("screenshot")

    def _do_redraw(self) -> None:
        self.requests.append("redraw")

    def _do_leave(self) -> None:
        if not self._leave_question:
            self.requests.append("leave")
            return
        question = Question("end the demo and its cluster?", self._leave_question)
        self._question = (question, lambda: self.requests.append("leave"))
