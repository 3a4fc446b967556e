"""The key-value state machine (docs/ARCHITECTURE.md §7): outcomes, totality, ranges, digest."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import commands
from node.commands import MULTI_OUTCOME, OutcomeCode, encode
from node.kv import machine as machine_module
from node.kv.machine import KeyValueMachine
from node.limits import DETAIL_BYTES_MAX, RANGE_REPLY_BYTES_MAX, READ_REPLY_BYTES_TARGET
from node.outcomes import Outcome, Outcomes
from node.raft.types import BatchMeta, Index, Term

OK, ABSENT, CONFLICT = OutcomeCode.OK, OutcomeCode.ABSENT, OutcomeCode.CONFLICT
BAD, ABORTED = OutcomeCode.BAD_OPERATION, OutcomeCode.BATCH_ABORTED


class Replica:
    """A machine, the index of its next entry, and one open session with the next number."""

    def __init__(self) -> None:
        self.machine = KeyValueMachine()
        self.next_index = 1
        self.seq = 0
        (opened,) = self.entries(commands.encode_open_session())
        self.session = int.from_bytes(opened.detail, "little")

    def entries(self, *entries: bytes, time_ms: int = 0) -> Outcomes:
        body = struct.pack(f"<{len(entries)}I", *map(len, entries)) + b"".join(entries)
        return self.body(len(entries), body, time_ms)

    def body(self, count: int, body: bytes, time_ms: int = 0) -> Outcomes:
        meta = BatchMeta(Term(1), Index(self.next_index), count, 64 + len(body))
        self.next_index += count
        outcomes = self.machine.apply(meta, time_ms, body)
        assert len(outcomes) == count
        return outcomes

    def do(self, *operations: commands.Operation) -> Outcomes:
        entries = []
        for operation in operations:
            self.seq += 1
            entries.append(encode(operation, self.session, self.seq, self.seq))
        return self.entries(*entries)

    def one(self, operation: commands.Operation) -> Outcome:
        (outcome,) = self.do(operation)
        return outcome

    def query(self, query: list[object]) -> Any:
        return self.machine.query(query)

    def item(self, key: bytes) -> Any:
        return self.query([1, key])[1]


def test_a_put_sets_value_revisions_and_version():
    replica = Replica()
    assert replica.one(commands.put(b"k", b"one")) == Outcome(OK, 1)
    assert replica.one(commands.put(b"x", b"")) == Outcome(OK, 2)
    assert replica.one(commands.put(b"k", b"two")) == Outcome(OK, 3)
    assert replica.machine.query([1, b"k"]) == [3, (b"k", b"two", 1, 3, 2)]
    assert replica.item(b"none") is None


def test_a_delete_counts_as_a_revision_only_if_something_was_there():
    replica = Replica()
    assert replica.one(commands.delete(b"k")) == Outcome(ABSENT, 0)
    replica.one(commands.put(b"k", b"v"))
    assert replica.one(commands.delete(b"k")) == Outcome(OK, 2)
    assert replica.item(b"k") is None
    replica.one(commands.put(b"k", b"again"))
    assert replica.item(b"k") == (b"k", b"again", 3, 3, 1)


def test_a_cas_swaps_only_what_it_expects():
    replica = Replica()
    assert replica.one(commands.cas(b"k", b"v", b"w")) == Outcome(ABSENT, 0)
    assert replica.one(commands.cas(b"k", None, b"v")) == Outcome(OK, 1)
    assert replica.one(commands.cas(b"k", None, b"w")) == Outcome(CONFLICT, 1, b"v")
    assert replica.one(commands.cas(b"k", b"other", b"w")) == Outcome(CONFLICT, 1, b"v")
    assert replica.one(commands.cas(b"k", b"", b"w")) == Outcome(CONFLICT, 1, b"v")
    assert replica.one(commands.cas(b"k", b"v", b"w")) == Outcome(OK, 2)
    assert replica.item(b"k") == (b"k", b"w", 1, 2, 2)


def test_the_detail_of_a_conflict_is_cut():
    replica = Replica()
    replica.one(commands.put(b"k", b"v" * (DETAIL_BYTES_MAX + 1)))
    assert replica.one(commands.cas(b"k", None, b"")).detail == b"v" * DETAIL_BYTES_MAX


def test_a_batch_is_one_revision():
    replica = Replica()
    replica.do(commands.put(b"a", b"0"), commands.put(b"gone", b"0"))
    operation = commands.batch(
        [
            commands.put(b"a", b"1"),
            commands.put(b"b", b"1"),
            commands.delete(b"gone"),
            commands.delete(b"never"),
            commands.put(b"a", b"2"),
            commands.cas(b"a", b"2", b"3"),
        ]
    )
    assert replica.one(operation) == Outcome(OK, 3)
    assert replica.query([2, b"", b"", 0]) == [
        3,
        [(b"a", b"3", 1, 3, 4), (b"b", b"1", 3, 3, 1)],
        False,
    ]


def test_a_failed_cas_aborts_the_whole_batch():
    replica = Replica()
    replica.do(commands.put(b"a", b"0"), commands.put(b"b", b"0"))
    before = replica.query([2, b"", b"", 0])
    head = [commands.put(b"a", b"1"), commands.put(b"new", b"1"), commands.delete(b"b")]
    conflict = replica.one(commands.batch([*head, commands.cas(b"a", b"0", b"2")]))
    assert conflict == Outcome(ABORTED, 2, MULTI_OUTCOME.pack(3, CONFLICT) + b"1")
    absent = replica.one(commands.batch([*head, commands.cas(b"b", b"0", b"2")]))
    assert absent == Outcome(ABORTED, 2, MULTI_OUTCOME.pack(3, ABSENT))
    assert replica.query([2, b"", b"", 0]) == before


def test_a_batch_that_changes_nothing_is_no_revision():
    replica = Replica()
    assert replica.one(commands.batch([commands.delete(b"k")])) == Outcome(OK, 0)


def test_a_noop_changes_nothing():
    replica = Replica()
    before = replica.machine.digest()
    assert replica.entries(commands.encode_noop()) == [Outcome(OK, 0)]
    assert replica.machine.digest() == before


def test_a_session_id_is_the_index_of_its_entry():
    replica = Replica()
    outcomes = replica.entries(commands.encode_noop(), commands.encode_open_session())
    assert outcomes == [Outcome(OK, 0), Outcome(OK, 0, struct.pack("<Q", 3))]
    assert replica.session == 1


def test_replicated_time_never_falls():
    replica = Replica()
    for time_ms, expected in ((5, 5), (3, 5), (9, 9)):
        replica.entries(commands.encode_noop(), time_ms=time_ms)
        assert replica.machine.leader_time_ms == expected


def test_one_bad_entry_leaves_its_neighbours_alone():
    replica = Replica()
    good = [encode(commands.put(b"k%d" % i, b"v"), replica.session, i, 1) for i in (1, 2)]
    codes = [o.code for o in replica.entries(good[0], b"\xff" * 40, b"", b"x", good[1])]
    assert codes == [OK, BAD, BAD, BAD, OK]


@pytest.mark.parametrize("shift", [-4, -1, 1, 4])
def test_a_body_that_does_not_add_up_is_bad_throughout(shift):
    replica = Replica()
    entry = encode(commands.put(b"k", b"v" * 10), replica.session, 1, 1)
    body = struct.pack("<2I", len(entry), len(entry)) + entry + entry + bytes(max(0, shift))
    cut = body[: len(body) + min(0, shift)]
    assert [o.code for o in replica.body(2, cut)] == [BAD, BAD]
    assert [o.code for o in replica.body(2, b"\x01")] == [BAD, BAD]
    assert replica.machine.revision == 0


@given(st.lists(st.binary(max_size=80), max_size=6), st.binary(max_size=40))
def test_apply_is_total(entries, tail):
    replica = Replica()
    stamped = [struct.pack("<BBHIQQQ", 5, 0, 0, 0, 1, 1, 1) + entry for entry in entries]
    replica.entries(*entries, *stamped)
    body = struct.pack(f"<{len(entries)}I", *map(len, entries)) + b"".join(entries) + tail
    replica.body(len(entries), body)
    replica.machine.digest()


@given(st.data())
def test_apply_is_total_for_almost_valid_entries(data):
    replica = Replica()
    operation = data.draw(
        st.sampled_from(
            [
                commands.put(b"k", b"v"),
                commands.cas(b"k", b"e", b"v"),
                commands.batch([commands.put(b"k", b"v"), commands.delete(b"k")]),
            ]
        )
    )
    entry = bytearray(encode(operation, 1, 1, 1))
    for _ in range(data.draw(st.integers(1, 4))):
        entry[data.draw(st.integers(0, len(entry) - 1))] = data.draw(st.integers(0, 255))
    replica.entries(bytes(entry), bytes(entry))
    replica.machine.digest()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_stored_values_do_not_hang_on_to_the_body(kind):
    replica = Replica()
    entry = encode(commands.put(b"k", b"v"), 1, 1, 1)
    body = kind(struct.pack("<I", len(entry)) + entry)
    replica.machine.apply(BatchMeta(Term(1), Index(2), 1, 0), 0, body)
    item = replica.item(b"k")
    assert [type(part) for part in item[:2]] == [bytes, bytes]


def test_a_range_is_ordered_half_open_and_bounded():
    replica = Replica()
    for key in (b"b", b"d", b"a", b"c"):
        replica.one(commands.put(key, key))

    def keys(*query):
        revision, items, more = replica.query([2, *query])
        assert revision == 4
        return b"".join(item[0] for item in items), more

    assert keys(b"", b"", 0) == (b"abcd", False)
    assert keys(b"b", b"d", 0) == (b"bc", False)
    assert keys(b"b", b"", 2) == (b"bc", True)
    assert keys(b"c", b"", 2) == (b"cd", False)
    assert keys(b"d", b"a", 0) == (b"", False)
    replica.one(commands.delete(b"b"))
    replica.one(commands.put(b"bb", b""))
    assert replica.query([2, b"a", b"c", 0])[1] == [
        (b"a", b"a", 3, 3, 1),
        (b"bb", b"", 6, 6, 1),
    ]


def test_a_range_reply_is_bounded_in_bytes_but_never_empty():
    replica = Replica()
    value = bytes(RANGE_REPLY_BYTES_MAX // 2)
    replica.do(*[commands.put(b"k%d" % i, value) for i in range(3)])
    _, items, more = replica.query([2, b"", b"", 0])
    assert ([item[0] for item in items], more) == ([b"k0"], True)
    replica.one(commands.put(b"a", bytes(2 * RANGE_REPLY_BYTES_MAX)))
    _, items, more = replica.query([2, b"", b"", 0])
    assert ([item[0] for item in items], more) == ([b"a"], True)


def test_a_range_reply_is_bounded_in_items(monkeypatch):
    monkeypatch.setattr(machine_module, "RANGE_ITEMS_MAX", 3)
    replica = Replica()
    replica.do(*[commands.put(b"k%d" % i, b"") for i in range(4)])
    _, items, more = replica.query([2, b"", b"", 9])
    assert (len(items), more) == (3, True)


def test_a_full_read_reply_answers_the_first_queries_only():
    replica = Replica()
    replica.one(commands.put(b"k", bytes(READ_REPLY_BYTES_TARGET // 2)))
    assert len(replica.machine.query_all([[1, b"k"]] * 5)) == 2
    assert len(replica.machine.query_all([[1, b"none"]] * 5)) == 5


@pytest.mark.parametrize(
    "query",
    [
        None,
        [],
        [1],
        [1, b""],
        [1, "k"],
        [1, b"k" * 5_000],
        [1, b"k", 0],
        [3, b"k"],
        [2, b"", b"", -1],
        [2, b"", b"k" * 5_000, 0],
        b"\x01k",
        {1: b"k"},
    ],
)
def test_a_malformed_query_is_a_value_error(query):
    with pytest.raises(ValueError, match="a query is"):
        Replica().machine.query(query)


def test_the_digest_sees_every_part_of_the_state():
    def digest(*operations, session_twice=False, time_ms=0):
        replica = Replica()
        replica.do(*operations)
        if session_twice:
            replica.entries(commands.encode_open_session())
        replica.entries(commands.encode_noop(), time_ms=time_ms)
        return replica.machine.digest()

    a, b = commands.put(b"a", b"1"), commands.put(b"b", b"2")
    assert digest(a, b) == digest(a, b)
    different = [
        digest(a, b),
        digest(b, a),
        digest(a, a),
        digest(a, commands.put(b"b", b"3")),
        digest(commands.put(b"a", b"1b"), commands.put(b"b", b"2")),
        digest(a, b, session_twice=True),
        digest(a, b, time_ms=1),
        digest(commands.delete(b"a"), a, b),
        # Same outcome, same revisions, another version.
        digest(commands.batch([a])),
        digest(commands.batch([a, a])),
    ]
    assert len(set(different)) == len(different)


DETERMINISM = """
import random, struct
from node import commands
from node.kv.machine import KeyValueMachine
from node.raft.types import BatchMeta
rng = random.Random(7)
machine = KeyValueMachine()
index = 1
sessions = []
log = []
for turn in range(60):
    entries = []
    for _ in range(20):
        key = b"k%d" % rng.randrange(50)
        kind = rng.randrange(6)
        operation = [
            commands.put(key, rng.randbytes(5)),
            commands.delete(key),
            commands.cas(key, None, b"new"),
            commands.batch([commands.put(key, b"x"), commands.delete(b"k1")]),
        ][kind % 4]
        if kind == 5 or not sessions:
            entries.append(commands.encode_open_session())
            sessions.append(index + len(entries) - 1)
        else:
            seq = rng.randrange(1, 400)
            entries.append(commands.encode(operation, rng.choice(sessions), seq, max(1, seq - 50)))
    body = struct.pack("<%dI" % len(entries), *map(len, entries)) + b"".join(entries)
    outcomes = machine.apply(BatchMeta(1, index, len(entries), len(body)), turn, body)
    log.append([(o.code, o.revision, o.detail) for o in outcomes])
    index += len(entries)
print(machine.digest().hex(), hash("the seed is in force"), log)
"""


def test_replicas_agree_whatever_their_hash_seed():
    root = Path(__file__).parents[3]
    outputs = []
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", DETERMINISM]
        run = subprocess.run(
            command, env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        digest, text_hash, log = run.stdout.split(" ", 2)
        outputs.append((digest, log))
        assert len(log) > 1_000
        assert text_hash
    assert outputs[0] == outputs[1] == outputs[2]
