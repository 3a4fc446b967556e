"""What the supervisor does to nodes on request: operations that wait without blocking.

An operation is a generator. It does something, then yields until the world shows that it took
effect, or its deadline has passed; its return value is the reply. The supervisor's loop steps all
of them at each turn, so that one slow stop delays nobody. An operation on a node waits until no
other operation is at work on that node.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from cluster.events import EventLog
from cluster.exits import CommandError, Exit, exit_of_node
from cluster.frames import ClusterFrame, ProcessState
from cluster.observer import Observer
from cluster.processes import NodeProcess
from cluster.selectors import Selection, select
from cluster.spec import ClusterSpec
from node.faults import FIELDS

__all__ = ["NODE_VERBS", "NodeVerb", "Operation", "Operations", "Wanted", "together"]

Operation = Generator[None, None, Any]
"""Yields while it waits; returns the reply's payload; raises `CommandError` to refuse."""

FRESH_TIMEOUT_S: Final = 0.25
"""A healthy node answers in about 1 ms; one that sits in a long fsync is reported with its age."""
KILL_TIMEOUT_S: Final = 10.0
FREEZE_TIMEOUT_S: Final = 5.0
START_TIMEOUT_S: Final = 30.0
"""Recovery of four full segments of 64 MiB takes well below 5 s on the slowest disk we know."""
BUSY_TIMEOUT_S: Final = 60.0

_ALIVE: Final = frozenset({ProcessState.RUNNING, ProcessState.FROZEN})
_ENDED: Final = frozenset({ProcessState.KILLED, ProcessState.STOPPED, ProcessState.CRASHED})


@dataclass(frozen=True, slots=True)
class NodeVerb:
    """What a verb needs of a node: the process states in which it applies."""

    applies_to: frozenset[ProcessState]
    run: Callable[[Operations, int], Operation] | None
    """None: `fault` says what is done to the node's disk."""
    fault: str = ""
    """A kind of `node.faults.FIELDS`; such verbs take options."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A verb, on whom, and how. `step` names the scenario's step that wants it, for the events."""

    action: str
    selector: str
    seed: int | None = None
    step: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Operations:
    """The operations of one supervisor, over its processes and what it observes."""

    spec: ClusterSpec
    processes: Mapping[int, NodeProcess]
    observer: Observer
    events: EventLog
    _busy: set[int] = field(default_factory=set)

    # --- looking ----------------------------------------------------------------------

    def fresh_frame(self) -> Operation:
        """Ask every node that runs, and return the frame once all answered (or 250 ms passed)."""
        asked_at = time.monotonic()
        self.observer.poll()
        waiting = {
            node
            for node, process in self.processes.items()
            if process.state is ProcessState.RUNNING
        }
        while waiting and time.monotonic() < asked_at + FRESH_TIMEOUT_S:
            yield
            self.observer.poll()  # asks again those that could not be reached a moment ago
            waiting -= {n for n in waiting if self.observer.answered_since(n, asked_at)}
            waiting -= {n for n in waiting if not self.processes[n].alive}
        return self.observer.frame(os.getpid())

    # --- acting on a selection --------------------------------------------------------

    def act(self, wanted: Wanted) -> Operation:
        """Resolve a selector and run a verb on every node it stands for, at the same time."""
        action, verb = wanted.action, NODE_VERBS.get(wanted.action)
        if verb is None:
            raise CommandError(
                Exit.USAGE, f"no action {action!r}; valid are: {', '.join(NODE_VERBS)}"
            )
        begin = self._prepared(verb, wanted)
        frame: ClusterFrame = yield from self.fresh_frame()
        candidates = tuple(n.node for n in frame.nodes if n.process.state in verb.applies_to)
        selection = select(wanted.selector, frame, candidates=candidates, seed=wanted.seed)
        yield from self._wait_until_free(selection.nodes)
        chosen = [n for n in selection.nodes if self.processes[n].state in verb.applies_to]
        skipped = [n for n in selection.nodes if n not in chosen]
        if not chosen:
            states = ", ".join(f"n{n} is {self.processes[n].state.value}" for n in skipped)
            raise CommandError(Exit.FAILED, f"{action}: {states}; nothing to do")
        self._busy.update(chosen)
        try:
            with self.events.credited(chosen, wanted.step):
                told = yield from together([begin(node) for node in chosen])
        finally:
            self._busy.difference_update(chosen)
        outcome = self._outcome(action, selection, chosen, skipped)
        outcome["notes"] += [text for text in told if text]
        return outcome

    def _prepared(self, verb: NodeVerb, wanted: Wanted) -> Callable[[int], Operation]:
        """Return what runs a verb on a node; `CommandError` (usage) for wrong options."""
        if verb.run is not None:
            if wanted.options:
                raise CommandError(Exit.USAGE, f"{wanted.action} takes no options")
            return partial(verb.run, self)
        from cluster.disks import prepare

        return prepare(self, verb.fault, wanted)

    def _wait_until_free(self, nodes: Iterable[int]) -> Operation:
        yield from _until(
            lambda: not self._busy & set(nodes), BUSY_TIMEOUT_S, "another operation is at work"
        )

    def _outcome(
        self, action: str, selection: Selection, chosen: list[int], skipped: list[int]
    ) -> dict[str, Any]:
        notes = list(selection.notes)
        notes += [f"n{node} skipped: {self.processes[node].state.value}" for node in skipped]
        states = {f"n{node}": self.processes[node].state.value for node in chosen}
        return {"action": action, "nodes": chosen, "states": states, "notes": notes}

    # --- one node ---------------------------------------------------------------------

    def kill(self, node: int) -> Operation:
        """SIGKILL, and wait until the process is gone."""
        process = self.processes[node]
        process.kill()
        yield from _until(lambda: not process.alive, KILL_TIMEOUT_S, f"n{node} does not die")

    def stop(self, node: int) -> Operation:
        """Stop cleanly, or by SIGKILL when the spec's stop timeout has passed."""
        process = self.processes[node]
        process.ask_to_stop()
        deadline = time.monotonic() + self.spec.stop_timeout_ms / 1000
        while process.alive and time.monotonic() < deadline:
            yield
        if process.alive:
            text = f"n{node} did not stop within {self.spec.stop_timeout_ms} ms: SIGKILL"
            self.events.add("forced", text, cause="system", node=node)
            yield from self.kill(node)

    def start(self, node: int) -> Operation:
        """Start a life and wait for its first answer; report the node's own error if it ends."""
        process = self.processes[node]
        started_at = time.monotonic()
        self.spawn(node)
        while not self.observer.answered_since(node, started_at):
            if not process.alive:
                raise self.start_error(node)
            if time.monotonic() > started_at + START_TIMEOUT_S:
                raise CommandError(
                    Exit.UNFIT,
                    f"n{node} runs but does not answer after {START_TIMEOUT_S:.0f} s; see"
                    f" {process.log.path}",
                )
            yield
            self.observer.poll()

    def spawn(self, node: int) -> None:
        """Start a life; the caller sees to it that there is none."""
        process = self.processes[node]
        try:
            process.spawn()
        except OSError as error:
            raise CommandError(
                Exit.UNFIT,
                f"n{node} cannot be started: {error.filename}: {error.strerror}; check that its disk is"
                " there, its owner, mode and free space",
            ) from None
        self.observer.forget(node)
        again = f", life {process.starts}" if process.starts > 1 else ""
        text = f"n{node} started (pid {process.pid}{again})"
        self.events.add("started", text, cause="user", node=node)

    def begin(self, node: int) -> None:
        """Start the first life; a node that cannot be started is a crashed one, and says why."""
        try:
            self.spawn(node)
        except CommandError as error:
            self.processes[node].fail_to_start(str(error))
            self.events.add("crashed", str(error), cause="system", node=node)

    def start_error(self, node: int) -> CommandError:
        """Say why a node's life ended at its start: its exit code and its own last words."""
        process = self.processes[node]
        exited = process.exited
        assert exited is not None
        lines = process.log.last_lines(1)
        words = lines[0] if lines else f"no output; see {process.log.path}"
        return CommandError(exit_of_node(exited.code), f"n{node} ended with {exited}: {words}")

    def restart(self, node: int) -> Operation:
        """Stop if alive, then start."""
        if self.processes[node].alive:
            yield from self.stop(node)
        yield from self.start(node)

    def pause(self, node: int) -> Operation:
        """SIGSTOP, and wait until the kernel shows the process as stopped."""
        self.processes[node].freeze()
        yield from self._until_state(node, ProcessState.FROZEN)

    def resume(self, node: int) -> Operation:
        """SIGCONT, and wait until the kernel shows the process as running."""
        self.processes[node].thaw()
        yield from self._until_state(node, ProcessState.RUNNING)

    def _until_state(self, node: int, wanted: ProcessState) -> Operation:
        def reached() -> bool:
            self.observer.look()
            return self.processes[node].state is wanted or not self.processes[node].alive

        yield from _until(reached, FREEZE_TIMEOUT_S, f"n{node} does not become {wanted.value}")
        if not self.processes[node].alive:
            raise CommandError(
                Exit.FAILED, f"n{node} ended meanwhile: {self.processes[node].exited}"
            )

    # --- the whole cluster ------------------------------------------------------------

    def stop_all(self) -> Operation:
        """Stop every living node: cleanly, then by force. Never refuses."""
        alive = [node for node, process in self.processes.items() if process.alive]
        yield from together([self.stop(node) for node in alive])
        return {"stopped": alive}


