"""What a presenter is given: the picture as of the cursor, and what the person has chosen to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from cluster.frames import ClusterFrame, Event, NodeFrame, ProcessState
from dashboard.presenter.history import History
from node.metrics import GroupSnapshot

__all__ = [
    "PAGES",
    "TABS",
    "Deed",
    "Mode",
    "Page",
    "Picture",
    "Size",
    "Standing",
    "Tally",
    "Verdict",
    "View",
    "quorum",
    "standing_of",
    "standing_under",
    "tally",
]

Mode = Literal["live", "frozen", "replay"]
Page = Literal["main", "node", "link", "wal", "groups", "help"]
PAGES: Final[tuple[Page, ...]] = ("main", "node", "link", "wal", "groups", "help")
TABS: Final = ("logs", "links", "charts", "events")
"""What the lower part of a small screen shows, one at a time."""


class Size(NamedTuple):
    """Cells of a terminal."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Deed:
    """Something done from this screen, so that the supervisor's event can name its cause."""

    start_ms: int
    end_ms: int
    nodes: tuple[int, ...]
    cause: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a checker or a writer has found so far, in words."""

    text: str
    style: str = "text"


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is known as of `now_ms`, the cursor; `newest_ms` is where the frames end.

    `clock_ms` is the wall clock (in a recording, the cursor): the age of the newest frame.
    """

    frame: ClusterFrame | None
    history: History
    events: Sequence[Event] = ()
    now_ms: int = 0
    newest_ms: int = 0
    oldest_ms: int = 0
    epoch_ms: int = 0
    """Where the clock of the event list begins."""
    clock_ms: int = 0
    deeds: tuple[Deed, ...] = ()
    later: Sequence[Event] = ()
    """Events after the cursor: the line of time and the list that is chosen from show them, too."""
    verdict: Verdict | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What the person has chosen. `selected` is a node's number, `peer` the other end of a link."""

    mode: Mode = "live"
    page: Page = "main"
    helped: Page = "main"
    """The page whose keys the help explains, and to which it returns."""
    selected: int = 1
    peer: int = 2
    group: int = 0
    tab: int = 0
    zoomed: bool = False
    readonly: bool = False
    caption: str = ""
    scroll: int = 0
    filter: str = ""
    chosen: int | None = None
    """The number of the event that is chosen, while the list of events is open."""
    demo: bool = False
    notice: str = ""
    speed: float = 0.0
    """Of a replay; 0 stands still."""

    @property
    def listing(self) -> bool:
        """Whether keys choose among events."""
        return self.page == "main" and self.chosen is not None


class Standing(NamedTuple):
    """How one node stands: a shape, a word (capitals are not normal), a style."""

    glyph: str
    word: str
    style: str

    def __str__(self) -> str:
        """Return shape and word."""
        return f"{self.glyph} {self.word}"


_DEAD: Final = {
    ProcessState.KILLED: "DEAD",
    ProcessState.STOPPED: "STOPPED",
    ProcessState.CRASHED: "CRASHED",
}


def standing_of(frame: ClusterFrame, part: NodeFrame, group: int) -> Standing:
    """Say how a node stands in a group, from process truth and protocol truth together."""
    return standing_under(frame.leader(group), frame, part, group)


def standing_under(
    leader: int | None, frame: ClusterFrame, part: NodeFrame, group: int
) -> Standing:
    """Say the same where the leader is known: a table asks for it once, not once a row."""
    process, state = part.process, part.group(group)
    if process.state in _DEAD:
        return Standing("✖", _DEAD[process.state], "dead")
    if process.state is ProcessState.FROZEN:
        return Standing("‖", "PAUSED", "paused")
    if part.snapshot is None:
        return Standing("↻", "RECOVER", "recover")
    if not part.fresh:
        return Standing("?", f"STALE {(part.snapshot_age_ms or 0) // 1000}s", "stale")
    if state is None:
        return Standing("–", "no group", "dim")
    return _role(leader, frame, part, state)


def _role(
    leader: int | None, frame: ClusterFrame, part: NodeFrame, state: GroupSnapshot
) -> Standing:
    if state.role == "leader":
        if leader == part.node:
            return Standing("▲", "LEADER", "leader")
        return Standing("▲", "OUSTED", "warn")
    if state.role == "candidate":
        return Standing("◐", "CAND", "candidate")
    if state.role == "pre_candidate":
        return Standing("◌", "PRE-CAND", "candidate")
    if leader is not None and _snapshot_goes_to(frame, leader, part.node, state.group):
        return Standing("⇣", "SNAP", "recover")
    if not state.leader:
        return Standing("○", "NO LEAD", "warn")
    return Standing("○", "follow", "follower")


def _snapshot_goes_to(frame: ClusterFrame, leader: int, node: int, group: int) -> bool:
    leading = frame.node(leader).group(group)
    return leading is not None and any(
        peer.node == node and peer.state == "snapshot" for peer in leading.peers
    )


class Tally(NamedTuple):
    """How many nodes are in which state."""

    nodes: int
    up: int
    frozen: int
    dead: int
    silent: int
    starting: int


def tally(frame: ClusterFrame) -> Tally:
    """Count the nodes by state; silent ones run and have not answered lately."""
    states = [part.process.state for part in frame.nodes]
    running = states.count(ProcessState.RUNNING)
    fresh = sum(part.fresh for part in frame.nodes)
    frozen = states.count(ProcessState.FROZEN)
    starting = sum(
        part.process.state is ProcessState.RUNNING and part.snapshot is None for part in frame.nodes
    )
    dead = len(states) - running - frozen
    return Tally(len(states), fresh, frozen, dead, running - fresh - starting, starting)


def quorum(frame: ClusterFrame, group: int) -> tuple[int, int]:
    """Return how many nodes a decision needs, and how many take part now.

    With a leader, those are the nodes that follow it. Without one, those that run and answer: an
    election could succeed with them.
    """
    needed = len(frame.nodes) // 2 + 1
    if frame.leader(group) is not None:
        return needed, len(frame.healthy(group))
    return needed, sum(part.fresh for part in frame.nodes)
