"""The independent judges over simulated worlds: each is shown what it must refuse."""

from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import patch

import pytest

from cluster.client_lane import Lane
from cluster.client_types import DefiniteError, GetResult
from cluster.sim.campaign import SeedFailure, plan_of, run_seed
from cluster.sim.judges import ALL_EVERY, Applied, JudgeError, findings_of, judge_sessions
from cluster.sim.oracle import Op
from cluster.sim.world import World
from node.commands import OutcomeCode, encode, put
from node.kv.sessions import Session, SessionTable
from node.ports import Outcome

SEEDS_MAX = 60


@pytest.fixture(scope="module")
def world() -> World:
    world = World(plan_of(ALL_EVERY, "swarm"))
    world.run()
    assert len(world.members()) > 1
    return world


def verdicts(world: World) -> dict[str, str]:
    return {finding.judge: finding.verdict.value for finding in findings_of(world)}


def test_a_world_that_held_is_passed_by_every_judge(world: World) -> None:
    found = verdicts(world)
    assert set(found.values()) == {"pass"}
    for judge in ("linearizable by witness", "linearizable by wgl", "replica equality"):
        assert judge in found
    assert {f"log of n{node.node}" for node in world.members()} < set(found)
    assert {"log matching", "released is held", "one cluster"} < set(found)


def test_a_read_of_what_nobody_wrote_is_refused_both_ways(world: World) -> None:
    op, told = next(
        (op, op.result)
        for client in world.clients
        for op in client.history
        if isinstance(op.result, GetResult) and op.result.item is not None
    )
    assert told.item is not None
    op.result = replace(told, item=replace(told.item, value=b"another value"))
    try:
        found = verdicts(world)
    finally:
        op.result = told
    assert found["linearizable by witness"] == "fail"
    assert found["linearizable by wgl"] == "fail"


def test_a_replica_and_a_log_that_differ_are_named(world: World) -> None:
    first, second = world.members()[:2]
    disks = first.disk, second.disk
    first.disk = second.disk
    try:
        found = verdicts(world)
    finally:
        first.disk, second.disk = disks
    assert found["one cluster"] == "fail", "two logs of one node"


def op(status: str, names: Sequence[tuple[int, int]], code: int = OutcomeCode.OK) -> Op:
    made = Op(1, "put", 0, b"k", {b"k": b"v"}, status=status, names=dict.fromkeys(names))
    if status == "ok":
        made.result = Outcome(code, 1)
    return made


def batch(session: int, *entries: tuple[int, int]) -> Applied:
    """Return a batch of puts, each (sequence number, revision answered)."""
    bodies = [encode(put(b"k", b"v"), session, seq, 1) for seq, _ in entries]
    lengths = b"".join(len(body).to_bytes(4, "little") for body in bodies)
    outcomes = [Outcome(OutcomeCode.OK, revision) for _, revision in entries]
    return len(entries), lengths + b"".join(bodies), outcomes


@pytest.mark.parametrize(
    ("operations", "batches", "words"),
    [
        ([op("ok", [(7, 1)])], [batch(7, (1, 1))], ""),
        ([op("ok", [(7, 1)])], [batch(7, (1, 1), (1, 1))], ""),
        ([op("ok", [(7, 1)])], [batch(7, (1, 1)), batch(7, (1, 2))], "duplicated"),
        ([op("ok", [(7, 1)])], [], "lost"),
        ([op("ok", [])], [], "lost"),
        ([op("refused", [(7, 1)])], [batch(7, (1, 1))], "refused and applied"),
        ([op("ok", [(7, 1)], OutcomeCode.CONFLICT)], [batch(7, (1, 1))], "refused and applied"),
        ([op("unknown", [(7, 1)])], [], ""),
        ([op("unknown", [(7, 1)])], [batch(7, (1, 1), (1, 2))], "duplicated"),
        ([op("ok", [(7, 1), (9, 1)])], [batch(9, (1, 1))], ""),
        ([op("ok", [(7, 1), (9, 1)])], [batch(7, (1, 1)), batch(9, (1, 2))], "duplicated"),
        ([op("ok", [(7, 1)])], [batch(7, (1, 1), (2, 2))], "unasked"),
        ([op("refused", [])], [], ""),
    ],
)
def test_an_operation_has_one_effect_whatever_it_was_sent_as(operations, batches, words) -> None:
    if not words:
        judge_sessions(operations, batches)
        return
    with pytest.raises(JudgeError, match=words) as raised:
        judge_sessions(operations, batches)
    assert raised.value.name == "exactly-once"


def first_failure(seeds: range) -> SeedFailure:
    for seed in seeds:
        outcome = run_seed(seed)
        if isinstance(outcome, SeedFailure):
            return outcome
    pytest.fail(f"not found in {len(seeds)} seeds")


@pytest.mark.timeout(240)
def test_an_operation_that_is_applied_twice_is_found_by_the_judge_of_sessions() -> None:
    def forget(self: SessionTable, session: Session, *_: object) -> None:
        """Keep no answer."""

    with patch.multiple(SessionTable, record=forget, record_run=forget):
        failure = first_failure(range(1, SEEDS_MAX))
    assert failure.kind == "exactly-once"
    assert "duplicated: session " in failure.text


@pytest.mark.timeout(240)
def test_a_client_that_calls_what_is_in_doubt_refused_is_found_by_the_judge_of_sessions() -> None:
    complete = Lane._complete

    def definite(self: Lane, waiting, result, error=None) -> None:
        complete(self, waiting, result, error and DefiniteError(str(error)))

    with patch.object(Lane, "_complete", definite):
        failure = first_failure(range(1, SEEDS_MAX))
    assert failure.kind == "exactly-once"
    assert "refused and applied: session " in failure.text


def test_the_turn_of_the_costly_judges_comes_with_the_seed() -> None:
    plan = plan_of(ALL_EVERY, "lite")
    for seed, asked in ((ALL_EVERY, True), (ALL_EVERY + 1, False)):
        world = World(replace(plan, seed=seed))
        with patch("cluster.sim.judges.findings_of", return_value=[]) as judges:
            world.run()
        assert judges.called is asked
