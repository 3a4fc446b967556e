"""Histories that are linearizable by construction: a real run of an object, seen from outside.

Each operation takes effect at one instant, in a known order; its invocation and its completion are
drawn around that instant. What benches and property tests judge is made here, from a seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cluster.check.history import Event, EventType, History, build_history

__all__ = ["SampleSpec", "sample_events", "sample_history"]

_STEP_NS: Final = 1_000


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """What to make. `crash_percent`: operations whose outcome nobody is told; half of them happen."""

    operations: int
    keys: int = 1
    processes: int = 5
    kind: str = "register"
    """register, unique (a register with values that never repeat), kv-append or counter."""
    crash_percent: float = 0.0
    values: int = 5
    seed: int = 1


@dataclass(slots=True)
class _Began:
    """An operation under way."""

    process: int
    f: str
    key: Hashable
    argument: Hashable
    result: Hashable = None
    done: bool = False
    """Whether it has taken effect."""
    applied: bool = True
    position: int | None = None


def sample_history(spec: SampleSpec) -> History:
    """Return a history that is linearizable."""
    return build_history(sample_events(spec))


def sample_events(spec: SampleSpec) -> Iterator[Event]:
    """Yield the events of a run; answers tell their position in the one order of all operations.

    Every process is idle, or has one operation that begins, takes effect, and ends: which process
    moves next is drawn, so up to `processes` operations overlap.
    """
    stream = random.Random(spec.seed)
    objects: dict[Hashable, Any] = {}
    idle = list(range(spec.processes))
    heapq.heapify(idle)
    under_way: list[_Began] = []
    nothing: Hashable = {"kv-append": "", "counter": 0}.get(spec.kind)
    left, position, now, newcomer = spec.operations, 0, 0, spec.processes
    while left or under_way:
        now += _STEP_NS
        choice = stream.randrange(spec.processes)
        if choice >= len(under_way):
            if left and idle:
                left -= 1
                under_way.append(_begin(spec, heapq.heappop(idle), left, stream))
                yield _event(under_way[-1], EventType.INVOKE, now)
            continue
        operation = under_way[choice]
        if not operation.done:
            operation.done = True
            crashes = stream.random() * 100 < spec.crash_percent
            if crashes:
                under_way.pop(choice)
                if stream.random() < 0.5:
                    position += _apply(operation, objects, position, nothing)
                yield _event(operation, EventType.INFO, now)
                heapq.heappush(idle, newcomer)  # who was not answered comes back as somebody else
                newcomer += 1
            else:
                position += _apply(operation, objects, position, nothing)
        else:
            under_way.pop(choice)
            heapq.heappush(idle, operation.process)
            yield _event(operation, EventType.OK if operation.applied else EventType.FAIL, now)


def _event(operation: _Began, type_: EventType, now: int) -> Event:
    value = operation.result if type_ is EventType.OK else operation.argument
    position = operation.position if type_ is EventType.OK else None
    return Event(operation.process, type_, operation.f, value, operation.key, now, position)


def _begin(spec: SampleSpec, process: int, number: int, stream: random.Random) -> _Began:
    key = f"k{stream.randrange(spec.keys)}"
    roll = stream.random()
    if spec.kind == "kv-append":
        f = "get" if roll < 0.45 else "append" if roll < 0.94 else "put"
        return _Began(process, f, key, None if f == "get" else f"x {process} {number} y")
    if spec.kind == "counter":
        return _Began(process, *(("read", key, None) if roll < 0.5 else ("add", key, 1)))
    if roll < 0.5:
        return _Began(process, "read", key, None)
    value = number + 1 if spec.kind == "unique" else stream.randrange(spec.values)
    if roll < 0.8 or spec.kind == "unique":
        return _Began(process, "write", key, value)
    return _Began(process, "cas", key, (stream.randrange(spec.values), value))


def _apply(
    operation: _Began, objects: dict[Hashable, Any], position: int, nothing: Hashable
) -> int:
    """Let an operation take effect; return 1 if that is a change."""
    key, f = operation.key, operation.f
    operation.result = operation.argument
    if f in ("read", "get"):
        operation.result = objects.get(key, nothing)
        operation.position = position
        return 0
    if f == "cas":
        assert isinstance(operation.argument, tuple)
        old, new = operation.argument
        operation.applied = objects.get(key) == old
        if not operation.applied:
            return 0
        objects[key] = new
    elif f == "append":
        objects[key] = objects.get(key, "") + operation.argument
    elif f == "add":
        objects[key] = objects.get(key, 0) + operation.argument
    else:
        objects[key] = operation.argument
    operation.position = position + 1
    return 1
