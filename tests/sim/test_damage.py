"""Damaged, emptied and mixed-up disks: what happens to them, to whom it may happen, and that it bites."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.frames import ProcessState
from cluster.recording import Recording
from cluster.sim.atlas import FaultAtlas, Flip, provable_frames, turn_bits
from cluster.sim.campaign import SeedFailure, outcome_of
from cluster.sim.coverage import Coverage, Mark
from cluster.sim.disk import SimDisk
from cluster.sim.node import SimNode
from cluster.sim.plan import MS, SECOND, Plan, draw_plan
from cluster.sim.plan_file import decode_plan, encode_plan
from cluster.sim.real import deeds_of
from cluster.sim.record import record_run
from cluster.sim.rng import Stream
from cluster.sim.schedule import DAMAGE, Fault, FaultKind
from cluster.sim.world import World
from node.raft.types import NodeId
from tests.sim.test_disk import content_of, written
from wal import CorruptLogError, recover
from wal.reader import Stop, read_frames
from wal.segment import segment_number

QUIET = replace(draw_plan(1, "lite"), faults=(), codec=False)


def plan_with(*faults: tuple[FaultKind, int, int, int], nodes: int = 5) -> Plan:
    """A quiet plan with faults of (kind, at ms, for ms, amount), each on one node."""
    listed = tuple(
        Fault(number, at * MS, kind, "one", lasts * MS, amount)
        for number, (kind, at, lasts, amount) in enumerate(faults)
    )
    return replace(QUIET, nodes=nodes, faults=listed)


def ran(plan: Plan) -> tuple[World, Coverage]:
    coverage = Coverage()
    world = World(plan, coverage=coverage, tracing=True)
    outcome = outcome_of(world)
    assert not isinstance(outcome, SeedFailure), str(outcome)
    return world, coverage


def boot(node: SimNode) -> None:
    node.boot()


def out(world: World) -> list[str]:
    return [node.out for node in world.nodes.values() if node.out]


# ---- the disk ----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_short_write_stores_a_part_and_fails_once(code: int) -> None:
    disk = SimDisk()
    written(disk, "d/a", b"", synced=True)
    disk.short = Stream(1, "short"), code
    file = disk.open("d/a")
    with pytest.raises(OSError, match="d/a") as caught:
        file.pwritev([b"abc", b"defgh"], 0)
    assert caught.value.errno == code
    stored = content_of(disk, "d/a")
    assert b"abcdefgh".startswith(stored)
    assert len(stored) < 8
    file.pwritev([b"abcdefgh"], 0)
    assert content_of(disk, "d/a") == b"abcdefgh"
    assert disk.shorts_mended == 1


def test_a_bit_turns_over_in_the_cache_and_on_the_disk() -> None:
    disk = SimDisk()
    written(disk, "d/a", b"abc", synced=True)
    disk.flip("d/a", 1, 0)
    assert content_of(disk, "d/a") == b"acc"
    disk.power_loss(None)
    assert content_of(disk, "d/a") == b"acc"


def test_what_is_not_synced_or_about_to_change_is_not_at_rest() -> None:
    disk = SimDisk()
    written(disk, "d/a", b"abc", synced=True)
    assert disk.is_settled("d/a", 2)
    assert not disk.is_settled("d/a", 3)
    disk.open("d/a").pwritev([b"b"], 1)
    assert not disk.is_settled("d/a", 1), "it is on its way over the same byte"
    written(disk, "d/b", b"abc", synced=True)
    disk.rename("d/b", "d/c")
    assert not disk.is_settled("d/b", 0)
    assert not disk.is_settled("d/c", 0), "a power cut would take the name away"
    assert disk.at_rest.listdir("d") == ["a", "b"]


def test_a_wiped_directory_stays_empty_and_a_swapped_one_is_the_other_ones() -> None:
    one, other = SimDisk(), SimDisk()
    written(one, "d/a", b"one", synced=True)
    written(other, "d/a", b"other", synced=False)
    one.exchange(other)
    assert content_of(one, "d/a") == b"other"
    assert content_of(other, "d/a") == b"one"
    other.wipe()
    other.power_loss(None)
    assert other.listdir("d") == []
    assert one.exists("d/a")


# ---- the atlas ---------------------------------------------------------------------------


def test_a_minority_of_the_disks_is_damaged_and_no_more() -> None:
    for nodes, most in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (7, 3)):
        atlas = FaultAtlas(nodes)
        for node in range(1, nodes + 1):
            if atlas.may_damage(NodeId(node)):
                atlas.flips[NodeId(node)] = [Flip("wal/00000001.wal", 0, 1)]
        assert len(atlas.damaged) == most
        assert all(atlas.may_damage(node) for node in atlas.damaged), "they may rot more"


def test_a_directory_in_the_wrong_place_is_not_damaged_nor_swapped_again() -> None:
    atlas = FaultAtlas(5, swapped={NodeId(1)}, wiped={NodeId(2)})
    assert not atlas.may_damage(NodeId(1))
    assert not atlas.may_swap(NodeId(1))
    assert not atlas.may_swap(NodeId(2))
    assert atlas.may_swap(NodeId(3))


def test_over_a_whole_run_a_quorum_of_disks_stays_whole() -> None:
    many = [
        (kind, 400 + 250 * n, 100, n % 2) for n, kind in enumerate(2 * DAMAGE + 2 * DAMAGE[1:3])
    ]
    for nodes, most in ((1, 0), (2, 0), (3, 1), (5, 2)):
        world, _ = ran(plan_with(*many, nodes=nodes))
        assert len(world.play.atlas.damaged) <= most
        assert len(out(world)) <= most
        assert not world.play.atlas.swapped


@pytest.mark.parametrize("seed", range(4))
def test_a_bit_that_may_turn_over_is_corruption_and_one_that_may_not_would_be_cut(
    seed: int,
) -> None:
    """The last flush is spared: there a flip reads as a torn tail (docs/durability.md)."""
    world = World(replace(QUIET, seed=seed, safety_ns=SECOND, virtual_ns_min=0))
    world.run()
    disk = world.nodes[NodeId(1)].disk
    world.nodes[NodeId(1)].power_loss()
    spared = 0
    may = {(path, offset) for path, offset, _ in provable_frames(disk.at_rest)}
    for path, position in frames_of(disk):
        offset = (position & 0xFFFF_FFFF) + 40
        disk.flip(path, offset, seed)
        if (path, position & 0xFFFF_FFFF) in may:
            with pytest.raises(CorruptLogError):
                recover(disk, "wal")
        else:
            spared += 1
            found = recover(disk, "wal")
            assert found.torn is not None
            assert found.end == position, "durable, and lost without a word"
        disk.flip(path, offset, seed)
    assert len(may) > 10
    assert spared


def frames_of(disk: SimDisk) -> list[tuple[str, int]]:
    """Path and position of every frame of a node's log."""
    places = []
    for name in disk.listdir("wal"):
        number = segment_number(name)
        if number is not None:
            path = f"wal/{name}"
            frames = read_frames(disk.open_read(path), number, Stop())
            places += [(path, frame.position) for frame in frames]
    return places


