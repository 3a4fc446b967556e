"""What the supervisor does to the disks of nodes on request: it hands a fault to the node itself.

The node applies it, ends it by itself, and tells how it stands (`node.faults`). A power cut is the
node's own last act, so that it can say what it took along; where it cannot act (frozen, or too busy),
SIGKILL does the same.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from cluster.exits import CommandError, Exit
from cluster.frames import ProcessState
from cluster.operations import Operation, Operations, Wanted
from node.faults import NEEDS_POWER_LOSS, FaultError, decode_fault

__all__ = ["prepare"]

ANSWER_TIMEOUT_S: Final = 5.0
"""A node answers in about 1 ms; one that recovers from a stall may take a second."""
CUT_TIMEOUT_S: Final = 2.0
"""A torn cut writes what was not synced, sector by sector."""
END_TIMEOUT_S: Final = 10.0
LAST_LINES: Final = 8
_SEEDED: Final = frozenset({"torn", "flip"})
"""Kinds that draw: without a seed they get one, and say which."""


def prepare(operations: Operations, kind: str, wanted: Wanted) -> Callable[[int], Operation]:
    """Return what does a disk verb to a node; `CommandError` if its options make no sense."""
    args: dict[str, Any] = {**wanted.options, "kind": kind}
    if kind in _SEEDED and "seed" not in args:
        drawn = random.SystemRandom().randrange(1 << 32)
        args["seed"] = drawn if wanted.seed is None else wanted.seed
    try:
        decode_fault(args)
    except FaultError as error:
        raise CommandError(Exit.USAGE, str(error)) from None
    if kind in NEEDS_POWER_LOSS:
        if not operations.spec.power_loss:
            raise CommandError(
                Exit.FAILED,
                f"disk {kind}: cluster {operations.spec.name!r} is not in power-loss mode, so that"
                " a killed node loses nothing; end it, then: raftdeck up --power-loss"
                f" --data {operations.spec.data_dir}",
            )
        return lambda node: _cut(operations, node, args)
    return lambda node: _inject(operations, node, args)


def _inject(operations: Operations, node: int, args: Mapping[str, Any]) -> Operation:
    """Let a node apply a fault; return what it says."""
    kind = args["kind"]
    payload = yield from _asked(operations, node, args)
    lines = [str(line) for line in payload["lines"]]
    if kind != "show":
        text = f"n{node} disk {kind}: {'; '.join(lines)}"
        operations.events.add("fault", text, cause="user", node=node)
    seed = f" (--seed {args['seed']})" if kind in _SEEDED else ""
    return "\n".join(f"n{node}: {line}{seed}" for line in lines)


def _asked(operations: Operations, node: int, args: Mapping[str, Any]) -> Operation:
    observer, process = operations.observer, operations.processes[node]
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    number: int | None = None
    while time.monotonic() < deadline:
        if not process.alive:
            raise CommandError(Exit.FAILED, f"n{node} ended meanwhile: {process.exited}")
        if number is None:
            number = observer.ask(node, "fault", args)
        elif (reply := observer.answer(number)) is not None:
            if not reply.ok:
                raise CommandError(Exit.FAILED, f"n{node}: {reply.payload}")
            return reply.payload
        yield
    raise CommandError(Exit.UNFIT, f"n{node} does not answer ({ANSWER_TIMEOUT_S:.0f} s)")


def _cut(operations: Operations, node: int, args: Mapping[str, Any]) -> Operation:
    """Cut the power of a node, and wait until it is gone; return what it took along."""
    process, began = operations.processes[node], time.monotonic()
    process.expect_end()
    if process.state is ProcessState.RUNNING:
        operations.observer.ask(node, "fault", args)
    while process.alive:
        late = time.monotonic() - began
        if late > END_TIMEOUT_S:
            raise CommandError(Exit.UNFIT, f"n{node} does not die ({END_TIMEOUT_S:.0f} s)")
        if late > CUT_TIMEOUT_S or process.state is ProcessState.FROZEN:
            process.kill()
        yield
    words = [line for line in process.log.last_lines(LAST_LINES) if "power cut: " in line]
    effect = words[-1].partition("power cut: ")[2] if words else "killed from outside"
    text = f"n{node} lost its power"
    operations.events.add("power cut", text, cause="user", node=node, effect=effect)
    seed = f" (--seed {args['seed']})" if "seed" in args else ""
    return f"n{node}: {effect}{seed}"
