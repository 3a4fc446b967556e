"""The faults of one seed as a list of values; each fault draws from a stream of its own.

A fault names its victims by role where it can ("leader"), resolved when it begins. Every fault has
a duration, and ends by itself; the world heals whatever is left at the end of the safety phase.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from cluster.sim.rng import Stream

__all__ = ["ALL_KINDS", "DAMAGE", "DEATHS", "Fault", "FaultKind", "draw_faults"]

_MS = 1_000_000


class FaultKind(Enum):
    """What a fault does to its victims for its duration."""

    CRASH = "crash"
    """The process dies (SIGKILL) and is started again at the end; the disk's cache survives."""
    POWER = "power"
    """As CRASH, and the disk loses its cache."""
    PAUSE = "pause"
    """The process stops (SIGSTOP) and goes on at the end."""
    CUT = "cut"
    """No frame passes between victims and the others, either way."""
    CUT_OUT = "cut-out"
    """What victims send to the others is lost; they still hear them."""
    CUT_IN = "cut-in"
    """What the others send to victims is lost; they are still heard."""
    LOSS = "loss"
    """All links lose `amount` permille."""
    DELAY = "delay"
    """All links delay by up to `amount` ms."""
    SLOW_DISK = "slow-disk"
    """Syncs of victims take `amount` ms longer."""
    SYNC_ERROR = "sync-error"
    """The next sync of victims fails with EIO; their process exits, as it must, and restarts."""
    DISK_FULL = "disk-full"
    """Files of victims refuse to grow."""
    STALL_DISK = "stall-disk"
    """Syncs that victims begin take `amount` ms longer: several election timeouts."""
    WRITE_ERROR = "write-error"
    """The next write of victims fails with EIO."""
    BRIDGE = "bridge"
    """Two halves do not hear each other; one node hears both."""
    RING = "ring"
    """Every node hears its two neighbours only."""
    CORRUPT = "corrupt"
    """All links flip a bit in `amount` permille of their frames."""
    CLOCK_RATE = "clock-rate"
    """The clocks of victims run at `amount` permille of the others' rate."""
    CLOCK_JUMP = "clock-jump"
    """The clocks of victims jump `amount` ms ahead, once."""
    SHORT_WRITE = "short-write"
    """The next write of victims stores a drawn part and fails: ENOSPC, with an `amount` EIO."""
    ROT = "rot"
    """`amount` bits of what lies on the victims' disks turn over, where a start can tell."""
    WIPE = "wipe"
    """As CRASH, and the directory is emptied; with an `amount` only its log and snapshots are."""
    SWAP = "swap"
    """A victim and another node die and return with each other's directories until the end; with
    an `amount` only their logs and snapshots change places."""


DAMAGE = (FaultKind.SHORT_WRITE, FaultKind.ROT, FaultKind.WIPE, FaultKind.SWAP)
"""What becomes of what is stored. Drawn apart from all others (`_draw_damage`)."""

DEATHS = (FaultKind.CRASH, FaultKind.POWER)
"""With an `amount` they wait (not long) for a write of the first victim, and hit in its middle."""

