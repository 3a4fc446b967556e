"""Which nodes a person means: `n3`, `leader`, `followers,n5`, … → node ids.

A pure function of a text, a frame and (for `random`) a generator. `SELECTORS` is the one table:
help, completion and error messages come from it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cluster.exits import CommandError, Exit
from cluster.frames import ClusterFrame, ProcessState

__all__ = ["SELECTORS", "Selection", "describe_selectors", "select"]

SELECTOR_LENGTH_MAX: Final = 256

_NODE = re.compile(r"n?([0-9]{1,9})")
_LEADER = re.compile(r"leader:([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen nodes in ascending order, and what a person should know of the choice."""

    nodes: tuple[int, ...]
    notes: tuple[str, ...] = ()


def _all(frame: ClusterFrame) -> list[int]:
    return [part.node for part in frame.nodes]


def _in_state(*states: ProcessState) -> Callable[[ClusterFrame], list[int]]:
    return lambda frame: [part.node for part in frame.nodes if part.process.state in states]


def _followers(frame: ClusterFrame) -> list[int]:
    leader = _leader(frame, 0)
    return [node for node in _UP(frame) if node != leader]


def _majority(frame: ClusterFrame) -> list[int]:
    return _all(frame)[: len(frame.nodes) // 2 + 1]


def _minority(frame: ClusterFrame) -> list[int]:
    return _all(frame)[len(frame.nodes) // 2 + 1 :]


_UP = _in_state(ProcessState.RUNNING)

_SETS: Final[Mapping[str, Callable[[ClusterFrame], list[int]]]] = {
    "leader": lambda frame: [_leader(frame, 0)],
    "followers": _followers,
    "majority": _majority,
    "minority": _minority,
    "up": _UP,
    "frozen": _in_state(ProcessState.FROZEN),
    "down": _in_state(ProcessState.KILLED, ProcessState.STOPPED, ProcessState.CRASHED),
    "all": _all,
}

SELECTORS: Final[Mapping[str, str]] = {
    "n3, 3": "the node with this number",
    "leader": "the leader of group 0",
    "leader:7": "the leader of group 7",
    "followers": "the running nodes that do not lead group 0",
    "majority": "the smallest majority: the nodes with the lowest numbers",
    "minority": "all nodes that are not in `majority`",
    "up": "the nodes that run",
    "frozen": "the nodes that are paused",
    "down": "the nodes that are killed, stopped or crashed",
    "random": "one node to which the verb applies, drawn with --seed",
    "all": "every node",
}


def describe_selectors() -> str:
    """Return the table of selectors as lines of text, for help."""
    width = max(map(len, SELECTORS))
    return "\n".join(f"{name:<{width}}  {help}" for name, help in SELECTORS.items())


def select(
    text: str,
    frame: ClusterFrame,
    *,
    candidates: tuple[int, ...] | None = None,
    seed: int | None = None,
) -> Selection:
    """Resolve a comma list of selectors against a frame.

    `candidates` is what `random` draws from (default: the running nodes). Raises `CommandError`:
    usage for a name that does not exist, failed for one that stands for no node at present.
    """
    if len(text) > SELECTOR_LENGTH_MAX:
        raise CommandError(Exit.USAGE, f"selector of {len(text)} characters")
    nodes: set[int] = set()
    notes: list[str] = []
    for term in text.split(","):
        found, note = _term(term.strip(), frame, candidates, seed)
        nodes.update(found)
        notes += [note] if note else []
    return Selection(tuple(sorted(nodes)), tuple(notes))


def _term(
    term: str, frame: ClusterFrame, candidates: tuple[int, ...] | None, seed: int | None
) -> tuple[list[int], str]:
    """Resolve one selector."""
    if match := _NODE.fullmatch(term):
        node = int(match[1])
        if node in _all(frame):
            return [node], ""
    elif match := _LEADER.fullmatch(term):
        group = int(match[1])
        if group < frame.groups:
            return [_leader(frame, group)], ""
    elif term == "random":
        return _random(frame, candidates, seed)
    elif term in _SETS:
        found = _SETS[term](frame)
        if not found:
            raise CommandError(Exit.FAILED, f"selector {term!r}: no node is that at present")
        return found, ""
    raise CommandError(
        Exit.USAGE, f"no node {term!r} in cluster {frame.name!r}; valid are: {_valid(frame)}"
    )


def _random(
    frame: ClusterFrame, candidates: tuple[int, ...] | None, seed: int | None
) -> tuple[list[int], str]:
    pool = sorted(_UP(frame) if candidates is None else candidates)
    if not pool:
        raise CommandError(Exit.FAILED, "selector 'random': there is no node to draw from")
    drawn_from = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    node = random.Random(drawn_from).choice(pool)
    return [node], f"random picked n{node} (--seed {drawn_from})"


def _leader(frame: ClusterFrame, group: int) -> int:
    leader = frame.leader(group)
    if leader is None:
        raise CommandError(
            Exit.FAILED,
            f"no node leads group {group} at present; wait for one with:"
            " raftdeck status --wait leader=1",
        )
    return leader


def _valid(frame: ClusterFrame) -> str:
    names = [f"n{node}" for node in _all(frame)]
    sets = ["leader", "leader:GROUP" if frame.groups > 1 else "leader:0"]
    return ", ".join([*names, *sets, *(name for name in _SETS if name != "leader"), "random"])
