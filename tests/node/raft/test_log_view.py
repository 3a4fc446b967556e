"""The log as the core sees it: whole batches, found by bisection (Raft §5.3, figure 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.raft.log_view import LogView
from node.raft.types import BatchMeta, Index, LogStart, Term


def make(start: tuple[int, int], *batches: tuple[int, int]) -> LogView:
    """A log behind a compaction point (index, term) of batches (term, count); size = 10 × count."""
    view = LogView(LogStart(Index(start[0]), Term(start[1])))
    for term, count in batches:
        view.append(BatchMeta(Term(term), Index(view.last_index + 1), count, 10 * count))
    return view


@st.composite
def logs(draw: st.DrawFn) -> LogView:
    start_index = draw(st.integers(0, 5))
    start_term = draw(st.integers(0, 2)) if start_index else 0
    steps = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=12))
    term, batches = start_term, []
    for step, count in steps:
        term = max(1, term + step)
        batches.append((term, count))
    return make((start_index, start_term), *batches)


def test_an_empty_log_ends_at_its_compaction_point():
    assert (make((0, 0)).last_index, make((0, 0)).last_term) == (0, 0)
    view = make((7, 3))
    assert (view.last_index, view.last_term, len(view)) == (7, 3, 0)
    assert view.start == LogStart(Index(7), Term(3))
    assert view.term_at(7) == 3
    assert view.matches(Index(7), Term(3))
    assert not view.matches(Index(7), Term(2))


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        (BatchMeta(Term(2), Index(4), 1, 10), "no gap"),
        (BatchMeta(Term(2), Index(2), 1, 10), "no gap"),
        (BatchMeta(Term(2), Index(3), 0, 10), "at least one entry"),
        (BatchMeta(Term(1), Index(3), 1, 10), "terms never fall"),
    ],
)
def test_a_log_grows_only_at_its_end(batch, why):
    view = make((0, 0), (2, 2))
    with pytest.raises(AssertionError, match=why):
        view.append(batch)


def test_a_batch_is_found_by_any_of_its_indexes():
    view = make((2, 1), (1, 3), (2, 2))  # indexes 3–5 and 6–7
    first, second = view.batches
    found = {index: view.batch_of(index) for index in range(9)}
    assert [index for index, batch in found.items() if batch == first] == [3, 4, 5]
    assert [index for index, batch in found.items() if batch == second] == [6, 7]
    assert [view.term_at(index) for index in range(1, 9)] == [None, 1, 1, 1, 1, 2, 2, None]
    assert (view.batch_at(0), view.batch_at(1)) == (first, second)


def test_only_a_batch_end_matches():
    """Raft §5.3, in whole batches: prev, match and commit are batch ends."""
    view = make((2, 1), (1, 3), (2, 2))
    matching = {
        (index, term)
        for index in range(9)
        for term in range(4)
        if view.matches(Index(index), Term(term))
    }
    assert matching == {(2, 1), (5, 1), (7, 2)}


def test_a_cut_removes_whole_batches():
    view = make((2, 1), (1, 3), (2, 2), (2, 1))
    view.truncate_from(Index(6))
    assert (view.last_index, view.last_term, len(view)) == (5, 1, 1)
    for inside, why in ((4, "never split"), (2, "nothing to remove")):
        with pytest.raises(AssertionError, match=why):
            view.truncate_from(Index(inside))
    view.truncate_from(Index(3))
    assert (view.last_index, view.last_term) == (2, 1)


def test_compaction_moves_the_start_to_a_batch_end():
    view = make((0, 0), (1, 3), (2, 2), (3, 1))
    view.compact(Index(5))
    assert view.start == LogStart(Index(5), Term(2))
    assert (view.last_index, len(view), view.term_at(5), view.term_at(3)) == (6, 1, 2, None)
    view.compact(Index(6))
    assert (view.last_index, view.last_term, len(view)) == (6, 3, 0)


@pytest.mark.parametrize("index", [0, 2, 5])
def test_compaction_neither_splits_a_batch_nor_goes_back(index):
    view = make((2, 1), (1, 2), (2, 2))
    with pytest.raises(AssertionError):
        view.compact(Index(index))


def test_batches_are_packed_by_bytes_and_never_fewer_than_one():
    view = make((0, 0), (1, 3), (1, 2), (1, 4))  # 30, 20 and 40 bytes
    first, second, third = view.batches
    assert view.batches_from(Index(1), 5) == (first,)
    assert view.batches_from(Index(1), 49) == (first,)
    assert view.batches_from(Index(1), 50) == (first, second)
    assert view.batches_from(Index(4), 1000) == (second, third)
    with pytest.raises(AssertionError, match="starts at a batch"):
        view.batches_from(Index(2), 1000)
    view.compact(Index(3))
    with pytest.raises(AssertionError, match="compacted"):
        view.batches_from(Index(1), 1000)


@given(logs(), st.integers(0, 60), st.integers(0, 60))
def test_bytes_between_are_those_of_the_batches_there(view, low, high):
    ends = [view.start.index, *(batch.last_index for batch in view.batches)]
    low, high = sorted((ends[low % len(ends)], ends[high % len(ends)]))
    naive = sum(b.size for b in view.batches if low < b.base_index and b.last_index <= high)
    assert view.bytes_between(low, high) == naive
    rest = sum(b.size for b in view.batches if high < b.base_index)
    assert view.bytes_after(high) == rest


@given(logs(), st.integers(0, 60), st.integers(0, 12))
def test_a_hint_is_the_highest_end_with_no_later_term(view, index, term):
    """Raft §5.3 (fast back-up): compared with the definition."""
    ends = [(batch.last_index, batch.term) for batch in view.batches]
    fitting = [end for end in ends if end[0] <= index and end[1] <= term]
    assert view.hint_for(index, term) == max(fitting, default=(view.start.index, view.start.term))


@given(logs(), logs(), st.data())
def test_a_hint_never_passes_a_place_where_two_logs_agree(mine, theirs, data):
    """Raft §5.3: backing up by the hint on both sides never skips the match point."""
    refused = data.draw(st.integers(mine.last_index, mine.last_index + 3))
    term = data.draw(st.integers(int(mine.last_term), 30))
    if mine.start != theirs.start:
        return
    common = mine.start.index
    for ours, other in zip(mine.batches, theirs.batches, strict=False):
        if ours != other:
            break
        common = ours.last_index
    hint = mine.hint_for(min(refused, mine.last_index), term)
    resume, _ = theirs.hint_for(*hint)
    assert resume >= min(common, hint[0])


def runs_of(view: LogView) -> tuple[int, ...]:
    """The runs as a fool would find them: look at every entry."""
    flat: list[int] = []
    for index in range(view.start.index + 1, view.last_index + 1):
        term = view.term_at(index)
        assert term is not None
        if not flat or flat[-1] != term:
            flat += [index, term]
    return tuple(flat)


@given(logs(), st.data())
def test_runs_of_terms_follow_appends_cuts_and_compaction(view: LogView, data: st.DataObject):
    assert view.newest_runs(99) == runs_of(view)
    if len(view):
        batch = data.draw(st.sampled_from(view.batches))
        view.truncate_from(batch.base_index)
        assert view.newest_runs(99) == runs_of(view)
    if len(view):
        batch = data.draw(st.sampled_from(view.batches))
        view.compact(batch.last_index)
        assert view.newest_runs(99) == runs_of(view)
    last = max(1, view.last_term)
    view.append(BatchMeta(Term(last + 1), Index(view.last_index + 1), 2, 20))
    assert view.newest_runs(99) == runs_of(view)
    assert view.newest_runs(1) == runs_of(view)[-2:]