_WEIGHTS: tuple[tuple[FaultKind, int], ...] = (
    (FaultKind.CRASH, 5),
    (FaultKind.POWER, 7),
    (FaultKind.PAUSE, 3),
    (FaultKind.CUT, 5),
    (FaultKind.CUT_OUT, 2),
    (FaultKind.CUT_IN, 2),
    (FaultKind.LOSS, 2),
    (FaultKind.DELAY, 2),
    (FaultKind.SLOW_DISK, 2),
    (FaultKind.SYNC_ERROR, 1),
    (FaultKind.DISK_FULL, 1),
    (FaultKind.STALL_DISK, 1),
    (FaultKind.WRITE_ERROR, 1),
    (FaultKind.BRIDGE, 1),
    (FaultKind.RING, 1),
    (FaultKind.CORRUPT, 1),
    (FaultKind.CLOCK_RATE, 1),
    (FaultKind.CLOCK_JUMP, 1),
)
_DAMAGE_WEIGHTS = (
    (FaultKind.SHORT_WRITE, 3),
    (FaultKind.ROT, 4),
    (FaultKind.WIPE, 2),
    (FaultKind.SWAP, 2),
)
ALL_KINDS = tuple(kind for kind, _ in (*_WEIGHTS, *_DAMAGE_WEIGHTS))
_VICTIMS = ("leader", "leader", "leader", "one", "one", "minority", "majority", "all")
MID_WRITE_PERMILLE = 500
_ONE_VICTIM = ("leader", "leader", "one")
_AMOUNTS = {
    FaultKind.LOSS: (100, 600),
    FaultKind.DELAY: (10, 400),
    FaultKind.SLOW_DISK: (5, 300),
    FaultKind.STALL_DISK: (500, 2000),
    FaultKind.CORRUPT: (10, 300),
    FaultKind.CLOCK_RATE: (500, 2000),
    FaultKind.CLOCK_JUMP: (20, 2000),
}
_WHOLE = (FaultKind.LOSS, FaultKind.DELAY, FaultKind.CORRUPT, FaultKind.BRIDGE, FaultKind.RING)
"""Of the network, not of some nodes."""
FAULTS_MIN = 3
FAULTS_MAX = 9
DAMAGE_COUNTS = (0, 0, 0, 1, 1, 2)
"""Half of the seeds damage nothing: whatever is lost for good leaves less for other faults to hit."""
ROT_BITS_MAX = 3
STORY_PERMILLE = 400


_IN_WORDS = {
    FaultKind.CRASH: " in the middle of a write",
    FaultKind.POWER: " in the middle of a write",
    FaultKind.SHORT_WRITE: " then EIO",
    FaultKind.WIPE: " of the log alone",
    FaultKind.SWAP: " of the logs alone",
}
"""What an amount means where it is no number."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `victims`: leader, one, minority, majority, all; `number` names its streams."""

    number: int
    at_ns: int
    kind: FaultKind
    victims: str
    duration_ns: int
    amount: int = 0

    def __str__(self) -> str:
        amount = f" {self.amount}" if self.amount else ""
        if self.amount:
            amount = _IN_WORDS.get(self.kind, amount)
        return (
            f"#{self.number} at {self.at_ns / 1e9:.3f} s: {self.kind.value}{amount}"
            f" {self.victims} for {self.duration_ns / 1e6:.0f} ms"
        )


def draw_faults(
    seed: int,
    until_ns: int,
    kinds: Collection[FaultKind] = ALL_KINDS,
    counts: tuple[int, int] = (FAULTS_MIN, FAULTS_MAX),
    damage: Sequence[int] = DAMAGE_COUNTS,
) -> tuple[Fault, ...]:
    """Draw the faults of a seed, in the order of their times.

    Single ones of the kinds given, now and then a story of several that follow each other, and
    damage to what is stored, as often as one of `damage` says. Damage takes numbers behind all
    others and draws from streams of its own: a seed without it has the same other faults.
    """
    stream = Stream(seed, "faults")
    count = stream.between(*counts)
    weighted = [kind for kind, weight in _WEIGHTS if kind in kinds for _ in range(weight)]
    weighted = weighted or [kind for kind, weight in _WEIGHTS for _ in range(weight)]
    faults = [_draw_fault(seed, number, until_ns, weighted) for number in range(count)]
    if stream.chance(STORY_PERMILLE):
        faults += _draw_story(Stream(seed, "story"), count, until_ns)
    damaging = [kind for kind, weight in _DAMAGE_WEIGHTS if kind in kinds for _ in range(weight)]
    if damaging:
        times = Stream(seed, "damage").pick(damage)
        faults += [
            _draw_damage(seed, number, until_ns, damaging)
            for number in range(len(faults), len(faults) + times)
        ]
    return tuple(sorted(faults, key=lambda fault: (fault.at_ns, fault.number)))


