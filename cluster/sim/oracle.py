"""What the clients were told, judged against what the cluster committed.

Theory of operation. The committed batches, replayed by a second, small state machine (`Replay`, 60
lines, written from the specification and not from `node.kv`), give the one order of all operations:
by revision. A history is linearizable if that order explains every answer and respects real time,
and since the order is known, checking it is one pass and not a search:

* every answer is what the replay says at the answer's revision, and
* an operation's revision is not below the highest revision that was acknowledged before the
  operation began; above it, if the operation changed something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.client_types import GetResult
from node.commands import OutcomeCode, decode
from node.ports import Outcome
from node.raft.types import Buffer

__all__ = ["Op", "OracleError", "Replay", "check_history", "check_replica"]

_NOTHING = -1


class OracleError(AssertionError):
    """A client was told something that did not happen so."""


@dataclass(slots=True)
class Op:
    """One operation of one client. `writes`: key → value (None: deletes), distinct everywhere."""

    client: int
    kind: str
    group: int
    key: bytes
    writes: dict[bytes, bytes | None]
    expect: bytes | None = None
    invoked: int = 0
    floor: int = 0
    """The highest revision of the group that was acknowledged before the invocation."""
    completed: int = _NOTHING
    status: str = "open"
    """open, ok, refused (certainly not applied), unknown."""
    result: Outcome | GetResult | None = None
    names: dict[tuple[int, int], None] = field(default_factory=dict)
    """(session, sequence number) that it was sent under; another one if its session had expired."""

    @property
    def revision(self) -> int:
        """The revision of the answer."""
        assert self.result is not None
        return self.result.revision


Item = tuple[bytes, int, int, int]
"""Value, create revision, mod revision, version."""


@dataclass(slots=True)
class _Session:
    floor: int = 1
    answered: set[int] = field(default_factory=set)


class Replay:
    """The specification: keys, revisions, versions, and one application per (session, seq)."""

    def __init__(self) -> None:
        """Start empty."""
        self.revision = 0
        self.items: dict[bytes, Item] = {}
        self.past: dict[bytes, list[tuple[int, Item | None]]] = {}
        """Per key, (revision, item) of every change, oldest first."""
        self._sessions: dict[int, _Session] = {}

    def apply(self, base_index: int, count: int, body: Buffer) -> None:
        """Apply one batch body (ARCHITECTURE §4.1)."""
        data = bytes(body)
        start = 4 * count
        for position in range(count):
            end = start + int.from_bytes(data[4 * position : 4 * position + 4], "little")
            command = decode(data, start, end)
            assert command is not None, "clients of the simulator send well-formed entries"
            opcode, session_id, seq, acked_below = command[:4]
            if opcode == 1:
                self._sessions[base_index + position] = _Session()
            elif opcode and self._is_fresh(session_id, seq, acked_below):
                parts = command[7] or (command,)
                self._change([(part[0], part[4], part[5], bytes(part[6])) for part in parts])
            start = end

    def at(self, key: bytes, revision: int) -> Item | None:
        """Return what a key held at a revision."""
        found = None
        for changed, item in self.past.get(key, ()):
            if changed > revision:
                break
            found = item
        return found

    def _is_fresh(self, session_id: int, seq: int, acked_below: int) -> bool:
        session = self._sessions.get(session_id)
        if session is None:
            return False
        session.floor = max(session.floor, acked_below)
        if seq < session.floor or seq in session.answered:
            return False
        session.answered.add(seq)
        return True

    def _change(self, parts: Sequence[tuple[int, bytes, bytes | None, bytes]]) -> None:
        """Apply the parts of one operation, all or none."""
        items = dict(self.items)
        revision = self.revision + 1
        changed: dict[bytes, Item | None] = {}
        for opcode, key, expect, value in parts:
            now = items.get(key)
            if opcode == 4 and (None if now is None else now[0]) != expect:
                return
            if opcode == 3:
                if now is not None:
                    del items[key]
                    changed[key] = None
                continue
            created, version = (now[1], now[3] + 1) if now else (revision, 1)
            items[key] = changed[key] = (value, created, revision, version)
        if changed:
            self.items, self.revision = items, revision
            for key, item in changed.items():
                self.past.setdefault(key, []).append((revision, item))


def check_replica(replay: Replay, revision: int, items: Sequence[tuple[bytes, Item]]) -> None:
    """Compare a replica's keys, versions included, with the replay of the committed log."""
    if revision != replay.revision or dict(items) != replay.items:
        raise OracleError(
            f"a replica at revision {revision} holds {dict(items)};"
            f" the committed log means revision {replay.revision}, {replay.items}"
        )


def check_history(history: Sequence[Op], replays: Sequence[Replay]) -> None:
    """Check every operation against the replay of its group."""
    for op in history:
        replay = replays[op.group]
        if op.status == "ok":
            _check_answer(op, replay)
        elif op.status == "refused":
            for key, value in op.writes.items():
                if value is not None and _revision_of(replay, key, value):
                    raise OracleError(f"{op}: refused for certain, and applied all the same")


def _check_answer(op: Op, replay: Replay) -> None:
    if op.revision < op.floor or op.revision > replay.revision:
        raise OracleError(f"{op}: answered at {op.revision}; {op.floor} was acknowledged before")
    if isinstance(op.result, GetResult):
        item = op.result.item
        shown = item and (item.value, item.create_revision, item.mod_revision, item.version)
        if shown != replay.at(op.key, op.revision):
            raise OracleError(
                f"{op}: at {op.revision} the key held {replay.at(op.key, op.revision)}"
            )
        return
    assert op.result is not None
    if op.result.code == OutcomeCode.OK:
        _check_effect(op, replay)
        return
    _check_refusal(op, replay, op.result)


def _check_effect(op: Op, replay: Replay) -> None:
    """An acknowledged change is in the log, once, at its revision, behind its invocation."""
    changed = False
    for key, value in op.writes.items():
        item = replay.at(key, op.revision)
        changed = changed or (item is not None and item[2] == op.revision) or value is None
        if value is not None and (item is None or item[0] != value or item[2] != op.revision):
            raise OracleError(f"{op}: acknowledged, and at {op.revision} {key!r} holds {item}")
        if value is None and item is not None:
            raise OracleError(f"{op}: acknowledged, and at {op.revision} {key!r} holds {item}")
    if changed and op.revision <= op.floor:
        raise OracleError(f"{op}: changed revision {op.revision}, {op.floor} was there before")


def _check_refusal(op: Op, replay: Replay, result: Outcome) -> None:
    """CONFLICT and ABSENT: nothing changed, and the key was as the answer says."""
    for key, value in op.writes.items():
        if value is not None and _revision_of(replay, key, value):
            raise OracleError(f"{op}: answered {result.code}, and applied all the same")
    item = replay.at(op.key, result.revision)
    if op.kind == "batch":
        return
    if result.code == OutcomeCode.ABSENT:
        fits = item is None
    else:
        fits = item is not None and item[0] == result.detail and item[0] != op.expect
    if not fits:
        raise OracleError(f"{op}: at {result.revision} the key held {item}")


def _revision_of(replay: Replay, key: bytes, value: bytes) -> int:
    """Return the revision at which a key took a (distinct) value; 0 if it never did."""
    for revision, item in replay.past.get(key, ()):
        if item is not None and item[0] == value:
            return revision
    return 0
