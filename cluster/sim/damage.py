"""Plays the faults that take stored bytes away: short writes, bit rot, emptied and swapped directories.

`FaultPlay` says when a fault begins and ends and who is hit; here is what happens to the disks, and
to whom the atlas lets it happen (`cluster.sim.atlas`). A victim that may not be hit is spared, and the
trace says so.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final

from cluster.sim.atlas import FaultAtlas, turn_bits
from cluster.sim.rng import Stream
from cluster.sim.schedule import Fault, FaultKind
from node.raft.types import NodeId

if TYPE_CHECKING:
    from cluster.sim.world import World

__all__ = ["DamagePlay", "RotMoment"]

_SWAPPED: Final = 2


class RotMoment(Enum):
    """When bits turn over."""

    RUNNING = "running"
    """Found by a later start; what was written in this life is in memory as well."""
    STARTED = "started"
    """The node has just read its log, whole, and has nothing of it in memory: found by reading back."""
    DOWN = "down"
    """Found by the start at the end of the fault."""


class DamagePlay:
    """Damages the disks of one world, within its atlas."""

    def __init__(self, world: World) -> None:
        """Play in `world`."""
        self._world = world
        self.atlas = FaultAtlas(len(world.nodes))

    def spare(self, fault: Fault, victims: Sequence[NodeId]) -> tuple[NodeId, ...]:
        """Return the victims that may be hit; of a swap a pair, or nobody."""
        atlas = self.atlas
        if fault.kind is FaultKind.SHORT_WRITE:
            return tuple(victims)
        if fault.kind is FaultKind.SWAP:
            return self._pair(fault, victims)
        admitted: list[NodeId] = []
        left = (atlas.nodes - 1) // 2 - len(atlas.damaged)
        for victim in victims:
            again = victim in atlas.damaged
            if atlas.may_damage(victim) and (again or left > 0):
                admitted.append(victim)
                left -= not again
        return tuple(admitted)

    def _pair(self, fault: Fault, victims: Sequence[NodeId]) -> tuple[NodeId, ...]:
        others = Stream(self._world.plan.seed, "swap", fault.number).shuffled(
            list(self._world.nodes)
        )
        ordered = dict.fromkeys([*victims[:1], *others])
        pair = [node for node in ordered if self.atlas.may_swap(node)][:_SWAPPED]
        return tuple(pair) if len(pair) == _SWAPPED else ()

    # ---- what happens to a disk ----------------------------------------------------------

    def shorten(self, fault: Fault, node: NodeId) -> None:
        """Let the next write of a node end half-way."""
        stream = Stream(self._world.plan.seed, "short", fault.number, node)
        code = errno.EIO if fault.amount else errno.ENOSPC
        self._world.nodes[node].disk.short = stream, code

    def moment_of_rot(self, fault: Fault, node: NodeId) -> RotMoment:
        """Draw what a node does when its disk rots: each moment meets another check of the product."""
        stream = Stream(self._world.plan.seed, "rot moment", fault.number, node)
        return stream.pick(tuple(RotMoment))

    def rot(self, fault: Fault, node: NodeId) -> None:
        """Turn bits over on a node's disk."""
        stream = Stream(self._world.plan.seed, "rot", fault.number, node)
        disk = self._world.nodes[node].disk
        flips = turn_bits(disk, fault.amount, stream, self.atlas.flips.get(node, ()))
        if flips:
            self.atlas.flips.setdefault(node, []).extend(flips)
        for flip in flips:
            self._world.note(f"node {node}: a bit turns over in {flip.path}, byte {flip.offset}")

    def wipe(self, fault: Fault, node: NodeId) -> None:
        """Empty the directory of a node that is down: with an amount, all but the small files."""
        disk = self._world.nodes[node].disk
        disk.wipe()
        if not fault.amount:
            disk.kept.clear()
        self.atlas.wiped.add(node)

    def swap(self, fault: Fault, pair: Sequence[NodeId]) -> None:
        """Give two nodes that are down each other's directory; a second time puts them back."""
        one, other = (self._world.nodes[node].disk for node in pair)
        one.exchange(other)
        if not fault.amount:
            one.kept, other.kept = other.kept, one.kept
        self.atlas.swapped ^= set(pair)
