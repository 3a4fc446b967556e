"""Recorded histories: of a client's answers, and of whole simulated worlds."""

import io
from itertools import count

import pytest

from cluster.check.budget import Budget
from cluster.check.formats import read_history
from cluster.check.history import Status
from cluster.check.judge import Rules, judge
from cluster.check.linearizable import Way
from cluster.check.recording import HistoryRecorder
from cluster.check.replicas import Replica, check_replicas
from cluster.check.simulated import history_of, replicas_of
from cluster.check.verdict import Verdict
from cluster.client_types import DefiniteError, GetResult, IndefiniteError, KeyValue
from cluster.sim.oracle import Op
from cluster.sim.plan import draw_plan
from cluster.sim.world import World
from node.commands import OutcomeCode
from node.ports import Outcome


def test_what_a_client_was_told_is_read_back_as_operations():
    stream = io.StringIO()
    ticks = count(100)
    recorder = HistoryRecorder(stream, lambda: next(ticks), "register")
    one = recorder.invoke("write", b"k", b"v1")
    two = recorder.invoke("read", b"k")
    recorder.answered(one, Outcome(OutcomeCode.OK, 7, b""))
    recorder.answered(two, GetResult(7, KeyValue(b"k", b"v1", 7, 7, 1)))
    three = recorder.invoke("cas", b"k", (b"v0", b"\xff\x00"))
    assert three == one, "a free process is used again"
    recorder.answered(three, Outcome(OutcomeCode.CONFLICT, 7, b"v1"))
    lost = recorder.invoke("write", b"k", b"v2")
    recorder.fault("kill", "n1")
    recorder.answered(lost, IndefiniteError("no answer"))
    refused = recorder.invoke("write", b"k", b"v3")
    assert refused != lost, "whoever was not answered is never heard of again"
    recorder.answered(refused, DefiniteError("busy"))
    gone = recorder.invoke("read", b"k")
    recorder.answered(gone, IndefiniteError("a failed read is definite"))
    history = read_history(stream.getvalue().encode())
    assert [(op.f, op.status.value, op.position) for op in history.operations] == [
        ("write", "ok", 7), ("read", "ok", 7), ("cas", "fail", None), ("write", "info", None),
        ("write", "fail", None), ("read", "fail", None),
    ]  # fmt: skip
    assert history.operations[1].result == "v1"
    assert history.operations[2].argument == ("v0", b"\xff\x00")
    assert len(history.nemesis) == 1
    assert judge(history, "register", Rules(Budget())).verdict is Verdict.PASS


def test_at_equal_instants_of_a_simulation_operations_overlap():
    """The write ends at the instant at which the read begins that does not see it."""
    ops = [
        Op(1, "put", 0, b"k", {b"k": b"v"}, invoked=1, completed=10, status="ok",
           result=Outcome(OutcomeCode.OK, 5, b"")),
        Op(2, "get", 0, b"k", {}, invoked=10, completed=12, status="ok",
           result=GetResult(4, None)),
    ]  # fmt: skip
    assert judge(history_of(ops), "register", Rules(Budget())).verdict is Verdict.PASS
    ops[1].invoked = 11
    assert judge(history_of(ops), "register", Rules(Budget())).verdict is Verdict.FAIL


@pytest.fixture(scope="module", params=[3, 12, 40])
def world(request):
    world = World(draw_plan(request.param))
    world.run()
    return world


@pytest.mark.parametrize("way", [Way.WITNESS, Way.SEARCH])
def test_a_simulated_world_is_linearizable_by_its_revisions_and_by_search(world, way):
    history = history_of(op for client in world.clients for op in client.history)
    assert history.count(Status.OK) > 20
    judgement = judge(history, "register", Rules(Budget(30, 4096), way))
    assert judgement.verdict is Verdict.PASS, judgement.findings[0]


def test_the_replicas_of_a_healed_world_are_equal_and_one_that_differs_is_named(world):
    for group in world.groups:
        replicas = replicas_of(world, group)
        assert check_replicas(replicas).verdict is Verdict.PASS
        spoilt = Replica("n9", replicas[0].position, {**replicas[0].items, b"k": b"else"})
        finding = check_replicas([*replicas, spoilt])
        assert finding.verdict is Verdict.FAIL
        assert finding.facts["differing"] == ["n9"]


def test_a_simulated_world_that_forgets_a_write_is_not(world):
    history = history_of(op for client in world.clients for op in client.history)
    reads = [
        op for op in history.operations
        if op.f == "read" and op.status is Status.OK and op.result is not None
    ]  # fmt: skip
    reads[-1].result = b"what nobody wrote"
    for way in (Way.WITNESS, Way.SEARCH):
        judgement = judge(history, "register", Rules(Budget(30, 4096), way))
        told = (Verdict.FAIL, Verdict.UNKNOWN) if way is Way.WITNESS else (Verdict.FAIL,)
        assert judgement.verdict in told, "operations of unknown outcome leave a witness in doubt"
