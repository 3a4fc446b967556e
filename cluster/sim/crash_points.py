"""A crash at one operation of a disk, while snapshots are written and segments are used again.

A point is drawn from its seed: a kind of operation in one directory, the log's or the snapshots',
which of them from when on, whether before it or after it, and what happens there: the power goes
(what was not synced is lost, or torn), the process is killed, or frozen and then killed or thawed.

The cluster compacts and recycles all the time. The victim starts again and catches up, dies and
starts a second time (now and then power fails during that recovery, too), everybody agrees. Then
the lights go out: the logs are read as `wal verify` reads them, everybody starts from what is left,
and agrees on the same state once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from cluster.sim.campaign import SeedFailure, outcome_of
from cluster.sim.disk import DiskOperation, PowerCut, Trap
from cluster.sim.driver import DiskTimes
from cluster.sim.network import LinkProfile
from cluster.sim.node import Assemble, SimNode
from cluster.sim.plan import MS, SECOND, Plan
from cluster.sim.rng import Stream
from cluster.sim.world import LivenessError, World, WorldResult
from node.assembly import assemble
from node.compaction import CompactionPolicy
from wal import SyncPolicy
from wal.policy import Prepare
from wal.survey import recovered, walk

__all__ = [
    "CrashPoint",
    "CrashPointWorld",
    "Death",
    "draw_point",
    "outcome_at",
    "plan_of",
    "run_point",
]

LOG: Final = "wal"
SNAPSHOTS: Final = "snap"
_PLACES: Final = tuple((kind, where) for kind in DiskOperation for where in (LOG, SNAPSHOTS))
_SEGMENT_BYTES: Final = 16 << 10
_SAFETY_NS: Final = 2 * SECOND
_ARMED_NS: Final = (300 * MS, 900 * MS)
_LOOK_NS: Final = 10 * MS
_PASSING_MAX: Final = {
    DiskOperation.CREATE: (2, 2),
    DiskOperation.WRITE: (40, 12),
    DiskOperation.SYNC: (12, 3),
    DiskOperation.RENAME: (3, 2),
    DiskOperation.UNLINK: (2, 2),
    DiskOperation.SYNC_DIR: (6, 3),
}
"""How many operations of a kind pass at most before the point, in the log's directory and in that
of the snapshots; a second brings more."""


class Death(Enum):
    """What happens at the point."""

    POWER = "power"
    """Whatever was not synced is lost."""
    TORN = "torn"
    """A drawn part of it is not."""
    KILL = "kill"
    """The process ends; the disk's cache survives."""
    FREEZE = "freeze"
    """The process stops there; later it goes on, or is killed."""


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Where a node is hit, how, and what comes next."""

    seed: int
    kind: DiskOperation
    directory: str
    passing: int
    after: bool
    death: Death
    leader: bool
    """Whether the victim leads when the trap is set."""
    armed_ns: int
    down_ns: int
    thaws: bool
    second: Death
    second_after_ns: int
    fuse: int | None
    """Operations until power fails in the second recovery."""

    def __str__(self) -> str:
        return (
            f"{self.death.value} {'after' if self.after else 'before'} {self.kind.value} number"
            f" {self.passing} in {self.directory}, then {self.second.value}"
        )


def draw_point(seed: int) -> CrashPoint:
    """Draw the point of a seed. Any 48 seeds in a row hold every place with every death."""
    stream = Stream(seed, "crash point")
    kind, directory = _PLACES[seed % len(_PLACES)]
    return CrashPoint(
        seed=seed,
        kind=kind,
        directory=directory,
        passing=stream.below(_PASSING_MAX[kind][directory == SNAPSHOTS] + 1),
        after=stream.chance(500),
        death=list(Death)[seed // len(_PLACES) % len(Death)],
        leader=stream.chance(500),
        armed_ns=stream.between(*_ARMED_NS),
        down_ns=stream.between(1, 300) * MS,
        thaws=stream.chance(500),
        second=stream.pick((Death.POWER, Death.TORN, Death.KILL)),
        second_after_ns=stream.below(60 * MS),
        fuse=stream.below(8) if stream.chance(400) else None,
    )


def plan_of(point: CrashPoint) -> Plan:
    """Draw a cluster that compacts and recycles all the time; it has no other faults."""
    stream = Stream(point.seed, "crash plan")
    recycling: Prepare = "recycle"
    if point.directory == LOG and point.kind in (DiskOperation.UNLINK, DiskOperation.CREATE):
        recycling = stream.pick(("append", "zero_fill", "fallocate"))  # no file is kept
    return Plan(
        seed=point.seed,
        nodes=3,
        groups=stream.pick((1, 2, 3, 4)),
        clients=3,
        operations=40,
        keys=stream.between(3, 8),
        safety_ns=_SAFETY_NS,
        liveness_ns=12 * SECOND,
        heartbeat_ms=50,
        election_ms_min=150,
        election_ms_max=300,
        links=LinkProfile(delay_min=50_000, delay_spread=200_000, delay_tail=5 * MS),
        policy=SyncPolicy(
            segment_bytes=_SEGMENT_BYTES,
            fill_step_bytes=stream.pick((4 << 10, _SEGMENT_BYTES)),
            prepare=recycling,
            spare_segments_max=stream.pick((1, 2)),
            job_records_max=stream.pick((2, 8, 256)),
        ),
        faults=(),
        disk=DiskTimes(sync_min=stream.pick((100_000, 2 * MS)), sync_spread=500_000),
        compaction=CompactionPolicy(
            log_bytes_min=stream.between(2_000, 10_000),
            trailing_bytes=stream.pick((0, 3_000, 9_000)),
            pinned_segments_max=stream.pick((0, 0, 1, 2)),
            look_ns=stream.between(5, 30) * MS,
        ),
        value_bytes=(300, 2_500, 4_000),
        torn=False,
    )


class CrashPointWorld(World):
    """One cluster, one point, two deaths; then the lights go out."""

    option = " --crash-points"

    def __init__(
        self, point: CrashPoint, build: Assemble = assemble, *, tracing: bool = False
    ) -> None:
        """Set everything up; the trap is laid later."""
        super().__init__(plan_of(point), build, tracing=tracing)
        self.point = point
        self.struck = ""
        """The path at which the trap sprang."""
        self.deaths = 0
        self.segments_recycled = 0
        self._over = False
        self._goals: list[int] = []
        self._torn = Stream(point.seed, "crash torn")
        self.heap.at(point.armed_ns, self._arm)

    def run(self) -> WorldResult:
        """Run to agreement, take the power away everywhere, look at the logs, agree again."""
        super().run()
        for node in self.nodes.values():
            self.segments_recycled += node.store.log.stats().segments_recycled
            node.kill()
            node.disk.power_loss(self._torn)
        for node in self.nodes.values():
            self._check_log(node)
        for node in self.nodes.values():
            assert node.boot()
        end = self.heap.now + self.plan.liveness_ns
        while not self._agreed():
            if self.heap.now >= end:
                raise LivenessError(self._what_is_missing())
            self.heap.run_until(self.heap.now + _LOOK_NS)
        result = self._judge()
        result.faults = 2  # the point, and the second death
        return result

    def _agreed(self) -> bool:
        if not self.struck:
            for node in self.nodes.values():
                node.disk.trap = None
            self._over = True
        return self._over and super()._agreed()

    @staticmethod
    def _check_log(node: SimNode) -> None:
        """Read a log that nobody has open, as `wal verify` does, and every frame of it."""
        found = recovered(node.disk, LOG)
        damaged = [sight for sight in walk(node.disk, LOG) if sight.damage and sight.proved]
        assert not damaged, f"node {node.node}: {damaged[0]}"
        assert found.frames, f"node {node.node}: the log is empty"

    # ---- the point -----------------------------------------------------------------------

    def _arm(self) -> None:
        leader = self.leader()
        others = [number for number in self.nodes if number != leader]
        number = leader if self.point.leader and leader is not None else others[0]
        victim = self.nodes[number]
        point = self.point

        def spring(path: str) -> None:
            self._strike(victim, path)

        victim.disk.trap = Trap(point.kind, point.directory, point.passing, point.after, spring)

    def _strike(self, node: SimNode, path: str) -> None:
        """Hit the victim where it stands."""
        self.struck = path
        self.note(f"crash point: {self.point} ({path}) hits node {node.node}")
        point = self.point
        if point.death is Death.FREEZE:
            node.pause()
            self.heap.after(point.down_ns, self._thaw, node)
            return
        self._end(node, point.death)
        self.heap.after(point.down_ns, self._start, node)
        raise PowerCut

    def _thaw(self, node: SimNode) -> None:
        if self.point.thaws:
            node.resume()
            self._expect(node)
        else:
            self._end(node, Death.KILL)
            self.heap.after(self.point.down_ns, self._start, node)

    def _end(self, node: SimNode, death: Death) -> None:
        self.deaths += 1
        node.kill()
        if death is not Death.KILL:
            node.disk.power_loss(self._torn if death is Death.TORN else None)
        self.connection_lost(node.node)

    def _start(self, node: SimNode) -> None:
        if not node.up:  # when everything heals, whoever is down is started
            assert node.boot()
        self._expect(node)

    def _expect(self, node: SimNode) -> None:
        """Wait until the victim has all that is committed now."""
        self._goals = [watch.committed_index for watch in self.watches]
        self._look(node)

    def _look(self, node: SimNode) -> None:
        groups = node.multi.groups
        if all(groups[number].applied >= self._goals[number] for number in self.groups):
            self.heap.after(self.point.second_after_ns, self._strike_again, node)
        else:
            self.heap.after(_LOOK_NS, self._look, node)

    def _strike_again(self, node: SimNode) -> None:
        self.note(f"node {node.node} dies a second time: {self.point.second.value}")
        self._end(node, self.point.second)
        self.heap.after(self.point.down_ns, self._start_again, node)

    def _start_again(self, node: SimNode) -> None:
        if not node.up and not node.boot(self.point.fuse):
            self.note(f"node {node.node} loses power while it recovers")
            assert node.boot()
        self._over = True


def run_point(
    seed: int, build: Assemble = assemble
) -> tuple[CrashPointWorld, WorldResult | SeedFailure]:
    """Run the point of a seed; return its world, for what happened there, and how it ended."""
    world = CrashPointWorld(draw_point(seed), build)
    return world, outcome_of(world)


def outcome_at(seed: int, build: Assemble = assemble) -> WorldResult | SeedFailure:
    """Run the point of a seed (`campaign.run_campaign`); one that nobody reached is a failure."""
    world, outcome = run_point(seed, build)
    if not world.struck and not isinstance(outcome, SeedFailure):
        text = f"{world.point}: never reached"
        return SeedFailure(seed, "unreached", text, world.heap.now, world.option)
    return outcome
