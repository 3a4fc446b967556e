"""What a cluster can do, whoever runs it: real processes (`cluster.local`) or a simulation.

Scenarios, actions, demo and dashboard are written against `Cluster` and know nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from cluster.frames import ClusterFrame, Event
from cluster.spec import ClusterSpec

__all__ = ["ACTION_SCHEMA", "ActionResult", "Cluster"]

ACTION_SCHEMA: Final = "raftdeck.action/1"


@dataclass(frozen=True, slots=True)
class ActionResult:
    """A verb that took effect: on which nodes, what they are now, and what a person should know.

    `states` are `ProcessState` values by "nI"; `notes` tell what `random` picked and what was
    skipped.
    """

    action: str
    selector: str
    nodes: tuple[int, ...]
    states: dict[str, str]
    notes: tuple[str, ...] = ()

    def encode(self) -> dict[str, Any]:
        """Return the JSON document of `--json`."""
        return {"schema": ACTION_SCHEMA} | asdict(self)


class Cluster(Protocol):
    """A running cluster. Selectors are those of `cluster.selectors`; `seed` is for `random`.

    Each node verb returns when it has taken effect, or raises `CommandError`. One thread.
    """

    @property
    def spec(self) -> ClusterSpec:
        """What the cluster is."""

    def frame(self) -> ClusterFrame:
        """Return the frame of this moment: every node that runs was asked."""

    def events(self, since: int = 0) -> tuple[Event, ...]:
        """Return the events after a number, oldest first."""

    def wait_for(
        self, condition: Callable[[ClusterFrame], bool], timeout_s: float, what: str = ""
    ) -> ClusterFrame:
        """Return the first frame that meets a condition; `CommandError` (no quorum) in vain."""

    def kill(self, selector: str, seed: int | None = None) -> ActionResult:
        """SIGKILL: the process is gone at once; what it had not synced is not lost by that."""

    def stop(self, selector: str, seed: int | None = None) -> ActionResult:
        """Stop cleanly."""

    def start(self, selector: str, seed: int | None = None) -> ActionResult:
        """Start nodes that are down."""

    def restart(self, selector: str, seed: int | None = None) -> ActionResult:
        """Stop cleanly (if up), then start."""

    def pause(self, selector: str, seed: int | None = None) -> ActionResult:
        """SIGSTOP: the process exists and does nothing."""

    def resume(self, selector: str, seed: int | None = None) -> ActionResult:
        """SIGCONT."""

    def disk(
        self,
        fault: str,
        selector: str,
        seed: int | None = None,
        options: Mapping[str, int | str] | None = None,
    ) -> ActionResult:
        """Let a disk fault (`node.faults.FIELDS`) stand, flip a bit, cut the power, or heal.

        `options` are the fault's own; the result's notes say what each node did.
        """

    def as_step(self, step: str) -> AbstractContextManager[None]:
        """Name a scenario's step as the cause of the verbs and marks of a `with` block."""

    def mark(self, text: str, effect: str = "") -> Event:
        """Put words into the events, and so into the recording; `effect` is what was measured."""

    def client(self) -> Any:
        """Return a new client of this cluster (`cluster.client.Client`); the caller closes it."""

    def down(self) -> None:
        """End the cluster; data stays."""
