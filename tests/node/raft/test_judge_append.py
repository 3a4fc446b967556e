"""The follower's decision about an Append, against figure 7 and a naive per-entry model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.raft.log_view import LogView
from node.raft.messages import Append
from node.raft.replication import Accepted, Refused, judge_append
from node.raft.types import Batch, BatchMeta, Index, LogStart, Term
from tests.node.raft.kit import make_batch, make_view
from tests.node.raft.letters import append, head

LEADER = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
FIGURE_7 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}
"""Raft figure 7: the six followers that a new leader of term 8 may find."""


def judge(follower: Sequence[int], message: Append) -> Accepted | Refused | None:
    return judge_append(make_view(follower), Index(0), message)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", Refused(Index(9), Term(6))),  # one entry is missing
        ("b", Refused(Index(4), Term(4))),  # six are
        ("c", Accepted(Index(11), Index(11), (make_batch(8, 11),))),  # one too many
        ("d", Accepted(Index(11), Index(11), (make_batch(8, 11),))),  # two, of a later term
        ("e", Refused(Index(7), Term(4))),  # both
        ("f", Refused(Index(9), Term(3))),
    ],
)
def test_the_first_append_to_the_followers_of_figure_7(name, expected):
    """Raft §5.3, figure 7; scenario 29: the leader of term 8 appends index 11 behind 10."""
    assert judge(FIGURE_7[name], append((2, 1), 8, (10, 6), [8])) == expected


@pytest.mark.parametrize(
    ("name", "probes"), [("a", 1), ("b", 1), ("c", 0), ("d", 0), ("e", 1), ("f", 1)]
)
def test_each_follower_of_figure_7_converges_in_few_probes(name, probes):
    """Raft §5.3: whole terms are skipped; scenarios 29 and 33."""
    leader, log = make_view([*LEADER, 8]), list(FIGURE_7[name])
    prev, refusals = 10, 0
    while True:
        place = (prev, leader.term_at(prev) or 0)
        outcome = judge(log, append((2, 1), 8, place, [*LEADER, 8][prev:]))
        if isinstance(outcome, Accepted):
            break
        assert isinstance(outcome, Refused)
        refusals += 1
        prev = leader.hint_for(min(outcome.hint_index, prev - 1), outcome.hint_term)[0]
    if outcome.truncate_from is not None:
        del log[outcome.truncate_from - 1 :]
    log += [batch.meta.term for batch in outcome.new]
    assert log == [*LEADER, 8]
    assert refusals == probes


@pytest.mark.parametrize(
    ("follower", "prev", "entries", "expected"),
    [
        ([], (0, 0), [], (0, None, [])),  # an empty probe of an empty log
        ([], (0, 0), [1, 1], (2, None, [1, 2])),
        ([1, 1], (2, 1), [], (2, None, [])),
        ([1, 1], (1, 1), [], (1, None, [])),  # verified no further than it reaches
        ([1, 1], (0, 0), [1, 1], (2, None, [])),  # all is there
        ([1, 1], (0, 0), [1, 1, 2], (3, None, [3])),
        ([1, 1, 1], (1, 1), [1], (2, None, [])),  # shorter: nothing is cut
        ([1, 1, 1], (1, 1), [2], (2, 2, [2])),  # a conflict at once
        ([1, 1, 1], (1, 1), [1, 2], (3, 3, [3])),  # a conflict later
    ],
)
def test_what_is_stored_cut_and_verified(follower, prev, entries, expected):
    """Raft figure 2 (AppendEntries, rules 2 to 4); scenarios 30 and 31."""
    verified, cut, new = expected
    outcome = judge(follower, append((2, 1), 2, prev, entries))
    assert isinstance(outcome, Accepted)
    assert (outcome.verified, outcome.truncate_from) == (verified, cut)
    assert [batch.meta.base_index for batch in outcome.new] == new


def test_a_compacted_or_committed_prefix_is_taken_as_matching():
    """Raft §5.4 (leader completeness): it cannot conflict, and may not be there to compare."""
    view = LogView(LogStart(Index(3), Term(1)), [make_batch(1, 4).meta])
    message = append((2, 1), 2, (1, 1), [1, 1, 1, 2])
    outcome = judge_append(view, Index(4), message)
    assert outcome == Accepted(Index(5), None, (make_batch(2, 5),))


# ---- a naive model: logs as lists of entries, one by one -------------------------------------------


def naive(log: list[int], commit: int, message: Append) -> tuple[list[int], int] | None:
    """Raft figure 2, rules 2 to 5, entry by entry; None = refused."""
    prev = message.prev_index
    if prev > len(log) or (prev > commit and prev > 0 and log[prev - 1] != message.prev_term):
        return None
    result, index = list(log), int(prev)
    for batch in message.batches:
        meta = batch.meta if isinstance(batch, Batch) else batch
        for _ in range(meta.count):
            index += 1
            if index <= len(result) and result[index - 1] != meta.term:
                del result[index - 1 :]
            if index > len(result):
                result.append(meta.term)
    return result, index


Runs = list[tuple[int, int]]
"""Batches as (term, count)."""


def build(runs: Runs) -> list[Batch]:
    batches: list[Batch] = []
    base = 1
    for term, count in runs:
        batches.append(make_batch(term, base, count))
        base += count
    return batches


def entries(batches: Sequence[Batch]) -> list[int]:
    return [batch.meta.term for batch in batches for _ in range(batch.meta.count)]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Batch], list[Batch], int]:
    """A follower's log, its leader's, and a commit index: a common prefix, then what they have.

    Behind the prefix they share no term, as logs of Raft must (log matching).
    """
    counts = st.integers(1, 3)
    terms = sorted(draw(st.lists(st.integers(1, 4), max_size=4)))
    prefix: Runs = [(term, draw(counts)) for term in terms]
    low = terms[-1] if terms else 1
    theirs = sorted(draw(st.lists(st.integers(low, 9), max_size=4)))
    drawn = draw(st.lists(st.integers(low, 9), max_size=4))
    mine = sorted(term for term in drawn if term not in theirs)
    follower = build(prefix + [(term, draw(counts)) for term in mine])
    leader = build(prefix + [(term, draw(counts)) for term in theirs])
    commits = [0, *(batch.meta.last_index for batch in follower[: len(prefix)])]
    return follower, leader, draw(st.sampled_from(commits))


@given(histories(), st.integers(0, 9), st.integers(0, 9))
def test_the_decision_agrees_with_the_entry_by_entry_rules(history, first, count):
    follower, leader, commit = history
    position = min(first, len(leader))
    behind = leader[position - 1].meta if position else BatchMeta(Term(0), Index(0), 1, 0)
    prev = (behind.last_index, behind.term) if position else (0, 0)
    message = replace(append((2, 1), 9, prev), batches=tuple(leader[position : position + count]))
    view = LogView(LogStart(), [batch.meta for batch in follower])
    outcome = judge_append(view, Index(commit), message)
    expected = naive(entries(follower), commit, message)
    if expected is None:
        assert isinstance(outcome, Refused)
        common = 0
        for mine, theirs in zip(follower, leader, strict=False):
            if mine != theirs:
                break
            common = mine.meta.last_index
        assert common <= outcome.hint_index < message.prev_index, "neither too far nor not back"
        assert view.matches(outcome.hint_index, outcome.hint_term)
        return
    assert isinstance(outcome, Accepted)
    cut = outcome.truncate_from
    kept = [b for b in follower if cut is None or b.meta.base_index < cut]
    assert (entries([*kept, *outcome.new]), outcome.verified) == expected
    assert cut is None or commit < cut <= view.last_index
    assert cut is None or outcome.new, "a cut makes room for something"


def test_a_batch_of_another_shape_is_no_match():
    """(term, base index) names a batch; the same term at another base is another batch."""
    view = LogView(LogStart(), [make_batch(1, 1, 3).meta])
    message = Append(*head((2, 1), 2), Index(2), Term(1), Index(0), ())
    assert judge_append(view, Index(0), message) == Refused(Index(0), Term(0))
