"""The verbs that a person can apply to nodes and their disks, declared once.

Command line, keys, command palette, help and scenario steps are made from `ACTIONS`. A verb that
takes more words than a selector (`disk at`) is on the command line only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cluster.api import ActionResult, Cluster

__all__ = ["ACTIONS", "ACTIONS_BY_NAME", "Action", "Target"]

Target = Literal["nodes", "disks"]
"""What an action is applied to: nodes, or their disks; named by a selector of nodes."""

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
    def word(self) -> str:
        """The verb as the command line has it: `raftdeck node kill`, `raftdeck disk slow`."""
        return self.name.removeprefix("disk-")

    @property
    def reversible(self) -> bool:
        """Whether another verb takes this one back."""
        return self.undone_by is not None


def _disk(
    fault: str, help: str, options: str = "", *, key: str, effect: str, asks: bool = False
) -> Action:
    """Declare a verb of disks; without options it takes the fault's defaults."""
    ends = fault in ("powercut", "torn")
    return Action(
        f"disk-{fault}",
        help,
        f"raftdeck disk {fault} leader{options}",
        "disks",
        "start" if ends else None if fault in ("flip", "heal") else "disk-heal",
        lambda cluster, selector, seed: cluster.disk(fault, selector, seed),
        key=key,
        effect=effect,
        asks=asks,
    )


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
    _disk(
        "slow",
        "Let syncs (or another operation) take longer.",
        " --by 50ms --for 2s",
        key="s",
        effect="every sync of its log takes 100 ms longer, for 10 s",
    ),
    _disk(
        "stall",
        "Let syncs (or another operation) wait for the end of the fault.",
        " --for 2s",
        key="l",
        effect="its disk hangs: every sync waits, for 10 s",
    ),
    _disk(
        "fail",
        "Let a sync (or another operation) fail with EIO.",
        key="f",
        effect="its next sync fails with EIO: the log is poisoned, exit 74",
    ),
    _disk(
        "full",
        "Let the disk be full: no file grows any more.",
        " --bytes 1000000 --for 5s",
        key="u",
        effect="its disk is full: ENOSPC for whatever grows a file, for 10 s",
    ),
    _disk(
        "short",
        "Let a write store a part and end with ENOSPC.",
        " --seed 7",
        key="h",
        effect="its next write ends half-way with ENOSPC, and is tried again",
    ),
    _disk(
        "flip",
        "Turn over one bit of the log at rest.",
        " --offset 4711 --bit 3",
        key="b",
        effect="one durable bit of its log turns over: a restart refuses the log, exit 65",
        asks=True,
    ),
    _disk(
        "torn",
        "Cut the power in mid-write: a drawn part of what is not synced reaches the disk.",
        " --seed 7",
        key="o",
        effect="a drawn part of what is not synced reaches the disk, then SIGKILL",
    ),
    _disk(
        "powercut",
        "Cut the power: what is not synced is gone.",
        key="c",
        effect="SIGKILL, and what its log has not synced is gone (needs up --power-loss)",
    ),
    _disk(
        "heal",
        "End every disk fault, and tell what it did.",
        key="e",
        effect="every fault of its disk ends",
    ),
)

ACTIONS_BY_NAME: Final[Mapping[str, Action]] = {action.name: action for action in ACTIONS}
