"""The scripted tour: what is done to the cluster while it is being written to, and the proof.

Times are shares of the run. Each step says what it does and why, does it, proves from process
truth that it took effect, and measures the leaderless time: from there to the next acknowledged
write that was submitted after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cluster.api import ActionResult
from cluster.demo.writer import Writer
from cluster.frames import ProcessState
from cluster.local import LocalCluster

__all__ = ["Fault", "Step", "Tour", "steps_for"]

ACK_TIMEOUT_S: Final = 20.0
CATCH_UP_TIMEOUT_S: Final = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One event of the tour as it went."""

    kind: str
    target: str
    nodes: tuple[int, ...]
    at_s: float
    proof: str
    """What process truth said afterwards; empty if the effect could not be shown."""
    leaderless_ms: float | None
    """None: no write was acknowledged in time, or there was none left to write."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: at which share of the run, what, on whom, and the words for it."""

    share: float
    action: str
    selector: str
    caption: str


def steps_for(nodes: int) -> tuple[Step, ...]:
    """Return the tour that a cluster of this size survives: never more than a minority is down."""
    minority = (nodes - 1) // 2
    if minority == 0:
        return (
            Step(0.35, "kill", "leader", "kill -9 of the only node: nothing answers meanwhile"),
            Step(0.45, "start", "down", "power back: its log is all it has"),
        )
    steps = [
        Step(0.10, "kill", "leader", "kill -9 of the leader: the others must notice and elect"),
        Step(0.28, "start", "down", "restart of the dead node: it reads its log and catches up"),
        Step(
            0.38, "pause", "followers", "SIGSTOP of a follower: alive but silent; a quorum goes on"
        ),
        Step(0.52, "resume", "frozen", "SIGCONT: it wakes to old messages, and must catch up"),
        Step(
            0.62,
            "kill",
            "minority",
            f"kill -9 of {minority} of {nodes} at once: the rest is a quorum",
        ),
        Step(0.80, "start", "down", "power back: all read their logs and catch up"),
    ]
    return tuple(steps)


class Tour:
    """Runs the steps on a cluster that a writer writes to."""

    def __init__(self, cluster: LocalCluster, writer: Writer, say: Say) -> None:
        """`say` prints one line of the event log."""
        self.faults: list[Fault] = []
        self._cluster = cluster
        self._writer = writer
        self._say = say
        self._frozen: tuple[int, ...] = ()
        self._handlers: dict[str, Callable[[str], ActionResult]] = {
            "kill": cluster.kill,
            "start": cluster.start,
            "pause": cluster.pause,
            "resume": cluster.resume,
        }

    def run(self, steps: tuple[Step, ...], started: float, seconds: float) -> Iterator[None]:
        """Do each step when it is due; yields while it waits, so that the caller shows progress."""
        for number, step in enumerate(steps, 1):
            while time.monotonic() < started + step.share * seconds:
                yield
            self.do(step, started, f"{number}/{len(steps)}")
            yield

    def heal(self) -> None:
        """Thaw and start whatever is not running, and wait until everybody has caught up."""
        frame = self._cluster.frame()
        for state, verb in ((ProcessState.FROZEN, "resume"), (None, "start")):
            nodes = [
                part.node
                for part in frame.nodes
                if part.process.state is state or (state is None and not part.process.state.alive)
            ]
            if nodes:
                self._handlers[verb](",".join(f"n{node}" for node in nodes))
        everybody = len(frame.nodes)
        self._cluster.wait_for(
            lambda now: len(now.caught_up()) == everybody,
            CATCH_UP_TIMEOUT_S,
            "a replica has not caught up",
        )

    def do(self, step: Step, started: float, place: str) -> None:
        """Do one step now; returns when its effect was measured.

        `place` ("2/6") and verb are its name in the events, where the measured effect goes, too.
        """
        self._say(step.caption)
        selector = self._resolved(step)
        moment = time.monotonic()
        with self._cluster.as_step(f"{place} {step.action} {step.selector}"):
            result = self._handlers[step.action](selector)
            if step.action == "pause":
                self._frozen = result.nodes
            names = ",".join(f"n{node}" for node in result.nodes)
            done = time.monotonic()  # what was written before may have met the leader that was
            acked_at = self._writer.wait_for_ack_after(done, ACK_TIMEOUT_S)
            leaderless = None if acked_at is None else (acked_at - done) * 1000
            proof = self._proof(step.action, result)
            self._cluster.mark(f"{step.action} {names}: measured", self._effect(leaderless))
        self.faults.append(
            Fault(step.action, names, result.nodes, moment - started, proof, leaderless)
        )
        after = "no write left to show it" if leaderless is None else f"in {leaderless:.0f} ms"
        seen = f"{names} {_STATES[step.action].value}, says the kernel"
        self._say(f"  {seen if proof else f'{names}: NOT PROVED'}; next write acked {after}")

    def _effect(self, leaderless_ms: float | None) -> str:
        """Say what the writer saw of a step: only it knows what was acknowledged."""
        acked = f"{self._writer.acked:,} acked"
        if leaderless_ms is None:
            return f"no new write acked in {ACK_TIMEOUT_S:.0f} s · {acked}"
        return f"next write acked in {leaderless_ms:.0f} ms · {acked}"

    def _resolved(self, step: Step) -> str:
        """Turn the two selectors that only the tour knows into node names."""
        if step.selector == "frozen":
            return ",".join(f"n{node}" for node in self._frozen)
        if step.action == "pause":
            frame = self._cluster.frame()
            leader = frame.leader()
            followers = [part.node for part in frame.nodes if part.fresh and part.node != leader]
            return f"n{followers[0]}"
        return step.selector

    def _proof(self, action: str, result: ActionResult) -> str:
        """Ask process truth whether the step took effect on every node it names."""
        frame = self._cluster.last_frame()
        wanted = _STATES[action]
        parts = []
        for node in result.nodes:
            process = frame.node(node).process
            if process.state is not wanted:
                return ""
            detail = f"signal {process.signal}" if process.signal else f"pid {process.pid}"
            parts.append(f"n{node} {process.state.value} ({detail})")
        return ", ".join(parts)


_STATES: Final = {
    "kill": ProcessState.KILLED,
    "start": ProcessState.RUNNING,
    "pause": ProcessState.FROZEN,
    "resume": ProcessState.RUNNING,
}
