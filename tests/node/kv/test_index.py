"""The lazily sorted key index."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.kv import index as index_module
from node.kv.index import KeyIndex

KEYS = st.binary(min_size=1, max_size=2)


@pytest.fixture(autouse=True)
def _small_levels(monkeypatch):
    """Fold and sweep often, so that short stories meet every level."""
    monkeypatch.setattr(index_module, "_RECENT_FLOOR", 8)
    monkeypatch.setattr(index_module, "_DEAD_FLOOR", 4)


class IndexAgainstASet(RuleBasedStateMachine):
    """Adds, removals and ranges in any order agree with a plain set."""

    def __init__(self) -> None:
        super().__init__()
        self.index = KeyIndex()
        self.model: set[bytes] = set()

    @rule(keys=st.lists(KEYS, max_size=20))
    def add(self, keys):
        for key in keys:
            if key not in self.model:
                self.model.add(key)
                self.index.add(key)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def discard(self, data):
        for key in data.draw(st.sets(st.sampled_from(sorted(self.model)), max_size=20)):
            self.model.remove(key)
            self.index.discard(key)

    @rule(start=st.binary(max_size=2), end=st.binary(max_size=2))
    def read(self, start, end):
        expected = sorted(k for k in self.model if k >= start and (not end or k < end))
        assert list(self.index.between(start, end)) == expected

    @invariant()
    def length_agrees(self):
        assert len(self.index) == len(self.model)


TestIndexAgainstASet = IndexAgainstASet.TestCase


def test_new_keys_are_folded_once_they_are_many():
    index = KeyIndex()
    rounds = 400
    folds = 0
    for number in range(rounds):
        index.add(b"%d" % number)
        assert len(list(index.between(b"", b""))) == number + 1
        folds += not index._recent
    assert 0 < folds < rounds // 4


def test_keys_that_come_and_go_without_a_range_do_not_pile_up():
    index = KeyIndex()
    for number in range(20 * index_module._DEAD_FLOOR):
        index.add(b"%d" % number)
        index.discard(b"%d" % number)
    held = len(index._sorted) + len(index._recent) + len(index._fresh) + len(index._dead)
    assert held <= 2 * index_module._DEAD_FLOOR + 2


@given(st.sets(KEYS))
def test_dead_keys_are_swept_and_live_ones_stay(keys):
    index = KeyIndex()
    for key in sorted(keys):
        index.add(key)
    list(index.between(b"", b""))
    for number in range(2 * index_module._DEAD_FLOOR):
        index.add(b"dead-%d" % number)
        index.discard(b"dead-%d" % number)
    assert list(index.between(b"", b"")) == sorted(keys)
