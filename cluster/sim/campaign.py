"""Runs seeds one after another, and reports each failure with what repeats it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from time import process_time
from typing import cast

from cluster.sim.coverage import Coverage
from cluster.sim.judges import JudgeError
from cluster.sim.node import Assemble
from cluster.sim.plan import DEFAULT_PROFILE, Plan, Profile, draw_plan
from cluster.sim.world import RefusalError, World, WorldResult
from node.assembly import assemble
from node.raft.invariants import InvariantError

__all__ = [
    "Campaign",
    "RunSeed",
    "SeedFailure",
    "outcome_of",
    "plan_of",
    "run_campaign",
    "run_seed",
    "trace_of",
    "traced",
]


@dataclass(frozen=True, slots=True)
class SeedFailure:
    """A seed that did not hold: what failed, when, and how to see it again."""

    seed: int
    kind: str
    """Name of the invariant, or of the exception's type."""
    text: str
    at_ns: int
    option: str = ""
    """What the command needs besides, to repeat it."""
    profile: Profile | None = None
    """What its plan was drawn as; None: not drawn."""

    @property
    def command(self) -> str:
        """The command that repeats this seed with its trace."""
        return f"raftdeck sim{self.option} --seed {self.seed} --trace"

    def __str__(self) -> str:
        return f"seed {self.seed} at {self.at_ns / 1e9:.6f} s: {self.text}\n  {self.command}"


RunSeed = Callable[[int, Assemble], WorldResult | SeedFailure]


@dataclass(slots=True)
class Campaign:
    """The sum over many seeds."""

    seeds: int = 0
    operations: int = 0
    acked: int = 0
    unknown: int = 0
    faults: int = 0
    turns: int = 0
    elections: int = 0
    copies: int = 0
    virtual_ns: int = 0
    events: int = 0
    cpu_s: float = 0.0
    failures: list[SeedFailure] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)
    corpus: list[int] = field(default_factory=list)
    """Seeds that reached what no earlier one had."""
    brought: dict[int, Coverage] = field(default_factory=dict)
    """What each of these seeds was the first to reach."""

    @property
    def ms_per_seed(self) -> float:
        """CPU time per seed in ms."""
        return 1000 * self.cpu_s / max(1, self.seeds)

    def merge(self, other: Campaign) -> None:
        """Add the seeds of another one. Which of them reached something new is judged anew."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures += other.failures
        known = Coverage()
        known.merge(self.coverage)
        for seed in other.corpus:
            new = other.brought[seed].beyond(known)
            if new.size:
                self.corpus.append(seed)
                self.brought[seed] = new
                known.merge(new)
        self.coverage.merge(other.coverage)

    def reached(self, seed: int, coverage: Coverage) -> None:
        """Note what a seed has reached."""
        new = coverage.beyond(self.coverage)
        if new.size:
            self.corpus.append(seed)
            self.brought[seed] = new
        self.coverage.merge(coverage)

    def add(self, outcome: WorldResult | SeedFailure) -> None:
        """Count one seed."""
        self.seeds += 1
        if isinstance(outcome, SeedFailure):
            self.failures.append(outcome)
            return
        self.operations += outcome.operations
        self.acked += outcome.acked
        self.unknown += outcome.unknown
        self.faults += outcome.faults
        self.turns += outcome.turns
        self.events += outcome.events
        self.elections += outcome.elections
        self.copies += outcome.copies
        self.virtual_ns += outcome.virtual_ns


_SUMS = (
    "seeds", "operations", "acked", "unknown", "faults", "turns", "elections", "copies",
    "virtual_ns", "events", "cpu_s",
)  # fmt: skip


def run_seed(
    seed: int,
    build: Assemble = assemble,
    *,
    profile: Profile = DEFAULT_PROFILE,
    without: Iterable[int] = (),
) -> WorldResult | SeedFailure:
    """Run one seed, without the faults of the given numbers; a failure is a value here."""
    return outcome_of(World(plan_of(seed, profile, without), build))


def trace_of(
    seed: int,
    build: Assemble = assemble,
    *,
    profile: Profile = DEFAULT_PROFILE,
    without: Iterable[int] = (),
) -> tuple[WorldResult | SeedFailure, str]:
    """Run one seed with its trace."""
    return traced(World(plan_of(seed, profile, without), build, tracing=True))


def traced(world: World) -> tuple[WorldResult | SeedFailure, str]:
    """Run a world that keeps a trace."""
    outcome = outcome_of(world)
    assert world.trace is not None
    if isinstance(outcome, SeedFailure):
        world.note(f"FAILED {outcome.text}")
    return outcome, world.trace.text()


def run_campaign(
    seeds: Iterable[int],
    build: Assemble = assemble,
    on_seed: Callable[[WorldResult | SeedFailure], object] | None = None,
    *,
    run: RunSeed = run_seed,
) -> Campaign:
    """Run seeds and add them up; `on_seed` is called after each, `run` runs one."""
    campaign = Campaign()
    for seed in seeds:
        started = process_time()
        outcome = run(seed, build)
        campaign.cpu_s += process_time() - started
        campaign.add(outcome)
        if on_seed is not None:
            on_seed(outcome)
    return campaign


def plan_of(seed: int, profile: Profile, without: Iterable[int] = ()) -> Plan:
    """Draw a plan and leave out the faults of the given numbers."""
    plan = draw_plan(seed, profile)
    left_out = set(without)
    faults = tuple(fault for fault in plan.faults if fault.number not in left_out)
    return replace(plan, faults=faults)


def outcome_of(world: World) -> WorldResult | SeedFailure:
    """Run a world; whatever it raises is a value here."""
    try:
        return world.run()
    except Exception as error:  # whatever a simulated cluster raises is this seed's finding
        kind = type(error).__name__
        if isinstance(error, InvariantError | JudgeError | RefusalError):
            kind = error.name
        place = _place(error)
        text = f"{type(error).__name__}: {error}{place}"
        profile = f" --profile {world.plan.profile}" if world.plan.profile else ""
        option = world.option or profile
        drawn = cast("Profile | None", world.plan.profile or None)
        return SeedFailure(world.plan.seed, kind, text, world.heap.now, option, drawn)


def _place(error: BaseException) -> str:
    """Name the line that raised, unless the error explains itself."""
    if str(error) and not isinstance(error, KeyError | IndexError | TypeError | AttributeError):
        return _line(error) if type(error) is AssertionError else ""
    return _line(error)


def _line(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f" [{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}]"
