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
    """One verb. `undone_by` names the verb that takes it back; None if nothing is to be undone.

    `key` is the second key of the dashboard's chord (empty: the first letter that is free; two
    verbs may share one if they never apply to the same node). `effect` says what happens to a node,
    by the signal's name. What `asks` cannot be undone by anything, and is confirmed first.
    """

    name: str
    help: str
    example: str
    target: Target
    undone_by: str | None
    run: Run
    key: str = ""
    effect: str = ""
    asks: bool = False

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
        key="k",
        effect="SIGKILL: gone at once, without a word; its log stays as it is on disk",
    ),
    Action(
        "stop",
        "Stop nodes cleanly.",
        "raftdeck node stop n2,n3",
        "nodes",
        "start",
        lambda cluster, selector, seed: cluster.stop(selector, seed),
        key="t",
        effect="SIGTERM: a clean stop; SIGKILL if it does not end in time",
    ),
    Action(
        "start",
        "Start nodes that are killed, stopped or crashed.",
        "raftdeck node start down",
        "nodes",
        "stop",
        lambda cluster, selector, seed: cluster.start(selector, seed),
        key="r",
        effect="a new process on the old log: recovery, then catch-up",
    ),
    Action(
        "restart",
        "Stop nodes cleanly, then start them.",
        "raftdeck node restart followers",
        "nodes",
        None,
        lambda cluster, selector, seed: cluster.restart(selector, seed),
        key="r",
        effect="SIGTERM, then a new process on the same log",
    ),
    Action(
        "pause",
        "Freeze node processes with SIGSTOP: they exist and do nothing.",
        "raftdeck node pause random --seed 7",
        "nodes",
        "resume",
        lambda cluster, selector, seed: cluster.pause(selector, seed),
        key="p",
        effect="SIGSTOP: the process exists and does nothing",
    ),
    Action(
        "resume",
        "Let frozen node processes run again (SIGCONT).",
        "raftdeck node resume frozen",
        "nodes",
        "pause",
        lambda cluster, selector, seed: cluster.resume(selector, seed),
        key="p",
        effect="SIGCONT: it wakes up with old messages in its inbox",
    ),
)

ACTIONS_BY_NAME: Final[Mapping[str, Action]] = {action.name: action for action in ACTIONS}
