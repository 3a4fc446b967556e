"""The fault atlas: which disks may be damaged, and where, so that enough good copies are left.

Theory of operation. Crashes and power cuts may hit everybody; what they leave is still a log. Damage
takes copies away for good, and a cluster of n promises nothing once more than (n-1)//2 of them are
gone. So the disks that rot or are wiped are a minority of the nodes, counted over the whole run: a
quorum of disks keeps all that it was given. A damaged node may do one of two things: notice it and
stay out, or need what was damaged no more. So it never votes as if it had forgotten something, and
every quorum of the others holds a copy of whatever was committed.

**Where a bit may turn over.** A log that was not stopped cleanly cannot tell damage within its last
flush from a torn tail (docs/durability.md), and cuts what was acknowledged: with any log that works
so, a flip there is a lost copy that nobody notices. So rot stays where a later frame, itself durable
and left whole, says that more was durable: before `Recovered.proved` of what a power cut would leave.
Snapshots rot anywhere: each chunk, the header and the trailer have their CRC.

A swapped directory loses nothing and comes back, so it does not count; but nothing is damaged while
it is in the wrong place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from cluster.sim.disk import SimDisk
from cluster.sim.node import LOG_DIRECTORY, SNAPSHOT_DIRECTORY
from cluster.sim.rng import Stream
from node.raft.types import NodeId
from wal import CorruptLogError, recover
from wal.filesystem import ReadFilesystem
from wal.frame import FRAME_BYTES_MIN
from wal.reader import Stop, read_frames
from wal.segment import position_at, segment_name

__all__ = ["FaultAtlas", "Flip", "provable_frames", "turn_bits"]

_SNAPSHOT_PERMILLE = 300


@dataclass(frozen=True, slots=True)
class Flip:
    """A bit that was turned over, and what its byte is since."""

    path: str
    offset: int
    value: int


@dataclass(slots=True)
class FaultAtlas:
    """What was damaged so far. `nodes`: how many there are."""

    nodes: int
    flips: dict[NodeId, list[Flip]] = field(default_factory=dict)
    """Nodes whose disks rot."""
    wiped: set[NodeId] = field(default_factory=set)
    swapped: set[NodeId] = field(default_factory=set)
    """Nodes whose directories are in the wrong place now."""

    @property
    def damaged(self) -> set[NodeId]:
        """Nodes whose copies count no more."""
        return self.wiped | set(self.flips)

    def may_damage(self, node: NodeId) -> bool:
        """Tell whether enough good copies are left without this node's."""
        if node in self.swapped or node in self.wiped:
            return False
        return len(self.damaged | {node}) <= (self.nodes - 1) // 2

    def may_swap(self, node: NodeId) -> bool:
        """Tell whether a node's directory can be swapped: whole, and in its place."""
        return node not in self.swapped and node not in self.damaged

    def is_hurt(self, node: NodeId) -> bool:
        """Tell whether a node has a reason to refuse its start."""
        return node in self.swapped or node in self.damaged

    def unnoticed(self, node: NodeId, disk: SimDisk) -> Flip | None:
        """Return a flipped bit among what a start reads: all of the log, and the newest snapshots."""
        flips = self.flips.get(node, ())
        if not flips:
            return None
        snapshots = disk.listdir(SNAPSHOT_DIRECTORY)
        newest = {name.partition("-")[0]: name for name in snapshots if name.endswith(".snap")}
        read = {f"{SNAPSHOT_DIRECTORY}/{name}" for name in newest.values()}
        for flip in flips:
            is_read = flip.path.startswith(LOG_DIRECTORY) or flip.path in read
            if is_read and disk.holds(flip.path, flip.offset, flip.value):
                return flip
        return None


def turn_bits(disk: SimDisk, count: int, stream: Stream, before: Sequence[Flip] = ()) -> list[Flip]:
    """Turn over up to `count` bits where a start can tell; return which. Few where little lies.

    No byte twice, nor one of `before`: the second time may make it whole again.
    """
    try:
        places = list(provable_frames(disk.at_rest))
    except CorruptLogError:
        return []  # it rots already
    files = [name for name in disk.at_rest.listdir(SNAPSHOT_DIRECTORY) if name.endswith(".snap")]
    flips: list[Flip] = []
    for _ in range(count):
        if files and (not places or stream.chance(_SNAPSHOT_PERMILLE)):
            path = f"{SNAPSHOT_DIRECTORY}/{stream.pick(files)}"
            with closing(disk.at_rest.open_read(path)) as file:
                offset = stream.below(file.size())
        elif places:
            path, start, length = stream.pick(places)
            offset = start + stream.below(length)
        else:
            break
        bit = stream.below(8)
        turned = any((flip.path, flip.offset) == (path, offset) for flip in (*before, *flips))
        if not turned and disk.is_settled(path, offset):
            disk.flip(path, offset, bit)
            flips.append(Flip(path, offset, disk.byte(path, offset)))
    return flips


def provable_frames(files: ReadFilesystem) -> Iterator[tuple[str, int, int]]:
    """Yield path, offset and length of every frame that a later one proves to have been durable."""
    found = recover(files, LOG_DIRECTORY)
    for number in sorted(found.segments):
        path = f"{LOG_DIRECTORY}/{segment_name(number)}"
        with closing(files.open_read(path)) as file:
            for frame in read_frames(file, number, Stop()):
                length = FRAME_BYTES_MIN + len(frame.body)
                if frame.position + length > found.proved:
                    return
                yield path, frame.position - position_at(number, 0), length