def _draw_story(stream: Stream, number: int, until_ns: int) -> list[Fault]:
    """Draw faults whose order matters; what single ones rarely add up to."""
    start = stream.between(300 * _MS, max(301 * _MS, until_ns - 2000 * _MS))
    death = stream.pick((FaultKind.CRASH, FaultKind.POWER))
    match stream.below(4):
        case 0:  # a deposed leader comes back with a long tail just as its successor dies
            cut = stream.between(250, 650) * _MS
            end = start + cut - stream.between(0, 40) * _MS
            return [
                Fault(number, start, FaultKind.CUT, "leader", cut),
                Fault(
                    number + 1,
                    end,
                    death,
                    "leader",
                    stream.between(200, 800) * _MS,
                    stream.below(2),
                ),
            ]
        case 1:  # Raft figure 8: one leader after the other dies before it has committed
            deaths = []
            for step in range(stream.between(3, 6)):
                lasts = stream.between(100, 700) * _MS
                deaths.append(Fault(number + step, start, death, "leader", lasts, stream.below(2)))
                start += stream.between(180, 450) * _MS
            return deaths
        case 2:  # a swizzle: one link after the other is lost, and they return in another order
            starts = sorted(stream.between(0, 600) for _ in range(4))
            ends = stream.shuffled([700 + 150 * step for step in range(4)])
            return [
                Fault(
                    number + step,
                    start + begins * _MS,
                    stream.pick((FaultKind.CUT, FaultKind.CUT_OUT, FaultKind.CUT_IN)),
                    stream.pick(("leader", "one")),
                    (end - begins) * _MS,
                )
                for step, (begins, end) in enumerate(zip(starts, ends, strict=True))
            ]
        case _:  # the lights go out twice
            gap = stream.between(100, 800) * _MS
            first, second = (stream.between(1, 100) * _MS for _ in range(2))
            return [
                Fault(number, start, FaultKind.POWER, "all", first, stream.below(2)),
                Fault(number + 1, start + gap, FaultKind.POWER, "all", second, stream.below(2)),
            ]


def _draw_damage(seed: int, number: int, until_ns: int, kinds: Sequence[FaultKind]) -> Fault:
    stream = Stream(seed, "damage", number)
    kind = stream.pick(kinds)
    victims = stream.pick(("leader", "one", "one", "minority"))
    at_ns = stream.between(300 * _MS, until_ns)
    duration = stream.between(50, 1200)
    amount = int(stream.chance(300))
    if kind is FaultKind.ROT:
        amount = stream.between(1, ROT_BITS_MAX)
    return Fault(number, at_ns, kind, victims, duration * _MS, amount)


def _draw_fault(seed: int, number: int, until_ns: int, kinds: Sequence[FaultKind]) -> Fault:
    stream = Stream(seed, "fault", number)
    kind = stream.pick(kinds)
    victims = stream.pick(_VICTIMS)
    if kind in (FaultKind.CUT, FaultKind.CUT_OUT, FaultKind.CUT_IN) and victims == "all":
        victims = "leader"
    if kind in _WHOLE:
        victims = "all"
    if kind in (FaultKind.SYNC_ERROR, FaultKind.WRITE_ERROR, FaultKind.DISK_FULL):
        victims = stream.pick(_ONE_VICTIM)
    at_ns = stream.between(300 * _MS, until_ns)
    short = stream.chance(500)
    duration = stream.between(1, 200) if short else stream.between(200, 1200)
    low, high = _AMOUNTS.get(kind, (0, 0))
    amount = stream.between(low, high)
    if kind in DEATHS:
        amount = int(stream.chance(MID_WRITE_PERMILLE))
    return Fault(number, at_ns, kind, victims, duration * _MS, amount)
