"""A simulator's schedule on real processes: what can be carried out is, the rest is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.sim.plan import draw_plan
from cluster.sim.real import deeds_of, run_real
from cluster.sim.schedule import Fault, FaultKind

MS = 1_000_000


@pytest.mark.timeout(240)
def test_crashes_and_pauses_are_carried_out_and_nothing_is_lost(desk: Path) -> None:
    faults = (
        Fault(0, 500 * MS, FaultKind.CRASH, "leader", 600 * MS),
        Fault(1, 700 * MS, FaultKind.CUT, "one", 100 * MS),
        Fault(2, 1_500 * MS, FaultKind.PAUSE, "one", 300 * MS),
    )
    plan = replace(draw_plan(1), nodes=3, faults=faults, safety_ns=3_000 * MS)
    said: list[str] = []
    found = run_real(plan, desk / "data", said.append)
    assert found.verdict == "pass", found.report.checks
    assert [each.split()[:2] for each in found.done] == [["#0", "kill"], ["#2", "pause"]]
    assert found.left_out == (str(faults[1]),)
    assert any(line.startswith("fault 0: start n") for line in said)
    document = found.document()
    assert document["ops"]["acked"] > 100
    assert document["ops"]["lost"] == 0


@pytest.mark.timeout(240)
def test_a_schedule_of_which_nothing_can_be_carried_out_proves_nothing(desk: Path) -> None:
    plan = replace(draw_plan(1), nodes=1, safety_ns=500 * MS, faults=())
    found = run_real(plan, desk / "data", lambda _: None)
    assert found.report.verdict == "pass"
    assert found.verdict == "unknown"


def test_deeds_are_those_of_the_schedule_in_its_order() -> None:
    plan = draw_plan(8)
    deeds, left_out = deeds_of(plan)
    assert len(deeds) + len(left_out) == len(plan.faults)
    assert [deed.verb for deed in deeds] == ["pause"]
    assert all(fault.kind not in (FaultKind.CRASH, FaultKind.PAUSE) for fault in left_out)
