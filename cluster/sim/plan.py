"""What one seed is: sizes, latencies, policies, and the list of faults. Drawn once, then fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from cluster.sim.driver import DiskTimes
from cluster.sim.network import LinkProfile
from cluster.sim.rng import Stream
from cluster.sim.schedule import ALL_KINDS, Fault, FaultKind, draw_faults
from node.compaction import CompactionPolicy
from wal import SyncPolicy
from wal.compression import Codec
from wal.policy import Prepare

__all__ = ["DEFAULT_PROFILE", "MS", "PROFILES", "SECOND", "Plan", "Profile", "draw_plan"]

Profile = Literal["lite", "swarm", "soak"]
DEFAULT_PROFILE: Profile = "lite"
PROFILES: tuple[Profile, ...] = get_args(Profile)
"""lite: five nodes and eight virtual seconds, every kind of fault. swarm: sizes, latencies and the
kinds of faults themselves are drawn. soak: a minute of many faults."""

MS = 1_000_000
SECOND = 1_000 * MS

_SEGMENT_BYTES = 64 << 10
_FILL_STEP_BYTES = 16 << 10
_LITE_FAULTS = (3, 7)
_LITE_OPERATIONS_MIN = 60
_SOAK_FAULTS = (30, 60)
_SOAK_DAMAGE = (2, 3, 4, 5)
_PREPARATIONS: tuple[Prepare, ...] = ("recycle", "append", "zero_fill", "fallocate")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a world needs to know; `faults` may be replaced (by a shorter list)."""

    seed: int
    nodes: int
    groups: int
    clients: int
    operations: int
    """Per client, before the last one that must be acknowledged."""
    keys: int
    safety_ns: int
    """Until here faults begin; then everything heals."""
    liveness_ns: int
    """How long a healed cluster may take to answer and to agree."""
    heartbeat_ms: int
    election_ms_min: int
    election_ms_max: int
    links: LinkProfile
    policy: SyncPolicy
    faults: tuple[Fault, ...]
    disk: DiskTimes = field(default_factory=DiskTimes)
    compaction: CompactionPolicy = field(default_factory=CompactionPolicy)
    compression: Codec = Codec.NONE
    """Never drawn: what a seed is must not depend on which packages are installed."""
    value_bytes: tuple[int, ...] = (8, 60, 60, 700, 2500)
    """What the values of puts are drawn from. A torn write needs writes of several sectors."""
    turn_ns: int = 20_000
    """From the arrival of something to the turn that takes it in."""
    apply_ns: int = 5 * MS
    """The slice of `MultiRaft.turn`; 0 applies one batch per turn."""
    codec: bool = False
    """Whether peer messages travel as the bytes of `node.codec`."""
    torn: bool = False
    """Whether a power cut tears (some unsynced sectors survive) instead of losing all of them."""
    reports_death: bool = True
    """Whether peers and clients notice a dead process at once, as a broken connection tells."""
    operations_min: int = 0
    """Per client: who has had fewer of them when everything heals goes on, without pauses."""
    pace_ns: int = 100 * MS
    """Longest pause of a client of one operation at a time, between two of them."""
    skipped: tuple[tuple[int, int], ...] = ()
    """Operations that are left out: (client, number), both from 1."""
    profile: str = ""
    """The profile that it was drawn by; empty for one of another kind."""
    virtual_ns_min: int = 0
    """How long the world runs at least, also if everybody agrees before."""

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes, 1 to n."""
        return tuple(range(1, self.nodes + 1))


def draw_plan(seed: int, profile: Profile = DEFAULT_PROFILE) -> Plan:
    """Draw the plan of a seed. ValueError for a profile that does not exist."""
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is not one of {', '.join(PROFILES)}")
    plan = _DRAWN[profile](seed)
    corrupts = any(fault.kind is FaultKind.CORRUPT for fault in plan.faults)
    if corrupts and Stream(seed, "codec").chance(500):
        return replace(plan, codec=True)  # what has no bytes cannot have a flipped bit
    return plan


def _draw_swarm(seed: int) -> Plan:
    stream = Stream(seed, "plan")
    nodes = stream.pick((3, 3, 3, 3, 5, 5, 5, 7, 1, 2))
    groups = stream.pick((1, 1, 1, 1, 2, 2, 3, 4))
    clients = stream.between(2, 4)
    fast = stream.chance(700)
    safety_ns = stream.between(3500, 6500) * MS
    small = stream.chance(500)
    sliced = stream.chance(400)
    heartbeat_ms = stream.pick((20, 50, 50, 50, 100))
    policy = _draw_policy(stream, small)
    operations = -(-stream.between(80, 130) // clients)
    return Plan(
        seed=seed,
        nodes=nodes,
        groups=groups,
        clients=clients,
        operations=operations,
        pace_ns=2 * safety_ns // operations,
        keys=stream.between(2, 6),
        safety_ns=safety_ns,
        liveness_ns=12 * SECOND,
        heartbeat_ms=heartbeat_ms,
        election_ms_min=3 * heartbeat_ms,
        election_ms_max=6 * heartbeat_ms,
        links=_draw_links(stream, fast),
        policy=policy,
        faults=draw_faults(seed, safety_ns, _draw_kinds(seed)),
        profile="swarm",
        disk=_draw_disk(stream),
        compaction=_draw_compaction(seed),
        turn_ns=stream.pick((200_000, MS, 3 * MS) if sliced else (5_000, 20_000, 200_000)),
        apply_ns=0 if sliced else 5 * MS,
        codec=stream.chance(60),
        torn=stream.chance(600),
        reports_death=stream.chance(600),
    )


def _draw_lite(seed: int) -> Plan:
    """Draw five nodes on a quiet network for eight virtual seconds; faults begin in the first six."""
    stream = Stream(seed, "lite")
    clients = stream.between(2, 4)
    heartbeat_ms = stream.between(100, 250)
    safety_ns = 6 * SECOND
    small = stream.chance(500)
    policy = _draw_policy(stream, small)
    operations = -(-stream.between(84, 110) // clients)
    return Plan(
        seed=seed,
        nodes=5,
        groups=1,
        clients=clients,
        operations=operations,
        operations_min=-(-_LITE_OPERATIONS_MIN // clients),
        pace_ns=2 * safety_ns // operations,
        keys=stream.between(1, 4),
        safety_ns=safety_ns,
        liveness_ns=20 * SECOND,
        heartbeat_ms=heartbeat_ms,
        election_ms_min=3 * heartbeat_ms,
        election_ms_max=6 * heartbeat_ms,
        links=_draw_links(stream, fast=True),
        policy=policy,
        faults=draw_faults(seed, safety_ns, counts=_LITE_FAULTS),
        disk=_draw_disk(stream),
        compaction=_draw_compaction(seed),
        turn_ns=stream.pick((20_000, 200_000, MS)),
        apply_ns=0 if stream.chance(300) else 5 * MS,
        codec=stream.chance(30),
        torn=stream.chance(600),
        reports_death=stream.chance(600),
        profile="lite",
        virtual_ns_min=8 * SECOND,
    )


def _draw_soak(seed: int) -> Plan:
    """Draw a minute of many faults over what swarm draws, with more nodes and operations."""
    plan = _draw_swarm(seed)
    stream = Stream(seed, "soak")
    return replace(
        plan,
        nodes=stream.pick((3, 5, 5, 7)),
        operations=10 * plan.operations,
        safety_ns=60 * SECOND,
        faults=draw_faults(seed, 60 * SECOND, counts=_SOAK_FAULTS, damage=_SOAK_DAMAGE),
        profile="soak",
    )


_DRAWN: dict[Profile, Callable[[int], Plan]] = {
    "lite": _draw_lite,
    "swarm": _draw_swarm,
    "soak": _draw_soak,
}


def _draw_kinds(seed: int) -> tuple[FaultKind, ...]:
    """Draw which kinds of faults a seed has at all: a few of them, or all.

    Kinds that are never seen together hide each other's findings (swarm testing, Groce et al. 2012).
    """
    stream = Stream(seed, "kinds")
    if stream.chance(400):
        return ALL_KINDS
    kinds = tuple(kind for kind in ALL_KINDS if stream.chance(500))
    return kinds or ALL_KINDS


def _draw_policy(stream: Stream, small: bool) -> SyncPolicy:
    return SyncPolicy(
        segment_bytes=_FILL_STEP_BYTES if small else _SEGMENT_BYTES,
        fill_step_bytes=_FILL_STEP_BYTES,
        prepare=stream.pick(_PREPARATIONS),
        job_records_max=stream.pick((2, 8, 256)),
    )


def _draw_links(stream: Stream, fast: bool) -> LinkProfile:
    return LinkProfile(
        delay_min=stream.between(20, 100) * 1000 if fast else stream.between(1, 5) * MS,
        delay_spread=stream.between(50, 400) * 1000 if fast else stream.between(1, 15) * MS,
        delay_tail=stream.between(1, 40) * MS,
        loss=stream.pick((0, 0, 5, 20, 60)),
        duplication=stream.pick((0, 0, 10, 50)),
        in_order=stream.chance(500),
    )


def _draw_disk(stream: Stream) -> DiskTimes:
    slow = stream.chance(300)
    return DiskTimes(
        wake=stream.between(5, 50) * 1000,
        operation=stream.between(5, 40) * 1000,
        sync_min=stream.between(1, 8) * MS if slow else stream.between(50, 300) * 1000,
        sync_spread=stream.between(1, 20) * MS if slow else stream.between(100, 900) * 1000,
    )


def _draw_compaction(seed: int) -> CompactionPolicy:
    """Draw how eagerly the nodes of a seed compact, and what a group may pin.

    Two in five take no snapshots: what is given back then is what was appended again.
    """
    stream = Stream(seed, "compaction", 0)
    pinned = stream.pick((0, 0, 1, 4))
    if stream.below(5) < 2:
        return CompactionPolicy(1 << 40, 1 << 40, pinned)
    log_bytes_min, trailing_bytes = 1_000 + stream.below(4_000), stream.below(4_000)
    return CompactionPolicy(log_bytes_min, trailing_bytes, pinned)
