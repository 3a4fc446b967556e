"""The verbs that a person can apply to nodes, declared once.

Command line, keys, command palette, help and scenario steps are made from `ACTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cluster.api import ActionResult, Cluster

__all__ = ["ACTIONS", "ACTIONS_BY_NAME", "Action", "Target"]

Target = Literal["nodes"]
"""What an action is applied to: nodes, named by a selector."""

Run = Callable[[Cluster, str, int | None], ActionResult]


@dataclass(frozen=True, slots=True)
class Action:
    """One verb. `undone_by` names the verb that takes it back; None if nothing is to be undone."""

    name: str
    help: str
    example: str
    target: Target
    undone_by: str | None
    run: Run

    @property
    def reversible(self) -> bool:
        """Whether another verb takes this one back."""
        return self.undone_by is not None


ACTIONS: Final[tuple[Action, ...]] = (
    Action(
        "kill",
        "Kill node processes with SIGKILL, without warning.",
        "raftdeck node kill leader",
        "nodes",
        "start",
        lambda cluster, selector, seed: cluster.kill(selector, seed),
    ),
    Action(
        "stop",
        "Stop nodes cleanly.",
        "raftdeck node stop n2,n3",
        "nodes",
        "start",
        lambda cluster, selector, seed: cluster.stop(selector, seed),
    ),
    Action(
        "start",
        "Start nodes that are killed, stopped or crashed.",
        "raftdeck node start down",
        "nodes",
        "stop",
        lambda cluster, selector, seed: cluster.start(selector, seed),
    ),
    Action(
        "restart",
        "Stop nodes cleanly, then start them.",
        "raftdeck node restart followers",
        "nodes",
        None,
        lambda cluster, selector, seed: cluster.restart(selector, seed),
    ),
    Action(
        "pause",
        "Freeze node processes with SIGSTOP: they exist and do nothing.",
        "raftdeck node pause random --seed 7",
        "nodes",
        "resume",
        lambda cluster, selector, seed: cluster.pause(selector, seed),
    ),
    Action(
        "resume",
        "Let frozen node processes run again (SIGCONT).",
        "raftdeck node resume frozen",
        "nodes",
        "pause",
        lambda cluster, selector, seed: cluster.resume(selector, seed),
    ),
)

ACTIONS_BY_NAME: Final[Mapping[str, Action]] = {action.name: action for action in ACTIONS}
