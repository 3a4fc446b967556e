"""Election rules as pure functions: timeouts, up-to-dateness, and who may have a vote."""

from __future__ import annotations

from node.raft.log_view import LogView
from node.raft.types import CoreConfig, HardState, Index, NodeId, Term

__all__ = [
    "draw_below",
    "election_timeout_ns",
    "forget_delay_ns",
    "is_up_to_date",
    "may_grant_vote",
]

_MASK = (1 << 64) - 1
_FORGET_STREAM = 1 << 20


def draw_below(bound: int, seed: int, stream: int, number: int) -> int:
    """Return the `number`-th draw in [0, `bound`) of a stream, by hashing the counter.

    SplitMix64's finaliser over (seed, stream, number). A draw depends on nothing but its
    arguments, so that removing one event from a schedule leaves all other draws as they were.
    """
    value = (seed + 0x9E3779B97F4A7C15 * (stream + 1) + 0xD1B54A32D192ED03 * (number + 1)) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return (value ^ (value >> 31)) % bound


def election_timeout_ns(config: CoreConfig, number: int) -> int:
    """Return a timeout in [election_ns_min, election_ns_max] (Raft §5.2: randomised)."""
    spread = config.election_ns_max - config.election_ns_min + 1
    return config.election_ns_min + draw_below(spread, config.seed, config.node, number)


def forget_delay_ns(config: CoreConfig, number: int, jitter_ns: int) -> int:
    """Return a delay in [0, `jitter_ns`] before the campaign against a dead leader."""
    return draw_below(jitter_ns + 1, config.seed, _FORGET_STREAM + config.node, number)


def is_up_to_date(log: LogView, last_index: Index, last_term: Term) -> bool:
    """Tell whether a candidate's log is at least as up to date as ours (Raft §5.4.1).

    Compared as the pair (last term, last index), never by index alone.
    """
    return (last_term, last_index) >= (log.last_term, log.last_index)


def may_grant_vote(hard_state: HardState, candidate: NodeId, *, leader_known: bool) -> bool:
    """Tell whether the one vote of this term is free for, or already with, `candidate`."""
    if hard_state.vote == candidate:
        return True
    return hard_state.vote == 0 and not leader_known
