"""A simulated schedule on real processes: as far as they can be hurt the same way today.

Crashes and pauses are carried out by the supervisor (SIGKILL, SIGSTOP), at the schedule's times and
on the same kind of victims, while a client writes; at the end everybody is started, everything is
read back from the leader and every replica, and judged as the demo is. Faults of links, disks and
clocks have no real counterpart here yet: each is named as left out, and a schedule of which nothing
could be carried out proves nothing: `unknown`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cluster.demo.report import Report
from cluster.demo.run import Run
from cluster.demo.writer import Plan as Writing
from cluster.exits import CommandError
from cluster.local import LocalCluster
from cluster.sim.plan import Plan
from cluster.sim.schedule import Fault, FaultKind
from cluster.spec import ClusterSpec
from cluster.workload import Item, Workload

__all__ = ["Deed", "RealRun", "deeds_of", "run_real"]

ITEMS: Final = 4_000
VALUE_BYTES: Final = 200
_VERBS: Final = {
    FaultKind.CRASH: ("kill", "start"),
    FaultKind.PAUSE: ("pause", "resume"),
}
_SELECTORS: Final = {"one": "random"}
_LOOK_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Deed:
    """One verb on real nodes. `at_s` counts from the first put; `fault` is the schedule's number."""

    at_s: float
    verb: str
    selector: str
    fault: int


@dataclass(frozen=True, slots=True)
class RealRun:
    """What a real run found, and which of the schedule's faults it had."""

    report: Report
    done: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The report's; unknown if no fault could be carried out."""
        held = self.report.verdict == "pass" and not self.done
        return "unknown" if held else self.report.verdict

    def document(self) -> dict[str, Any]:
        """Return the JSON document of `--json`."""
        own = {"scenario": "schedule", "verdict": self.verdict}
        return self.report.document() | own | {"carried_out": self.done, "left_out": self.left_out}


def deeds_of(plan: Plan) -> tuple[list[Deed], list[Fault]]:
    """Return what can be done to processes, in order, and the faults that cannot."""
    deeds, left_out = [], []
    for fault in plan.faults:
        if fault.kind not in _VERBS:
            left_out.append(fault)
            continue
        begin, _ = _VERBS[fault.kind]
        selector = _SELECTORS.get(fault.victims, fault.victims)
        deeds.append(Deed(fault.at_ns / 1e9, begin, selector, fault.number))
    return deeds, left_out


def _workload(seed: int) -> Workload:
    def read(_: int) -> Iterator[Item]:
        for number in range(ITEMS):
            value = b"%d/%d " % (seed, number)
            yield Item(b"key %06d" % number, value.ljust(VALUE_BYTES, b"."))

    return Workload(f"{ITEMS} keys", ITEMS, ITEMS * VALUE_BYTES, read)


def run_real(plan: Plan, directory: Path, say: Callable[[str], None]) -> RealRun:
    """Run a schedule on a cluster of real processes whose data lie in `directory`.

    CommandError for anything that keeps it from being run; the cluster is down in any case.
    """
    seconds = plan.safety_ns / 1e9
    spec = ClusterSpec(
        name=f"sim-{plan.seed}",
        data_dir=directory,
        nodes=plan.nodes,
        groups=plan.groups,
        heartbeat_ms=plan.heartbeat_ms,
        election_ms_min=plan.election_ms_min,
        election_ms_max=plan.election_ms_max,
    )
    writing = Writing(_workload(plan.seed), 1, seconds)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready()
        run = Run(cluster, writing, say)
        try:
            run.start()
            done, left_out = _hurt(run, plan, seconds, say)
            while not run.writer.done and time.monotonic() < run.started + seconds:
                time.sleep(_LOOK_S)
            return RealRun(run.finish(), tuple(done), tuple(map(str, left_out)))
        finally:
            run.close()


def _hurt(
    run: Run, plan: Plan, seconds: float, say: Callable[[str], None]
) -> tuple[list[str], list[Fault]]:
    """Carry the deeds out at their times, each fault's end as well; return what was done."""
    deeds, left_out = deeds_of(plan)
    for fault in left_out:
        say(f"left out: {fault}")
    ends = {fault.number: fault.duration_ns / 1e9 for fault in plan.faults}
    kinds = {fault.number: fault.kind for fault in plan.faults}
    waiting = sorted(deeds, key=lambda deed: deed.at_s)
    done: list[str] = []
    while waiting and (deed := waiting[0]).at_s <= seconds + max(ends.values(), default=0.0):
        _sleep_until(run.started + deed.at_s)
        waiting.pop(0)
        try:
            with run.cluster.as_step(f"fault {deed.fault}"):
                act = getattr(run.cluster, deed.verb)
                result = act(deed.selector, plan.seed + deed.fault)
        except CommandError as error:
            say(f"fault {deed.fault}: {deed.verb} {deed.selector}: {error}")
            continue
        names = ",".join(f"n{node}" for node in result.nodes)
        say(f"fault {deed.fault}: {deed.verb} {names}")
        begin, end = _VERBS[kinds[deed.fault]]
        if deed.verb == begin:
            done.append(f"#{deed.fault} {deed.verb} {names}")
            ending = replace(deed, at_s=deed.at_s + ends[deed.fault], verb=end, selector=names)
            waiting = sorted([*waiting, ending], key=lambda each: each.at_s)
    return done, left_out


def _sleep_until(moment: float) -> None:
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_S))
