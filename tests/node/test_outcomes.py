"""Outcomes are a sequence like any other, however few parts they are kept in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.outcomes import OkRun, Outcome, Outcomes

OUTCOMES = st.lists(
    st.one_of(
        st.builds(Outcome, st.just(0), st.integers(0, 5)),
        st.builds(Outcome, st.integers(0, 6), st.integers(0, 5), st.binary(max_size=2)),
    ),
    max_size=30,
)
RUNS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=6)


@given(OUTCOMES, RUNS, st.data())
def test_they_are_the_list_of_what_was_added(singles, runs, data):
    outcomes, expected = Outcomes(singles), list(singles)
    for revision, count in runs:
        outcomes.add_run(revision, count)
        expected += [Outcome(0, revision + n) for n in range(count)]
    assert list(outcomes) == expected == [outcomes[n] for n in range(len(outcomes))]
    assert outcomes == expected
    assert outcomes == Outcomes(expected)
    start = data.draw(st.integers(-40, 40))
    stop = data.draw(st.integers(-40, 40))
    assert outcomes[start:stop] == expected[start:stop]
    assert outcomes[start:stop:3] == expected[start:stop:3]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(expected)), max_size=4)))
    bounds = [0, *cuts, len(expected)]
    counts = [after - before for before, after in pairwise(bounds)]
    pieces = list(outcomes.split(counts))
    assert [len(piece) for piece in pieces] == counts
    assert [outcome for piece in pieces for outcome in piece] == expected


def test_what_is_ok_in_a_row_is_one_run():
    outcomes = Outcomes([Outcome(0, 5), Outcome(0, 6)])
    outcomes.add_run(7, 100)
    assert outcomes.run == OkRun(5, 102)
    [_, last] = outcomes.split([2, 100])
    assert last.run == OkRun(7, 100)


@pytest.mark.parametrize(
    "outcomes",
    [
        [],
        [Outcome(0, 5), Outcome(0, 5)],
        [Outcome(0, 5), Outcome(0, 7)],
        [Outcome(1, 5)],
        [Outcome(0, 5, b"detail")],
    ],
)
def test_anything_else_is_no_run(outcomes):
    assert Outcomes(outcomes).run is None


def test_a_place_that_is_not_there_is_an_index_error():
    outcomes = Outcomes([Outcome(0, 1), Outcome(1, 1)])
    assert outcomes[-1] == Outcome(1, 1)
    for place in (2, -3):
        with pytest.raises(IndexError):
            outcomes[place]
