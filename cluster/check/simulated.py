"""The history and the replicas of a simulated world, as the judges take them.

Each operation of a simulated client is a process of its own (a client has up to three under way), so
intervals are all that counts. At equal instants invocations come first, which claims less. A batch is
one write per key: key by key, that is all that a register can see of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from cluster.check.history import Event, EventType, History, build_history
from cluster.check.replicas import Replica
from cluster.client_types import GetResult
from node.commands import OutcomeCode
from node.kv.machine import KeyValueMachine

if TYPE_CHECKING:
    from cluster.sim.oracle import Op
    from cluster.sim.world import World
    from node.raft.types import GroupId

__all__ = ["history_of", "replicas_of"]

_EVERYTHING: Final = [2, b"", b"", 0]
"""The query for all keys (ARCHITECTURE §8)."""


def history_of(operations: Iterable[Op]) -> History:
    """Return the operations of a world's clients as a history of registers, keys by group."""
    ends: list[tuple[int, int, Event]] = []
    for number, op in enumerate(operations):
        for begin, end in _parts(number, op):
            ends.append((op.invoked, 0, begin))
            if end is not None:
                ends.append((op.completed, 1, end))
    ends.sort(key=lambda found: found[:2])
    return build_history(event for _, _, event in ends)


def replicas_of(world: World, group: GroupId) -> list[Replica]:
    """Return what each node that is up holds of a group, and how far it has applied."""
    replicas = []
    for node in world.members():
        if not node.up:
            continue
        machine = node.machine(group)
        assert isinstance(machine, KeyValueMachine)
        (answer,) = machine.query_all([_EVERYTHING])
        assert isinstance(answer, list)
        _, rows, more = answer
        assert not more, "the simulator's keys fit one reply"
        items = {row[0]: tuple(row[1:]) for row in rows}
        replicas.append(Replica(f"n{node.node}", node.multi.groups[group].applied, items))
    return replicas


def _parts(number: int, op: Op) -> Iterator[tuple[Event, Event | None]]:
    """Yield the beginning and the end of each part of an operation."""
    if op.kind == "get":
        yield _part(op, f"{op.client}.{number}", "read", op.key, None)
    elif op.kind == "cas":
        yield _part(op, f"{op.client}.{number}", "cas", op.key, (op.expect, op.writes[op.key]))
    else:
        for place, (key, value) in enumerate(op.writes.items()):
            yield _part(op, f"{op.client}.{number}.{place}", "write", key, value)


def _part(
    op: Op, process: str, f: str, key: bytes, value: Hashable
) -> tuple[Event, Event | None]:  # fmt: skip
    place = (op.group, key)
    begin = Event(process, EventType.INVOKE, f, value, place, op.invoked)
    if op.status in ("open", "unknown"):
        return begin, None
    type_, said, position = EventType.FAIL, value, None
    if op.status == "ok":
        assert op.result is not None
        if isinstance(op.result, GetResult):
            type_, position = EventType.OK, op.result.revision
            said = None if op.result.item is None else op.result.item.value
        elif op.result.code == OutcomeCode.OK:
            type_, position = EventType.OK, op.revision
    return begin, Event(process, type_, f, said, place, op.completed, position)
