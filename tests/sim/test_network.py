"""The simulated network and the event heap: order, loss, delay, duplication and cuts."""

from cluster.sim.heap import EventHeap
from cluster.sim.network import LinkProfile, Network
from cluster.sim.rng import Stream, draw

QUIET = LinkProfile(delay_min=10, delay_spread=0, delay_tail=0)


class Wire:
    """A network whose arrivals are kept as (time, source, target, frame)."""

    def __init__(self, profile: LinkProfile, seed: int = 1) -> None:
        self.heap = EventHeap()
        self.arrived: list[tuple[int, int, int, object]] = []
        self.network = Network(self.heap, seed, profile, self._take)

    def _take(self, source: int, target: int, frame: object) -> None:
        self.arrived.append((self.heap.now, source, target, frame))

    @property
    def frames(self) -> list[object]:
        return [entry[3] for entry in self.arrived]


def test_events_run_by_time_and_in_the_order_of_scheduling_at_equal_times() -> None:
    heap = EventHeap()
    seen: list[str] = []
    heap.at(20, seen.append, "late")
    heap.at(10, seen.append, "first")
    heap.at(10, seen.append, "second")
    heap.at(31, seen.append, "too late")
    heap.run_until(30)
    assert seen == ["first", "second", "late"]
    assert heap.now == 30
    assert len(heap) == 1


def test_a_draw_depends_on_seed_stream_and_counter_only() -> None:
    assert draw(1, 2, 3) == draw(1, 2, 3)
    values = {draw(seed, stream, n) for seed in range(9) for stream in range(9) for n in range(9)}
    assert len(values) == 9**3
    one, other = Stream(7, "a"), Stream(7, "b")
    first = [one.bits() for _ in range(5)]
    again = Stream(7, "a")
    interleaved = [again.bits() for _ in range(5) if other.bits()]
    assert first == interleaved


def test_draws_are_spread_evenly() -> None:
    stream = Stream(3, "spread")
    counts = [0] * 10
    for _ in range(10_000):
        counts[stream.below(10)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


def test_a_quiet_link_delivers_after_its_delay() -> None:
    wire = Wire(QUIET)
    wire.network.send(1, 2, "frame")
    wire.heap.run_until(100)
    assert wire.arrived == [(10, 1, 2, "frame")]


def test_loss_takes_about_its_share() -> None:
    wire = Wire(LinkProfile(10, 0, 0, loss=300))
    for number in range(2000):
        wire.network.send(1, 2, number)
    wire.heap.run_until(100)
    assert 1250 < len(wire.arrived) < 1550
    assert wire.network.dropped == 2000 - len(wire.arrived)


def test_frames_overtake_each_other_unless_the_link_is_in_order() -> None:
    for in_order in (False, True):
        wire = Wire(LinkProfile(10, 1000, 5000, in_order=in_order))
        for number in range(200):
            wire.network.send(1, 2, number)
        wire.heap.run_until(10_000)
        assert sorted(map(str, wire.frames)) == sorted(map(str, range(200)))
        assert (wire.frames == list(range(200))) is in_order


def test_bulk_frames_do_not_hold_up_the_other_lane() -> None:
    wire = Wire(LinkProfile(10, 0, 0, in_order=True))
    wire.network.link(1, 2).extra_delay = 1_000_000
    wire.network.send(1, 2, "bulk", True)
    wire.network.link(1, 2).extra_delay = 0
    wire.network.send(1, 2, "vote")
    wire.heap.run_until(2_000_000)
    assert wire.frames == ["vote", "bulk"]


def test_duplication_delivers_some_frames_twice_but_never_a_clients() -> None:
    wire = Wire(LinkProfile(10, 50, 0, duplication=300))
    for number in range(500):
        wire.network.send(1, 2, number)
        wire.network.send(-1, 2, f"c{number}")
    wire.heap.run_until(1000)
    peers = [frame for frame in wire.frames if isinstance(frame, int)]
    clients = [frame for frame in wire.frames if isinstance(frame, str)]
    assert 600 < len(peers) < 700
    assert set(peers) == set(range(500))
    assert clients == [f"c{number}" for number in range(500)]


def test_a_cut_is_one_way_and_takes_what_is_under_way() -> None:
    wire = Wire(QUIET)
    wire.network.send(1, 2, "under way")
    wire.network.link(1, 2).cuts += 1
    wire.network.send(1, 2, "into the cut")
    wire.network.send(2, 1, "back")
    wire.heap.run_until(100)
    assert wire.frames == ["back"]
    wire.network.heal()
    wire.network.send(1, 2, "healed")
    wire.heap.run_until(200)
    assert wire.frames == ["back", "healed"]


def test_the_draws_of_one_link_do_not_depend_on_another() -> None:
    profile = LinkProfile(10, 100_000, 0, loss=100)
    alone, busy = Wire(profile), Wire(profile)
    for number in range(100):
        alone.network.send(1, 2, number)
        busy.network.send(1, 2, number)
        busy.network.send(2, 1, number)
    alone.heap.run_until(1_000_000)
    busy.heap.run_until(1_000_000)
    assert alone.arrived == [entry for entry in busy.arrived if entry[1] == 1]
