"""Plays a list of faults: who is hit when one begins, and what ends with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.sim.atlas import FaultAtlas
from cluster.sim.coverage import Mark
from cluster.sim.damage import DamagePlay, RotMoment
from cluster.sim.plan import MS
from cluster.sim.rng import Stream
from cluster.sim.schedule import DAMAGE, DEATHS, Fault, FaultKind
from node.raft.types import NodeId

if TYPE_CHECKING:
    from cluster.sim.world import World

__all__ = ["FaultPlay"]

_CUTS = (
    FaultKind.CUT, FaultKind.CUT_IN, FaultKind.CUT_OUT, FaultKind.BRIDGE, FaultKind.RING
)  # fmt: skip
_SOFT = (FaultKind.LOSS, FaultKind.DELAY, FaultKind.CORRUPT)
_CLOCKS = (FaultKind.CLOCK_RATE, FaultKind.CLOCK_JUMP)
_TRAP_NS = 60 * MS
"""How long a death waits for a write; a heartbeat interval, in which an idle node writes nothing."""
_RESTART_NS = 100 * MS
_FUSE_PERMILLE = 150
_FUSE_MAX = 8


class FaultPlay:
    """Begins and ends the faults of one world. Overlapping faults hold a node down together."""

    def __init__(self, world: World) -> None:
        """Play in `world`."""
        self._world = world
        self._down: dict[NodeId, set[int]] = {node: set() for node in world.nodes}
        self._paused: dict[NodeId, set[int]] = {node: set() for node in world.nodes}
        self._restarts = Stream(world.plan.seed, "restarts")
        self._damage = DamagePlay(world)
        self._swaps: dict[int, tuple[Fault, tuple[NodeId, ...]]] = {}
        self._exits = 0
        self._healed = False

    @property
    def atlas(self) -> FaultAtlas:
        """What was damaged so far, and what may be."""
        return self._damage.atlas

    def schedule(self, faults: Sequence[Fault]) -> None:
        """Put the faults on the heap."""
        for fault in faults:
            self._world.heap.at(fault.at_ns, self._begin, fault)

    def heal(self) -> None:
        """End everything: links whole, disks well, every process up.

        Who rots is started again, so that it notices or needs it no more; what rotted or was wiped
        stays out.
        """
        world = self._world
        for number in sorted(self._swaps):
            self._put_back(number)
        self._healed = True
        world.network.heal()
        for node in world.nodes.values():
            if node.up and node.node in self.atlas.flips:
                node.kill()
                world.connection_lost(node.node)
            node.disk.full = False
            node.disk.short = None
            node.disk.failing_syncs = node.disk.failing_writes = 0
            node.times.slow = 0
            node.clock.run_at(1000)
            self._down[node.node].clear()
            self._paused[node.node].clear()
            if not node.up:
                self._boot(node.node)
            elif node.paused:
                node.resume()

    def restart_later(self, node: NodeId) -> None:
        """Start a process again that has ended by itself."""
        self._exits += 1
        number = -self._exits
        self._down[node].add(number)
        self._world.heap.after(_RESTART_NS, self._end_death, node, number)

    # ---- one fault -----------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        if self._healed:
            return
        victims = self._victims(fault)
        if fault.kind in DAMAGE:
            victims = self._damage.spare(fault, victims)
            if not victims:
                self._world.note(
                    f"fault {fault} spares everybody: the atlas has nobody left for it"
                )
                return
        if fault.kind in DEATHS and fault.amount:
            self._await_write(fault, victims)
            return
        self._hit(fault, victims)

    def _await_write(self, fault: Fault, victims: tuple[NodeId, ...]) -> None:
        """Hit in the middle of the next write of the first victim, or after a while."""
        fired = False

        def fire() -> None:
            nonlocal fired
            if not fired and not self._healed:
                fired = True
                self._hit(fault, victims)

        self._world.nodes[victims[0]].trap = fire
        self._world.heap.after(_TRAP_NS, fire)

    def _hit(self, fault: Fault, victims: tuple[NodeId, ...]) -> None:
        self._world.fault_began(fault, victims)
        end = self._world.heap.now + fault.duration_ns
        at = self._world.heap.at
        if fault.kind in DEATHS:
            for node in victims:
                self._kill(node, fault)
            for node in victims:
                at(end, self._end_death, node, fault.number)
        elif fault.kind in DAMAGE:
            self._hurt(fault, victims, end)
        elif fault.kind is FaultKind.PAUSE:
            for node in victims:
                self._pause(node, fault.number)
                at(end, self._end_pause, node, fault.number)
        elif fault.kind in _CUTS:
            links = self._links(fault, victims)
            for link in links:
                self._world.network.link(*link).cuts += 1
            at(end, self._end_cut, links)
        elif fault.kind in _SOFT:
            self._change_links(fault, 1)
            at(end, self._end_links, fault)
        elif fault.kind in _CLOCKS:
            for node in victims:
                self._change_clock(node, fault)
                at(end, self._end_clock, node, fault)
        else:
            for node in victims:
                self._change_disk(node, fault, 1)
                at(end, self._end_disk, node, fault)

    def _hurt(self, fault: Fault, victims: tuple[NodeId, ...], end: int) -> None:
        """Take away what is stored, or a part of it."""
        at, damage = self._world.heap.at, self._damage
        if fault.kind is FaultKind.SWAP:
            for node in victims:
                self._kill(node, fault)
            damage.swap(fault, victims)
            self._swaps[fault.number] = fault, victims
            for node in victims:
                self._end_death(node, fault.number)  # in vain: what it finds is another's
            at(end, self._put_back, fault.number)
            return
        for node in victims:
            if fault.kind is FaultKind.WIPE:
                self._kill(node, fault)
                damage.wipe(fault, node)
                at(end, self._end_death, node, fault.number)
            elif fault.kind is FaultKind.ROT:
                self._rot(fault, node, end)
            else:
                damage.shorten(fault, node)
                at(end, self._end_short, node)

    def _rot(self, fault: Fault, node: NodeId, end: int) -> None:
        moment = self._damage.moment_of_rot(fault, node)
        if moment is not RotMoment.RUNNING:
            self._kill(node, fault)
        if moment is RotMoment.STARTED:
            self._end_death(node, fault.number)
        self._damage.rot(fault, node)
        if moment is RotMoment.DOWN:
            self._world.heap.at(end, self._end_death, node, fault.number)

    def _end_short(self, node: NodeId) -> None:
        self._world.nodes[node].disk.short = None

    def _put_back(self, number: int) -> None:
        """Put swapped directories back, and start their nodes."""
        if number not in self._swaps:
            return
        fault, pair = self._swaps.pop(number)
        for node in pair:
            self._kill(node, fault)
        self._damage.swap(fault, pair)
        for node in pair:
            self._world.nodes[node].out = ""
            self._end_death(node, fault.number)

    def _victims(self, fault: Fault) -> tuple[NodeId, ...]:
        """Resolve the victims' role as things stand now."""
        world = self._world
        everybody = list(world.nodes)
        order = Stream(world.plan.seed, "victims", fault.number).shuffled(everybody)
        quorum = len(everybody) // 2 + 1
        match fault.victims:
            case "leader":
                return (world.leader() or order[0],)
            case "one":
                return (order[0],)
            case "minority":
                return tuple(order[: max(1, len(everybody) - quorum)])
            case "majority":
                return tuple(order[:quorum])
            case _:
                return tuple(everybody)

    def _kill(self, node: NodeId, fault: Fault) -> None:
        victim = self._world.nodes[node]
        was_up = victim.up
        if fault.kind is FaultKind.POWER:
            victim.power_loss()
        elif was_up:
            victim.kill()
        self._down[node].add(fault.number)
        if was_up:
            self._world.connection_lost(node)

    def _end_death(self, node: NodeId, number: int) -> None:
        if self._healed and self._world.nodes[node].up:
            return
        self._down[node].discard(number)
        if not self._down[node] and not self._world.nodes[node].up:
            self._boot(node)

    def _boot(self, node: NodeId) -> None:
        """Start a node; now and then the power fails again in the middle of its recovery.

        Who refused what it found stays out, until it is put right.
        """
        if self._world.nodes[node].out:
            return
        fuse = None
        if not self._healed and self._restarts.chance(_FUSE_PERMILLE):
            fuse = self._restarts.below(_FUSE_MAX)
        victim = self._world.nodes[node]
        if not victim.boot(fuse):
            if not self._down[node] and not victim.out:
                self._world.note(f"node {node} loses power while it recovers")
                self._world.sometimes(Mark.POWER_IN_RECOVERY)
                self.restart_later(node)
        elif self._paused[node]:
            self._world.nodes[node].pause()

    def _pause(self, node: NodeId, number: int) -> None:
        self._paused[node].add(number)
        if self._world.nodes[node].up:
            self._world.nodes[node].pause()

    def _end_pause(self, node: NodeId, number: int) -> None:
        self._paused[node].discard(number)
        if not self._paused[node] and self._world.nodes[node].paused:
            self._world.nodes[node].resume()

    def _links(self, fault: Fault, victims: Sequence[NodeId]) -> list[tuple[int, int]]:
        """Return the directed links that a cut of whatever shape takes away."""
        links: list[tuple[int, int]] = []
        if fault.kind in (FaultKind.BRIDGE, FaultKind.RING):
            order = Stream(self._world.plan.seed, "shape", fault.number).shuffled(
                list(self._world.nodes)
            )
            apart = _bridged if fault.kind is FaultKind.BRIDGE else _ringed
            return [
                (source, target)
                for at, source in enumerate(order)
                for to, target in enumerate(order)
                if at != to and apart(at, to, len(order))
            ]
        for victim in victims:
            for other in self._world.nodes:
                if other in victims:
                    continue
                if fault.kind is not FaultKind.CUT_IN:
                    links.append((victim, other))
                if fault.kind is not FaultKind.CUT_OUT:
                    links.append((other, victim))
        return links

    def _end_cut(self, links: Sequence[tuple[int, int]]) -> None:
        if not self._healed:
            for link in links:
                self._world.network.link(*link).cuts -= 1

    def _change_links(self, fault: Fault, sign: int) -> None:
        for source in self._world.nodes:
            for target in self._world.nodes:
                link = self._world.network.link(source, target)
                if fault.kind is FaultKind.LOSS:
                    link.loss += sign * fault.amount
                elif fault.kind is FaultKind.CORRUPT:
                    link.corruption += sign * fault.amount
                else:
                    link.extra_delay += sign * fault.amount * MS

    def _end_links(self, fault: Fault) -> None:
        if not self._healed:
            self._change_links(fault, -1)

    def _change_disk(self, node: NodeId, fault: Fault, sign: int) -> None:
        victim = self._world.nodes[node]
        if fault.kind in (FaultKind.SLOW_DISK, FaultKind.STALL_DISK):
            victim.times.slow += sign * fault.amount * MS
        elif fault.kind is FaultKind.SYNC_ERROR:
            victim.disk.failing_syncs = 1 if sign > 0 else 0
        elif fault.kind is FaultKind.WRITE_ERROR:
            victim.disk.failing_writes = 1 if sign > 0 else 0
        else:
            victim.disk.full = sign > 0

    def _end_disk(self, node: NodeId, fault: Fault) -> None:
        if not self._healed:
            self._change_disk(node, fault, -1)

    def _change_clock(self, node: NodeId, fault: Fault) -> None:
        victim = self._world.nodes[node]
        if fault.kind is FaultKind.CLOCK_RATE:
            victim.clock.run_at(fault.amount)
        else:
            victim.clock.jump(fault.amount * MS)
        victim.clock_changed()

    def _end_clock(self, node: NodeId, fault: Fault) -> None:
        if not self._healed and fault.kind is FaultKind.CLOCK_RATE:
            self._world.nodes[node].clock.run_at(1000)
            self._world.nodes[node].clock_changed()


def _bridged(at: int, to: int, count: int) -> bool:
    """Tell whether two places are in different halves; the first place is in both."""
    return at > 0 and to > 0 and (at <= count // 2) != (to <= count // 2)


def _ringed(at: int, to: int, count: int) -> bool:
    """Tell whether two places on a ring are no neighbours."""
    return (at - to) % count not in (1, count - 1)
