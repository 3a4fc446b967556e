"""What one seed is: sizes, latencies, policies, and the list of faults. Drawn once, then fixed."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.sim.driver import DiskTimes
from cluster.sim.network import LinkProfile
from cluster.sim.rng import Stream
from cluster.sim.schedule import Fault, draw_faults
from node.compaction import CompactionPolicy
from wal import SyncPolicy
from wal.compression import Codec
from wal.policy import Prepare

__all__ = ["MS", "SECOND", "Plan", "draw_plan"]

MS = 1_000_000
SECOND = 1_000 * MS

_SEGMENT_BYTES = 64 << 10
_FILL_STEP_BYTES = 16 << 10
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

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes, 1 to n."""
        return tuple(range(1, self.nodes + 1))


def draw_plan(seed: int) -> Plan:
    """Draw the plan of a seed."""
    stream = Stream(seed, "plan")
    nodes = 5 if stream.chance(350) else 3
    groups = stream.pick((1, 1, 1, 1, 2, 2, 3, 4))
    clients = stream.between(2, 4)
    fast = stream.chance(700)
    safety_ns = stream.between(3500, 6500) * MS
    small = stream.chance(500)
    sliced = stream.chance(400)
    policy = SyncPolicy(
        segment_bytes=_FILL_STEP_BYTES if small else _SEGMENT_BYTES,
        fill_step_bytes=_FILL_STEP_BYTES,
        prepare=stream.pick(_PREPARATIONS),
        job_records_max=stream.pick((2, 8, 256)),
    )
    return Plan(
        seed=seed,
        nodes=nodes,
        groups=groups,
        clients=clients,
        operations=-(-stream.between(80, 130) // clients),
        keys=stream.between(2, 6),
        safety_ns=safety_ns,
        liveness_ns=12 * SECOND,
        heartbeat_ms=50,
        election_ms_min=150,
        election_ms_max=300,
        links=_draw_links(stream, fast),
        policy=policy,
        faults=draw_faults(seed, safety_ns),
        disk=_draw_disk(stream),
        compaction=_draw_compaction(seed),
        turn_ns=stream.pick((200_000, MS, 3 * MS) if sliced else (5_000, 20_000, 200_000)),
        apply_ns=0 if sliced else 5 * MS,
        codec=stream.chance(60),
        torn=stream.chance(600),
        reports_death=stream.chance(600),
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