def test_snapshots_rot_too() -> None:
    disk = SimDisk()
    written(disk, "snap/000000-0000000000000009.snap", bytes(100), synced=True)
    disk.mkdirs("wal")
    [flip] = turn_bits(disk, 1, Stream(3, "flip"))
    assert flip.path.startswith("snap/")
    assert content_of(disk, flip.path)[flip.offset] == flip.value != 0


# ---- each fault bites --------------------------------------------------------------------


def test_a_write_that_found_no_space_half_way_is_made_again() -> None:
    world, coverage = ran(plan_with((FaultKind.SHORT_WRITE, 1000, 1000, 0)))
    assert coverage.marks[Mark.SHORT_MENDED]
    assert not coverage.marks[Mark.EXITED]
    assert not out(world)


def test_a_write_that_fails_half_way_ends_the_process_and_its_next_life_goes_on() -> None:
    world, coverage = ran(plan_with((FaultKind.SHORT_WRITE, 1000, 1000, 1)))
    assert coverage.marks[Mark.EXITED]
    assert not out(world)


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_start_refuses_what_has_rotted_and_the_others_go_on(seed: int) -> None:
    plan = plan_with((FaultKind.ROT, 2000, 100, 2), (FaultKind.ROT, 3000, 100, 1))
    world, coverage = ran(replace(plan, seed=seed))
    assert world.play.atlas.flips
    assert len(out(world)) == len(world.play.atlas.flips), (
        "it was noticed, for nothing was released"
    )
    assert coverage.marks[Mark.ROT_REFUSED] == len(out(world))


