"""Makes a failing plan small: fewer faults, operations, nodes, and shorter durations.

Delta debugging (Zeller and Hildebrandt 2002): leave parts out as long as what is left fails in the
same way, by the same invariant or the same kind of exception. It works because no part of a plan
moves another: each fault, each operation and each link draws from a stream of its own (`rng`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, TypeVar

from cluster.sim.campaign import SeedFailure, outcome_of
from cluster.sim.network import LinkProfile
from cluster.sim.node import Assemble
from cluster.sim.plan import MS, Plan
from cluster.sim.schedule import Fault
from cluster.sim.world import World
from node.assembly import assemble
from node.compaction import CompactionPolicy

__all__ = ["RUNS_MAX", "SECONDS_MAX", "Shrunk", "minimal", "operations_of", "shrink"]

RUNS_MAX: Final = 600
SECONDS_MAX: Final = 60.0
_AFTER_NS: Final = MS
_NEVER: Final = 1 << 50
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest plan that was found to fail in the same way."""

    plan: Plan
    failure: SeedFailure
    runs: int
    """How many worlds were tried."""
    complete: bool
    """Whether nothing more can be left out; False if runs or time ended before."""


def operations_of(plan: Plan) -> list[tuple[int, int]]:
    """Return the operations that a plan has: (client, number), both from 1."""
    skipped = set(plan.skipped)
    every = (
        (client, number)
        for client in range(1, plan.clients + 1)
        for number in range(1, max(plan.operations, plan.operations_min) + 1)
    )
    return [each for each in every if each not in skipped]


def minimal(items: Sequence[_Item], fails: Callable[[Sequence[_Item]], bool]) -> list[_Item]:
    """Return a part of `items` that still fails, and of which no single item can be left out.

    `fails` is called with parts, in the order of the items; it held for all of them.
    """
    kept = list(items)
    size = max(1, len(kept))
    while kept:
        start, less = 0, False
        while start < len(kept):
            part = kept[:start] + kept[start + size :]
            if fails(part):
                kept, less = part, True
            else:
                start += size
        if size == 1 and not less:
            break
        size = max(1, min(size, len(kept)) // 2)
    return kept


class _Exhausted(Exception):
    """No more runs, or no more time."""


class _Shrinker:
    """Holds the smallest plan so far."""

    def __init__(self, plan: Plan, failure: SeedFailure, build: Assemble, limits: _Limits) -> None:
        self.plan, self.failure = plan, failure
        self.runs = 0
        self._build = build
        self._limits = limits
        self._end_s = monotonic() + limits.seconds

    def tries(self, plan: Plan) -> bool:
        """Keep a plan if it fails as the first one did."""
        if plan == self.plan:
            return False
        if self.runs >= self._limits.runs or monotonic() > self._end_s:
            raise _Exhausted
        self.runs += 1
        outcome = outcome_of(World(plan, self._build))
        if not isinstance(outcome, SeedFailure) or outcome.kind != self.failure.kind:
            return False
        self.plan, self.failure = plan, outcome
        return True

    def everything(self) -> None:
        """Shrink all dimensions, until a whole round changes nothing."""
        before = None
        while before != self.plan:
            before = self.plan
            self._time()
            self._faults()
            self._simpler()
            self._operations()
            self._nodes()
            self._durations()

    def _time(self) -> None:
        """Let the faults' time end with the failure, if it lies within."""
        end = self.failure.at_ns + _AFTER_NS
        if end < self.plan.safety_ns:
            faults = tuple(fault for fault in self.plan.faults if fault.at_ns <= end)
            self.tries(replace(self.plan, safety_ns=end, faults=faults))
        self.tries(replace(self.plan, virtual_ns_min=0, operations_min=0))

    def _faults(self) -> None:
        def fails(faults: Sequence[Fault]) -> bool:
            return self.tries(replace(self.plan, faults=tuple(faults)))

        minimal(self.plan.faults, fails)

    def _operations(self) -> None:
        """Leave out whole clients, the last ones first, then single operations."""
        while self.plan.clients > 1 and self.tries(
            replace(self.plan, clients=self.plan.clients - 1)
        ):
            pass
        every = {*operations_of(replace(self.plan, skipped=()))}

        def fails(kept: Sequence[tuple[int, int]]) -> bool:
            skipped = tuple(sorted(every.difference(kept)))
            return self.tries(replace(self.plan, skipped=skipped))

        minimal(operations_of(self.plan), fails)

    def _nodes(self) -> None:
        for nodes in (1, 2, 3, 5):
            if nodes < self.plan.nodes and self.tries(replace(self.plan, nodes=nodes)):
                break
        if self.plan.groups > 1:
            self.tries(replace(self.plan, groups=1))

    def _simpler(self) -> None:
        """Take away what is not needed: noise on the links, compaction, encoding, tearing."""
        plan = self.plan
        quiet = LinkProfile(plan.links.delay_min, plan.links.delay_spread, 0, in_order=True)
        for change in (
            {"links": quiet},
            {"links": replace(plan.links, loss=0, duplication=0)},
            {"links": replace(plan.links, in_order=True)},
            {"compaction": CompactionPolicy(_NEVER, _NEVER)},
            {"codec": False},
            {"torn": False},
            {"reports_death": True},
            {"value_bytes": (8,)},
        ):
            self.tries(replace(self.plan, **change))

    def _durations(self) -> None:
        """Halve durations and amounts of the faults that are left, one by one."""
        for at in range(len(self.plan.faults)):
            for name, least in (("duration_ns", MS), ("amount", 1)):
                while True:
                    fault = self.plan.faults[at]
                    value = int(getattr(fault, name))
                    if value <= least or not self._tries_fault(at, {name: max(least, value // 2)}):
                        break

    def _tries_fault(self, at: int, change: dict[str, int]) -> bool:
        faults = self.plan.faults
        changed = replace(faults[at], **change)  # type: ignore[arg-type]  # fields by name
        return self.tries(replace(self.plan, faults=(*faults[:at], changed, *faults[at + 1 :])))


@dataclass(frozen=True, slots=True)
class _Limits:
    runs: int
    seconds: float


def shrink(
    plan: Plan,
    failure: SeedFailure,
    build: Assemble = assemble,
    *,
    runs: int = RUNS_MAX,
    seconds: float = SECONDS_MAX,
) -> Shrunk:
    """Return the smallest plan that fails as `failure` does, within `runs` worlds and `seconds`."""
    shrinker = _Shrinker(plan, failure, build, _Limits(runs, seconds))
    try:
        shrinker.everything()
    except _Exhausted:
        complete = False
    else:
        complete = True
    return Shrunk(shrinker.plan, shrinker.failure, shrinker.runs, complete)
