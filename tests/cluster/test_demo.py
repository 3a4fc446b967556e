"""The demo's parts that need no process: plan, tour, verification, report."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.api import ActionResult
from cluster.client import Client
from cluster.client_types import KeyValue, RangeResult
from cluster.demo.collect import NodeTotals
from cluster.demo.report import Report
from cluster.demo.tour import Fault, Step, Tour, steps_for
from cluster.demo.verify import Findings, View, verify
from cluster.demo.writer import (
    BYTES_TARGET,
    ITEMS_TARGET,
    Acknowledged,
    Plan,
    Writer,
    plan_rounds,
)
from cluster.frames import ClusterFrame, NodeFrame, ProcessState, ProcessTruth
from cluster.workload import Workload, synthetic


def workload(items: int, value_bytes: int) -> Workload:
    return replace(synthetic(1, 1), items=items, value_bytes=value_bytes)


def digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def test_a_small_input_is_repeated_and_a_large_one_is_read_once() -> None:
    assert plan_rounds(workload(2_000, 280_000), 20).rounds == ITEMS_TARGET // 2_000
    assert plan_rounds(workload(10, BYTES_TARGET // 4), 20).rounds == 4
    assert plan_rounds(workload(10, BYTES_TARGET * 9), 20).rounds == 1


@pytest.mark.parametrize("nodes", range(1, 16))
def test_the_tour_never_takes_the_majority_and_brings_everybody_back(nodes: int) -> None:
    steps = steps_for(nodes)
    assert [step.share for step in steps] == sorted(step.share for step in steps)
    downs = [step for step in steps if step.action == "kill"]
    ups = [step for step in steps if step.action == "start"]
    assert len(downs) == len(ups)
    for down, up in zip(downs, ups, strict=True):
        assert down.share < up.share
    assert any(step.selector == "leader" for step in downs)
    assert ("minority" in {step.selector for step in downs}) == (nodes >= 3)


class PagedClient:
    """Holds one state per source and answers ranges in pages of two."""

    def __init__(self, states: dict[int | None, list[KeyValue]]) -> None:
        self.states = states

    def range(self, query, timeout=None, *, node=None):
        items = [item for item in self.states[node] if item.key >= query.start]
        return RangeResult((1,), tuple(items[:2]), more=len(items) > 2)


def items(*pairs: tuple[bytes, bytes], version: int = 1) -> list[KeyValue]:
    return [KeyValue(key, value, 1, 1, version) for key, value in pairs]


GOOD = items((b"a", b"1"), (b"b", b"2"), (b"c", b"3"))
ACKED = Acknowledged({item.key: digest(item.value) for item in GOOD}, {b"maybe": digest(b"x")})


def findings_for(state: list[KeyValue]) -> Findings:
    client = PagedClient({None: GOOD, 1: GOOD, 2: state})
    return verify(cast("Client", client), (1, 2), ACKED, lambda _: None)


def test_equal_replicas_with_everything_acknowledged_are_clean() -> None:
    found = findings_for(GOOD)
    assert [found.lost, found.duplicated, found.phantoms] == [set(), set(), set()]
    assert found.replicas_equal
    assert [view.source for view in found.views] == ["leader", "n1", "n2"]


@pytest.mark.parametrize(
    ("state", "field", "keys"),
    [
        (items((b"a", b"1"), (b"c", b"3")), "lost", {b"b"}),
        (items((b"a", b"1"), (b"b", b"DAMAGED"), (b"c", b"3")), "lost", {b"b"}),
        ([], "lost", {b"a", b"b", b"c"}),
        ([*GOOD, *items((b"ghost", b"?"))], "phantoms", {b"ghost"}),
        (items((b"a", b"1"), (b"b", b"2"), (b"c", b"3"), version=2), "duplicated", {b"a", b"b", b"c"}),
    ],
)  # fmt: skip
def test_one_bad_replica_is_found(state: list[KeyValue], field: str, keys: set[bytes]) -> None:
    found = findings_for(state)
    assert getattr(found, field) == keys
    assert not found.replicas_equal


def test_a_put_without_an_answer_may_be_there_or_not() -> None:
    found = findings_for([*GOOD, *items((b"maybe", b"x"))])
    assert [found.lost, found.phantoms] == [set(), set()]
    assert findings_for([*GOOD, *items((b"maybe", b"other"))]).phantoms == {b"maybe"}


def report(found: Findings, *faults: Fault) -> Report:
    plan = Plan(workload(3, 3), 1, 10.0)
    totals = (NodeTotals(1, 2, 10, 30, 5_000_000),)
    return Report(plan, 2, 10.0, ACKED, faults, found, totals, {1: 1, 2: 2}, Path("/data"))


KILL = Fault("kill", "n1", (1,), 1.5, "n1 killed (signal 9)", 43.0)


def test_a_clean_run_passes_and_its_document_has_the_fields_of_the_schema() -> None:
    clean = report(findings_for(GOOD), KILL)
    document = clean.document()
    assert clean.verdict == document["verdict"] == "pass"
    assert document["schema"] == "raftdeck.test/1"
    assert document["scenario"] == "demo"
    assert document["ops"]["acked"] == 3
    assert document["ops"]["lost"] == document["ops"]["duplicated"] == 0
    assert document["faults"][0]["leaderless_ms"] == 43.0
    assert document["per_node"][0]["entries_per_fsync"] == 3.0
    assert document["cluster"]["elections"] == 1
    assert any("verdict      pass" in line for line in clean.lines())


def test_a_lost_put_fails_and_an_unproved_fault_is_unknown_never_a_pass() -> None:
    assert report(findings_for([]), KILL).verdict == "fail"
    assert report(findings_for(GOOD), replace(KILL, proof="")).verdict == "unknown"
    assert report(findings_for(GOOD), replace(KILL, leaderless_ms=None)).verdict == "unknown"


def test_nothing_acknowledged_is_unknown() -> None:
    view = View("leader", 0, 0, (), (), (), "")
    empty = replace(report(Findings((view,)), KILL), acknowledged=Acknowledged())
    assert empty.verdict == "unknown"


class Bench:
    """A cluster whose leader serves until `kill` returns, and a writer that is asked since when."""

    acked = 41

    def __init__(self) -> None:
        self.moment = self.dead_at = 0.0
        self.marks: list[tuple[str, str, str]] = []
        self.step = ""

    def kill(self, selector: str, seed: int | None = None) -> ActionResult:
        threading.Event().wait(0.02)
        self.dead_at = time.monotonic()
        return ActionResult("kill", selector, (2,), {"n2": "killed"})

    start = pause = resume = kill

    @contextmanager
    def as_step(self, step: str) -> Iterator[None]:
        self.step = step
        yield
        self.step = ""

    def mark(self, text: str, effect: str = "") -> None:
        self.marks.append((self.step, text, effect))

    def last_frame(self) -> ClusterFrame:
        truth = ProcessTruth(ProcessState.KILLED, "user", 0, 1, signal=9)
        return ClusterFrame(1, 0, "", "", 0, 1, (NodeFrame(2, truth),))

    def wait_for_ack_after(self, moment: float, timeout_s: float) -> float | None:
        self.moment = moment
        return moment + 0.121


def test_a_write_that_the_dying_leader_acked_does_not_end_the_leaderless_time() -> None:
    bench: Any = Bench()
    said: list[str] = []
    tour = Tour(bench, bench, said.append)
    tour.do(Step(0.1, "kill", "leader", "why"), time.monotonic(), "1/6")
    assert bench.moment >= bench.dead_at
    [fault] = tour.faults
    assert fault.leaderless_ms == pytest.approx(121)
    assert bench.marks == [
        ("1/6 kill leader", "kill n2: measured", "next write acked in 121 ms · 41 acked")
    ]
    assert said[-1] == "  n2 killed, says the kernel; next write acked in 121 ms"


@pytest.mark.parametrize("nodes", [1, 3, 5, 11, 15])
def test_a_caption_fits_a_small_screen(nodes: int) -> None:
    for step in steps_for(nodes):
        assert len(f" in 10 s: step 1/6: {step.caption}") <= 80


class Acking:
    """A client that acknowledges everything at once."""

    def put_nowait(self, key: bytes, value: bytes, timeout_s: float) -> Any:
        future: Future[None] = Future()
        future.set_result(None)
        return future


@pytest.mark.parametrize("trickle_s", [0.0, 0.002])
def test_a_writer_ends_with_its_plan_unless_it_is_to_trickle_on(trickle_s: float) -> None:
    client: Any = Acking()
    endless = replace(synthetic(10, 10), overwrites=False)
    writer = Writer(client, Plan(endless, 1, 0.0, trickle_s))
    writer.start()
    assert writer.wait_for_acks(10, 20)
    began = time.monotonic()
    assert (writer.wait_for_ack_after(began, 20) is not None) == bool(trickle_s)
    assert writer.wait_for_acks(15, 20) == bool(trickle_s)
    assert writer.done == (not trickle_s)
    assert writer.finish(20)
    assert writer.done
