"""Freezing a machine: the snapshot is of one moment, whatever is written while it is read out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import commands
from node.kv.machine import KeyValueMachine
from node.raft.types import BatchMeta, Index, Term

SESSION = 1


class Writer:
    """Applies operations to a machine through one session."""

    def __init__(self) -> None:
        self.machine = KeyValueMachine()
        self.index = 0
        self.seq = 0
        self.apply(commands.encode_open_session())

    def apply(self, entry: bytes) -> None:
        self.index += 1
        body = struct.pack("<I", len(entry)) + entry
        self.machine.apply(
            BatchMeta(Term(1), Index(self.index), 1, 64 + len(body)), self.index, body
        )

    def do(self, operation: commands.Operation) -> None:
        self.seq += 1
        self.apply(commands.encode(operation, SESSION, self.seq, max(1, self.seq - 3)))


keys = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"long" * 50])
operations = st.one_of(
    st.builds(commands.put, keys, st.binary(max_size=40)),
    st.builds(commands.delete, keys),
    st.builds(lambda k, v: commands.cas(k, None, v), keys, st.binary(max_size=10)),
    st.builds(
        lambda k, v: commands.batch([commands.put(k, v), commands.delete(b"a")]),
        keys,
        st.binary(max_size=10),
    ),
)


@given(
    before=st.lists(operations, max_size=25),
    during=st.lists(st.lists(operations, max_size=4), max_size=12),
    target=st.integers(1, 200),
)
def test_a_snapshot_is_the_state_of_the_moment_it_was_frozen(before, during, target) -> None:
    writer = Writer()
    for operation in before:
        writer.do(operation)
    wanted = writer.machine.digest()
    size = writer.machine.state_bytes
    frozen = writer.machine.freeze()
    chunks = []
    pending = list(during)
    while (chunk := frozen.next_chunk(target)) is not None:
        chunks.append(chunk)
        for operation in pending.pop() if pending else []:
            writer.do(operation)
    frozen.close()
    after = writer.machine.digest()
    restored = KeyValueMachine.restore(iter(chunks))
    assert restored.digest() == wanted
    assert restored.state_bytes == size
    assert writer.machine.digest() == after


def test_a_restored_machine_goes_on_like_the_original() -> None:
    writer = Writer()
    for number in range(50):
        writer.do(commands.put(b"key %d" % number, b"value"))
    frozen = writer.machine.freeze()
    chunks = []
    while (chunk := frozen.next_chunk(100)) is not None:
        chunks.append(chunk)
    frozen.close()
    original, restored = writer.machine, KeyValueMachine.restore(iter(chunks))
    for machine in (original, restored):
        writer.machine, writer.index, writer.seq = machine, 51, 50
        writer.do(commands.put(b"key 7", b"again"))
        writer.do(commands.delete(b"key 8"))
        writer.seq -= 1
        writer.do(commands.delete(b"key 8"))  # the same sequence number: answered, not applied
    assert original.digest() == restored.digest()


@pytest.mark.parametrize("damage", ["cut head", "cut item", "missing chunk", "no chunks"])
def test_chunks_that_do_not_add_up_are_refused(damage) -> None:
    writer = Writer()
    for number in range(20):
        writer.do(commands.put(b"key %d" % number, b"value"))
    frozen = writer.machine.freeze()
    chunks = []
    while (chunk := frozen.next_chunk(100)) is not None:
        chunks.append(chunk)
    broken = {
        "cut head": [chunks[0][:-1], *chunks[1:]],
        "cut item": [*chunks[:-1], chunks[-1][:-1]],
        "missing chunk": chunks[:-1],
        "no chunks": [],
    }[damage]
    with pytest.raises(ValueError, match=r"snapshot|session|keys"):
        KeyValueMachine.restore(iter(broken))
