"""The short path of a run of puts does exactly what the long one does, entry by entry."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import commands
from node.commands import encode
from node.kv.machine import Frozen, KeyValueMachine
from node.kv.sessions import Session, SessionBounds
from node.outcomes import Outcome, Outcomes
from node.raft.types import BatchMeta, Index, Term

TIGHT = SessionBounds(sessions=3, replies_per_session=12, replies_total=20)
WIDE = SessionBounds()


class Plain(KeyValueMachine):
    """The machine without the short path."""

    __slots__ = ()

    def _apply_puts(
        self, source: bytes, place: tuple[tuple[int, ...], int, int], outcomes: Outcomes
    ) -> tuple[int, int]:
        return 0, place[2]


class Pair:
    """Both machines, given the same; they must not differ in anything that can be seen."""

    def __init__(self, bounds: SessionBounds) -> None:
        self.bounds = bounds
        self.machines = KeyValueMachine(bounds), Plain(bounds)
        self.frozen: tuple[Frozen, Frozen] | None = None
        self.next_index = 1

    def apply(self, entries: Sequence[bytes], wrap: type = bytes) -> list[Outcome]:
        body = struct.pack(f"<{len(entries)}I", *map(len, entries)) + b"".join(entries)
        meta = BatchMeta(Term(1), Index(self.next_index), len(entries), 64 + len(body))
        self.next_index += len(entries)
        fast, plain = (list(m.apply(meta, self.next_index, wrap(body))) for m in self.machines)
        assert fast == plain
        assert len(fast) == len(entries)
        self.compare()
        return fast

    def compare(self) -> None:
        fast, plain = self.machines
        assert fast.digest() == plain.digest()
        assert (fast.revision, fast.state_bytes) == (plain.revision, plain.state_bytes)
        tables = fast._sessions, plain._sessions
        assert tables[0].replies == tables[1].replies
        for one, other in zip(*(table._sessions.items() for table in tables), strict=True):
            assert one[0] == other[0], "the order in which sessions would be evicted"
            assert (one[1].floor, one[1].kept) == (other[1].floor, other[1].kept)

    def freeze(self) -> None:
        if self.frozen is None:
            fast, plain = self.machines
            self.frozen = fast.freeze(), plain.freeze()
            return
        chunks = []
        for frozen in self.frozen:
            read = []
            while (chunk := frozen.next_chunk(100)) is not None:
                read.append(chunk)
            frozen.close()
            chunks.append(read)
        self.frozen = None
        assert chunks[0] == chunks[1]
        restored = [KeyValueMachine.restore(iter(read), self.bounds) for read in chunks]
        assert restored[0].digest() == restored[1].digest()


KEYS = [b"a", b"b", b"c", b"long-key"]


def noise(choice: int, entry: bytes) -> bytes:
    """Damage an entry in one of the ways that only a broken client would."""
    cut = [entry[:31], b"", entry[:33], b"\x02\x01" + entry[2:], b"\x07" + entry[1:]]
    forged = [
        entry[:2] + struct.pack("<H", 60_000) + entry[4:],
        entry[:4] + struct.pack("<I", 9) + entry[8:],
        entry[:8] + bytes(8) + entry[16:],
        entry[:24] + struct.pack("<Q", 1 << 60) + entry[32:],
        entry[:24] + bytes(8) + entry[32:],
    ]
    return [*cut, *forged][choice]


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[str, list[tuple[int, ...]]]]:
    numbers = st.integers(0, 40)
    run = st.tuples(st.just(0), numbers, st.integers(1, 14), st.integers(0, 5), numbers)
    other = st.tuples(st.integers(1, 6), numbers, numbers, numbers, numbers)
    parts = st.lists(st.one_of(run, run, other), min_size=1, max_size=8)
    return draw(st.lists(st.tuples(st.sampled_from(["batch"] * 5 + ["freeze"]), parts), max_size=9))


def entries_of(parts: Sequence[tuple[int, ...]], sessions: list[int], top: int) -> list[bytes]:
    """Build entries around the highest sequence number so far, so that they are often fresh."""
    entries = []
    for kind, where, how_many, back, salt in parts:
        session = sessions[where % len(sessions)] if where < 36 else where
        key = KEYS[salt % len(KEYS)]
        first = max(1, top + where % 7 - 1)
        acked = max(1, first - 3 * back)
        if kind == 0:
            for seq in range(first, first + how_many):
                entries.append(
                    encode(commands.put(KEYS[seq % 4], b"v" * salt), session, seq, acked)
                )
        elif kind == 1:
            entries.append(commands.encode_open_session())
        elif kind == 2:
            entries.append(noise(salt % 10, encode(commands.put(key, b"v"), session, first, acked)))
        elif kind == 3:
            entries.append(encode(commands.delete(key), session, first, acked))
        elif kind == 4:
            entries.append(encode(commands.cas(key, None, b"w"), session, first, acked))
        elif kind == 5:
            both = commands.batch([commands.put(key, b"x"), commands.delete(b"a")])
            entries.append(encode(both, session, first, acked))
        else:  # a copy of what came before
            entries += entries[-how_many:]
        top = max(top, first + (how_many if kind == 0 else 0))
    return entries


@given(batches(), st.sampled_from([TIGHT, WIDE]), st.sampled_from([bytes, bytearray, memoryview]))
def test_a_run_of_puts_is_applied_as_its_puts_are(drawn, bounds, wrap):
    pair = Pair(bounds)
    sessions = [1, 2]
    pair.apply([commands.encode_open_session()] * 2)
    top = 0
    for what, parts in drawn:
        if what == "freeze":
            pair.freeze()
        entries = entries_of(parts, sessions, top)
        top += sum(part[2] for part in parts if part[0] == 0) // 2
        if entries:
            pair.apply(entries, wrap)


def puts(session: int, first: int, count: int, acked: int = 1) -> list[bytes]:
    return [
        encode(commands.put(b"k%d" % seq, b"v%d" % seq), session, seq, acked)
        for seq in range(first, first + count)
    ]


def test_a_run_takes_one_look_at_its_session_and_keeps_one_thing():
    pair = Pair(WIDE)
    pair.apply([commands.encode_open_session()])
    with patch.object(KeyValueMachine, "_apply_once", side_effect=AssertionError):
        machine = pair.machines[0]
        entries = puts(1, 1, 1_000)
        body = struct.pack("<1000I", *map(len, entries)) + b"".join(entries)
        outcomes = machine.apply(BatchMeta(Term(1), Index(2), 1_000, 64), 0, body)
    assert outcomes.run is not None
    session = machine._sessions.touch(1)
    assert isinstance(session, Session)
    assert (len(session._runs), session.kept) == (1, 1_000)


def test_a_retry_of_a_run_is_answered_whole_or_in_part_and_applied_never():
    pair = Pair(WIDE)
    pair.apply([commands.encode_open_session()])
    first = pair.apply(puts(1, 1, 20))
    assert pair.apply(puts(1, 1, 20)) == first
    assert pair.apply(puts(1, 15, 10))[:6] == first[14:]
    assert pair.machines[0].revision == 24
    pair.apply(puts(1, 25, 5, acked=10))
    assert [o.code for o in pair.apply(puts(1, 8, 4, acked=1))] == [4, 4, 0, 0]


@pytest.mark.parametrize("count", [11, 12, 13, 30])
def test_a_run_longer_than_the_table_takes_evicts_as_its_puts_do(count):
    pair = Pair(TIGHT)
    pair.apply([commands.encode_open_session()] * 2)
    pair.apply(puts(1, 1, 10))
    pair.apply(puts(2, 1, count))
    pair.apply(puts(1, 11, count))
    pair.apply(puts(2, 1, count))


def test_a_large_value_is_kept_without_a_copy_and_read_as_any_other():
    pair = Pair(WIDE)
    pair.apply([commands.encode_open_session()])
    value = bytes(range(256)) * 512
    pair.apply([encode(commands.put(b"large", value), 1, 1, 1)], memoryview)
    machine = pair.machines[0]
    assert isinstance(machine._items[b"large"][0], memoryview)
    assert machine.query([1, b"large"])[1][1] == value  # type: ignore[index]  # an item
    [conflict] = pair.apply([encode(commands.cas(b"large", b"x", b"y"), 1, 2, 1)])
    assert conflict == Outcome(2, 1, value[:4096])
    [swapped] = pair.apply([encode(commands.cas(b"large", value, b"y"), 1, 3, 1)])
    assert swapped == Outcome(0, 2)


def test_views_do_not_hide_how_large_a_reply_is():
    pair = Pair(WIDE)
    pair.apply([commands.encode_open_session()])
    for seq in range(1, 12):
        entry = encode(commands.put(b"large%d" % seq, bytes(1 << 20)), 1, seq, 1)
        pair.apply([entry], memoryview)
    assert len(pair.machines[0].query_all([[1, b"large%d" % n] for n in range(1, 12)])) == 4


def test_a_run_ends_where_another_session_begins():
    pair = Pair(WIDE)
    pair.apply([commands.encode_open_session()] * 2)
    pair.apply(puts(1, 1, 3) + puts(2, 4, 3) + puts(1, 7, 3))
    first, second = (pair.machines[0]._sessions.touch(number) for number in (1, 2))
    assert first is not None
    assert second is not None
    assert (first.numbers(), second.numbers()) == ([1, 2, 3, 7, 8, 9], [4, 5, 6])


@pytest.mark.parametrize("choice", range(10))
def test_a_run_ends_at_a_damaged_entry(choice):
    pair = Pair(WIDE)
    pair.apply([commands.encode_open_session()])
    entries = puts(1, 1, 5)
    entries[2] = noise(choice, entries[2])
    pair.apply(entries)
    entries = puts(1, 6, 3)
    entries[0] = noise(choice, entries[0])
    pair.apply(entries)