NODE_VERBS: Final[Mapping[str, NodeVerb]] = {
    "kill": NodeVerb(frozenset({ProcessState.RUNNING, ProcessState.FROZEN}), Operations.kill),
    "stop": NodeVerb(frozenset({ProcessState.RUNNING, ProcessState.FROZEN}), Operations.stop),
    "start": NodeVerb(_ENDED, Operations.start),
    "restart": NodeVerb(frozenset(ProcessState), Operations.restart),
    "pause": NodeVerb(frozenset({ProcessState.RUNNING}), Operations.pause),
    "resume": NodeVerb(frozenset({ProcessState.FROZEN}), Operations.resume),
} | {
    f"disk-{kind}": NodeVerb(
        _ALIVE if kind == "powercut" else frozenset({ProcessState.RUNNING}), None, kind
    )
    for kind in FIELDS
}
"""How each verb is done; `cluster.actions` says what it is called and explains it."""


def _until(condition: Callable[[], bool], timeout_s: float, complaint: str) -> Operation:
    """Wait for a condition; `CommandError` (unfit) after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise CommandError(Exit.UNFIT, f"{complaint} ({timeout_s:.0f} s)")
        yield


def together(operations: list[Operation]) -> Operation:
    """Run operations side by side until all have ended; return what they returned, in that order.

    Then raise the first error, if any.
    """
    errors: list[CommandError] = []
    returned: list[Any] = []
    while operations:
        for operation in list(operations):
            try:
                next(operation)
            except StopIteration as end:
                operations.remove(operation)
                returned.append(end.value)
            except CommandError as error:
                operations.remove(operation)
                errors.append(error)
        if operations:
            yield
    if errors:
        raise errors[0]
    return returned
