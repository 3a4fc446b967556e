"""The independent judges of `cluster.check` over a simulated world that has ended.

Theory of operation. `oracle` and `node/raft/invariants` know the simulator from inside. The judges here
know only what a test of a real cluster could collect: what clients were told, what each replica holds,
what lies on the disks. None of them uses the oracle's replay, so a mistake in it does not hide one in the
product, nor the other way round.

Exactly-once is judged in every world: an operation has had an effect when the state machine answered
OK at a revision that was new, and what names it is the (session, sequence number) it was sent under.
How the sessions told a repetition from an operation is not asked.

The others are asked in one seed of `ALL_EVERY`, for what they cost: linearizability by the revisions
and by search, replica equality, the logs on the disks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cluster.check.budget import Budget
from cluster.check.fsck import LogPlace, check_logs
from cluster.check.history import Status
from cluster.check.judge import Rules, judge
from cluster.check.linearizable import Way
from cluster.check.replicas import check_replicas
from cluster.check.sessions import Attempt, Effect, check_exactly_once
from cluster.check.simulated import history_of, replicas_of
from cluster.check.verdict import Finding, Verdict
from node.commands import OutcomeCode, unpack_prefix, unpack_stamp
from node.ports import Outcome

if TYPE_CHECKING:
    from cluster.sim.oracle import Op
    from cluster.sim.world import World

__all__ = ["ALL_EVERY", "Applied", "JudgeError", "findings_of", "judge_sessions", "judge_world"]

ALL_EVERY: Final = 4
"""One seed of so many is judged by all: 3.7 ms, where a seed of lite takes 90."""
_BUDGET: Final = Budget(10.0, 4096)
"""For a history of a hundred operations or so; one that needs more is worth a look."""
_LOG: Final = "wal"

Applied = tuple[int, bytes, Sequence[Outcome]]
"""A committed batch: entries, body, and what was answered to each by who applied it first."""


class JudgeError(AssertionError):
    """An independent judge says no; `name` is the property."""

    def __init__(self, finding: Finding) -> None:
        """Tell the reason and the evidence."""
        super().__init__(f"{finding.judge}: {finding.reason}; {'; '.join(finding.lines)}")
        self.name = finding.judge


def judge_sessions(operations: Sequence[Op], batches: Sequence[Applied]) -> None:
    """Judge the operations on one group by its committed batches, in order. Raises JudgeError."""
    attempts: list[Attempt] = []
    known: dict[tuple[int, int], tuple[int, int]] = {}
    for number, op in enumerate(operations):
        if op.kind == "get" or not (op.names or op.status == "ok"):
            continue  # a read changes nothing, nor does what never left
        name = next(iter(op.names), (0, number))
        known.update(dict.fromkeys(op.names, name))
        attempts.append(Attempt(*name, _status(op)))
    effects = []
    for session, seq, revision in _changes(batches):
        effects.append(Effect(*known.get((session, seq), (session, seq)), revision))
    if attempts or effects:
        _demand(check_exactly_once(attempts, effects))


def _status(op: Op) -> Status:
    """Return what a client was told; CONFLICT and ABSENT say that nothing changed."""
    if op.status == "ok":
        assert isinstance(op.result, Outcome)
        return Status.OK if op.result.code == OutcomeCode.OK else Status.FAIL
    return Status.FAIL if op.status == "refused" else Status.INFO


def _changes(batches: Sequence[Applied]) -> list[tuple[int, int, int]]:
    """Return (session, sequence number, revision) of each entry that made a new revision."""
    found = []
    revision = 0
    for count, body, outcomes in batches:
        start = 4 * count
        for place, outcome in enumerate(outcomes):
            if outcome.revision > revision:
                revision = outcome.revision
                prefix, seq, _ = unpack_stamp(body, start)
                found.append((unpack_prefix(prefix)[4], seq, revision))
            start += int.from_bytes(body[4 * place : 4 * place + 4], "little")
    return found


def judge_world(world: World) -> None:
    """Let the costly judges speak, if it is this seed's turn. Raises JudgeError."""
    if world.plan.seed % ALL_EVERY == 0:
        for finding in findings_of(world):
            _demand(finding)


def findings_of(world: World) -> list[Finding]:
    """Return what the judges say of a world that has healed: histories, replicas, disks."""
    history = history_of(op for client in world.clients for op in client.history)
    findings = []
    for way in (Way.WITNESS, Way.SEARCH):
        found = judge(history, "register", Rules(_BUDGET, way)).findings
        if way is Way.WITNESS:  # where unknown outcomes leave a choice, the search decides
            found = [
                finding for finding in found
                if finding.verdict is not Verdict.UNKNOWN or "open_outcomes" not in finding.facts
            ]  # fmt: skip
        for finding in found:
            finding.judge = f"{finding.judge} by {way.value}"
        findings += found
    members = world.members()
    if len(members) > 1:
        findings += [check_replicas(replicas_of(world, group)) for group in world.groups]
    places = [LogPlace(f"n{node.node}", node.disk, _LOG) for node in members]
    return findings + check_logs(places)


def _demand(finding: Finding) -> None:
    """Unknown is no pass: the worlds are small enough for an answer."""
    if finding.verdict is not Verdict.PASS:
        raise JudgeError(finding)
