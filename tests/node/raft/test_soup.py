"""Random acts: a whole cluster under hostile conditions, and one core under any messages at all.

What must hold is checked by the kit after every act: election safety, state machine safety,
leader completeness, true matches, honest messages, and the local invariants of each core.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.raft.messages import Message
from node.raft.types import ReadContext, Role
from tests.node.raft.kit import MS, Cluster
from tests.node.raft.letters import (
    ack,
    append,
    heartbeat,
    heartbeat_reply,
    pre_vote,
    pre_vote_reply,
    refusal,
    vote,
    vote_reply,
)
from tests.node.raft.lone import Lone
from tests.node.raft.soup import ACTS, Choice, play, recover

CONFIGS: tuple[dict[str, int], ...] = ({}, {"window_messages_max": 2, "message_bytes_max": 150})
CHOICES = st.lists(
    st.tuples(st.integers(0, ACTS - 1), st.integers(0, 4), st.integers(0, 999)), max_size=120
)


def choices(rng: random.Random, length: int) -> list[Choice]:
    return [(rng.randrange(ACTS), rng.randrange(60), rng.randrange(1000)) for _ in range(length)]


@settings(max_examples=200)
@given(st.integers(1, 5), st.booleans(), st.sampled_from(CONFIGS), CHOICES)
def test_no_act_breaks_a_cluster_and_peace_heals_it(voters, rests, config, drawn):
    """Raft figure 3, and liveness once faults end (Raft §5.4.3, §5.6); groups may rest."""
    cluster = Cluster(voters, rests=rests, **config)
    play(cluster, drawn)
    recover(cluster)


@pytest.mark.parametrize("seed", range(50))
def test_long_runs_break_nothing(seed):
    """The same acts, drawn by seed: longer than what Hypothesis likes, and the same each time."""
    rng = random.Random(seed)
    cluster = Cluster(rng.choice((2, 3, 3, 4, 5)), rests=seed % 2 == 0, **rng.choice(CONFIGS))
    length = rng.choice((100, 300, 600))
    play(cluster, choices(rng, length))
    recover(cluster)


def test_the_soup_is_hot():
    """A check of the check: elections, commits, cuts, crashes and restarts do happen in it."""
    leaders = commits = boots = rests = 0
    for seed in range(20):
        rng = random.Random(seed)
        cluster = Cluster(3, rests=True)
        for _ in range(30):
            play(cluster, choices(rng, 10))
            rests += any(core.resting for _, core in cluster.cores())
        leaders += len(cluster.leaders)
        commits += len(cluster.committed)
        boots += sum(node.boots - 1 for node in cluster.nodes.values())
    assert leaders >= 30
    assert commits >= 60
    assert boots >= 40
    assert rests >= 100


# ---- one core, any messages ----------------------------------------------------------------------

SHARED = 3
"""Entries that all leaders agree on; only they are ever committed."""

HISTORY = {term: [1] * SHARED + [term] * 4 for term in range(2, 10)}
"""Per term, the log of its only leader."""


@st.composite
def letters(draw: st.DrawFn) -> Message:
    """Any message of any term, true to one history, but in no order whatever."""
    term = draw(st.integers(2, 9))
    peer = draw(st.sampled_from([2, 3]))
    leads = 2 + term % 2  # each term has one leader
    index = draw(st.integers(0, SHARED))
    granted = draw(st.booleans())
    number = draw(st.integers(0, 3))
    log = HISTORY[term]
    first = draw(st.integers(0, len(log)))
    last = (first, log[first - 1] if first else 0)
    messages: list[Message] = [
        pre_vote((peer, 1), term, last),
        pre_vote_reply((peer, 1), term, granted=granted),
        vote((peer, 1), term, last),
        vote_reply((peer, 1), term, granted=granted),
        append((leads, 1), term, last, log[first : first + number], index),
        heartbeat((leads, 1), term, index, number),
        heartbeat_reply((peer, 1), term, number, index),
        ack((peer, 1), term, index),
        refusal((peer, 1), term, first, (index, number)),
    ]
    return draw(st.sampled_from(messages))


LETTERS_AND_MORE = st.lists(
    letters() | st.sampled_from(["tick", "persist", "sync", "propose", "read", "restart"]),
    max_size=80,
)


@settings(max_examples=300)
@given(LETTERS_AND_MORE)
def test_no_message_breaks_a_core(acts):
    """Local invariants: commit ≤ last, durable ≤ last, nothing falls, no message is a lie."""
    lone, led = Lone(3), set()
    for number, act in enumerate(acts):
        if lone.core.role is Role.LEADER:
            led.add(lone.core.term)
        match act:
            case "tick":
                lone.now = max(lone.now + MS, lone.core.next_deadline)
                lone.core.tick(lone.now)
            case "persist" if lone.in_flight:
                lone.persist(lone.now)
            case "sync":
                lone.sync()
            case "propose" if lone.core.role is Role.LEADER:
                lone.propose()
            case "read":
                lone.core.read(ReadContext(number))
            case "restart":
                lone.boot(lone.now)
            case str():
                continue
            case _ if act.term not in led or type(act).__name__.endswith("Reply"):
                lone.core.step(act, lone.now)
        lone.turn()