@pytest.mark.parametrize(
    ("amount", "words"), [(0, "IDENTITY.json is gone"), (1, "wal: the log is gone")]
)
def test_a_wiped_node_stays_out(amount: int, words: str) -> None:
    world, coverage = ran(plan_with((FaultKind.WIPE, 1500, 100, amount)))
    [reason] = out(world)
    assert words in reason
    assert coverage.marks[Mark.WIPE_REFUSED]
    [wiped] = world.play.atlas.wiped
    assert not world.nodes[wiped].disk.listdir("wal"), "a refused start writes nothing"


@pytest.mark.parametrize(
    ("amount", "words"), [(0, "belongs to node n"), (1, "00000001.wal belongs to node n")]
)
def test_a_swapped_directory_is_refused_until_it_is_put_back(amount: int, words: str) -> None:
    world, coverage = ran(plan_with((FaultKind.SWAP, 1500, 500, amount)))
    assert coverage.marks[Mark.SWAP_REFUSED] == 2
    assert not out(world)
    assert world.trace is not None
    refusals = [line for line in world.trace.text().splitlines() if "refuses to start" in line]
    assert len(refusals) == 2
    assert all(words in line for line in refusals)


def test_a_swap_that_still_stands_ends_when_the_world_heals() -> None:
    world, coverage = ran(plan_with((FaultKind.SWAP, 5500, 5000, 0)))
    assert coverage.marks[Mark.SWAP_REFUSED]
    assert not out(world)


def test_a_node_that_refuses_an_undamaged_disk_is_a_bug() -> None:
    world = World(QUIET)
    world.heap.at(SECOND, world.nodes[NodeId(1)].kill)
    world.heap.at(SECOND + 1, world.nodes[NodeId(1)].disk.wipe)
    world.heap.at(SECOND + 2, boot, world.nodes[NodeId(1)])
    with pytest.raises(AssertionError, match="node 1 refuses a disk that nobody damaged"):
        world.run()


# ---- as a schedule -----------------------------------------------------------------------


def test_damage_moves_no_other_fault() -> None:
    for seed in range(1, 60):
        faults = draw_plan(seed, "lite").faults
        first = min([f.number for f in faults if f.kind in DAMAGE], default=len(faults))
        assert all((f.kind in DAMAGE) == (f.number >= first) for f in faults)


def test_every_profile_draws_every_kind_of_damage() -> None:
    for profile in ("lite", "swarm", "soak"):
        plans = [draw_plan(seed, profile) for seed in range(1, 101)]
        kinds = {fault.kind for plan in plans for fault in plan.faults}
        assert kinds.issuperset(DAMAGE), profile


def test_damage_is_kept_in_a_schedule_and_left_out_of_a_real_run() -> None:
    plan = plan_with(*((kind, 1000, 100, 1) for kind in DAMAGE))
    assert decode_plan(encode_plan(plan)) == plan
    deeds, left_out = deeds_of(plan)
    assert not deeds
    assert {fault.kind for fault in left_out} == set(DAMAGE)


def test_a_recording_shows_who_stays_out_and_why(tmp_path: Path) -> None:
    plan = plan_with((FaultKind.WIPE, 1500, 100, 0))
    assert not isinstance(record_run(plan, tmp_path / "run"), SeedFailure)
    with Recording.open(tmp_path / "run") as recording:
        last = list(recording.frames_since(0))[-1]
        events = recording.events()
    [told] = [event for event in events if event.kind == "crashed"]
    assert "refuses to start" in told.text
    assert told.node is not None
    truth = last.node(told.node).process
    assert truth.state is ProcessState.CRASHED
    assert "IDENTITY.json is gone" in truth.last_log[0]


def test_a_schedule_of_damage_is_replayed_to_the_byte(tmp_path: Path) -> None:
    plan = plan_with(*((kind, 600 + 400 * n, 300, 1) for n, kind in enumerate(DAMAGE)))
    first, _ = ran(plan)
    again, _ = ran(decode_plan(encode_plan(plan)))
    assert first.trace is not None
    assert again.trace is not None
    assert first.trace.text() == again.trace.text()
    assert first.trace.text().count("fault #") == len(DAMAGE)
