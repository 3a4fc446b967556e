"""How soon the simulator finds each planted bug, and how small the schedule is that shows it.

    python tests/planted/table.py            print both tables
    python tests/planted/table.py --write    put them into docs/simulator.md

A table's figures are those of the day: a change of the plans, of the product's sends or of its
storage requests gives every seed another story.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cluster.sim.campaign import SeedFailure, outcome_of, plan_of  # noqa: E402  # after the path
from cluster.sim.crash_points import outcome_at  # noqa: E402
from cluster.sim.plan import Profile  # noqa: E402
from cluster.sim.shrink import operations_of, shrink  # noqa: E402
from cluster.sim.world import World  # noqa: E402

DOCUMENT = ROOT / "docs" / "simulator.md"
BEGIN, END = "<!-- planted bugs: begin -->", "<!-- planted bugs: end -->"
SEEDS = 300
RARE_SEEDS = 2_000
POINTS = 400
SHRINK_S = 60.0

Planted = Callable[[], AbstractContextManager[object]]


def load(name: str) -> ModuleType:
    """Import a file of planted bugs."""
    path = Path(__file__).with_name(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Found:
    """One bug in one profile: the first seed that finds it, and the smallest schedule."""

    name: str
    profile: str
    seeds: int
    kind: str
    faults: int
    operations: int
    nodes: int
    complete: bool

    @property
    def row(self) -> list[str]:
        """The cells of the table."""
        small = [str(self.faults), str(self.operations), str(self.nodes)]
        mark = "" if self.complete else " (budget)"
        return [self.name, self.profile, str(self.seeds), self.kind, *small[:2], small[2] + mark]


def hunt(name: str, planted: Planted, profile: Profile, seeds: int) -> Found | None:
    """Run seeds until one fails, and make it small; None if none does."""
    with planted():
        for seed in range(1, seeds + 1):
            plan = plan_of(seed, profile)
            outcome = outcome_of(World(plan))
            if not isinstance(outcome, SeedFailure):
                continue
            small = shrink(plan, outcome, seconds=SHRINK_S)
            return Found(
                name,
                profile,
                seed,
                outcome.kind,
                len(small.plan.faults),
                len(operations_of(small.plan)),
                small.plan.nodes,
                small.complete,
            )
    return None


def hunt_all() -> Iterator[Found | str]:
    """Look for every bug of core and disks in lite, and for those not found there in swarm."""
    bugs: Any = load("raft_bugs.py")
    damage: Any = load("damage_bugs.py")
    every = {**bugs.THE_FIVE, **bugs.MORE, **damage.DAMAGE, **bugs.RARE}
    for name, planted in every.items():
        rare = name in bugs.RARE
        found = hunt(name, planted, "lite", SEEDS)
        if found is None:
            found = hunt(name, planted, "swarm", RARE_SEEDS if rare else SEEDS)
        print(f"{name}: {found}", file=sys.stderr, flush=True)
        yield found or name


def storage_rows() -> Iterator[list[str]]:
    """Look for every bug of the storage at the crash points; the first three that find it."""
    bugs: Any = load("storage_bugs.py")
    for name, planted in bugs.STORAGE.items():
        points, kinds = [], []
        with planted():
            for point in range(POINTS):
                outcome = outcome_at(point)
                if isinstance(outcome, SeedFailure):
                    points.append(str(point))
                    kinds.append(outcome.kind)
                    if len(points) == 3:
                        break
        print(f"{name}: {points}", file=sys.stderr, flush=True)
        yield [name, ", ".join(points) or "none", kinds[0] if kinds else "–"]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def text() -> str:
    """Measure everything; return both tables and the medians."""
    outcomes = list(hunt_all())
    found = [each for each in outcomes if isinstance(each, Found)]
    missed = [each for each in outcomes if isinstance(each, str)]
    head = ["planted bug", "profile", "seeds until found", "property", "faults left"]
    lines = table([*head, "operations left", "nodes"], [each.row for each in found])
    lines += [
        "",
        f"{len(found)} of {len(outcomes)} found; medians after shrinking:"
        f" {statistics.median(each.faults for each in found):g} faults,"
        f" {statistics.median(each.operations for each in found):g} operations."
        + (f" Not found: {', '.join(missed)}." if missed else ""),
        "",
        f"At the crash points, the first three of 0 to {POINTS - 1}:",
        "",
        *table(["planted bug", "points", "what is seen first"], list(storage_rows())),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help=f"change {DOCUMENT.name}")
    write = parser.parse_args().write
    tables = text()
    if not write:
        print(tables, end="")
        return 0
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{tables}{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
