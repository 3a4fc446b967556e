"""Every key, declared once: what it does, where it holds, and its line in the help.

The app looks a key up here, help and footer are made from here, and the palette lists what is
here. Verbs are not: their keys come from the action registry (`dashboard.chord`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dashboard.presenter.view import Page

__all__ = ["KEYS", "Key", "key_for", "keys_on"]

EVERYWHERE: Final = frozenset({"main", "node", "link", "wal", "groups", "help"})
_NODES: Final = frozenset({"main", "node", "link", "wal"})


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `command` names the app's method; `names` are Textual's names of the keys."""

    names: tuple[str, ...]
    label: str
    command: str
    help: str
    pages: frozenset[str] = EVERYWHERE
    when: str = ""
    """"act": only where faults may be made; "demo": only with a tour; "replay": in recordings."""
    section: str = "look"


KEYS: Final = (
    Key(("question_mark",), "?", "help", "keys of this view, and back"),
    Key(("escape", "backspace"), "esc", "back", "back to the cluster"),
    Key(("down", "j"), "j ↓", "next_node", "next node, group, frame or event"),
    Key(("up", "k"), "k ↑", "previous_node", "previous node, group, frame or event"),
    Key(("l",), "l", "leader", "select the leader", _NODES),
    Key(
        ("enter",),
        "enter",
        "open",
        "open the node or group; go to the chosen event",
        frozenset({"main", "groups"}),
    ),
    Key(("o",), "o", "link", "the selected node's links", _NODES),
    Key(("left",), "←", "previous_peer", "the other end of the link", frozenset({"link"})),
    Key(("right",), "→", "next_peer", "the other end of the link", frozenset({"link"})),
    Key(("w",), "w", "wal", "WAL microscope of the selected node", _NODES),
    Key(("pageup",), "pgup", "page_up", "scroll up", frozenset({"main", "node", "wal"})),
    Key(("pagedown",), "pgdn", "page_down", "scroll down", frozenset({"main", "node", "wal"})),
    Key(("t",), "t", "groups", "table of groups", frozenset({"main", "groups"})),
    Key(("comma",), ",", "previous_group", "previous group"),
    Key(("full_stop",), ".", "next_group", "next group"),
    Key(
        ("tab",),
        "tab",
        "tab",
        "next lower pane, where there is room for one only",
        frozenset({"main"}),
    ),
    Key(("z",), "z", "zoom", "the lower pane alone, and back", frozenset({"main"})),
    Key(("slash",), "/", "filter", "only events with these words", frozenset({"main"})),
    Key(("colon",), ":", "palette", "any command, by its name"),
    Key(
        ("space",),
        "space",
        "freeze",
        "freeze: collection goes on (replay: play)",
        section="time",
    ),
    Key(("left_square_bracket",), "[", "event_back", "to the event before", section="time"),
    Key(("right_square_bracket",), "]", "event_forward", "to the next event", section="time"),
    Key(("left_curly_bracket",), "{", "seek_back", "10 s back", section="time"),
    Key(("right_curly_bracket",), "}", "seek_forward", "10 s forward", section="time"),
    Key(("minus",), "-", "frame_back", "one frame back", section="time"),
    Key(("equals_sign",), "=", "frame_forward", "one frame forward", section="time"),
    Key(("e",), "e", "election_forward", "to the next election", section="time"),
    Key(("E", "upper_e"), "E", "election_back", "to the election before", section="time"),
    Key(("f",), "f", "fault_forward", "to the next fault", section="time"),
    Key(("F", "upper_f"), "F", "fault_back", "to the fault before", section="time"),
    Key(
        ("v",),
        "v",
        "choose_event",
        "choose an event: j k, enter goes there",
        frozenset({"main"}),
        section="time",
    ),
    Key(("m",), "m", "mark", "put a mark here (:mark WORDS names it)", section="time"),
    Key(("apostrophe",), "'", "mark_forward", "to the next mark", section="time"),
    Key(("quotation_mark",), '"', "mark_back", "to the mark before", section="time"),
    Key(("G", "upper_g", "end"), "G", "live", "LIVE: the newest frame", section="time"),
    Key(("home",), "home", "beginning", "the oldest frame kept", section="time"),
    Key(("less_than_sign",), "<", "slower", "replay: slower", when="replay", section="time"),
    Key(("greater_than_sign",), ">", "faster", "replay: faster", when="replay", section="time"),
    Key(("x",), "x", "chord", "make a fault: x, then a verb", when="act", section="faults"),
    Key(("u",), "u", "undo", "undo the last reversible one", when="act", section="faults"),
    Key(("n",), "n", "tour_next", "tour: the next step now", when="demo", section="tour"),
    Key(("p",), "p", "tour_pause", "tour: pause, and go on", when="demo", section="tour"),
    Key(("T", "upper_t"), "T", "theme", "dark, light", section="screen"),
    Key(("S", "upper_s"), "S", "screenshot", "write the screen to an SVG file", section="screen"),
    Key(("ctrl+l",), "^L", "redraw", "paint the whole screen again", section="screen"),
    Key(("q", "ctrl+c"), "q", "leave", "leave the dashboard", section="screen"),
)
"""The table. Section by section, in the order of the help."""


def keys_on(page: Page, features: frozenset[str]) -> Iterator[Key]:
    """Yield the keys that hold on a page; `features` are those of `Key.when` that are there."""
    for key in KEYS:
        if page in key.pages and (not key.when or key.when in features):
            yield key


def key_for(name: str, page: Page, features: frozenset[str]) -> Key | None:
    """Return what a key does on a page; None if nothing."""
    return next((key for key in keys_on(page, features) if name in key.names), None)
